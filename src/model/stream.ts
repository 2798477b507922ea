/**
 * Videos of any length, a few frames at a time: encodeStream gives parts of tokens, decodeStream takes them back to frames.
 * Without `window` the parts are one seamless sequence, equal to the whole clip at once however it is cut (causal caches carry
 * over natively); with `window` each part is a window that sees no other. Memory does not grow with the clip, but for the
 * temporal attention's past, which `attentionFrames` bounds. While one chunk computes the next is read.
 */
import * as layout from "../../ffi/layout.ts";
import { tensorOf } from "../tokens/dense.ts";
import type { RequestValues } from "../../ffi/native.ts";
import { abortable } from "../abort.ts";
import { expected, nameOf, TokenizerError } from "../errors.ts";
import { type JobOptions, located, locatedSync } from "./job.ts";
import type { DecodeStreamOptions, EncodeStreamOptions } from "./options.ts";
import { allocate } from "./pixels.ts";
import { asTokenParts, type OutputTensor, type Runner } from "./runner.ts";
import { sliceAxis, Tensor, type TensorLike, TokenPart, type Tokens, type VideoOrigin } from "../tokens/tensor.ts";
import { VideoFrame } from "../media/frames.ts";
import { cropOf, ownTokens, tokenInput } from "./tokeninput.ts";
import { secondsOf, timesOf } from "../tokens/times.ts";
import { sliceTime, windowOf } from "../tokens/windows.ts";

/** uint8 [H, W, 3]; `seconds`, where known: when it is shown, on the source's clock. */
export type Frame = TensorLike<"uint8"> & { readonly seconds?: number };
export type Frames = AsyncIterable<Frame> | Iterable<Frame>;
export type Parts = AsyncIterable<Tokens | TensorLike> | Iterable<Tokens | TensorLike>;

const defaultChunkFrames = 8;
export const defaultChunkTokens = 2;
/** Windows or chunks in flight: one gathered, one queued, one running. */
export const streamHeld = 3;

/** The limit of a request, of the options that every call takes. */
export function limitOf(o: { maxMemory?: number | undefined }): RequestValues {
  return { max_memory_bytes: o.maxMemory ?? 0 };
}

/** Throws ARGUMENT for what has no items to give. */
export function checkIterable(name: string, value: unknown, wanted: string): void {
  const { [Symbol.asyncIterator]: later, [Symbol.iterator]: now } = Object(value);
  if (typeof later === "function" || typeof now === "function") return;
  throw expected(name, `${wanted}, one after the other (an array, a generator, a stream)`, nameOf(value));
}

/** Frames gathered for one job: as they come, one behind the other. */
interface Clip {
  bytes: Uint8Array;
  count: number;
  /** When they are shown, where every one of them says so. */
  seconds: readonly number[];
  firstFrame: number;
  height: number;
  width: number;
}

/**
 * Gathers frames into clips of the sizes that `sizeOf` names; the last may be shorter. Frames must stay as large as the first.
 * `admit` throws where a clip of so many frames is too large, before its memory is taken.
 * Note: clips share one buffer, so each must be submitted (which copies it) before the next is asked for.
 */
async function* gather(
  frames: Frames,
  sizeOf: (clip: number) => number,
  admit: (clip: Omit<Clip, "bytes">) => void,
  signal: AbortSignal | undefined,
): AsyncGenerator<Clip> {
  let buffer = new Uint8Array(0), size: readonly number[] = [];
  let wanted = sizeOf(0), clips = 0, count = 0, frame = 0, seconds: number[] = [];
  const clip = (): Clip => ({ bytes: buffer, count, seconds, firstFrame: frame - count, height: size[0]!, width: size[1]! });
  /** A whole clip where that is admitted, else as many frames as there are: the clip may end before it is too large. */
  const admitted = (least: number) => {
    try {
      admit({ ...clip(), count: wanted });
      return wanted;
    } catch {
      admit({ ...clip(), count: least });
      return least;
    }
  };
  for await (const given of abortable(frames, signal)) {
    const tensor = tensorOf(`frame ${frame}`, given);
    if (frame === 0) size = tensor.shape;
    if (tensor.dtype !== "uint8" || tensor.shape.length !== 3 || tensor.shape[2] !== 3) {
      throw expected(`frame ${frame}`, "uint8 [H, W, 3]", `${tensor.dtype} [${tensor.shape.join(", ")}]`, "SHAPE");
    }
    if (tensor.shape.join() !== size.join()) {
      throw expected(`frame ${frame}`, `[${size.join(", ")}] as frame 0`, `[${tensor.shape.join(", ")}]`, "SHAPE");
    }
    if (buffer.length <= count * tensor.data.length) {
      const larger = allocate(`frame ${frame}`, admitted(count + 1) * tensor.data.length);
      larger.set(buffer);
      buffer = larger;
    }
    buffer.set(tensor.data, count++ * tensor.data.length);
    const { seconds: shown } = given;
    if (typeof shown === "number" && Number.isFinite(shown)) seconds.push(shown);
    frame++;
    if (count === wanted) {
      yield clip();
      wanted = sizeOf(++clips);
      count = 0;
      seconds = [];
    }
  }
  if (count > 0) yield clip();
  if (frame === 0) throw new TokenizerError("VIDEO", "expected at least one frame, found none");
}

/** The first `frames` frames of a clip, the last real one repeated where it has fewer. */
function filled({ bytes: gathered, count, height, width }: Clip, frames: number): Uint8Array {
  const size = height * width * 3, bytes = gathered.length < frames * size ? new Uint8Array(frames * size) : gathered;
  if (bytes !== gathered) bytes.set(gathered);
  for (let i = count; i < frames; i++) bytes.copyWithin(i * size, (count - 1) * size, count * size);
  return bytes.subarray(0, frames * size);
}

/** Starts `work` for each item, at most two at a time, and gives the results in order; what still runs is cancelled at the end. */
async function* inOrder<T, R>(
  items: AsyncIterable<T>,
  options: JobOptions,
  site: Error,
  work: (item: T, options: JobOptions) => Promise<R>,
): AsyncGenerator<R> {
  const stop = new AbortController();
  const signal = options.signal ? AbortSignal.any([stop.signal, options.signal]) : stop.signal;
  const pending: Promise<R>[] = [];
  try {
    for await (const item of items) {
      const promise = located(() => work(item, { signal }), site);
      promise.catch(() => {}); // seen when its turn comes
      pending.push(promise);
      if (pending.length === 2) yield await pending.shift()!;
    }
    while (pending.length) yield await pending.shift()!;
  } finally {
    stop.abort();
    await Promise.allSettled(pending);
  }
}

export async function* encodeStream(
  runner: Runner,
  frames: Frames,
  o: EncodeStreamOptions,
  site: Error,
): AsyncGenerator<TokenPart> {
  const factor = runner.info.temporalFactor;
  const chunk = o.window ?? o.chunkFrames ?? Math.max(defaultChunkFrames, factor);
  if (!o.window && chunk % factor !== 0) {
    throw expected("options.chunkFrames", `a multiple of ${factor}, the temporal factor of ${runner.info.name}`, chunk);
  }
  const stream = o.window ? undefined : runner.openStream(layout.task.encode, o.attentionFrames ?? 0);
  const outputs = runner.tokenOutputs(o.preQuant ?? false);
  const requestOf = ({ count, firstFrame, height, width }: Omit<Clip, "bytes">): RequestValues => {
    const alone = firstFrame === 0 && !o.window ? 1 : 0;
    const fed = o.window ? count : Math.ceil((count - alone) / factor) * factor + alone;
    const size = { task: layout.task.encode, input: layout.kind.pixelsU8, outputs, frames: fed, height, width };
    return { ...size, num_held: streamHeld, ...limitOf(o) };
  };
  const admit = (clip: Omit<Clip, "bytes">) => {
    const chunkKind = clip.firstFrame === 0 ? layout.chunk.first : layout.chunk.later;
    locatedSync(() => runner.plan({ ...requestOf(clip), ...(stream && { chunk: chunkKind }) }), site);
  };
  const clips = gather(frames, (n) => n === 0 && !o.window ? 1 + chunk : chunk, admit, o.signal);
  try {
    yield* inOrder(clips, o, site, async (clip, options) => {
      const { height, width, count } = clip;
      const request = requestOf(clip), bytes = filled(clip, request.frames!);
      const result = stream
        ? await runner.runChunk(stream, bytes, request, options)
        : await runner.run(bytes, request, options);
      const video: VideoOrigin = {
        temporalFactor: factor,
        frames: count,
        ...timesOf(clip.seconds.length === count ? clip.seconds : [], o.fps),
        ...(o.sampleAspect && { sampleAspect: o.sampleAspect }),
        ...(!stream && { windows: [windowOf(count, factor)] }),
      };
      const origin = runner.origin(height, width, result.top, result.left, video);
      return new TokenPart(origin, asTokenParts(result.outputs, origin), clip.firstFrame, count);
    });
  } finally {
    if (stream) runner.closeStream(stream);
  }
}

/** One decoding job: token frames, and the real frames in what they decode to. */
interface TokenClip {
  tensor: TensorLike;
  before: number;
  frames: number | undefined; // undefined: all
  isWindow: boolean;
}

/** Cuts parts into windows, or seamless pieces of a few token frames; the real frames are known only at the end of each part. */
async function* cut(
  parts: Parts,
  factor: number,
  chunkTokens: number,
  signal: AbortSignal | undefined,
): AsyncGenerator<TokenClip> {
  let isFirst = true, number = 0;
  for await (const part of abortable(parts, signal)) {
    const tensor = ownTokens(`part ${number++}`, part);
    const { video } = tensor.origin ?? {};
    const axis = tensor.dtype === "float32" ? 2 : 1, tokens = tensor.shape[axis] ?? 0;
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
      if (left === undefined || frames! > 0) yield { tensor: slice(at, at + count), before: 0, frames, isWindow: false };
      isFirst = false;
    }
  }
}

/** Groups of frames, each uint8 [1, T, H, W, 3] or float32 [1, 3, T, H, W]. */
export async function* decodeClips(
  runner: Runner,
  parts: Parts,
  o: DecodeStreamOptions & { dtype?: "uint8" | "float32" },
  site: Error,
  num_held = streamHeld,
): AsyncGenerator<OutputTensor> {
  const outputs = o.dtype === "float32" ? layout.kind.pixelsF32 : layout.kind.pixelsU8;
  let stream: number | undefined;
  try {
    yield* inOrder(
      cut(parts, runner.info.temporalFactor, o.chunkTokens ?? defaultChunkTokens, o.signal),
      o,
      site,
      async (clip, options) => {
        const { bytes, input, batch, frames, height, width, origin } = tokenInput(runner.info, clip.tensor);
        if (batch !== 1) {
          throw expected("tokens", "one video (use at(n) for one of a batch)", `a batch of ${batch}`, "SHAPE");
        }
        const crop = o.crop === false ? {} : cropOf(runner.info, origin, height, width);
        const time = clip.frames === undefined ? {} : { crop_before: clip.before, crop_frames: clip.frames };
        const whole = { crop_height: height * runner.info.spatialFactor, crop_width: width * runner.info.spatialFactor };
        const size = { task: layout.task.decode, input, outputs, frames, height, width, num_held };
        const request = { ...size, ...whole, ...crop, ...time, ...limitOf(o) };
        if (!clip.isWindow) {
          stream ??= runner.openStream(layout.task.decode, o.attentionFrames ?? 0);
        }
        const { outputs: [pixels] } = clip.isWindow
          ? await runner.run(bytes, request, options)
          : await runner.runChunk(stream!, bytes, request, options);
        return pixels!;
      },
    );
  } finally {
    if (stream !== undefined) runner.closeStream(stream);
  }
}

/** Frames one by one, uint8 [H, W, 3]: VideoFrames where the tokens say when they are shown. */
export async function* decodeStream(
  runner: Runner,
  parts: Parts,
  o: DecodeStreamOptions,
  site: Error,
): AsyncGenerator<VideoFrame | Tensor<"uint8">> {
  const videos: (VideoOrigin | undefined)[] = []; // of the parts whose frames are on their way
  async function* noted() {
    for await (const part of abortable(parts, o.signal)) {
      videos.push((Object(part) as Tensor).origin?.video);
      yield part;
    }
  }
  let n = 0; // within the first of them
  for await (const clip of decodeClips(runner, noted(), { ...o, dtype: "uint8" }, site)) {
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
