/**
 * Right pixels from every depth, profile and palette. The expected numbers are Pillow 12.3.0's with littleCMS 2.19
 * (ImageCms.profileToProfile to its sRGB, perceptual; convert("RGB") for palettes), of the same bytes where Pillow
 * reads them, else of the same colours in 8 bits, which 257 times and 1/255 repeat exactly in 16 bits and floats. Grey
 * of more than 8 bits is held against the curves' own formulas.
 */
import assert from "node:assert/strict";
import { test } from "node:test";
import sharp from "sharp";
import { readImage } from "../../src/media/image.ts";
import { gif, png, profile, tiff } from "../pictures.ts";
import { rejects } from "../support.ts";

const colours = [255, 0, 0, 0, 255, 0, 0, 0, 255, 255, 255, 255, 0, 0, 0, 128, 64, 200, 10, 20, 30, 200, 180, 90];
const greys = [0, 1, 2, 5, 10, 40, 128, 255];
const threeTimes = (values: readonly number[]) => values.flatMap((v) => [v, v, v]);

/** Reads a row of pixels that are at most `most` from those wanted, each channel. */
async function reads(name: string, bytes: Uint8Array, wanted: readonly number[], most = 0): Promise<void> {
  const { shape, data } = await readImage(bytes);
  assert.equal(shape[1]! * shape[2]! * 3, wanted.length, name);
  const far = wanted.findIndex((value, i) => !(Math.abs(data[i]! - value) <= most));
  assert.equal(far, -1, `${name}: expected ${wanted.join()}, found ${data.join()}`);
}

const rgb: [name: string, icc: Uint8Array, wanted: number[]][] = [
  ["sRGB", profile("srgb", "srgb"), colours],
  [
    "Display P3",
    profile("srgb", "p3"),
    [255, 0, 0, 0, 255, 0, 1, 0, 255, 255, 255, 255, 0, 0, 0, 138, 59, 207, 7, 20, 31, 204, 179, 72],
  ],
  [
    "Adobe RGB",
    profile(2.19921875, "adobe"),
    [255, 0, 0, 0, 255, 0, 0, 0, 255, 255, 255, 255, 0, 0, 0, 146, 62, 205, 0, 12, 24, 209, 181, 83],
  ],
  [
    "linear light",
    profile(1, "srgb"),
    [255, 0, 0, 0, 255, 0, 0, 0, 255, 255, 255, 255, 0, 0, 0, 188, 137, 229, 56, 79, 96, 229, 219, 160],
  ],
];
for (const [name, icc, wanted] of rgb) {
  test(`RGB of ${name}, in 8 and 16 bits and floats`, async () => {
    const words = colours.map((v) => v * 257), withAlpha = words.flatMap((v, i) => i % 3 === 2 ? [v, 0] : [v]);
    await reads("png of 8 bits", png(colours, 8, { icc }), wanted, 1);
    await reads("png of 16 bits", png(words, 8, { bits: 16, icc }), wanted, 1);
    await reads("png of 16 bits with alpha", png(withAlpha, 8, { bits: 16, channels: 4, icc }), wanted, 1);
    await reads("tiff of 8 bits", tiff(Uint8Array.from(colours), 8, { icc }), wanted, 1);
    await reads("tiff of 16 bits", tiff(Uint16Array.from(words), 8, { icc }), wanted, 1);
    await reads("tiff of 32 bits", tiff(Uint32Array.from(colours, (v) => v * 0x1010101), 8, { icc }), wanted, 1);
    await reads("tiff of floats", tiff(Float32Array.from(colours, (v) => v / 255), 8, { icc }), wanted, 1);
  });
}

/** sRGB's curve, 0..1 to 0..255. Ref: IEC 61966-2-1. */
const encoded = (light: number) => 255 * (light <= 0.0031308 ? 12.92 * light : 1.055 * light ** (1 / 2.4) - 0.055);
const light = (value: number) => value <= 0.04045 ? value / 12.92 : ((value + 0.055) / 1.055) ** 2.4;

// In 8 bits littleCMS's table for grey is up to 13 levels from the curve in the shadows of linear light, for Pillow and
// here.
const grey: [name: string, icc: Uint8Array, ofCurve: (value: number) => number, pillow: number[]][] = [
  ["sRGB's curve", profile("srgb"), light, greys],
  ["linear light", profile(1), (value) => value, [0, 6, 12, 31, 55, 110, 188, 255]],
  ["gamma 2.2", profile(2.19921875), (value) => value ** 2.19921875, [0, 0, 0, 1, 3, 35, 129, 255]],
];
for (const [name, icc, ofCurve, pillow] of grey) {
  test(`grey of ${name}, in 8 and 16 bits and floats`, async () => {
    await reads("png of 8 bits", png(greys, 8, { channels: 1, icc }), threeTimes(pillow), 1);
    const words = greys.map((v) => v * 257), wanted = threeTimes(greys.map((v) => encoded(ofCurve(v / 255))));
    await reads("png of 16 bits", png(words, 8, { bits: 16, channels: 1, icc }), wanted, 0.75);
    const withAlpha = words.flatMap((v) => [v, 0]);
    await reads("png of 16 bits with alpha", png(withAlpha, 8, { bits: 16, channels: 2, icc }), wanted, 0.75);
    await reads("tiff of 16 bits", tiff(Uint16Array.from(words), 8, { channels: 1, icc }), wanted, 0.75);
    await reads(
      "tiff of floats",
      tiff(Float32Array.from(greys, (v) => v / 255), 8, { channels: 1, icc }),
      wanted,
      0.75,
    );
  });
}

test("a profile is applied to all 16 bits, over more rows than are converted at once", async () => {
  const width = 4096, pixels = width * 1040; // 4.26 Mpx
  const levels = Uint16Array.from({ length: pixels }, (_, i) => i); // every value
  const neutral = Uint16Array.from({ length: 3 * pixels }, (_, i) => Math.floor(i / 3));
  for (const [channels, samples, icc] of [[1, levels, profile(1)], [3, neutral, profile(1, "srgb")]] as const) {
    const { shape, data } = await readImage(tiff(samples, width, { channels, icc }));
    assert.deepEqual(shape, [1, 1040, width, 3]);
    let most = 0;
    for (let i = 0; i < data.length; i++) {
      most = Math.max(most, Math.abs(data[i]! - encoded(levels[Math.floor(i / 3)]! / 65535)));
    }
    assert.ok(most < 0.75, `${channels} channels: ${most} from the curve`);
  }
});

test("without a profile: the high byte of 16 and 32 bits, 255 times a float, alpha dropped", async () => {
  const words = [0, 255, 256, 0x8000, 0xfeff, 0xffff], high = [0, 0, 1, 0x80, 0xfe, 0xff];
  await reads("png of 16 bits, grey", png(words, 6, { bits: 16, channels: 1 }), threeTimes(high));
  await reads("tiff of 16 bits, grey", tiff(Uint16Array.from(words), 6, { channels: 1 }), threeTimes(high));
  await reads("tiff of 16 bits", tiff(Uint16Array.from(words), 2), high);
  const longs = Uint32Array.from(words, (v) => v * 65536 + 0x1234);
  await reads("tiff of 32 bits", tiff(longs, 2), high);
  await reads("tiff of 32 bits, grey", tiff(longs, 6, { channels: 1 }), threeTimes(high));
  const floats = Float32Array.of(0, 0.25, 127.6 / 255, 1, 1.5, -0.5), bytes = [0, 64, 128, 255, 255, 0];
  await reads("tiff of floats", tiff(floats, 2), bytes);
  await reads("tiff of floats, grey", tiff(floats, 6, { channels: 1 }), threeTimes(bytes));
  await reads(
    "tiff of floats with alpha",
    tiff(Float32Array.of(1, 0, 0.5, 0, 0.2, 0.25, 0.75, 1), 2, { channels: 4 }),
    [
      ...[255, 0, 128, 51, 64, 191],
    ],
  );
  await reads("tiff of floats, grey with alpha", tiff(Float32Array.of(1, 0, 0.25, 1), 2, { channels: 2 }), [
    ...threeTimes([255, 64]),
  ]);
  for (const bits of [1, 2, 4]) {
    const most = 2 ** bits - 1, samples = Array.from({ length: most + 1 }, (_, i) => i);
    const wanted = threeTimes(samples.map((v) => v * 255 / most));
    await reads(`png of ${bits} bits`, png(samples, most + 1, { bits, channels: 1 }), wanted);
  }
});

test("a profile that is damaged, or for other colours, is as none", async () => {
  const words = colours.map((v) => v * 257), levels = greys.map((v) => v * 257), p3 = profile("srgb", "p3");
  await reads("RGB, damaged", png(words, 8, { bits: 16, icc: p3.subarray(0, 200) }), colours);
  await reads(
    "grey, damaged",
    png(levels, 8, { bits: 16, channels: 1, icc: profile(1).subarray(0, 150) }),
    threeTimes(greys),
  );
  await reads("RGB with grey's", png(words, 8, { bits: 16, icc: profile(1) }), colours);
  await reads("grey with RGB's", png(levels, 8, { bits: 16, channels: 1, icc: p3 }), threeTimes(greys));
});

test("CMYK by its profile, in 8 and 16 bits", async () => {
  const some = sharp(Uint8Array.from(colours), { raw: { width: 8, height: 1, channels: 3 } });
  // The one that sharp carries.
  const { icc } = await sharp(await some.withIccProfile("cmyk").tiff().toBuffer()).metadata();
  const ink = [
    ...[0, 0, 0, 0, 255, 0, 0, 0, 0, 255, 0, 0, 0, 0, 255, 0],
    ...[0, 0, 0, 255, 10, 60, 120, 30, 200, 100, 50, 20, 90, 90, 90, 10],
  ];
  const wanted = [
    ...[255, 255, 255, 0, 153, 227, 234, 0, 128, 255, 240, 0],
    ...[20, 5, 0, 214, 168, 120, 35, 112, 149, 156, 140, 137],
  ];
  const options = { channels: 4, photometric: 5, icc: icc! };
  await reads("8 bits", tiff(Uint8Array.from(ink), 8, options), wanted, 1);
  await reads("16 bits", tiff(Uint16Array.from(ink, (v) => v * 257), 8, options), wanted, 1);
});

test("samples without a meaning are refused, with their place", async () => {
  const floats = (...values: number[]) => tiff(Float32Array.from(values), 2, { channels: 1 });
  await rejects(
    () => readImage(floats(0, 0.5, 1, NaN)),
    "IMAGE",
    /expected float samples from 0 to 1, found "NaN at row 1, column 1"/,
  );
  await rejects(() => readImage(floats(0, 255, 1, 1)), "IMAGE", /found "255 at row 0, column 1"/);
  await rejects(() => readImage(floats(0, 0, -Infinity, 1)), "IMAGE", /found "-Infinity at row 1, column 0"/);
  const signed = tiff(Int16Array.of(0, 100, 200, -1), 2, { channels: 1 });
  await rejects(() => readImage(signed), "IMAGE", /expected samples of 8 or 16 bits, or float, found "short/);
});

const palette = [255, 0, 0, 0, 255, 0, 0, 0, 255, 9, 8, 7], dots = [0, 1, 2, 3, 3, 2, 1, 0];
const colour = (index: number) => palette.slice(3 * index, 3 * index + 3);

test("under a transparent index lies the palette's colour: GIF and PNG", async () => {
  const wanted = dots.flatMap(colour);
  await reads("no transparency", gif(dots, 4, { palette }), wanted);
  for (const transparent of [0, 2, 3]) {
    await reads("a screen's palette", gif(dots, 4, { palette, transparent }), wanted);
    await reads("a frame's palette", gif(dots, 4, { palette, transparent, isLocal: true }), wanted);
    await reads("more frames", gif(dots, 4, { palette, transparent, more: 2 }), wanted);
  }
  const bytes = gif(dots, 4, { palette, transparent: 2 }), before = bytes.slice();
  await readImage(bytes);
  assert.deepEqual(bytes, before, "the caller's bytes were changed");
  await reads("png", png([0, 1, 2, 3], 4, { bits: 2, channels: 1, palette, transparency: [0, 128, 255, 0] }), palette);
  await reads("png, RGB key", png([1, 2, 3, 4, 5, 6], 2, { transparency: [0, 1, 0, 2, 0, 3] }), [1, 2, 3, 4, 5, 6]);
  const key = png([0, 1, 2, 3], 4, { bits: 2, channels: 1, transparency: [0, 1] });
  await reads("png, grey key", key, threeTimes([0, 85, 170, 255]));
});

test("around a GIF's frame that is smaller than its screen", async () => {
  const place = [1, 1] as const, screen = [6, 4] as const;
  const wanted = (around: number) => {
    const rows = [[0, 1, 2, 3], [3, 2, 1, 0]].map((row) => [around, ...row, around]), edge = new Array(6).fill(around);
    return [edge, ...rows, edge].flat().flatMap(colour);
  };
  await reads("the transparent colour", gif(dots, 4, { palette, transparent: 3, screen, place }), wanted(3));
  await reads(
    "of the frame's palette",
    gif(dots, 4, { palette, transparent: 1, screen, place, isLocal: true }),
    wanted(1),
  );
  await reads("the first colour", gif(dots, 4, { palette, screen, place }), wanted(0));
});
