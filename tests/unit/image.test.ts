import assert from "node:assert/strict";
import { copyFile, mkdir, mkdtemp, readdir, readFile, rm, writeFile } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { after, test } from "node:test";
import sharp from "sharp";
import { readImage, readImageSize, writeImage } from "../../src/media/image.ts";
import { glanceAt } from "../../src/media/picture.ts";
import { psnr } from "../../src/looking/metrics.ts";
import { Tensor } from "../../src/tokens/tensor.ts";

const root = await mkdtemp(join(tmpdir(), "ctok-image-"));
after(() => rm(root, { recursive: true }));

/** A smooth picture, which lossy formats keep well. */
function gradient(height: number, width: number): Tensor<"uint8"> {
  const data = new Uint8Array(height * width * 3);
  for (let i = 0; i < data.length; i++) {
    const x = Math.floor(i / 3) % width, y = Math.floor(i / 3 / width);
    data[i] = [x * 255 / width, y * 255 / height, 128][i % 3]!;
  }
  return new Tensor("uint8", [1, height, width, 3], data, { kind: "pixels" });
}

type Channels = 1 | 2 | 3 | 4;
const raw = (data: Uint8Array | Uint16Array, width: number, height: number, channels: Channels) =>
  sharp(data, { raw: { width, height, channels } });

function isWhole(image: Tensor<"uint8">, shape: number[]): void {
  assert.deepEqual(image.shape, shape);
  assert.equal(image.dtype, "uint8");
  assert.equal(image.kind, "pixels");
  assert.equal(image.data.constructor, Uint8Array);
  assert.equal(image.data.byteLength, image.data.buffer.byteLength);
}

// Least PSNR of a 40×56 gradient after the format's loss, in dB; PNG loses nothing.
const formats = { png: Infinity, tiff: 35, jpeg: 35, webp: 35, avif: 35, gif: 20 } as const;

for (const [format, least] of Object.entries(formats)) {
  test(`reads ${format}, from a path and from bytes`, async () => {
    const picture = gradient(40, 56), path = join(root, `read.${format}`);
    await raw(picture.data, 56, 40, 3).toFormat(format as keyof typeof formats).toFile(path);
    const image = await readImage(path);
    isWhole(image, [1, 40, 56, 3]);
    assert.ok(psnr(image, picture) >= least, `expected at least ${least} dB, found ${psnr(image, picture)}`);
    assert.deepEqual((await readImage(new Uint8Array(await readFile(path)))).data, image.data);
    assert.deepEqual(await readImageSize(path), { height: 40, width: 56 });
  });

  test(`refuses ${format} cut in half`, async () => {
    const { data } = gradient(120, 160);
    const bytes = await raw(data, 160, 120, 3).toFormat(format as keyof typeof formats).toBuffer();
    const path = join(root, `cut.${format}`);
    await writeFile(path, bytes.subarray(0, bytes.length / 2));
    await assert.rejects(readImage(path), (error: Error) => {
      assert.equal((error as { code?: string }).code, "IMAGE");
      assert.ok(error.message.startsWith(`${path}: expected an image that sharp can read`), error.message);
      assert.ok(!error.message.includes("\n"), error.message);
      return true;
    });
  });
}

test("grey becomes three equal channels", async () => {
  const png = await raw(Uint8Array.of(0, 100, 200, 255), 2, 2, 1).toColourspace("b-w").png().toBuffer();
  assert.equal((await sharp(png).metadata()).channels, 1);
  const image = await readImage(png);
  isWhole(image, [1, 2, 2, 3]);
  assert.deepEqual([...image.data], [0, 0, 0, 100, 100, 100, 200, 200, 200, 255, 255, 255]);
});

test("alpha is dropped, the colours under it kept", async () => {
  const colour = await raw(Uint8Array.of(255, 0, 10, 128, 7, 250, 0, 0), 2, 1, 4).png().toBuffer();
  assert.deepEqual([...(await readImage(colour)).data], [255, 0, 10, 7, 250, 0]);
  const grey = await raw(Uint8Array.of(9, 0, 200, 255), 2, 1, 2).toColourspace("b-w").png().toBuffer();
  assert.equal((await sharp(grey).metadata()).channels, 2);
  assert.deepEqual([...(await readImage(grey)).data], [9, 9, 9, 200, 200, 200]);
});

test("of 16 bits the high byte stays", async () => {
  const words = Uint16Array.of(0, 255, 256, 0x8000, 0xfeff, 0xffff);
  const colour = await raw(words, 2, 1, 3).toColourspace("rgb16").png().toBuffer();
  assert.equal((await sharp(colour).metadata()).depth, "ushort");
  assert.deepEqual([...(await readImage(colour)).data], [0, 0, 1, 0x80, 0xfe, 0xff]);
  const grey = await raw(words, 6, 1, 1).toColourspace("grey16").png().toBuffer();
  assert.deepEqual([...(await readImage(grey)).data], [0, 0, 1, 0x80, 0xfe, 0xff].flatMap((v) => [v, v, v]));
});

test("EXIF orientation 6 is applied: the stored left column is the upper row", async () => {
  const stored = Uint8Array.from([10, 20, 30, 40, 50, 60].flatMap((v) => [v, v, v])); // 2 rows of 3
  const png = await raw(stored, 3, 2, 3).withMetadata({ orientation: 6 }).png().toBuffer();
  const image = await readImage(png);
  isWhole(image, [1, 3, 2, 3]);
  assert.deepEqual([...image.data].filter((_, i) => i % 3 === 0), [40, 10, 50, 20, 60, 30]);
});

test("the smallest picture and a long thin one", async () => {
  const dot = await readImage(await raw(Uint8Array.of(1, 2, 3), 1, 1, 3).png().toBuffer());
  isWhole(dot, [1, 1, 1, 3]);
  assert.deepEqual([...dot.data], [1, 2, 3]);
  for (const [height, width] of [[3, 5000], [5000, 3]] as const) {
    const picture = gradient(height, width);
    const image = await readImage(await raw(picture.data, width, height, 3).png().toBuffer());
    isWhole(image, [1, height, width, 3]);
    assert.deepEqual(image.data, picture.data);
  }
});

test("what is no image says so, by name", async () => {
  const file = async (name: string, content: string) => {
    await writeFile(join(root, name), content);
    return join(root, name);
  };
  await assert.rejects(readImage(join(root, "none.png")), {
    code: "FILE_MISSING",
    message: /none\.png: expected a file, found ENOENT/,
  });
  await assert.rejects(readImage(root), { code: "FILE_IO", message: /expected the system to read it, found EISDIR/ });
  await assert.rejects(readImage(await file("text.png", "hello, this is text")), {
    code: "IMAGE",
    message: /text\.png: expected an image that sharp can read, found: Input buffer contains unsupported image format/,
  });
  await assert.rejects(readImage(await file("empty.png", "")), {
    code: "IMAGE",
    message: /empty\.png: .* found no bytes at all/,
  });
  await assert.rejects(readImage(Uint8Array.of(1, 2, 3)), { code: "IMAGE", message: /^image of 3 bytes: expected/ });
  await assert.rejects(readImage(5 as never), {
    code: "ARGUMENT",
    message: /^image: expected a path, a file: URL, bytes .* or a Blob, found "number"/,
  });
});

test("limitPixels is kept", async () => {
  const png = await raw(gradient(10, 11).data, 11, 10, 3).png().toBuffer();
  isWhole(await readImage(png, { limitPixels: 110 }), [1, 10, 11, 3]);
  await assert.rejects(readImage(png, { limitPixels: 109 }), {
    code: "IMAGE",
    message: /expected at most 109 pixels \(limitPixels\), found 11x10/,
    detail: 110,
  });
  await assert.rejects(readImage(png, { limitPixels: 0 }), { code: "ARGUMENT", message: /^options\.limitPixels: / });
});

test("readImageSize: upright, drawn if asked, by the header alone, and refused as readImage refuses", async () => {
  const { data } = gradient(120, 160);
  for (const format of ["jpeg", "tiff", "webp"] as const) { // decoded here, in a helper, and here again
    for (let orientation = 1; orientation <= 8; orientation++) {
      const bytes = await raw(data, 160, 120, 3).withMetadata({ orientation }).toFormat(format).toBuffer();
      const [, height, width] = (await readImage(bytes)).shape;
      assert.deepEqual(await readImageSize(bytes), { height, width }, `${format}, ${orientation}`);
      assert.equal(width, orientation <= 4 ? 160 : 120);
    }
  }
  const noise = Uint8Array.from({ length: 160 * 120 * 3 }, (_, i) => (i * 2654435761) >>> 24);
  const whole = await raw(noise, 160, 120, 3).png().toBuffer();
  assert.deepEqual(await readImageSize(whole.subarray(0, whole.length / 2)), { height: 120, width: 160 });
  const svg = new TextEncoder().encode(`<svg xmlns="http://www.w3.org/2000/svg" width="24" height="16"/>`);
  assert.deepEqual(await readImageSize(svg, { svg: true }), { height: 16, width: 24 });
  await assert.rejects(readImageSize(svg), { code: "IMAGE", message: /what may be SVG/ });
  const tiff = await raw(data, 160, 120, 3).tiff().toBuffer();
  for (const bytes of [whole, tiff]) {
    await assert.rejects(readImageSize(bytes, { limitPixels: 19199 }), { code: "IMAGE", detail: 19200 });
  }
  await assert.rejects(readImageSize(new Uint8Array()), { code: "IMAGE", message: /found no bytes at all/ });
  await assert.rejects(readImageSize(whole, { signal: AbortSignal.abort() }), { code: "CANCELLED" });
});

test("a file that changed is read anew", async () => {
  const path = join(root, "changing.png"), other = join(root, "other.png");
  await writeImage(path, gradient(8, 8));
  await readImage(path);
  await writeImage(other, gradient(9, 5));
  await copyFile(other, path);
  assert.deepEqual((await readImage(path)).shape, [1, 9, 5, 3]);
});

test("writeImage picks the format from the extension", async () => {
  const dir = join(root, "written"), picture = gradient(40, 56);
  await mkdir(dir);
  const wanted = {
    "a.png": "png",
    "b.JPG": "jpeg",
    "c.jpeg": "jpeg",
    "d.webp": "webp",
    "e.avif": "heif",
    "plain": "png",
  };
  for (const [name, format] of Object.entries(wanted)) {
    await writeImage(join(dir, name), picture);
    assert.equal((await sharp(await readFile(join(dir, name))).metadata()).format, format);
    const least = format === "png" ? Infinity : 38;
    const found = psnr(await readImage(join(dir, name)), picture);
    assert.ok(found >= least, `${name}: expected at least ${least} dB, found ${found}`);
  }
  await writeImage(join(dir, "a.png"), new Tensor("uint8", [40, 56, 3], picture.data)); // no batch, replaces
  assert.deepEqual((await readdir(dir)).sort(), Object.keys(wanted).sort());
});

test("writeImage refuses what it cannot write and leaves nothing", async () => {
  const dir = join(root, "refused");
  await mkdir(dir);
  await assert.rejects(writeImage(join(dir, "a.bmp"), gradient(2, 2)), {
    code: "ARGUMENT",
    message: /a\.bmp: expected one of \.png, \.jpg, \.jpeg, \.webp, \.avif, found "\.bmp"/,
  });
  await assert.rejects(writeImage(join(dir, "a.png"), new Tensor("uint8", [2, 2, 2, 3], new Uint8Array(24))), {
    code: "SHAPE",
  });
  await assert.rejects(writeImage(join(dir, "a.webp"), gradient(1, 20000)), {
    code: "UNSUPPORTED",
    message: /a\.webp: expected a picture that webp can hold, found 20000x1 pixels/,
  });
  await assert.rejects(writeImage(join(dir, "no", "a.png"), gradient(2, 2)), { code: "FILE_IO" });
  assert.deepEqual(await readdir(dir), []);
});

test("what a JPEG's header says is what sharp says of it", async () => {
  const { data } = gradient(40, 56), source = () => raw(data, 56, 40, 3);
  const thumbnail = await source().resize(8).jpeg().toBuffer();
  const jpegs = {
    plain: source().jpeg(),
    progressive: source().jpeg({ progressive: true }),
    grey: source().greyscale().jpeg(),
    cmyk: source().toColourspace("cmyk").jpeg(),
    turned: source().withMetadata({ orientation: 6 }).jpeg(),
    profiled: source().withIccProfile("p3").jpeg({ chromaSubsampling: "4:4:4" }),
  };
  for (const [name, jpeg] of Object.entries(jpegs)) {
    const plain = await jpeg.toBuffer(), length = thumbnail.length + 2;
    // A picture within what programs keep of their own.
    const segment = Buffer.from([0xff, 0xe2, length >> 8, length & 255, ...thumbnail]);
    const bytes = Buffer.concat([plain.subarray(0, 2), segment, Buffer.from([0xff, 0xfe, 0, 2]), plain.subarray(2)]);
    for (const one of [plain, bytes]) {
      const about = await glanceAt(new Uint8Array(one), name, 40 * 56), wanted = await sharp(one).metadata();
      for (const key of ["format", "height", "width", "channels", "space", "depth"] as const) {
        assert.equal(about[key], wanted[key], `${name}: ${key}`);
      }
      await assert.rejects(
        glanceAt(new Uint8Array(one), name, 40 * 56 - 1),
        /expected at most 2239 pixels .*found 56x40/,
      );
    }
  }
});
