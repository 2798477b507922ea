/**
 * Pictures made to cost time or memory, without end and each from its seed: small files of every format that sharp
 * reads. Used by pictures.test.ts; run by itself it tries a thousand and prints what each took.
 * Run: bun tests/faults/bombs.ts [COUNT] [FIRST SEED]     (or deno run -A)
 */
import { readdirSync, readFileSync } from "node:fs";
import process from "node:process";
import { deflateSync, gzipSync } from "node:zlib";
import { readImage, type ReadImageOptions, TokenizerError } from "mod.ts";
import sharp from "sharp";
import { gif, png, pngChunk, tiff } from "../pictures.ts";

export interface Bomb {
  readonly name: string;
  readonly bytes: Uint8Array;
}

/** What a bomb may be read with: 4 Mpx, the other limits as they come. */
export const bombLimits: ReadImageOptions = { limitPixels: 2 ** 22, svg: true };

type Random = { whole(least: number, most: number): number; one<T>(of: readonly T[]): T };
/** Ref: mulberry32. */
function randomOf(seed: number): Random {
  let state = seed * 0x9e3779b9 | 0;
  const next = () => {
    state = state + 0x6d2b79f5 | 0;
    let t = Math.imul(state ^ state >>> 15, state | 1);
    t ^= t + Math.imul(t ^ t >>> 7, t | 61);
    return ((t ^ t >>> 14) >>> 0) / 2 ** 32;
  };
  const whole = (least: number, most: number) => least + Math.floor(next() * (most - least + 1));
  return { whole, one: (of) => of[whole(0, of.length - 1)]! };
}

const text = (value: string) => new TextEncoder().encode(value);
const join = (...parts: Uint8Array[]) => new Uint8Array(Buffer.concat(parts));
const palette = [255, 0, 0, 0, 255, 0, 0, 0, 255, 9, 8, 7];

// ---------------------------------------------------------------- SVG
const svgs: Record<string, (r: Random, side: number) => string | Promise<string>> = {
  turbulence: (r, side) =>
    `<filter id="f" x="0" y="0" width="1" height="1">${
      `<feTurbulence baseFrequency="0.${r.whole(1, 9)}" numOctaves="${r.whole(1, 99)}"/>`.repeat(r.whole(1, 9))
    }</filter>${`<rect width="${side}" height="${side}" filter="url(#f)"/>`.repeat(r.whole(1, 400))}`,
  uses: (r, side) => {
    const width = r.whole(2, 20), depth = r.whole(3, 12);
    const level = (i: number) => `<g id="a${i}">${`<use href="#a${i - 1}"/>`.repeat(width)}</g>`;
    const circle = `<g id="a0"><circle r="${side / 2}" cx="9" cy="9" opacity=".5"/></g>`;
    return `<defs>${circle}${
      Array.from({ length: depth }, (_, i) => level(i + 1)).join("")
    }</defs><use href="#a${depth}"/>`;
  },
  dashes: (r, side) => {
    const points = Array.from({ length: r.whole(100, 3000) }, (_, i) => `L${i % side} ${i * 7919 % side}`).join(" ");
    return `<path stroke="red" stroke-width="50" stroke-dasharray="0.0${
      r.whole(1, 9)
    } 0.01" fill="none" d="M0 0 ${points}"/>`;
  },
  pattern: (r) => {
    const size = r.whole(1000, 30000), rect = `<rect width="${size}" height="${size}" fill="red"/>`;
    return `<pattern id="p" width="${size}" height="${size}" patternUnits="userSpaceOnUse">${rect}</pattern>
      <filter id="f" x="-99999" y="-99999" width="199999" height="199999"><feGaussianBlur stdDeviation="${
      r.whole(1, 9999)
    }"/></filter>
      <rect width="16" height="16" fill="url(#p)" filter="url(#f)"/>`;
  },
  picture: async (r) => {
    const side = r.whole(2000, 8000), create = { width: side, height: side, channels: 3 as const, background: "red" };
    const bytes = await sharp({ create }).png({ compressionLevel: 1 }).toBuffer();
    return `<image width="16" height="16" href="data:image/png;base64,${bytes.toString("base64")}"/>`;
  },
  blurs: (r, side) =>
    `<filter id="f" x="-9" y="-9" width="19" height="19">${
      `<feMorphology operator="dilate" radius="${r.whole(1, 500)}"/><feGaussianBlur stdDeviation="${r.whole(1, 500)}"/>`
        .repeat(
          r.whole(1, 60),
        )
    }</filter><rect width="${side}" height="${side}" filter="url(#f)"/>`,
  nested: (r, side) => {
    const depth = r.whole(10, 900);
    return `${`<g opacity=".9" transform="rotate(1)">`.repeat(depth)}<rect width="${side}" height="${side}"/>${
      "</g>".repeat(depth)
    }`;
  },
  masks: (r, side) => {
    const depth = r.whole(2, 40),
      rect = (i: number) => `<rect width="${side}" height="${side}" mask="url(#m${i})" fill="white"/>`;
    return `${Array.from({ length: depth }, (_, i) => `<mask id="m${i}">${rect(i + 1).repeat(2)}</mask>`).join("")}${
      rect(0)
    }`;
  },
  many: (r, side) => `<circle r="${side}" cx="5" cy="5" opacity=".1" stroke="red"/>`.repeat(r.whole(1000, 100_000)),
};

async function svg(r: Random): Promise<Bomb> {
  const name = r.one(Object.keys(svgs)), side = r.one([16, 500, 2000]);
  const body = await svgs[name]!(r, side);
  const bytes = text(`<svg xmlns="http://www.w3.org/2000/svg" width="${side}" height="${side}">${body}</svg>`);
  const isPacked = r.whole(0, 3) === 0;
  return { name: `svg ${name}${isPacked ? ", gzip" : ""}`, bytes: isPacked ? new Uint8Array(gzipSync(bytes)) : bytes };
}

// ---------------------------------------------------------------- JPEG
/** A progressive JPEG of one colour whose scans say nothing, thousands of times over. Ref: ITU-T T.81, G.1. */
function scans(side: number, numScans: number): Uint8Array {
  const segment = (
    marker: number,
    content: number[],
  ) => [0xff, marker, content.length + 2 >> 8, content.length + 2 & 255, ...content];
  const size = [side >> 8, side & 255], counts = [1, 1, ...new Array(14).fill(0)];
  const head = [
    ...[
      0xff,
      0xd8,
      ...segment(0xdb, [0, ...new Array(64).fill(1)]),
      ...segment(0xc2, [8, ...size, ...size, 1, 1, 0x11, 0]),
    ],
    ...[...segment(0xc4, [0, ...counts, 0, 1]), ...segment(0xc4, [0x10, ...counts, 0xe0, 0])],
  ];
  const blocks = Math.ceil(side / 8) ** 2;
  // First coefficients: a bit 0 a block. The others: runs of empty blocks, code 0 with 14 bits for 16384 and more, 10
  // for one.
  const first = new Uint8Array(Math.ceil(blocks / 8));
  let bits = "";
  for (let left = blocks; left > 0;) {
    const run = Math.min(left, 32767);
    bits += run >= 16384 ? `0${(run - 16384).toString(2).padStart(14, "0")}` : "10".repeat(run);
    left -= run;
  }
  const rest = (bits.match(/.{1,8}/g) ?? []).flatMap((byte) => {
    const value = parseInt(byte.padEnd(8, "1"), 2);
    return value === 255 ? [255, 0] : [value];
  });
  const scan = Uint8Array.from([...segment(0xda, [1, 1, 0, 1, 0x3f, 0]), ...rest]);
  return join(
    Uint8Array.from([...head, ...segment(0xda, [1, 1, 0, 0, 0, 0])]),
    first,
    ...Array.from({ length: numScans }, () => scan),
    Uint8Array.of(0xff, 0xd9),
  );
}

async function jpeg(r: Random): Promise<Bomb> {
  const side = r.one([64, 1024, 2048]);
  if (r.whole(0, 1)) {
    const numScans = r.one([1, 50, 99, 3000]);
    return { name: `jpeg of ${side} x ${side} with ${numScans} scans`, bytes: scans(side, numScans) };
  }
  const bytes = new Uint8Array(await noise(r, side, "jpeg")), comment = new Uint8Array(65_537).fill(32);
  comment.set([0xff, 0xfe, 0xff, 0xff]);
  const parts = Array.from({ length: r.whole(1, 200) }, () => comment);
  return { name: "jpeg with comments", bytes: join(bytes.subarray(0, 2), ...parts, bytes.subarray(2)) };
}

/** A picture of noise, whose bytes are then damaged now and then: every decoder's way out. */
async function noise(
  r: Random,
  side: number,
  format: "jpeg" | "png" | "webp" | "tiff" | "avif" | "gif",
): Promise<Uint8Array> {
  const data = new Uint8Array(side * side * 3);
  for (let i = 0, state = r.whole(1, 2 ** 30); i < data.length; i++) {
    data[i] = (state = Math.imul(state, 1103515245) + 12345 | 0) >>> 16;
  }
  const picture = sharp(data, { raw: { width: side, height: side, channels: 3 } });
  const bytes = new Uint8Array(
    await picture.toFormat(format, format === "gif" ? { effort: 1 } : format === "avif" ? { effort: 0 } : {})
      .toBuffer(),
  );
  for (let n = r.whole(0, 3); n > 0; n--) bytes[r.whole(20, bytes.length - 1)] = r.whole(0, 255);
  return bytes;
}

// ---------------------------------------------------------------- the others
function pngBomb(r: Random): Bomb {
  const small = png(new Array(48).fill(7), 4), at = 33; // behind the header
  const zeros = (most: number) => deflateSync(new Uint8Array(r.whole(1, most) << 20), { level: 1 });
  const kinds: Record<string, () => Uint8Array> = {
    "profile": () => pngChunk("iCCP", join(text("x\0\0"), zeros(60))),
    "text": () => pngChunk("zTXt", join(text("x\0\0"), zeros(60))),
    "texts": () => join(...Array.from({ length: r.whole(1000, 50_000) }, (_, i) => pngChunk("tEXt", text(`k${i}\0v`)))),
    "exif": () =>
      pngChunk("eXIf", join(text("II*\0\b\0\0\0\xff\xff"), new Uint8Array(12 * 65535).fill(r.whole(0, 255)))),
    "data": () => pngChunk("IDAT", zeros(60)),
  };
  const name = r.one([...Object.keys(kinds), "huge"]);
  if (name !== "huge") {
    return { name: `png ${name}`, bytes: join(small.subarray(0, at), kinds[name]!(), small.subarray(at)) };
  }
  const side = r.whole(1000, 100_000), head = new Uint8Array(13), view = new DataView(head.buffer);
  view.setUint32(0, side), view.setUint32(4, side);
  head.set([r.one([8, 16]), r.one([0, 2, 6]), 0, 0, r.one([0, 1])], 8);
  return {
    name: `png that claims ${side} x ${side}`,
    bytes: join(small.subarray(0, 8), pngChunk("IHDR", head), pngChunk("IDAT", zeros(60)), small.subarray(-12)),
  };
}

async function webp(r: Random): Promise<Bomb> {
  const side = r.one([1, 64, 1024]);
  const one = new Uint8Array(
    await sharp({ create: { width: side, height: side, channels: 3, background: "red" } }).webp().toBuffer(),
  );
  if (r.whole(0, 2) === 0) return { name: "webp of noise", bytes: await noise(r, r.one([64, 1024]), "webp") };
  const chunk = (name: string, content: Uint8Array) => {
    const head = new Uint8Array(8);
    head.set(text(name)), new DataView(head.buffer).setUint32(4, content.length, true);
    return join(head, content, new Uint8Array(content.length % 2));
  };
  const size = r.one([side, side, 1024, 16_383]) - 1,
    screen = Uint8Array.of(2, 0, 0, 0, size, size >> 8, 0, size, size >> 8, 0);
  const frame = join(
    Uint8Array.of(0, 0, 0, 0, 0, 0, side - 1, side - 1 >> 8, 0, side - 1, side - 1 >> 8, 0, 9, 0, 0, 0),
    one.subarray(12),
  );
  const numFrames = r.whole(1, Math.min(40_000, Math.ceil(4e6 / frame.length)));
  const frames = Array.from({ length: numFrames }, () => chunk("ANMF", frame));
  const bytes = chunk("RIFF", join(text("WEBP"), chunk("VP8X", screen), chunk("ANIM", new Uint8Array(6)), ...frames));
  return { name: `webp of ${numFrames} frames`, bytes };
}

function gifBomb(r: Random): Bomb {
  const more = r.whole(0, 200_000),
    side = r.one([4, 300, 2000, 65_535]),
    options = { palette, more, screen: [side, side] as const };
  return {
    name: `gif of ${side} x ${side} with ${more + 1} frames`,
    bytes: gif([0, 1, 2, 3], 2, { ...options, transparent: r.whole(0, 3) }),
  };
}

function tiffBomb(r: Random): Bomb {
  const kind = r.one(["tile", "claims", "samples", "directories"]);
  const put = (entries: [tag: number, type: number, value: number][], data: Uint8Array) => {
    const out = new Uint8Array(14 + 12 * entries.length + data.length), view = new DataView(out.buffer);
    out.set([0x49, 0x49, 42, 0, 8, 0, 0, 0]), view.setUint16(8, entries.length, true);
    entries.forEach(([tag, type, value], i) => {
      const at = 10 + 12 * i;
      view.setUint16(at, tag, true), view.setUint16(at + 2, type, true), view.setUint32(at + 4, 1, true);
      view.setUint32(at + 8, value < 0 ? 14 + 12 * entries.length : value, true);
    });
    out.set(data, 14 + 12 * entries.length);
    return out;
  };
  const packed = deflateSync(new Uint8Array(r.whole(1, 60) << 20), { level: 1 }), side = r.whole(1, 16) * 1024;
  const common = (height: number, width: number, samples: number): [number, number, number][] => [
    [256, 4, width],
    [257, 4, height],
    [258, 3, 8],
    [259, 3, 8],
    [262, 3, samples === 1 ? 1 : 2],
  ];
  if (kind === "tile") {
    const tile: [number, number, number][] = [[277, 3, 3], [322, 4, side], [323, 4, side], [324, 4, -1], [
      325,
      4,
      packed.length,
    ]];
    return { name: `tiff of 16 x 16 in a tile of ${side}`, bytes: put([...common(16, 16, 3), ...tile], packed) };
  }
  const strip = (rows: number, samples: number): [number, number, number][] => [
    [273, 4, -1],
    [277, 3, samples],
    [278, 4, rows],
    [279, 4, packed.length],
  ];
  if (kind === "claims") {
    return { name: `tiff that claims ${side}`, bytes: put([...common(side, side, 1), ...strip(side, 1)], packed) };
  }
  if (kind === "samples") {
    const samples = r.whole(4, 65_535);
    return {
      name: `tiff of ${samples} samples a pixel`,
      bytes: put([...common(64, 64, 3), ...strip(64, samples)], packed),
    };
  }
  const one = tiff(new Uint8Array(48), 4), count = r.whole(10, 50_000);
  const page = 2 + 12 * one[8]! + 4, pages = new Uint8Array(page * count), view = new DataView(pages.buffer);
  for (let i = 0; i < count; i++) {
    pages.set(one.subarray(8, 8 + page - 4), i * page);
    view.setUint32((i + 1) * page - 4, i + 1 < count ? one.length + (i + 1) * page : 0, true);
  }
  const bytes = join(one, pages);
  new DataView(bytes.buffer).setUint32(4, one.length, true);
  return { name: `tiff of ${count} pages`, bytes };
}

async function avif(r: Random): Promise<Bomb> {
  const bytes = await noise(r, r.one([64, 512, 1024]), "avif");
  if (r.whole(0, 2) === 0) return { name: "avif of noise", bytes };
  const at = Buffer.from(bytes).indexOf("ispe") + 8,
    view = new DataView(bytes.buffer),
    side = r.one([1, 16, 2000, 100_000]);
  view.setUint32(at, side), view.setUint32(at + 4, side);
  return { name: `avif that claims ${side}`, bytes };
}

const makers = [svg, jpeg, pngBomb, webp, gifBomb, tiffBomb, avif, svg];
export async function bomb(seed: number): Promise<Bomb> {
  const made = await makers[seed % makers.length]!(randomOf(seed));
  return { ...made, name: `${seed}: ${made.name}` };
}

// ---------------------------------------------------------------- a thousand of them
const readNow = (path: string) => {
  try {
    return readFileSync(path, "utf8");
  } catch {
    return ""; // it ended meanwhile
  }
};

/**
 * What this process and its children hold in memory now, and the processor time that they, and those that ended, have
 * had.
 */
export function family(): { bytes: number; seconds: number } {
  const children = readdirSync("/proc/self/task").flatMap((task) =>
    readNow(`/proc/self/task/${task}/children`).split(" ")
  );
  let bytes = 0, ticks = 0;
  for (const pid of [String(process.pid), ...children].filter(Boolean)) {
    bytes += 1024 * Number(/VmRSS:\s+(\d+)/.exec(readNow(`/proc/${pid}/status`))?.[1] ?? 0);
    const times = readNow(`/proc/${pid}/stat`).split(") ")[1]?.split(" ").slice(11, 15).map(Number) ?? [];
    ticks += times.reduce((sum, time) => sum + time, 0); // its own and its children's that ended, user and system
  }
  return { bytes, seconds: ticks / 100 };
}

if (import.meta.main) {
  const count = Number(process.argv[2] ?? 1000),
    first = Number(process.argv[3] ?? 0),
    ends: Record<string, number> = {};
  await readImage(png([1, 2, 3], 1));
  let slowest = 0, busiest = 0, largest = 0;
  for (let seed = first; seed < first + count; seed++) {
    const { name, bytes } = await bomb(seed), before = family(), start = performance.now();
    let most = before.bytes;
    const watch = setInterval(() => most = Math.max(most, family().bytes), 10);
    const end = await readImage(bytes, bombLimits).then(() => "read", (error) => {
      return error instanceof TokenizerError
        ? `${error.code} ${/\((limit\w+)\)/.exec(error.message)?.[1] ?? ""}`
        : `RAW ${error}`;
    });
    clearInterval(watch);
    const seconds = (performance.now() - start) / 1000, busy = family().seconds - before.seconds;
    const megabytes = Math.round((most - before.bytes) / 2 ** 20);
    slowest = Math.max(slowest, seconds), busiest = Math.max(busiest, busy), largest = Math.max(largest, megabytes);
    ends[end] = (ends[end] ?? 0) + 1;
    if (busy <= 1.2 && megabytes <= 200 && !end.startsWith("RAW")) continue;
    const took = `${seconds.toFixed(2)} s, ${busy.toFixed(2)} s of processor time, +${megabytes} MiB`;
    console.log(`${name}, ${bytes.length} bytes: ${end}, ${took}`);
  }
  const worst = `${slowest.toFixed(2)} s, ${busiest.toFixed(2)} s of processor time, +${largest} MiB`;
  console.log(`${count} pictures, at most ${worst}`, ends);
}
