/**
 * Workers that end while ctok works in them, in every way there is: the process lives, and nothing of theirs is left. Then what
 * else outlives a realm: modules that `bun --hot` evaluates again, programs that `deno run --watch` starts again, tokenizers
 * that nobody closes. tests/long.ts ends more Workers, tests/native/life_test.c ends threads from C.
 */
import assert from "node:assert/strict";
import { spawn, spawnSync } from "node:child_process";
import { once } from "node:events";
import { mkdirSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import process from "node:process";
import { createInterface } from "node:readline";
import { test } from "node:test";
import { setTimeout } from "node:timers/promises";
import { Tokenizer } from "mod.ts";
import { engineFor } from "../../ffi/load.ts";
import { collectGarbage, root, runtime } from "../support.ts";

const run = runtime === "bun" ? [] : ["run", "-A", "--no-check"];
const pixels = { dtype: "uint8", shape: [16, 16, 3], data: new Uint8Array(16 * 16 * 3) } as const;

/** Ends Workers in a process of its own. */
function endWorkers(how: string, rounds: number): { threads: number; ownThreads: number; grown: number } {
  const args = [...run, join(root, "tests/faults/end_workers.ts"), how, String(rounds)];
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
  const tries: number[] = [];
  for (let n = 0; n < 3 && (n === 0 || tries.at(-1)! >= 5); n++) { // a runtime's own heap comes and goes by as much; a leak stays
    const { threads, ownThreads, grown } = endWorkers("terminate", 20);
    assert.ok(ownThreads === 0 && threads <= 1, `${threads} more threads, ${ownThreads} of ctok`);
    tries.push(grown / 1e6);
  }
  assert.ok(Math.min(...tries) < 5, `grew by ${tries.map((mb) => mb.toFixed(1)).join(", ")} MB`);
});
