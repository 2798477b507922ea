/**
 * From an item's bytes to the pixels that are tokenised: decoded as `ctok encode` decodes the file (the same pixels
 * where nothing is scaled), then scaled, cut and mirrored as the options say. The same pixels on every machine with the
 * same decoders (`decoderVersions`). Called by whoever makes samples.
 *
 * Scaling is libvips' Lanczos (3 lobes) on the decoded pixels, in sRGB, whatever the format. Note: not while a JPEG is
 * decoded, which is faster for large photos and gives other pixels for a JPEG than for a PNG of the same picture.
 */
import { basename } from "node:path";
import { z } from "zod";
import { orAbort, throwIfAborted } from "../abort.ts";
import { type Fields, parse, type PictureLimits, pictureLimits } from "../checks.ts";
import { expected } from "../errors.ts";
import { findFfmpeg, startFfmpeg } from "../media/ffmpeg.ts";
import { VideoFrame } from "../media/frames.ts";
import { decodeImage } from "../media/image.ts";
import { alone, loadSharp } from "../media/picture.ts";
import { openVideo } from "../media/video.ts";
import { allocate } from "../model/pixels.ts";
import { type Rate, rateOption, rateText } from "../tokens/rate.ts";
import { Tensor } from "../tokens/tensor.ts";
import { ClipReader, type ScaledFrame } from "./clipreader.ts";
import type { Item, Place, SampleFacts } from "./item.ts";
import { checkLooks, type Look, lookAt, lookFields, type LookOptions, numVariantsOf } from "./looks.ts";
import { nameOfPlace, type Places } from "./places.ts";
import { spool, type Spooled } from "./spool.ts";

export interface PrepareOptions extends LookOptions, PictureLimits {
  /** The rate to which videos are resampled. Default: their own. */
  fps?: number | Rate | undefined;
  /** The most frames taken of a video that is not cut into clips. */
  frames?: number | undefined;
  /** Most frames that a video may have; one more is an error. Default 1,048,576. */
  limitFrames?: number | undefined;
}
const fields = {
  ...lookFields,
  ...pictureLimits,
  fps: rateOption.optional(),
  frames: z.int().min(1).optional(),
  limitFrames: z.int().min(1).default(1 << 20),
} satisfies Fields<PrepareOptions>;
/** Schema of the options. What it returns is plain JSON: the plan keeps it, defaults included. */
export const prepareOptions = z.strictObject(fields).superRefine(checkLooks);

export type Prepared =
  /** One picture, uint8 [1, H, W, 3]. */
  | { readonly kind: "image"; readonly pixels: Tensor<"uint8">; readonly facts: SampleFacts }
  /** One clip of a video, uint8 [1, T, H, W, 3]. */
  | { readonly kind: "clip"; readonly pixels: Tensor<"uint8">; readonly facts: SampleFacts }
  /**
   * A whole video, uint8 [H, W, 3] each, read as they are asked for. How many there are (`facts.numFrames`) is known at
   * their end.
   */
  | { readonly kind: "video"; readonly frames: AsyncIterable<VideoFrame>; readonly facts: SampleFacts };

/** Decoded pictures of which several looks are taken, and videos of which more clips may be asked for. */
const mostShared = 8, mostReaders = 4;

export class Preparer implements AsyncDisposable {
  readonly #options: z.output<typeof prepareOptions>;
  readonly #places: Places;
  readonly #numVariants: number;
  /** Decoded pictures that several looks share; the most recently used is last. */
  readonly #shared = new Map<string, Promise<Scaled>>();
  readonly #readers = new Map<string, ClipReader>();
  /** Temporary files of whole videos that are still being read. */
  readonly #files = new Set<Spooled>();

  /** Checks the options. Throws ARGUMENT. The caller closes `places`. */
  constructor(options: PrepareOptions, places: Places) {
    this.#options = parse(prepareOptions, options, "options");
    this.#places = places;
    this.#numVariants = numVariantsOf(this.#options);
  }

  /**
   * Decodes and resizes an item. Any number may be in work; clips of one video that are asked for in the plan's order
   * are read in one pass. Errors: those of reading its place (FILE_MISSING, FILE_IO, FILE_FORMAT), IMAGE or VIDEO for
   * what cannot be decoded, is larger than `limitPixels` or smaller than `minSize`, or ends before its clip does;
   * FFMPEG, LIBRARY, THREAD, MEMORY; CANCELLED. `isItemsFault` (source.ts) tells which of them are the item's own.
   */
  async prepare(item: Item, signal?: AbortSignal): Promise<Prepared> {
    throwIfAborted(signal);
    if (item.kind === "image") return await this.#image(item, signal);
    return item.clip ? await this.#clip(item, item.clip, signal) : await this.#video(item, signal);
  }

  async [Symbol.asyncDispose](): Promise<void> {
    const all = [...this.#readers.values(), ...this.#files];
    this.#readers.clear(), this.#shared.clear(), this.#files.clear();
    await Promise.all(all.map((one) => one[Symbol.asyncDispose]()));
  }

  async #image(item: Item, signal?: AbortSignal): Promise<Prepared> {
    const isShared = this.#numVariants > 1;
    const scaled = isShared ? await orAbort(this.#share(item), signal) : await this.#scaledImage(item, signal);
    const look = this.#lookOf(item, scaled.original), part = cut(scaled, look);
    const data = isShared && part === scaled.data ? new Uint8Array(part) : part;
    const pixels = new Tensor("uint8", [1, look.height, look.width, 3], data, { kind: "pixels" });
    return { kind: "image", pixels, facts: factsOf(item.place, scaled.original, look) };
  }

  /** One decoding for all looks at a picture, which follow each other. */
  async #share(item: Item): Promise<Scaled> {
    const id = JSON.stringify(item.place), scaled = this.#shared.get(id) ?? this.#scaledImage(item);
    this.#shared.delete(id), this.#shared.set(id, scaled);
    scaled.catch(() => this.#shared.delete(id));
    for (const oldest of this.#shared.keys()) if (this.#shared.size > mostShared) this.#shared.delete(oldest);
    return await scaled;
  }

  async #scaledImage(item: Item, signal?: AbortSignal): Promise<Scaled> {
    const { place, identity } = item, name = nameOfPlace(place);
    const { limitPixels, limitSeconds, limitMemory, svg } = this.#options;
    const read = (signal?: AbortSignal) => this.#places.read(place, identity, signal);
    const decoded = await decodeImage({ name, read }, { limitPixels, limitSeconds, limitMemory, svg, signal });
    const [, height = 0, width = 0] = decoded.shape, original = { height, width };
    checkSize(name, original, this.#options.minSize, "IMAGE");
    return { ...await scale({ ...original, data: decoded.data }, this.#lookOf(item, original)), original };
  }

  async #clip(
    item: Item,
    { firstFrame, numFrames }: NonNullable<Item["clip"]>,
    signal?: AbortSignal,
  ): Promise<Prepared> {
    const name = nameOfPlace(item.place);
    const { info, frames } = await this.#readerOf(item).read(name, firstFrame, numFrames, signal);
    const look = this.#lookOf(item, info), frameBytes = look.height * look.width * 3;
    const data = allocate(name, frames.length * frameBytes);
    for (const [i, frame] of frames.entries()) data.set(cut(frame, look), i * frameBytes);
    const pixels = new Tensor("uint8", [1, frames.length, look.height, look.width, 3], data, { kind: "pixels" });
    const facts = { ...factsOf(item.place, info, look), numFrames: frames.length, fps: rateText(info.fps), firstFrame };
    return { kind: "clip", pixels, facts };
  }

  #readerOf(item: Item): ClipReader {
    const { place, identity } = item, id = JSON.stringify(place), name = nameOfPlace(place);
    const { fps, limitPixels, limitFrames, minSize } = this.#options;
    let reader = this.#readers.get(id);
    this.#readers.delete(id);
    reader ??= new ClipReader(
      () => spool(place, identity, this.#places),
      { fps, limitPixels, limitFrames },
      (frame) => {
        checkSize(name, frame, minSize, "VIDEO");
        return scale(frame, this.#lookOf(item, frame));
      },
    );
    this.#readers.set(id, reader);
    for (const [oldest, other] of this.#readers) {
      if (this.#readers.size <= mostReaders || other === reader) break;
      if (other.numPending > 0) continue;
      this.#readers.delete(oldest);
      other[Symbol.asyncDispose]().catch(() => {});
    }
    return reader;
  }

  async #video(item: Item, signal?: AbortSignal): Promise<Prepared> {
    const { place, identity } = item, name = nameOfPlace(place);
    const { fps, frames: most, limitPixels, limitFrames, minSize } = this.#options;
    const file = await spool(place, identity, this.#places, signal);
    this.#files.add(file);
    const leave = async () => {
      if (this.#files.delete(file)) await file[Symbol.asyncDispose]();
    };
    try {
      const source = await file.named(() =>
        openVideo(file.path, { fps, frames: most, limitPixels, limitFrames, signal })
      );
      const { height, width } = source.info;
      checkSize(name, { height, width }, minSize, "VIDEO");
      const look = this.#lookOf(item, source.info);
      const frames = async function* (): AsyncGenerator<VideoFrame> {
        const stored = source.frames();
        try {
          for (let next; !(next = await file.named(() => stored.next())).done;) {
            const scaled = await scale({ height, width, data: next.value.data }, look);
            yield new VideoFrame(look.height, look.width, cut(scaled, look), next.value.seconds);
          }
        } finally {
          await stored.return();
          await leave();
        }
      };
      const facts = { ...factsOf(place, source.info, look), fps: rateText(source.info.fps), firstFrame: 0 };
      return { kind: "video", frames: frames(), facts };
    } catch (error) {
      await leave();
      throw error;
    }
  }

  #lookOf({ key, variant }: Item, { height, width }: Size): Look {
    return lookAt(height, width, this.#options, key, variant);
  }
}

interface Size {
  readonly height: number;
  readonly width: number;
}
interface Scaled extends ScaledFrame {
  readonly original: Size;
}

function checkSize(name: string, { height, width }: Size, least: number, code: "IMAGE" | "VIDEO"): void {
  const shorter = Math.min(height, width);
  if (shorter >= least) return;
  throw expected(name, `a shorter side of at least ${least} pixels (minSize)`, shorter, code);
}

async function scale(frame: ScaledFrame, { scaledHeight: height, scaledWidth: width }: Look): Promise<ScaledFrame> {
  if (frame.height === height && frame.width === width) return frame;
  const sharp = await loadSharp(), raw = { width: frame.width, height: frame.height, channels: 3 } as const;
  const data = await sharp(frame.data, { raw, limitInputPixels: false })
    .resize(width, height, { fit: "fill", kernel: "lanczos3" }).raw().toBuffer();
  return { height, width, data: alone(data) };
}

/**
 * Cuts out the part of a scaled picture that a look wants. Where that is all of it, the picture's own memory is
 * returned.
 */
function cut(frame: ScaledFrame, { top, left, height, width, isFlipped }: Look): Uint8Array {
  if (height === frame.height && width === frame.width && !isFlipped) return frame.data;
  const out = new Uint8Array(height * width * 3), rowBytes = width * 3;
  for (let y = 0; y < height; y++) {
    const from = ((top + y) * frame.width + left) * 3, row = frame.data.subarray(from, from + rowBytes);
    out.set(row, y * rowBytes);
    if (isFlipped) flip(out.subarray(y * rowBytes, (y + 1) * rowBytes));
  }
  return out;
}

/** Mirrors a row of pixels, in place. */
function flip(row: Uint8Array): void {
  for (let a = 0, b = row.length - 3; a < b; a += 3, b -= 3) {
    for (let c = 0; c < 3; c++) [row[a + c], row[b + c]] = [row[b + c]!, row[a + c]!];
  }
}

function factsOf(place: Place, original: Size, look: Look): SampleFacts {
  const { scaledHeight, scaledWidth, top, left, height, width, isFlipped, bucket } = look;
  const isCut = height !== scaledHeight || width !== scaledWidth;
  return {
    fileName: fileNameOf(place),
    height,
    width,
    originalHeight: original.height,
    originalWidth: original.width,
    ...(isCut && { cropTop: top, cropLeft: left }),
    ...(isFlipped && { isFlipped }),
    ...(bucket !== undefined && { bucket }),
  };
}

function fileNameOf(place: Place): string {
  if (place.kind === "file") return basename(place.path);
  if (place.kind === "tar") return basename(place.member);
  return place.kind === "text" ? "" : `${basename(place.path)}#${place.row}`;
}

/** Versions on which pixels depend: those of sharp and the libraries in it, and for videos that of FFmpeg. */
export async function decoderVersions(kind: Item["kind"]): Promise<Readonly<Record<string, string>>> {
  const { versions } = await loadSharp();
  const all = Object.entries(versions).filter(([, version]) => version !== undefined) as [string, string][];
  const own = Object.fromEntries(all.sort(([a], [b]) => a < b ? -1 : 1));
  if (kind === "image") return own;
  const run = startFfmpeg(await findFfmpeg(), ["-version"]);
  let text = "";
  for await (const chunk of run.stdout) text += String(chunk);
  await run.ended;
  return { ...own, ffmpeg: /^ffmpeg version (\S+)/.exec(text)?.[1] ?? "unknown" };
}
