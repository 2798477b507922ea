/** From what a user passes as an image to bytes and sizes that a request takes. */
import * as layout from "../ffi/layout.ts";
import { expected } from "./errors.ts";
import { readImage } from "./media/image.ts";
import { checkTensor, type TensorLike } from "./tensor.ts";

/** A path, the bytes of an encoded image, or pixels: uint8 [(B,) H, W, 3], float32 [(B,) 3, H, W] in [-1, 1]. */
export type ImageInput = string | Uint8Array | TensorLike<"uint8"> | TensorLike<"float32">;

export interface Pixels {
  bytes: Uint8Array;
  request: { input: number; batch: number; height: number; width: number };
}

/** Reads one input or a batch of equally large ones. Errors: FILE_MISSING, IMAGE, SHAPE, ARGUMENT. */
export async function readPixels(input: ImageInput | readonly ImageInput[]): Promise<Pixels> {
  if (!Array.isArray(input)) return await readOne(input as ImageInput, "input");
  if (input.length === 0) throw expected("input", "at least one image", "an empty array");
  const all = await Promise.all((input as readonly ImageInput[]).map((one, i) => readOne(one, `input[${i}]`)));
  const first = all[0]!;
  all.forEach(({ request: r }, i) => {
    const { height, width, input: kind } = first.request;
    if (r.height === height && r.width === width && r.input === kind) return;
    throw expected(
      `input[${i}]`,
      `${height}x${width} ${pixelName(kind)} as input[0], since a batch is one tensor`,
      `${r.height}x${r.width} ${pixelName(r.input)}`,
      "SHAPE",
    );
  });
  const bytes = new Uint8Array(all.reduce((sum, p) => sum + p.bytes.byteLength, 0));
  let offset = 0;
  for (const p of all) {
    bytes.set(p.bytes, offset);
    offset += p.bytes.byteLength;
  }
  return { bytes, request: { ...first.request, batch: all.reduce((sum, p) => sum + p.request.batch, 0) } };
}

async function readOne(input: ImageInput, name: string): Promise<Pixels> {
  const tensor = typeof input === "string" || input instanceof Uint8Array ? await readImage(input) : input;
  if (tensor === null || typeof tensor !== "object") {
    throw expected(name, "a path, the bytes of an image, or a tensor", tensor);
  }
  checkTensor(name, tensor);
  const shape = tensor.shape.length === 3 ? [1, ...tensor.shape] : tensor.shape;
  const wanted = "uint8 [(B,) H, W, 3] or float32 [(B,) 3, H, W]";
  const colours = tensor.dtype === "uint8" ? shape[3] : tensor.dtype === "float32" ? shape[1] : undefined;
  if (shape.length !== 4 || colours !== 3) {
    throw expected(name, wanted, `${tensor.dtype} [${tensor.shape.join(", ")}]`, "SHAPE");
  }
  const [batch, height, width] = tensor.dtype === "uint8" ? shape : [shape[0], shape[2], shape[3]];
  const kind = tensor.dtype === "uint8" ? layout.kind.pixelsU8 : layout.kind.pixelsF32;
  return { bytes: bytesOf(tensor), request: { input: kind, batch: batch!, height: height!, width: width! } };
}

function pixelName(kind: number): string {
  return kind === layout.kind.pixelsU8 ? "uint8" : "float32";
}

/** The memory of a tensor. Note: C copies it before submit returns, so the caller may change it afterwards. */
export function bytesOf(tensor: TensorLike): Uint8Array {
  return new Uint8Array(tensor.data.buffer, tensor.data.byteOffset, tensor.data.byteLength);
}
