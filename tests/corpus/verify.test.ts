/**
 * What verify finds and what it cannot find, and what stats, head and a key give, over corpora written by the formats.
 */
import assert from "node:assert/strict";
import { mkdirSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import { dirname, join } from "node:path";
import { test } from "node:test";
import { psnr, statsOf, Tokenizer } from "mod.ts";
import type { CorpusFacts } from "../../src/corpus/format.ts";
import { shardFormat } from "../../src/corpus/formats/table.ts";
import type { Sample } from "../../src/corpus/item.ts";
import { headOf, sampleByKey, statsOfCorpus } from "../../src/corpus/stats.ts";
import {
  type Corpus,
  type Judge,
  tokensIn,
  type VerifiedShard,
  verifySet,
  verifyShards,
} from "../../src/corpus/verify.ts";
import { TokenizerError } from "../../src/errors.ts";
import type { TensorLike } from "../../src/tokens/dense.ts";
import { rejects, withFolder } from "../support.ts";
import { factsOf, sampleOf, samplesOf, writeShard } from "./shards.ts";

/** Samples in shards of two, with one item of each that was quarantined. */
async function corpusIn(folder: string, name: string, facts: CorpusFacts, samples: readonly Sample[]): Promise<Corpus> {
  const format = shardFormat(name), shards: Corpus["shards"][number][] = [], planned: string[][] = [];
  for (let from = 0; from < samples.length; from += 2) {
    const some = samples.slice(from, from + 2), index = from / 2, broken = `broken-${index}`;
    const shard = await writeShard(folder, format, facts, some, index);
    const numTokens = some.reduce((sum, { tokens }) => sum + tokensIn(tokens), 0);
    shards.push({ ...shard, numTokens, quarantined: [{ key: broken }] });
    planned.push([some[0]!.key, broken, ...some.slice(1).map(({ key }) => key)]);
  }
  for (const [path, bytes] of format.setFiles(shards, facts)) {
    mkdirSync(dirname(join(folder, path)), { recursive: true });
    writeFileSync(join(folder, path), bytes);
  }
  return { folder, format, facts, shards, plannedKeys: ({ index }) => Promise.resolve(planned[index]!) };
}

const problemsOf = async (corpus: Corpus) =>
  (await Array.fromAsync(verifyShards(corpus))).map(({ problems }) => problems);

test("a whole corpus has no problems, and its set's files follow from it", () =>
  withFolder(async (folder) => {
    const facts = factsOf("pictures", "uint16"), samples = samplesOf("pictures", facts);
    const corpus = await corpusIn(folder, "webdataset", facts, samples),
      found = await Array.fromAsync(verifyShards(corpus));
    const bytes = corpus.shards.map(({ files }) => files.reduce((sum, file) => sum + file.bytes, 0));
    assert.deepEqual(found, [
      { index: 0, stem: "00000", numSamples: 2, numTokens: 8 + 6, bytes: bytes[0], problems: [], decoded: [] },
      { index: 1, stem: "00001", numSamples: 2, numTokens: 1 + 10, bytes: bytes[1], problems: [], decoded: [] },
    ]);
    assert.deepEqual(await verifySet(corpus), []);
    writeFileSync(join(folder, ".nv-meta/split.yaml"), "split_parts: {}\n");
    rmSync(join(folder, ".nv-meta/dataset.yaml"));
    const problems = await verifySet(corpus);
    assert.equal(problems.length, 2);
    assert.match(problems[0]!, /^\.nv-meta\/split\.yaml: expected \d+ bytes, found 16$/);
    assert.match(problems[1]!, /dataset\.yaml: expected a file, found/);
  }));

test("each kind of damage is a problem of its shard alone: hashes, sizes, counts, keys, order", () =>
  withFolder(async (folder) => {
    const facts = factsOf("pictures", "uint16"), samples = samplesOf("pictures", facts);
    const corpus = await corpusIn(folder, "megatron", facts, samples);
    const path = join(folder, "00001.bin"), whole = readFileSync(path);
    const changed = Uint8Array.from(whole);
    changed[0]! ^= 1; // another index: nothing but the hash tells
    writeFileSync(path, changed);
    const [first, second] = await problemsOf(corpus);
    assert.deepEqual(first, []);
    assert.equal(second!.length, 1);
    assert.match(second![0]!, /^00001\.bin: expected sha256 [0-9a-f]{64}, found [0-9a-f]{64}$/);
    writeFileSync(path, whole.subarray(1));
    assert.match(
      (await problemsOf(corpus))[1]!.join("\n"),
      /^00001\.bin: expected 22 bytes, found 21\nshard 00001: 00001\.bin: /,
    );
    rmSync(path);
    assert.match(
      (await problemsOf(corpus))[1]!.join("\n"),
      /^\S+00001\.bin: expected a file, found .*\n\S+00001\.bin: expected a file/,
    );
    writeFileSync(path, whole);

    const other = (more: object): Corpus => ({ ...corpus, ...more });
    const shards = (more: object) => other({ shards: corpus.shards.map((shard) => ({ ...shard, ...more })) });
    assert.match(
      (await problemsOf(shards({ numTokens: 7 })))[0]!.join(),
      /expected 7 tokens, as its manifest says, found 14$/,
    );
    assert.match(
      (await problemsOf(shards({ numSamples: 1 })))[0]!.join(),
      /expected 1 samples, as were committed, found 2$/,
    );
    const more = "expected broken-0, as planned, found 画像-é";
    assert.ok((await problemsOf(shards({ quarantined: [] })))[0]!.join().includes(more));
    const planned = (keys: string[]) => other({ plannedKeys: () => Promise.resolve(keys) });
    const [one, two] = samples.map(({ key }) => key);
    assert.match(
      (await problemsOf(planned([two!, one!])))[0]!.join(),
      /expected 画像-é, as planned, found folder__photo$/,
    );
    assert.match((await problemsOf(planned([one!])))[0]!.join(), /expected the end, as planned, found 画像-é$/);
    assert.match(
      (await problemsOf(planned([one!, two!, "x"])))[0]!.join(),
      /expected 3 samples, as planned .*, found 2$/,
    );
    assert.deepEqual(await problemsOf(corpus), [[], []]);
  }));

test("samples are decoded and compared with their originals; one that is gone is told, not a problem", async () => {
  await using tokenizer = await Tokenizer.open("nano-DI8x8");
  const { name: model, sha256, spatialFactor } = tokenizer.info;
  const photo = (seed: number): TensorLike<"uint8"> => {
    const data = Uint8Array.from({ length: 40 * 40 * 3 }, (_, i) => 128 + 100 * Math.sin((i + seed * 999) / 700));
    return { dtype: "uint8", shape: [1, 40, 40, 3], data };
  };
  const samples: Sample[] = [], sizes = { height: 40, width: 40, originalHeight: 40, originalWidth: 40 };
  for (let i = 0; i < 4; i++) {
    const tokens = await tokenizer.encode(photo(i));
    samples.push({ key: `photo-${i}`, tokens, facts: { fileName: `${i}.png`, ...sizes }, sidecars: [] });
  }
  const { origin } = samples[0]!.tokens;
  const facts: CorpusFacts = {
    ...{ model, source: model, sha256, precision: origin.precision!, spatialFactor, quantizer: origin.quantizer! },
    ...{ isVideo: false, temporalFactor: 1, dtype: "uint16", numShards: 2, version: origin.version },
  };
  await withFolder(async (folder) => {
    const corpus = await corpusIn(folder, "parquet", facts, samples);
    const judge: Judge = {
      decode: (tokens) => tokenizer.decode(tokens, { dtype: "uint8" }) as Promise<TensorLike<"uint8">>,
      original: (_shard, key) => {
        if (key !== "photo-3") return Promise.resolve(photo(Number(key.at(-1))));
        return Promise.reject(new TokenizerError("FILE_MISSING", "3.png: expected a file, found none"));
      },
    };
    const verified = async (count: number) => await Array.fromAsync(verifyShards(corpus, { judge, samples: count }));
    const decoded = (all: VerifiedShard[]) => all.map(({ decoded }) => decoded.map(({ key }) => key));
    assert.deepEqual(decoded(await verified(0)), [[], []]);
    assert.deepEqual(decoded(await verified(1)), [["photo-1"], ["photo-3"]]);
    const all = await verified(5);
    assert.deepEqual(decoded(all), [["photo-0", "photo-1"], ["photo-2", "photo-3"]]);
    for (const { key, psnr: found, reason } of all.flatMap((shard) => shard.decoded)) {
      const n = Number(key.at(-1)), pixels = await judge.decode(samples[n]!.tokens);
      if (n === 3) assert.deepEqual([found, reason], [undefined, "3.png: expected a file, found none"]);
      else assert.deepEqual([found, reason], [psnr(pixels, photo(n)), undefined], key);
    }
    assert.deepEqual(all.map(({ problems }) => problems), [[], []]);
    const controller = new AbortController();
    controller.abort();
    await rejects(() => Array.fromAsync(verifyShards(corpus, { signal: controller.signal })), "CANCELLED", /cancelled/);
  });
});

test("stats of indices: use, entropy and digits are those of all tokens together", () =>
  withFolder(async (folder) => {
    const facts = factsOf("clips", "int32"), samples = samplesOf("clips", facts);
    const corpus = await corpusIn(folder, "jsonl", facts, samples), stats = await statsOfCorpus(corpus);
    const all = samples.flatMap(({ tokens }) => [...tokens.indices.data]);
    const counts = new Map<number, number>();
    for (const code of all) counts.set(code, (counts.get(code) ?? 0) + 1);
    const entropy = [...counts.values()].reduce((sum, n) => sum - n / all.length * Math.log2(n / all.length), 0);
    const { codebook, levels, sizes, numShards, numSamples, numTokens } = stats;
    assert.deepEqual([numShards, numSamples, numTokens], [2, 4, all.length]);
    assert.deepEqual([codebook!.size, codebook!.distinct], [64000, counts.size]);
    assert.ok(Math.abs(codebook!.entropyBits - entropy) < 1e-9);
    assert.ok(Math.abs(codebook!.perplexity - 2 ** entropy) < 1e-6);
    const [most] = [...counts].sort((a, b) => b[1] - a[1] || a[0] - b[0]);
    assert.deepEqual(codebook!.top[0], { code: most![0], count: most![1] });
    assert.deepEqual(levels!.map((digits) => digits.reduce((a, b) => a + b)), new Array(6).fill(all.length));
    assert.equal(levels![0]![3], all.filter((code) => code % 8 === 3).length);
    assert.deepEqual(sizes.map(({ size, count }) => `${size} ${count}`), [
      "24x16x34 1",
      "29x13x17 1",
      "40x9x17 1",
      "8x8x17 1",
    ]);
    assert.equal(stats.channels, undefined);
  }));

test("stats of latents: the moments of each channel, whatever the samples' sizes, and what is not finite beside", () =>
  withFolder(async (folder) => {
    const facts = factsOf("latents", "f32");
    const samples = [1, 2, 3].map((seed) =>
      sampleOf("latents", facts, { key: `s${seed}`, seed, height: 16, width: 8 * seed })
    );
    const corpus = await corpusIn(folder, "npy", facts, samples.slice(0, 1)), alone = await statsOfCorpus(corpus);
    const { channels } = statsOf(samples[0]!.tokens);
    for (const [c, { mean, deviation, least, greatest }] of alone.channels!.entries()) {
      assert.ok(Math.abs(mean - channels[c]!.mean) < 1e-12 && Math.abs(deviation - channels[c]!.deviation) < 1e-12);
      assert.deepEqual([least, greatest], [channels[c]!.least, channels[c]!.greatest]);
    }
    samples[1]!.tokens.latent.data.set([NaN, Infinity]);
    mkdirSync(join(folder, "more"));
    const stats = await statsOfCorpus(await corpusIn(join(folder, "more"), "safetensors", facts, samples));
    assert.equal(stats.notFinite, 2);
    for (const c of [0, 15]) {
      const values = samples.flatMap(({ tokens: { latent } }) => {
        const positions = latent.data.length / 16;
        return [...latent.data.subarray(c * positions, (c + 1) * positions)].filter(Number.isFinite);
      });
      const mean = values.reduce((a, b) => a + b) / values.length;
      const deviation = Math.sqrt(values.reduce((sum, v) => sum + (v - mean) ** 2, 0) / values.length);
      assert.ok(Math.abs(stats.channels![c]!.mean - mean) < 1e-12, `mean of ${c}`);
      assert.ok(Math.abs(stats.channels![c]!.deviation - deviation) < 1e-12, `deviation of ${c}`);
    }
  }));

test("the first samples, and one by its key: only its shard is opened", () =>
  withFolder(async (folder) => {
    const facts = factsOf("pictures", "uint16"), samples = samplesOf("pictures", facts);
    const corpus = await corpusIn(folder, "webdataset", facts, samples);
    const keys = async (count: number) => (await Array.fromAsync(headOf(corpus, count))).map(({ key }) => key);
    assert.deepEqual(await keys(0), []);
    assert.deepEqual(await keys(3), samples.slice(0, 3).map(({ key }) => key));
    assert.equal((await keys(100)).length, 4);
    rmSync(join(folder, "00000.tar"));
    const { key, tokens, sidecars } = await sampleByKey(corpus, samples[3]!.key);
    assert.equal(key, samples[3]!.key);
    assert.deepEqual([...tokens.indices.data], [...samples[3]!.tokens.indices.data]);
    assert.deepEqual(sidecars.map(({ field }) => field), ["txt"]);
    await rejects(
      () => sampleByKey(corpus, "broken-1"),
      "ARGUMENT",
      /expected one that was tokenised, found "broken-1, which is q/,
    );
    await rejects(
      () => sampleByKey(corpus, "nobody"),
      "ARGUMENT",
      /^key: expected one of a committed shard, found "nobody"$/,
    );
    await rejects(() => sampleByKey(corpus, samples[0]!.key), "FILE_MISSING", /00000\.tar/);
  }));
