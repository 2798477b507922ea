/**
 * A cluster in virtual time on the real plan and commit (bench/scale): every shard is committed once and the corpus is
 * whole, whatever dies, freezes or forgets, and whoever hands out shards. bench/scale/simulate.ts has the large ones.
 */
import assert from "node:assert/strict";
import { appendFileSync, mkdirSync, rmdirSync, rmSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { test } from "node:test";
import { checkWhole, type ClusterOptions, simulate } from "../../bench/scale/cluster.ts";
import { planOf } from "../../bench/scale/made.ts";
import { withFolder } from "../support.ts";

/** Shards of 100 seconds of which 30 are the commit, on nodes that live for half an hour. */
const bad: ClusterOptions = {
  numNodes: 20,
  workersOfNode: 5,
  handOut: "lease",
  shard: 70,
  start: 5,
  commit: 30,
  mtbf: 1800,
  repair: 60,
  lease: 60,
  slowShare: 0.1,
  slowness: 3,
  freezeEvery: 1200,
  freeze: 120,
  forgetEvery: 400,
  seed: 1,
};

for (const [handOut, count] of [["lease", 1000], ["split", 250]] as const) {
  test(`${count} shards, ${handOut}: committed once and whole, though nodes die, freeze and forget`, () =>
    withFolder(async (folder) => {
      const plan = await planOf(folder, { numItems: count * 3 - 1, numShards: count });
      const report = await simulate(plan, { ...bad, handOut });
      await checkWhole(plan);
      const { workersKilled, killedInCommit, freezes, doubled, hours, idealHours } = report;
      assert.ok(workersKilled > 10 && killedInCommit > 5 && freezes > 20, JSON.stringify(report));
      assert.ok(handOut === "split" ? doubled === 0 : doubled > 20, JSON.stringify(report));
      assert.ok(hours > idealHours, JSON.stringify(report));
      console.log(JSON.stringify(report));
    }));
}

test("the same seed gives the same cluster, and what is not whole is told", () =>
  withFolder(async (folder) => {
    const reports = [];
    for (const name of ["a", "b"]) {
      const plan = await planOf(join(folder, name), { numItems: 80, numShards: 40 });
      reports.push(await simulate(plan, { ...bad, numNodes: 2 }));
      await checkWhole(plan);
    }
    assert.deepEqual(reports[0], reports[1]);
    const plan = await planOf(join(folder, "c"), { numItems: 6, numShards: 2 }),
      at = (name: string) => join(folder, "c", name);
    await simulate(plan, { ...bad, numNodes: 1 });
    const whole = () => checkWhole(plan);
    writeFileSync(at("00002.txt"), "");
    await assert.rejects(whole, /expected no other files, found 1: 00002.txt/);
    rmSync(at("00002.txt"));
    mkdirSync(at(".ctok/decided/00002"));
    await assert.rejects(whole, /expected no decided shards, found 1: 00002/);
    rmdirSync(at(".ctok/decided/00002"));
    await whole();
    appendFileSync(at("00000.txt"), "more");
    await assert.rejects(whole, /shard 00000 is not as committed/);
    rmSync(at("manifest/00000.json"));
    await assert.rejects(whole, /00000\.json/);
  }));
