import assert from "node:assert/strict";
import { Buffer } from "node:buffer";
import { mkdtemp, readdir, readFile, rm, writeFile } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { after, test } from "node:test";
import { Packr } from "msgpackr";
import { TokenizerError } from "../../src/errors.ts";
import { codesFromIndices } from "../../src/fsq.ts";
import { decodeSafetensors, encodeSafetensors } from "../../src/safetensors.ts";
import { type Origin, Tensor, type TokenKind, Tokens } from "../../src/tensor.ts";
import { decodeTokens, encodeTokens, loadTokens, saveTokens, type TokenFormat, tokenFormats } from "../../src/tokenfile.ts";

const root = await mkdtemp(join(tmpdir(), "ctok-tokenfile-"));
after(() => rm(root, { recursive: true }));

const origin: Origin = {
  model: "nano-DI8x8",
  source: "nano-DI8x8",
  precision: "bf16",
  sha256: "0123456789abcdef".repeat(4),
  spatialFactor: 8,
  levels: [8, 8, 8, 5, 5, 5],
  height: 13,
  width: 29,
  top: 1,
  left: 1,
  version: "0.1.0",
};
const continuousOrigin: Origin = { ...origin, model: "é-CI8x8", source: "é-CI8x8", levels: [] };
const whole = { height: 16, width: 32, top: 0, left: 0 };

function discrete(at: Origin = origin, withPreQuant = false, batch = 2): Tokens {
  const shape = [batch, 2, 4], size = at.levels.reduce((n, level) => n * level, 1);
  const data = Int32Array.from({ length: batch * 8 }, (_, i) => i === 0 ? size - 1 : (i * 7919) % size);
  const indices = new Tensor("int32", shape, data, { kind: "indices", origin: at });
  const codes = new Tensor("float32", [batch, at.levels.length, 2, 4], codesFromIndices(indices, at.levels).data, {
    kind: "codes",
    origin: at,
  });
  const preQuant = new Tensor("float32", codes.shape, codes.data.map((code, i) => code * 1.5 + i / 64), {
    kind: "preQuant",
    origin: at,
  });
  return new Tokens(at, withPreQuant ? { indices, codes, preQuant } : { indices, codes });
}

function continuous(at: Origin = continuousOrigin): Tokens {
  const data = Float32Array.from({ length: 3 * 8 }, (_, i) => Math.sin(i) * 3);
  return new Tokens(at, { latent: new Tensor("float32", [1, 3, 2, 4], data, { kind: "latent", origin: at }) });
}

function isSame(found: Tokens, wanted: Tokens): void {
  assert.deepEqual(found.origin, wanted.origin);
  assert.deepEqual(found.parts, wanted.parts);
  for (const kind of wanted.parts) {
    const { dtype, shape, data, kind: foundKind, origin: about } = found[kind as TokenKind];
    const want = wanted[kind];
    assert.deepEqual({ dtype, shape, data, kind: foundKind, about }, {
      dtype: want.dtype,
      shape: want.shape,
      data: want.data,
      kind,
      about: wanted.origin,
    });
  }
}

/** The safetensors form with its metadata or tensors changed. */
function changed(
  tokens: Tokens,
  change: (metadata: Record<string, string>, tensors: Record<string, Tensor>) => void,
): Uint8Array {
  const { metadata, tensors } = decodeSafetensors(encodeTokens(tokens, "safetensors"));
  const about = { ...metadata }, parts = Object.fromEntries(tensors) as Record<string, Tensor>;
  change(about, parts);
  return encodeSafetensors(parts, about);
}

const refuses = (bytes: Uint8Array, message: RegExp) => {
  assert.throws(() => decodeTokens(bytes, "a.bin"), (error) => {
    assert.ok(error instanceof TokenizerError, `expected a TokenizerError, found ${error}`);
    assert.equal(error.code, "TOKEN_FILE");
    assert.match(error.message, /^a\.bin: /);
    assert.match(error.message, message);
    return true;
  });
};

for (const format of ["safetensors", "msgpack"] as const) {
  test(`${format}: what was saved comes back`, () => {
    const large: Origin = { ...origin, levels: [512, 512] }; // more codes than uint16 counts
    for (const tokens of [discrete(), discrete(origin, true), discrete(large), continuous()]) {
      const bytes = encodeTokens(tokens, format);
      assert.equal(bytes.byteLength, bytes.buffer.byteLength);
      isSame(decodeTokens(bytes, "a"), tokens);
      const shifted = new Uint8Array(bytes.length + 1); // data at an odd address
      shifted.set(bytes, 1);
      isSame(decodeTokens(shifted.subarray(1), "a"), tokens);
      isSame(decodeTokens(Buffer.from(shifted.buffer, 1), "a"), tokens);
    }
  });
}

test("npy: the main tensor comes back with what the caller says of it", () => {
  const { height: _h, width: _w, top: _t, left: _l, ...model } = origin;
  isSame(decodeTokens(encodeTokens(discrete(), "npy"), "a", origin), discrete());
  isSame(decodeTokens(encodeTokens(discrete(), "npy"), "a", model), discrete({ ...origin, ...whole }));
  isSame(decodeTokens(encodeTokens(continuous(), "npy"), "a", continuousOrigin), continuous());
  refuses(encodeTokens(discrete(), "npy"), /expected a file that names its model, .* say which: --model/);
});

test("codes alone are enough to save", () => {
  const { codes } = discrete();
  isSame(decodeTokens(encodeTokens(new Tokens(origin, { codes }), "safetensors"), "a"), discrete());
});

test("the stored forms are what other tools expect", () => {
  const { tensors, metadata } = decodeSafetensors(encodeTokens(discrete(origin, true), "safetensors"));
  assert.deepEqual([...tensors].map(([name, t]) => `${name} ${t.dtype} ${t.shape}`).sort(), [
    "indices uint16 2,2,4",
    "preQuant float32 2,6,2,4",
  ]);
  assert.deepEqual(metadata, {
    format: "ctok-tokens-1",
    kind: "indices",
    model: "nano-DI8x8",
    source: "nano-DI8x8",
    precision: "bf16",
    sha256: "0123456789abcdef".repeat(4),
    spatial_factor: "8",
    levels: "8,8,8,5,5,5",
    height: "13",
    width: "29",
    top: "1",
    left: "1",
    ctok_version: "0.1.0",
  });
  const npy = encodeTokens(discrete(origin, false, 1), "npy");
  assert.equal(new TextDecoder("latin1").decode(npy.subarray(1, 6)), "NUMPY");
  assert.deepEqual([...npy.subarray(6, 10)], [1, 0, 118, 0]);
  const header = "{'descr': '<u2', 'fortran_order': False, 'shape': (1, 2, 4), }";
  assert.equal(new TextDecoder().decode(npy.subarray(10, 128)), header.padEnd(117) + "\n");
  assert.equal(npy.length, 128 + 16);
});

test("files: the extension chooses the form, the content tells it back", async () => {
  for (const format of tokenFormats) {
    await saveTokens(join(root, `a.${format}`), discrete());
    isSame(await loadTokens(join(root, `a.${format}`), origin), discrete());
    await saveTokens(join(root, "misleading.npy"), discrete(), { format });
    isSame(await loadTokens(join(root, "misleading.npy"), origin), discrete());
  }
  await saveTokens(join(root, "plain"), discrete());
  assert.deepEqual([...await readFile(join(root, "plain"))], [...encodeTokens(discrete(), "safetensors")]);
  assert.ok((await readdir(root)).every((name) => !name.endsWith(".tmp")));
  await assert.rejects(loadTokens(join(root, "none")), { code: "FILE_MISSING" });
  await writeFile(join(root, "empty"), "");
  await assert.rejects(loadTokens(join(root, "empty")), { code: "TOKEN_FILE", message: /empty: .* found an empty file/ });
});

test("tokens that contradict themselves are not saved", () => {
  const outside = new Tensor("int32", [1, 2, 4], Int32Array.of(0, 1, 2, 3, 4, 5, 6, 64000));
  assert.throws(() => encodeTokens(new Tokens(origin, { indices: outside }), "npy"), {
    code: "VALUE",
    detail: 7,
    message: "indices[0, 1, 3]: expected an index from 0 to 63999, found 64000",
  });
  assert.throws(() => encodeTokens(discrete({ ...origin, height: 16 }), "safetensors"), {
    code: "SHAPE",
    message: 'picture: expected to lie inside 16 by 32 pixels, found "16 by 29 at 1, 1"',
  });
  assert.throws(() => encodeTokens(discrete({ ...origin, top: NaN }), "msgpack"), { code: "SHAPE" });
  assert.throws(() => encodeTokens(discrete(), "gguf" as TokenFormat), {
    code: "ARGUMENT",
    message: /safetensors, npy, msgpack, found "gguf"/,
  });
});

test("what is no token file is refused", () => {
  refuses(new Uint8Array(0), /found an empty file/);
  refuses(new TextEncoder().encode("hello, this is text"), /expected a token file .* found 19 bytes that start with 68 65/);
  refuses(Uint8Array.of(0x80), /format: expected "ctok-tokens-1", found nothing/);
  refuses(
    new Uint8Array(new Packr({ useRecords: false }).pack({ format: "other" })),
    /format: expected "ctok-tokens-1", found "other"/,
  );
});

test("metadata that is missing or ill-typed is named", () => {
  for (
    const key of [
      "format",
      "kind",
      "model",
      "source",
      "spatial_factor",
      "levels",
      "height",
      "width",
      "top",
      "left",
      "ctok_version",
    ]
  ) {
    refuses(changed(discrete(), (m) => delete m[key]), new RegExp(`${key}: expected .*, found nothing`));
  }
  const numbers: [string, string, RegExp][] = [
    ["height", "0", /height: expected a positive whole number/],
    ["height", "-3", /height: expected a positive whole number, found "-3"/],
    ["width", "1e9", /width: expected a positive whole number/],
    ["top", "1.5", /top: expected a whole number/],
    ["left", "", /left: expected a whole number, found ""/],
    ["spatial_factor", "99999999999", /spatial_factor: /],
    ["levels", "8,,8", /levels: expected the levels, such as 8,8,8,5,5,5, found "8,,8"/],
    ["levels", "8,1", /levels: expected whole numbers of at least 2/],
    ["levels", "", /levels: expected those of the codebook/],
    ["levels", "8,8", /indices\[0, 0, 0\]: expected an index from 0 to 63, found 63999/],
    ["kind", "video", /kind: expected "indices" or "latent", found "video"/],
    ["kind", "latent", /expected a tensor named latent, found indices/],
    ["format", "ctok-tokens-2", /format: expected "ctok-tokens-1", found "ctok-tokens-2"/],
    ["height", "16", /picture: expected to lie inside 16 by 32 pixels, found "16 by 29 at 1, 1"/],
  ];
  for (const [key, value, message] of numbers) refuses(changed(discrete(), (m) => m[key] = value), message);
});

test("tensors of a wrong name, type or shape are named", () => {
  const real = (...shape: number[]) => new Tensor("float32", shape, new Float32Array(shape.reduce((a, b) => a * b)));
  refuses(changed(discrete(), (_, t) => delete t.indices), /expected a tensor named indices, found none/);
  refuses(changed(discrete(), (_, t) => t.extra = real(1)), /no tensors beside indices and preQuant, found "extra"/);
  refuses(
    changed(discrete(), (_, t) => t.indices = real(1, 2, 4)),
    /indices: expected whole numbers \[B, h, w\], found "float32 \[1, 2, 4\]"/,
  );
  refuses(changed(discrete(), (_, t) => t.indices = new Tensor("uint16", [8], new Uint16Array(8))), /indices: expected/);
  refuses(
    changed(discrete(origin, true), (_, t) => t.preQuant = real(1, 6, 2, 4)),
    /preQuant: expected floats \[2, 6, 2, 4\]/,
  );
  refuses(changed(continuous(), (_, t) => t.latent = real(3, 2, 4)), /latent: expected floats \[B, C, h, w\]/);
  refuses(changed(continuous(), (_, t) => t.preQuant = real(1)), /levels: expected those of the codebook/);
  refuses(changed(continuous(), (m) => m.levels = "8,8"), /levels: expected none, as the tokens are a continuous latent/);
});

test("a msgpack record of a wrong type or size is named", () => {
  const packr = new Packr({ useRecords: false });
  // deno-lint-ignore no-explicit-any -- a record to be damaged
  const damaged = (damage: (record: any) => void) => {
    const record = packr.unpack(encodeTokens(discrete(), "msgpack"));
    damage(record);
    return new Uint8Array(packr.pack(record));
  };
  refuses(damaged((r) => r.height = "x"), /height: expected a positive whole number, found "x"/);
  refuses(damaged((r) => r.levels = [8, "8"]), /levels: expected the levels/);
  refuses(damaged((r) => r.levels = [8, 2.5]), /levels: expected whole numbers/);
  refuses(damaged((r) => delete r.tensors), /tensors: /);
  refuses(
    damaged((r) => r.tensors.indices.dtype = "complex64"),
    /tensors\.indices\.dtype: expected one of uint8, .*, float64, found "complex64"/,
  );
  refuses(
    damaged((r) => r.tensors.indices.shape = [2, 2, 5]),
    /tensors\.indices: expected 40 bytes for uint16 \[2,2,5\], found 32/,
  );
  refuses(damaged((r) => r.tensors.indices.shape = [-2, -2, 4]), /tensors\.indices\.shape/);
  refuses(damaged((r) => r.tensors.indices.data = [1, 2]), /tensors\.indices\.data: expected bytes/);
});

test("an npy header that lies is refused", () => {
  const header = (from: string, to: string) => {
    const bytes = encodeTokens(discrete(), "npy");
    const text = new TextDecoder("latin1").decode(bytes.subarray(10, 128)).replace(from, to.padEnd(from.length));
    bytes.set(new TextEncoder().encode(text), 10);
    return bytes;
  };
  refuses(header("<u2", ">u2"), /NPY descr: expected one of \|u1, .*, <f8, found "'>u2'"/);
  refuses(header("False", "True "), /row-major/);
  refuses(header("(2, 2, 4)", "(2, 2, 5)"), /expected 40 bytes for uint16 \[2,2,5\], found 32/);
  refuses(header("(2, 2, 4)", "(0, 2, 4)"), /NPY shape: expected positive whole numbers, found "\(0, 2, 4\)"/);
  refuses(header("(2, 2, 4)", "None"), /NPY header: expected a dict/);
  const version2 = encodeTokens(discrete(), "npy");
  version2[6] = 2;
  refuses(version2, /NPY: expected version 1\.0, found "2\.0"/);
});

test("cut at every length, or with any byte changed: tokens or a TokenizerError, never anything else", () => {
  for (const format of tokenFormats) {
    const bytes = encodeTokens(discrete(origin, false, 1), format);
    for (let n = 0; n < bytes.length; n++) {
      assert.throws(
        () => decodeTokens(bytes.slice(0, n), "cut", origin),
        { name: "TokenizerError", code: "TOKEN_FILE" },
        `${format} cut at ${n}`,
      );
    }
    for (let i = 0; i < bytes.length; i++) {
      for (const flip of [0x01, 0x80, 0xff, bytes[i]! ^ 0xc1, bytes[i]! ^ 0x72, bytes[i]! ^ 0xdd]) {
        const changed = bytes.slice();
        changed[i]! ^= flip;
        try {
          decodeTokens(changed, "changed", origin);
        } catch (error) {
          assert.ok(
            error instanceof TokenizerError && error.code === "TOKEN_FILE",
            `${format} byte ${i} ^ ${flip}: ${error}`,
          );
        }
      }
    }
  }
});
