/**
 * Pictures in and out through sharp: any encoded image to uint8 RGB [1, H, W, 3], and back to a file. Upright (EXIF
 * applied), sRGB, 8 bits (the high byte of 16), grey repeated in three channels, the first page of many. Called by the
 * tokenizer's inputs and the command line. What sharp is asked is in picture.ts; ordinary pictures are decoded in this
 * process, those that can cost more than their size says in one that can be killed (apart.ts).
 *
 * Alpha is dropped, not blended: a background would be our invention, and the public Python pipelines take the first
 * three channels (`image[..., :3]`, PIL's convert("RGB")), so the same picture gives the same tokens there and here.
 */
import { extname } from "node:path";
import { z } from "zod";
import { pictureSize } from "../tokens/dense.ts";
import { orAbort, throwIfAborted } from "../abort.ts";
import { expected, TokenizerError } from "../errors.ts";
import { writeFileAtomic } from "../files.ts";
import { type BytesSource, takeBytes, type Taken } from "../inputs.ts";
import { type Fields, parse, type PictureLimits, pictureLimits, signal } from "../checks.ts";
import { Tensor, type TensorLike } from "../tokens/tensor.ts";
import { decodeApart, NoHelper } from "./apart.ts";
import { decode, type Decoded, type Format, formatOf, glanceAt, loadSharp, lookAt, sayOf } from "./picture.ts";

export interface ReadImageOptions extends PictureLimits {
  /** Aborting it ends the reading at once, with code CANCELLED. */
  signal?: AbortSignal | undefined;
}
const readImageOptions = z.strictObject({ ...pictureLimits, signal } satisfies Fields<ReadImageOptions>);
/** The options of `readImage` with their defaults filled in. */
export type PictureOptions = z.output<typeof readImageOptions>;

export interface WriteImageOptions {
  /** Aborting it ends the writing at once, with code CANCELLED; a file of that name stays as it was. */
  signal?: AbortSignal | undefined;
}
const writeImageOptions = z.strictObject({ signal } satisfies Fields<WriteImageOptions>);

const writers = {
  ".png": { format: "png", options: {} },
  ".jpg": { format: "jpeg", options: { quality: 95 } },
  ".jpeg": { format: "jpeg", options: { quality: 95 } },
  ".webp": { format: "webp", options: { quality: 95 } },
  ".avif": { format: "avif", options: { quality: 80 } },
} as const;
/** Extensions of the pictures that writeImage writes. */
export const pictureExtensions: readonly string[] = Object.keys(writers);

/**
 * Formats whose decoding cost is known from the header and the file's size, so that they need no helper process: a
 * JPEG's scans are counted, PNG and WebP go over their pixels once. In a GIF or an animated WebP all frames are read to
 * find the first one, a TIFF's tiles and an AVIF's hidden frames may cost anything, and an SVG is a program.
 */
const here: readonly Format[] = ["jpeg", "png", "webp"];
/**
 * The most that is decoded in this process, where nothing can stop it: about a second of one core, for noise in WebP.
 */
const mostHere = { pixels: 2 ** 24, bytes: 2 ** 24 };

/**
 * An image file, or the bytes of one (PNG, JPEG, WebP, AVIF, GIF, TIFF; SVG with `svg: true`), as uint8 [1, H, W, 3],
 * kind "pixels". Bytes are copied before the call returns: the caller may change them afterwards.
 * Throws FILE_MISSING, FILE_IO, or IMAGE when it is empty, damaged, cut short, no image, or larger than `limitPixels`
 * (`detail`: its pixels), which its header says before memory is taken, or costs more time or memory than allowed;
 * CANCELLED at once when `signal` fires; THREAD when no helper process starts and the picture needs one.
 */
export async function readImage(input: BytesSource, options: ReadImageOptions = {}): Promise<Tensor<"uint8">> {
  const taken = takeBytes("image", input);
  return await decodeImage(taken, parse(readImageOptions, options, "options"));
}

/** Decodes a picture whose bytes were read already. */
export async function decodeImage(taken: Taken, o: PictureOptions): Promise<Tensor<"uint8">> {
  const { bytes, format } = await encodedImage(taken, o);
  const { height, width, data } = await decodeSomewhere(bytes, format, taken.name, o);
  return new Tensor("uint8", [1, height, width, 3], data, { kind: "pixels" });
}

/**
 * The height and width that `readImage` would give a picture, in pixels, by its header alone; the pixels may turn out
 * to be damaged all the same. Takes and throws what `readImage` does.
 */
export async function readImageSize(
  input: BytesSource,
  options: ReadImageOptions = {},
): Promise<{ readonly height: number; readonly width: number }> {
  const taken = takeBytes("image", input), o = parse(readImageOptions, options, "options");
  const { bytes, format } = await encodedImage(taken, o), { name } = taken;
  const { limitPixels, limitSeconds, limitMemory, signal } = o;
  const ofHeader = async () => (await orAbort(lookAt(bytes, name, limitPixels), signal)).autoOrient;
  const order = { name, limitPixels, limitSeconds, limitMemory, isSizeOnly: true };
  const { height, width } = here.includes(format) ? await ofHeader() : await decodeApart(bytes, order, signal)
    .catch((error) => {
      if (error instanceof NoHelper && format !== "text") return ofHeader();
      throw error instanceof NoHelper ? noHelper(name, error) : error;
    });
  return { height, width };
}

/** The bytes of a picture, after checking that sharp may read it. */
async function encodedImage(taken: Taken, o: PictureOptions): Promise<{ bytes: Uint8Array; format: Format }> {
  const { name } = taken;
  throwIfAborted(o.signal);
  const bytes = await taken.read(o.signal);
  if (bytes.length === 0) {
    throw new TokenizerError("IMAGE", `${name}: expected an encoded image, found no bytes at all`);
  }
  const format = formatOf(bytes);
  if (!format) {
    throw new TokenizerError(
      "IMAGE",
      `${name}: expected an image that sharp can read, found: Input buffer contains unsupported image format`,
    );
  }
  if (format === "text" && !o.svg) {
    const message =
      `${name}: expected pixels, found what may be SVG, which is drawn only when asked for (svg: true, --svg)`;
    throw new TokenizerError("IMAGE", message);
  }
  return { bytes, format };
}

async function decodeSomewhere(
  bytes: Uint8Array,
  format: Format,
  name: string,
  { signal, limitPixels, limitSeconds, limitMemory }: PictureOptions,
): Promise<Decoded> {
  const isSmall = (pixels: number) => pixels <= mostHere.pixels && bytes.length <= mostHere.bytes;
  const inProcess = async (mostPixels = Infinity) => {
    const about = await orAbort(glanceAt(bytes, name, limitPixels), signal);
    if (!isSmall(about.height * about.width) || about.height * about.width > mostPixels) return undefined;
    return await orAbort(decode(bytes, name, about), signal);
  };
  const decoded = here.includes(format) ? await inProcess() : undefined;
  if (decoded) return decoded;
  try {
    return await decodeApart(bytes, { name, limitPixels, limitSeconds, limitMemory }, signal);
  } catch (error) {
    if (!(error instanceof NoHelper)) throw error;
    const again = format === "text" ? undefined : await inProcess();
    if (again) return again;
    throw noHelper(name, error);
  }
}

function noHelper(name: string, cause: NoHelper): TokenizerError {
  const message = `${name}: expected a process to decode it in, which such a picture needs, found: ${cause.message}`;
  return new TokenizerError("THREAD", message, { cause });
}

/**
 * Writes uint8 [H, W, 3] or [1, H, W, 3], or what detokenize returned, as PNG, JPEG (quality 95), WebP (quality 95) or
 * AVIF (quality 80), by the extension; PNG without one. The pixels are copied before the call returns, and the file is
 * written whole or not at all. Throws ARGUMENT for another extension, SHAPE for another shape, UNSUPPORTED when the
 * format cannot hold the size, FILE_IO, CANCELLED.
 */
export async function writeImage(
  path: string,
  image: TensorLike<"uint8">,
  options: WriteImageOptions = {},
): Promise<void> {
  const { signal } = parse(writeImageOptions, options, "options");
  if (typeof path !== "string") throw expected("path", "a string", path);
  const extension = extname(path).toLowerCase() || ".png";
  if (!Object.hasOwn(writers, extension)) throw expected(path, `one of ${pictureExtensions.join(", ")}`, extension);
  const { format, options: quality } = writers[extension as keyof typeof writers];
  const { height, width } = pictureSize("image", image);
  const data = new Uint8Array(image.data); // a copy
  throwIfAborted(signal);
  const sharp = await loadSharp();
  const encode = async () => {
    try {
      return await sharp(data, { raw: { width, height, channels: 3 } }).toFormat(format, quality).toBuffer();
    } catch (cause) {
      const message = `${path}: expected a picture that ${format} can hold, found ${width}x${height} pixels: ${
        sayOf(cause)
      }`;
      throw new TokenizerError("UNSUPPORTED", message, { cause });
    }
  };
  await writeFileAtomic(path, await orAbort(encode(), signal));
}
