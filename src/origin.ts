/**
 * Where tokens came from, and whether that and the tensors fit: one check, made of what is read and of what is written, so that
 * nothing is written that could not be read back. Windows as text and back are here too. Nothing here knows of a form of file.
 */
import { expected, type TokenizerError } from "./errors.ts";
import { codebookSize } from "./fsq.ts";

/** Where tokens came from: enough to decode them to the picture's own size with the model found again. */
export interface Origin {
  /** Name of the model, such as "Cosmos-Tokenizer-DI8x8" or "nano-DI8x8". */
  readonly model: string;
  /**
   * What finds the model again: an embedded name, or the absolute path that it was opened from. Token files keep a path only
   * when asked to; of others it is the model's name.
   */
  readonly source: string;
  /** Arithmetic that made the tokens; absent in files of older versions. */
  readonly precision?: "f32" | "bf16";
  /** Hash of the model's tensors, 64 hexadecimal digits, as `info.sha256` of an open model; absent in files of older versions. */
  readonly sha256?: string;
  /** Pixels of one token, each way. */
  readonly spatialFactor: number;
  /** FSQ levels, level 0 least significant; empty for a continuous model. */
  readonly levels: readonly number[];
  /** The picture before padding, and where it lies in the padded one. All in pixels. */
  readonly height: number;
  readonly width: number;
  readonly top: number;
  readonly left: number;
  /** Of tokens of a video: their frames. */
  readonly video?: VideoOrigin;
  /** Version of ctok that made them. */
  readonly version: string;
}

/**
 * The frames behind the tokens of a video. Frame i is shown at `times[i]`, or where there are no times at start + i / fps
 * seconds on the source's clock, whose zero is the earliest start of any of its streams.
 */
export interface VideoOrigin {
  /** Frames of one token after the first frame. */
  readonly temporalFactor: number;
  /** Real frames, without padding. */
  readonly frames: number;
  /** Frames a second as a fraction such as "30000/1001", where known; the average where `times` is there. */
  readonly fps?: string;
  /** When the first frame is shown, in seconds; absent: 0, or in `times`. */
  readonly start?: number;
  /** When each real frame is shown, in seconds: only where the rate varies. */
  readonly times?: readonly number[];
  /** Width to height of one pixel, such as "16:11"; absent: square. */
  readonly sampleAspect?: string;
  /** Windows that do not see each other, in order; absent when the tokens are one seamless sequence. */
  readonly windows?: readonly VideoWindow[];
}

/** One window: how many token frames it has, the real frames in it, and how many padding frames lie before them. */
export interface VideoWindow {
  readonly tokens: number;
  readonly frames: number;
  readonly before: number;
}

/** The most that a size may be. */
const mostSize = 0xffff_ffff;
/** FFmpeg's numbers have 31 bits. */
const mostTerm = 2 ** 31 - 1;

function isRatio(text: unknown, pattern: RegExp): boolean {
  const terms = typeof text === "string" ? pattern.exec(text)?.slice(1) : undefined;
  return terms !== undefined && terms.every((term) => term === undefined || Number(term) <= mostTerm);
}

/** Whether a text is a rate: a whole number or a fraction of two, each from 1 to 2^31 - 1. */
export function isFraction(text: unknown): boolean {
  return isRatio(text, /^([1-9]\d{0,9})(?:\/([1-9]\d{0,9}))?$/);
}

/** Whether a text is a ratio of width to height: two whole numbers from 1 to 2^31 - 1. */
export function isAspect(text: unknown): boolean {
  return isRatio(text, /^([1-9]\d{0,9}):([1-9]\d{0,9})$/);
}

type Fail = (what: string, wanted: string, found: unknown) => TokenizerError;

/** Type and sizes of a tensor: all that is looked at here. */
interface About {
  readonly dtype: string;
  readonly shape: readonly number[];
}
type Parts = { readonly [K in "indices" | "latent" | "preQuant"]?: About };

/**
 * Throws unless the tensors and the origin fit: which there are, types (whole numbers or floats of any size), ranks, channels,
 * the picture inside the grid, the frames inside their windows, times that increase. `isContinued`: a part of a seamless sequence
 * that begins behind its start, where each token frame has all of its frames.
 */
export function checkTokens(origin: Origin, parts: Parts, code: "SHAPE" | "TOKEN_FILE", isContinued = false): void {
  const fail: Fail = (what, wanted, found) => expected(what, wanted, found, code);
  checkOrigin(origin, fail);
  const { levels, spatialFactor, height, width, top, left, video } = origin;
  const { indices, latent, preQuant } = parts;
  const about = (t: About | undefined) => t ? `${t.dtype} [${t.shape.join(", ")}]` : "none";
  if (levels.length === 0) {
    if (indices || preQuant) throw fail("levels", "those of the codebook that the indices count in", "none");
    if (!latent || !/float/.test(latent.dtype) || latent.shape.length !== (video ? 5 : 4)) {
      throw fail("latent", `floats [B, C, ${video ? "t, " : ""}h, w]`, about(latent));
    }
  } else {
    if (latent) throw fail("levels", "none, as the tokens are a continuous latent", levels);
    if (!indices || !/int/.test(indices.dtype) || indices.shape.length !== (video ? 4 : 3)) {
      throw fail("indices", `whole numbers [B, ${video ? "t, " : ""}h, w]`, about(indices));
    }
    const [batch, ...grid] = indices.shape, wanted = [batch, levels.length, ...grid].join(", ");
    if (preQuant && !(/float/.test(preQuant.dtype) && preQuant.shape.join(", ") === wanted)) {
      throw fail("preQuant", `floats [${wanted}]`, about(preQuant));
    }
  }
  const [gridFrames = 0, gridHeight = 0, gridWidth = 0] = (indices ?? latent!).shape.slice(-3);
  if (video) checkVideo(video, gridFrames, isContinued, fail);
  if (top + height > gridHeight * spatialFactor || left + width > gridWidth * spatialFactor) {
    const found = `${height} by ${width} at ${top}, ${left}`;
    throw fail("picture", `to lie inside ${gridHeight * spatialFactor} by ${gridWidth * spatialFactor} pixels`, found);
  }
}

function checkOrigin(o: Origin, fail: Fail): void {
  if (typeof o !== "object" || o === null) throw fail("origin", "where the tokens came from", o);
  const { model, source, version, precision, sha256, levels } = o;
  for (const [name, text] of Object.entries({ model, source, version })) {
    if (typeof text !== "string" || !text.isWellFormed()) throw fail(name, "a text of whole characters", text);
  }
  if (precision !== undefined && precision !== "f32" && precision !== "bf16") {
    throw fail("precision", "f32 or bf16", precision);
  }
  if (sha256 !== undefined && !(typeof sha256 === "string" && /^[0-9a-f]{64}$/.test(sha256))) {
    throw fail("sha256", "64 hexadecimal digits", sha256);
  }
  if (!Array.isArray(levels)) throw fail("levels", "a list of whole numbers", levels);
  if (levels.length > 0) codebookSize(levels);
  checkSizes(fail, 1, { spatialFactor: o.spatialFactor, height: o.height, width: o.width });
  checkSizes(fail, 0, { top: o.top, left: o.left });
  if (o.video !== undefined && (typeof o.video !== "object" || o.video === null)) {
    throw fail("video", "the frames of a video", o.video);
  }
}

function isSize(size: unknown, least: number): boolean {
  return Number.isInteger(size) && size as number >= least && size as number <= mostSize;
}

function checkSizes(fail: Fail, least: number, sizes: Record<string, unknown>): void {
  for (const [name, size] of Object.entries(sizes)) {
    if (!isSize(size, least)) throw fail(name, least === 1 ? "a positive whole number" : "a whole number", size);
  }
}

/**
 * Throws unless windows (or one seamless sequence) add up to the token frames and the real frames lie inside them, none missing
 * or doubled, and the times are possible ones.
 */
function checkVideo(v: VideoOrigin, gridFrames: number, isContinued: boolean, fail: Fail): void {
  checkSizes(fail, 1, { temporalFactor: v.temporalFactor, frames: v.frames });
  if (v.windows !== undefined && !Array.isArray(v.windows)) throw fail("windows", "a list", v.windows);
  const windows: readonly VideoWindow[] = v.windows ?? [{ tokens: gridFrames, frames: v.frames, before: 0 }];
  const alone = isContinued ? 0 : v.temporalFactor - 1; // frames that the first token frame has not
  let tokens = 0, frames = 0;
  for (const window of windows) { // of which there may be a million
    if (!isSize(window?.tokens, 1) || !isSize(window.frames, 1) || !isSize(window.before, 0)) {
      const { tokens, frames, before } = Object(window);
      throw fail("windows", "whole numbers of tokens and frames", `${tokens}/${frames}/${before}`);
    }
    if (window.before + window.frames > window.tokens * v.temporalFactor - alone) {
      throw fail("windows", `frames that ${window.tokens} token frames hold`, `${window.before} + ${window.frames}`);
    }
    tokens += window.tokens;
    frames += window.frames;
  }
  if (tokens !== gridFrames) throw fail("windows", `${gridFrames} token frames in all, as the tensor has`, tokens);
  if (frames !== v.frames) throw fail("windows", `${v.frames} frames in all`, frames);
  checkTimes(v, fail);
}

function checkTimes({ fps, start, times, sampleAspect, frames }: VideoOrigin, fail: Fail): void {
  if (fps !== undefined && !isFraction(fps)) throw fail("fps", "a fraction such as 30000/1001", fps);
  if (sampleAspect !== undefined && !isAspect(sampleAspect)) {
    throw fail("sampleAspect", "a ratio such as 16:11", sampleAspect);
  }
  if (start !== undefined && !Number.isFinite(start)) throw fail("start", "seconds", start);
  if (times === undefined) return;
  if (start !== undefined) throw fail("start", "none beside times, which begin with it", start);
  if (!Array.isArray(times) || times.length !== frames) throw fail("times", `those of ${frames} frames`, times?.length);
  for (let i = 0; i < times.length; i++) {
    if (!(Number.isFinite(times[i]) && (i === 0 || times[i]! > times[i - 1]!))) {
      throw fail(`times[${i}]`, i === 0 ? "seconds" : `seconds after ${times[i - 1]}`, times[i]);
    }
  }
}

/**
 * Windows as text: "tokens/frames/before" for each, and for one that comes n times in a row "tokens/frames/before*n", so that
 * the windows of any video are a few bytes: "5/17/0*61680 3/8/0".
 */
export function tellWindows(windows: readonly VideoWindow[]): string {
  const runs: { window: VideoWindow; count: number }[] = [];
  for (const window of windows) {
    const last = runs.at(-1), { tokens, frames, before } = window;
    const isLast = last?.window.tokens === tokens && last.window.frames === frames && last.window.before === before;
    if (isLast) last.count++;
    else runs.push({ window, count: 1 });
  }
  return runs.map(({ window: { tokens, frames, before }, count }) => {
    return `${tokens}/${frames}/${before}${count === 1 ? "" : `*${count}`}`;
  }).join(" ");
}

/** Windows of that text. Throws TOKEN_FILE where it is none, and where they have more than `gridFrames` token frames. */
export function parseWindows(text: string, gridFrames: number): VideoWindow[] {
  let total = 0;
  const runs = text.split(" ").map((run) => {
    const terms = /^(\d{1,10})\/(\d{1,10})\/(\d{1,10})(?:\*([1-9]\d{0,9}))?$/.exec(run);
    if (!terms) throw expected("windows", '"tokens/frames/before" for each window', run, "TOKEN_FILE");
    const [tokens = 0, frames = 0, before = 0, count = 1] = terms.slice(1).map((n) => n === undefined ? 1 : Number(n));
    if (tokens === 0) throw expected("windows", "token frames in each", run, "TOKEN_FILE");
    total += tokens * count;
    return { count, window: Object.freeze({ tokens, frames, before }) };
  });
  if (total > gridFrames) {
    throw expected("windows", `${gridFrames} token frames in all, as the tensor has`, total, "TOKEN_FILE");
  }
  return runs.flatMap(({ count, window }) => new Array<VideoWindow>(count).fill(window));
}

/** The source that leaves this machine: no path, unless asked for. */
export function sourceOf({ source, model }: Origin, storePath: boolean): string {
  return source.includes("/") && !storePath ? model : source;
}
