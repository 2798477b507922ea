/**
 * Window mode: a clip is cut into windows that do not see each other, each padded to 8k + 1 frames by repeating its
 * first and last frames, as the public tokenizer does. Tokens of all windows are one tensor, concatenated along time.
 * Ref: reference/pipeline_reference.py, autoencode_video.
 */
import { concatAxis, sliceAxis } from "./dense.ts";
import { expected, nameOf } from "../errors.ts";
import { checkTokens } from "./checktokens.ts";
import { tellQuantizer } from "./quantizer.ts";
import {
  type DType,
  isContinued,
  type Origin,
  Tensor,
  type TokenKind,
  TokenPart,
  Tokens,
  type VideoOrigin,
  type VideoWindow,
} from "./tensor.ts";
import { coarsestTick, type FrameTimes, secondsOf, timesOf } from "./times.ts";

const temporalAlign = 8;
/** The most windows of one clip. */
const mostWindows = 1 << 24;

/** One window of `frames` frames: its padding and its token frames. */
export function windowOf(frames: number, temporalFactor: number): VideoWindow {
  const unit = Math.max(temporalAlign, temporalFactor);
  const padded = Math.ceil((frames - 1) / unit) * unit + 1;
  return { tokens: (padded - 1) / temporalFactor + 1, frames, before: Math.floor((padded - frames) / 2) };
}

/**
 * The windows of a clip, in order; the last one may be shorter. Throws ARGUMENT unless all three are positive whole
 * numbers.
 */
export function windowsOf(frames: number, window: number, temporalFactor: number): VideoWindow[] {
  for (const [name, value] of Object.entries({ frames, window, temporalFactor })) {
    if (!Number.isSafeInteger(value) || value < 1) throw expected(name, "a positive whole number", value);
  }
  const length = Math.ceil(frames / window);
  if (length > mostWindows) throw expected("frames", `those of at most ${mostWindows} windows`, frames);
  return Array.from({ length }, (_, i) => windowOf(Math.min(window, frames - i * window), temporalFactor));
}

/** The axis of time in tokens or pixels of videos: behind the channels, which float32 tensors have in front. */
export function timeAxisOf({ dtype }: { readonly dtype: DType }): 1 | 2 {
  return dtype === "float32" ? 2 : 1;
}

/**
 * Tokens of consecutive parts of one video as one: windows one after the other, or one seamless sequence, in the order
 * of time. Throws ARGUMENT unless there are parts and all are tokens of videos made alike (one model, hash and
 * precision, all in windows or all seamless, one rate and shape of pixels); SHAPE where sizes differ, or where a part
 * does not follow the one before it.
 */
export function joinTokens(parts: readonly Tokens[]): Tokens {
  const videos = checkJoin(parts), first = parts[0]!;
  const windows = first.origin.video!.windows && videos.flatMap((v) => v.windows ?? []);
  const { fps: _fps, start: _start, times: _times, ...alike } = first.origin.video!;
  const frames = videos.reduce((sum, v) => sum + v.frames, 0);
  const video = { ...alike, ...joinTimes(videos), frames, ...(windows && { windows }) };
  const origin: Origin = Object.freeze({ ...first.origin, video });
  // Codes are left out where there are indices, which give them.
  const kinds = first.parts.filter((kind) => kind !== "codes" || !first.parts.includes("indices"));
  const joined = kinds.map((kind) => {
    const { dtype, shape, data } = concatAxis(parts.map((p) => p[kind]), timeAxisOf(first[kind]));
    return [kind, new Tensor(dtype, shape, data, { kind, origin })];
  });
  const all: Partial<Record<TokenKind, Tensor>> = Object.fromEntries(joined);
  if (!all.codes) checkTokens(origin, all, "SHAPE", isContinued(first));
  return new Tokens(origin, all);
}

/** Checks that parts belong together, and gives the video origin of each. */
function checkJoin(parts: readonly Tokens[]): VideoOrigin[] {
  if (!Array.isArray(parts) || parts.length === 0) throw expected("parts", "a list of tokens", parts);
  const first = factsOf(parts[0]!, 0);
  return parts.map((part, i) => {
    const facts = factsOf(part, i), before = parts[i - 1];
    for (const [what, fact] of Object.entries(facts)) {
      const wanted = first[what as keyof typeof first];
      if (fact === wanted) continue;
      const isSize = what === "pixels" || what === "tensors";
      throw expected(`parts[${i}]`, `${what} ${wanted}, as of parts[0]`, fact, isSize ? "SHAPE" : "ARGUMENT");
    }
    if (part instanceof TokenPart && before instanceof TokenPart) {
      const next = before.firstFrame + before.numFrames;
      if (part.firstFrame !== next) {
        throw expected(`parts[${i}].firstFrame`, `${next}, after parts[${i - 1}]`, part.firstFrame, "SHAPE");
      }
    }
    const { video } = part.origin, tokens = part.main.shape[timeAxisOf(part.main)]!;
    const alone = i === 0 && !isContinued(part) ? video!.temporalFactor - 1 : 0;
    const full = tokens * video!.temporalFactor - alone;
    if (!video!.windows && i < parts.length - 1 && video!.frames !== full) {
      throw expected(`parts[${i}]`, `${full} frames, as a seamless sequence goes on behind it`, video!.frames, "SHAPE");
    }
    return video!;
  });
}

/** Times of consecutive parts as those of one video. Frames of untimed parts with a rate come one after the other. */
function joinTimes(videos: readonly VideoOrigin[]): FrameTimes {
  const { fps, start, times } = videos[0]!;
  if (videos.length === 1) {
    return { ...(fps && { fps }), ...(start !== undefined && { start }), ...(times && { times }) };
  }
  if (videos.every((v) => !v.times && v.start === undefined)) {
    const other = videos.find((v) => v.fps !== fps);
    if (other) throw expected("parts", `frames a second ${fps ?? "unknown"} of all`, other.fps ?? "unknown");
    return fps ? { fps } : {};
  }
  const all = videos.flatMap((v) => Array.from({ length: v.frames }, (_, i) => secondsOf(v, i)));
  const known = all.filter((seconds) => seconds !== undefined);
  if (known.length < all.length) {
    throw expected("parts", "frames whose times are known in all, or in none", "both kinds");
  }
  const back = known.findIndex((seconds, i) => seconds <= known[i - 1]! - coarsestTick);
  if (back > 0) throw expected("parts", `frames after ${known[back - 1]} seconds`, `one at ${known[back]}`, "SHAPE");
  return timesOf(known, fps);
}

/** What the parts of one video must have in common, as texts to compare. */
function factsOf(part: Tokens, i: number) {
  if (!(part instanceof Tokens)) throw expected(`parts[${i}]`, "tokens", nameOf(part));
  const { origin, parts } = part, { video } = origin;
  if (!video) throw expected(`parts[${i}]`, "tokens of a video", "those of a picture");
  const { height, width, top, left } = origin;
  const sizes = parts.filter((kind) => kind !== "codes" || !parts.includes("indices")).map((kind) => {
    const { dtype, shape } = part[kind];
    return `${kind} ${dtype} [${shape.map((n, axis) => axis === timeAxisOf(part[kind]) ? "t" : n).join(", ")}]`;
  });
  return {
    model: origin.model,
    sha256: origin.sha256 ?? "unknown",
    precision: origin.precision ?? "unknown",
    quantizer: tellQuantizer(origin.quantizer),
    factors: `${video.temporalFactor}x${origin.spatialFactor}`,
    sequence: video.windows ? "in windows" : "seamless",
    "pixels' shape": video.sampleAspect ?? "1:1",
    pixels: `${width}x${height} at ${left}, ${top}`,
    tensors: sizes.join(", "),
  };
}

/** Token frames `from` to `to` of indices, codes or a latent. */
export function sliceTime(tokens: Tensor, from: number, to: number): Tensor {
  return sliceAxis(tokens, timeAxisOf(tokens), from, to);
}
