import assert from "node:assert/strict";
import { test } from "node:test";
import { checkIndices, codebookSize, codesFromIndices, indicesFromCodes } from "../../src/tokens/fsq.ts";
import { Tensor } from "../../src/tokens/tensor.ts";

const levels = [8, 8, 8, 5, 5, 5];
const indicesOf = (shape: number[], ...data: number[]) => new Tensor("int32", shape, Int32Array.from(data));

test("level 0 is the least significant digit, and a code is (digit - half) / half", () => {
  const codes = codesFromIndices(indicesOf([1, 2, 2], 0, 1, 8, 63999), levels);
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
  const codes = codesFromIndices(new Tensor("uint16", [2, 160, 200], all), levels);
  const back = indicesFromCodes(codes, levels);
  assert.deepEqual(back.shape, [2, 160, 200]);
  assert.equal(back.kind, "indices");
  assert.ok(back.data.every((index, i) => index === i));
});

test("levels that do not divide evenly in binary", () => {
  const odd = [7, 3, 11];
  const all = indicesOf([1, 231], ...Array.from({ length: 231 }, (_, i) => i));
  assert.deepEqual(indicesFromCodes(codesFromIndices(all, odd), odd).data, all.data);
});

test("an index outside the codebook is named by its place", () => {
  assert.throws(() => codesFromIndices(indicesOf([1, 2, 2], 0, 1, 2, 64000), levels), {
    code: "VALUE",
    detail: 3,
    message: "indices[0, 1, 1]: expected an index from 0 to 63999, found 64000",
  });
  assert.throws(() => checkIndices("tokens", indicesOf([2, 1, 2], 0, 1, -1, 2), levels), {
    code: "VALUE",
    detail: 2,
    message: "tokens[1, 0, 0]: expected an index from 0 to 63999, found -1",
  });
});

test("values that are no codes are refused, NaN too", () => {
  for (const value of [0.3, 1, -1.25, NaN, Infinity]) { // 1 is one step above the last of 8 levels
    const codes = new Tensor("float32", [1, 2, 1, 2], Float32Array.of(0, 0.25, 0.5, value));
    assert.throws(() => indicesFromCodes(codes, [8, 8]), {
      code: "VALUE",
      message: /^codes\[0, 1, 0, 1\]: expected .*digit from 0 to 7/,
    });
  }
  assert.throws(() => indicesFromCodes(new Tensor("float32", [1, 3, 1, 1], new Float32Array(3)), [8, 8]), { code: "SHAPE" });
});

test("codebookSize", () => {
  assert.equal(codebookSize(levels), 64000);
  for (const wrong of [[], [1], [8, 0], [8, 2.5], [65536, 65536], [NaN]]) {
    assert.throws(() => codebookSize(wrong), { code: "VALUE", message: /^levels: expected whole numbers of at least 2/ });
  }
});
