import assert from "node:assert/strict";
import { test } from "node:test";
import { pictureSize } from "../../src/tokens/dense.ts";
import { contactSheet, latentTiles, sideBySide, tokenMap } from "../../src/looking/pictures.ts";
import { Tensor } from "../../src/tokens/tensor.ts";

const flat = (height: number, width: number, value: number) =>
  new Tensor("uint8", [height, width, 3], new Uint8Array(height * width * 3).fill(value));

function pixel(t: Tensor<"uint8">, y: number, x: number): number[] {
  const i = (y * t.shape[1]! + x) * 3;
  return [...t.data.subarray(i, i + 3)];
}

test("pictureSize takes one uint8 picture and nothing else", () => {
  assert.deepEqual(pictureSize("p", flat(2, 3, 0)), { height: 2, width: 3 });
  assert.deepEqual(pictureSize("p", new Tensor("uint8", [1, 2, 3, 3], new Uint8Array(18))), { height: 2, width: 3 });
  for (const shape of [[2, 2, 3, 3], [3, 4, 3, 1], [36], [1, 1, 3, 4, 3]]) {
    const t = new Tensor("uint8", shape, new Uint8Array(36));
    assert.throws(() => pictureSize("p", t), { code: "SHAPE", message: /^p: expected uint8 \[H, W, 3\]/ });
  }
  assert.throws(() => pictureSize("p", new Tensor("float32", [1, 1, 3], new Float32Array(3)) as never), {
    code: "SHAPE",
  });
});

test("sideBySide keeps both pictures and puts a white gap between", () => {
  const joined = sideBySide(flat(2, 3, 10), flat(2, 4, 20), 2);
  assert.deepEqual(joined.shape, [2, 9, 3]);
  assert.equal(joined.kind, "pixels");
  for (const y of [0, 1]) {
    const row = Array.from({ length: 9 }, (_, x) => pixel(joined, y, x)[0]);
    assert.deepEqual(row, [10, 10, 10, 255, 255, 20, 20, 20, 20]);
  }
  assert.throws(() => sideBySide(flat(2, 3, 0), flat(3, 3, 0)), { code: "SHAPE" });
  assert.throws(() => sideBySide(flat(2, 3, 0), flat(2, 3, 0), -1), { code: "ARGUMENT" });
});

test("contactSheet: rows of equal pictures with gaps, and smaller ones as means", () => {
  const sheet = contactSheet([[flat(2, 3, 10), flat(2, 3, 20)], [flat(2, 3, 30)]], { gap: 1 });
  assert.deepEqual([sheet.shape, sheet.kind], [[5, 7, 3], "pixels"]);
  const column = (x: number) => Array.from({ length: 5 }, (_, y) => pixel(sheet, y, x)[0]);
  assert.deepEqual(column(0), [10, 10, 255, 30, 30]);
  assert.deepEqual(column(3), [255, 255, 255, 255, 255]);
  assert.deepEqual(column(6), [20, 20, 255, 255, 255], "no fourth picture: white");

  const bytes = Uint8Array.from({ length: 3 * 5 * 3 }, (_, i) => i); // pixel (y, x) is 15 y + 3 x and the next two
  const small = contactSheet([[new Tensor("uint8", [3, 5, 3], bytes)]], { shrink: 2 });
  assert.deepEqual([small.shape, [...small.data]], [[1, 2, 3], [9, 10, 11, 15, 16, 17]]);
  assert.throws(() => contactSheet([]), { code: "ARGUMENT" });
  assert.throws(() => contactSheet([[flat(2, 3, 0)], [flat(3, 2, 0)]]), {
    code: "SHAPE",
    message: /^rows\[1\]\[0\]: /,
  });
  assert.throws(() => contactSheet([[flat(2, 3, 0)]], { gap: 0.5 }), { code: "ARGUMENT" });
  for (const shrink of [0, 3]) assert.throws(() => contactSheet([[flat(2, 3, 0)]], { shrink }), { code: "ARGUMENT" });
});

test("tokenMap draws equal codes alike and others apart", () => {
  const map = tokenMap(new Tensor("int32", [1, 2, 2], Int32Array.of(7, 8, 63999, 7)), 3);
  assert.deepEqual(map.shape, [6, 6, 3]);
  assert.deepEqual(pixel(map, 0, 0), pixel(map, 5, 5));
  assert.deepEqual(pixel(map, 0, 0), pixel(map, 2, 2));
  assert.notDeepEqual(pixel(map, 0, 0), pixel(map, 0, 3));
  assert.notDeepEqual(pixel(map, 0, 0), pixel(map, 3, 0));
  assert.throws(() => tokenMap(new Tensor("int32", [2, 2, 1], new Int32Array(4))), { code: "SHAPE" });
  assert.throws(() => tokenMap(new Tensor("int32", [1, 2, 2], new Int32Array(4)), 0), { code: "ARGUMENT" });
});

test("tokenMap spreads the whole codebook: hardly two neighbouring codes look alike", () => {
  const map = tokenMap(new Tensor("int32", [1, 250, 256], Int32Array.from({ length: 64000 }, (_, i) => i)), 1);
  let alike = 0;
  for (let i = 1; i < 64000; i++) {
    const far = [0, 1, 2].reduce((sum, c) => sum + Math.abs(map.data[i * 3 + c]! - map.data[i * 3 - 3 + c]!), 0);
    if (far < 24) alike++;
  }
  assert.ok(alike < 640, `expected under 1 % of neighbours within 24 of 765, found ${alike} of 64000`);
});

test("latentTiles scales each channel by itself", () => {
  const latent = new Tensor("float32", [1, 3, 1, 2], Float32Array.of(0, 1, 100, 50, 5, 5));
  const tiles = latentTiles(latent, 2); // ⌈√3⌉ = 2 columns, 2 rows; tiles 2 by 4 pixels, 2 apart
  assert.deepEqual(tiles.shape, [6, 10, 3]);
  const least = [68, 1, 84], greatest = [253, 231, 37], white = [255, 255, 255];
  assert.deepEqual([0, 2, 4, 6, 8].map((x) => pixel(tiles, 0, x)), [least, greatest, white, greatest, least]);
  assert.deepEqual([0, 2, 6].map((x) => pixel(tiles, 4, x)), [least, least, white]);
  assert.deepEqual(pixel(tiles, 2, 0), white);
});

test("latentTiles shows what is not finite in red", () => {
  const tiles = latentTiles(new Tensor("float32", [1, 1, 1, 4], Float32Array.of(NaN, -Infinity, 0, 1)), 1);
  assert.deepEqual([0, 1, 2, 3].map((x) => pixel(tiles, 0, x)), [[255, 0, 0], [255, 0, 0], [68, 1, 84], [
    253,
    231,
    37,
  ]]);
  assert.throws(() => latentTiles(new Tensor("float32", [2, 1, 1, 2], new Float32Array(4))), { code: "SHAPE" });
});
