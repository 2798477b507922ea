import assert from "node:assert/strict";
import { Buffer } from "node:buffer";
import { mkdtemp, readdir, readFile, rm, writeFile } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { after, test } from "node:test";
import { Packr } from "msgpackr";
import { TokenizerError } from "../../src/errors.ts";
import { codebookSize, codesFromIndices, fsq, type Quantizer } from "../../src/tokens/quantizer.ts";
import { decodeSafetensors, encodeSafetensors } from "../../src/tokens/formats/safetensors.ts";
import { type Origin, Tensor, type TokenKind, TokenPart, Tokens } from "../../src/tokens/tensor.ts";
import { loadTokens, saveTokens } from "../../src/tokens/store.ts";
import { decodeTokens, encodeTokens, type TokenFormat, tokenFormats } from "../../src/tokens/tokenfile.ts";
import { carried, latentOrigin, pictureOrigin } from "../support.ts";

const root = await mkdtemp(join(tmpdir(), "ctok-tokenfile-"));
after(() => rm(root, { recursive: true }));

const origin: Origin = pictureOrigin;
const continuousOrigin: Origin = { ...latentOrigin, model: "é-CI8x8", source: "é-CI8x8" };
const whole = { height: 16, width: 32, top: 0, left: 0 };

function discrete(at: Origin = origin, withPreQuant = false, batch = 2): Tokens {
  const shape = [batch, 2, 4], quantizer = at.quantizer!, size = codebookSize(quantizer);
  const data = Int32Array.from({ length: batch * 8 }, (_, i) => i === 0 ? size - 1 : (i * 7919) % size);
  const indices = new Tensor("int32", shape, data, { kind: "indices", origin: at });
  const { shape: wide, data: values } = codesFromIndices(indices, quantizer);
  const codes = new Tensor("float32", wide, values, { kind: "codes", origin: at });
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
    const large: Origin = { ...origin, quantizer: fsq([512, 512]) }; // more codes than uint16 counts
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
  refuses(encodeTokens(discrete(), "npy"), /of a file that names its model, .* say which: --model/);
});

const lookup: Quantizer = { kind: "lookup", size: 16384, channels: 8 },
  sign: Quantizer = { kind: "sign", channels: 18 };

test("indices of a learned codebook and of signs come back, in every form", () => {
  const codebook = new Tensor("float32", [16384, 8], Float32Array.from({ length: 16384 * 8 }, (_, i) => Math.sin(i)));
  for (const quantizer of [lookup, sign]) {
    const at: Origin = { ...origin, quantizer }, size = codebookSize(quantizer);
    const data = Int32Array.from({ length: 8 }, (_, i) => size - 1 - i * 997);
    const tokens = new Tokens(at, { indices: new Tensor("int32", [1, 2, 4], data, { kind: "indices", origin: at }) });
    for (const format of tokenFormats) isSame(decodeTokens(encodeTokens(tokens, format), "a", at), tokens);
    isSame(Tokens.fromJSON(JSON.parse(JSON.stringify(tokens))), tokens);
    isSame(Tokens.fromTransferable(structuredClone(tokens.toTransferable())), tokens);
    const { metadata } = decodeSafetensors(encodeTokens(tokens, "safetensors"));
    const { quantizer: kind, levels, codebook_size, code_channels } = metadata;
    assert.deepEqual([kind, levels, codebook_size, code_channels], [
      ...[quantizer.kind, undefined, `${size}`],
      quantizer.kind === "lookup" ? "8" : "18",
    ]);
    if (quantizer.kind === "sign") {
      assert.deepEqual(tokens.codes.data, codesFromIndices(tokens.indices, sign).data);
      continue;
    }
    assert.throws(() => tokens.codes, { code: "UNSUPPORTED", message: /tokenizer\.codebook\(\)/ });
    const codes = codesFromIndices(tokens.indices, quantizer, codebook);
    assert.throws(() => encodeTokens(new Tokens(at, { codes }), "npy"), { code: "UNSUPPORTED" });
    isSame(decodeTokens(encodeTokens(new Tokens(at, { indices: tokens.indices, codes }), "msgpack"), "a"), tokens);
  }
});

test("keys that are not the quantizer's are named", () => {
  const at: Origin = { ...origin, quantizer: sign };
  const tokens = new Tokens(at, { indices: new Tensor("int32", [1, 2, 4], new Int32Array(8)) });
  const wrong: [tokens: Tokens, change: Record<string, string>, text: RegExp][] = [
    [tokens, { codebook_size: "16384" }, /codebook_size: expected 262144, as of 18 signs, found 16384/],
    [tokens, { code_channels: "32" }, /quantizer\.channels: expected a whole number from 1 to 31, found 32/],
    [tokens, { levels: "8,8" }, /levels: expected none beside quantizer sign, found \[8,8\]/],
    [tokens, { quantizer: "vq" }, /quantizer: expected "none", "fsq", "lookup" or "sign", found "vq"/],
    [tokens, { quantizer: "lookup", codebook_size: "1" }, /quantizer\.size: expected a whole number from 2/],
    [discrete(), { codebook_size: "64000" }, /codebook_size: expected none beside quantizer fsq/],
    [discrete(), { quantizer: "sign" }, /levels: expected none beside quantizer sign/],
    [continuous(), { quantizer: "fsq" }, /levels: expected it beside quantizer fsq, found nothing/],
    [continuous(), { levels: "" }, /levels: expected none beside quantizer none/],
  ];
  for (const [tokens, change, text] of wrong) refuses(changed(tokens, (m) => Object.assign(m, change)), text);
});

test("files that ctok wrote before quantizers had names are read, in every form", async () => {
  const about = { source: "nano-DV4x8x8", precision: "bf16", sha256: origin.sha256!, spatialFactor: 8 } as const;
  const place = { height: 13, width: 29, top: 1, left: 1, version: "0.1.0" };
  const video = { temporalFactor: 4, frames: 18, fps: "30000/1001", start: 0.6, sampleAspect: "16:11" };
  const windows = [{ tokens: 5, frames: 17, before: 0 }, { tokens: 1, frames: 1, before: 0 }];
  const clipOrigin: Origin = {
    ...{ ...about, ...place, model: "nano-DV4x8x8", quantizer: fsq([8, 8, 8, 5, 5, 5]), video: { ...video, windows } },
  };
  const latentOrigin: Origin = { ...about, ...place, model: "CI8x8", source: "CI8x8" };
  const indices = Int32Array.from({ length: 48 }, (_, i) => i * 1361);
  const latent = Float32Array.from({ length: 24 }, (_, i) => i / 8 - 1);
  const wanted = {
    discrete: new Tokens(clipOrigin, {
      indices: new Tensor("int32", [1, 6, 2, 4], indices, { kind: "indices", origin: clipOrigin }),
    }),
    continuous: new Tokens(latentOrigin, {
      latent: new Tensor("float32", [1, 3, 2, 4], latent, { kind: "latent", origin: latentOrigin }),
    }),
  };
  for (const [name, tokens] of Object.entries(wanted)) {
    for (const format of tokenFormats) {
      isSame(await loadTokens(join(carried, "tokens1", `${name}.${format}`), tokens.origin), tokens);
    }
    const json = JSON.parse(await readFile(join(carried, "tokens1", `${name}.json`), "utf8"));
    assert.equal(json.format, "ctok-tokens-1");
    isSame(Tokens.fromJSON(json), tokens);
  }
  const older = (change: Record<string, string>) => {
    return changed(discrete(), (m) => {
      delete m.quantizer;
      Object.assign(m, { format: "ctok-tokens-1" }, change);
    });
  };
  isSame(decodeTokens(older({}), "a"), discrete());
  refuses(older({ code_channels: "6" }), /code_channels: expected none beside quantizer fsq, found 6/);
  refuses(older({ levels: "" }), /quantizer: expected that which the indices count in, found "none"/);
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
    format: "ctok-tokens-2",
    kind: "indices",
    model: "nano-DI8x8",
    source: "nano-DI8x8",
    precision: "bf16",
    sha256: "0123456789abcdef".repeat(4),
    spatial_factor: "8",
    quantizer: "fsq",
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
  await assert.rejects(loadTokens(join(root, "empty")), {
    code: "TOKEN_FILE",
    message: /empty: .* found an empty file/,
  });
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
    message: 'picture: expected to lie inside 32x16 pixels, found "29x16 at 1, 1"',
  });
  assert.throws(() => encodeTokens(discrete({ ...origin, top: NaN }), "msgpack"), { code: "SHAPE" });
  assert.throws(() => encodeTokens(discrete(), "gguf" as TokenFormat), {
    code: "ARGUMENT",
    message: /safetensors, npy, msgpack, found "gguf"/,
  });
});

test("what is no token file is refused", () => {
  refuses(new Uint8Array(0), /found an empty file/);
  refuses(
    new TextEncoder().encode("hello, this is text"),
    /expected a token file .* found 19 bytes that start with 68 65/,
  );
  refuses(Uint8Array.of(0x80), /format: expected "ctok-tokens-2", found nothing/);
  refuses(
    new Uint8Array(new Packr({ useRecords: false }).pack({ format: "other" })),
    /format: expected "ctok-tokens-2", found "other"/,
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
      "quantizer",
      "levels",
      "height",
      "width",
      "top",
      "left",
      "ctok_version",
    ]
  ) {
    refuses(
      changed(discrete(), (m) => delete m[key]),
      new RegExp(`${key}: expected .*, found (nothing|a bare safetensors array)`),
    );
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
    ["levels", "", /levels: expected whole numbers/],
    ["levels", "8,8", /indices\[0, 0, 0\]: expected an index from 0 to 63, found 63999/],
    ["kind", "video", /kind: expected "indices" or "latent", found "video"/],
    ["kind", "latent", /expected a tensor named latent, found indices/],
    ["format", "ctok-tokens-3", /format: expected "ctok-tokens-2", found "ctok-tokens-3"/],
    ["height", "16", /picture: expected to lie inside 32x16 pixels, found "29x16 at 1, 1"/],
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
  refuses(
    changed(discrete(), (_, t) => t.indices = new Tensor("uint16", [8], new Uint16Array(8))),
    /indices: expected/,
  );
  refuses(
    changed(discrete(origin, true), (_, t) => t.preQuant = real(1, 6, 2, 4)),
    /preQuant: expected floats \[2, 6, 2, 4\]/,
  );
  refuses(changed(continuous(), (_, t) => t.latent = real(3, 2, 4)), /latent: expected floats \[B, C, h, w\]/);
  refuses(changed(continuous(), (_, t) => t.preQuant = real(1)), /quantizer: expected that which the indices count in/);
  refuses(
    changed(continuous(), (m) => Object.assign(m, { quantizer: "fsq", levels: "8,8" })),
    /quantizer: expected none, as the tokens are a continuous latent/,
  );
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
  refuses(damaged((r) => delete r.tensors), /expected a tensor named indices, found none/);
  refuses(damaged((r) => r.tensors = [1]), /tensors: expected a map/);
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

const clipOrigin: Origin = {
  ...origin,
  model: "nano-DV4x8x8",
  source: "nano-DV4x8x8",
  video: {
    temporalFactor: 4,
    frames: 18,
    fps: "30000/1001",
    start: 0.6,
    sampleAspect: "16:11",
    windows: [{ tokens: 5, frames: 17, before: 0 }, { tokens: 1, frames: 1, before: 0 }],
  },
};
function clip(video: Partial<Origin["video"]> = {}, { start: _start, ...own } = clipOrigin.video!): Tokens {
  const about = "times" in video ? own : clipOrigin.video!, at = { ...clipOrigin, video: { ...about, ...video } };
  const data = Int32Array.from({ length: 48 }, (_, i) => i * 997);
  return new Tokens(at, { indices: new Tensor("int32", [1, 6, 2, 4], data, { kind: "indices", origin: at }) });
}
const times = Array.from({ length: 18 }, (_, i) => 1e5 + i / 29.97 + (i % 3) * 1e-6);

for (const format of ["safetensors", "msgpack"] as const) {
  test(`${format}: a video's rate, start, times, pixels' shape and windows come back, to the last bit`, () => {
    for (
      const tokens of [clip(), clip({ times }), clip({ start: -1e-9 }), clip({ start: 1e21 }), clip({ fps: "25" })]
    ) {
      isSame(decodeTokens(encodeTokens(tokens, format), "a"), tokens);
    }
    const many = { ...clipOrigin, height: 8, width: 8, top: 0, left: 0 }, count = 1 << 20;
    const windows = Array.from({ length: count / 2 }, () => ({ tokens: 2, frames: 2, before: 1 }));
    const video = {
      temporalFactor: 4,
      frames: count,
      times: Array.from({ length: count }, (_, i) => i / 1e3),
      windows,
    };
    const at = { ...many, video };
    const indices = new Tensor("int32", [1, count, 1, 1], new Int32Array(count), { kind: "indices", origin: at });
    const bytes = encodeTokens(new Tokens(at, { indices }), format);
    assert.ok(bytes.length < 10 * count + 2000, `${bytes.length} bytes: 2 a token, 8 a time`);
    const { origin: { video: back } } = decodeTokens(bytes, "a");
    assert.deepEqual([back!.times!.length, back!.times!.at(-1), back!.windows!.length], [
      count,
      (count - 1) / 1e3,
      count / 2,
    ]);
  });

  test(`${format}: a file of an older version is read`, () => {
    const { precision: _p, sha256: _s, ...older } = origin;
    isSame(decodeTokens(encodeTokens(discrete(older), format), "a"), discrete(older));
  });

  test(`${format}: the model is named, its path is kept only when asked for`, () => {
    const path = "/home/someone/nano é/DI8x8.safetensors", tokens = discrete({ ...origin, source: path });
    const bytes = encodeTokens(tokens, format);
    assert.ok(!new TextDecoder().decode(bytes).includes("someone"));
    isSame(decodeTokens(bytes, "a"), discrete());
    isSame(decodeTokens(encodeTokens(tokens, format, { storePath: true }), "a"), tokens);
  });
}

test("windows in runs, and one by one as older versions wrote them, are read", () => {
  const windows = Array.from({ length: 3 }, () => ({ tokens: 2, frames: 5, before: 0 }));
  const tokens = clip({ frames: 15, windows });
  const metadata = (windows: string) => (m: Record<string, string>) => m.windows = windows;
  isSame(decodeTokens(changed(tokens, metadata("2/5/0 2/5/0 2/5/0")), "a"), tokens);
  isSame(decodeTokens(changed(tokens, metadata("2/5/0*2 2/5/0")), "a"), tokens);
  for (const wrong of ["2/5/0*0", "2/5/0*", "2/5/0*2*2", "2/5/0 ", "", "2/5", "-2/5/0", "0/5/0"]) {
    refuses(
      changed(tokens, metadata(wrong)),
      /windows: expected ("tokens\/frames\/before" for each window|token frames in each)/,
    );
  }
  refuses(
    changed(tokens, metadata("2/5/0*9999999999")),
    /windows: expected 6 token frames in all, as the tensor has, found 1999/,
  );
  refuses(changed(tokens, metadata("3/5/2*2")), /windows: expected 15 frames in all, found 10/);
});

test("saveTokens keeps a path when asked to, and has what it saves before it returns", async () => {
  const at = { ...origin, source: "/models/x.safetensors" },
    tokens = discrete(at),
    path = join(root, "own.safetensors");
  const saved = saveTokens(path, tokens, { storePath: true });
  tokens.indices.data.fill(1);
  await saved;
  isSame(await loadTokens(path), discrete(at));
});

test("rates, times and ratios that cannot be are neither written nor read", () => {
  const wrong: [video: Partial<Origin["video"]>, text: RegExp][] = [
    ...[
      "abc",
      "-1/1",
      "1/0",
      "0/1",
      "0/0",
      "99999999999/1",
      "1/2147483648",
      "1e3",
      "25/1/7",
      " 25 / 1 ",
      "25:1",
      "",
      "\n-y\n",
      "Infinity",
    ]
      .map((fps) =>
        [{ fps }, /fps: expected a fraction such as 30000\/1001, found "/] as [Partial<Origin["video"]>, RegExp]
      ),
    [{ sampleAspect: "16/11" }, /sampleAspect: expected a ratio such as 16:11, found "16\/11"/],
    [{ sampleAspect: "0:1" }, /sampleAspect: /],
    [{ times: times.slice(1) }, /times: expected those of 18 frames, found 17/],
    [{ times: times.toReversed() }, /times\[1\]: expected seconds after/],
    [{ times: times.with(4, NaN) }, /times\[4\]: expected seconds after/],
    [{ times: times.with(0, -Infinity) }, /times\[0\]: expected seconds, found -Infinity/],
    [{ times: times.with(5, times[4]!) }, /times\[5\]: expected seconds after/],
  ];
  for (const [video, message] of wrong) {
    for (const format of tokenFormats) {
      assert.throws(() => encodeTokens(clip(video), format), { code: "SHAPE", message });
    }
  }
  assert.throws(() => encodeTokens(clip({ start: NaN }), "msgpack"), {
    code: "SHAPE",
    message: /start: expected seconds, found NaN/,
  });
  for (const fps of ["abc", "1/0", "1e3", "25/1/7", " 25 / 1 ", "99999999999/1"]) {
    refuses(changed(clip(), (m) => m.fps = fps), /fps: expected a fraction/);
  }
  refuses(changed(clip(), (m) => m.sample_aspect = "1"), /sampleAspect: /);
  for (const start of ["x", "NaN", "Infinity", "0x10", " 1", "1e999"]) {
    refuses(changed(clip(), (m) => m.start = start), /start: /);
  }
  refuses(changed(clip({ times }), (m) => m.start = "1"), /start: expected none beside times/);
  const reals = new Tensor("float32", [18], new Float32Array(18));
  refuses(changed(clip(), (_, t) => t.times = reals), /times: expected "?float64"?, found "float32"/);
  refuses(changed(discrete(), (_, t) => t.times = reals), /no tensors beside indices and preQuant, found "times"/);
});

test("what would not be read is not written", () => {
  const count = 1 << 18,
    windows = Array.from({ length: count }, (_, i) => ({ tokens: 2, frames: 2 + i % 2, before: 0 }));
  const at = {
    ...clipOrigin,
    height: 8,
    width: 8,
    top: 0,
    left: 0,
    video: { temporalFactor: 4, frames: count * 2.5, windows },
  };
  const tokens = new Tokens(at, {
    indices: new Tensor("int32", [1, 2 * count, 1, 1], new Int32Array(2 * count), { kind: "indices", origin: at }),
  });
  for (const format of ["safetensors", "msgpack"] as const) {
    assert.throws(() => encodeTokens(tokens, format), {
      code: "UNSUPPORTED",
      message: /at most 1048576( bytes)?, found \d{7}$/,
    });
  }
  const loud = "m".repeat(1 << 20);
  assert.throws(() => encodeTokens(discrete({ ...origin, model: loud }), "safetensors"), { code: "UNSUPPORTED" });
  for (const model of ["a\ud800", 5 as never, undefined as never]) {
    assert.throws(() => encodeTokens(discrete({ ...origin, model }), "msgpack"), {
      code: "SHAPE",
      message: /model: expected a text/,
    });
  }
  for (const [key, value] of Object.entries({ height: 13.5, width: 2 ** 32, spatialFactor: 0, left: -1 })) {
    assert.throws(() => encodeTokens(discrete({ ...origin, [key]: value }), "safetensors"), {
      code: "SHAPE",
      message: new RegExp(`${key}: expected a (positive )?whole number`),
    });
  }
  const { indices } = clip(), video = { temporalFactor: 4, frames: 8 }, later = { ...clipOrigin, video };
  const part = new TokenPart(later, { indices: new Tensor("int32", [1, 2, 2, 4], indices.data.slice(0, 16)) }, 9, 8);
  assert.throws(() => encodeTokens(part, "msgpack"), {
    code: "SHAPE",
    message: /tokens: expected a seamless sequence from its start on, .*, found "a part from frame 9 on"/,
  });
});

test("a key that stands twice is refused by every reader", () => {
  const header = (edit: (json: string) => string) => {
    const bytes = encodeTokens(discrete(), "safetensors"),
      length = Number(new DataView(bytes.buffer).getBigUint64(0, true));
    const json = new TextEncoder().encode(edit(new TextDecoder().decode(bytes.subarray(8, 8 + length)).trimEnd()));
    const out = new Uint8Array(8 + json.length + bytes.length - 8 - length);
    new DataView(out.buffer).setBigUint64(0, BigInt(json.length), true);
    out.set(json, 8);
    out.set(bytes.subarray(8 + length), 8 + json.length);
    return out;
  };
  isSame(decodeTokens(header((json) => json), "a"), discrete());
  const entry = '{"dtype":"U16","shape":[2,2,4],"data_offsets":[0,32]}';
  for (
    const [key, edit] of [
      ["indices", (json) => json.replace('"indices":', `"indices":${entry},"indices":`)],
      ["indices", (json) => json.replace('"indices":', `"\\u0069ndices" : ${entry}\n,"indices":`)],
      ["source", (json) => json.replace('"source":', '"source":"/harmless","source":')],
      ["__metadata__", (json) => json.replace('"__metadata__":', '"__metadata__":{},"__metadata__":')],
      ["dtype", (json) => json.replace('"dtype":', '"dtype":"I32","dtype":')],
      ['a\\"b', (json) => json.replace('"source":', '"a\\"b":"","a\\"b":"","source":')],
    ] as [string, (json: string) => string][]
  ) {
    refuses(
      header(edit),
      new RegExp(`safetensors header: expected each key once, found "${key.replaceAll("\\", "\\\\\\\\?")}`),
    );
  }
  isSame(
    decodeTokens(
      header((json) => json.replace('"source":', '"indices":"dtype","}{\\"source\\":\\"":"","source":')),
      "a",
    ),
    discrete(),
  );

  const packr = new Packr({ useRecords: false }), ctok = encodeTokens(discrete(), "msgpack");
  const pairs = Object.entries(packr.unpack(ctok)).map(([key, value]) =>
    [packr.pack(key), packr.pack(value)].map((b) => new Uint8Array(b))
  );
  const map = (pairs: Uint8Array[][]) => Uint8Array.of(0xde, 0, pairs.length, ...pairs.flat().flatMap((b) => [...b]));
  isSame(decodeTokens(map(pairs), "a"), discrete());
  for (const [key, value] of pairs) {
    refuses(map([...pairs, [key!, value!]]), /msgpack byte \d+: expected each key once, found "/);
  }
  const long = Uint8Array.of(0xd9, 6, ...new TextEncoder().encode("format")); // the same text in other bytes
  refuses(map([...pairs, [long, pairs[0]![1]!]]), /each key once, found "format"/);

  const npy = (dict: string) => {
    const text = new TextEncoder().encode(dict), bytes = encodeTokens(discrete(), "npy");
    return Uint8Array.of(...bytes.subarray(0, 8), text.length & 255, text.length >> 8, ...text, ...bytes.subarray(128));
  };
  const dict = "'descr': '<u2', 'fortran_order': False, 'shape': (2, 2, 4)";
  for (const good of [`{${dict}}`, `{${dict}, }`, ` {  ${dict}  } `]) {
    isSame(decodeTokens(npy(good), "a", origin), discrete());
  }
  for (
    const [text, message] of [
      [`{'descr': '<u2', ${dict}}`, /NPY header: expected each key once, found "descr"/],
      [`{'descr': '>u2', ${dict}}`, /each key once, found "descr"/],
      [`{${dict}, 'fortran_order': True}`, /each key once, found "fortran_order"/],
      [`{${dict}, 'x': 'y'}`, /NPY header: expected descr, fortran_order and shape/],
      [`{${dict}`, /NPY header: expected a dict/],
      [`{${dict}, 'x': "'descr': '<i4'"}`, /NPY header: expected a dict/],
      [`{${dict}} `.replace("'<u2'", "'|O'"), /NPY descr: expected one of/],
      [`{${dict}}`.replace("False", "True"), /NPY array: expected row-major order/],
    ] as const
  ) refuses(npy(text), message);
});
