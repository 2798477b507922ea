/**
 * From bytes to pixels: those of readImage, then scaled, cut, mirrored; clips of videos; what changed since the plan.
 */
import assert from "node:assert/strict";
import {
  cpSync,
  existsSync,
  mkdirSync,
  readdirSync,
  readFileSync,
  renameSync,
  rmSync,
  utimesSync,
  writeFileSync,
} from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import process from "node:process";
import { test } from "node:test";
import { packTar } from "modern-tar";
import sharp from "sharp";
import { framesOf, readImage } from "mod.ts";
import type { Item } from "../../src/corpus/item.ts";
import { Places } from "../../src/corpus/places.ts";
import { decoderVersions, type PrepareOptions, Preparer } from "../../src/corpus/prepare.ts";
import { numVariantsOf } from "../../src/corpus/looks.ts";
import { findItems, type FindOptions } from "../../src/corpus/sources/find.ts";
import { isItemsFault } from "../../src/corpus/source.ts";
import { ffmpeg, runFfmpeg } from "../av.ts";
import { rejects, root, withFolder } from "../support.ts";

const media = join(root, "examples/media");
const noFfmpeg = ffmpeg ? false : "no FFmpeg";

async function find(inputs: readonly string[], options: Partial<FindOptions> = {}): Promise<Item[]> {
  const items: Item[] = [];
  for await (const found of findItems(inputs, { kind: "image", ...options })) {
    if ("item" in found) items.push(found.item);
  }
  return items;
}

async function withPreparer<T>(options: PrepareOptions, use: (preparer: Preparer) => Promise<T>): Promise<T> {
  await using places = new Places();
  await using preparer = new Preparer(options, places);
  return await use(preparer);
}

async function prepare(item: Item, options: PrepareOptions = {}) {
  const prepared = await withPreparer(options, (preparer) => preparer.prepare(item));
  assert.ok(prepared.kind !== "video");
  return prepared;
}

/** A picture of noise, upright `height` by `width`, in the format of its extension. */
async function picture(path: string, height: number, width: number, orientation = 1): Promise<void> {
  const data = Uint8Array.from({ length: height * width * 3 }, (_, i) => (i * 2654435761 >>> 13) & 255);
  const stored = orientation > 4 ? { width: height, height: width } : { width, height };
  await sharp(data, { raw: { ...stored, channels: 3 } }).withMetadata({ orientation }).toFile(path);
}

test("without options a picture has the pixels that readImage gives, wherever it lies", async () => {
  await withFolder(async (folder) => {
    for (const name of ["astronaut.png", "cat.png", "coffee.jpg"]) cpSync(join(media, name), join(folder, name));
    await picture(join(folder, "turned.jpg"), 40, 60, 6);
    const cmyk = sharp(join(media, "coffee.jpg")).resize(64).toColourspace("cmyk").jpeg();
    await cmyk.toFile(join(folder, "cmyk.jpg"));
    await sharp(join(media, "coffee.jpg")).resize(50).withIccProfile("p3").tiff().toFile(join(folder, "p3.tiff"));
    await sharp(join(media, "cat.png")).resize(64).gif().toFile(join(folder, "a.gif"));
    const names = readdirSync(folder).sort();
    writeFileSync(
      join(folder, "all.tar"),
      await packTar(names.map((name) => {
        const body = readFileSync(join(folder, name));
        return { header: { name, size: body.length, type: "file" as const }, body: new Uint8Array(body) };
      })),
    );
    const items = await find([folder]);
    assert.equal(items.length, 2 * names.length);
    for (const item of items) {
      const { pixels, facts } = await prepare(item), wanted = await readImage(join(folder, facts.fileName));
      assert.deepEqual(pixels.shape, wanted.shape);
      assert.ok(Buffer.compare(pixels.data, wanted.data) === 0, item.key);
      const [, height, width] = wanted.shape as [number, number, number];
      assert.deepEqual(facts, {
        fileName: facts.fileName,
        height,
        width,
        originalHeight: height,
        originalWidth: width,
      });
    }
  });
});

test("scaled by Lanczos, then cut from the middle, as sharp does in one go", async () => {
  await withFolder(async (folder) => {
    await picture(join(folder, "wide.png"), 300, 500);
    const [item] = await find([folder]) as [Item];
    const { pixels, facts } = await prepare(item, { size: 64 });
    const wanted = sharp(join(folder, "wide.png")).resize(107, 64, { fit: "fill", kernel: "lanczos3" })
      .extract({ left: 21, top: 0, width: 64, height: 64 }).raw();
    assert.ok(Buffer.compare(pixels.data, await wanted.toBuffer()) === 0);
    assert.equal(pixels.data.constructor, Uint8Array);
    const about = { height: 64, width: 64, originalHeight: 300, originalWidth: 500, cropTop: 0, cropLeft: 21 };
    assert.deepEqual(facts, { fileName: "wide.png", ...about });
    const whole = (await prepare(item, { size: 64, crop: "none" })).pixels;
    assert.deepEqual(whole.shape, [1, 64, 107, 3]);
    assert.equal(whole.data.byteLength, whole.data.buffer.byteLength, "no window into a pool");
    const bucket = await prepare(item, { size: 128, bucket: true, bucketStep: 16 });
    assert.equal(bucket.facts.bucket, "160x96");
    assert.deepEqual(bucket.pixels.shape, [1, 96, 160, 3]);
    await rejects(
      () => prepare(item, { minSize: 301 }),
      "IMAGE",
      /wide\.png: expected a shorter side of at least 301 pixels .*300/,
    );
    await rejects(() => prepare(item, { bucket: true }), "ARGUMENT", /options\.bucket: expected a size beside it/);
  });
});

test("an upright JPEG and its PNG are scaled alike: nothing is scaled while it is decoded", async () => {
  await withFolder(async (folder) => {
    await picture(join(folder, "a.jpg"), 256, 512, 8);
    const { data } = await readImage(join(folder, "a.jpg"));
    await sharp(data, { raw: { width: 512, height: 256, channels: 3 } }).png().toFile(join(folder, "b.png"));
    const [a, b] = await find([folder]) as [Item, Item];
    const [one, other] = [await prepare(a, { size: 32 }), await prepare(b, { size: 32 })];
    assert.deepEqual(one.pixels.shape, [1, 32, 32, 3]);
    assert.ok(Buffer.compare(one.pixels.data, other.pixels.data) === 0);
  });
});

test("variants: random crops and mirrored ones of one decoding, each in memory of its own", async () => {
  await withFolder(async (folder) => {
    await picture(join(folder, "a.png"), 40, 60);
    const options: PrepareOptions = { size: 40, crop: "random:3", crops: 2, flip: true };
    const items = await find([folder], { numVariants: numVariantsOf(options) });
    assert.deepEqual(items.map(({ key }) => key), ["a_0", "a_1", "a_2", "a_3"]);
    const all = await withPreparer(options, (preparer) => Promise.all(items.map((item) => preparer.prepare(item))));
    const source = await readImage(join(folder, "a.png"));
    for (const [v, prepared] of all.entries()) {
      assert.ok(prepared.kind === "image");
      const { pixels: { data }, facts } = prepared;
      assert.equal(facts.isFlipped, v % 2 === 1 ? true : undefined);
      for (let i = 0; i < data.length; i++) {
        const y = Math.floor(i / 120),
          x = Math.floor(i % 120 / 3),
          from = facts.cropLeft! + (facts.isFlipped ? 39 - x : x);
        if (data[i] !== source.data[(y * 60 + from) * 3 + i % 3]) assert.fail(`variant ${v}, row ${y}, column ${x}`);
      }
    }
    await withPreparer({ flip: true }, async (preparer) => { // the whole picture: no cut makes a copy of its own
      const [first] = await find([folder], { numVariants: 2 }) as [Item];
      const [one, other] = [await preparer.prepare(first), await preparer.prepare(first)];
      assert.ok(one.kind === "image" && other.kind === "image" && one.pixels.data.buffer !== other.pixels.data.buffer);
    });
  });
});

test("what was edited, replaced or removed since the plan is told, with both", async () => {
  await withFolder(async (folder) => {
    const path = join(folder, "a.png"), tar = join(folder, "b.tar");
    await picture(path, 16, 16);
    const bytes = new Uint8Array(readFileSync(path));
    writeFileSync(tar, await packTar([{ header: { name: "m.png", size: bytes.length, type: "file" }, body: bytes }]));
    const [file, member] = await find([folder], { hash: true }) as [Item, Item];
    const at = new Date(Number(BigInt(file.identity.mtimeNs) / 1_000_000n));
    utimesSync(path, at, new Date(at.getTime() + 1000));
    const time = await rejects(
      () => prepare(file),
      "FILE_IO",
      /a\.png: expected the file as it was planned, changed last at 20/,
    );
    assert.ok(isItemsFault(time));
    writeFileSync(path, bytes.toReversed()); // as long, and as old
    utimesSync(path, at, at);
    await rejects(() => prepare(file), "FILE_IO", /sha256 [0-9a-f]{64}, found [0-9a-f]{64}/);
    writeFileSync(path, "x");
    await rejects(() => prepare(file), "FILE_IO", new RegExp(`planned, ${bytes.length} bytes, found 1`));
    rmSync(path);
    const gone = await rejects(
      () => prepare(file),
      "FILE_MISSING",
      /a\.png: expected the file that was planned, found none$/,
    );
    assert.ok(isItemsFault(gone));
    mkdirSync(path);
    await rejects(() => prepare(file), "FILE_IO", /expected the file that was planned, found "no file"/);

    await withPreparer({}, async (preparer) => { // with the tar open
      await preparer.prepare(member);
      writeFileSync(tar, "shorter");
      await rejects(() => preparer.prepare(member), "FILE_IO", /b\.tar: m\.png: expected its file as it was planned/);
      renameSync(tar, join(folder, "elsewhere"));
      await rejects(
        () => preparer.prepare(member),
        "FILE_MISSING",
        /b\.tar: m\.png: expected the file that was planned, found none/,
      );
    });
  });
});

test("what is no picture, empty or too large is an item's fault; the rest is the machine's", async () => {
  await withFolder(async (folder) => {
    writeFileSync(join(folder, "a.jpg"), "no picture");
    await picture(join(folder, "b.png"), 20, 20);
    writeFileSync(join(folder, "c.png"), readFileSync(join(folder, "b.png")).subarray(0, 300));
    const [none, good, cut] = await find([folder]) as [Item, Item, Item];
    for (const item of [none, cut]) {
      assert.ok(isItemsFault(await rejects(() => prepare(item), "IMAGE", new RegExp(`${item.key}\\.\\w+: expected`))));
    }
    await rejects(() => prepare(good, { limitPixels: 399 }), "IMAGE", /expected at most 399 pixels/);
    await withPreparer(
      {},
      (preparer) => rejects(() => preparer.prepare(good, AbortSignal.abort()), "CANCELLED", /cancelled/),
    );
    assert.ok(!isItemsFault(new Error("x")));
  });
});

test("many at once, from one open tar, in any order", async () => {
  await withFolder(async (folder) => {
    const bodies = await Promise.all(Array.from({ length: 40 }, async (_, i) => {
      return await sharp({ create: { width: 8, height: 8, channels: 3, background: { r: i, g: 0, b: 0 } } }).png()
        .toBuffer();
    }));
    for (let part = 0; part < 20; part++) { // more tars than stay open
      const entries = bodies.slice(2 * part, 2 * part + 2).map((body, i) => {
        return {
          header: { name: `${2 * part + i}.png`, size: body.length, type: "file" as const },
          body: new Uint8Array(body),
        };
      });
      writeFileSync(join(folder, `${String(part).padStart(2, "0")}.tar`), await packTar(entries));
    }
    const items = await find([folder]);
    await withPreparer({}, async (preparer) => {
      const order = items.map((_, i) => i * 7 % items.length);
      const all = await Promise.all(order.map((i) => preparer.prepare(items[i]!)));
      assert.deepEqual(all.map((one) => one.kind === "image" && one.pixels.data[0]), order);
    });
  });
});

test("the decoders' versions", async () => {
  const versions = await decoderVersions("image");
  assert.match(versions.sharp!, /^\d+\.\d+/);
  assert.match(versions.vips!, /^\d+\.\d+/);
  if (ffmpeg) assert.ok((await decoderVersions("video")).ffmpeg);
});

// ---------------------------------------------------------------- videos
/** 40 small frames, some of which refer to later ones. */
function makeVideo(folder: string): string {
  const path = join(folder, "cars.mp4"), source = ["-f", "lavfi", "-i", "testsrc=size=48x32:rate=25"];
  runFfmpeg("-y", ...source, "-frames:v", "40", "-c:v", "mpeg4", "-g", "12", "-bf", "2", path);
  return path;
}
async function framesIn(path: string): Promise<Uint8Array[]> {
  return (await Array.fromAsync((await framesOf(path)).frames)).map(({ data }) => data);
}

test("clips of a video, overlapping or apart, are the frames that framesOf gives", { skip: noFfmpeg }, async () => {
  await withFolder(async (folder) => {
    const clip = makeVideo(folder);
    const { info } = await framesOf(clip), frames = await framesIn(clip), total = frames.length;
    assert.equal(total, 40);
    for (const [clipFrames, stride] of [[5, 3], [4, 11]] as const) {
      const items = await find([clip], { kind: "video", clipFrames, stride });
      assert.equal(items.length, Math.floor((total - clipFrames) / stride) + 1);
      assert.deepEqual(items.slice(0, 2).map(({ key }) => key), ["cars_0", "cars_1"]);
      const some = items.slice(0, 3);
      await withPreparer({}, async (preparer) => {
        const all = await Promise.all(some.map((item) => preparer.prepare(item)));
        for (const [k, prepared] of all.entries()) {
          assert.ok(prepared.kind === "clip");
          const wanted = Buffer.concat(frames.slice(k * stride, k * stride + clipFrames));
          assert.deepEqual(prepared.pixels.shape, [1, clipFrames, info.height, info.width, 3]);
          assert.ok(Buffer.compare(prepared.pixels.data, wanted) === 0, `clip ${k}`);
          assert.deepEqual([prepared.facts.firstFrame, prepared.facts.numFrames], [k * stride, clipFrames]);
          assert.match(prepared.facts.fps!, /^\d+\/\d+$/);
        }
        const back = await preparer.prepare(some[0]!); // once more, from where it has passed
        assert.ok(back.kind === "clip" && all[0]!.kind === "clip");
        assert.ok(Buffer.compare(back.pixels.data, all[0]!.pixels.data) === 0);
      });
    }
  });
});

test("clips scaled and cut; one that ends too early; a video with too few frames", { skip: noFfmpeg }, async () => {
  await withFolder(async (folder) => {
    const clip = makeVideo(folder);
    const [first] = await find([clip], { kind: "video", clipFrames: 3 }) as [Item];
    const { pixels, facts } = await prepare(first, { size: 32, crop: "random:1" });
    assert.deepEqual(pixels.shape, [1, 3, 32, 32, 3]);
    assert.ok(facts.cropLeft !== undefined && facts.originalWidth > 32);
    const late: Item = { ...first, clip: { firstFrame: 0, numFrames: 100_000 } };
    const error = await rejects(
      () => prepare(late, { size: 8 }),
      "VIDEO",
      /cars\.mp4: expected frames 0 to 99999, found that it ends after \d+/,
    );
    assert.ok(isItemsFault(error));
    const refused = [], notes: string[] = [];
    for await (const found of findItems([clip], { kind: "video", clipFrames: 100_000 })) refused.push(found);
    assert.match(
      "refused" in refused[0]! ? refused[0].refused.reason : "",
      /expected at least 100000 frames, found \d+/,
    );
    for await (
      const _ of findItems([clip], {
        kind: "video",
        clipFrames: 7,
        frames: 20,
        onNote: (note) => notes.push(note),
      })
    );
    assert.deepEqual(notes, ["6 frames at the ends of 1 videos are in no whole clip of 7 frames"]);
  });
});

test(
  "a video in a tar is that of the file, and leaves nothing in the temporary folder",
  { skip: noFfmpeg },
  async (t) => {
    await withFolder(async (folder) => {
      mkdirSync(join(folder, "source"));
      const clip = makeVideo(join(folder, "source")), tar = join(folder, "v.tar"), own = join(folder, "tmp");
      mkdirSync(own);
      const before = process.env.TMPDIR;
      process.env.TMPDIR = own; // as other tests work in the usual one
      t.after(() => before === undefined ? delete process.env.TMPDIR : process.env.TMPDIR = before);
      assert.equal(tmpdir(), own);
      const add = (name: string, body: Uint8Array) => ({
        header: { name, size: body.length, type: "file" as const },
        body,
      });
      const video = new Uint8Array(readFileSync(clip));
      writeFileSync(
        tar,
        await packTar([add("v.mp4", video), add("v.txt", new Uint8Array(3)), add("bad.mp4", video.subarray(0, 1000))]),
      );
      const [item, bad] = await find([tar], { kind: "video" }) as [Item, Item];
      assert.deepEqual(item.sidecars.map(({ field }) => field), ["txt"]);
      await withPreparer({ size: 16, frames: 5 }, async (preparer) => {
        const whole = await preparer.prepare(item);
        assert.ok(whole.kind === "video");
        const frames = await Array.fromAsync(whole.frames);
        assert.deepEqual(frames.map(({ shape }) => shape), Array(5).fill([16, 16, 3]));
        assert.ok(frames[1]!.seconds > frames[0]!.seconds);
        await rejects(() => preparer.prepare(bad), "VIDEO", /v\.tar: bad\.mp4: expected/);
        const unread = await preparer.prepare(item);
        assert.equal(unread.kind, "video"); // nobody asks for its frames
      });
      const clips = await find([tar], { kind: "video", clipFrames: 2, frames: 4 });
      assert.deepEqual(clips.map(({ key }) => key), ["v_0", "v_1"]);
      const { pixels } = await prepare(clips[1]!);
      assert.ok(Buffer.compare(pixels.data, Buffer.concat((await framesIn(clip)).slice(2, 4))) === 0);
      assert.deepEqual(readdirSync(own), []);
    });
  },
);

test("a folder of frames as one video, and what changed in it", async () => {
  await withFolder(async (folder) => {
    const frames = join(folder, "shot.1");
    mkdirSync(frames);
    for (let i = 0; i < 4; i++) await picture(join(frames, `${i}.png`), 12 + 4, 20);
    const options = { kind: "video", foldersAreVideos: true } as const;
    const [whole] = await find([frames], options) as [Item];
    assert.equal(whole.key, "shot_1");
    await withPreparer({}, async (preparer) => {
      const prepared = await preparer.prepare(whole);
      assert.ok(prepared.kind === "video");
      assert.equal((await Array.fromAsync(prepared.frames)).length, 4);
    });
    const clips = await find([frames], { ...options, clipFrames: 2 });
    assert.deepEqual(clips.map((item) => item.clip?.firstFrame), [0, 2]);
    assert.deepEqual((await prepare(clips[1]!, { fps: 10 })).pixels.shape, [1, 2, 16, 20, 3]);
    rmSync(join(frames, "3.png"));
    await rejects(
      () => prepare(clips[1]!),
      "FILE_IO",
      /shot\.1: expected the file as it was planned, \d+ bytes, found \d+/,
    );
    assert.ok(existsSync(frames));
  });
});
