/** From what a user passes as tokens to bytes and sizes that a request takes, and to the picture inside its padding. */
import * as layout from "../ffi/layout.ts";
import type { RequestValues } from "../ffi/native.ts";
import { expected, TokenizerError } from "./errors.ts";
import type { ModelInfo } from "./info.ts";
import { bytesOf } from "./pixels.ts";
import { checkTensor, type Origin, type Tensor, type TensorLike, Tokens } from "./tensor.ts";

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
  let tensor: TensorLike = tokens instanceof Tokens ? tokens.main : tokens;
  if (tensor === null || typeof tensor !== "object") throw expected("tokens", "what encode returned, or a tensor", tensor);
  checkTensor("tokens", tensor);
  const { name, isDiscrete, isVideo, latentChannels } = info;
  const { origin, kind } = tensor as Tensor;
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
  if (tensor.dtype === "uint16") tensor = { dtype: "int32", shape, data: Int32Array.from(tensor.data) };
  const input = isIndices ? layout.kind.indices : isDiscrete ? layout.kind.codes : layout.kind.latent;
  const [height, width] = shape.slice(-2) as [number, number];
  return { bytes: bytesOf(tensor), input, batch: shape[0]!, frames: isVideo ? shape.at(-3)! : 1, height, width, origin };
}

/** The picture inside its padding, where the tokens remember one. Tokens cut to another size are decoded whole. */
export function cropOf(info: ModelInfo, origin: Origin | undefined, height: number, width: number): RequestValues {
  if (!origin) return {};
  const { name, spatialFactor, temporalFactor, levels } = info;
  const other = {
    spatialFactor: origin.spatialFactor,
    temporalFactor: origin.video?.temporalFactor ?? 1,
    levels: origin.levels,
  };
  const about = (o: typeof other) =>
    `factor ${o.temporalFactor > 1 ? `${o.temporalFactor}x` : ""}${o.spatialFactor}, ${
      o.levels.length ? `FSQ levels ${o.levels.join(" ")}` : "continuous"
    }`;
  if (about(other) !== about({ spatialFactor, temporalFactor, levels })) {
    const wanted = `tokens of ${about({ spatialFactor, temporalFactor, levels })}`,
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
