/** src/looking/edit.ts: regions, mixing, noise, neighbours and counts, on tokens made by hand. */
import assert from "node:assert/strict";
import { describe, test } from "node:test";
import {
  codeOf,
  codesFromIndices,
  edit,
  fsq,
  mix,
  neighboursOf,
  noise,
  type Quantizer,
  statsOf,
  swap,
  Tensor,
  Tokens,
} from "mod.ts";
import { rejects } from "../support.ts";

const levels = [8, 8, 8, 5, 5, 5], quantizer = fsq(levels);
const origin = { model: "m", source: "m", spatialFactor: 8, height: 16, width: 24, top: 0, left: 0, version: "0" };

function discrete(
  indices: readonly number[],
  shape = [1, 2, 3],
  video?: { temporalFactor: number; frames: number },
): Tokens {
  const tensor = new Tensor("int32", shape, Int32Array.from(indices), { kind: "indices" });
  return new Tokens({ ...origin, quantizer, ...(video && { video }) }, {
    indices: tensor,
    codes: codesFromIndices(tensor, quantizer),
  });
}

function continuous(values: readonly number[], shape = [1, 2, 2, 2]): Tokens {
  return new Tokens(origin, {
    latent: new Tensor("float32", shape, Float32Array.from(values), { kind: "latent" }),
  });
}

const a = discrete([0, 1, 2, 63999, 31000, 7]), b = discrete([10, 11, 12, 13, 14, 15]);

describe("edit and swap", () => {
  test("a region, a code by its index or by its values; codes follow; the source stays", () => {
    const edited = edit(a, { top: 1, left: 1, width: 2 }, 500);
    assert.deepEqual([...edited.indices.data], [0, 1, 2, 63999, 500, 500]);
    assert.deepEqual(edited.codes.data, codesFromIndices(edited.indices, quantizer).data);
    assert.deepEqual(edit(a, { top: 1, left: 1, width: 2 }, codeOf(500, quantizer)).indices.data, edited.indices.data);
    assert.deepEqual([...a.indices.data], [0, 1, 2, 63999, 31000, 7]);
    assert.equal(edited.origin, a.origin);
  });
  test("every frame, or some", () => {
    const video = discrete([1, 2, 3, 4, 5, 6], [1, 3, 1, 2], { temporalFactor: 4, frames: 9 });
    assert.deepEqual([...edit(video, { left: 1 }, 9).indices.data], [1, 9, 3, 9, 5, 9]);
    assert.deepEqual([...edit(video, { first: 1, frames: 1 }, 9).indices.data], [1, 2, 9, 9, 5, 6]);
  });
  test("a latent takes the values of its channels", () => {
    const edited = edit(continuous([1, 2, 3, 4, 5, 6, 7, 8]), { top: 1, left: 0, width: 1 }, [-1, -2]);
    assert.deepEqual([...edited.latent.data], [1, 2, -1, 4, 5, 6, -2, 8]);
  });
  test("swap takes the region of the other", () => {
    assert.deepEqual([...swap(a, b, { height: 1, left: 2 }).indices.data], [0, 1, 12, 63999, 31000, 7]);
  });
  test("wrong regions, codes and pairs", async () => {
    await rejects(
      () => edit(a, { top: 2 }, 5),
      "ARGUMENT",
      /region\.top: expected a whole number from 0 to 1, found 2/,
    );
    await rejects(
      () => edit(a, { left: 1, width: 3 }, 5),
      "ARGUMENT",
      /region\.width: expected a whole number from 1 to 2.*found 3/,
    );
    await rejects(() => edit(a, { rows: 1 } as object, 5), "ARGUMENT", /region: expected top.*found "rows"/);
    await rejects(() => edit(a, {}, 64000), "VALUE", /from 0 to 63999, found 64000/);
    await rejects(() => edit(a, {}, [1, 2]), "ARGUMENT", /6 numbers/);
    await rejects(() => edit(continuous([1, 2, 3, 4, 5, 6, 7, 8]), {}, 5), "ARGUMENT", /2 channels/);
    await rejects(() => swap(a, discrete([1], [1, 1, 1]), {}), "SHAPE", /\[1,6,2,3\].*as a/);
    await rejects(() => mix(a, continuous([1, 2, 3, 4, 5, 6, 7, 8]), 0), "SHAPE", /as a/);
    await rejects(() => mix(a, b, NaN), "ARGUMENT", /t: expected a number/);
  });
});

describe("mix and noise", () => {
  test("the ends are the tokens themselves; halfway is the nearest code of each level", () => {
    assert.deepEqual(mix(a, b, 0).indices.data, a.indices.data);
    assert.deepEqual(mix(a, b, 1).indices.data, b.indices.data);
    // 0 is digits 0 0 0 0 0 0 and 18 is 2 2 0 0 0 0: halfway 1 1, index 9.
    assert.deepEqual([...mix(discrete([0], [1, 1, 1]), discrete([18], [1, 1, 1]), 0.5).indices.data], [9]);
    assert.deepEqual(
      [...mix(continuous([0, 0, 0, 0, 2, 2, 2, 2]), continuous([4, 4, 4, 4, 2, 2, 2, 2]), 0.25).latent.data],
      [1, 1, 1, 1, 2, 2, 2, 2],
    );
  });
  test("noise has the deviation asked for, is fixed by its seed, and leaves indices in the codebook", () => {
    const still = continuous(new Array(20000).fill(3), [1, 2, 100, 100]);
    const { mean, deviation } = statsOf(noise(still, 0.5)).channels[1]!;
    assert.ok(Math.abs(mean - 3) < 0.02 && Math.abs(deviation - 0.5) < 0.02, `${mean} ${deviation}`);
    assert.deepEqual(noise(still, 0.5, 7).latent.data, noise(still, 0.5, 7).latent.data);
    assert.notDeepEqual(noise(still, 0.5, 7).latent.data, noise(still, 0.5, 8).latent.data);
    assert.deepEqual(noise(a, 0).indices.data, a.indices.data);
    const loud = noise(discrete(new Array(600).fill(63999), [1, 20, 30]), 3).indices.data;
    assert.ok(loud.every((i) => i >= 0 && i < 64000) && new Set(loud).size > 100);
  });
});

describe("neighbours and counts", () => {
  test("a step of each level each way, one at a level's end", () => {
    const next = neighboursOf(0, quantizer);
    assert.deepEqual(next.map((n) => n.index), [1, 8, 64, 512, 2560, 12800]);
    const inside = neighboursOf(1 + 8 + 64 + 512 + 2560 + 12800, quantizer);
    assert.equal(inside.length, 12);
    for (const { index, level, step } of inside) {
      const gap = codeOf(index, quantizer).map((v, i) => v - codeOf(1 + 8 + 64 + 512 + 2560 + 12800, quantizer)[i]!);
      assert.deepEqual(gap.map((g) => Math.sign(g)), levels.map((_, i) => i === level ? step : 0));
    }
  });
  test("use of the codebook, digits, moments", () => {
    const stats = statsOf(discrete([0, 0, 1, 8], [1, 2, 2]));
    assert.deepEqual([stats.tokens, stats.codebook], [4, { size: 64000, distinct: 3, entropyBits: 1.5 }]);
    assert.deepEqual(stats.levels!.slice(0, 2), [[3, 1, 0, 0, 0, 0, 0, 0], [3, 1, 0, 0, 0, 0, 0, 0]]);
    assert.deepEqual(statsOf(continuous([1, 3, 1, 3, 0, 0, 0, 4])).channels, [
      { mean: 2, deviation: 1, least: 1, greatest: 3 },
      { mean: 1, deviation: Math.sqrt(3), least: 0, greatest: 4 },
    ]);
  });
});

describe("signs and learned codebooks", () => {
  const codebook = new Tensor("float32", [50, 4], Float32Array.from({ length: 200 }, (_, i) => Math.sin(i * i + 1)));
  const of = (quantizer: Quantizer, ...indices: number[]) => {
    return new Tokens({ ...origin, quantizer }, { indices: new Tensor("int32", [1, 2, 3], Int32Array.from(indices)) });
  };
  const lookup: Quantizer = { kind: "lookup", size: 50, channels: 4 }, sign: Quantizer = { kind: "sign", channels: 6 };

  for (const [quantizer, book] of [[lookup, codebook], [sign, undefined]] as const) {
    test(`${quantizer.kind}: edited, swapped, mixed, noisy and counted`, () => {
      const a = of(quantizer, 0, 1, 2, 3, 4, 5), b = of(quantizer, 10, 11, 12, 13, 14, 15);
      assert.deepEqual([...edit(a, { top: 1 }, 31, book).indices.data], [0, 1, 2, 31, 31, 31]);
      assert.deepEqual([...edit(a, { left: 2 }, codeOf(9, quantizer, book), book).indices.data], [0, 1, 9, 3, 4, 9]);
      assert.deepEqual([...swap(a, b, { left: 1, width: 1 }, book).indices.data], [0, 11, 2, 3, 14, 5]);
      assert.deepEqual(mix(a, b, 0, book).indices.data, a.indices.data);
      assert.deepEqual(mix(a, b, 1, book).indices.data, b.indices.data);
      assert.deepEqual(noise(a, 1e-3, 1, book).indices.data, a.indices.data);
      const loud = noise(a, 3, 1, book);
      assert.notDeepEqual(loud.indices.data, a.indices.data);
      assert.deepEqual(loud.codes.data, codesFromIndices(loud.indices, quantizer, book).data);
      const stats = statsOf(of(quantizer, 3, 3, 3, 3, 3, 0), book);
      assert.deepEqual([stats.codebook!.distinct, stats.channels.length], [2, quantizer.channels]);
      assert.deepEqual(stats.levels?.slice(0, 3), quantizer.kind === "sign" ? [[1, 5], [1, 5], [6, 0]] : undefined);
    });
  }

  test("a learned codebook that is not passed is asked for", async () => {
    const a = of(lookup, 0, 1, 2, 3, 4, 5);
    for (
      const work of [
        () => edit(a, {}, 3),
        () => swap(a, a, {}),
        () => mix(a, a, 0.5),
        () => noise(a, 1),
        () => statsOf(a),
      ]
    ) {
      await rejects(work, "UNSUPPORTED", /codebook: expected .* tokenizer\.codebook\(\) gives them/);
    }
    await rejects(() => mix(a, of(sign, 0, 1, 2, 3, 4, 5), 0.5, codebook), "SHAPE", /of a codebook of 50.*of 6 signs/);
  });
});
