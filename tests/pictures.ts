/**
 * Encoded pictures made byte by byte, for tests that want what sharp does not write: any depth, any profile, a GIF's
 * transparent index, and headers that lie.
 */
import { crc32, deflateSync } from "node:zlib";

const ascii = (text: string) => Uint8Array.from(text, (letter) => letter.charCodeAt(0));
const join = (...parts: Uint8Array[]) => new Uint8Array(Buffer.concat(parts));

// ---------------------------------------------------------------- ICC profiles
/**
 * The colours of a profile's primaries, adapted to D50: columns of the matrix to XYZ. Ref: Lindbloom; Adobe RGB (1998),
 * 4.3.5.
 */
const primaries = {
  srgb: [[0.4360747, 0.2225045, 0.0139322], [0.3850649, 0.7168786, 0.0971045], [0.1430804, 0.0606169, 0.7141733]],
  p3: [[0.5151, 0.2412, -0.0011], [0.2919, 0.6922, 0.0419], [0.1572, 0.0666, 0.7841]],
  adobe: [[0.60974, 0.31111, 0.01947], [0.20528, 0.62567, 0.06087], [0.14919, 0.06322, 0.74457]],
} as const;
const fixed = (...values: number[]) => {
  const out = new Uint8Array(4 * values.length), view = new DataView(out.buffer);
  values.forEach((value, i) => view.setInt32(4 * i, Math.round(value * 65536)));
  return out;
};
const xyz = (values: readonly number[]) => join(ascii("XYZ \0\0\0\0"), fixed(...values));
/** sRGB's own curve, or a power. Ref: ICC.1:2022, 10.18 and 10.6. */
const curve = (gamma: number | "srgb") =>
  gamma === "srgb"
    ? join(ascii("para\0\0\0\0\0\x03\0\0"), fixed(2.4, 1 / 1.055, 0.055 / 1.055, 1 / 12.92, 0.04045))
    : join(ascii("curv\0\0\0\0\0\0\0\x01"), Uint8Array.of(gamma, Math.round(gamma % 1 * 256)), new Uint8Array(2));

/** A display's profile: RGB of `primaries`, or grey without. */
export function profile(gamma: number | "srgb", name?: keyof typeof primaries): Uint8Array {
  const tags: [string, Uint8Array][] = [["wtpt", xyz([0.9642, 1, 0.8249])]];
  if (name) {
    ["r", "g", "b"].forEach((letter, i) =>
      tags.push([`${letter}XYZ`, xyz(primaries[name][i]!)], [`${letter}TRC`, curve(gamma)])
    );
  } else tags.push(["kTRC", curve(gamma)]);
  const head = new Uint8Array(132 + 12 * tags.length), view = new DataView(head.buffer);
  view.setUint32(8, 0x04200000);
  head.set(ascii(`mntr${name ? "RGB " : "GRAY"}XYZ `), 12);
  head.set(ascii("acsp"), 36);
  head.set(fixed(0.9642, 1, 0.8249), 68);
  view.setUint32(128, tags.length);
  let at = head.length;
  tags.forEach(([tag, content], i) => {
    head.set(ascii(tag), 132 + 12 * i);
    view.setUint32(136 + 12 * i, at), view.setUint32(140 + 12 * i, content.length);
    at += content.length;
  });
  view.setUint32(0, at);
  return join(head, ...tags.map(([, content]) => content));
}

// ---------------------------------------------------------------- formats
export interface PngOptions {
  /** 1, 2, 4, 8 or 16. */
  bits?: number;
  /** Colour type by the number of channels unless a palette is given: 1 grey, 2 grey and alpha, 3 RGB, 4 RGBA. */
  channels?: number;
  palette?: readonly number[];
  /** tRNS: the alpha of palette entries, or the transparent sample of each channel in 16 bits. */
  transparency?: readonly number[];
  icc?: Uint8Array;
}

/** Samples row by row, each of `bits`. */
export function png(samples: ArrayLike<number>, width: number, options: PngOptions = {}): Uint8Array {
  const { bits = 8, channels = 3, palette, transparency, icc } = options;
  const height = samples.length / width / channels, rowBytes = Math.ceil(width * channels * bits / 8);
  const rows = new Uint8Array(height * (rowBytes + 1));
  for (let i = 0; i < samples.length; i++) {
    const y = Math.floor(i / (width * channels)),
      bit = i % (width * channels) * bits,
      at = y * (rowBytes + 1) + 1 + (bit >> 3);
    if (bits === 16) rows[at] = samples[i]! >> 8, rows[at + 1] = samples[i]!;
    else rows[at]! |= samples[i]! << 8 - bits - bit % 8;
  }
  const head = new Uint8Array(13), view = new DataView(head.buffer);
  view.setUint32(0, width), view.setUint32(4, height);
  head.set([bits, palette ? 3 : [0, 0, 4, 2, 6][channels]!], 8);
  return join(
    ascii("\x89PNG\r\n\x1a\n"),
    pngChunk("IHDR", head),
    ...(icc ? [pngChunk("iCCP", join(ascii("test\0\0"), deflateSync(icc)))] : []),
    ...(palette ? [pngChunk("PLTE", Uint8Array.from(palette))] : []),
    ...(transparency ? [pngChunk("tRNS", Uint8Array.from(transparency))] : []),
    pngChunk("IDAT", deflateSync(rows)),
    pngChunk("IEND", new Uint8Array()),
  );
}

export function pngChunk(type: string, content: Uint8Array): Uint8Array {
  const out = join(new Uint8Array(4), ascii(type), content, new Uint8Array(4)), view = new DataView(out.buffer);
  view.setUint32(0, content.length), view.setUint32(out.length - 4, crc32(out.subarray(4, -4)));
  return out;
}

export type TiffSamples = Uint8Array | Uint16Array | Uint32Array | Int16Array | Float32Array | Float64Array;
export interface TiffOptions {
  channels?: number;
  icc?: Uint8Array;
  /** 1 grey, 2 RGB (the defaults), 5 CMYK. */
  photometric?: number;
}

/** Little-endian, uncompressed, one strip. */
export function tiff(samples: TiffSamples, width: number, options: TiffOptions = {}): Uint8Array {
  const { channels = 3, icc, photometric = channels < 3 ? 1 : 2 } = options;
  const height = samples.length / width / channels, bits = 8 * samples.BYTES_PER_ELEMENT;
  const format = samples instanceof Float32Array || samples instanceof Float64Array
    ? 3
    : samples instanceof Int16Array
    ? 2
    : 1;
  const each = (value: number) => Array.from({ length: channels }, () => value);
  const words = (values: number[]) => new Uint8Array(Uint16Array.from(values).buffer);
  const longs = (value: number) => new Uint8Array(Uint32Array.of(value).buffer);
  const entries: [tag: number, type: number, count: number, content: Uint8Array][] = [
    [256, 4, 1, longs(width)],
    [257, 4, 1, longs(height)],
    [258, 3, channels, words(each(bits))],
    [259, 3, 1, words([1])],
    [262, 3, 1, words([photometric])],
    [273, 4, 1, longs(0)], // filled in below
    [277, 3, 1, words([channels])],
    [278, 4, 1, longs(height)],
    [279, 4, 1, longs(samples.byteLength)],
    ...(channels === 2 || channels === 4 && photometric === 2
      ? [[338, 3, 1, words([2])] as [number, number, number, Uint8Array]]
      : []),
    [339, 3, channels, words(each(format))],
    ...(icc ? [[34675, 7, icc.length, icc] as [number, number, number, Uint8Array]] : []),
  ];
  const head = new Uint8Array(14 + 12 * entries.length), view = new DataView(head.buffer), outside: Uint8Array[] = [];
  head.set([0x49, 0x49, 42, 0, 8, 0, 0, 0, entries.length, 0]);
  let at = head.length;
  const put = (content: Uint8Array) => {
    const place = at, padded = join(content, new Uint8Array(content.length % 8 ? 8 - content.length % 8 : 0));
    outside.push(padded), at += padded.length;
    return place;
  };
  entries.forEach(([tag, type, count, content], i) => {
    const entry = 10 + 12 * i;
    view.setUint16(entry, tag, true), view.setUint16(entry + 2, type, true), view.setUint32(entry + 4, count, true);
    if (content.length > 4) view.setUint32(entry + 8, put(content), true);
    else head.set(content, entry + 8);
  });
  const data = put(new Uint8Array(samples.buffer, samples.byteOffset, samples.byteLength));
  view.setUint32(10 + 12 * entries.findIndex(([tag]) => tag === 273) + 8, data, true);
  return join(head, ...outside);
}

export interface GifOptions {
  /** Three bytes a colour, four colours. */
  palette: readonly number[];
  transparent?: number;
  /** Whether the palette is the frame's own, and the screen has none. */
  isLocal?: boolean;
  /** Of the screen; default: the frame's width, and height. */
  screen?: readonly [width: number, height: number];
  place?: readonly [left: number, top: number];
  /** Frames after the first, all equal to it. */
  more?: number;
}

/** Indices 0 to 3, row by row. Ref: GIF89a. */
export function gif(indices: ArrayLike<number>, width: number, options: GifOptions): Uint8Array {
  const height = indices.length / width, { palette, transparent, isLocal = false, screen = [width, height] } = options;
  const { place = [0, 0], more = 0 } = options, word = (value: number) => [value & 255, value >> 8];
  // Codes of 3 bits, which a clear code (4) every two indices keeps so short; 5 ends.
  const codes = [...Array.from(indices).flatMap((index, i) => i % 2 ? [index] : [4, index]), 5];
  const bytes = new Uint8Array(Math.ceil(codes.length * 3 / 8));
  codes.forEach((code, i) => {
    for (let bit = 0; bit < 3; bit++) bytes[(3 * i + bit) >> 3]! |= (code >> bit & 1) << (3 * i + bit) % 8;
  });
  const blocks: number[] = [];
  for (let at = 0; at < bytes.length; at += 255) {
    const part = bytes.subarray(at, at + 255);
    blocks.push(part.length, ...part);
  }
  const frame = [
    ...(transparent === undefined ? [] : [0x21, 0xf9, 4, 1, 0, 0, transparent, 0]),
    ...[0x2c, ...word(place[0]), ...word(place[1]), ...word(width), ...word(height), isLocal ? 0x81 : 0],
    ...(isLocal ? palette : []),
    ...[2, ...blocks, 0],
  ];
  return join(
    ascii("GIF89a"),
    Uint8Array.of(...word(screen[0]), ...word(screen[1]), isLocal ? 0 : 0x81, 0, 0, ...(isLocal ? [] : palette)),
    ...Array.from({ length: 1 + more }, () => Uint8Array.from(frame)),
    Uint8Array.of(0x3b),
  );
}
