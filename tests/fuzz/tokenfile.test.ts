/**
 * The readers of token files against bytes that nobody can trust: whatever they are, decodeTokens gives tokens that
 * come back equal from every form (files, JSON, structuredClone), or throws TOKEN_FILE; never another error, never
 * values outside the codebook. And the writers against any origin: what they write is read, equal. fast-check makes and
 * shrinks them: any bytes, good files changed, headers of the right form that lie, origins. CTOK_FUZZ_SECONDS makes it
 * go on (npm run test:long).
 */
import assert from "node:assert/strict";
import process from "node:process";
import { test } from "node:test";
import fc from "fast-check";
import {
  codebookSize,
  codesFromIndices,
  decodeTokens,
  encodeTokens,
  type Origin,
  Tensor,
  tokenFormats,
  TokenizerError,
  Tokens,
} from "mod.ts";
import { pictureOrigin } from "../support.ts";

const { precision: _precision, sha256: _sha256, ...origin } = pictureOrigin;
const seconds = Number(process.env.CTOK_FUZZ_SECONDS);
/** So many inputs each, or as many as there is time for. */
const settings = seconds > 0
  ? { numRuns: 1e9, interruptAfterTimeLimit: seconds * 1000 / 4, markInterruptAsFailure: false }
  : { numRuns: 5000 };
let tried = 0;

function good(): Uint8Array[] {
  const indices = new Tensor("int32", [1, 2, 4], Int32Array.from({ length: 8 }, (_, i) => i * 7919), {
    kind: "indices",
    origin,
  });
  const codes = codesFromIndices(indices, origin.quantizer);
  const parts = { indices, codes: new Tensor("float32", codes.shape, codes.data, { kind: "codes", origin }) };
  const { quantizer: _quantizer, ...about } = origin;
  const latent = new Tensor("float32", [1, 2, 2, 4], new Float32Array(16), { kind: "latent", origin: about });
  const windows = [{ tokens: 3, frames: 9, before: 0 }, { tokens: 3, frames: 7, before: 1 }];
  const times = Array.from({ length: 16 }, (_, i) => i / 3),
    video = { temporalFactor: 4, frames: 16, fps: "3/1", times, windows };
  const clip = { indices: new Tensor("int32", [1, 6, 2, 4], new Int32Array(48)) };
  const all = [new Tokens(origin, parts), new Tokens(about, { latent }), new Tokens({ ...origin, video }, clip)];
  return all.flatMap((tokens) => tokenFormats.map((format) => encodeTokens(tokens, format)));
}

/** Fails unless tokens come back equal from all that carries them. */
function survives(tokens: Tokens): void {
  const store = { storePath: true }, { source: _source, ...origin } = tokens.origin;
  const copies = [
    decodeTokens(encodeTokens(tokens, "safetensors", store), "safetensors"),
    decodeTokens(encodeTokens(tokens, "msgpack", store), "msgpack"),
    Tokens.fromTransferable(structuredClone(tokens.toTransferable())),
    Tokens.fromJSON(JSON.parse(JSON.stringify(tokens))),
  ];
  for (const [i, copy] of copies.entries()) {
    const { source, ...about } = copy.origin;
    assert.deepEqual(about, i < 3 ? origin : JSON.parse(JSON.stringify(origin))); // which has no -0
    if (i < 3) assert.equal(source, tokens.origin.source);
    for (const kind of tokens.parts) assert.deepEqual(copy[kind].data, tokens[kind].data);
    assert.deepEqual(copy.main.shape, tokens.main.shape);
  }
}

/** True, or an assertion that fails. */
function holds(bytes: Uint8Array): boolean {
  tried++;
  let tokens: Tokens;
  try {
    tokens = decodeTokens(bytes, "input", {
      model: "m",
      source: "s",
      spatialFactor: 8,
      quantizer: origin.quantizer,
      version: "0",
    });
  } catch (error) {
    assert.ok(error instanceof TokenizerError, `expected a TokenizerError, found ${error}`);
    assert.equal(error.code, "TOKEN_FILE", error.message);
    return true;
  }
  const { quantizer } = tokens.origin;
  if (quantizer) {
    const size = codebookSize(quantizer);
    assert.ok(tokens.indices.data.every((i) => i >= 0 && i < size), "an index outside the codebook");
  }
  survives(tokens);
  return true;
}

const files = good();
/** A good file with pieces replaced, cut out or doubled. */
const changed = fc.tuple(
  fc.constantFrom(...files),
  fc.array(fc.tuple(fc.nat(), fc.nat(40), fc.uint8Array({ maxLength: 12 })), { minLength: 1, maxLength: 6 }),
).map(([file, edits]) =>
  edits.reduce((bytes, [at, count, piece]) => {
    const from = at % (bytes.length + 1);
    return Uint8Array.of(
      ...bytes.subarray(0, from),
      ...piece,
      ...bytes.subarray(from + Math.min(count, piece.length + 1)),
    );
  }, file)
);
/** A safetensors file whose header has the right form and any values. */
const lying = fc.tuple(
  fc.record({
    __metadata__: fc.dictionary(
      fc.constantFrom("format", "kind", "quantizer", "levels", "codebook_size", "height", "windows", "frames"),
      fc.string(),
    ),
    indices: fc.record({
      dtype: fc.constantFrom("U16", "I32", "F32", "U8", "F16"),
      shape: fc.array(fc.oneof(fc.nat(9), fc.integer(), fc.double()), { maxLength: 6 }),
      data_offsets: fc.tuple(fc.nat(64), fc.nat(64)),
    }),
  }),
  fc.uint8Array({ maxLength: 64 }),
).map(([header, data]) => {
  const json = new TextEncoder().encode(JSON.stringify(header));
  return Uint8Array.of(json.length & 255, json.length >> 8, 0, 0, 0, 0, 0, 0, ...json, ...data);
});

/** Mostly what fits, now and then what does not. */
const mostly = <T>(fits: fc.Arbitrary<T>, wild: fc.Arbitrary<unknown>) =>
  fc.oneof({ weight: 30, arbitrary: fits as fc.Arbitrary<unknown> }, { weight: 1, arbitrary: wild });
const within = (min: number, max: number) =>
  mostly(fc.integer({ min, max }), fc.oneof(fc.integer(), fc.double().map((n) => n + 0), fc.constant(2 ** 32)));
const moment = fc.double({ noNaN: true, noDefaultInfinity: true }).map((n) => n + 0); // -0 is written as 0
/** An origin of any values, more or less those of two frames of 2 x 4 tokens. */
const anyOrigin = fc.record({
  model: fc.string({ unit: "binary" }),
  source: fc.string({ unit: "binary" }),
  version: mostly(fc.string(), fc.constant(5)),
  quantizer: mostly(
    fc.constantFrom(
      ...[[8, 8, 8, 5, 5, 5], [300, 300], [2, 2]].map((levels) => ({ kind: "fsq", levels })),
      ...[{ kind: "lookup", size: 16384, channels: 8 }, { kind: "sign", channels: 18 }],
    ),
    fc.constantFrom(
      ...[[], [1], [2 ** 31], "8"].map((levels) => ({ kind: "fsq", levels })),
      ...[{ kind: "lookup", size: 0, channels: 8 }, { kind: "sign", channels: 32 }, { kind: "none" }, [8, 8], 5, null],
    ),
  ),
  spatialFactor: within(8, 9),
  height: within(1, 12),
  width: within(1, 28),
  top: within(0, 4),
  left: within(0, 4),
  precision: mostly(fc.constantFrom("f32", "bf16"), fc.constant("f16")),
  sha256: mostly(fc.constant("ab".repeat(32)), fc.constantFrom("AB".repeat(32), "", "x")),
  video: fc.record({
    temporalFactor: within(3, 8),
    frames: within(4, 4),
    fps: mostly(fc.tuple(fc.integer({ min: 1 }), fc.integer({ min: 1 })).map(([a, b]) => `${a}/${b}`), fc.string()),
    sampleAspect: mostly(fc.constantFrom("16:11", "1:1"), fc.constantFrom("0:1", "1", " 1:1")),
    windows: fc.constant([{ tokens: 2, frames: 4, before: 0 }]),
    ...{
      start: moment,
      times: fc.uniqueArray(moment, { minLength: 4, maxLength: 4 }).map((all) => all.toSorted((a, b) => a - b)),
    },
  }, { requiredKeys: ["temporalFactor", "frames"], noNullPrototype: true }),
}, {
  requiredKeys: ["model", "source", "version", "quantizer", "spatialFactor", "height", "width", "top", "left"],
  noNullPrototype: true,
});

test("token files, any origin: refused with a word, or written and read, equal", () => {
  let written = 0;
  const holds = (origin: unknown): boolean => {
    const isVideo = (origin as Origin).video !== undefined, shape = [1, ...(isVideo ? [2] : []), 2, 4];
    const tokens = new Tokens(origin as Origin, {
      indices: new Tensor("int32", shape, new Int32Array(isVideo ? 16 : 8)),
    });
    try {
      encodeTokens(tokens, "npy");
    } catch (error) {
      assert.ok(error instanceof TokenizerError && error.code !== "INTERNAL", String(error));
      assert.throws(() => tokens.toJSON(), { code: error.code });
      return true;
    }
    written++;
    survives(tokens);
    return true;
  };
  fc.assert(fc.property(anyOrigin, holds), settings);
  assert.ok(written > 100 || seconds > 0, `${written} written`);
  console.log(`${written} origins written and read`);
});

for (const [name, bytes] of Object.entries({ "any bytes": fc.uint8Array({ maxLength: 300 }), changed, lying })) {
  test(`token files, ${name}: tokens, or TOKEN_FILE`, () => {
    fc.assert(fc.property(bytes, holds), settings);
  });
}

test("the inputs are counted", () => {
  assert.ok(tried >= 15_000 || seconds > 0, `expected many inputs, found ${tried}`);
  console.log(`${tried} token files tried`);
});
