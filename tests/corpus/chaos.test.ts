/**
 * Chaos: workers, two at a time, are killed by SIGKILL after any number of items, events and steps, again and again, by
 * the ledger or a split as it comes, until the corpus is complete. It is that of one run that nobody disturbed, bit for
 * bit: nothing doubled, nothing lost. CTOK_CHAOS_ITEMS and CTOK_CHAOS_SEED change how many items there are and when
 * they die.
 */
import assert from "node:assert/strict";
import { readdirSync, rmSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import process from "node:process";
import { test } from "node:test";
import { datasetStatus, runWith } from "../../src/corpus/dataset.ts";
import { withFolder } from "../support.ts";
import { plain } from "./plain.ts";
import { contentOf, dice, madeCorpus, pictures, runWorker } from "./support.ts";

const numItems = Number(process.env.CTOK_CHAOS_ITEMS ?? 600), shardSize = Math.max(10, Math.round(numItems / 40));
const seed = Number(process.env.CTOK_CHAOS_SEED ?? 1);

test(`${numItems} items, workers killed after any number of events: as if nothing had been`, () =>
  withFolder(async (folder) => {
    const [undisturbed, out] = [join(folder, "undisturbed"), join(folder, "out")];
    writeFileSync(join(await pictures(folder, numItems), "00007.png"), "no picture");
    for (const path of [undisturbed, out]) await madeCorpus(folder, path, { numItems, shardSize });
    await runWith(plain, undisturbed);
    const roll = dice(seed), most = Math.max(200, 4 * shardSize);
    let kills = 0;
    for (let isComplete = false; !isComplete; isComplete = (await datasetStatus(out)).isComplete) {
      const isSplit = roll(2) === 0;
      const ends = await Promise.all([1 + roll(most), 1 + roll(most)].map((after, index) => {
        return runWorker(out, after, "", isSplit ? { run: { shard: { index, of: 2 } } } : {});
      }));
      for (const { code, signal, stderr } of ends) assert.ok(code === 0 || signal === "SIGKILL", stderr);
      kills += ends.filter(({ signal }) => signal === "SIGKILL").length;
      if (roll(3) === 0) rmSync(join(out, ".ctok/ledger.sqlite"), { force: true });
    }
    assert.ok(kills > 1, "nobody was killed");
    await runWith(plain, out); // removes what the last ones left
    assert.deepEqual(contentOf(out), contentOf(undisturbed));
    for (const name of ["pending", "decided"]) assert.deepEqual(readdirSync(join(out, ".ctok", name)), []);
    console.log(`${kills} kills`);
  }));
