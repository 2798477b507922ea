/**
 * Whether tensors and the origin that they came with fit: one check, made of what is read and of what is written, so
 * that nothing is written that could not be read back. Called by tensor.ts for every form of tokens.
 */
import { expected, type TokenizerError } from "../errors.ts";
import { isAspect, isFraction, type Origin, type VideoOrigin, type VideoWindow } from "./origin.ts";
import { channelsOf, tellQuantizer } from "./quantizer.ts";

/** The largest size that a shape may have. */
const mostSize = 0xffff_ffff;

type Fail = (what: string, wanted: string, found: unknown) => TokenizerError;

/** The type and shape of a tensor, which is all that is checked here. */
interface About {
  readonly dtype: string;
  readonly shape: readonly number[];
}
type Parts = { readonly [K in "indices" | "latent" | "preQuant"]?: About };

/**
 * Throws unless the tensors and the origin fit: which there are, types (whole numbers or floats of any size), ranks,
 * channels, the picture inside the grid, the frames inside their windows, times that increase. `isContinued`: a part of
 * a seamless sequence that begins behind its start, where each token frame has all of its frames.
 */
export function checkTokens(origin: Origin, parts: Parts, code: "SHAPE" | "TOKEN_FILE", isContinued = false): void {
  const fail: Fail = (what, wanted, found) => expected(what, wanted, found, code);
  checkOrigin(origin, fail);
  const { quantizer, spatialFactor, height, width, top, left, video } = origin;
  const { indices, latent, preQuant } = parts;
  const about = (t: About | undefined) => t ? `${t.dtype} [${t.shape.join(", ")}]` : "none";
  if (quantizer === undefined) {
    if (indices || preQuant) throw fail("quantizer", "that which the indices count in", "none");
    if (!latent || !/float/.test(latent.dtype) || latent.shape.length !== (video ? 5 : 4)) {
      throw fail("latent", `floats [B, C, ${video ? "t, " : ""}h, w]`, about(latent));
    }
  } else {
    if (latent) throw fail("quantizer", "none, as the tokens are a continuous latent", tellQuantizer(quantizer));
    if (!indices || !/int/.test(indices.dtype) || indices.shape.length !== (video ? 4 : 3)) {
      throw fail("indices", `whole numbers [B, ${video ? "t, " : ""}h, w]`, about(indices));
    }
    const [batch, ...grid] = indices.shape, wanted = [batch, channelsOf(quantizer), ...grid].join(", ");
    if (preQuant && !(/float/.test(preQuant.dtype) && preQuant.shape.join(", ") === wanted)) {
      throw fail("preQuant", `floats [${wanted}]`, about(preQuant));
    }
  }
  const [gridFrames = 0, gridHeight = 0, gridWidth = 0] = (indices ?? latent!).shape.slice(-3);
  if (video) checkVideo(video, gridFrames, isContinued, fail);
  if (top + height > gridHeight * spatialFactor || left + width > gridWidth * spatialFactor) {
    const found = `${width}x${height} at ${left}, ${top}`;
    throw fail("picture", `to lie inside ${gridWidth * spatialFactor}x${gridHeight * spatialFactor} pixels`, found);
  }
}

function checkOrigin(o: Origin, fail: Fail): void {
  if (typeof o !== "object" || o === null) throw fail("origin", "where the tokens came from", o);
  const { model, source, version, precision, sha256, quantizer } = o;
  for (const [name, text] of Object.entries({ model, source, version })) {
    if (typeof text !== "string" || !text.isWellFormed()) throw fail(name, "a text of whole characters", text);
  }
  if (precision !== undefined && precision !== "f32" && precision !== "bf16") {
    throw fail("precision", "f32 or bf16", precision);
  }
  if (sha256 !== undefined && !(typeof sha256 === "string" && /^[0-9a-f]{64}$/.test(sha256))) {
    throw fail("sha256", "64 hexadecimal digits", sha256);
  }
  if ("levels" in o) throw fail("levels", "none: they stand in quantizer, as fsq(levels) gives it", o.levels);
  if (quantizer !== undefined) channelsOf(quantizer);
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
 * Throws unless windows (or one seamless sequence) add up to the token frames and the real frames lie inside them, none
 * missing or doubled, and the times are possible ones.
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
