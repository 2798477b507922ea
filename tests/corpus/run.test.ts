/**
 * Plans and runs, in their plainest form: what is refused, what is quarantined, what ends a run, what a second run does
 * not do, and any number of runs on one folder.
 */
import assert from "node:assert/strict";
import { execFileSync, spawnSync } from "node:child_process";
import {
  copyFileSync,
  existsSync,
  mkdirSync,
  readdirSync,
  readFileSync,
  renameSync,
  rmSync,
  writeFileSync,
} from "node:fs";
import { join } from "node:path";
import { setTimeout } from "node:timers/promises";
import { test } from "node:test";
import { type PlanDatasetOptions, TokenizerError } from "mod.ts";
import { datasetStatus, planWith, runWith } from "../../src/corpus/dataset.ts";
import type { DatasetEvent } from "../../src/corpus/events.ts";
import type { ShardFormat } from "../../src/corpus/format.ts";
import { Ledger } from "../../src/corpus/ledger.ts";
import type { Parts } from "../../src/corpus/parts.ts";
import { Plan } from "../../src/corpus/plan.ts";
import { carried, grownMb, rejects, sequence, withFolder } from "../support.ts";
import { counts, lines, plain } from "./plain.ts";
import { contentOf, madeCorpus, pictures, runWorker } from "./support.ts";

const nano = new URL("../../models/nano/DI8x8.safetensors", import.meta.url);

test("a finished corpus is not worked on: no model is opened, no item found or read", () =>
  withFolder(async (folder) => {
    const out = join(folder, "out"), model = join(folder, "model.safetensors");
    copyFileSync(nano, model);
    await madeCorpus(folder, out, { numItems: 9, shardSize: 4, model });
    await runWith(plain, out);
    const before = { ...counts }, content = contentOf(out);
    rmSync(model); // opening it would fail
    const inputs = [join(folder, "pictures-9")], events: DatasetEvent[] = [];
    await planWith(plain, { inputs, out, shardSize: 4 }, {}); // as `ctok dataset INPUT --out` does
    const status = await runWith(plain, out, { onEvent: (event) => events.push(event) });
    assert.deepEqual(counts, before);
    assert.deepEqual(events, []);
    assert.deepEqual(contentOf(out), content);
    assert.ok(status.isComplete);
    assert.deepEqual(status.committed, { ...status.committed, numShards: 3, numItems: 9, numSamples: 9 });
  }));

test("asked for another plan than the folder has, both are named and nothing is done", () =>
  withFolder(async (folder) => {
    const out = join(folder, "out"), inputs = [await pictures(folder, 3)];
    const planned = await planWith(plain, { inputs, out, shardSize: 2 }, { size: 256 }), before = contentOf(out);
    const other = planned.header.arithmetic.precision === "bf16" ? "f32" : "bf16";
    const copy = join(folder, "copy.safetensors");
    copyFileSync(nano, copy);
    const asked: [changed: Partial<PlanDatasetOptions>, items: Record<string, unknown>, said: RegExp][] = [
      [{ shardSize: 3 }, {}, /shardSize: planned 2, asked for 3/],
      [{ model: copy }, {}, /model: planned "nano-DI8x8", asked for ".*copy\.safetensors"/],
      [
        { precision: other },
        {},
        new RegExp(`precision: planned "${planned.header.arithmetic.precision}", asked for "${other}"`),
      ],
      [{ kernels: "generic" }, {}, /kernels: planned "\w+", asked for "generic"/],
      [{ inputs: [folder] }, {}, /inputs: planned \[".*pictures-3"\], asked for \[/],
      [{ dtype: "int32" }, {}, /dtype: planned "uint16", asked for "int32"/],
      [{ allowOtherArithmetic: true }, {}, /allowOtherArithmetic: planned false, asked for true/],
      [{}, { size: 512 }, /size: planned 256, asked for 512/],
      [{}, { crop: "center" }, /crop: planned nothing, asked for "center"/],
    ];
    for (const [changed, items, said] of asked) {
      await rejects(
        () => planWith(plain, { inputs, out, shardSize: 2, ...changed }, { size: 256, ...items }),
        "ARGUMENT",
        said,
      );
    }
    await rejects(
      () => planWith(plain, { inputs, out, shardSize: 9, dtype: "f32" }, {}),
      "ARGUMENT",
      /shardSize.*dtype|dtype.*shardSize/,
    );
    const same = await planWith(plain, { inputs, out }, { size: 256 }); // what is not asked for is taken as planned
    assert.equal(same.id, planned.id);
    assert.deepEqual(contentOf(out), before);
  }));

test("a plan that cannot be made leaves none", () =>
  withFolder(async (folder) => {
    const inputs = [await pictures(folder, 1)], out = join(folder, "out");
    const fails = (changed: Partial<PlanDatasetOptions>, code: TokenizerError["code"], said: RegExp, parts = plain) =>
      rejects(() => planWith(parts, { inputs, out, ...changed }, {}), code, said);
    await fails({ format: "scroll" }, "ARGUMENT", /format: expected one of lines, found "scroll"/);
    await fails({ dtype: "bf16" }, "ARGUMENT", /dtype: expected uint16/);
    await fails({ window: 17 }, "ARGUMENT", /window: expected a video model/);
    await fails({ shardSize: 0 }, "ARGUMENT", /shardSize/);
    await fails(
      { model: join(carried, "Cosmos-Tokenizer-CI8x8") },
      "ARGUMENT",
      /format lines: expected a discrete model/,
    );
    mkdirSync(join(folder, "empty"));
    await fails({ inputs: [join(folder, "empty")] }, "ARGUMENT", /inputs: expected at least one picture, found "none"/);
    const broken: Parts = {
      ...plain,
      async *find(...args) {
        yield* plain.find(...args);
        throw new TokenizerError("FILE_IO", "the disk is gone");
      },
    };
    await fails({}, "FILE_IO", /the disk is gone/, broken);
    assert.deepEqual(existsSync(out) ? readdirSync(out) : [], []);
    await rejects(() => runWith(plain, out), "FILE_MISSING", /plan\.jsonl/);
    writeFileSync(join(folder, "plan.jsonl"), "{}\n");
    await rejects(() => runWith(plain, folder), "FILE_FORMAT", /plan\.jsonl: expected a plan of ctok dataset/);
  }));

test("the plan's index is made anew where missing or wrong, refused things stay out, a changed plan is told", () =>
  withFolder(async (folder) => {
    const input = await pictures(folder, 10), out = join(folder, "out"), index = join(out, "plan.idx");
    for (const name of ["00000.txt", "00003.txt", "00009x.txt"]) writeFileSync(join(input, name), "");
    await planWith(plain, { inputs: [input], out, shardSize: 4 }, {});
    const keys = async () => {
      const plan = await Plan.open(out), all = [];
      for (let i = 0; i < plan.numShards; i++) all.push((await plan.items(i)).map(({ key }) => key));
      return all;
    };
    const wanted = await keys(), whole = readFileSync(index);
    assert.deepEqual(wanted.map((shard) => shard.length), [4, 4, 2]);
    for (const wrong of [undefined, new Uint8Array(0), new Uint8Array(whole.length), whole.subarray(8)]) {
      rmSync(index);
      if (wrong) writeFileSync(index, wrong);
      assert.deepEqual(await keys(), wanted);
      assert.deepEqual(readFileSync(index), whole);
    }
    const refused = [];
    for await (const one of (await Plan.open(out)).refused()) refused.push(one.name);
    assert.deepEqual(refused, ["00000.txt", "00003.txt", "00009x.txt"]);
    const path = join(out, "plan.jsonl"), lines = readFileSync(path, "utf8").split("\n");
    writeFileSync(path, lines.filter((_, i) => i !== 3).join("\n"));
    await rejects(() => runWith(plain, out), "FILE_FORMAT", /plan\.jsonl: expected 10 items, as planned, found 9/);
  }));

test("items that cannot be tokenised, were edited or removed are quarantined, and the others done", () =>
  withFolder(async (folder) => {
    const input = await pictures(folder, 12),
      out = join(folder, "out"),
      at = (n: number) => join(input, `0000${n}.png`);
    writeFileSync(at(1), "");
    writeFileSync(at(2), "no picture");
    writeFileSync(at(3), readFileSync(at(3)).subarray(0, 60));
    await planWith(plain, { inputs: [input], out, shardSize: 6 }, {});
    writeFileSync(at(7), readFileSync(at(8)));
    rmSync(at(5));
    const events: DatasetEvent[] = [];
    const status = await runWith(plain, out, { onEvent: (event) => events.push(event) });
    assert.deepEqual(status.quarantined.map(({ key, code }) => `${key} ${code}`), [
      "00001 IMAGE",
      "00002 IMAGE",
      "00003 IMAGE",
      "00005 FILE_MISSING",
      "00007 FILE_IO",
    ]);
    for (const { key, message, place } of status.quarantined) {
      assert.match(message, /expected .*, found/);
      assert.deepEqual(place, { kind: "file", path: join(input, `${key}.png`) });
    }
    const told = events.flatMap((event) => event.event === "quarantined" ? event.key : []);
    assert.deepEqual(told.sort(), ["00001", "00002", "00003", "00005", "00007"]);
    assert.deepEqual([status.committed.numItems, status.committed.numSamples, status.isComplete], [12, 7, true]);
    const kept = readFileSync(join(out, "00000.txt"), "utf8").split("\n").map((line) => line.split(" ")[0]);
    assert.deepEqual(kept, ["00000", "00004", "end", ""]);
    assert.equal(readFileSync(join(out, "count.txt"), "utf8"), "7");
  }));

test("a shard of which nothing is there any more ends the run: a disk that is gone; unless allowed", () =>
  withFolder(async (folder) => {
    const input = await pictures(folder, 8), out = join(folder, "out");
    await planWith(plain, { inputs: [input], out, shardSize: 4 }, {});
    renameSync(input, `${input}-away`);
    await rejects(
      () => runWith(plain, out),
      "FILE_IO",
      /expected the items that were planned .*allow-missing.*found "none of the shard's 4"/,
    );
    assert.equal((await datasetStatus(out)).committed.numShards, 0);
    renameSync(`${input}-away`, input);
    assert.equal((await runWith(plain, out)).committed.numSamples, 8);
    rmSync(join(out, "manifest/00001.json"));
    for (const n of [4, 5, 6, 7]) rmSync(join(input, `0000${n}.png`));
    const { committed, quarantined } = await runWith(plain, out, { allowMissing: true });
    assert.deepEqual([committed.numSamples, quarantined.length], [4, 4]);
  }));

test("a worker that would compute something else is refused, unless the plan allows it", () =>
  withFolder(async (folder) => {
    const inputs = [await pictures(folder, 2)], out = join(folder, "out"), open = join(folder, "open");
    await planWith(plain, { inputs, out, kernels: "generic", precision: "f32" }, {});
    const status = await runWith(plain, out); // takes the kernels of the plan, not the best here
    assert.deepEqual(status.plan.arithmetic.kernels, "generic");
    rmSync(join(out, "manifest"), { recursive: true });
    const other: Parts = { ...plain, versions: () => Promise.resolve({ plain: "2" }) };
    const said = /arithmetic: expected plain 1, as planned \(.*--allow-other-arithmetic\), found "plain 2"/;
    await rejects(() => runWith(other, out), "UNSUPPORTED", said);
    const changed = join(folder, "changed.safetensors"), weights = readFileSync(nano);
    weights[weights.length - 2]! ^= 1;
    writeFileSync(changed, weights);
    const weightsSaid = sequence(
      /model: expected nano-DI8x8 with the weights that were planned \(sha256 [0-9a-f]{64}\), /,
      /found ".*changed\.safetensors with /,
    );
    await rejects(() => runWith(plain, out, { model: changed }), "ARGUMENT", weightsSaid);
    assert.equal((await datasetStatus(out)).committed.numShards, 0);
    await planWith(plain, { inputs, out: open, allowOtherArithmetic: true }, {});
    assert.ok((await runWith(other, open)).isComplete);
    assert.equal(JSON.parse(readFileSync(join(open, "manifest/00000.json"), "utf8")).arithmetic.versions.plain, "2");
  }));

test("the ledger may be lost, or be no ledger", () =>
  withFolder(async (folder) => {
    const out = join(folder, "out"), ledger = join(out, ".ctok/ledger.sqlite");
    await madeCorpus(folder, out, { numItems: 6, shardSize: 2 });
    await runWith(plain, out);
    const whole = contentOf(out);
    for (const spoil of [() => rmSync(ledger), () => writeFileSync(ledger, "no database".repeat(1000))]) {
      rmSync(join(out, "manifest/00001.json"));
      rmSync(join(out, "00001.txt"));
      spoil();
      await runWith(plain, out);
      assert.deepEqual(contentOf(out), whole);
    }
  }));

test("leases: each shard once, again after its holder is gone or silent, and never what is committed", () =>
  withFolder(async (folder) => {
    const asked: unknown[] = [];
    const committed = (among?: readonly number[]) => (asked.push(among), Promise.resolve(new Set([1])));
    const options = { plan: "p", numShards: 4, committed };
    await using first = await Ledger.open(folder, options);
    await using second = await Ledger.open(folder, options);
    assert.deepEqual([await first.next(), await second.next(), await first.next()], [0, 2, 3]);
    first.release(3);
    assert.equal(await second.next(), 3);
    second.done(2), second.done(3);
    assert.equal(second.numDone(), 3);
    const stop = new AbortController(), waiting = second.next(stop.signal);
    while (asked.length < 3) await setTimeout(10);
    stop.abort();
    await assert.rejects(waiting); // the first has one in work
    assert.deepEqual(asked.slice(0, 3), [undefined, undefined, [0]]); // the only one that another is at
    const { DatabaseSync } = await import("node:sqlite");
    const db = new DatabaseSync(join(folder, "ledger.sqlite"));
    db.exec("UPDATE shards SET expires = 0 WHERE number = 0");
    db.close();
    assert.equal(await second.next(), 0);
    second.done(0);
    assert.equal(await second.next(), undefined);
    await using other = await Ledger.open(folder, {
      ...options,
      plan: "q",
      committed: () => Promise.resolve(new Set<number>()),
    });
    assert.equal(await other.next(), 0);
  }));

test("two processes on one folder share the work", () =>
  withFolder(async (folder) => {
    const [alone, out] = [join(folder, "alone"), join(folder, "out")];
    for (const path of [alone, out]) await madeCorpus(folder, path, { numItems: 60, shardSize: 4 });
    await runWith(plain, alone);
    const [one, two] = await Promise.all([runWorker(out), runWorker(out)]);
    for (const { code, stderr } of [one, two]) assert.equal(code, 0, stderr);
    const shards = [one, two].flatMap(({ lines }) =>
      lines.filter(({ event }) => event === "shard").map(({ index }) => index)
    );
    assert.deepEqual(shards.sort((a, b) => Number(a) - Number(b)), Array.from({ length: 15 }, (_, i) => i));
    assert.deepEqual(contentOf(out), contentOf(alone));
  }));

test("an abort ends a run at once and leaves nothing half done; the next run goes on", () =>
  withFolder(async (folder) => {
    const out = join(folder, "out"), stop = new AbortController();
    await madeCorpus(folder, out, { numItems: 40, shardSize: 4 });
    const onEvent = (event: DatasetEvent) => event.event === "shard" && stop.abort();
    await rejects(() => runWith(plain, out, { signal: stop.signal, onEvent }), "CANCELLED", /cancelled/);
    const { committed, inWork } = await datasetStatus(out);
    assert.ok(committed.numShards >= 1 && committed.numShards < 10, String(committed.numShards));
    assert.deepEqual([inWork, readdirSync(join(out, ".ctok/pending"))], [[], []]);
    assert.ok((await runWith(plain, out)).isComplete);
  }));

test("a callback that throws ends a run", () =>
  withFolder(async (folder) => {
    const out = join(folder, "out");
    await madeCorpus(folder, out, { numItems: 8, shardSize: 4 });
    const onEvent = (event: DatasetEvent) => {
      if (event.event === "shard") throw new Error("enough");
    };
    await assert.rejects(runWith(plain, out, { onEvent }), /enough/);
    assert.ok((await runWith(plain, out)).isComplete);
  }));

/** Why no small filesystem may be mounted here, or false. */
const noMount = (() => {
  let why: string | false = "no filesystem may be mounted here";
  return (folder: string, bytes: number) => {
    const { status, stderr } = spawnSync("mount", ["-t", "tmpfs", "-o", `size=${bytes}`, "tmpfs", folder]);
    return why = status === 0 ? false : String(stderr ?? why);
  };
})();

test("a full disk ends a run with a clear error and nothing of the shard; with room, it goes on", async (t) => {
  await withFolder(async (folder) => {
    const out = join(folder, "disk");
    mkdirSync(out);
    const refusal = noMount(out, 1 << 20);
    if (refusal) return t.skip(refusal);
    try {
      await madeCorpus(folder, out, { numItems: 9, shardSize: 3 });
      writeFileSync(join(out, "ballast"), new Uint8Array((1 << 20) - 150_000));
      const big: Parts = { ...plain, formats: new Map([["lines", { ...lines, open: heavy }]]) };
      await rejects(() => runWith(big, out), "FILE_IO", /(0000\d\.txt|ledger\.sqlite): expected .*, found .*full/);
      assert.equal((await datasetStatus(out)).committed.numShards, 0);
      assert.deepEqual(readdirSync(join(out, ".ctok/pending")), []);
      rmSync(join(out, "ballast"));
      execFileSync("mount", ["-o", `remount,size=${1 << 25}`, out]);
      assert.equal((await runWith(big, out)).committed.numSamples, 9);
    } finally {
      execFileSync("umount", [out]);
    }
  });
});

/** A format whose shards are large. */
const heavy: ShardFormat["open"] = async (files) => {
  const file = await files.create(".txt");
  return { add: () => file.write(new Uint8Array(1 << 20)), finish: () => Promise.resolve() };
};

test("memory does not grow with the items", () =>
  withFolder(async (folder) => {
    const input = await pictures(folder, 300);
    let n = 0;
    const once = async () => {
      const out = join(folder, `out-${n++}`);
      await planWith(plain, { inputs: [input], out, shardSize: 50 }, {});
      await runWith(plain, out);
    };
    const grown = await grownMb(once, 2, 3);
    assert.ok(grown < 40, `${grown} MB more after 900 items`);
  }));
