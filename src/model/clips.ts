/**
 * Clips: the frames of a video that one job takes. They are gathered from frames as these come, or cut from a tensor of
 * pixels; `inOrder` then does the jobs, two at a time, for everything that encodes or decodes a video. Called by the
 * tokenizer and its streams.
 */
import * as layout from "../../ffi/layout.ts";
import { tensorOf } from "../tokens/dense.ts";
import { abortable } from "../abort.ts";
import { expected, TokenizerError } from "../errors.ts";
import { type JobOptions, located } from "./job.ts";
import { allocate, type Pixels, type PixelSize, sliceFrames } from "./pixels.ts";
import type { TensorLike } from "../tokens/tensor.ts";

/** uint8 [H, W, 3]; `seconds`, where known: when it is shown, on the source's clock. */
export type Frame = TensorLike<"uint8"> & { readonly seconds?: number };
export type Frames = AsyncIterable<Frame> | Iterable<Frame>;

/** Frames of one job, as many as are real, and where they stand in the video. */
export interface Clip extends Pixels {
  readonly firstFrame: number;
  /** When each frame is shown, in seconds, where the frames say so. */
  readonly seconds: readonly number[];
}

/**
 * Gathers frames into clips of the sizes that `sizeOf` names; the last may be shorter. Frames must stay as large as the
 * first. `admit` throws where a clip of so many frames is too large, before its memory is taken.
 * Note: clips share one buffer, so each must be submitted (which copies it) before the next is asked for.
 */
export async function* gather(
  frames: Frames,
  sizeOf: (clip: number) => number,
  admit: (size: PixelSize, firstFrame: number) => void,
  signal: AbortSignal | undefined,
): AsyncGenerator<Clip> {
  let buffer = new Uint8Array(0), shape: readonly number[] = [];
  let wanted = sizeOf(0), clips = 0, count = 0, frame = 0, seconds: number[] = [];
  const sizeAt = (frames: number): PixelSize => {
    const [height = 0, width = 0] = shape;
    return { input: layout.kind.pixelsU8, batch: 1, frames, height, width };
  };
  const clip = (): Clip => {
    const request = sizeAt(count), bytes = buffer.subarray(0, count * request.height * request.width * 3);
    return { bytes, request, firstFrame: frame - count, seconds };
  };
  /**
   * For how many frames memory is taken: a whole clip where that is admitted, else `least`, as the clip may end before
   * it is too large.
   */
  const admitted = (least: number) => {
    try {
      admit(sizeAt(wanted), frame - count);
      return wanted;
    } catch {
      admit(sizeAt(least), frame - count);
      return least;
    }
  };
  for await (const given of abortable(frames, signal)) {
    const tensor = tensorOf(`frame ${frame}`, given);
    if (frame === 0) shape = tensor.shape;
    if (tensor.dtype !== "uint8" || tensor.shape.length !== 3 || tensor.shape[2] !== 3) {
      throw expected(`frame ${frame}`, "uint8 [H, W, 3]", `${tensor.dtype} [${tensor.shape.join(", ")}]`, "SHAPE");
    }
    if (tensor.shape.join() !== shape.join()) {
      throw expected(`frame ${frame}`, `[${shape.join(", ")}] as frame 0`, `[${tensor.shape.join(", ")}]`, "SHAPE");
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

/** The windows of a tensor's clips, each `window` frames but for the last, copied at once. */
export function windowClips(pixels: Pixels, window: number): Clip[] {
  const { frames } = pixels.request;
  return Array.from({ length: Math.ceil(frames / window) }, (_, i) => {
    const firstFrame = i * window;
    return { ...sliceFrames(pixels, firstFrame, Math.min(firstFrame + window, frames)), firstFrame, seconds: [] };
  });
}

/** The bytes of a clip. In a gathered clip the last frame is repeated until there are `frames`. */
export function filled({ bytes, request: { frames: count } }: Clip, frames: number): Uint8Array {
  if (frames === count) return bytes;
  const size = bytes.length / count, longer = new Uint8Array(frames * size);
  longer.set(bytes);
  for (let i = count; i < frames; i++) longer.copyWithin(i * size, (count - 1) * size, count * size);
  return longer;
}

/** What all jobs of one call have in common. */
export interface JobsOptions extends JobOptions {
  /** How many jobs there will be, where that is known: `onProgress` is then told of all of them together. */
  readonly numJobs?: number;
  /** An error that was made where the caller called: what a job throws gets its stack. */
  readonly site: Error;
}

/**
 * Starts `work` for each item, at most two at a time, and gives the results in order; what still runs is cancelled at
 * the end.
 */
export async function* inOrder<T, R>(
  items: AsyncIterable<T> | Iterable<T>,
  { signal: ends, onProgress, numJobs, site }: JobsOptions,
  work: (item: T, options: JobOptions) => Promise<R>,
): AsyncGenerator<R> {
  const stop = new AbortController();
  const signal = ends ? AbortSignal.any([stop.signal, ends]) : stop.signal;
  const pending: Promise<R>[] = [], done: number[] = []; // the part of each job so far
  let i = 0;
  const progressOf = (job: number) => (part: number) => {
    done[job] = part;
    return onProgress!(done.reduce((sum, one) => sum + one, 0) / numJobs!);
  };
  try {
    for await (const item of items) {
      const told = onProgress && numJobs ? { onProgress: progressOf(i++) } : {};
      const promise = located(() => work(item, { signal, ...told }), site);
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
