/**
 * ctok dataset as a child process: exit codes, what machines are told, killed and run again. What it makes is held in
 * tests/corpus.
 */
import assert from "node:assert/strict";
import { copyFileSync, mkdirSync, readdirSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import process from "node:process";
import { test } from "node:test";
import { setImmediate } from "node:timers/promises";
import { contentOf } from "../corpus/support.ts";
import { root, sequence, withFolder } from "../support.ts";
import { ctok, ctokEnds, lines } from "./spawn.ts";

/** So many pictures in a folder "photos". */
function photos(cwd: string, count: number): void {
  mkdirSync(join(cwd, "photos"));
  for (let i = 0; i < count; i++) copyFileSync(join(root, "examples/media/cat.png"), join(cwd, `photos/${i}.png`));
}

test("plan, run, status, and the short form: the same corpus, and what is told", () =>
  withFolder(async (cwd) => {
    photos(cwd, 5);
    const size = ["--size", "32", "--shard-size", "2"];
    const short = await ctokEnds(0, ["dataset", "photos", "-o", "short", ...size], { cwd });
    assert.match(
      short.stdout,
      sequence(
        /^short: 5 items in 3 shards; nano-DI8x8, \w+, webdataset of uint16\n/,
        /short: complete, 3 shards; 5 of 5 items, 80 tokens, /,
      ),
    );
    await ctokEnds(0, ["dataset", "plan", "photos", "-o", "long", ...size], { cwd });
    const before = lines((await ctokEnds(0, ["dataset", "status", "long", "--json"], { cwd })).stdout)[0];
    assert.deepEqual([before.isComplete, before.committed.numShards, before.numShards], [false, 0, 3]);
    const events = lines((await ctokEnds(0, ["dataset", "run", "long", "--json"], { cwd })).stdout);
    assert.deepEqual(events.filter(({ event }) => event === "shard").map(({ index }) => index).sort(), [0, 1, 2]);
    assert.deepEqual(events.at(-1), { ...events.at(-1), event: "done", isComplete: true, numQuarantined: 0 });
    assert.deepEqual(contentOf(join(cwd, "long")), contentOf(join(cwd, "short")));
  }));

test("exit codes: 1 for items set aside, and again where nothing is left to do; 2 for usage; 3 for a model", () =>
  withFolder(async (cwd) => {
    photos(cwd, 2);
    writeFileSync(join(cwd, "photos/broken.png"), "no picture");
    const run = ["dataset", "photos", "--out", "out"];
    const first = await ctokEnds(1, run, { cwd });
    assert.match(first.stderr, /broken, set aside: .*broken\.png: expected an image/);
    assert.match(first.stdout, /2 of 3 items.*1 set aside/);
    await ctokEnds(1, run, { cwd });
    await ctokEnds(0, ["dataset", "status", "out"], { cwd });
    const other = await ctokEnds(1, [...run, "--shard-size", "7"], { cwd });
    assert.match(other.stderr, /shardSize: planned 1000, asked for 7/);
    for (
      const wrong of [[], ["plan", "photos"], ["run"], ["run", "a", "b"], ["run", "out", "--size", "3"], [
        "photos",
        "-o",
        "-",
      ]]
    ) {
      await ctokEnds(2, ["dataset", ...wrong], { cwd });
    }
    await ctokEnds(3, ["dataset", "photos", "-o", "new", "--model", "none-such"], { cwd });
    await ctokEnds(1, ["dataset", "run", "photos"], { cwd }); // no plan there
  }));

test("killed after its first shard and run again: nothing doubled, nothing lost", () =>
  withFolder(async (cwd) => {
    photos(cwd, 60);
    const args = ["dataset", "photos", "--size", "64", "--shard-size", "3"], out = join(cwd, "killed");
    await ctokEnds(0, [...args, "-o", "whole"], { cwd });
    let pid = 0, isRunning = true;
    const run = ctok([...args, "-o", "killed"], { cwd, onStart: (id) => pid = id }).finally(() => isRunning = false);
    const isBegun = () => readdirSync(join(out, "manifest")).length > 0;
    while (isRunning) {
      await setImmediate();
      try {
        if (isBegun()) process.kill(pid, "SIGKILL");
      } catch { // no manifest yet, or the end
      }
    }
    assert.equal((await run).code, "SIGKILL");
    await ctokEnds(0, [...args, "-o", "killed"], { cwd });
    assert.deepEqual(contentOf(out), contentOf(join(cwd, "whole")));
  }));
