/**
 * Videos of any length, a few frames at a time: encodeStream gives parts of tokens, decodeStream takes them back to
 * frames. Without `window` the parts are one seamless sequence, equal to the whole clip at once however it is cut
 * (causal caches carry over natively); with `window` each part is a window that sees no other. Memory does not grow
 * with the clip, but for the temporal attention's past, which `attentionFrames` bounds. While one chunk computes the
 * next is read.
 */
import * as layout from "../../ffi/layout.ts";
import type { RequestValues } from "../../ffi/native.ts";
import { abortable } from "../abort.ts";
import { type Clip, filled, type Frames, gather, inOrder, type JobsOptions } from "./clips.ts";
import { expected, nameOf } from "../errors.ts";
import { locatedSync } from "./job.ts";
import {
  type DecodeStreamOptions,
  defaultChunkFrames,
  defaultChunkTokens,
  type EncodeStreamOptions,
} from "./options.ts";
import type { PixelSize } from "./pixels.ts";
import type { OutputTensor, Runner } from "./runner.ts";
import { sliceAxis, Tensor, type TensorLike, TokenPart, type Tokens, type VideoOrigin } from "../tokens/tensor.ts";
import { VideoFrame } from "../media/frames.ts";
import { cropOf, ownTokens, tokenInput } from "./tokeninput.ts";
import { secondsOf, timesOf } from "../tokens/times.ts";
import { sliceTime, timeAxisOf, windowOf } from "../tokens/windows.ts";

export type Parts = AsyncIterable<Tokens | TensorLike> | Iterable<Tokens | TensorLike>;

/** Windows or chunks in flight: one gathered, one queued, one running. */
export const streamHeld = 3;

/** The part of a request that limits memory, from the options that every call has. */
export function limitOf(o: { maxMemory?: number | undefined }): RequestValues {
  return { max_memory_bytes: o.maxMemory ?? 0 };
}

/** Checks that a value can be iterated. Throws ARGUMENT. */
export function checkIterable(name: string, value: unknown, wanted: string): void {
  const { [Symbol.asyncIterator]: later, [Symbol.iterator]: now } = Object(value);
  if (typeof later === "function" || typeof now === "function") return;
  throw expected(name, `${wanted}, one after the other (an array, a generator, a stream)`, nameOf(value));
}

/** What encoding the clips of one call needs to know. */
interface EncodeClipsOptions extends JobsOptions {
  readonly preQuant: boolean;
  readonly maxMemory?: number | undefined;
  readonly fps?: string | undefined;
  readonly sampleAspect?: string | undefined;
  /** The native stream that encodes a seamless sequence; absent where clips are windows. */
  readonly stream?: number | undefined;
  /** How many jobs' inputs and results are held at once. */
  readonly numHeld: number;
}

/**
 * The request that encodes a clip. A chunk of a stream is filled up to whole token frames; the stream's first frame is
 * a token frame by itself.
 */
function requestOf(
  runner: Runner,
  size: PixelSize,
  firstFrame: number,
  o: Omit<EncodeClipsOptions, "site">,
): RequestValues {
  const factor = runner.info.temporalFactor, alone = firstFrame === 0 ? 1 : 0;
  const frames = o.stream === undefined ? size.frames : Math.ceil((size.frames - alone) / factor) * factor + alone;
  const task = { task: layout.task.encode, outputs: runner.tokenOutputs(o.preQuant) };
  return { ...size, ...task, frames, num_held: o.numHeld, ...limitOf(o) };
}

/** The tokens of each clip: of windows, or of the chunks of one stream. */
export async function* encodeClips(
  runner: Runner,
  clips: AsyncIterable<Clip> | Iterable<Clip>,
  o: EncodeClipsOptions,
): AsyncGenerator<TokenPart> {
  const { temporalFactor } = runner.info, { stream, fps, sampleAspect } = o;
  yield* inOrder(clips, o, async (clip, options) => {
    const { request: size, firstFrame, seconds } = clip, { frames } = size;
    const request = requestOf(runner, size, firstFrame, o), bytes = filled(clip, request.frames!);
    const video: VideoOrigin = {
      temporalFactor,
      frames,
      ...timesOf(seconds.length === frames ? seconds : [], fps),
      ...(sampleAspect && { sampleAspect }),
      ...(stream === undefined && { windows: [windowOf(frames, temporalFactor)] }),
    };
    const { origin, parts } = await runner.encode(bytes, request, options, video, stream);
    return new TokenPart(origin, parts, firstFrame, frames);
  });
}

/** Encodes frames to the parts of one seamless sequence or, with `window`, to windows. */
export async function* encodeStream(
  runner: Runner,
  frames: Frames,
  o: EncodeStreamOptions,
  site: Error,
): AsyncGenerator<TokenPart> {
  const { temporalFactor: factor, name } = runner.info, { window, preQuant = false, signal } = o;
  const chunk = window ?? o.chunkFrames ?? Math.max(defaultChunkFrames, factor);
  if (!window && chunk % factor !== 0) {
    throw expected("options.chunkFrames", `a multiple of ${factor}, the temporal factor of ${name}`, chunk);
  }
  const stream = window ? undefined : runner.openStream(layout.task.encode, o.attentionFrames ?? 0);
  const all = { ...o, preQuant, stream, numHeld: streamHeld, site };
  const admit = (size: PixelSize, firstFrame: number) => {
    const kind = stream === undefined ? {} : { chunk: firstFrame === 0 ? layout.chunk.first : layout.chunk.later };
    locatedSync(() => runner.plan({ ...requestOf(runner, size, firstFrame, all), ...kind }), site);
  };
  try {
    yield* encodeClips(runner, gather(frames, (n) => n === 0 && !window ? 1 + chunk : chunk, admit, signal), all);
  } finally {
    if (stream !== undefined) runner.closeStream(stream);
  }
}

/** One decoding job: token frames, and the real frames in what they decode to. */
interface TokenClip {
  tensor: TensorLike;
  before: number;
  frames: number | undefined; // undefined: all
  isWindow: boolean;
}

/**
 * Cuts the tokens of a video's parts into the pieces that are decoded in one job: windows, or a few token frames of a
 * seamless sequence. How many frames are real is known only at the end of each part.
 */
async function* cut(
  parts: AsyncIterable<Tensor> | Iterable<Tensor>,
  factor: number,
  chunkTokens: number,
): AsyncGenerator<TokenClip> {
  let isFirst = true;
  for await (const tensor of parts) {
    const { video } = tensor.origin ?? {};
    const tokens = tensor.shape[timeAxisOf(tensor)] ?? 0;
    const slice = (from: number, to: number) => sliceTime(tensor, from, to);
    let at = 0;
    for (const window of video?.windows ?? []) {
      yield { tensor: slice(at, at + window.tokens), before: window.before, frames: window.frames, isWindow: true };
      at += window.tokens;
    }
    if (video?.windows) continue;
    let left = video?.frames;
    for (; at < tokens; at += chunkTokens) {
      const count = Math.min(chunkTokens, tokens - at);
      const decoded = count * factor - (isFirst ? factor - 1 : 0),
        frames: number | undefined = left && Math.min(left, decoded);
      if (left !== undefined) left -= frames!;
      if (left === undefined || frames! > 0) {
        yield { tensor: slice(at, at + count), before: 0, frames, isWindow: false };
      }
      isFirst = false;
    }
  }
}

/** Options of decoding, as the caller of a stream or of `decode` gives them. */
interface DecodeClipsOptions extends JobsOptions, Omit<DecodeStreamOptions, "signal"> {
  /** Type of the decoded pixels. Default "uint8". */
  readonly dtype?: "uint8" | "float32";
  /** How many jobs' inputs and results are held at once. */
  readonly numHeld: number;
  /** Whether windows may be those of a batch of videos. */
  readonly isBatch?: boolean;
}

/** Gives decoded frames in groups, each uint8 [B, T, H, W, 3] or float32 [B, 3, T, H, W]. */
export async function* decodeClips(
  runner: Runner,
  parts: AsyncIterable<Tensor> | Iterable<Tensor>,
  o: DecodeClipsOptions,
): AsyncGenerator<OutputTensor> {
  const { spatialFactor, temporalFactor } = runner.info;
  const outputs = o.dtype === "float32" ? layout.kind.pixelsF32 : layout.kind.pixelsU8;
  let stream: number | undefined;
  try {
    yield* inOrder(cut(parts, temporalFactor, o.chunkTokens ?? defaultChunkTokens), o, async (clip, options) => {
      const { bytes, origin, ...size } = tokenInput(runner.info, clip.tensor), { batch, height, width } = size;
      if (batch !== 1 && !(o.isBatch && clip.isWindow)) {
        throw expected("tokens", "one video (use at(n) for one of a batch)", `a batch of ${batch}`, "SHAPE");
      }
      const crop = o.crop === false ? {} : cropOf(runner.info, origin, height, width);
      const time = clip.frames === undefined ? {} : { crop_before: clip.before, crop_frames: clip.frames };
      const whole = { crop_height: height * spatialFactor, crop_width: width * spatialFactor };
      const task = { task: layout.task.decode, outputs, num_held: o.numHeld };
      const request = { ...size, ...task, ...whole, ...crop, ...time, ...limitOf(o) };
      if (!clip.isWindow) stream ??= runner.openStream(layout.task.decode, o.attentionFrames ?? 0);
      const { outputs: [pixels] } = await runner.run(bytes, request, options, clip.isWindow ? undefined : stream);
      return pixels!;
    });
  } finally {
    if (stream !== undefined) runner.closeStream(stream);
  }
}

/** Gives decoded frames one by one, uint8 [H, W, 3]; as VideoFrames with their times where the tokens have those. */
export async function* decodeStream(
  runner: Runner,
  parts: Parts,
  o: DecodeStreamOptions,
  site: Error,
): AsyncGenerator<VideoFrame | Tensor<"uint8">> {
  const videos: (VideoOrigin | undefined)[] = []; // of the parts whose frames are on their way
  async function* noted() {
    let number = 0;
    for await (const part of abortable(parts, o.signal)) {
      const tensor = ownTokens(`part ${number++}`, part);
      videos.push(tensor.origin?.video);
      yield tensor;
    }
  }
  let n = 0; // within the first of them
  for await (const clip of decodeClips(runner, noted(), { ...o, numHeld: streamHeld, site })) {
    const [, frames = 0, height = 0, width = 0] = clip.shape;
    for (let t = 0; t < frames; t++) {
      const { data } = sliceAxis(clip as Tensor<"uint8">, 1, t, t + 1);
      if (videos[0] && n === videos[0].frames) {
        videos.shift();
        n = 0;
      }
      const seconds = videos[0] && secondsOf(videos[0], n++);
      yield seconds === undefined
        ? new Tensor("uint8", [height, width, 3], data, { kind: "pixels" })
        : new VideoFrame(height, width, data, seconds);
    }
  }
}
