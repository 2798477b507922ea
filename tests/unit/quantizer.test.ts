import assert from "node:assert/strict";
import { test } from "node:test";
import {
  channelsOf,
  checkIndices,
  codebookSize,
  codeOf,
  codesFromIndices,
  fsq,
  indicesFromCodes,
  neighboursOf,
  type Quantizer,
  roundToCodes,
  sameQuantizer,
  tellQuantizer,
} from "../../src/tokens/quantizer.ts";
import { Tensor } from "../../src/tokens/tensor.ts";

const levels = [8, 8, 8, 5, 5, 5], quantizer = fsq(levels);
const indicesOf = (shape: number[], ...data: number[]) => new Tensor("int32", shape, Int32Array.from(data));

test("level 0 is the least significant digit, and a code is (digit - half) / half", () => {
  const codes = codesFromIndices(indicesOf([1, 2, 2], 0, 1, 8, 63999), quantizer);
  assert.deepEqual(codes.shape, [1, 6, 2, 2]);
  assert.equal(codes.kind, "codes");
  const at = (position: number) => levels.map((_, k) => codes.data[k * 4 + position]);
  assert.deepEqual(at(0), [-1, -1, -1, -1, -1, -1]);
  assert.deepEqual(at(1), [-0.75, -1, -1, -1, -1, -1]);
  assert.deepEqual(at(2), [-1, -0.75, -1, -1, -1, -1]);
  assert.deepEqual(at(3), [0.75, 0.75, 0.75, 1, 1, 1]);
});

test("every index of the codebook comes back, in batches and from uint16", () => {
  const all = Uint16Array.from({ length: 64000 }, (_, i) => i);
  const codes = codesFromIndices(new Tensor("uint16", [2, 160, 200], all), quantizer);
  const back = indicesFromCodes(codes, quantizer);
  assert.deepEqual(back.shape, [2, 160, 200]);
  assert.equal(back.kind, "indices");
  assert.ok(back.data.every((index, i) => index === i));
});

test("levels that do not divide evenly in binary", () => {
  const odd = fsq([7, 3, 11]);
  const all = indicesOf([1, 231], ...Array.from({ length: 231 }, (_, i) => i));
  assert.deepEqual(indicesFromCodes(codesFromIndices(all, odd), odd).data, all.data);
});

test("an index outside the codebook is named by its place", () => {
  assert.throws(() => codesFromIndices(indicesOf([1, 2, 2], 0, 1, 2, 64000), quantizer), {
    code: "VALUE",
    detail: 3,
    message: "indices[0, 1, 1]: expected an index from 0 to 63999, found 64000",
  });
  assert.throws(() => checkIndices("tokens", indicesOf([2, 1, 2], 0, 1, -1, 2), quantizer), {
    code: "VALUE",
    detail: 2,
    message: "tokens[1, 0, 0]: expected an index from 0 to 63999, found -1",
  });
});

test("values that are no codes are refused, NaN too", () => {
  for (const value of [0.3, 1, -1.25, NaN, Infinity]) { // 1 is one step above the last of 8 levels
    const codes = new Tensor("float32", [1, 2, 1, 2], Float32Array.of(0, 0.25, 0.5, value));
    assert.throws(() => indicesFromCodes(codes, fsq([8, 8])), {
      code: "VALUE",
      message: /^codes\[0, 1, 0, 1\]: expected .*digit from 0 to 7/,
    });
  }
  assert.throws(() => indicesFromCodes(new Tensor("float32", [1, 3, 1, 1], new Float32Array(3)), fsq([8, 8])), {
    code: "SHAPE",
  });
});

test("codebookSize", () => {
  assert.equal(codebookSize(quantizer), 64000);
  for (const wrong of [[], [1], [8, 0], [8, 2.5], [65536, 65536], [NaN]]) {
    assert.throws(() => fsq(wrong), { code: "VALUE", message: /^levels: expected whole numbers of at least 2/ });
  }
});

const lookup: Quantizer = { kind: "lookup", size: 40, channels: 3 }, sign: Quantizer = { kind: "sign", channels: 5 };
/** Rows of 3 values, no two alike. */
const codebook = new Tensor("float32", [40, 3], Float32Array.from({ length: 120 }, (_, i) => Math.sin(i * i + 1)));

test("lookup: a code is its row, and the nearest row is its index", () => {
  const all = indicesOf([2, 4, 5], ...Array.from({ length: 40 }, (_, i) => (i * 7) % 40));
  const codes = codesFromIndices(all, lookup, codebook);
  assert.deepEqual(codes.shape, [2, 3, 4, 5]);
  for (let p = 0; p < 20; p++) {
    const row = Array.from(codebook.data.subarray(3 * all.data[20 + p]!, 3 * all.data[20 + p]! + 3));
    assert.deepEqual([0, 1, 2].map((k) => codes.data[60 + k * 20 + p]), row);
  }
  assert.deepEqual(indicesFromCodes(codes, lookup, codebook).data, all.data);
  const off = new Tensor("float32", codes.shape, codes.data.map((v, i) => v + 1e-2 * Math.cos(i)));
  assert.deepEqual(roundToCodes(off, lookup, codebook).data, codes.data);
  assert.throws(() => indicesFromCodes(off, lookup, codebook), {
    code: "VALUE",
    message: /codes\[0, 0, 0, 0\]: expected/,
  });
  const twice = { ...codebook, data: codebook.data.map((_, i) => codebook.data[i % 3]!) } as typeof codebook;
  assert.ok(indicesFromCodes(codesFromIndices(all, lookup, twice), lookup, twice).data.every((index) => index === 0));
});

test("lookup: without its codebook, and with another one, it is said", () => {
  const one = indicesOf([1, 1], 5), wanted = { code: "UNSUPPORTED", message: /tokenizer\.codebook\(\)/ };
  for (
    const work of [
      () => codesFromIndices(one, lookup),
      () => indicesFromCodes(new Tensor("float32", [1, 3, 1], new Float32Array(3)), lookup),
      () => codeOf(5, lookup),
      () => neighboursOf(5, lookup),
    ]
  ) assert.throws(work, wanted);
  const other = new Tensor("float32", [40, 2], new Float32Array(80));
  assert.throws(() => codesFromIndices(one, lookup, other), {
    code: "SHAPE",
    message: /codebook: expected float32 \[40, 3\]/,
  });
  assert.throws(() => codesFromIndices(indicesOf([1, 1], 40), lookup, codebook), {
    code: "VALUE",
    message: /from 0 to 39/,
  });
});

test("sign: bit k of an index is channel k, 1 where it is above 0", () => {
  const all = indicesOf([1, 32], ...Array.from({ length: 32 }, (_, i) => i)), codes = codesFromIndices(all, sign);
  for (let i = 0; i < 32; i++) {
    for (let k = 0; k < 5; k++) assert.equal(codes.data[k * 32 + i], (i >> k & 1) === 1 ? 1 : -1);
  }
  assert.deepEqual(indicesFromCodes(codes, sign).data, all.data);
  const values = new Tensor("float32", [1, 5, 1], Float32Array.of(0.01, -0.01, 0, 7, NaN));
  assert.deepEqual([...roundToCodes(values, sign).data], [1, -1, -1, 1, -1]);
  assert.throws(() => indicesFromCodes(values, sign), { code: "VALUE", message: /^codes\[0, 0, 0\]/ });
  const most: Quantizer = { kind: "sign", channels: 31 }, last = indicesOf([1, 1], 2 ** 31 - 1);
  assert.deepEqual(indicesFromCodes(codesFromIndices(last, most), most).data, last.data);
});

test("neighbours: one step of a level, one sign, the nearest rows", () => {
  assert.deepEqual(neighboursOf(0, fsq([3, 2])), [{ index: 1, level: 0, step: 1 }, { index: 3, level: 1, step: 1 }]);
  assert.deepEqual(neighboursOf(5, { kind: "sign", channels: 3 }).map((n) => n.index), [4, 7, 1]);
  const near = neighboursOf(9, lookup, codebook), from = codeOf(9, lookup, codebook);
  const distances = Array.from(
    { length: 40 },
    (_, i) => Math.hypot(...codeOf(i, lookup, codebook).map((v, k) => v - from[k]!)),
  );
  const wanted = distances.map((_, i) => i).filter((i) => i !== 9).sort((a, b) => distances[a]! - distances[b]!).slice(
    0,
    12,
  );
  assert.deepEqual(near.map((n) => n.index), wanted);
  for (const { index, distance } of near) assert.ok(Math.abs(distance! - distances[index]!) < 1e-12);
});

test("quantizers in numbers and words; what is none is refused", () => {
  assert.deepEqual([quantizer, lookup, sign].map(codebookSize), [64000, 40, 32]);
  assert.deepEqual([quantizer, lookup, sign].map(channelsOf), [6, 3, 5]);
  assert.deepEqual([quantizer, lookup, sign, undefined].map(tellQuantizer), [
    "FSQ levels 8 8 8 5 5 5",
    "a codebook of 40, 3 values each",
    "5 signs",
    "a continuous latent",
  ]);
  const all = [quantizer, fsq([8, 8]), lookup, { ...lookup, channels: 4 }, sign, undefined] as const;
  all.forEach((a, i) => all.forEach((b, j) => assert.equal(sameQuantizer(structuredClone(a), b), i === j)));
  const wrong: [value: unknown, code: string, text: RegExp][] = [
    [levels, "ARGUMENT", /quantizer: expected an object .*found "a list; fsq\(\[8,8,8,5,5,5\]\) makes one of levels"/],
    [undefined, "ARGUMENT", /quantizer: expected an object/],
    [{ kind: "vq" }, "ARGUMENT", /found "vq"/],
    [{ kind: "lookup", size: 1, channels: 8 }, "VALUE", /quantizer\.size/],
    [{ kind: "lookup", size: 16, channels: 0 }, "VALUE", /quantizer\.channels/],
    [{ kind: "sign", channels: 32 }, "VALUE", /quantizer\.channels: expected a whole number from 1 to 31/],
  ];
  for (const [value, code, message] of wrong) assert.throws(() => codebookSize(value as Quantizer), { code, message });
});
