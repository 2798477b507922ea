/**
 * The readers of token files against bytes that nobody can trust: whatever they are, decodeTokens gives tokens that encode
 * again, or throws TOKEN_FILE; never another error, never values outside the codebook. fast-check makes and shrinks them:
 * any bytes, good files changed, headers of the right form that lie. CTOK_FUZZ_SECONDS makes it go on (npm run test:long).
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
  Tensor,
  tokenFormats,
  TokenizerError,
  Tokens,
} from "mod.ts";

const origin = {
  model: "nano-DI8x8",
  source: "DI8x8.safetensors",
  spatialFactor: 8,
  levels: [8, 8, 8, 5, 5, 5],
  height: 13,
  width: 29,
  top: 1,
  left: 1,
  version: "0.1.0",
};
const seconds = Number(process.env.CTOK_FUZZ_SECONDS ?? 3);
let tried = 0;

function good(): Uint8Array[] {
  const indices = new Tensor("int32", [1, 2, 4], Int32Array.from({ length: 8 }, (_, i) => i * 7919), {
    kind: "indices",
    origin,
  });
  const codes = codesFromIndices(indices, origin.levels);
  const parts = { indices, codes: new Tensor("float32", codes.shape, codes.data, { kind: "codes", origin }) };
  const about = { ...origin, levels: [] };
  const latent = new Tensor("float32", [1, 2, 2, 4], new Float32Array(16), { kind: "latent", origin: about });
  const all = [new Tokens(origin, parts), new Tokens(about, { latent })];
  return all.flatMap((tokens) => tokenFormats.map((format) => encodeTokens(tokens, format)));
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
      levels: origin.levels,
      version: "0",
    });
  } catch (error) {
    assert.ok(error instanceof TokenizerError, `expected a TokenizerError, found ${error}`);
    assert.equal(error.code, "TOKEN_FILE", error.message);
    return true;
  }
  const { levels } = tokens.origin;
  if (levels.length > 0) {
    const size = codebookSize(levels);
    assert.ok(tokens.indices.data.every((i) => i >= 0 && i < size), "an index outside the codebook");
  }
  const again = decodeTokens(encodeTokens(tokens, "safetensors"), "again");
  assert.deepEqual(again.main.shape, tokens.main.shape);
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
    return Uint8Array.of(...bytes.subarray(0, from), ...piece, ...bytes.subarray(from + Math.min(count, piece.length + 1)));
  }, file)
);
/** A safetensors file whose header has the right form and any values. */
const lying = fc.tuple(
  fc.record({
    __metadata__: fc.dictionary(fc.constantFrom("format", "kind", "levels", "height", "windows", "frames"), fc.string()),
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

for (const [name, bytes] of Object.entries({ "any bytes": fc.uint8Array({ maxLength: 300 }), changed, lying })) {
  test(`token files, ${name}: tokens, or TOKEN_FILE`, () => {
    const time = seconds * 1000 / 3;
    fc.assert(fc.property(bytes, holds), { numRuns: 1e9, interruptAfterTimeLimit: time, markInterruptAsFailure: false });
  });
}

test("the inputs are counted", () => {
  assert.ok(tried > 1000, `expected many inputs, found ${tried}`);
  console.log(`${tried} token files tried`);
});
