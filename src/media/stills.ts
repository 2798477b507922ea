/** Images as frames: one still image, or the images of a folder in their order. Called by video.ts and videofile.ts. */
import { open, readdir, stat } from "node:fs/promises";
import { basename, extname, join } from "node:path";
import { throwIfAborted } from "../abort.ts";
import { expected, TokenizerError } from "../errors.ts";
import { ioError } from "../files.ts";
import { readExtensions } from "./kinds.ts";
import type { Options, VideoInfo, VideoSource } from "./clip.ts";
import { readImage } from "./image.ts";
import { formatOf } from "./picture.ts";
import { toRate } from "../tokens/rate.ts";

/** Pictures that may be frames. SVG is not among them: it is drawn only on request, and here nobody can ask. */
const imageExtensions = readExtensions.picture.filter((extension) => extension !== ".svg");
/** Extensions of Motion JPEG, which is one JPEG after another and begins as a single one does. */
const motionExtensions = [".mjpeg", ".mjpg"];

/** Whether a file is one picture that sharp reads, by its first bytes, whatever its name; one that moves is none. */
export async function isStill(path: string): Promise<boolean> {
  const bytes = new Uint8Array(64);
  const file = await open(path).catch((error) => {
    throw ioError(path, "read", error);
  });
  try {
    await file.read(bytes, 0, bytes.length, 0);
  } finally {
    await file.close();
  }
  switch (formatOf(bytes)) {
    case "jpeg":
      return !motionExtensions.includes(extname(path).toLowerCase());
    case "png":
      return !await hasAnimation(path);
    case "webp":
    case "tiff":
      return true;
    case "heif": // which shares its first bytes with MP4
      return ["avif", "heic", "heix", "mif1"].includes(String.fromCharCode(...bytes.subarray(8, 12)));
    default:
      return false;
  }
}

/** Whether a PNG is animated: it says so before its first pixels. Ref: PNG, third edition, 11.3.6. */
async function hasAnimation(path: string): Promise<boolean> {
  const file = await open(path), bytes = new Uint8Array(8), view = new DataView(bytes.buffer);
  try {
    for (let at = 8; (await file.read(bytes, 0, 8, at)).bytesRead === 8; at += 12 + view.getUint32(0)) {
      const kind = String.fromCharCode(...bytes.subarray(4));
      if (kind === "acTL" || kind === "IDAT") return kind === "acTL";
    }
    return false;
  } finally {
    await file.close();
  }
}

export async function openFolder(path: string, options: Options): Promise<VideoSource> {
  const entries = await readdir(path).catch((error) => {
    throw ioError(path, "read", error);
  });
  const { compare } = new Intl.Collator("en", { numeric: true });
  const images = entries.filter((name) =>
    imageExtensions.includes(extname(name).toLowerCase()) && !name.startsWith(".")
  )
    .sort((a, b) => compare(a, b) || (a < b ? -1 : 1));
  if (images.length === 0) {
    const message = `${path}: expected a folder with images (${imageExtensions.join(", ")}), found none of them`;
    throw new TokenizerError("VIDEO", message, { detail: 0 });
  }
  return await openImages(path, images.map((name) => join(path, name)), options);
}

/** Images as frames, one every 1 / fps seconds; nothing is resampled. */
export async function openImages(
  path: string,
  images: readonly string[],
  { start, frames, fps, limitPixels, signal }: Options,
): Promise<VideoSource> {
  const wanted = images.slice(start, frames === undefined ? undefined : start + frames);
  if (wanted.length === 0) {
    const count = `${images.length} image${images.length === 1 ? "" : "s"}`;
    throw new TokenizerError("VIDEO", `${path}: expected an image ${start} (counted from 0), found ${count}`, {
      detail: 0,
    });
  }
  const first = await readFrame(wanted[0]!, limitPixels, signal), { num, den } = toRate(fps ?? 25);
  const [, height = 0, width = 0] = first.shape;
  const info: VideoInfo = {
    height,
    width,
    fps: { num, den },
    numFrames: wanted.length,
    isVariableRate: false,
    startSeconds: start * den / num,
    sampleAspect: { num: 1, den: 1 },
    rotation: 0,
    codec: extname(wanted[0]!).slice(1).toLowerCase(),
    audioCodec: undefined,
    hasAudio: false,
  };
  return Object.freeze({
    path,
    info: Object.freeze(info),
    async *frames() {
      for (const [detail, name] of wanted.entries()) {
        throwIfAborted(signal);
        const image = await readFrame(name, limitPixels, signal);
        if (image.shape[1] !== height || image.shape[2] !== width) {
          const found = `${image.shape[2]}x${image.shape[1]} in ${basename(name)}`;
          const wantedSize = `every image to be ${width}x${height} pixels, as ${basename(wanted[0]!)} is`;
          throw new TokenizerError("VIDEO", `${path}: expected ${wantedSize}, found ${found}`, { detail });
        }
        yield { data: image.data, seconds: (start + detail) * den / num };
      }
    },
  });
}

/** Limit: regular files. A pipe in a folder may never give a byte. */
async function readFrame(path: string, limitPixels: number, signal: AbortSignal | undefined) {
  const found = await stat(path).catch((error) => {
    throw ioError(path, "read", error);
  });
  if (!found.isFile()) throw expected(path, "a file", found.isDirectory() ? "a folder" : "a device or pipe", "FILE_IO");
  return await readImage(path, { limitPixels, ...(signal && { signal }) });
}
