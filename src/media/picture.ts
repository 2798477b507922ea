/**
 * One encoded picture to uint8 RGB by sharp: what its header says (`lookAt`, `glanceAt`), then its pixels (`decode`).
 * Upright, sRGB, 8 bits, three channels, the first page of many. Called by image.ts, in this process or in a helper's
 * (apart.ts).
 *
 * sharp (libvips) does all that it does right. Not right, and done here: a profile of more than 8 bits (it converts RGB
 * to Display P3 and leaves grey alone), floats (it takes 0..1 as linear light in RGB, as 0..255 in grey), what lies
 * under a GIF's transparent index (it gives black). Alpha is dropped, not blended: image.ts says why.
 */
import { createRequire } from "node:module";
import type sharpModule from "sharp";
import type { Metadata } from "sharp";
import { expected, messageOf, TokenizerError } from "../errors.ts";

const { process } = globalThis;

export interface Decoded {
  readonly height: number;
  readonly width: number;
  /** Uint8 [H, W, 3], alone in its ArrayBuffer. */
  readonly data: Uint8Array<ArrayBuffer>;
}

/** What sharp reports of a picture's header. */
export type About = Pick<Metadata, "format" | "height" | "width" | "channels" | "space" | "depth" | "icc">;

/**
 * Formats as libvips tells them apart, and "frames" for a WebP of several; "text" may be an SVG, plain or compressed.
 */
export type Format = "jpeg" | "png" | "gif" | "webp" | "frames" | "tiff" | "heif" | "text";

/**
 * What decoding may take in a helper unless told: seconds of processor time, and bytes. SVG's time has nothing to do
 * with its pixels, and gets none for them. Of memory a pixel gets 2.5 times its samples (read, converted, handed on)
 * and 8 bytes more.
 */
export function defaultLimits(about?: About): { readonly seconds: number; readonly bytes: number } {
  const bytes = 96 * 2 ** 20;
  if (!about) return { seconds: 1, bytes };
  const pixels = about.height * about.width, sampleBytes = depthBytes[about.depth] ?? 8;
  const seconds = 1 + (about.format === "svg" ? 0 : pixels / 2 ** 22);
  return { seconds, bytes: bytes + pixels * (8 + 2.5 * about.channels * sampleBytes) };
}
const depthBytes: Readonly<Record<string, number>> = { uchar: 1, ushort: 2, short: 2, uint: 4, float: 4 };

/** Scans of a JPEG: each goes over the whole picture. Encoders write about ten; libtiff, too, takes 100. */
const mostScans = 100;
/**
 * Samples of a float picture are 0..1. What lies outside by no more than this comes from sharpening and is clipped;
 * a picture with other samples is refused.
 */
const floatRange = [-1, 2] as const;
/** How many pixels are converted through a colour profile at a time. */
const slabPixels = 1 << 22;

/** The format of a picture, by its first bytes; undefined for what sharp does not read. */
export function formatOf(bytes: Uint8Array): Format | undefined {
  const head = Array.from(bytes.subarray(0, 12), (byte) => String.fromCharCode(byte)).join("");
  if (head.startsWith("\xff\xd8\xff")) return "jpeg";
  if (head.startsWith("\x89PNG\r\n\x1a\n")) return "png";
  if (head.startsWith("GIF8")) return "gif";
  // Ref: WebP's container: the flags of an extended header, bit 1 for an animation.
  if (head.startsWith("RIFF") && head.endsWith("WEBP")) return bytes[15] === 0x58 && bytes[20]! & 2 ? "frames" : "webp";
  if (/^(II[*+]\0|MM\0[*+])/.test(head)) return "tiff";
  if (head.slice(4, 8) === "ftyp") return "heif";
  // Ref: librsvg's test in libvips: the first 1000 bytes are text with "<svg" in them, unless they are gzip's.
  if (head.startsWith("\x1f\x8b") || /<\w*:?svg/i.test(new TextDecoder().decode(bytes.subarray(0, 1000)))) {
    return "text";
  }
  return undefined;
}

/** What the header says. Throws IMAGE for what is no picture, and for one above `limitPixels` or `mostScans`. */
export async function lookAt(bytes: Uint8Array, name: string, limitPixels: number): Promise<Metadata> {
  const sharp = await loadSharp();
  const about = await read(name, () => sharp(bytes, { limitInputPixels: false }).metadata());
  checkCost(bytes, name, about, limitPixels);
  return about;
}

/** `lookAt` as far as `decode` needs it; for plain JPEGs it does without sharp. */
export async function glanceAt(bytes: Uint8Array, name: string, limitPixels: number): Promise<About> {
  const about = aboutJpeg(bytes);
  if (!about) return await lookAt(bytes, name, limitPixels);
  checkCost(bytes, name, about, limitPixels);
  return about;
}

function checkCost(bytes: Uint8Array, name: string, { format, height, width }: About, limitPixels: number): void {
  if (height * width > limitPixels) throw tooLarge("IMAGE", name, limitPixels, height, width);
  if (format === "jpeg" && scansOf(bytes) > mostScans) {
    throw expected(name, `a JPEG of at most ${mostScans} scans`, "more", "IMAGE");
  }
}

/** The pixels of a picture that `lookAt` or `glanceAt` has seen. Note: a GIF's `bytes` are changed. Throws IMAGE. */
export function decode(bytes: Uint8Array, name: string, about: About): Promise<Decoded> {
  const { space, depth } = about;
  return read(name, async () => {
    const isPlain = depth === "uchar" || ["lab", "labs", "xyz"].includes(space) ||
      depth === "ushort" && space === "cmyk";
    if (isPlain || depth === "ushort" && !about.icc) {
      const frame = about.format === "gif" ? clearTransparency(bytes) : undefined;
      const decoded = await decodePlain(bytes);
      if (frame) paintOutside(decoded, frame);
      return decoded;
    }
    if (space === "cmyk" || !["ushort", "uint", "float", "double"].includes(depth)) {
      throw expected(name, "samples of 8 or 16 bits, or float", `${depth} in ${space}`, "IMAGE");
    }
    return await decodeWide(bytes, name, about);
  });
}

async function decodePlain(bytes: Uint8Array): Promise<Decoded> {
  const sharp = await loadSharp();
  const picture = sharp(bytes, { failOn: "error", limitInputPixels: false }).autoOrient();
  const { data, info } = await picture.toColourspace("srgb").removeAlpha().raw().toBuffer({ resolveWithObject: true });
  return { height: info.height, width: info.width, data: alone(data) };
}

/** Samples of 16 bits or more as they stand in the file, then the high byte, or the profile's sRGB of all 16 bits. */
async function decodeWide(bytes: Uint8Array, name: string, { space, depth, icc }: About): Promise<Decoded> {
  const sharp = await loadSharp();
  const raw = depth === "ushort" || depth === "uint" ? depth : "float";
  const picture = sharp(bytes, { failOn: "error", limitInputPixels: false, ignoreIcc: true }).autoOrient()
    .removeAlpha();
  const { data, info } = await picture.toColourspace(space).raw({ depth: raw }).toBuffer({ resolveWithObject: true });
  const { height, width, channels } = info, colours = channels < 3 ? 1 : 3, pixels = height * width;
  const { buffer } = alone(data);
  const samples = raw === "ushort"
    ? new Uint16Array(buffer)
    : raw === "uint"
    ? new Uint32Array(buffer)
    : new Float32Array(buffer);
  // A profile of another kind of colours is as good as none, as sharp has it for 8 bits.
  const isMeant = icc && icc.subarray(16, 20).toString("latin1") === (colours === 1 ? "GRAY" : "RGB ");
  const most = isMeant ? 65535 : 255, shift = raw === "uint" ? (isMeant ? 16 : 24) : isMeant ? 0 : 8;
  const out = new Uint8Array(pixels * 3), slab = slabPixels - slabPixels % width || width;
  const profile = isMeant && (colours === 1 ? rgbProfile(icc) : icc);
  for (let from = 0; from < pixels; from += slab) { // whole rows, so that words and bytes are not all there at once
    const words = new Uint16Array(3 * Math.min(slab, pixels - from));
    for (let i = 0; i < words.length; i++) {
      const pixel = from + Math.floor(i / 3), value = samples[pixel * channels + (colours === 1 ? 0 : i % 3)]!;
      if (raw !== "float") words[i] = value >>> shift;
      else if (value >= floatRange[0] && value <= floatRange[1]) {
        words[i] = Math.round(most * Math.min(Math.max(value, 0), 1));
      } else { // NaN as well
        const place = `${value} at row ${Math.floor(pixel / width)}, column ${pixel % width}`;
        throw expected(name, "float samples from 0 to 1", place, "IMAGE");
      }
    }
    out.set(profile ? (await decodePlain(profiledTiff(words, width, profile))).data : words, 3 * from);
  }
  return { height, width, data: out };
}

/**
 * An RGB profile with a grey one's curve for each colour: littleCMS takes grey of 16 bits through a table of few
 * points, 10 levels of 255 beside the curve of linear light, and RGB through the curve itself. A grey profile without
 * its curve stays, which nothing then takes. Ref: ICC.1:2022, 7.2, 7.3 and 8.4.3.
 */
function rgbProfile(grey: Uint8Array): Uint8Array {
  const view = new DataView(grey.buffer, grey.byteOffset, grey.byteLength), word = (at: number) => view.getUint32(at);
  const textAt = (at: number) => String.fromCharCode(...grey.subarray(at, at + 4));
  let entry = 132;
  while (entry + 12 <= grey.length && textAt(entry) !== "kTRC") entry += 12;
  if (entry + 12 > grey.length || word(entry + 4) + word(entry + 8) > grey.length || textAt(20) !== "XYZ ") return grey;
  const curve = grey.subarray(word(entry + 4), word(entry + 4) + word(entry + 8));
  // The primaries of sRGB. Only their sum counts here, the white point that all profiles have.
  const columns = [[0.4361, 0.2225, 0.0139], [0.3851, 0.7169, 0.0971], [0.143, 0.0606, 0.7139]];
  const xyzAt = 132 + 12 * 6, curveAt = xyzAt + 20 * 3;
  const out = new Uint8Array(curveAt + curve.length), to = new DataView(out.buffer);
  const put = (at: number, text: string) => out.set(new TextEncoder().encode(text), at);
  out.set(grey.subarray(0, 128));
  to.setUint32(0, out.length), put(16, "RGB "), to.setUint32(128, 6);
  for (const [i, column] of columns.entries()) {
    const at = xyzAt + 20 * i, first = 132 + 12 * i, second = 132 + 12 * (3 + i);
    put(first, `${"rgb"[i]}XYZ`), to.setUint32(first + 4, at), to.setUint32(first + 8, 20);
    put(second, `${"rgb"[i]}TRC`), to.setUint32(second + 4, curveAt), to.setUint32(second + 8, curve.length);
    put(at, "XYZ ");
    for (const [c, value] of column.entries()) to.setInt32(at + 8 + 4 * c, Math.round(value * 65536));
  }
  out.set(curve, curveAt);
  return out;
}

/**
 * An uncompressed TIFF of three 16-bit samples with a profile, whose photometric interpretation (32803, a sensor's)
 * says nothing of RGB: sharp then converts by the profile, from 16 bits to sRGB of 8 in one step. Ref: TIFF 6.0;
 * sharp's pipeline.cc.
 */
function profiledTiff(words: Uint16Array, width: number, icc: Uint8Array): Uint8Array {
  const short = 3, long = 4, bytes = 7, numEntries = 10, bitsAt = 8 + 2 + 12 * numEntries + 4, iccAt = bitsAt + 6;
  const height = words.length / 3 / width, dataAt = iccAt + icc.length + icc.length % 2;
  const out = new Uint8Array(dataAt + words.byteLength), view = new DataView(out.buffer);
  const entries = [
    [256, long, 1, width],
    [257, long, 1, height],
    [258, short, 3, bitsAt],
    [259, short, 1, 1], // no compression
    [262, short, 1, 32803],
    [273, long, 1, dataAt],
    [277, short, 1, 3],
    [278, long, 1, height],
    [279, long, 1, words.byteLength],
    [34675, bytes, icc.length, iccAt],
  ] as const;
  out.set([0x49, 0x49, 42, 0, 8, 0, 0, 0, numEntries, 0]);
  for (const [i, [tag, type, count, value]] of entries.entries()) {
    const at = 10 + 12 * i;
    view.setUint16(at, tag, true), view.setUint16(at + 2, type, true);
    view.setUint32(at + 4, count, true), view.setUint32(at + 8, value, true);
  }
  for (let i = 0; i < 3; i++) view.setUint16(bitsAt + 2 * i, 16, true);
  out.set(icc, iccAt);
  out.set(new Uint8Array(words.buffer, words.byteOffset, words.byteLength), dataAt);
  return out;
}

// ---------------------------------------------------------------- GIF
/** The first frame's place on the screen, and the colour around it. */
interface GifFrame {
  readonly screen: { readonly height: number; readonly width: number };
  readonly frame: { readonly top: number; readonly left: number; readonly height: number; readonly width: number };
  readonly around: Uint8Array;
}

/**
 * Takes the transparent index from a GIF's first frame, in place, so that its pixels decode to the palette's colour.
 * Around a frame that is smaller than the screen Pillow has that colour, or colour 0 where no index is transparent.
 * Undefined where there is nothing to paint, or no frame. Ref: GIF89a, 18 to 23.
 */
function clearTransparency(bytes: Uint8Array): GifFrame | undefined {
  const word = (at: number) => bytes[at]! | bytes[at + 1]! << 8;
  const tableBytes = (packed: number) => packed & 0x80 ? 3 * (2 << (packed & 7)) : 0;
  let at = 13 + tableBytes(bytes[10]!), index = 0;
  while (bytes[at] === 0x21) { // an extension: a label, then blocks, the last one empty
    if (bytes[at + 1] === 0xf9 && bytes[at + 3]! & 1) {
      bytes[at + 3]! &= ~1;
      index = bytes[at + 6]!;
    }
    for (at += 2; bytes[at]!; at += bytes[at]! + 1);
    at++;
  }
  if (bytes[at] !== 0x2c) return undefined;
  const frame = { left: word(at + 1), top: word(at + 3), width: word(at + 5), height: word(at + 7) };
  const own = tableBytes(bytes[at + 9]!), table = own ? at + 10 : 13;
  const around = bytes.slice(table + 3 * index, table + 3 * index + 3);
  const screen = { width: word(6), height: word(8) };
  const isWhole = frame.left + frame.top === 0 && frame.width >= screen.width && frame.height >= screen.height;
  const hasColour = index * 3 < (own || tableBytes(bytes[10]!)) && around.length === 3;
  return isWhole || !hasColour ? undefined : { screen, frame, around };
}

function paintOutside({ height, width, data }: Decoded, { screen, frame, around }: GifFrame): void {
  if (height !== screen.height || width !== screen.width) return; // libnsgif took the frame's size for the screen's
  for (let y = 0; y < height; y++) {
    const isRow = y >= frame.top && y < frame.top + frame.height;
    for (let x = 0; x < width; x++) {
      if (!isRow || x < frame.left || x >= frame.left + frame.width) data.set(around, (y * width + x) * 3);
    }
  }
}

// ---------------------------------------------------------------- JPEG
/**
 * What the frame header of a plain JPEG says (8 bits, grey or three colours, Huffman); undefined for any other, which
 * sharp is asked about. A quarter of the time that a picture of 256 by 256 pixels takes is that question's. Ref: ITU-T
 * T.81, B.2.2.
 */
function aboutJpeg(bytes: Uint8Array): About | undefined {
  if (bytes[0] !== 0xff || bytes[1] !== 0xd8) return undefined;
  const word = (at: number) => bytes[at]! << 8 | bytes[at + 1]!;
  for (let at = 2; at + 10 < bytes.length && bytes[at] === 0xff;) {
    const marker = bytes[at + 1]!, length = word(at + 2);
    if (marker < 0xc0 || marker >= 0xd0 && marker <= 0xda || length < 2) return undefined;
    if (marker > 0xc2) { // a table, or what programs keep; the frames of other kinds are sharp's
      if (marker < 0xd0 && marker !== 0xc4 && marker !== 0xcc) return undefined;
      at += 2 + length;
      continue;
    }
    const [precision, height, width, channels] = [bytes[at + 4], word(at + 5), word(at + 7), bytes[at + 9]];
    const isPlain = precision === 8 && height > 0 && width > 0 && (channels === 1 || channels === 3) &&
      length === 8 + 3 * channels;
    return isPlain
      ? { format: "jpeg", height, width, channels, space: channels === 1 ? "b-w" : "srgb", depth: "uchar" }
      : undefined;
  }
  return undefined;
}

/** Scans of a JPEG, counted up to one more than `mostScans`. Ref: ITU-T T.81, B.1.1. */
function scansOf(bytes: Uint8Array): number {
  let scans = 0;
  for (let at = 2; scans <= mostScans;) {
    at = bytes.indexOf(0xff, at);
    if (at < 0 || at + 3 >= bytes.length) break;
    const marker = bytes[at + 1]!;
    if (marker === 0xff) at++; // padding
    else if (marker < 0xc0 || marker >= 0xd0 && marker <= 0xd8) at += 2; // a byte of data, or a marker without a length
    else if (marker === 0xd9) break;
    else {
      if (marker === 0xda) scans++;
      at += 2 + (bytes[at + 2]! << 8 | bytes[at + 3]!);
    }
  }
  return scans;
}

// ---------------------------------------------------------------- sharp
/** sharp, loaded on first use, so that importing ctok needs no image library. Throws LIBRARY. */
export async function loadSharp(): Promise<typeof sharpModule> {
  try {
    return (await import("sharp")).default;
  } catch (cause) {
    const beside = sharpBesideProgram();
    if (beside) return beside;
    const message = `sharp: expected the image library to load (npm install sharp), found: ${messageOf(cause)}`;
    throw new TokenizerError("LIBRARY", message, { cause });
  }
}

/**
 * In a compiled program sharp cannot be imported by its name: its binaries stay files, in node_modules beside the
 * program.
 */
function sharpBesideProgram(): typeof sharpModule | undefined {
  try {
    return createRequire(process.execPath)("sharp");
  } catch {
    return undefined;
  }
}

/** The error for a picture or frame of more pixels than `limitPixels`. */
export function tooLarge(
  code: "IMAGE" | "VIDEO",
  name: string,
  limitPixels: number,
  height: number,
  width: number,
): TokenizerError {
  const message = `${name}: expected at most ${limitPixels} pixels (limitPixels), found ${width}x${height}`;
  return new TokenizerError(code, message, { detail: height * width });
}

/** Runs sharp; what it throws becomes IMAGE, and so does memory that the system does not have. */
async function read<T>(name: string, work: () => Promise<T>): Promise<T> {
  try {
    return await work();
  } catch (cause) {
    if (cause instanceof TokenizerError) throw cause;
    throw new TokenizerError("IMAGE", `${name}: expected an image that sharp can read, found: ${sayOf(cause)}`, {
      cause,
    });
  }
}

/** sharp's message on one line, without libheif's list of seeks, and what libvips says several times once. */
export function sayOf(error: unknown): string {
  const lines = messageOf(error).split("\n").map((line) => line.trim().replace(/^Input \w+ has corrupt header: /, ""));
  return [...new Set(lines.filter((line) => line && !line.startsWith("source: bad seek")))].join(" ");
}

/** An ArrayBuffer of exactly these bytes: a Buffer may be a window into a pool shared with strangers. */
export function alone(data: Uint8Array): Uint8Array<ArrayBuffer> {
  const isAlone = data.byteLength === data.buffer.byteLength && data.buffer instanceof ArrayBuffer;
  return isAlone ? new Uint8Array(data.buffer as ArrayBuffer) : new Uint8Array(data);
}
