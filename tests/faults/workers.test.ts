/**
 * Workers that end while ctok works in them, in every way there is: the process lives, and nothing of theirs is left.
 * Then what else outlives a realm: modules that `bun --hot` evaluates again, programs that `deno run --watch` starts
 * again, tokenizers that nobody closes. tests/long.ts ends more Workers, tests/native/life_test.c ends threads from C.
 */
import assert from "node:assert/strict";
import { spawn, spawnSync } from "node:child_process";
import { writeFileSync } from "node:fs";
import { join } from "node:path";
import process from "node:process";
import { createInterface } from "node:readline";
import { test } from "node:test";
import { setTimeout } from "node:timers/promises";
import { Tokenizer } from "mod.ts";
import { engineFor } from "../../ffi/load.ts";
import { collectGarbage, root, runArgs, runtime, withFolder } from "../support.ts";

const pixels = { dtype: "uint8", shape: [16, 16, 3], data: new Uint8Array(16 * 16 * 3) } as const;

/** Ends Workers in a process of its own. */
function endWorkers(how: string, rounds: number): { threads: number; ownThreads: number; grown: number } {
  const args = [...runArgs, join(root, "tests/faults/end_workers.ts"), how, String(rounds)];
  const { status, signal, stdout, stderr } = spawnSync(process.execPath, args, { cwd: root, encoding: "utf8" });
  assert.deepEqual({ status, signal }, { status: 0, signal: null }, stderr.slice(-4000));
  return JSON.parse(stdout);
}

for (const how of ["close", "exit", "throw"]) {
  test(`Workers that end by ${how} under their jobs leave the process and no thread`, () => {
    const { threads, ownThreads } = endWorkers(how, 5);
    assert.ok(ownThreads === 0 && threads <= 1, `${threads} more threads, ${ownThreads} of ctok`);
  });
}

test("20 Workers that are terminated under their jobs leave at most one thread and under 5 MB", () => {
  const { threads, ownThreads, grown } = endWorkers("terminate", 20);
  assert.ok(ownThreads === 0 && threads <= 1, `${threads} more threads, ${ownThreads} of ctok`);
  assert.ok(grown < 5e6, `grew by ${(grown / 1e6).toFixed(1)} MB`);
});

/**
 * Changes a program's file until it has been evaluated `times` times more, under a watcher that does so at each change;
 * gives the numbers that it printed each time.
 */
async function reload(folder: string, watcher: readonly string[], times: number): Promise<number[][]> {
  const file = join(folder, "app.ts"), printed: number[][] = [];
  writeFileSync(file, program(0));
  const child = spawn(process.execPath, [...watcher, file], { cwd: root, stdio: ["ignore", "pipe", "ignore"] });
  const guard = globalThis.setTimeout(() => child.kill("SIGKILL"), 120_000);
  let timer: ReturnType<typeof globalThis.setTimeout> | undefined;
  // A watcher that is about to begin misses a change: it gets more, ever more seldom.
  const change = (patience: number) => {
    writeFileSync(file, program(printed.length));
    timer = globalThis.setTimeout(() => change(2 * patience), patience);
  };
  try {
    for await (const line of createInterface(child.stdout)) {
      if (!/^\d/.test(line)) continue; // a watcher's own words
      printed.push(line.split(" ").map(Number));
      if (printed.length > times) return printed;
      clearTimeout(timer);
      change(1000);
    }
    throw new Error(`the program ended after ${printed.length} evaluations`);
  } finally {
    clearTimeout(timer);
    clearTimeout(guard);
    child.kill("SIGKILL");
  }
}

/** Prints its number, engines, and what they hold; then stays. */
const program = (n: number) => `
import { readdirSync, readFileSync } from "node:fs";
import { Tokenizer, TokenizerError } from ${JSON.stringify(join(root, "mod.ts"))};
import { engineFor } from ${JSON.stringify(join(root, "ffi/load.ts"))};
const tok = await Tokenizer.open("nano-DI8x8");
await tok.encode({ dtype: "uint8", shape: [16, 16, 3], data: new Uint8Array(768) });
const refused = await tok.decode({ dtype: "int32", shape: [1, 1], data: Int32Array.of(1e6) }).catch((error) => error);
const names = readdirSync("/proc/self/task").map((id) => readFileSync("/proc/self/task/" + id + "/comm", "utf8"));
const engines = names.filter((name) => name.startsWith("ctok-engine")).length;
const isRefused = refused instanceof TokenizerError && refused.code === "VALUE";
console.log(${n}, engines, isRefused ? 1 : 0, (await engineFor()).info().num_jobs);
setInterval(() => {}, 1e9);
`;

const skip = runtime === "node" ? "node --watch starts a process at each change" : false;
test(
  "a program that is evaluated again and again has one engine, with errors as on the first day",
  { skip },
  () =>
    withFolder(async (folder) => {
      const watcher = runtime === "bun"
        ? ["--hot"]
        : ["run", "-A", "--no-check", "--config", join(root, "deno.json"), "--watch"];
      for (const [, ...found] of await reload(folder, watcher, 5)) assert.deepEqual(found, [1, 1, 0]);
    }),
);

test("a tokenizer that nobody closed closes when it is collected", async () => {
  const engine = await engineFor(), before = engine.info().num_models;
  for (let n = 0; n < 20; n++) await (await Tokenizer.open("nano-DI8x8")).encode(pixels);
  // A collector may take something on the stack for a tokenizer: most of them go.
  for (const until = performance.now() + 60_000; engine.info().num_models > before + 5 && performance.now() < until;) {
    collectGarbage();
    await setTimeout(10);
  }
  assert.ok(engine.info().num_models <= before + 5, `${engine.info().num_models - before} of 20 models are open`);
});
