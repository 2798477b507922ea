/**
 * Checkpoints and token files made to hurt: counts, sizes, names and nesting that lie. Each is refused with its code,
 * in bounded time and memory. Damaged byte by byte they are in native/checkpoint_test.c, unit/tokenfile.test.ts and
 * fuzz/.
 */
import assert from "node:assert/strict";
import { existsSync, readdirSync, readFileSync, truncateSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import process from "node:process";
import { test } from "node:test";
import { Packr } from "msgpackr/pack";
import { decodeTokens, type ErrorCode, fsq, loadTokens, Tokenizer } from "mod.ts";
import { concat, editSafetensors, type Entry, readZip, writeZip } from "../archive.ts";
import { carried, rejects, residentBytes, root, withFolder } from "../support.ts";

const mostBytes = 300e6; // of a refusal; the largest input has 60 MB
/** Of a refusal, in the processor's time of this process. They take a second at most; what has no bound takes hours. */
const mostSeconds = 60;
const text = (s: string) => new TextEncoder().encode(s);

/** Refused with that code and text, within the time, and with no more memory than that kept. */
async function refuses(what: string, work: () => unknown, code: ErrorCode, pattern: RegExp): Promise<void> {
  const memory = residentBytes(), start = process.cpuUsage();
  const { message } = await rejects(work, code, pattern);
  const { user, system } = process.cpuUsage(start), bytes = residentBytes() - memory;
  assert.ok((user + system) / 1e6 < mostSeconds, `${what}: ${(user + system) / 1e6} s`);
  assert.ok(bytes < mostBytes, `${what}: ${bytes} bytes`);
  assert.ok(message.length < 4000, `${what}: a message of ${message.length} characters`);
}

/** What Tokenizer.open makes of a file of these bytes. */
async function refusesFile(what: string, name: string, bytes: Uint8Array, pattern: RegExp): Promise<void> {
  await withFolder(async (folder) => {
    const path = join(folder, name);
    writeFileSync(path, bytes);
    await refuses(what, () => Tokenizer.open(path), "FILE_FORMAT", pattern);
    assert.deepEqual(readdirSync(folder), [name]);
  });
}

// ---------------------------------------------------------------- archives
/** An archive's end records, in zip64, whose directory has these numbers. */
function zip64End(at: bigint, entries: bigint, bytes: bigint, offset: bigint): Uint8Array {
  const end = new Uint8Array(56 + 20 + 22), view = new DataView(end.buffer);
  view.setUint32(0, 0x06064b50, true);
  view.setBigUint64(4, 44n, true);
  for (const [place, value] of [[24, entries], [32, entries], [40, bytes], [48, offset]] as const) {
    view.setBigUint64(place, value, true);
  }
  view.setUint32(56, 0x07064b50, true);
  view.setBigUint64(64, at, true);
  view.setUint32(76, 0x06054b50, true);
  end.fill(0xff, 84, 96);
  return end;
}

/** A directory of so many headers, of names r/0, r/1, …, that all lead to offset 0. */
function directory(count: number): Uint8Array {
  const entryBytes = 46 + 10, out = new Uint8Array(count * entryBytes), view = new DataView(out.buffer);
  for (let i = 0; i < count; i++) {
    view.setUint32(i * entryBytes, 0x02014b50, true);
    view.setUint16(i * entryBytes + 28, 10, true);
    out.set(text(`r/${String(i).padStart(8, "0")}`), i * entryBytes + 46);
  }
  return out;
}

test("archives: a billion entries claimed, a million there, and zip64 numbers at their ends", async () => {
  const million = directory(1_000_000);
  const cases: [string, Uint8Array, RegExp][] = [
    ["a billion claimed", zip64End(0n, 1_000_000_000n, 0n, 0n), /1000000000 zip entries: expected at most/],
    ["2^64 - 1 claimed", zip64End(0n, 2n ** 64n - 1n, 0n, 0n), /18446744073709551615 zip entries/],
    ["a directory of 2^64 - 1", zip64End(0n, 1n, 2n ** 64n - 1n, 0n), /does not fit before its end record/],
    ["a directory at 2^63", zip64End(0n, 1n, 46n, 2n ** 63n), /does not fit before its end record/],
    ["offset and size that add up to 2^64", zip64End(0n, 1n, 2n ** 64n - 4n, 4n), /does not fit before its end record/],
    ["an end record at 2^64 - 1", zip64End(2n ** 64n - 1n, 1n, 46n, 0n), /does not lead to a zip64 end record/],
    [
      "a million there",
      concat([million, zip64End(BigInt(million.length), 1_000_000n, BigInt(million.length), 0n)]),
      /1000000 zip entries: expected at most 65536/,
    ],
    [
      "as many as are taken",
      concat([million.subarray(0, 65536 * 56), zip64End(65536n * 56n, 65536n, 65536n * 56n, 0n)]),
      /0 records named <root>\/data\.pkl among 65536/,
    ],
  ];
  for (const [what, bytes, pattern] of cases) await refusesFile(what, "x.jit", bytes, pattern);
});

test("archives: names that lead elsewhere write nothing, and records that overlap or lie are refused", async () => {
  const jit = readFileSync(join(carried, "Cosmos-Tokenizer-CI8x8/encoder.jit"));
  const entries = readZip(new Uint8Array(jit)),
    rename = (edit: (name: string) => string): Entry[] =>
      entries.map((entry) => ({ ...entry, name: edit(entry.name) }));
  for (const root of ["..", "/etc", "a\0b", "x".repeat(60_000)]) {
    const archive = writeZip(rename((name) => `${root}/../${name}`));
    await refusesFile(JSON.stringify(root.slice(0, 9)), "x.jit", archive, /0 records named <root>\/data\.pkl/);
  }
  assert.ok(!existsSync("/etc/data.pkl"));
  const archive = writeZip(entries), view = new DataView(archive.buffer);
  const central = view.getUint32(archive.length - 6, true);
  const patch = (edit: (at: number, view: DataView) => void) => {
    const copy = archive.slice(), copied = new DataView(copy.buffer);
    for (let at = central; copied.getUint32(at, true) === 0x02014b50;) {
      const nameBytes = copied.getUint16(at + 28, true);
      if (/\/data\/\d+$/.test(new TextDecoder().decode(copy.subarray(at + 46, at + 46 + nameBytes)))) edit(at, copied);
      at += 46 + nameBytes + copied.getUint16(at + 30, true) + copied.getUint16(at + 32, true);
    }
    return copy;
  };
  const overlapping = patch((at, v) => v.setUint32(at + 42, view.getUint32(central + 42, true), true));
  await refusesFile("records over each other", "x.jit", overlapping, /its header at \d+ has another name/);
  const large = patch((at, v) => [20, 24].forEach((field) => v.setUint32(at + field, 0xfffffff0, true)));
  await refusesFile("a record of 4 GiB", "x.jit", large, /4294967280 bytes at \d+ run into the directory/);
  const two = patch((at, v) => v.setUint32(at + 24, 1, true));
  await refusesFile("two sizes", "x.jit", two, /stored, but with two sizes/);
});

// ---------------------------------------------------------------- safetensors
const safetensors = (header: string | Uint8Array, length?: bigint): Uint8Array => {
  const json = typeof header === "string" ? text(header) : header, size = new Uint8Array(8);
  new DataView(size.buffer).setBigUint64(0, length ?? BigInt(json.length), true);
  return concat([size, json]);
};
const many = (count: number) =>
  `{${Array.from({ length: count }, (_, i) => `"t${i}":{"dtype":"U8","shape":[0],"data_offsets":[0,0]}`).join()}}`;

test("safetensors: headers, nesting, counts and offsets that lie", async () => {
  const cases: [string, Uint8Array, RegExp][] = [
    ["a header of 2^63", safetensors("{}", 2n ** 63n), /header of 9223372036854775808 bytes/],
    ["a header of 2^64 - 1", safetensors("{}", 2n ** 64n - 1n), /header of 18446744073709551615 bytes/],
    ["60 MB of spaces", safetensors("{" + " ".repeat(6e7)), /header of 60000001 bytes: expected at most/],
    ["as many spaces as are taken", safetensors("{" + " ".repeat((32 << 20) - 1)), /expected a string, found its end/],
    ["lists in lists", safetensors(`{"a":${"[".repeat(1e6)}`), /expected \{/],
    ["objects in objects", safetensors('{"a":'.repeat(1e6)), /unknown key a|expected/],
    ["a million tensors", safetensors(many(400_000)), /more than 65536 tensors/],
    [
      "a million strings",
      safetensors(`{"__metadata__":{${'"k":"",'.repeat(1e6)}"l":""}}`),
      /more than 65536 metadata entries/,
    ],
    ["a name of 30 MB", safetensors(`{"${"n".repeat(30e6)}":5}`), /expected \{/],
    [
      "dimensions of 2^62",
      safetensors(`{"a":{"dtype":"F64","shape":[4611686018427387904,4],"data_offsets":[0,0]}}`),
      /./,
    ],
    [
      "offsets up to 2^63 - 1",
      safetensors(`{"a":{"dtype":"U8","shape":[9223372036854775807],"data_offsets":[0,9223372036854775807]}}`),
      /data_offsets 0 to 9223372036854775807/,
    ],
    [
      "offsets of 2^63",
      safetensors(`{"a":{"dtype":"U8","shape":[1],"data_offsets":[0,9223372036854775808]}}`),
      /a number below 2\^63/,
    ],
  ];
  for (const [what, bytes, pattern] of cases) await refusesFile(what, "x.safetensors", bytes, pattern);
});

test("a tensor named __proto__ is only a name", async () => {
  await withFolder(async (folder) => {
    const path = join(folder, "x.safetensors");
    const nano = new Uint8Array(readFileSync(join(root, "models/nano/DI8x8.safetensors")));
    const edited = editSafetensors(nano, (header) => {
      Object.defineProperty(header, "__proto__", {
        value: { dtype: "U8", shape: [0], data_offsets: [0, 0] },
        enumerable: true,
      });
    });
    writeFileSync(path, edited);
    await refuses("__proto__", () => Tokenizer.open(path), "FILE_TENSOR", /__proto__/);
  });
});

test("a sparse file of 1 TB takes no memory", async () => {
  await withFolder(async (folder) => {
    for (const name of ["x.safetensors", "x.jit"]) {
      const path = join(folder, name);
      writeFileSync(path, safetensors("{}"));
      truncateSync(path, 1e12);
      await refuses(name, () => Tokenizer.open(path), "FILE_FORMAT", /bytes after the last tensor|end record/);
      await refuses(name, () => loadTokens(path), "FILE_IO", /expected at most 2147483648 bytes, found 1000000000000/);
    }
    await refuses("a device", () => loadTokens("/dev/zero"), "FILE_IO", /expected a file or pipe, found "a device"/);
  });
});

// ---------------------------------------------------------------- token files
const npy = (header: string, data = new Uint8Array(2)) =>
  concat([
    Uint8Array.of(0x93, 0x4e, 0x55, 0x4d, 0x50, 0x59, 1, 0, header.length & 255, header.length >> 8),
    text(header),
    data,
  ]);
const packr = new Packr({ useRecords: false });
const about = {
  ...{
    format: "ctok-tokens-2",
    kind: "indices",
    model: "m",
    source: "s",
    spatial_factor: 8,
    quantizer: "fsq",
    levels: [8, 8, 8, 5, 5, 5],
  },
  ...{ height: 8, width: 8, top: 0, left: 0, ctok_version: "1" },
};
const one = { dtype: "uint16", shape: [1, 1, 1], data: new Uint8Array(2) };
const record = (changes: object) => new Uint8Array(packr.pack({ ...about, tensors: { indices: one }, ...changes }));
/** MessagePack of arrays in arrays, each of which claims so many elements. */
const nested = (depth: number, count: number) => {
  const out = new Uint8Array(depth * 5), view = new DataView(out.buffer);
  for (let i = 0; i < depth; i++) out[i * 5] = 0xdd, view.setUint32(i * 5 + 1, count);
  return concat([Uint8Array.of(0x81, 0xa1, 0x61), out]);
};

test("token files: shapes, types, names and nesting that lie", async () => {
  const shape = (text: string) => npy(`{'descr': '<u2', 'fortran_order': False, 'shape': ${text}, }`);
  const tensor = (changes: object) => record({ tensors: { indices: { ...one, ...changes } } });
  const metadata = JSON.stringify(
    Object.fromEntries(Object.entries(about).map(([key, value]) => [key, String(value)])),
  );
  const container = (tensors: string) => safetensors(`{"__metadata__":${metadata},${tensors}}`);
  const cases: [string, Uint8Array, RegExp][] = [
    ["npy of 10^18", shape("(1000000000, 1000000000)"), /expected 2000000000000000000 bytes/],
    ["npy of 2^64", shape("(4294967296, 4294967296)"), /expected \d+/],
    ["npy of 2^64 at once", shape("(18446744073709551616,)"), /NPY shape: expected positive whole numbers/],
    ["npy of a long number", shape(`(${"9".repeat(400)},)`), /NPY shape: expected positive whole numbers/],
    ["npy of many sizes", shape(`(${"1,".repeat(30_000)})`), /./],
    ["npy of objects", npy("{'descr': '|O', 'fortran_order': False, 'shape': (1,), }"), /NPY descr: expected one of/],
    [
      "npy of __proto__",
      npy("{'descr': '__proto__', 'fortran_order': False, 'shape': (1,), }"),
      /NPY descr: expected one of/,
    ],
    ["npy of a long header", npy(`{'descr': '${"x".repeat(65_000)}', }`), /NPY header: expected descr/],
    ["msgpack of 10^18", tensor({ shape: [1e9, 1e9] }), /expected 2000000000000000000 bytes/],
    ["msgpack of another type", tensor({ dtype: "__proto__" }), /dtype/],
    ["msgpack named __proto__", record({ tensors: JSON.parse('{"__proto__":5}') }), /./],
    ["msgpack of a key __proto__", record(JSON.parse('{"__proto__":{"kind":"latent"},"kind":"x"}')), /kind/],
    ["msgpack of 2^32 in 2^32", nested(3, 0xffffffff), /./],
    ["msgpack of lists of 30 million", nested(200_000, 30_000_000), /at most 4096 values, 4 deep/],
    ["msgpack of a million levels", nested(1_000_000, 1), /at most 4096 values, 4 deep/],
    ["msgpack of maps as keys", new Uint8Array(1e7).fill(0x81), /at most 4096 values, 4 deep/],
    [
      "msgpack of empty maps",
      concat([Uint8Array.of(0x81, 0xa1, 0x61, 0xdd, 0, 0x98, 0x96, 0x80), new Uint8Array(1e7).fill(0x80)]),
      /at most 4096/,
    ],
    ["msgpack of ten million levels", record({ levels: new Array(1e7).fill(2) }), /at most 4096 values/],
    ["msgpack of ten million sizes", tensor({ shape: new Array(1e7).fill(1) }), /at most 4096 values/],
    [
      "msgpack of a million windows",
      record({ frames: 1, temporal_factor: 4, windows: "1/1/0 ".repeat(1e6) }),
      /texts of at most 1048576/,
    ],
    [
      "msgpack of one window, a million times",
      record({ frames: 1, temporal_factor: 4, windows: "1/1/0*1000000" }),
      /indices: expected|windows/,
    ],
    [
      "msgpack of an extension",
      record({ x: new Date(0) }),
      /msgpack byte \d+: expected a map, list, text, bytes or number, found "type 0xd6"/,
    ],
    ["msgpack of nothing", record({ height: null }), /found "type 0xc0"/],
    ["msgpack with more behind it", concat([record({}), Uint8Array.of(0)]), /msgpack: expected one map of/],
    [
      "safetensors of 10^18",
      container(`"indices":{"dtype":"U16","shape":[1000000000,1000000000],"data_offsets":[0,2]}`),
      /./,
    ],
    [
      "safetensors named __proto__",
      container(`"__proto__":{"dtype":"U16","shape":[1,1,1],"data_offsets":[0,0]}`),
      /size of/,
    ],
    ["safetensors of lists in lists", safetensors(`{"a":${"[".repeat(5e5)}${"]".repeat(5e5)}}`), /at most 3 levels/],
    [
      "safetensors of a long list",
      safetensors(`{"a":{"dtype":"U8","data_offsets":[0,0],"shape":[${"1,".repeat(4e5)}1]}}`),
      /at most 8 positive whole numbers/,
    ],
    ["safetensors of many tensors", safetensors(many(15_000)), /tensor "t0"/],
    [
      "safetensors of as many strings",
      safetensors(`{"__metadata__":{${Array.from({ length: 8e4 }, (_, i) => `"${i}":5`)}}}`),
      /__metadata__/,
    ],
    ["safetensors of a name of 1 MB", safetensors(`{"${"n".repeat(1e6)}":5}`), /tensor "nnn/],
    ["safetensors of a longer header", safetensors("{" + " ".repeat(5e6)), /at most 1048576 bytes, found 5000001/],
  ];
  const fallback = { model: "m", source: "s", spatialFactor: 8, quantizer: fsq([8, 8, 8, 5, 5, 5]), version: "1" };
  for (const [what, bytes, pattern] of cases) {
    await refuses(what, () => decodeTokens(bytes, "x", fallback), "TOKEN_FILE", pattern);
  }
  assert.equal(({} as { kind?: string }).kind, undefined);
});
