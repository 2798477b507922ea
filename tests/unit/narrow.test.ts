/**
 * Indices and floats to the types that files for training hold: each value to the nearest, and refused where there is
 * none.
 */
import assert from "node:assert/strict";
import { test } from "node:test";
import fc from "fast-check";
import { narrowed, type NarrowType } from "../../src/tokens/narrow.ts";
import { floatsOf } from "../../src/tokens/stored.ts";
import { finish, Tensor } from "../../src/tokens/tensor.ts";
import { rejects } from "../support.ts";

const floats = (...values: number[]) => new Tensor("float32", [values.length], Float32Array.from(values));
const bitsOf = (to: NarrowType, ...values: number[]) => [...narrowed("x", floats(...values), to).data];
/** Back to float32, as readers see it. */
const through = (to: NarrowType, ...values: number[]) => [...finish(floatsOf(narrowed("x", floats(...values), to)))];

test("bfloat16: ties go to the even neighbour, NaN stays NaN, signs and infinities stay", () => {
  const tie = 2 ** -8; // half of the step above 1
  assert.deepEqual(bitsOf("bfloat16", 1 + tie, 1 + 3 * tie, 1 + tie + 2 ** -20, 1 + tie - 2 ** -20), [
    ...[0x3f80, 0x3f82, 0x3f81, 0x3f80],
  ]);
  assert.deepEqual(bitsOf("bfloat16", 0, -0, Infinity, -Infinity), [0, 0x8000, 0x7f80, 0xff80]);
  const payloads = new Float32Array(Uint32Array.of(0x7f80_0001, 0xff80_0001, 0x7fff_ffff).buffer);
  const nan = narrowed("x", new Tensor("float32", [3], payloads), "bfloat16").data as Uint16Array;
  for (const bits of nan) assert.ok((bits & 0x7fff) > 0x7f80, bits.toString(16));
  assert.equal(nan[0]! >> 15, 0);
});

test("bfloat16 and float16 are the nearest of their values: no neighbour is nearer", () => {
  const neighbours = (to: NarrowType, bits: number) =>
    [bits - 1, bits + 1].map((near) => {
      const data = Uint16Array.of(near & 0xffff);
      return finish(floatsOf({ dtype: to as "bfloat16", shape: [1], data }))[0]!;
    });
  for (const to of ["bfloat16", "float16"] as const) {
    fc.assert(
      fc.property(fc.float({ min: Math.fround(-60000), max: Math.fround(60000), noNaN: true }), (x) => {
        const [bits] = bitsOf(to, x), [value] = through(to, x);
        const off = Math.abs(value! - x);
        for (const near of neighbours(to, Number(bits))) {
          if (!Number.isFinite(near)) continue;
          const other = Math.abs(near - x);
          assert.ok(off < other || (off === other && Number(bits) % 2 === 0), `${x} as ${value}, not ${near}`);
        }
      }),
      { numRuns: 2000 },
    );
  }
});

test("what each type holds comes back exactly", () => {
  fc.assert(
    fc.property(fc.integer({ min: 0, max: 65535 }), (bits) => {
      for (const dtype of ["bfloat16", "float16"] as const) {
        const [value] = finish(floatsOf({ dtype, shape: [1], data: Uint16Array.of(bits) }));
        if (!Number.isNaN(value)) assert.deepEqual(bitsOf(dtype, value!), [bits]);
      }
    }),
    { numRuns: 2000 },
  );
  assert.deepEqual(through("float32", 1 / 3, -0), [Math.fround(1 / 3), -0]);
});

test("a value that would become infinite and an index that does not fit are refused by their place", async () => {
  const grid = new Tensor("float32", [2, 2], Float32Array.of(1, 65519, 65520, 0));
  await rejects(
    () => narrowed("latent", grid, "float16"),
    "VALUE",
    /^latent\[1, 0\]: expected a value that float16 holds/,
  );
  assert.deepEqual(bitsOf("float16", 65519), [0x7bff]);
  await rejects(() => narrowed("latent", floats(3.4e38), "bfloat16"), "VALUE", /^latent\[0\]: .* bfloat16 holds/);
  const indices = new Tensor("int32", [1, 2], Int32Array.of(65535, 65536));
  await rejects(
    () => narrowed("indices", indices, "uint16"),
    "VALUE",
    /^indices\[0, 1\]: expected an index from 0 to 65535/,
  );
  assert.deepEqual([...narrowed("indices", indices, "int32").data], [65535, 65536]);
  await rejects(
    () => narrowed("indices", indices, "float32"),
    "ARGUMENT",
    /expected uint16 or int32, found "float32"$/,
  );
  await rejects(() => narrowed("latent", floats(1), "int32"), "ARGUMENT", /expected a float type, found "int32"$/);
});

test("memory of its own: a tensor that is changed afterwards changes nothing", () => {
  const tensor = new Tensor("int32", [1], Int32Array.of(5)), float = floats(1);
  const copies = [narrowed("x", tensor, "int32"), narrowed("x", float, "float32")];
  tensor.data[0] = 6;
  float.data[0] = 2;
  assert.deepEqual(copies.map(({ data }) => data[0]), [5, 1]);
});
