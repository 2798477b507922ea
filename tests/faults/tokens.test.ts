/**
 * Token files of others: arrays of NumPy and PyTorch in any type that fits, and the memory that reading takes, by what
 * the system says of a process of its own.
 */
import assert from "node:assert/strict";
import { execFileSync } from "node:child_process";
import { writeFileSync } from "node:fs";
import { readFile } from "node:fs/promises";
import { join } from "node:path";
import process from "node:process";
import { test } from "node:test";
import { decodeTokens, encodeTokens, type FallbackOrigin, fsq, loadTokens, Tensor, Tokens } from "mod.ts";
import { encodeSafetensors } from "../../src/tokens/formats/safetensors.ts";
import { type StoredTensor, type StoredType, storedTypes } from "../../src/tokens/stored.ts";
import { tokensOf } from "../../src/tokens/tensor.ts";
import { carried, rejects, root, runArgs, withFolder } from "../support.ts";

const fallback: FallbackOrigin = {
  ...{
    model: "nano-DI8x8",
    source: "nano-DI8x8",
    spatialFactor: 8,
    quantizer: fsq([8, 8, 8, 5, 5, 5]),
    version: "0.1.0",
  },
};
const { quantizer: _quantizer, ...continuous } = fallback;

test("indices of PyTorch and NumPy, int64 and int32, with the model said by the caller", async () => {
  const read = (name: string, from?: FallbackOrigin) => loadTokens(join(carried, "python", name), from);
  const [npy, int64, int32] = await Promise.all(
    ["i64.npy", "st_i64.safetensors", "st_i32.safetensors"].map((name) => read(name, fallback)),
  );
  const whole = {
    model: "nano-DI8x8",
    source: "nano-DI8x8",
    spatialFactor: 8,
    quantizer: fsq([8, 8, 8, 5, 5, 5]),
    version: "0.1.0",
  };
  for (const { indices, origin } of [npy!, int64!, int32!]) {
    assert.deepEqual([indices.dtype, indices.shape], ["int32", [1, 10, 16]]);
    assert.deepEqual(origin, { ...whole, height: 80, width: 128, top: 0, left: 0 });
    assert.deepEqual(indices.data, int32!.indices.data);
  }
  // What the file itself holds: 160 numbers of 8 bytes behind a header of 128.
  const bytes = await readFile(join(carried, "python/i64.npy")), view = new DataView(bytes.buffer, bytes.byteOffset);
  assert.deepEqual(
    [...npy!.indices.data],
    Array.from({ length: 160 }, (_, i) => Number(view.getBigInt64(128 + 8 * i, true))),
  );
  assert.ok(new Set(npy!.indices.data).size > 50);
  for (const name of ["st_i64.safetensors", "i64.npy"]) {
    await rejects(() => read(name), "TOKEN_FILE", /say which: --model/);
  }
  await rejects(() => read("i64.npy", continuous), "TOKEN_FILE", /quantizer: expected that which the indices count in/);
  await rejects(
    () => read("i64.npy", { ...fallback, quantizer: fsq([8, 8]) }),
    "TOKEN_FILE",
    /indices\[0, 0, 0\]: expected an index from 0 to 63/,
  );
});

/** A tensor of any type, of whole numbers or of numbers' bits. */
function stored(dtype: StoredType, shape: number[], values: readonly (number | bigint)[]): StoredTensor {
  const data = new storedTypes[dtype].array(values.length) as { [i: number]: number | bigint };
  values.forEach((value, i) => data[i] = /64/.test(dtype) && !/float/.test(dtype) ? BigInt(value) : Number(value));
  return { dtype, shape, data } as unknown as StoredTensor;
}
const file = (tensors: Record<string, StoredTensor>, metadata = {}) => encodeSafetensors(tensors, metadata);

test("indices of every type of whole numbers, and what is outside the codebook by its place", async () => {
  const types: StoredType[] = ["uint8", "int8", "uint16", "int16", "uint32", "int32", "uint64", "int64"];
  for (const dtype of types) {
    const bytes = file({ anything: stored(dtype, [1, 2, 3], [0, 1, 2, 99, 126, 127]) }, { format: "pt" });
    assert.deepEqual([...decodeTokens(bytes, dtype, fallback).indices.data], [0, 1, 2, 99, 126, 127], dtype);
    const missing = decodeTokens(file({ x: stored(dtype, [2, 3], [0, 1, 2, 3, 4, 5]) }), dtype, fallback);
    assert.deepEqual(missing.indices.shape, [1, 2, 3], "a missing batch is one");
  }
  const outside: [StoredType, number | bigint, RegExp][] = [
    ["int8", -1, /indices\[0, 1, 2\]: expected an index from 0 to 63999, found -1/],
    ["uint32", 2 ** 32 - 1, /found 4294967295/],
    ["int64", 64000, /found 64000/],
    ["int64", -(2n ** 63n), /found -9223372036854775808/],
    ["int64", 2n ** 32n + 7n, /found 4294967303/],
    ["uint64", 2n ** 64n - 1n, /found 18446744073709551615/],
  ];
  for (const [dtype, value, text] of outside) {
    const bytes = file({ indices: stored(dtype, [1, 2, 3], [0, 1, 2, 3, 4, value]) });
    const error = await rejects(() => decodeTokens(bytes, "t", fallback), "TOKEN_FILE", text);
    assert.equal(error.detail, 5);
  }
});

test("latents of every floating type as float32", () => {
  // NumPy 2.4.6: an array of float16 saved by numpy.save, and the bits of astype(float32), 2026-11-25.
  const half = Uint8Array.from(
    atob(
      `k05VTVBZAQB2AHsnZGVzY3InOiAnPGYyJywgJ2ZvcnRyYW5fb3JkZXInOiBGYWxzZSwgJ3NoYXBlJzogKDEsIDExLCAxLCAxKSwgfSAg${
        "ICAg".repeat(16)
      }IAoAAACAADwAwf97AQD/AwB8APwAflQ1`,
    ),
    (c) => c.charCodeAt(0),
  );
  const bits = [
    0,
    0x80000000,
    0x3f800000,
    0xc0200000,
    0x477fe000,
    0x33800000,
    0x387fc000,
    0x7f800000,
    0xff800000,
    0x7fc00000,
    0x3eaa8000,
  ];
  const { latent } = decodeTokens(half, "npy", continuous);
  assert.deepEqual([latent.dtype, latent.shape], ["float32", [1, 11, 1, 1]]);
  assert.deepEqual([...new Uint32Array(latent.data.buffer)], bits);

  const value = (
    dtype: StoredType,
    values: number[],
  ) => [
    ...decodeTokens(
      file({ latent: stored(dtype, [1, values.length, 1, 1], values), other: stored("uint8", [1], [1]) }),
      dtype,
      continuous,
    ).latent.data,
  ];
  assert.deepEqual(
    value("bfloat16", [0x3f80, 0xc020, 0x7f80, 0x0001]),
    [1, -2.5, Infinity, 2 ** -133],
    "the upper half of a float32",
  );
  assert.deepEqual(value("float64", [0.1, -2.5, 1e300]), [Math.fround(0.1), -2.5, Infinity]);
  assert.deepEqual(value("float32", [1.5, -0]), [1.5, -0]);
});

test("which tensor is meant: the one named so, or the only one", async () => {
  const a = stored("int64", [1, 1, 2], [7, 9]), b = stored("int64", [1, 1, 2], [1, 2]);
  assert.deepEqual([...decodeTokens(file({ b, indices: a }), "t", fallback).indices.data], [7, 9]);
  await rejects(
    () => decodeTokens(file({ a, b }), "t", fallback),
    "TOKEN_FILE",
    /a tensor named indices, or one tensor alone, found a, b/,
  );
  await rejects(() => decodeTokens(file({}), "t", fallback), "TOKEN_FILE", /found none/);
  const video = { ...fallback, temporalFactor: 4 }, clip = stored("int64", [3, 1, 2], [1, 2, 3, 4, 5, 6]);
  const { indices, origin } = decodeTokens(file({ clip }), "t", video);
  assert.deepEqual([indices.shape, origin.video], [[1, 3, 1, 2], { temporalFactor: 4, frames: 9 }]);
  assert.ok(!("temporalFactor" in origin));
  // A file that names its model needs no word from the caller, and a later format is not taken for a foreign one.
  const own = new Tokens({ ...fallback, height: 8, width: 16, top: 0, left: 0 }, {
    indices: new Tensor("int32", [1, 1, 2], Int32Array.of(7, 9)),
  });
  assert.equal(
    decodeTokens(encodeTokens(own, "safetensors"), "t", { ...fallback, model: "another" }).origin.model,
    "nano-DI8x8",
  );
  await rejects(
    () => decodeTokens(file({ indices: a }, { format: "ctok-tokens-3" }), "t", fallback),
    "TOKEN_FILE",
    /format: expected/,
  );
});

const elements = 24e6;

for (
  const [name, dtype, levels] of [
    ["of 6 levels", "uint16", [8, 8, 8, 5, 5, 5]],
    ["of 16 levels", "uint16", new Array(16).fill(2)],
    ["in float64", "float64", []],
  ] as const
) {
  test(`${elements / 1e6} million tokens ${name}: reading takes under 5 times the file`, () =>
    withFolder((folder) => {
      const kind = levels.length > 0 ? "indices" : "latent",
        shape = levels.length > 0 ? [1, 1, elements] : [1, 1, 1, elements];
      const tensor = stored(dtype, [1], [5]),
        data = new (storedTypes[dtype].array as typeof Uint16Array)(elements).fill(5);
      const counts: Record<string, string> = levels.length > 0
        ? { quantizer: "fsq", levels: levels.join() }
        : { quantizer: "none" };
      const about = { format: "ctok-tokens-2", kind, model: "m", source: "m", ctok_version: "0.1.0", ...counts };
      const sizes = { spatial_factor: "8", height: "8", width: "8", top: "0", left: "0" };
      writeFileSync(
        join(folder, "t"),
        encodeSafetensors({ [kind]: { ...tensor, shape, data } as StoredTensor }, { ...about, ...sizes }),
      );
      const bytes = data.byteLength;
      for (const how of ["load", "decode"]) {
        const out = execFileSync(process.execPath, [
          ...runArgs,
          join(root, "tests/faults/token_memory.ts"),
          join(folder, "t"),
          how,
        ], {
          encoding: "utf8",
          cwd: root,
        });
        const [grown = NaN, length, last] = out.trim().split(" ").map(Number);
        assert.deepEqual([length, last], [elements, 5]);
        assert.ok(grown <= 5 * bytes, `${how}: ${grown / 1e6} MB for ${bytes / 1e6} MB`);
      }
      return Promise.resolve();
    }));
}

test("large tensors are read in slices, between which others work", () => {
  const count = 5 * 2 ** 20 + 1, grid = [1, 1, count], origin = { ...fallback, height: 8, width: 8, top: 0, left: 0 };
  const slices = tokensOf(
    origin,
    { indices: { dtype: "uint16", shape: grid, data: new Uint16Array(count) } },
    "TOKEN_FILE",
  );
  let stops = 0;
  for (let next = slices.next(); !next.done; next = slices.next()) stops++;
  assert.equal(stops, 6);
});
