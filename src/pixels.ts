/** From what a user passes as an image to bytes and sizes that a request takes. */
import * as layout from "../ffi/layout.ts";
import { expected } from "./errors.ts";
import { readImage, type ReadImageOptions } from "./media/image.ts";
import { checkTensor, sliceAxis, type TensorLike } from "./tensor.ts";

/**
 * A path, the bytes of an encoded image, or pixels: uint8 [(B,) H, W, 3], float32 [(B,) 3, H, W] in [-1, 1]. For a video
 * tokenizer the path of a video or a folder of images, or uint8 [(B,) T, H, W, 3], float32 [(B,) 3, T, H, W].
 */
export type ImageInput = string | Uint8Array | TensorLike<"uint8"> | TensorLike<"float32">;

export interface Pixels {
  bytes: Uint8Array;
  request: { input: number; batch: number; frames: number; height: number; width: number };
}

/** Reads one input or a batch of equally large ones. Errors: FILE_MISSING, IMAGE, SHAPE, ARGUMENT. */
export async function readPixels(
  input: ImageInput | readonly ImageInput[],
  isVideo: boolean,
  limits: ReadImageOptions,
): Promise<Pixels> {
  if (!Array.isArray(input)) return await readOne(input as ImageInput, "input", isVideo, limits);
  if (input.length === 0) throw expected("input", "at least one image", "an empty array");
  const all = await Promise.all(
    (input as readonly ImageInput[]).map((one, i) => readOne(one, `input[${i}]`, isVideo, limits)),
  );
  const first = all[0]!;
  const about = ({ request: r }: Pixels) => {
    return `${isVideo ? `${r.frames}x` : ""}${r.height}x${r.width} ${
      r.input === layout.kind.pixelsU8 ? "uint8" : "float32"
    }`;
  };
  all.forEach((one, i) => {
    if (about(one) === about(first)) return;
    throw expected(`input[${i}]`, `${about(first)} as input[0], since a batch is one tensor`, about(one), "SHAPE");
  });
  const bytes = new Uint8Array(all.reduce((sum, p) => sum + p.bytes.byteLength, 0));
  let offset = 0;
  for (const p of all) {
    bytes.set(p.bytes, offset);
    offset += p.bytes.byteLength;
  }
  return { bytes, request: { ...first.request, batch: all.reduce((sum, p) => sum + p.request.batch, 0) } };
}

/** Frames `from` to `to` of every clip. */
export function sliceFrames({ bytes, request }: Pixels, from: number, to: number): Pixels {
  const { input, batch, frames, height, width } = request;
  const isBytes = input === layout.kind.pixelsU8; // [B, T, H, W, 3], or [B, 3, T, H, W] of 4 bytes
  const shape = isBytes ? [batch, frames, height * width * 3] : [batch * 3, frames, height * width * 4];
  return {
    bytes: sliceAxis({ dtype: "uint8", shape, data: bytes }, 1, from, to).data,
    request: { ...request, frames: to - from },
  };
}

async function readOne(input: ImageInput, name: string, isVideo: boolean, limits: ReadImageOptions): Promise<Pixels> {
  const wanted = isVideo
    ? "uint8 [(B,) T, H, W, 3] or float32 [(B,) 3, T, H, W]"
    : "uint8 [(B,) H, W, 3] or float32 [(B,) 3, H, W]";
  if (isVideo && (typeof input === "string" || input instanceof Uint8Array)) {
    throw expected(name, `a tensor of frames, ${wanted}`, typeof input);
  }
  const tensor = typeof input === "string" || input instanceof Uint8Array ? await readImage(input, limits) : input;
  if (tensor === null || typeof tensor !== "object") {
    throw expected(name, "a path, the bytes of an image, or a tensor", tensor);
  }
  checkTensor(name, tensor);
  const rank = isVideo ? 5 : 4;
  const shape = tensor.shape.length === rank - 1 ? [1, ...tensor.shape] : tensor.shape;
  const colours = tensor.dtype === "uint8" ? shape.at(-1) : tensor.dtype === "float32" ? shape[1] : undefined;
  if (shape.length !== rank || colours !== 3) {
    throw expected(name, wanted, `${tensor.dtype} [${tensor.shape.join(", ")}]`, "SHAPE");
  }
  const sizes = tensor.dtype === "uint8" ? shape.slice(1, -1) : shape.slice(2);
  const [frames, height, width] = (isVideo ? sizes : [1, ...sizes]) as [number, number, number];
  const kind = tensor.dtype === "uint8" ? layout.kind.pixelsU8 : layout.kind.pixelsF32;
  return { bytes: bytesOf(tensor), request: { input: kind, batch: shape[0]!, frames, height, width } };
}

/** The memory of a tensor. Note: C copies it before submit returns, so the caller may change it afterwards. */
export function bytesOf(tensor: TensorLike): Uint8Array {
  return new Uint8Array(tensor.data.buffer, tensor.data.byteOffset, tensor.data.byteLength);
}
