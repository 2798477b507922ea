/**
 * Six workers on one plan, by a split and by a queue, in a folder and in S3 (s3server.ts plays it), each killed by
 * SIGKILL after any number of items, events and steps and started anew, Redis stopped and started once among it: the
 * corpus is that of one run that nobody disturbed, bit for bit. The encoder is the embedded nano-DI8x8, the pictures
 * have 16 x 16 pixels and more. CTOK_MANY_ITEMS changes how many items there are.
 */
import assert from "node:assert/strict";
import { mkdtempSync, readdirSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import process from "node:process";
import { after, test } from "node:test";
import { datasetStatus, runWith, unparkDataset } from "../../src/corpus/dataset.ts";
import { openStorage } from "../../src/corpus/openstorage.ts";
import type { RunDatasetOptions } from "../../src/corpus/options.ts";
import { plain } from "../corpus/plain.ts";
import { contentOf, dice, madeCorpus, runWorker } from "../corpus/support.ts";
import { bucket, contentIn, withS3 } from "../s3server.ts";
import { withFolder } from "../support.ts";
import { noRedis, RedisServer } from "./support.ts";

const numItems = Number(process.env.CTOK_MANY_ITEMS ?? 240), shardSize = Math.max(5, Math.round(numItems / 400));
const numShards = Math.ceil(numItems / shardSize), numWorkers = 6;
/**
 * Lines that a worker says at most until it dies, as long as Redis was not restarted; `longer` times as many else.
 * Redis is restarted when a worker has died with a third of the shards committed. A shard has a line for each item and
 * four steps at least, so that six who are alive then are too few for the other two thirds: one of them dies before the
 * corpus is complete.
 */
const mostLines = Math.floor((numItems + 4 * numShards) / Math.max(10, numShards / 10)), longer = 4;
const hours = 3_600_000;

/** Pictures that all plans are of, and what a run in a folder leaves that nobody disturbs. */
const top = mkdtempSync(join(tmpdir(), "ctok-test-"));
after(() => rmSync(top, { recursive: true, force: true }));
let undisturbed: Promise<Map<string, string>> | undefined;
async function runUndisturbed(): Promise<Map<string, string>> {
  const path = join(top, "undisturbed");
  await madeCorpus(top, path, { numItems, shardSize });
  await runWith(plain, path, { threads: 1 });
  return contentOf(path);
}

interface How {
  /** Options of the worker of that number. */
  options(index: number): RunDatasetOptions;
  /** What goes before a worker, in the shell. */
  before?(index: number): string;
  /** Called once, when a third of the shards is committed. */
  restart?(): Promise<void>;
  readonly seed: number;
}

/** Has six workers at a corpus, in the place of each that died another, until it is complete. */
async function workOn(out: string, { options, before = () => "", restart, seed }: How): Promise<void> {
  let kills = 0, numParked = 0, numTries = 0, numTwice = 0, restartedAt: number | undefined;
  const storage = openStorage(out),
    start = performance.now(),
    rolls = Array.from({ length: numWorkers }, (_, index) => dice(seed + 1000 * index));
  async function worker(index: number): Promise<void> {
    const roll = rolls[index]!, run = { threads: 1, readers: 1, ...options(index) };
    for (;;) {
      const most = restart && restartedAt === undefined ? mostLines : longer * mostLines;
      const { code, signal, stderr, lines } = await runWorker(out, 1 + roll(most), before(index), { run });
      numTries += lines.filter(({ step }) => step === "begun").length;
      numTwice += lines.filter(({ isTwice }) => isTwice === true).length;
      if (code === 0) return;
      assert.equal(signal, "SIGKILL", stderr);
      kills++;
      if (!restart || restartedAt !== undefined) continue;
      const numCommitted = (await storage.committed()).size;
      if (3 * numCommitted < numShards || restartedAt !== undefined) continue;
      restartedAt = numCommitted;
      await restart();
    }
  }
  do {
    numParked += (await unparkDataset(out)).length; // whose workers were killed thrice
    await Promise.all(rolls.map((_, index) => worker(index)));
  } while (!(await datasetStatus(out)).isComplete);
  assert.ok(kills > 0, "nobody was killed");
  assert.ok(!restart || restartedAt! < numShards, `Redis was restarted at ${restartedAt} shards`);
  const seconds = Math.round((performance.now() - start) / 1000);
  const told = [`${numTries} tries at ${numShards} shards`, `${numTwice} dropped`, `${numParked} parked`];
  if (restart) told.push(`Redis restarted at ${restartedAt} shards`);
  console.log(`${numItems} items: ${kills} kills in ${seconds} s, ${told.join(", ")}`);
}

/** Notes stay; nothing else of workers does. */
const places = {
  folder: (use: (out: string, about: Place) => Promise<void>) =>
    withFolder(async (folder) => {
      const out = join(folder, "out");
      await use(out, { folder, content: () => contentOf(out) });
      for (const name of ["pending", "decided"]) assert.deepEqual(readdirSync(join(out, ".ctok", name)), []);
    }),
  S3: (use: (out: string, about: Place) => Promise<void>) =>
    withFolder((folder) =>
      withS3(folder, async (server) => {
        const before = (index: number) => `export XDG_CACHE_HOME='${folder}/cache-${index}';`; // as of six machines
        await use(`s3://${bucket}/many`, {
          folder,
          before,
          late: () => void (server.aheadMs = hours),
          content: () => contentIn(server, "many/"),
        });
        assert.deepEqual(server.keys("many/.ctok/").filter((key) => !key.startsWith("many/.ctok/notes/")), []);
        assert.deepEqual([...server.uploads], []);
      })
    ),
};
interface Place {
  readonly folder: string;
  content(): Map<string, string>;
  readonly before?: How["before"];
  /** Lets so much time pass for the store that what killed ones have sent has come. */
  late?(): void;
}

const handOuts = {
  split: (_folder: string, use: (how: Omit<How, "seed">) => Promise<void>) =>
    use({ options: (index) => ({ shard: { index, of: numWorkers } }) }),
  queue: async (folder: string, use: (how: Omit<How, "seed">) => Promise<void>) => {
    await using redis = await RedisServer.start(folder);
    const restart = async () => {
      await redis.stop();
      await redis.start();
    };
    await use({ options: () => ({ queue: redis.url("lock=1&retry=0.1") }), restart });
  },
};

let seed = 0;
for (const handOut of ["split", "queue"] as const) {
  for (const place of ["folder", "S3"] as const) {
    const skip = handOut === "queue" && noRedis, name = `${numItems} items, ${numWorkers} workers that are killed`;
    seed++;
    test(
      `${name}, ${handOut}, ${place}: as one that nobody disturbed`,
      { skip },
      () =>
        places[place]((out, { folder, content, before, late }) =>
          handOuts[handOut](folder, async (how) => {
            const whole = new Map(await (undisturbed ??= runUndisturbed()));
            if (place === "S3") whole.delete("plan.idx"); // which is this machine's
            await madeCorpus(top, out, { numItems, shardSize });
            await workOn(out, { ...how, before, seed });
            late?.();
            assert.ok((await runWith(plain, out)).isComplete); // removes what killed ones have left
            assert.deepEqual(content(), whole);
          })
        ),
    );
  }
}
