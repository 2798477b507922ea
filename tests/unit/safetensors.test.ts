import assert from "node:assert/strict";
import { test } from "node:test";
import { TokenizerError } from "../../src/errors.ts";
import { decodeSafetensors, encodeSafetensors } from "../../src/tokens/formats/safetensors.ts";
import { Tensor } from "../../src/tokens/tensor.ts";

/** A file with this header (text as it stands) over `dataBytes` bytes 0, 1, 2, ... */
function fileOf(header: unknown, dataBytes = 0, headerBytes?: bigint): Uint8Array {
  const json = new TextEncoder().encode(typeof header === "string" ? header : JSON.stringify(header));
  const out = new Uint8Array(8 + json.length + dataBytes);
  new DataView(out.buffer).setBigUint64(0, headerBytes ?? BigInt(json.length), true);
  out.set(json, 8);
  out.set(Uint8Array.from({ length: dataBytes }, (_, i) => i), 8 + json.length);
  return out;
}

const refuses = (bytes: Uint8Array, message: RegExp) =>
  assert.throws(() => decodeSafetensors(bytes), { code: "TOKEN_FILE", message });
const entry = (dtype: string, shape: unknown, ...data_offsets: number[]) => ({ dtype, shape, data_offsets });

test("all four types and the metadata come back, aligned", () => {
  const tensors = {
    bytes: new Tensor("uint8", [3], Uint8Array.of(1, 2, 255)),
    words: new Tensor("uint16", [1, 3], Uint16Array.of(0, 63999, 65535)),
    ints: new Tensor("int32", [2], Int32Array.of(-1, 2 ** 31 - 1)),
    reals: new Tensor("float32", [2, 1, 1], Float32Array.of(-0, NaN)),
  };
  const metadata = { model: "nano-DI8x8", empty: "", text: 'quoted "ü" 画像' };
  const file = encodeSafetensors(tensors, metadata);
  const back = decodeSafetensors(file);
  assert.deepEqual(back.metadata, metadata);
  assert.deepEqual([...back.tensors.keys()].sort(), ["bytes", "ints", "reals", "words"]);
  for (const [name, { dtype, shape, data }] of Object.entries(tensors)) {
    assert.deepEqual(back.tensors.get(name), { dtype, shape: [...shape], data });
    assert.equal(back.tensors.get(name)!.data.buffer, file.buffer, `${name} is a view`);
  }
});

test("a file by another writer: gaps of none, any order, data at an odd address", () => {
  const header = { b: entry("F32", [1], 2, 6), a: entry("U8", [2], 0, 2), __metadata__: { k: "v" } };
  const padded = JSON.stringify(header).padEnd(151); // data starts at 159
  const { tensors } = decodeSafetensors(fileOf(padded, 6));
  assert.deepEqual([...tensors.get("a")!.data], [0, 1]);
  assert.deepEqual(new Uint8Array(tensors.get("b")!.data.slice().buffer), Uint8Array.of(2, 3, 4, 5));
});

test("headers that lie are refused, each by name", () => {
  refuses(new Uint8Array(0), /expected 8 bytes that give its length, found 0 bytes/);
  refuses(fileOf({}, 0, 3n), /header length: expected at most the 2 bytes that follow, found 3/);
  refuses(fileOf({}, 0, 2n ** 64n - 1n), /header length: .*found 18446744073709551615/);
  refuses(fileOf("{"), /header: expected JSON/);
  refuses(fileOf("[]"), /expected a JSON object, found an array/);
  refuses(fileOf("null"), /expected a JSON object, found null/);
  refuses(fileOf({ __metadata__: { levels: 8 } }), /__metadata__: expected strings only, found levels/);
  refuses(fileOf({ x: 5 }), /tensor "x": expected {dtype, shape, data_offsets}/);
  refuses(fileOf({ x: entry("U8", [-1], 0, 0) }), /tensor "x"/);
  refuses(fileOf({ x: entry("U8", [0], 0, 0) }), /tensor "x"/);
  refuses(fileOf({ x: entry("U8", [1.5], 0, 1) }, 1), /tensor "x"/);
  refuses(fileOf({ x: entry("U8", [1], 0) }, 1), /tensor "x"/);
  refuses(fileOf({ x: entry("F8_E4M3", [2], 0, 2) }, 2), /dtype of "x": expected one of U8, .*, F64, found F8_E4M3/);
  refuses(fileOf({ x: entry("toString", [1], 0, 2) }, 2), /dtype of "x"/);
});

test("offsets that lie are refused", () => {
  refuses(fileOf({ x: entry("U8", [9], 0, 9) }, 8), /offsets of "x": expected a range in 0 \.\. 8, found 0 \.\. 9/);
  refuses(fileOf({ x: entry("U8", [1], 2, 1) }, 2), /offsets of "x"/);
  refuses(fileOf({ x: entry("I32", [2], 0, 4) }, 4), /size of "x": expected 8 bytes for I32 \[2\], found 4/);
  refuses(fileOf({ x: entry("U8", [2 ** 40, 2 ** 40], 0, 4) }, 4), /size of "x"/);
  const overlapping = { x: entry("U8", [3], 0, 3), y: entry("U8", [3], 2, 5) };
  refuses(fileOf(overlapping, 5), /offsets of "y": expected to start at 3, where the tensor before ends, found 2/);
  refuses(fileOf({ x: entry("U8", [3], 1, 4) }, 4), /offsets of "x": expected to start at 0/);
  refuses(fileOf({ x: entry("U8", [3], 0, 3) }, 4), /data: expected 3 bytes, as the header says, found 4/);
});

test("a name from Object's prototype is only a name", () => {
  const { tensors } = decodeSafetensors(fileOf('{"__proto__":{"dtype":"U8","shape":[1],"data_offsets":[0,1]}}', 1));
  assert.deepEqual([...tensors.keys()], ["__proto__"]);
});

test("cut at any length: a TokenizerError", () => {
  const whole = encodeSafetensors({ x: new Tensor("uint16", [2], Uint16Array.of(1, 2)) }, { k: "v" });
  for (let n = 0; n < whole.length; n++) assert.throws(() => decodeSafetensors(whole.slice(0, n)), TokenizerError);
});
