/**
 * Simulates clusters of 1,000 workers that tokenise 1e9 pictures in 1e5 shards, in virtual time on the real commit:
 * `bun bench/scale/simulate.ts [SHARDS] [NAME…]` (or `deno run -A`; the folder for it is of TMPDIR, best one in
 * memory). A shard's plan has 10 items, which stand for 10,000. Note: `5000 hourly`, as each start looks at what all
 * the dead have left, which real time would remove. docs/scale.md has the figures. Run by people.
 */
import { mkdtempSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import process from "node:process";
import { checkWhole, type ClusterOptions, simulate } from "./cluster.ts";
import { planOf } from "./made.ts";

const [, , given = "100000", ...names] = process.argv, numShards = Number(given);
const minute = 60, hour = 3600, day = 86_400;

/**
 * Two cores a worker, which take 134 ms for a picture (DI8x8, 256 x 256, bench/results/epyc-zen4-2-cores.md); eight
 * workers a node. Failures: 419 in 54 days on the 2,048 servers of Llama 3's training. What freezes and forgets is a
 * guess, on the bad side.
 */
const usual: ClusterOptions = {
  numNodes: 125,
  workersOfNode: 8,
  handOut: "lease",
  shard: 10_000 * 0.134,
  start: 30,
  commit: 2,
  mtbf: 2048 * 54 * day / 419,
  repair: 30 * minute,
  lease: minute,
  slowShare: 0.05,
  slowness: 3,
  freezeEvery: 100 * hour,
  freeze: 5 * minute,
  forgetEvery: day,
  seed: 1,
};
const scenarios: Readonly<Record<string, ClusterOptions>> = {
  "nothing": { ...usual, mtbf: Infinity, slowShare: 0, freezeEvery: Infinity, forgetEvery: Infinity },
  "hardware": usual,
  "hardware-split": { ...usual, handOut: "split" },
  "reclaimed": { ...usual, mtbf: day },
  "reclaimed-split": { ...usual, mtbf: day, handOut: "split" },
  "reclaimed-split-even": { ...usual, mtbf: day, handOut: "split", slowShare: 0 },
  "hourly": { ...usual, mtbf: hour, repair: 2 * minute },
};

for (const [name, options] of Object.entries(scenarios)) {
  if (names.length > 0 && !names.includes(name)) continue;
  const folder = mkdtempSync(join(tmpdir(), "ctok-cluster-"));
  try {
    const plan = await planOf(folder, { numItems: numShards * 10, numShards }), start = performance.now();
    const report = await simulate(plan, options), simulated = performance.now() - start;
    const bytes = await checkWhole(plan);
    const seconds = (ms: number) => (ms / 1000).toFixed(0);
    const took = `simulated in ${seconds(simulated)} s, checked in ${seconds(performance.now() - start - simulated)} s`;
    console.log(`${name}: ${numShards} shards whole, each committed once (${bytes} bytes), ${took}`);
    console.log(JSON.stringify(report));
  } finally {
    rmSync(folder, { recursive: true, force: true });
  }
}
