/**
 * Pictures in and out through sharp: any encoded image to uint8 RGB [1, H, W, 3], and back to a file. Upright (EXIF
 * applied), sRGB, 8 bits (the high byte of 16), grey repeated in three channels, the first page of many. Called by the
 * tokenizer's inputs and the command line. sharp is loaded on first use, so that importing ctok needs no image library.
 *
 * Alpha is dropped, not blended: a background would be our invention, and the public Python pipelines take the first three
 * channels (`image[..., :3]`, PIL's convert("RGB")), so the same picture gives the same tokens there and here.
 */
import { extname } from "node:path";
import { z } from "zod";
import { expected, messageOf, TokenizerError } from "../errors.ts";
import { readWholeFile, writeFileAtomic } from "../files.ts";
import { limitPixels, parse } from "../options.ts";
import { pictureSize } from "../pictures.ts";
import { Tensor, type TensorLike } from "../tensor.ts";

const readImageOptions = z.strictObject({
  /** Largest picture taken, height × width in pixels; a larger one is refused by its header. Default 16383², as sharp's own. */
  limitPixels,
});
export type ReadImageOptions = z.input<typeof readImageOptions>;

const writers = {
  ".png": { format: "png", options: {} },
  ".jpg": { format: "jpeg", options: { quality: 95 } },
  ".jpeg": { format: "jpeg", options: { quality: 95 } },
  ".webp": { format: "webp", options: { quality: 95 } },
  ".avif": { format: "avif", options: { quality: 80 } },
} as const;

/**
 * An image file, or the bytes of one (PNG, JPEG, WebP, AVIF, and what else sharp reads: GIF, TIFF, SVG), as uint8
 * [1, H, W, 3], kind "pixels". Throws FILE_MISSING, FILE_IO, or IMAGE when it is empty, damaged, cut short, no image, or
 * larger than `limitPixels` (`detail`: its pixels), which its header says before memory is taken.
 */
export async function readImage(input: string | Uint8Array, options: ReadImageOptions = {}): Promise<Tensor<"uint8">> {
  const { limitPixels } = parse(readImageOptions, options, "options");
  if (typeof input !== "string" && !(input instanceof Uint8Array)) {
    throw expected("image", "a path or the bytes of an encoded image (Uint8Array)", typeof input);
  }
  const bytes = typeof input === "string" ? await readWholeFile(input) : input;
  const name = typeof input === "string" ? input : `image of ${bytes.length} bytes`;
  if (bytes.length === 0) throw new TokenizerError("IMAGE", `${name}: expected an encoded image, found no bytes at all`);
  const sharp = await loadSharp();
  try {
    // Bytes, never the path: sharp would remember a path's pixels after the file changed.
    const { data, info } = await sharp(bytes, { failOn: "error", limitInputPixels: limitPixels })
      .autoOrient().toColourspace("srgb").removeAlpha().raw().toBuffer({ resolveWithObject: true });
    // An ArrayBuffer of exactly these bytes: a Buffer may be a window into a pool shared with strangers.
    const exact = data.byteLength === data.buffer.byteLength;
    const pixels = exact ? new Uint8Array(data.buffer) : new Uint8Array(data);
    return new Tensor("uint8", [1, info.height, info.width, 3], pixels, { kind: "pixels" });
  } catch (cause) {
    // Why it failed: sharp's words on a picture that is too large name neither size.
    const size = await sharp(bytes, { limitInputPixels: false }).metadata().catch(() => undefined);
    if (size && size.height * size.width > limitPixels) {
      throw tooLarge("IMAGE", name, limitPixels, size.height, size.width, cause);
    }
    const message = `${name}: expected an image that sharp can read, found: ${sayOf(cause)}`;
    throw new TokenizerError("IMAGE", message, { cause });
  }
}

/**
 * Writes uint8 [H, W, 3] or [1, H, W, 3] as PNG, JPEG (quality 95), WebP (quality 95) or AVIF (quality 80), by the
 * extension; PNG without one. The file is written whole or not at all. Throws ARGUMENT for another extension, SHAPE for
 * another shape, UNSUPPORTED when the format cannot hold the size, FILE_IO.
 */
export async function writeImage(path: string, image: TensorLike<"uint8">): Promise<void> {
  const extension = extname(path).toLowerCase() || ".png";
  if (!Object.hasOwn(writers, extension)) throw expected(path, `one of ${Object.keys(writers).join(", ")}`, extension);
  const { format, options } = writers[extension as keyof typeof writers];
  const { height, width } = pictureSize("image", image);
  const sharp = await loadSharp();
  let bytes: Uint8Array;
  try {
    bytes = await sharp(image.data, { raw: { width, height, channels: 3 } }).toFormat(format, options).toBuffer();
  } catch (cause) {
    const message = `${path}: expected a picture that ${format} can hold, found ${height} by ${width} pixels: ${
      sayOf(cause)
    }`;
    throw new TokenizerError("UNSUPPORTED", message, { cause });
  }
  await writeFileAtomic(path, bytes);
}

/** What a picture or frame above `limitPixels` is told. */
export function tooLarge(
  code: "IMAGE" | "VIDEO",
  name: string,
  limitPixels: number,
  height: number,
  width: number,
  cause?: unknown,
): TokenizerError {
  const message = `${name}: expected at most ${limitPixels} pixels (limitPixels), found ${height} by ${width}`;
  return new TokenizerError(code, message, { detail: height * width, cause });
}

async function loadSharp() {
  try {
    return (await import("sharp")).default;
  } catch (cause) {
    const message = `sharp: expected the image library to load (npm install sharp), found: ${messageOf(cause)}`;
    throw new TokenizerError("LIBRARY", message, { cause });
  }
}

/** sharp's message on one line, without libheif's list of seeks. */
function sayOf(error: unknown): string {
  return messageOf(error).split("\n").filter((line) => line.trim() && !line.startsWith("source: bad seek")).join(" ").trim();
}
