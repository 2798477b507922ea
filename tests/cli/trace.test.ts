/** ctok trace: the slowest layers of a run, and of a trace that another command left. */
import assert from "node:assert/strict";
import { existsSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { test } from "node:test";
import { withFolder } from "../support.ts";
import { ctok, top } from "./spawn.ts";

const cat = join(top, "examples/media/cat.png");

interface Summary {
  rows: { ms: number; share: number; ofRoof: number }[];
  rest: { ms: number; count: number };
  numJobs: number;
  stepsMs: number;
  runMs: number;
  roofGflops: number;
  roofFrom: string;
}

test("ten layers and the rest are the run's time; a roof that is given counts", () =>
  withFolder(async (folder) => {
    const trace = join(folder, "trace.json"), model = ["-m", "nano-DI8x8"];
    const told = await ctok(["trace", cat, ...model, "-o", trace]);
    assert.equal(told.code, 0, told.stderr);
    assert.match(told.stdout, /^autoencode nano-DI8x8: 1 job, \d+ steps, [\d.]+ ms/);
    assert.match(
      told.stdout,
      /\d+ others\n *[\d.]+ % +[\d.]+ +all steps\n\nThe roof is [\d.]+ GFLOP\/s, of the fastest layer\.\n$/,
    );
    const again = await ctok(["trace", trace, "--json", "--roof", "100000"]),
      both = JSON.parse(again.stdout) as Summary;
    assert.equal(both.rows.length, 10);
    assert.deepEqual([both.numJobs, both.roofGflops, both.roofFrom], [2, 100000, "--roof"]);
    assert.ok(both.rows.every(({ ofRoof }) => ofRoof < 1));
    const sum = both.rows.reduce((ms, row) => ms + row.ms, both.rest.ms);
    assert.ok(Math.abs(sum - both.stepsMs) < 1e-6 * sum && both.stepsMs <= both.runMs * 1.001, again.stdout);
  }));

test("any command leaves one where CTOK_TRACE names a file; what is no trace is told", () =>
  withFolder(async (folder) => {
    const trace = join(folder, "t.json"), wrong = join(folder, "wrong.json"), out = join(folder, "cat.safetensors");
    const encoded = await ctok(["encode", cat, "-m", "nano-DI8x8", "-o", out], { env: { CTOK_TRACE: trace } });
    assert.equal(encoded.code, 0, encoded.stderr);
    assert.ok(existsSync(out));
    assert.match((await ctok(["trace", trace])).stdout, /^encode nano-DI8x8: 1 job/);
    writeFileSync(wrong, '{"displayTimeUnit":"ms","traceEvents":[');
    const refused = await ctok(["trace", wrong]);
    assert.equal(refused.code, 1);
    assert.match(refused.stderr, /expected a trace that ctok wrote, found/);
    assert.equal((await ctok(["trace"])).code, 2);
    assert.equal((await ctok(["trace", cat, "--roof", "fast"])).code, 2);
  }));
