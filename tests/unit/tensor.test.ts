/** Tokens as JSON and through structuredClone and a real Worker: equal again, and nothing taken that is no tokens. */
import assert from "node:assert/strict";
import { test } from "node:test";
import { inspect } from "node:util";
import {
  type Origin,
  Tensor,
  type TokenKind,
  TokenPart,
  Tokens,
  type TransferableTensor,
  type TransferableTokens,
} from "../../src/tokens/tensor.ts";
import { fsq } from "../../src/tokens/quantizer.ts";
import { latentOrigin, pictureOrigin, rejects } from "../support.ts";

const origin: Origin = { ...pictureOrigin, source: "/home/someone/nano é/DI8x8.safetensors" };
const floats = (kind: TokenKind, shape: number[], at: Origin) => {
  const data = Float32Array.from({ length: shape.reduce((a, b) => a * b) }, (_, i) => i === 3 ? -0 : Math.sin(i) / 3);
  return new Tensor("float32", shape, data, { kind, origin: at });
};

/** One of each kind; their memory lies inside larger buffers, as that of `at(n)` does. */
function samples(): Record<string, Tokens> {
  const indices = (at: Origin, shape: number[], size = 64000) => {
    const data = Int32Array.from({ length: shape.reduce((a, b) => a * b) + 5 }, (_, i) => (size - 1 + i * 7919) % size)
      .subarray(5);
    return new Tensor("int32", shape, data, { kind: "indices", origin: at });
  };
  const large = { ...origin, quantizer: fsq([300, 300]) }, continuous = latentOrigin;
  const windows = [{ tokens: 3, frames: 9, before: 0 }, { tokens: 3, frames: 8, before: 0 }];
  const video = { temporalFactor: 4, frames: 17, times: Array.from({ length: 17 }, (_, i) => i / 3), windows };
  const clip = { ...origin, video },
    later = { ...origin, video: { temporalFactor: 4, frames: 8, fps: "25/1", start: 0.6 } };
  return {
    discrete: new Tokens(origin, {
      indices: indices(origin, [2, 2, 4]),
      preQuant: floats("preQuant", [2, 6, 2, 4], origin),
    }),
    large: new Tokens(large, { indices: indices(large, [1, 2, 4], 90000) }),
    continuous: new Tokens(continuous, { latent: floats("latent", [1, 16, 2, 4], continuous) }),
    clip: new Tokens(clip, { indices: indices(clip, [1, 6, 2, 4]) }),
    part: new TokenPart(later, { indices: indices(later, [1, 2, 2, 4]) }, 9, 8),
  };
}

function isSame(found: Tokens, wanted: Tokens, about: Origin, name: string): void {
  assert.deepEqual(found.origin, about, name);
  assert.deepEqual(found.parts, wanted.parts, name);
  for (const kind of wanted.parts) {
    const { dtype, shape, data, origin: at } = found[kind], want = wanted[kind];
    assert.deepEqual({ dtype, shape, data, at }, {
      dtype: want.dtype,
      shape: want.shape,
      data: want.data.slice(),
      at: about,
    }, name);
  }
  assert.equal(found.constructor, wanted.constructor);
  if (wanted instanceof TokenPart) {
    const { firstFrame, numFrames } = found as TokenPart;
    assert.deepEqual([firstFrame, numFrames], [wanted.firstFrame, wanted.numFrames]);
  }
}

test("JSON.stringify and Tokens.fromJSON give the tokens back, without the path of the model", () => {
  for (const [name, tokens] of Object.entries(samples())) {
    const text = JSON.stringify({ tokens });
    assert.ok(!text.includes("someone"), name);
    isSame(Tokens.fromJSON(JSON.parse(text).tokens), tokens, { ...tokens.origin, source: tokens.origin.model }, name);
  }
  const { format, tensors } = JSON.parse(JSON.stringify(samples().discrete));
  assert.deepEqual([format, tensors.indices.dtype, tensors.indices.shape], ["ctok-tokens-2", "uint16", [2, 2, 4]]);
  const bytes = Uint8Array.from(atob(tensors.indices.data), (c) => c.charCodeAt(0));
  assert.deepEqual([...new Uint16Array(bytes.buffer)], [...samples().discrete!.indices.data]);
});

test("structuredClone of toTransferable, copied and transferred, leaves the tokens as they were", () => {
  for (const [name, tokens] of Object.entries(samples())) {
    const copied = structuredClone(tokens.toTransferable()), message = tokens.toTransferable();
    const transfer = Object.values(message.tensors).map((t) => t.data.buffer);
    isSame(Tokens.fromTransferable(copied), tokens, tokens.origin, name);
    isSame(Tokens.fromTransferable(structuredClone(message, { transfer })), tokens, tokens.origin, name);
    isSame(tokens, samples()[name]!, tokens.origin, `${name} itself`);
  }
  const message = samples().discrete!.toTransferable(), tokens = Tokens.fromTransferable(message);
  (message.tensors.indices!.data as Uint16Array).fill(0);
  assert.notEqual(tokens.indices.data[0], 0, "memory of its own");
});

test("one of a batch is stored as the batch is, with its place in the video where it is a part", () => {
  for (const [name, tokens] of Object.entries(samples())) {
    const one = tokens.at(0), { origin } = tokens;
    isSame(Tokens.fromTransferable(one.toTransferable()), one, origin, name);
    isSame(Tokens.fromJSON(one.toJSON()), one, { ...origin, source: origin.model }, name);
    assert.deepEqual(one.main.data, tokens.main.at(0).data, name);
  }
  const { part } = samples() as { part: TokenPart }, one = part.at(0);
  assert.deepEqual([one.constructor, one.firstFrame, one.numFrames], [TokenPart, part.firstFrame, part.numFrames]);
});

test("to a Worker and back", async () => {
  const worker = new Worker(new URL("./tensor_worker.ts", import.meta.url).href, { type: "module" });
  try {
    for (const [name, tokens] of Object.entries(samples())) {
      const message = tokens.toTransferable();
      const { promise, resolve, reject } = Promise.withResolvers<
        { back: TransferableTokens; frames: number[]; codes: number[] }
      >();
      worker.onmessage = ({ data }) => resolve(data);
      worker.onerror = (event) => reject(event.error ?? new Error(event.message));
      worker.postMessage(message, Object.values(message.tensors).map((t) => t.data.buffer));
      const { back, frames, codes } = await promise;
      isSame(Tokens.fromTransferable(back), tokens, tokens.origin, name);
      assert.deepEqual(frames, tokens instanceof TokenPart ? [9, 8] : []);
      assert.deepEqual(codes, tokens.isDiscrete ? Array.from(tokens.codes.data) : []);
    }
  } finally {
    worker.terminate();
  }
});

test("anything else is refused, each by name", async () => {
  const tokens = samples().part!;
  // deno-lint-ignore no-explicit-any -- plain objects to be damaged
  const damaged = (damage: (json: any) => void) => {
    const json = JSON.parse(JSON.stringify(tokens));
    damage(json);
    return json;
  };
  // deno-lint-ignore no-explicit-any -- as above
  const json: [damage: (json: any) => void, text: RegExp][] = [
    [(j) => j.format = "ctok-tokens-3", /tokens: format: expected "?ctok-tokens-2"?, found "ctok-tokens-3"/],
    [(j) => delete j.origin, /value: expected { origin, tensors }/],
    [(j) => j.tensors.codes = j.tensors.indices, /tensors: expected indices, latent or preQuant, found "codes"/],
    [(j) => j.tensors.indices.data += "!", /tensors\.indices\.data: expected base64/],
    [(j) => j.tensors.indices.data = 5, /tensors\.indices\.data: expected base64/],
    [(j) => j.tensors.indices.data = "AAAA", /tensors\.indices: expected 32 bytes for uint16 \[1,2,2,4\], found 3/],
    [(j) => j.tensors.indices.shape = [1, 2, 2, -4], /tensors\.indices\.shape/],
    [(j) => j.tensors.indices.dtype = "__proto__", /tensors\.indices\.dtype: expected one of uint8, /],
    [(j) => j.tensors.indices = null, /tensors\.indices/],
    [(j) => j.origin.quantizer = fsq([8, 8]), /indices\[0, 0, 0, 0\]: expected an index from 0 to 63, found/],
    [(j) => j.origin.quantizer.levels = "8,8", /levels: expected whole numbers/],
    [(j) => j.origin.quantizer = [8, 8], /quantizer: expected an object whose kind is .*fsq\(\[8,8\]\)/],
    [(j) => j.origin.quantizer = { kind: "lookup", size: 16 }, /quantizer\.channels: expected a whole number/],
    [
      (j) => j.origin.quantizer = { kind: "sign", channels: 32 },
      /quantizer\.channels: expected a whole number from 1 to 31/,
    ],
    [(j) => j.origin.levels = [8, 8], /levels: expected none: they stand in quantizer/],
    [(j) => j.origin.height = 63.5, /height: expected a positive whole number, found 63\.5/],
    [(j) => j.origin.top = null, /top: expected a whole number, found null/],
    [(j) => j.origin.sha256 = "A1", /sha256: expected 64 hexadecimal digits/],
    [(j) => j.origin.precision = "f16", /precision: expected f32 or bf16/],
    [(j) => j.origin.model = "\ud800", /model: expected a text of whole characters/],
    [(j) => j.origin.video = 5, /video/],
    [(j) => j.origin.video.frames = 9, /firstFrame, numFrames/],
    [(j) => j.origin.video.fps = "1/0", /fps: expected a fraction/],
    [(j) => j.origin.video.windows = {}, /windows: expected a list/],
    [
      (j) => j.origin.video.windows = [null],
      /windows: expected whole numbers of tokens and frames, found "undefined\/undefined\/undefined"/,
    ],
    [(j) => j.origin.video.windows = [], /windows: expected 2 token frames in all/],
    [(j) => j.origin.video.times = [0], /start: expected none beside times/],
    [(j) => j.firstFrame = -1, /firstFrame/],
    [(j) => j.firstFrame = 0, /windows: expected frames that 2 token frames hold, found "0 \+ 8"/],
  ];
  for (const [damage, text] of json) await rejects(() => Tokens.fromJSON(damaged(damage)), "TOKEN_FILE", text);
  for (const value of [undefined, null, 5, "{}", [], JSON.stringify(tokens)]) {
    await rejects(() => Tokens.fromJSON(value), "TOKEN_FILE", /^tokens: value: expected { origin, tensors }/);
    await rejects(() => Tokens.fromTransferable(value as never), "ARGUMENT", /value: expected { origin, tensors }/);
  }
  const message = tokens.toTransferable(), { indices } = message.tensors;
  const given = (tensor: unknown) =>
    Tokens.fromTransferable({ ...message, tensors: { indices: tensor as TransferableTensor } });
  await rejects(() => given(null), "ARGUMENT", /tensors\.indices: expected a tensor/);
  await rejects(() => given({ ...indices, data: [1] }), "ARGUMENT", /tensors\.indices\.data: expected a Uint16Array/);
  await rejects(
    () => given({ ...indices, shape: [1, 2, 2, 5] }),
    "SHAPE",
    /tensors\.indices\.data: expected 20 elements/,
  );
  const { data } = structuredClone(indices!, { transfer: [indices!.data.buffer] });
  assert.equal(data.length, 16);
  await rejects(() => given(indices), "SHAPE", /expected 16 elements for shape \[1, 2, 2, 4\], found 0/);
});

test("console.log shows a model's name with its control characters escaped", () => {
  const name = "m\x1b]52;c;AAAA\x07\x1b[2J\r\n\u202e\x9b", at = { ...origin, model: name };
  const tokens = new Tokens(at, {
    indices: new Tensor("int32", [1, 2, 4], new Int32Array(8), { kind: "indices", origin: at }),
  });
  for (const shown of [inspect(tokens), inspect(tokens.indices)]) {
    assert.match(shown, /m\\x1b\]52;c;AAAA\\x07\\x1b\[2J\\r\\n\\u202e\\x9b/);
    // deno-lint-ignore no-control-regex
    assert.doesNotMatch(shown, /[\x00-\x1f\x7f-\x9f\u202e]/);
  }
});
