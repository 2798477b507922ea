/** From what a user passes as tokens to bytes and sizes that a request takes, and to the picture inside its padding. */
import * as layout from "../../ffi/layout.ts";
import { tensorOf } from "../tokens/dense.ts";
import type { RequestValues } from "../../ffi/native.ts";
import { expected, nameOf, TokenizerError } from "../errors.ts";
import type { ModelInfo } from "./info.ts";
import { bytesOf } from "./pixels.ts";
import { codebookSize, tellQuantizer } from "../tokens/quantizer.ts";
import { type Origin, Tensor, type TensorLike, Tokens } from "../tokens/tensor.ts";

export interface TokenInput {
  bytes: Uint8Array;
  input: number;
  batch: number;
  frames: number;
  height: number;
  width: number;
  origin: Origin | undefined;
}

/** Checks dtype, rank and channels against the model; a missing batch is one. Errors: SHAPE, UNSUPPORTED, ARGUMENT. */
export function tokenInput(info: ModelInfo, tokens: Tokens | TensorLike): TokenInput {
  const tensor = mainOf("tokens", tokens), { origin, kind } = tensor;
  const { name, isDiscrete, isVideo, latentChannels } = info;
  const grid = isVideo ? "t, h, w" : "h, w";
  const wanted = isDiscrete
    ? `indices int32 or uint16 [B, ${grid}], or codes float32 [B, ${latentChannels}, ${grid}]`
    : `a latent float32 [B, ${latentChannels}, ${grid}]`;
  if (kind === "preQuant") throw expected(`${name} decodes`, wanted, "preQuant, which is not quantised", "UNSUPPORTED");
  const isIndices = tensor.dtype === "int32" || tensor.dtype === "uint16";
  if (tensor.dtype === "uint8" || (isIndices && !isDiscrete)) {
    throw expected(`${name} decodes`, wanted, tensor.dtype, "UNSUPPORTED");
  }
  const rank = (isIndices ? 3 : 4) + (isVideo ? 1 : 0);
  const shape = tensor.shape.length === rank - 1 ? [1, ...tensor.shape] : [...tensor.shape];
  if (shape.length !== rank || (!isIndices && shape[1] !== latentChannels)) {
    throw expected(`${name} decodes`, wanted, tensor.shape, "SHAPE");
  }
  const bytes = bytesOf(
    tensor.dtype === "uint16" ? { dtype: "int32", shape, data: Int32Array.from(tensor.data) } : tensor,
  );
  const input = isIndices ? layout.kind.indices : isDiscrete ? layout.kind.codes : layout.kind.latent;
  const [height, width] = shape.slice(-2) as [number, number];
  return { bytes, input, batch: shape[0]!, frames: isVideo ? shape.at(-3)! : 1, height, width, origin };
}

/** The tensor that decode takes, its fields read once. */
function mainOf(name: string, tokens: Tokens | TensorLike): ReturnType<typeof tensorOf> {
  const given = tokens instanceof Tokens ? tokens.main : tokens;
  if (given === null || typeof given !== "object") {
    throw expected(name, "what encode returned, or a tensor", nameOf(given));
  }
  return tensorOf(name, given);
}

/** Copies the tokens into memory of their own, for work after the call's first tick. Throws as checkOrigin. */
export function ownTokens(name: string, tokens: Tokens | TensorLike): Tensor {
  const tensor = mainOf(name, tokens);
  checkOrigin(name, tensor);
  return new Tensor(tensor.dtype, tensor.shape, tensor.data.slice(), tensor);
}

/**
 * Numbers that a caller's own origin may have wrong (those of a file were checked when it was read), and windows that
 * are not those of the tensor. Throws ARGUMENT, SHAPE.
 */
export function checkOrigin(
  name: string,
  { origin, dtype, shape }: TensorLike & { origin?: Origin | undefined },
): void {
  if (!origin) return;
  const check = (what: string, least: number, value: unknown) => {
    if (Number.isInteger(value) && value as number >= least && value as number <= 0xffff_ffff) return;
    throw expected(`${name}.origin.${what}`, `a whole number from ${least} to ${0xffff_ffff}`, value);
  };
  const { spatialFactor, quantizer, height, width, top, left, video } = origin;
  for (const [what, value] of Object.entries({ spatialFactor, height, width })) check(what, 1, value);
  for (const [what, value] of Object.entries({ top, left })) check(what, 0, value);
  if (quantizer !== undefined) codebookSize(quantizer);
  if (!video) return;
  check("video.temporalFactor", 1, video.temporalFactor);
  check("video.frames", 1, video.frames);
  if (video.windows === undefined) return;
  if (!Array.isArray(video.windows)) throw expected(`${name}.origin.video.windows`, "a list", nameOf(video.windows));
  let sum = 0;
  for (const [i, { tokens, frames, before }] of video.windows.entries()) {
    check(`video.windows[${i}].tokens`, 1, tokens);
    check(`video.windows[${i}].frames`, 1, frames);
    check(`video.windows[${i}].before`, 0, before);
    sum += tokens;
  }
  const frames = shape.at(-3)!; // of [B, t, h, w] and of [B, C, t, h, w], with or without B
  if (sum === frames) return;
  const found = `windows of ${sum} in the origin of ${dtype} [${shape.join(", ")}]`;
  throw expected(`${name}.origin.video.windows`, `${frames} frames of tokens in all`, found, "SHAPE");
}

/**
 * Where the picture lies inside its padding, if the tokens say so. Tokens that were cut to another size are decoded
 * with all their padding.
 */
export function cropOf(info: ModelInfo, origin: Origin | undefined, height: number, width: number): RequestValues {
  if (!origin) return {};
  const { name, spatialFactor, temporalFactor, quantizer } = info;
  const other = {
    spatialFactor: origin.spatialFactor,
    temporalFactor: origin.video?.temporalFactor ?? 1,
    quantizer: origin.quantizer,
  };
  const about = (o: typeof other) =>
    `factor ${o.temporalFactor > 1 ? `${o.temporalFactor}x` : ""}${o.spatialFactor}, ${tellQuantizer(o.quantizer)}`;
  if (about(other) !== about({ spatialFactor, temporalFactor, quantizer })) {
    const wanted = `tokens of ${about({ spatialFactor, temporalFactor, quantizer })}`,
      found = `tokens of ${origin.model} (${about(other)})`;
    throw new TokenizerError("UNSUPPORTED", `${name}: expected ${wanted}, found ${found}`);
  }
  const fits = (tokens: number, pixels: number, before: number) => {
    const missing = tokens * spatialFactor - pixels;
    return missing >= 0 && before === Math.floor(missing / 2);
  };
  if (!fits(height, origin.height, origin.top) || !fits(width, origin.width, origin.left)) return {};
  return { crop_top: origin.top, crop_left: origin.left, crop_height: origin.height, crop_width: origin.width };
}
