/**
 * A fixed split: every shard is one worker's, for any numbers; another number of workers is refused; who finishes last
 * writes the set's files; workers that are killed, hang, come twice or have another clock leave the corpus of one
 * undisturbed run.
 */
import assert from "node:assert/strict";
import { existsSync, mkdirSync, readdirSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import process from "node:process";
import { test } from "node:test";
import { setTimeout as sleep } from "node:timers/promises";
import { datasetMissing, type ErrorCode, isWorthAnotherTry, TokenizerError } from "mod.ts";
import { datasetStatus, runWith } from "../../src/corpus/dataset.ts";
import type { DatasetEvent } from "../../src/corpus/events.ts";
import { shardsOf, workersOf } from "../../src/corpus/split.ts";
import { rejects, withFolder } from "../support.ts";
import { plain } from "./plain.ts";
import { contentOf, madeCorpus, runWorker } from "./support.ts";

const hourMs = 3_600_000;
const share = (index: number, of: number) => ({ shard: { index, of } });

/** Two corpora of one plan, of which the first is done without a split. */
async function twoCorpora(folder: string, numItems: number, shardSize: number): Promise<[alone: string, out: string]> {
  const [alone, out] = [join(folder, "alone"), join(folder, "out")];
  for (const path of [alone, out]) await madeCorpus(folder, path, { numItems, shardSize });
  await runWith(plain, alone);
  return [alone, out];
}

test("every shard is one worker's, for any numbers of shards and workers", () => {
  for (let numShards = 0; numShards <= 40; numShards++) {
    for (let of = 1; of <= 45; of++) {
      const shares = Array.from({ length: of }, (_, index) => shardsOf({ index, of }, numShards));
      assert.deepEqual(shares.flat().sort((a, b) => a - b), Array.from({ length: numShards }, (_, i) => i));
      for (const [index, shards] of shares.entries()) {
        assert.deepEqual(shards, shards.toSorted((a, b) => a - b));
        if (shards.length > 0) assert.deepEqual(workersOf(shards, of, false), [index]);
      }
      const sizes = shares.map(({ length }) => length);
      assert.ok(Math.max(...sizes) - Math.min(...sizes) <= 1);
    }
  }
  assert.deepEqual(workersOf([3, 13, 7, 28], 10, false), [3, 7, 8]);
  assert.deepEqual([workersOf([], 10, false), workersOf([], 10, true)], [[0], []]);
});

test("who finishes last writes the set's files; until then a worker's result is its share's", () =>
  withFolder(async (folder) => {
    const [alone, out] = await twoCorpora(folder, 22, 4); // six shards
    const missing = async () => (await datasetMissing(out)).elements;
    assert.deepEqual(await datasetMissing(out), { shards: [0, 1, 2, 3, 4, 5], parked: [], isComplete: false });
    assert.deepEqual((await datasetMissing(out, { of: 4 })).elements, [0, 1, 2, 3]);
    const first = await runWith(plain, out, share(1, 4));
    assert.deepEqual([first.isComplete, first.committed.numShards, first.committed.numItems], [false, 2, 6]);
    assert.deepEqual(first.split, { of: 4, missing: [0, 2, 3] });
    assert.deepEqual(await datasetMissing(out), {
      shards: [0, 2, 3, 4],
      of: 4,
      elements: [0, 2, 3],
      parked: [],
      isComplete: false,
    });
    await runWith(plain, out, share(3, 4));
    const events: DatasetEvent[] = [];
    await runWith(plain, out, { ...share(0, 4), onEvent: (event) => events.push(event) });
    assert.deepEqual(events.find(({ event }) => event === "started"), {
      event: "started",
      items: 0,
      numItems: 8,
      numShards: 2,
    });
    const { items, numItems } = events.findLast((event) => event.event === "progress")!;
    assert.deepEqual([items, numItems, await missing(), existsSync(join(out, "count.txt"))], [8, 8, [2], false]);
    const last = await runWith(plain, out, share(2, 4));
    assert.deepEqual([last.isComplete, last.committed.numShards, last.committed.numItems], [true, 6, 22]);
    assert.deepEqual([last.split, await missing()], [{ of: 4, missing: [] }, []]);
    assert.deepEqual(contentOf(out), contentOf(alone));
  }));

test("of more workers than shards those without any are done at once: no model is opened", () =>
  withFolder(async (folder) => {
    const [alone, out] = await twoCorpora(folder, 6, 3), events: DatasetEvent[] = [];
    for (const index of [4, 2]) {
      await runWith(plain, out, {
        ...share(index, 5),
        onEvent: (event) => events.push(event),
      });
    }
    assert.deepEqual([events, (await datasetMissing(out)).elements], [[], [0, 1]]);
    for (const index of [1, 0]) await runWith(plain, out, share(index, 5));
    assert.deepEqual(contentOf(out), contentOf(alone));
  }));

test("another number of workers is refused and says what to do; split anew, what is committed stays", () =>
  withFolder(async (folder) => {
    const [alone, out] = await twoCorpora(folder, 20, 4), note = join(out, ".ctok/notes/split.json");
    await runWith(plain, out, share(0, 3)); // 0 and 3
    const refusal = /out: expected shard i\/3, as this corpus is split \(--resplit, .*stays\), found "?i\/2/;
    await rejects(() => runWith(plain, out, share(0, 2)), "ARGUMENT", refusal);
    await rejects(
      () => datasetMissing(out, { of: 2 }),
      "ARGUMENT",
      /expected 3 workers, as this corpus is split, found 2/,
    );
    await rejects(() => runWith(plain, out, share(2, 2)), "ARGUMENT", /shard: expected an index below of/);
    await rejects(() => runWith(plain, out, { shard: { index: 0, of: 0 } }), "ARGUMENT", /options\.shard\.of/);
    const before = readFileSync(join(out, "manifest/00003.json"));
    await runWith(plain, out, { ...share(1, 2), resplit: true }); // 1 and 3
    assert.deepEqual(readFileSync(join(out, "manifest/00003.json")), before);
    assert.deepEqual((await datasetStatus(out)).split, { of: 2, missing: [0] });
    await rejects(() => runWith(plain, out, share(0, 3)), "ARGUMENT", /expected shard i\/2/);
    // Another plan's, and none of ours: replaced.
    for (const text of ['{"plan":"another","of":7}', "no note", '{"of":"seven"}', "null"]) {
      writeFileSync(note, text);
      assert.equal((await datasetStatus(out)).split, undefined);
      await runWith(plain, out, share(1, 2));
      assert.deepEqual((await datasetStatus(out)).split, { of: 2, missing: [0] });
    }
    await runWith(plain, out, share(0, 2));
    assert.deepEqual(contentOf(out), contentOf(alone));
  }));

test("two first workers of other splits: one is refused", () =>
  withFolder(async (folder) => {
    const [, out] = await twoCorpora(folder, 8, 2);
    for (let n = 0; n < 20; n++) {
      rmSync(join(out, ".ctok"), { recursive: true, force: true });
      const ends = await Promise.allSettled(
        [share(9, 10), share(19, 20)].map((options) => runWith(plain, out, options)),
      );
      assert.deepEqual(ends.map(({ status }) => status).sort(), ["fulfilled", "rejected"]);
    }
  }));

test("killed between the last commit and the set's files: the first worker is missing, and writes them", () =>
  withFolder(async (folder) => {
    const [alone, out] = await twoCorpora(folder, 8, 4);
    await runWith(plain, out, share(0, 2));
    assert.equal((await runWorker(out, "tidied", "", { run: share(1, 2) })).signal, "SIGKILL");
    assert.deepEqual(await datasetMissing(out), { shards: [], of: 2, elements: [0], parked: [], isComplete: false });
    const events: DatasetEvent[] = [];
    assert.ok((await runWith(plain, out, { ...share(0, 2), onEvent: (event) => events.push(event) })).isComplete);
    assert.deepEqual([events, contentOf(out)], [[], contentOf(alone)]);
  }));

test("parked shards that are missing are named", () =>
  withFolder(async (folder) => {
    const [, out] = await twoCorpora(folder, 8, 2);
    await runWith(plain, out, share(0, 2));
    mkdirSync(join(out, ".ctok/notes/parked"), { recursive: true });
    for (const stem of ["00001", "00002"]) writeFileSync(join(out, ".ctok/notes/parked", stem), "{}"); // 2 is committed
    const { parked, elements } = await datasetMissing(out);
    assert.deepEqual([parked, elements], [[1], [1]]);
  }));

test("killed at any moment, and one that hangs while another does its share: as if nothing had been", () =>
  withFolder(async (folder) => {
    const [alone, out] = await twoCorpora(folder, 96, 3), of = 2; // 16 shards each
    for (const end of [5, "entered", "decided", "placing", "committed"]) {
      assert.equal((await runWorker(out, end, "", { run: share(0, of) })).signal, "SIGKILL");
    }
    let pid = 0;
    const hanging = runWorker(out, "entered", "", { run: share(1, of), signal: "SIGSTOP", onStart: (id) => pid = id });
    try {
      const isStopped = () => /^\d+ \(.*\) T /.test(readFileSync(`/proc/${pid}/stat`, "utf8"));
      while (!isStopped()) await sleep(20);
      const ends = await Promise.all([0, 1].map((index) => runWorker(out, "", "", { run: share(index, of) })));
      for (const { code, stderr } of ends) assert.equal(code, 0, stderr);
      assert.ok((await datasetStatus(out)).isComplete);
    } finally {
      process.kill(pid, "SIGCONT");
    }
    const { code, stderr, lines } = await hanging;
    assert.equal(code, 0, stderr);
    const late = lines.filter(({ event, isTwice }) => event === "shard" && isTwice);
    assert.ok(late.length >= 1, "the one that hung had nothing in work");
    await runWith(plain, out);
    assert.deepEqual(contentOf(out), contentOf(alone));
    for (const name of ["pending", "decided"]) assert.deepEqual(readdirSync(join(out, ".ctok", name)), []);
  }));

test("clocks an hour off: a split knows none; by a ledger shards are made more than once, committed once", () =>
  withFolder(async (folder) => {
    for (const kind of ["split", "ledger"]) {
      const at = join(folder, kind);
      mkdirSync(at);
      const [alone, out] = await twoCorpora(at, 36, 4), clocks = [0, hourMs, -hourMs];
      const ends = await Promise.all(clocks.map((clockMs, index) => {
        return runWorker(out, "", "", { clockMs, ...kind === "split" && { run: share(index, 3) } });
      }));
      for (const { code, stderr } of ends) assert.equal(code, 0, stderr);
      const shards = ends.flatMap(({ lines }) => lines.filter(({ event }) => event === "shard"));
      const isNew = shards.filter(({ isTwice }) => !isTwice).map(({ index }) => Number(index)).sort((a, b) => a - b);
      assert.deepEqual(isNew, [0, 1, 2, 3, 4, 5, 6, 7, 8]);
      if (kind === "split") assert.equal(shards.length, 9);
      else console.log(`by a ledger ${shards.length} shards were made, of 9`);
      assert.deepEqual(contentOf(out), contentOf(alone));
    }
  }));

test("failures that are worth another try", () => {
  const of = (code: ErrorCode, detail?: number) =>
    isWorthAnotherTry(new TokenizerError(code, "x", detail === undefined ? {} : { detail }));
  const worth: [ErrorCode, number?][] = [
    ["FILE_IO", 28],
    ["FILE_IO", 5],
    ["FILE_IO", 116],
    ["FILE_IO"],
    ["MEMORY", 1],
    [
      "DEVICE",
    ],
  ];
  worth.push(["THREAD", 11], ["HUB"], ["HUB", 503], ["HUB", 429], ["CANCELLED"]);
  const never: [ErrorCode, number?][] = [["FILE_IO", 13], ["FILE_IO", 30], ["HUB", 401], ["HUB", 404], ["ARGUMENT"], [
    "FILE_FORMAT",
  ]];
  never.push(["FILE_MISSING", 2], ["UNSUPPORTED"], ["INTERNAL"], ["FFMPEG"], ["LIBRARY"]);
  for (const one of worth) assert.ok(of(...one), String(one));
  for (const one of never) assert.ok(!of(...one), String(one));
  assert.ok(!isWorthAnotherTry(new Error("x")));
});
