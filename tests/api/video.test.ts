/**
 * Videos through the public API: streams equal whole clips however they are cut, windows, wrong input, stopping,
 * memory.
 */
import assert from "node:assert/strict";
import { execFileSync } from "node:child_process";
import { join } from "node:path";
import process from "node:process";
import { after, before, describe, test } from "node:test";
import {
  detokenize,
  joinTokens,
  loadTokens,
  saveTokens,
  Tensor,
  type TensorLike,
  Tokenizer,
  type TokenPart,
  Tokens,
} from "mod.ts";
import { sliceTime, timeAxisOf } from "../../src/tokens/windows.ts";
import {
  carried,
  countDifferent,
  readTensors,
  rejects,
  relativeError,
  root,
  runArgs,
  withFolder,
  withWeights,
} from "../support.ts";

const golden = readTensors(join(carried, "CV4x8x8-small.safetensors"));
const [, T, H, W] = golden.pixels!.shape as [number, number, number, number];

/** The carried clip, played forwards and back until there are enough frames, cropped to an odd size when asked. */
function clip(frames: number, height = H, width = W): TensorLike<"uint8"> {
  const source = golden.pixels!.data as Uint8Array, data = new Uint8Array(frames * height * width * 3);
  for (let t = 0; t < frames; t++) {
    const from = Math.abs(((t + T - 1) % (2 * T - 2)) - (T - 1));
    for (let y = 0; y < height; y++) {
      const at = ((from * H + y) * W) * 3;
      data.set(source.subarray(at, at + width * 3), (t * height + y) * width * 3);
    }
  }
  return { dtype: "uint8", shape: [1, frames, height, width, 3], data };
}

function* framesOf(video: TensorLike<"uint8">): Generator<TensorLike<"uint8">> {
  const [, frames, height, width] = video.shape as [number, number, number, number];
  const size = height * width * 3;
  for (let t = 0; t < frames; t++) {
    yield { dtype: "uint8", shape: [height, width, 3], data: video.data.subarray(t * size, (t + 1) * size) };
  }
}

async function collect<T>(items: AsyncIterable<T>): Promise<T[]> {
  const all: T[] = [];
  for await (const item of items) all.push(item);
  return all;
}

/** Frames of a stream as one tensor [1, T, H, W, 3]. */
function stack(frames: readonly TensorLike<"uint8">[]): Tensor<"uint8"> {
  const [height, width] = frames[0]!.shape as [number, number];
  const data = new Uint8Array(frames.length * height * width * 3);
  frames.forEach((f, t) => data.set(f.data, t * f.data.length));
  return new Tensor("uint8", [1, frames.length, height, width, 3], data);
}

/** Cuts tokens of one clip into parts of these many token frames, which do not know where they come from. */
function pieces(tokens: Tensor, sizes: readonly number[]): TensorLike[] {
  let at = 0;
  return sizes.map((n) => {
    const { dtype, shape, data } = sliceTime(tokens, at, at += n);
    return { dtype, shape, data } as TensorLike;
  });
}

for (
  const [model, label] of [["CV4x8x8", "continuous, factor 4"], ["DV8x16x16", "discrete, factor 8"], [
    "DV4x8x8-360p",
    "discrete, patch 2",
  ]] as const
) {
  test(`a stream equals the whole clip: ${model}, ${label}`, () =>
    withWeights(model, "small", async (path) => {
      await using tok = await Tokenizer.open(path);
      const { temporalFactor: factor, isDiscrete } = tok.info;
      const video = clip(25);
      const whole = await tok.encode(video, { window: 25 });
      const pixels = await tok.decode(whole, { dtype: "uint8" });
      for (const chunkFrames of [factor, 8, 16, 24]) {
        const parts = await collect(tok.encodeStream(framesOf(video), { chunkFrames }));
        assert.deepEqual(parts.map((p) => p.numFrames), [
          1 + chunkFrames,
          ...Array(Math.floor((24 - chunkFrames) / chunkFrames)).fill(chunkFrames),
          ...(24 % chunkFrames ? [24 % chunkFrames] : []),
        ]);
        const joined = joinTokens(parts);
        if (isDiscrete) assert.equal(countDifferent(joined.indices, whole.indices), 0);
        else assert.ok(relativeError(joined.latent, whole.latent) <= 1e-5);
        assert.deepEqual(joined.origin.video, { temporalFactor: factor, frames: 25 });
      }
      // Decoding in pieces of any size, random ones too.
      const t = whole.main.shape[timeAxisOf(whole.main)]!;
      const plans = [[t], Array(t).fill(1), [1, t - 1], [t - 1, 1], [2, 1, t - 3]];
      for (const sizes of plans) {
        for (const chunkTokens of [1, 2, 5]) {
          const frames = stack(
            await collect(
              tok.decodeStream(pieces(whole.main, sizes.filter((n) => n > 0)), { chunkTokens, crop: false }),
            ),
          );
          assert.equal(countDifferent(frames, pixels), 0, `pieces of ${sizes}, chunks of ${chunkTokens}`);
        }
      }
    }));
}

describe("the embedded video model", () => {
  let tok: Tokenizer;
  before(async () => {
    tok = await Tokenizer.open("nano-DV4x8x8");
  });
  after(() => tok.close());

  test("what it is", () => {
    const { isVideo, isDiscrete, temporalFactor, spatialFactor, parameters } = tok.info;
    assert.deepEqual({ isVideo, isDiscrete, temporalFactor, spatialFactor, parameters }, {
      isVideo: true,
      isDiscrete: true,
      temporalFactor: 4,
      spatialFactor: 8,
      parameters: 3857238,
    });
  });
  test("awkward sizes and lengths: one frame, 21 frames in windows, sizes not multiples of 16", async () => {
    for (const frames of [1, 2, 17, 21]) {
      const video = clip(frames, 50, 70);
      const tokens = await tok.encode(video);
      const t = frames <= 17 ? (Math.ceil((frames - 1) / 8) * 8) / 4 + 1 : 5 + 3;
      assert.deepEqual(tokens.indices.shape, [1, t, 8, 10]);
      const decoded = await tok.decode(tokens, { dtype: "uint8" });
      assert.deepEqual(decoded.shape, [1, frames, 50, 70, 3]);
      assert.equal(countDifferent(decoded, await tok.autoencode(video)), 0);
      const streamed = await collect(tok.encodeStream(framesOf(video)));
      assert.deepEqual(stack(await collect(tok.decodeStream(streamed))).shape, [1, frames, 50, 70, 3]);
    }
  });
  test("a batch of clips equals the clips one by one", async () => {
    const a = clip(19, 32, 32), b = { ...a, data: a.data.map((v) => 255 - v) };
    const data = new Uint8Array(2 * a.data.length);
    data.set(a.data);
    data.set(b.data, a.data.length);
    const both = await tok.encode({ dtype: "uint8", shape: [2, ...a.shape.slice(1)], data });
    assert.equal(countDifferent(both.indices.at(0), (await tok.encode(a)).indices), 0);
    assert.equal(countDifferent(both.indices.at(1), (await tok.encode(b)).indices), 0);
    const pixels = await tok.decode(both, { dtype: "uint8" });
    assert.deepEqual(pixels.shape, [2, 19, 32, 32, 3]);
    assert.equal(countDifferent(pixels.at(1), await tok.decode(both.indices.at(1), { dtype: "uint8" })), 0);
  });
  test("a bound on the attention's past does not depend on the chunks", async () => {
    const video = clip(41, 32, 48);
    const encode = async (chunkFrames: number, attentionFrames?: number) =>
      joinTokens(await collect(tok.encodeStream(framesOf(video), { chunkFrames, attentionFrames, preQuant: true })));
    const [a, b, all] = [await encode(4, 3), await encode(20, 3), await encode(8)];
    assert.equal(countDifferent(a.indices, b.indices), 0);
    assert.ok(relativeError(a.preQuant, b.preQuant) <= 1e-5);
    assert.ok(relativeError(a.preQuant, all.preQuant) > 1e-5, "the bound changes what is seen");
    assert.equal(countDifferent(await encode(8, 1000).then((t) => t.indices), all.indices), 0);
  });
  test("token files of windows and of streams decode with nothing else", () =>
    withFolder(async (folder) => {
      const video = clip(30, 40, 56);
      const windows = await tok.encode(video);
      const stream = joinTokens(await collect(tok.encodeStream(framesOf(video), { fps: "30000/1001" })));
      for (
        const [name, tokens] of [["w.safetensors", windows], ["s.safetensors", stream], ["w.msgpack", windows]] as const
      ) {
        const path = join(folder, name);
        await saveTokens(path, tokens);
        const loaded = await loadTokens(path);
        assert.deepEqual(loaded.origin, tokens.origin);
        assert.equal(countDifferent(loaded.indices, tokens.indices), 0);
        assert.equal(countDifferent(loaded.codes, tokens.codes), 0);
        assert.deepEqual((await tok.decode(loaded, { dtype: "uint8" })).shape, [1, 30, 40, 56, 3]);
        assert.equal(
          countDifferent(
            stack(await collect(tok.decodeStream([loaded]))),
            await tok.decode(tokens, { dtype: "uint8" }),
          ),
          0,
        );
      }
      const one = new Tensor("int32", windows.indices.shape.slice(1), windows.indices.data, windows.indices);
      assert.equal(countDifferent(await tok.decode(one), await tok.decode(windows)), 0); // without the batch's axis
      await rejects(() => detokenize(windows), "UNSUPPORTED", /picture.*video/);
    }));
  test("a missing or repeated window is refused", () =>
    withFolder(async (folder) => {
      const tokens = await tok.encode(clip(30, 32, 32));
      const { video } = tokens.origin, [first, second] = video!.windows!;
      const changed = (windows: typeof video extends undefined ? never : NonNullable<typeof video>["windows"]) =>
        new Tokens({ ...tokens.origin, video: { ...video!, windows } }, { indices: tokens.indices });
      for (const windows of [[first!], [first!, second!, second!], [{ ...first!, frames: 99 }, second!]]) {
        await rejects(() => saveTokens(join(folder, "x.safetensors"), changed(windows)), "SHAPE", /windows: expected/);
      }
    }));

  test("wrong frames and options", async () => {
    const run = (frames: Iterable<TensorLike<"uint8">>, options = {}) => collect(tok.encodeStream(frames, options));
    await rejects(() => run([]), "VIDEO", /at least one frame/);
    await rejects(
      () => run([...framesOf(clip(1, 32, 32)), ...framesOf(clip(1, 32, 48))]),
      "SHAPE",
      /frame 1: expected.*\[32, 32, 3\].*\[32, 48, 3\]/,
    );
    await rejects(() => run([clip(1)]), "SHAPE", /frame 0: expected.*uint8 \[H, W, 3\]/);
    await rejects(() => run(framesOf(clip(9)), { chunkFrames: 6 }), "ARGUMENT", /multiple of 4/);
    await rejects(() => run(framesOf(clip(9)), { window: 0 }), "ARGUMENT", /options\.window/);
    await rejects(() => tok.encode(clip(2).data), "ARGUMENT", /tensor of frames/);
    await rejects(() => tok.encode({ ...clip(2), shape: clip(2).shape.slice(2) as number[] }), "SHAPE", /elements/);
    await rejects(
      () => tok.decode({ dtype: "int32", shape: [1, 2, 2, 2], data: Int32Array.of(0, 0, 0, 0, 0, 64000, 0, 0) }),
      "VALUE",
      /indices\[0, 1, 0, 1\]/,
    );
    await rejects(
      () => tok.decode({ dtype: "float32", shape: [6, 2, 2], data: new Float32Array(24) }),
      "SHAPE",
      /\[B, 6, t, h, w\]/,
    );
    await using image = await Tokenizer.open("nano-DI8x8");
    await rejects(() => image.encodeStream(framesOf(clip(2))), "UNSUPPORTED", /expected a video tokenizer/);
  });
  test("a consumer that stops early, and an abort midway, leave the tokenizer working", async () => {
    let given = 0;
    function* endless() {
      for (;;) {
        given++;
        yield* framesOf(clip(1, 64, 64));
      }
    }
    for await (const part of tok.encodeStream(endless())) {
      assert.equal(part.firstFrame, 0);
      break;
    }
    assert.ok(given < 60, `${given} frames were asked for`);
    const controller = new AbortController();
    const parts: TokenPart[] = [];
    await rejects(
      async () => {
        for await (const part of tok.encodeStream(endless(), { signal: controller.signal })) {
          parts.push(part);
          if (parts.length === 3) controller.abort();
        }
      },
      "CANCELLED",
      /./,
    );
    assert.equal((await tok.encode(clip(1, 32, 32))).indices.shape[1], 1);
    const closing = await Tokenizer.open("nano-DV4x8x8");
    const stream = closing.encodeStream(endless());
    await stream.next();
    await closing.close();
    await rejects(() => collect(stream), "CLOSED", /closed/);
  });
  test("plan states windows and streams", () => {
    const shape = { frames: 240, height: 1080, width: 1920 };
    const window = tok.plan(shape),
      stream = tok.plan(shape, { mode: "stream" }),
      whole = tok.plan(shape, { mode: "stream", chunkFrames: 240 });
    assert.equal(window.paddedFrames, 17);
    assert.equal(window.stateBytes, 0);
    assert.ok(stream.stateBytesPerTokenFrame > 0 && stream.stateBytes > 61 * stream.stateBytesPerTokenFrame);
    assert.ok(stream.arenaBytes < window.arenaBytes && window.arenaBytes < whole.arenaBytes);
    assert.equal(
      tok.plan({ frames: 61, height: 135, width: 240 }, { task: "decode", mode: "stream" }).outputs[0]!.shape[2],
      8,
    );
  });
});

describe("memory", () => {
  const peak = (...args: (string | number)[]) => {
    const out = execFileSync(process.execPath, [
      ...runArgs,
      join(root, "tests/api/stream_memory.ts"),
      ...args.map(String),
    ], {
      encoding: "utf8",
      cwd: root,
      // What was freed is given back, and does not count (glibc).
      env: { ...process.env, MALLOC_MMAP_THRESHOLD_: "65536" },
    });
    return JSON.parse(out) as { peakBytes: number; planBytes: number; pastBytes: number };
  };
  for (const mode of ["window", "stream"]) {
    test(`a run's peak is within 10 % of the plan, ${mode}`, () => {
      const { peakBytes, planBytes } = peak(mode, 51, 360, 640);
      assert.ok(Math.abs(peakBytes / planBytes - 1) <= 0.1, `peak ${peakBytes / 1e6} MB, plan ${planBytes / 1e6} MB`);
    });
  }
  test("300 frames of 640x360 stream within 1.2 times the memory of 33, the attention's past apart", () => {
    const short = peak("stream", 33, 360, 640), long = peak("stream", 300, 360, 640);
    const ratio = (long.peakBytes - long.pastBytes) / (short.peakBytes - short.pastBytes);
    assert.ok(
      ratio <= 1.2,
      `${ratio.toFixed(2)} times (past of the attention: ${short.pastBytes / 1e6} and ${long.pastBytes / 1e6} MB)`,
    );
  });
});
