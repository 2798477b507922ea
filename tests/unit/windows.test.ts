/** joinTokens: what belongs together becomes one, with its times; what does not is refused. */
import assert from "node:assert/strict";
import { test } from "node:test";
import { type Origin, Tensor, TokenPart, Tokens, type VideoOrigin } from "../../src/tokens/tensor.ts";
import { decodeTokens, encodeTokens } from "../../src/tokens/tokenfile.ts";
import { joinTokens, windowsOf } from "../../src/tokens/windows.ts";
import { fsq } from "../../src/tokens/quantizer.ts";
import { rejects } from "../support.ts";

const origin: Origin = {
  model: "nano-DV4x8x8",
  source: "nano-DV4x8x8",
  precision: "f32",
  sha256: "a1".repeat(32),
  spatialFactor: 8,
  quantizer: fsq([8, 8, 8, 5, 5, 5]),
  height: 16,
  width: 24,
  top: 0,
  left: 0,
  version: "0.1.0",
};

interface Change extends Omit<Partial<Origin>, "video"> {
  video?: Partial<VideoOrigin>;
  tokens?: number;
  batch?: number;
}

/** A window of 5 token frames for 17 frames, or what `change` makes of it; its indices count on from `first`. */
function tokensOf(first: number, { video, tokens = 5, batch = 1, ...change }: Change = {}): Tokens {
  const about: VideoOrigin = {
    temporalFactor: 4,
    frames: 17,
    windows: [{ tokens: 5, frames: 17, before: 0 }],
    ...video,
  };
  const at = { ...origin, ...change, video: about };
  const grid = [Math.ceil(at.height / 8), Math.ceil(at.width / 8)], shape = [batch, tokens, ...grid];
  const size = shape.reduce((a, b) => a * b);
  const indices = new Tensor("int32", shape, Int32Array.from({ length: size }, (_, i) => first + i), {
    kind: "indices",
    origin: at,
  });
  return new Tokens(at, { indices });
}
function withoutWindows(t: Tokens): Tokens {
  const { windows: _windows, ...video } = t.origin.video!;
  return new Tokens({ ...t.origin, video }, { indices: t.indices });
}
const seamless = (tokens: number, frames: number) => withoutWindows(tokensOf(0, { tokens, video: { frames } }));
const part = (t: Tokens, firstFrame: number) =>
  new TokenPart(t.origin, { indices: t.indices }, firstFrame, t.origin.video!.frames);

test("windows: tokens one after the other along time, frames and windows in all, codes as of the parts", () => {
  const a = tokensOf(0), b = tokensOf(1000), joined = joinTokens([a, b]);
  assert.deepEqual(joined.indices.shape, [1, 10, 2, 3]);
  assert.deepEqual([...joined.indices.data], [...a.indices.data, ...b.indices.data]);
  assert.deepEqual(joined.origin.video, {
    temporalFactor: 4,
    frames: 34,
    windows: [a, b].flatMap((t) => t.origin.video!.windows!),
  });
  assert.deepEqual(joined.parts, ["indices", "codes"]);
  assert.deepEqual([...joined.codes.data.subarray(0, 3)], [...a.codes.data.subarray(0, 3)]);
  assert.deepEqual(decodeTokens(encodeTokens(joined, "safetensors"), "t").indices, joined.indices);
});

test("what does not belong together is refused, whichever comes first", async () => {
  const a = tokensOf(0), image = new Tokens(origin, { indices: new Tensor("int32", [1, 2, 3], new Int32Array(6)) });
  const other = (change: Change) => tokensOf(0, change);
  const latent = new Tensor("float32", [1, 16, 5, 2, 3], new Float32Array(480));
  const { quantizer: _quantizer, ...ofLatent } = a.origin;
  const cases: [name: string, b: unknown, code: "SHAPE" | "ARGUMENT", text: RegExp][] = [
    [
      "a larger frame",
      other({ height: 128, width: 128 }),
      "SHAPE",
      /parts\[1\]: expected pixels .*, as of parts\[0\], found/,
    ],
    ["a frame on an equal grid", other({ width: 23 }), "SHAPE", /pixels 2\dx16 at 0, 0/],
    ["a batch of two", other({ batch: 2 }), "SHAPE", /tensors indices int32 \[\d, t, 2, 3\]/],
    ["a seamless part", withoutWindows(a), "ARGUMENT", /sequence (seamless|in windows)/],
    ["a picture", image, "ARGUMENT", /expected tokens of a video, found "those of a picture"/],
    ["another model", other({ model: "m" }), "ARGUMENT", /model (nano-DV4x8x8|m)/],
    ["another model of that name", other({ sha256: "b2".repeat(32) }), "ARGUMENT", /sha256 (a1|b2)/],
    ["another precision", other({ precision: "bf16" }), "ARGUMENT", /precision b?f/],
    ["other levels", other({ quantizer: fsq([8, 8]) }), "ARGUMENT", /levels 8 8/],
    [
      "another factor",
      other({ video: { temporalFactor: 8, windows: [{ tokens: 5, frames: 17, before: 8 }] } }),
      "ARGUMENT",
      /factors [48]x8/,
    ],
    ["wider pixels", other({ video: { sampleAspect: "16:11" } }), "ARGUMENT", /pixels' shape (16:11|1:1)/],
    ["another rate", other({ video: { fps: "25/1" } }), "ARGUMENT", /parts: expected frames a second/],
    ["a latent", new Tokens(ofLatent, { latent }), "ARGUMENT", /quantizer/],
    ["no tokens", a.indices, "ARGUMENT", /expected tokens, found "Tensor"/],
    ["nothing", null, "ARGUMENT", /expected tokens, found/],
  ];
  for (const [name, b, code, text] of cases) {
    await rejects(() => joinTokens([a, b as Tokens]), code, text).catch((error) =>
      assert.fail(`${name}: ${error.message}`)
    );
    await rejects(() => joinTokens([b as Tokens, a]), code, text).catch((error) =>
      assert.fail(`${name} first: ${error.message}`)
    );
  }
  for (const none of [[], undefined, null, "parts", a]) {
    await rejects(() => joinTokens(none as never), "ARGUMENT", /parts: expected a list of tokens/);
  }
  await rejects(() => joinTokens([image]), "ARGUMENT", /tokens of a video/);
  const wrong = other({ video: { frames: NaN } });
  await rejects(() => joinTokens([a, wrong]), "SHAPE", /frames: expected a positive whole number, found NaN/);
});

test("parts of a stream follow each other: none missing, doubled or in another order", async () => {
  const a = seamless(3, 9), b = seamless(2, 8), c = seamless(1, 2);
  const parts = [part(a, 0), part(b, 9), part(c, 17)] as const;
  const joined = joinTokens(parts);
  assert.deepEqual([joined.indices.shape, joined.origin.video], [[1, 6, 2, 3], { temporalFactor: 4, frames: 19 }]);
  for (
    const wrong of [[parts[0], parts[2]], [parts[0], parts[0]], [parts[1], parts[0]], [parts[0], parts[2], parts[1]]]
  ) {
    await rejects(
      () => joinTokens(wrong),
      "SHAPE",
      /parts\[1\]\.firstFrame: expected \d+, after parts\[0\], found \d+/,
    );
  }
  const plain = parts.map(({ indices, origin }) =>
    new Tokens(origin, { indices: new Tensor("int32", indices.shape, indices.data) })
  );
  assert.deepEqual(joinTokens(plain).origin.video, joined.origin.video, "tensors that a caller made");
  // Also where nothing says which frame comes first: a clip's end does not go on.
  await rejects(
    () => joinTokens([c, a]),
    "SHAPE",
    /parts\[0\]: expected 1 frames, as a seamless sequence goes on behind it, found 2/,
  );
  await rejects(() => joinTokens([a, c, b]), "SHAPE", /parts\[1\]: expected 4 frames/);
  assert.deepEqual(joinTokens(parts.slice(1)).origin.video, { temporalFactor: 4, frames: 10 }, "a later stretch");
});

test("times: a rate goes on where the parts begin when it says, else each frame has its own", async () => {
  const timed = (...all: Partial<VideoOrigin>[]) =>
    joinTokens(all.map((video) => tokensOf(0, { video }))).origin.video!;
  const fps = "30000/1001", second = 17 * 1001 / 30000;
  const timing = ({ fps, start, times }: VideoOrigin) => ({ fps, start, times });
  const none = { start: undefined, times: undefined };
  assert.deepEqual(timing(timed({ fps }, { fps })), { fps, ...none });
  assert.deepEqual(timing(timed({}, {})), { fps: undefined, ...none });
  assert.deepEqual(timing(timed({ fps, start: 0.6 }, { fps, start: 0.6 + second })), {
    fps,
    start: 0.6,
    times: undefined,
  });
  // A container counts milliseconds.
  const rounded = timed({ fps, start: 0 }, { fps, start: Math.round(second * 1000) / 1000 });
  assert.deepEqual([rounded.fps, rounded.times], [fps, undefined]);
  assert.ok(Math.abs(rounded.start ?? 0) <= 1e-3);

  const near = (found: readonly number[] | undefined, wanted: number[]) => {
    assert.equal(found?.length, wanted.length);
    found!.forEach((time, i) => assert.ok(Math.abs(time - wanted[i]!) <= 1e-6, `${i}: ${time}, ${wanted[i]}`));
  };
  const seventeen = [...Array(17).keys()], times = seventeen.map((i) => 2 + i * i / 100);
  const late = timed({ fps: "25", start: 1 }, { fps: "25", start: 4 });
  near(late.times, [...seventeen.map((i) => 1 + i / 25), ...seventeen.map((i) => 4 + i / 25)]);
  const [num = NaN, den = NaN] = late.fps!.split("/").map(Number), mean = 33 / (late.times!.at(-1)! - 1);
  assert.ok(late.start === undefined && Math.abs(num / den / mean - 1) < 1e-3, late.fps);
  near(timed({ fps: "25/1" }, { fps: "9/1", times }).times, seventeen.map((i) => i / 25).concat(times));
  assert.deepEqual(
    timing(timed({ fps: "9/1", times })),
    { fps: "9/1", start: undefined, times },
    "one part stays as it is",
  );

  await rejects(
    () => timed({ fps, start: 5 }, { fps, start: 5.1 }),
    "SHAPE",
    /parts: expected frames after 5\.53\d* seconds, found "one at 5\.1"/,
  );
  await rejects(
    () => timed({ fps, start: 5 }, { fps }),
    "SHAPE",
    /parts: expected frames after 5\.53\d* seconds, found "one at 0"/,
  );
  await rejects(
    () => timed({ fps, start: 5 }, {}),
    "ARGUMENT",
    /parts: expected frames whose times are known in all, or in none/,
  );
});

test("a million windows of one frame: joined, written in a few bytes more than their tokens, read", () => {
  const count = 1 << 20, window = { tokens: 1, frames: 1, before: 0 };
  const video = { temporalFactor: 4, frames: count / 2, windows: new Array(count / 2).fill(window) };
  const half = tokensOf(0, { tokens: count / 2, height: 8, width: 8, quantizer: fsq([2048, 1024]), video });
  const joined = joinTokens([half, half]);
  for (const format of ["safetensors", "msgpack"] as const) {
    const bytes = encodeTokens(joined, format);
    assert.ok(bytes.length < 4 * count + 2000, `${bytes.length} bytes`);
    const { windows, frames } = decodeTokens(bytes, format).origin.video!;
    assert.deepEqual([frames, windows!.length, windows![0], windows![count - 1]], [count, count, window, window]);
  }
});

test("windowsOf refuses what is no clip", async () => {
  assert.deepEqual(windowsOf(18, 17, 4).map((w) => w.frames), [17, 1]);
  for (const wrong of [0, -1, 1.5, NaN, Infinity, "5", null, undefined]) {
    for (const args of [[wrong, 17, 4], [17, wrong, 4], [17, 17, wrong]]) {
      await rejects(
        () => windowsOf(...args as [number, number, number]),
        "ARGUMENT",
        /: expected a positive whole number, found/,
      );
    }
  }
  await rejects(() => windowsOf(2 ** 40, 1, 4), "ARGUMENT", /at most 16777216 windows/);
});
