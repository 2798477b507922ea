/**
 * Every format gives back what was written: tokens, facts and sidecars of pictures and clips, in each dtype; the same
 * bytes twice.
 */
import assert from "node:assert/strict";
import { mkdirSync, readFileSync } from "node:fs";
import { join } from "node:path";
import { test } from "node:test";
import fc from "fast-check";
import { asyncBufferFromFile, parquetReadObjects } from "hyparquet";
import { shardFormat, shardFormats } from "../../src/corpus/formats/table.ts";
import type { Sample } from "../../src/corpus/item.ts";
import { encodeNpy } from "../../src/tokens/formats/npy.ts";
import { fsq } from "../../src/tokens/quantizer.ts";
import { rejects, withFolder } from "../support.ts";
import { dtypesOf, factsOf, kinds, readShard, sampleOf, samplesOf, writeShard } from "./shards.ts";

/** What a sample is, in plain values. */
function plain({ key, tokens, facts, sidecars }: Sample) {
  const { main, origin, parts } = tokens, { shape, dtype, data } = main;
  return {
    key,
    origin,
    parts,
    shape,
    dtype,
    data: [...data],
    facts,
    sidecars: sidecars.map((s) => [s.field, [...s.bytes]]),
  };
}

const needsEqual = new Set(["npy", "1x"]);

for (const format of shardFormats.values()) {
  for (const kind of kinds) {
    for (const dtype of dtypesOf(format, kind)) {
      if (format.name === "1x" && kind !== "clips") continue;
      test(`${format.name}: ${kind} as ${dtype} come back as they were, and are the same bytes twice`, () =>
        withFolder(async (folder) => {
          const facts = factsOf(kind, dtype), samples = samplesOf(kind, facts, needsEqual.has(format.name));
          format.check(facts);
          const shard = await writeShard(folder, format, facts, samples);
          assert.deepEqual((await readShard(folder, format, shard, facts)).map(plain), samples.map(plain));
          mkdirSync(join(folder, "again"));
          assert.deepEqual(await writeShard(join(folder, "again"), format, facts, samples), shard);
        }));
    }
  }

  test(`${format.name}: a shard without a sample is read as one`, () =>
    withFolder(async (folder) => {
      for (const kind of kinds) {
        const [dtype] = dtypesOf(format, kind);
        if (!dtype || (format.name === "1x" && kind !== "clips")) continue;
        mkdirSync(join(folder, kind));
        const facts = factsOf(kind, dtype), shard = await writeShard(join(folder, kind), format, facts, []);
        assert.deepEqual(await readShard(join(folder, kind), format, shard, facts), []);
      }
    }));
}

test("a format says what it does not hold before any work", async () => {
  const signs = { kind: "sign", channels: 18 } as const;
  const refusals: [name: string, kind: (typeof kinds)[number], dtype: "uint16" | "f32" | "bf16" | "int32", RegExp][] = [
    ["megatron", "latents", "f32", /^format megatron: expected a discrete model, found "a continuous latent"$/],
    ["jsonl", "latents", "f32", /expected a discrete model/],
    ["npy", "latents", "bf16", /^format npy: dtype: expected f32 or f16, found "bf16"$/],
    ["webdataset-pth", "pictures", "uint16", /expected int32, found "uint16"$/],
    ["1x", "pictures", "int32", /^format 1x: expected a video model of temporal factor 8, found "a picture model"$/],
  ];
  for (const [name, kind, dtype, text] of refusals) {
    await rejects(() => shardFormat(name).check(factsOf(kind, dtype)), "ARGUMENT", text);
  }
  for (const name of ["webdataset", "npy", "safetensors", "jsonl", "parquet"]) {
    const facts = factsOf("pictures", "uint16", signs);
    await rejects(() => shardFormat(name).check(facts), "ARGUMENT", /expected int32, found "uint16 for 262144 codes"$/);
    assert.equal(shardFormat(name).dtypeOf(signs), "int32");
    assert.equal(shardFormat(name).dtypeOf(facts.quantizer, "int32"), "int32");
    assert.equal(shardFormat(name).dtypeOf(fsq([256, 256])), "uint16");
  }
  assert.equal(shardFormat("megatron").dtypeOf(fsq([2, 32749])), "uint16");
  assert.equal(shardFormat("megatron").dtypeOf({ kind: "lookup", size: 65_500, channels: 8 }), "int32");
  await rejects(
    () => shardFormat("tfrecord"),
    "ARGUMENT",
    /^format: expected one of webdataset, .*, found "tfrecord"$/,
  );
});

test("a sample that contradicts its corpus or itself, or is named as no file can be, is refused unwritten", () =>
  withFolder(async (folder) => {
    const facts = factsOf("pictures", "uint16"), good = samplesOf("pictures", facts)[0]!;
    const other = (more: object) => ({ ...good, ...more });
    const sidecar = (field: string) => other({ sidecars: [{ field, bytes: new Uint8Array(1) }] });
    const refused: [Sample, RegExp][] = [
      [
        sampleOf("pictures", facts, { key: "tall", height: 16, grid: 8 }),
        /^tall: picture: expected to lie inside 8x8 pixels/,
      ],
      [other({ key: "a.b" }), /^key: expected characters with neither a dot/],
      [other({ key: "a/b" }), /^key: /],
      [other({ key: "" }), /^key: /],
      [sidecar("../x"), /sidecars: expected fields such as txt/],
      [sidecar(""), /sidecars/],
      [other({ sidecars: [...good.sidecars, good.sidecars[0]!] }), /each once, without a slash, found "txt"$/],
      [other({ facts: { ...good.facts, height: 14 } }), /height: expected 13, as of its tokens, found 14$/],
      [other({ facts: { ...good.facts, cropTop: -1 } }), /crop_top/],
      [other({ facts: { ...good.facts, numFrames: 17 } }), /numFrames: expected undefined/],
      [
        sampleOf("pictures", { ...facts, model: "another" }, { key: "m" }),
        /^m: model: expected nano-DI8x8, as of the corpus/,
      ],
      [
        sampleOf("pictures", { ...facts, quantizer: fsq([40, 40, 40]) }, { key: "q" }),
        /^q: quantizer: expected FSQ levels 8/,
      ],
      [sampleOf("clips", facts, { key: "v", video: { frames: 17 } }), /^v: temporalFactor/],
    ];
    for (const format of shardFormats.values()) {
      if (format.name === "1x" || !format.dtypes.discrete.includes("uint16")) continue;
      mkdirSync(join(folder, format.name));
      const written: string[] = [];
      const files = {
        stem: "00000",
        create: (suffix: string) =>
          Promise.resolve({ offset: 0, write: () => (written.push(suffix), Promise.resolve()) }),
      };
      const writer = await format.open(files, facts);
      for (const [sample, text] of refused) await rejects(() => writer.add(sample), "SHAPE", text);
      assert.deepEqual(written, []);
      await writer.add(good);
      await rejects(() => writer.add(good), "SHAPE", /^key: expected each once in a shard, found "folder__photo"$/);
    }
  }));

test("samples of other sizes are an error of the options where a format holds one size", () =>
  withFolder(async (folder) => {
    for (const [name, kind, dtype] of [["npy", "pictures", "uint16"], ["1x", "clips", "int32"]] as const) {
      const facts = factsOf(kind, dtype), text = /--size with --crop center/;
      mkdirSync(join(folder, name));
      const write = () => writeShard(join(folder, name), shardFormat(name), facts, samplesOf(kind, facts));
      await rejects(write, "ARGUMENT", text);
    }
    const facts = factsOf("clips", "int32"), short = sampleOf("clips", facts, { key: "short", video: { frames: 9 } });
    const text =
      /^short: expected windows of 17 frames, all of them full, found "9 frames in 1 windows, 2 token frames"$/;
    await rejects(() => writeShard(folder, shardFormat("1x"), facts, [short], 6), "SHAPE", text);
  }));

test("sidecars that are called as ours keep their names, and ours take others", () =>
  withFolder(async (folder) => {
    const fields = ["npy", "ctok.npy", "json", "ctok.json", "ctok.ctok.json", "text_embedding.npy"];
    const sidecars = fields.map((field, i) => ({ field, bytes: Uint8Array.of(i) }));
    const format = shardFormat("webdataset"), facts = factsOf("pictures", "uint16");
    const sample = sampleOf("pictures", facts, { key: "k", sidecars }),
      shard = await writeShard(folder, format, facts, [sample]);
    const names = readFileSync(join(folder, "00002.tar"), "latin1").match(/k\.[\w.]+(?=\0)/g);
    assert.deepEqual(names, ["k.ctok.ctok.npy", "k.ctok.ctok.ctok.json", ...fields.map((field) => `k.${field}`)]);
    assert.deepEqual((await readShard(folder, format, shard, facts)).map(plain), [plain(sample)]);
  }));

test("parquet: a sidecar text_embedding.npy is the text embedding, and one that is no float array is refused", () =>
  withFolder(async (folder) => {
    const format = shardFormat("parquet"), facts = factsOf("latents", "f32"), field = "text_embedding.npy";
    const data = Float32Array.of(1, -2, 0.5, 4, 5, 6), array = encodeNpy({ dtype: "float32", shape: [2, 3], data });
    const half = encodeNpy({ dtype: "float16", shape: [2, 3], data: new Uint16Array(new Float16Array(data).buffer) });
    const with_ = (key: string, bytes: Uint8Array) => sampleOf("latents", facts, { key, sidecars: [{ field, bytes }] });
    const shard = await writeShard(folder, format, facts, [with_("full", array), with_("half", half)]);
    assert.equal((await readShard(folder, format, shard, facts)).length, 2);
    const file = await asyncBufferFromFile(join(folder, "00002.parquet"));
    for (const row of await parquetReadObjects({ file, utf8: false })) {
      const bytes = new Uint8Array(row.text_embedding_bytes as Uint8Array);
      assert.deepEqual([...new Float32Array(bytes.buffer)], [...data], String(row.id));
      assert.deepEqual([row.text_embedding_shape, row.text_embedding_dtype], [[2n, 3n], "float32"]);
    }
    const whole = encodeNpy({ dtype: "int32", shape: [1], data: Int32Array.of(1) });
    for (const bytes of [whole, array.subarray(0, 90), new Uint8Array(0)]) {
      const files = { stem: "00000", create: () => Promise.resolve({ offset: 0, write: () => Promise.resolve() }) };
      const writer = await format.open(files, facts);
      await rejects(() => writer.add(with_("bad", bytes)), "SHAPE", /^bad: text_embedding\.npy: /);
    }
  }));

test("whatever can be written is read back as it was: keys, fields, bytes, sizes", async () => {
  const name = fc.string({ unit: "grapheme", minLength: 1, maxLength: 60 }).map((text) =>
    text.replace(/[./\\\p{Cc}]/gu, "_")
  );
  const sidecar = fc.record({ field: name, bytes: fc.uint8Array({ maxLength: 40 }) });
  const one = fc.record({
    key: name,
    size: fc.record({ height: fc.integer({ min: 1, max: 40 }), width: fc.integer({ min: 1, max: 40 }) }),
    sidecars: fc.uniqueArray(sidecar, { maxLength: 4, selector: ({ field }) => field }),
    more: fc.record({ fileName: fc.string(), firstFrame: fc.nat(), isFlipped: fc.boolean(), cropTop: fc.nat() }),
  });
  const samples = fc.uniqueArray(one, { maxLength: 5, selector: ({ key }) => key });
  const formats = [...shardFormats.values()].filter(({ name }) => !needsEqual.has(name));
  await fc.assert(
    fc.asyncProperty(fc.constantFrom(...formats), samples, (format, all) =>
      withFolder(async (folder) => {
        const facts = factsOf("pictures", format.dtypes.discrete[0]!);
        const wanted = all.map(({ key, size, sidecars, more }, seed) =>
          sampleOf("pictures", facts, { key, ...size, sidecars, more, seed })
        );
        const shard = await writeShard(folder, format, facts, wanted);
        const sorted = (sample: Sample) => {
          const { sidecars, ...others } = plain(sample); // of JSON, fields that are whole numbers come first
          return { ...others, sidecars: sidecars.toSorted(([a], [b]) => String(a) < String(b) ? -1 : 1) };
        };
        assert.deepEqual((await readShard(folder, format, shard, facts)).map(sorted), wanted.map(sorted));
      })),
    { numRuns: 150 },
  );
});
