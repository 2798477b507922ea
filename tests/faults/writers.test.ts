/**
 * Three processes write one target at once, round after round, and some are killed at random moments: the target is
 * always one whole file, written by one that said so or by one that was killed before it could. CTOK_WRITER_ROUNDS of
 * them (1,000 in npm run test:long).
 */
import assert from "node:assert/strict";
import { type ChildProcessWithoutNullStreams, spawn } from "node:child_process";
import { readdirSync, readFileSync } from "node:fs";
import { join } from "node:path";
import process from "node:process";
import { createInterface } from "node:readline";
import { test } from "node:test";
import { setImmediate } from "node:timers/promises";
import { root, runArgs, withFolder } from "../support.ts";

const rounds = Number(process.env.CTOK_WRITER_ROUNDS ?? 30), names = ["A", "B", "C"] as const;
const pieceBytes = 65_536, pieces = 8;

class Writer {
  readonly #child: ChildProcessWithoutNullStreams;
  readonly #answers: AsyncIterator<string>;
  readonly ended: Promise<unknown>;

  constructor(name: string, target: string) {
    this.#child = spawn(process.execPath, [...runArgs, join(root, "tests/faults/writer.ts"), name, target]);
    this.ended = new Promise((resolve) => this.#child.once("close", resolve));
    this.#child.stderr.pipe(process.stderr);
    this.#child.stdin.on("error", () => {}); // it was killed
    this.#answers = createInterface({ input: this.#child.stdout })[Symbol.asyncIterator]();
  }

  /** What it says of the round, undefined when it is killed before. */
  async write(round: number): Promise<string | undefined> {
    this.#child.stdin.write(`${round}\n`);
    const { value, done } = await this.#answers.next();
    return done ? undefined : value;
  }

  kill(): void {
    this.#child.kill("SIGKILL");
  }

  /** Lets it end by itself. */
  end(): void {
    this.#child.stdin.end();
  }
}

test(
  `three writers of one target, ${rounds} rounds with random kills`,
  { timeout: 3_600_000 },
  () =>
    withFolder(async (dir) => {
      const target = join(dir, "target"), start = () => names.map((name) => new Writer(name, target));
      const writers = start(), counts = { done: 0, killed: 0, failed: 0, left: 0 };
      let seed = 1;
      const random = (most: number) => (seed = (seed * 48_271) % 2_147_483_647) % most;
      let turns = 0; // of the event loop, that an undisturbed round takes here
      try {
        for (let round = 0; round < rounds; round++) {
          const answers = writers.map((writer) => writer.write(round));
          const victim = round < 2 ? undefined : random(5); // of 3: three rounds in five
          for (let left = random(turns + 1); victim !== undefined && left > 0; left--) await setImmediate();
          writers[victim ?? names.length]?.kill();
          let isOver = false;
          const all = Promise.all(answers).finally(() => isOver = true);
          // The first one waits for the processes to start.
          if (round === 1) { for (; !isOver; turns++) await setImmediate(); }
          const said = await all;
          const isDone = said.map((answer) => answer === `${round} done`);
          for (const answer of said) {
            const how = answer === undefined ? "killed" : answer.endsWith(" done") ? "done" : "failed";
            counts[how]++;
            assert.notEqual(how, "failed", `round ${round}: ${answer}`);
          }
          // Whole: one writer's words of one round, from the first byte to the last.
          const text = readFileSync(target, "latin1");
          assert.equal(text.length, pieces * pieceBytes, `round ${round}: ${text.length} bytes`);
          const line = text.slice(0, 16), [by, of] = line.trim().split(" ");
          assert.equal(text, line.repeat(text.length / 16), `round ${round}: pieces of more than one file`);
          const writer = names.indexOf(by as typeof names[number]);
          assert.equal(Number(of), round, `round ${round}: ${isDone} said it was written, found an older file`);
          assert.ok(
            isDone[writer] || said[writer] === undefined,
            `round ${round}: ${by} wrote it and said ${said[writer]}`,
          );
          for (const [i, answer] of said.entries()) {
            if (answer !== undefined) continue;
            await writers[i]!.ended;
            writers[i] = new Writer(names[i]!, target);
          }
          counts.left = Math.max(counts.left, readdirSync(dir).length - 1);
        }
        assert.ok(counts.killed > rounds / 10 && counts.done > rounds, JSON.stringify(counts));
        // Who comes new into the folder removes what the killed ones left.
        const last = new Writer("A", target);
        assert.equal(await last.write(rounds), `${rounds} done`);
        last.end();
        await last.ended;
        assert.deepEqual(readdirSync(dir), ["target"]);
        console.log(`${rounds} rounds: ${JSON.stringify(counts)}`);
      } finally {
        for (const writer of writers) writer.kill();
      }
    }),
);
