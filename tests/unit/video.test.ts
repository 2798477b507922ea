/**
 * Videos through FFmpeg: what is read equals what FFmpeg itself gives, every bad input has its error, and no child,
 * file or descriptor is left. The clips are made here, by the FFmpeg that the library finds (CTOK_FFMPEG chooses
 * another).
 */
import assert from "node:assert/strict";
import { execFileSync, spawn } from "node:child_process";
import { once } from "node:events";
import {
  copyFileSync,
  mkdirSync,
  mkdtempSync,
  readdirSync,
  readFileSync,
  rmSync,
  symlinkSync,
  writeFileSync,
} from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import process from "node:process";
import { after, test } from "node:test";
import { findFfmpeg } from "../../src/media/ffmpeg.ts";
import { writeImage } from "../../src/media/image.ts";
import { toRate } from "../../src/tokens/rate.ts";
import { createVideo, openVideo, type VideoOptions } from "../../src/media/video.ts";
import { psnr } from "../../src/looking/metrics.ts";
import { Tensor } from "../../src/tokens/tensor.ts";
import { collectGarbage, rejects, root, runArgs, runtime } from "../support.ts";

const ffmpeg = await findFfmpeg().catch(() => undefined);
const needs = { skip: ffmpeg ? false : "no FFmpeg: none in CTOK_FFMPEG, PATH, or the npm package" };
const folder = mkdtempSync(join(tmpdir(), "ctok-video-"));
after(() => rmSync(folder, { recursive: true }));

const cars = join(root, "examples/media/cars.mp4"); // 75 frames of 432 × 768, 12.5 a second, no audio
const at = (name: string) => join(folder, name);

/** Runs FFmpeg and returns its stdout. */
function make(...args: string[]): Uint8Array {
  const general = ["-v", "error", "-nostdin", "-y"];
  return new Uint8Array(
    execFileSync(ffmpeg!.path, [...general, ...args], { maxBuffer: 1 << 30, stdio: ["ignore", "pipe", "ignore"] }),
  );
}

const made = new Set<string>();
/** A clip in the tests' folder, made once. */
function clip(name: string, ...args: string[]): string {
  if (!made.has(name)) make(...args, at(name));
  made.add(name);
  return at(name);
}

const pattern = (
  size: string,
  seconds: number,
  rate = 30,
) => ["-f", "lavfi", "-i", `testsrc=s=${size}:r=${rate}:d=${seconds}`];
const h264 = ["-c:v", "libx264", "-preset", "ultrafast", "-pix_fmt", "yuv420p"];
const withAudio = () =>
  clip("audio.mp4", ...pattern("64x48", 2), "-f", "lavfi", "-i", "sine=d=2", ...h264, "-c:a", "aac", "-shortest");

async function readAll(path: string, options?: VideoOptions) {
  const { info, frames } = await openVideo(path, options);
  const all: Uint8Array[] = [], seconds: number[] = [];
  for await (const frame of frames()) {
    all.push(frame.data);
    seconds.push(frame.seconds);
  }
  return { info, frames: all, seconds };
}

/** Reads until the error; returns it with the number of frames before it. */
async function readUntilError(
  path: string,
  code: "VIDEO" | "FFMPEG" | "CANCELLED" | "IMAGE",
  text: RegExp,
  options?: VideoOptions,
) {
  const source = await openVideo(path, options);
  let numFrames = 0;
  const error = await rejects(
    async () => {
      for await (const _ of source.frames()) numFrames++;
    },
    code,
    text,
  );
  return { error, numFrames };
}

function equalFrames(found: Uint8Array[], wanted: Uint8Array, frameBytes: number): void {
  assert.equal(found.length, wanted.length / frameBytes);
  found.forEach((frame, i) => {
    assert.equal(frame.constructor, Uint8Array);
    assert.equal(frame.byteLength, frame.buffer.byteLength, "a frame has memory of its own");
    assert.equal(Buffer.compare(frame, wanted.subarray(i * frameBytes, (i + 1) * frameBytes)), 0, `frame ${i} differs`);
  });
}

/** Processes that this one started and that still run FFmpeg. */
function children(): string[] {
  return readdirSync("/proc").filter((pid) => {
    try {
      const stat = readFileSync(`/proc/${pid}/stat`, "utf8");
      return /^\d+ \(ffmpeg/.test(stat) && stat.slice(stat.lastIndexOf(")")).split(" ")[2] === String(process.pid);
    } catch {
      return false; // gone between the two calls
    }
  });
}
const descriptors = () => readdirSync("/proc/self/fd").length;

test("a clip: its header, and every frame as FFmpeg's plain conversion gives it", needs, async () => {
  const { info, frames } = await readAll(cars);
  assert.deepEqual(info, {
    height: 432,
    width: 768,
    fps: { num: 25, den: 2 },
    numFrames: 75,
    isVariableRate: false,
    startSeconds: 0,
    sampleAspect: { num: 1, den: 1 },
    rotation: 0,
    codec: "h264",
    audioCodec: undefined,
    hasAudio: false,
  });
  equalFrames(frames, make("-i", cars, "-f", "rawvideo", "-pix_fmt", "rgb24", "-"), 432 * 768 * 3);
  assert.deepEqual(children(), []);
});

test("1080p H.264 with audio: the frames alone, and a source reads twice", needs, async () => {
  const path = clip(
    "hd.mp4",
    ...pattern("1920x1080", 1),
    "-f",
    "lavfi",
    "-i",
    "sine=d=1",
    ...h264,
    "-c:a",
    "aac",
    "-r",
    "30000/1001",
  );
  const source = await openVideo(path, { frames: 5 });
  assert.deepEqual([source.info.height, source.info.width], [1080, 1920]);
  assert.deepEqual(source.info.fps, { num: 30000, den: 1001 });
  assert.deepEqual([source.info.hasAudio, source.info.audioCodec, source.info.numFrames], [true, "aac", 5]);
  const plain = make("-i", path, "-frames:v", "5", "-f", "rawvideo", "-pix_fmt", "rgb24", "-");
  for (let times = 0; times < 2; times++) {
    const frames: Uint8Array[] = [];
    for await (const frame of source.frames()) frames.push(frame.data);
    equalFrames(frames, plain, 1080 * 1920 * 3);
  }
});

test("a phone's rotated clip stands upright", needs, async () => {
  const path = at("rotated.mp4");
  copyFileSync(clip("flat.mp4", ...pattern("96x64", 0.5), ...h264), path);
  turnDisplayMatrix(path);
  const { info, frames } = await readAll(path);
  assert.deepEqual([info.height, info.width, info.rotation, info.numFrames], [96, 64, 90, 15]);
  equalFrames(frames, make("-i", path, "-f", "rawvideo", "-pix_fmt", "rgb24", "-"), 96 * 64 * 3);
  const flat = (await readAll(at("flat.mp4"))).frames[0]!;
  // The upper right corner of the picture is the upper left one of what is stored.
  const stored = [...flat.subarray(0, 3)], upright = [...frames[0]!.subarray(63 * 3, 64 * 3)];
  stored.forEach((value, c) => assert.ok(Math.abs(value - upright[c]!) <= 40, `${stored} and ${upright}`));
});

/** Writes the 90° clockwise matrix of a phone into the video's track header (ISO 14496-12, 8.3.2). */
function turnDisplayMatrix(path: string): void {
  const bytes = readFileSync(path);
  const matrix = bytes.indexOf("tkhd") + 4 + 40; // version 0: the matrix is 40 bytes into the box's content
  [0, 0x10000, 0, -0x10000, 0, 0, 64 << 16, 0, 0x40000000].forEach((value, i) =>
    bytes.writeInt32BE(value, matrix + 4 * i)
  );
  writeFileSync(path, bytes);
}

test("variable rate: each frame once, or resampled on request", needs, async () => {
  // 40 frames at 30 a second, then every third one.
  const path = clip(
    "vfr.mp4",
    ...pattern("64x48", 4),
    "-vf",
    "select=not(mod(n\\,3))+lt(n\\,40)",
    "-vsync",
    "vfr",
    ...h264,
  );
  const { info, frames } = await readAll(path);
  assert.equal(info.isVariableRate, true);
  assert.equal(frames.length, 66);
  assert.ok(Math.abs(info.fps.num / info.fps.den - 66 / 3.9) < 0.6, `${info.fps.num}/${info.fps.den}`);
  const steady = await readAll(path, { fps: 30 });
  assert.equal(steady.info.isVariableRate, false);
  assert.ok(Math.abs(steady.frames.length - 119) <= 2, `${steady.frames.length} frames`);
  assert.ok(Math.abs(steady.info.numFrames! - steady.frames.length) <= 2);
});

test("start, frames and fps", needs, async () => {
  const { frames } = await readAll(cars);
  const part = await readAll(cars, { start: 20, frames: 7 });
  equalFrames(part.frames, Buffer.concat(frames.slice(20, 27)), 432 * 768 * 3);
  assert.equal(part.info.numFrames, 7);
  const rest = await readAll(cars, { start: 70, frames: 100 });
  equalFrames(rest.frames, Buffer.concat(frames.slice(70)), 432 * 768 * 3);
  assert.equal(rest.info.numFrames, 5);
  const doubled = await readAll(cars, { fps: 25, start: 1, frames: 4 });
  equalFrames(doubled.frames, Buffer.concat([0, 1, 1, 2].map((i) => frames[i]!)), 432 * 768 * 3);
  assert.deepEqual(doubled.info.fps, { num: 25, den: 1 });
  const none = await readUntilError(cars, "VIDEO", /expected a frame 75 \(counted from 0\), found no frame there/, {
    start: 75,
  });
  assert.equal(none.error.detail, 0);
  await rejects(() => openVideo(cars, { fps: 0 }), "ARGUMENT", /options\.fps: /);
  await rejects(() => openVideo(cars, { start: -1 }), "ARGUMENT", /options\.start/);
  await rejects(() => openVideo(cars, { frame: 1 } as never), "ARGUMENT", /frame/);
});

test("rates as fractions", () => {
  const rates = [[30, 30, 1], [12.5, 25, 2], [29.97, 30000, 1001], [23.976, 24000, 1001], [
    59.94,
    60000,
    1001,
  ]] as const;
  for (const [fps, num, den] of rates) assert.deepEqual(toRate(fps), { num, den });
  assert.deepEqual(toRate({ num: 25, den: 2 }), { num: 25, den: 2 });
});

test("one frame, and odd sizes, through several containers", needs, async () => {
  for (
    const [name, args] of [["one.mp4", h264], ["one.mkv", ["-c:v", "ffv1"]], ["one.y4m", [
      "-pix_fmt",
      "yuv444p",
    ]]] as const
  ) {
    const size = name === "one.mp4" ? "66x50" : "67x51";
    const { info, frames } = await readAll(clip(name, ...pattern(size, 1), "-frames:v", "1", ...args));
    assert.equal(frames.length, 1, name);
    assert.equal(`${info.width}x${info.height}`, size);
  }
});

test("Y4M", needs, async () => {
  const path = clip("clip.y4m", "-i", cars, "-vf", "scale=150:90", "-frames:v", "21");
  const { info, frames } = await readAll(path);
  assert.deepEqual([info.height, info.width, info.numFrames, info.codec], [90, 150, 21, "rawvideo"]);
  equalFrames(frames, make("-i", path, "-f", "rawvideo", "-pix_fmt", "rgb24", "-"), 90 * 150 * 3);
});

test("a folder of images, in natural order", needs, async () => {
  const path = at("images");
  mkdirSync(path);
  const image = (value: number, height = 4) =>
    new Tensor("uint8", [height, 6, 3], new Uint8Array(height * 18).fill(value));
  for (const n of [10, 9, 2, 1]) await writeImage(join(path, `frame ${n}.png`), image(n));
  for (const name of ["notes.txt", ".hidden.png"]) writeFileSync(join(path, name), "not an image");
  const { info, frames } = await readAll(path);
  assert.deepEqual(frames.map((frame) => frame[0]), [1, 2, 9, 10]);
  assert.deepEqual([info.height, info.width, info.numFrames, info.codec, info.fps], [4, 6, 4, "png", {
    num: 25,
    den: 1,
  }]);
  const part = await readAll(path, { start: 1, frames: 2, fps: 12.5 });
  assert.deepEqual([part.frames.map((frame) => frame[0]), part.info.fps.num / part.info.fps.den], [[2, 9], 12.5]);

  await rejects(() => openVideo(path, { start: 4 }), "VIDEO", /expected an image 4 \(counted from 0\), found 4 images/);
  await writeImage(join(path, "frame 11.png"), image(11, 5));
  const other = /expected every image to be 6x4 pixels, as frame 1\.png is, found 6x5 in frame 11\.png/;
  const { error, numFrames } = await readUntilError(path, "VIDEO", other);
  assert.deepEqual([error.detail, numFrames], [4, 4]);
  writeFileSync(join(path, "frame 3.png"), "damaged");
  assert.equal((await readUntilError(path, "IMAGE", /frame 3\.png: expected an image/)).numFrames, 2);
  mkdirSync(at("nothing"));
  await rejects(
    () => openVideo(at("nothing")),
    "VIDEO",
    /nothing: expected a folder with images \(\.png, .* found none/,
  );
});

test("what is no video says so, by name", needs, async () => {
  const file = (name: string, content: string) => (writeFileSync(at(name), content), at(name));
  await rejects(() => openVideo(at("none.mp4")), "FILE_MISSING", /none\.mp4: expected a file, found ENOENT/);
  await rejects(
    () => openVideo("/dev/null"),
    "FILE_IO",
    /expected a video file or a folder of images, found "a device/,
  );
  await rejects(
    () => openVideo(file("text.mp4", "hello, this is text\n")),
    "VIDEO",
    /text\.mp4: expected a video that FFmpeg can/,
  );
  await rejects(
    () => openVideo(file("text.txt", "hello, this is text\n")),
    "VIDEO",
    /text\.txt: expected a video that FFmpeg can/,
  );
  await rejects(() => openVideo(file("empty.mkv", "")), "VIDEO", /empty\.mkv: expected a video/);
  const sound = clip("sound.mp4", "-f", "lavfi", "-i", "sine=d=1", "-c:a", "aac");
  await rejects(() => openVideo(sound), "VIDEO", /expected a video stream, found only audio \(aac\)/);
  const header = await rejects(
    () => openVideo(file("zero.y4m", "YUV4MPEG2 W64 H48 F30:1\n")),
    "VIDEO",
    /at least one frame, found none/,
  );
  assert.equal(header.detail, 0);
  await rejects(() => openVideo(5 as never), "ARGUMENT", /^path: expected a video file or a folder/);
});

test("a name that FFmpeg would take for an option or an address", needs, async () => {
  for (const name of ["-i", "http:clip.mp4", "it's %d.mp4"]) {
    copyFileSync(clip("flat.mp4", ...pattern("96x64", 0.5), ...h264), at(name));
    assert.equal((await readAll(at(name))).frames.length, 15, name);
  }
});

for (const [name, ...how] of [["mp4", "-movflags", "+faststart"], ["mkv"], ["ts"]] as const) {
  test(`cut short midway (${name}): the frames so far, then an error with their number`, needs, async () => {
    const bytes = readFileSync(clip(`whole.${name}`, "-i", cars, "-c", "copy", ...how));
    writeFileSync(at(`cut.${name}`), bytes.subarray(0, bytes.length * 0.55));
    const cut = /expected a whole video, found it cut short or damaged; \d\d frames were read; FFmpeg says: \S/;
    const { error, numFrames } = await readUntilError(at(`cut.${name}`), "VIDEO", cut);
    assert.ok(numFrames > 30 && numFrames < 50, `${numFrames} frames`);
    assert.equal(error.detail, numFrames);
    assert.ok(error.message.includes(`${numFrames} frames`), error.message);
    assert.equal((await readAll(at(`cut.${name}`), { allowDamage: true })).frames.length, numFrames);
    assert.equal((await readAll(at(`cut.${name}`), { frames: 5 })).frames.length, 5);
    assert.equal((await readAll(at(`whole.${name}`))).frames.length, 75);
  });
}

test("a recording joined midway is whole: what cannot be decoded comes before its first frame", needs, async () => {
  const bytes = readFileSync(clip("joined.ts", "-i", cars, ...h264, "-g", "25"));
  writeFileSync(at("joined.ts"), bytes.subarray(Math.floor(bytes.length * 0.15 / 188) * 188));
  const { frames } = await readAll(at("joined.ts"));
  assert.ok(frames.length >= 50 && frames.length < 75, `${frames.length} frames`);
});

test("a size that changes midway is an error, not a picture scaled in silence", needs, async () => {
  const part = (name: string, size: string) => readFileSync(clip(name, ...pattern(size, 1), ...h264, "-bf", "0"));
  const [small, large] = [part("small.ts", "64x48"), part("large.ts", "96x80")];
  for (
    const [name, parts, before, after] of [
      ["grows.ts", [small, large], "64x48", "96x80"],
      ["shrinks.ts", [large, small], "96x80", "64x48"],
    ] as const
  ) {
    writeFileSync(at(name), Buffer.concat(parts));
    const text = new RegExp(`expected every frame to be ${before} pixels, found ${after} after \\d+ frames`);
    const { error, numFrames } = await readUntilError(at(name), "VIDEO", text, { allowDamage: true });
    assert.ok(numFrames >= 28 && numFrames <= 30, `${numFrames} frames`); // FFmpeg may drop those on their way
    assert.equal(error.detail, numFrames);
  }
});

test("a reader that stops early leaves nothing behind", needs, async () => {
  const source = await openVideo(cars);
  // What the runtime opens and keeps.
  for (let times = 0; times < 3; times++) for await (const _ of source.frames()) break;
  const before = descriptors();
  for (let times = 0; times < 5; times++) {
    let numFrames = 0;
    for await (const _ of source.frames()) if (++numFrames === 3) break;
    assert.deepEqual(children(), []);
  }
  const unread = source.frames();
  await unread.return();
  await assert.rejects(async () => {
    for await (const _ of source.frames()) throw new Error("the reader's own");
  }, /the reader's own/);
  assert.deepEqual(children(), []);
  // Bun closes a pipe a moment after it says so.
  for (let times = 0; times < 3000 && descriptors() > before; times++) {
    await new Promise((wake) => setTimeout(wake, 20));
  }
  assert.ok(descriptors() <= before, `${descriptors()} descriptors, ${before} before`);
});

test("a slow reader holds FFmpeg back", needs, async () => {
  const source = await openVideo(clip("long.mp4", ...pattern("640x360", 20), ...h264));
  const frames = source.frames();
  await frames.next();
  await new Promise((wake) => setTimeout(wake, 500));
  const before = process.memoryUsage().rss;
  await new Promise((wake) => setTimeout(wake, 1000));
  const grown = process.memoryUsage().rss - before; // all 600 frames are 415 MB
  assert.equal(children().length, 1, "FFmpeg waits");
  await frames.return();
  assert.ok(grown < 50e6, `${grown} bytes`);
  assert.deepEqual(children(), []);
});

test("an AbortSignal ends the reading with CANCELLED", needs, async () => {
  const abort = new AbortController(), reason = new Error("enough");
  const source = await openVideo(cars, { signal: abort.signal });
  let numFrames = 0;
  const error = await rejects(
    async () => {
      for await (const _ of source.frames()) if (++numFrames === 3) abort.abort(reason);
    },
    "CANCELLED",
    /AbortSignal/,
  );
  assert.deepEqual([error.name, error.cause, numFrames], ["AbortError", reason, 3]);
  assert.deepEqual(children(), []);
  await rejects(() => openVideo(cars, { signal: abort.signal }), "CANCELLED", /AbortSignal/);
});

test("FFmpeg killed midway is an error that names the signal", needs, async () => {
  for (const signal of ["SIGKILL", "SIGTERM"] as const) {
    const source = await openVideo(clip("long.mp4", ...pattern("640x360", 20), ...h264));
    let numFrames = 0;
    const error = await rejects(
      async () => {
        for await (const _ of source.frames()) if (++numFrames === 3) process.kill(Number(children()[0]), signal);
      },
      "FFMPEG",
      new RegExp(`long\\.mp4: expected FFmpeg to read it to the end, found ${signal} after \\d+ frames`),
    );
    assert.equal(error.detail, numFrames);
    assert.ok(numFrames < 600);
    assert.deepEqual(children(), []);
  }
});

/**
 * Runs a line of TypeScript that tries to open the clip in another process of this runtime; returns the error it
 * prints.
 */
async function openElsewhere(env: Record<string, string>): Promise<string> {
  const script = at("elsewhere.ts");
  const video = join(root, "src/media/video.ts");
  writeFileSync(
    script,
    `import { openVideo } from ${JSON.stringify(video)};
openVideo(${
      JSON.stringify(cars)
    }).then((v) => console.log("opened", v.info.codec), (e) => console.log(e.code, e.message));`,
  );
  const args = runtime === "deno" ? ["run", "-A", "--config", join(root, "deno.json"), script] : [...runArgs, script];
  const { CTOK_FFMPEG: _, ...inherited } = process.env;
  const child = spawn(process.execPath, args, {
    cwd: root,
    env: { ...inherited, ...env },
    stdio: ["ignore", "pipe", "pipe"],
  });
  let said = "";
  for (const pipe of [child.stdout, child.stderr]) pipe.on("data", (text) => said += text);
  await once(child, "close");
  return said;
}

test("FFmpeg is found, or the message says what was tried and how to install it", async () => {
  const wrong = await openElsewhere({ CTOK_FFMPEG: "/nonexistent" });
  assert.match(
    wrong,
    /^FFMPEG ffmpeg: expected to find FFmpeg.* at \/nonexistent, which CTOK_FFMPEG names; .*apt-get install ffmpeg/,
  );
  const other = await openElsewhere({ CTOK_FFMPEG: process.execPath });
  assert.match(other, /^FFMPEG .*that does not answer -version as FFmpeg 4\.1 or later does/);
  const npm = await openElsewhere({ PATH: "/nonexistent" });
  assert.match(
    npm,
    /^opened h264|^FFMPEG .*Tried CTOK_FFMPEG \(not set\); PATH \(\/nonexistent\); the npm package .*apt-get install/,
  );
});

// ---------------------------------------------------------------- writing
/** A moving gradient, which lossy codecs keep well. */
function gradient(height: number, width: number, n: number): Uint8Array {
  const frame = new Uint8Array(height * width * 3);
  for (let y = 0, i = 0; y < height; y++) {
    for (let x = 0; x < width; x++) {
      frame[i++] = 255 * x / width;
      frame[i++] = 255 * y / height;
      frame[i++] = 8 * n;
    }
  }
  return frame;
}

const asTensor = (frame: Uint8Array, height: number, width: number) =>
  new Tensor("uint8", [1, height, width, 3], frame);

test(
  "FFV1 keeps every byte, odd sizes and one pixel too; the frame's memory is the caller's again",
  needs,
  async () => {
    for (const [height, width] of [[49, 65], [1, 1], [3, 16], [90, 150]] as const) {
      const path = at(`exact ${height}x${width}.mkv`);
      const sink = await createVideo(path, { height, width, fps: { num: 30000, den: 1001 } });
      const frame = new Uint8Array(height * width * 3), wanted: Uint8Array[] = [];
      for (let n = 0; n < 7; n++) {
        for (let i = 0; i < frame.length; i++) frame[i] = Math.imul(i + 1, 2654435761 + 97 * n) >>> 24;
        wanted.push(frame.slice());
        await sink.write(frame);
        frame.fill(0);
      }
      assert.equal(sink.numFrames, 7);
      await sink.close();
      const { info, frames } = await readAll(path);
      assert.deepEqual([info.codec, info.height, info.width], ["ffv1", height, width]);
      assert.ok(Math.abs(info.fps.num / info.fps.den - 29.97) < 0.01);
      equalFrames(frames, Buffer.concat(wanted), height * width * 3);
    }
  },
);

test("H.264 looks the same, at even and odd sizes, and keeps the rate", needs, async () => {
  for (
    const [name, height, width] of [["even.mp4", 96, 128], ["odd.mp4", 97, 129], ["even.mov", 96, 128], [
      "even h264.mkv",
      96,
      128,
    ]] as const
  ) {
    const sink = await createVideo(at(name), { height, width, fps: 29.97, codec: "h264" });
    for (let n = 0; n < 20; n++) await sink.write(gradient(height, width, n));
    await sink.close();
    const { info, frames } = await readAll(at(name));
    assert.deepEqual([info.codec, info.height, info.width, frames.length], ["h264", height, width, 20]);
    assert.equal(info.isVariableRate, false);
    assert.ok(Math.abs(info.fps.num / info.fps.den - 29.97) < 0.01, `${name}: ${info.fps.num}/${info.fps.den}`);
    frames.forEach((frame, n) => {
      const found = psnr(asTensor(frame, height, width), asTensor(gradient(height, width, n), height, width));
      assert.ok(found > 35, `${name}, frame ${n}: ${found} dB`);
    });
  }
  // Real frames, which are what it is for.
  const { frames } = await readAll(cars, { frames: 5 });
  const sink = await createVideo(at("cars.mp4"), { height: 432, width: 768, fps: 12.5 });
  for (const frame of frames) await sink.write(frame);
  await sink.close();
  (await readAll(at("cars.mp4"))).frames.forEach((frame, n) => {
    const found = psnr(asTensor(frame, 432, 768), asTensor(frames[n]!, 432, 768));
    assert.ok(found > 30, `frame ${n}: ${found} dB`);
  });
});

test("from one video to another, the whole clip is never in memory", needs, async () => {
  const source = await openVideo(clip("long.mp4", ...pattern("640x360", 20), ...h264));
  const sink = await createVideo(at("copy.mp4"), { height: 360, width: 640, fps: source.info.fps });
  const before = process.memoryUsage().rss;
  let peak = before;
  for await (const frame of source.frames()) {
    await sink.write(frame.data);
    if (sink.numFrames % 10 !== 0) continue;
    collectGarbage(); // or what is not needed any more counts as held
    peak = Math.max(peak, process.memoryUsage().rss);
  }
  await sink.close();
  assert.equal(sink.numFrames, 600);
  assert.ok(peak - before < 200e6, `${peak - before} bytes, of 415 MB`);
});

test("colours come back as they went, in a matrix that the file names", needs, async () => {
  for (const colour of [[255, 0, 0], [0, 255, 0], [0, 0, 255], [255, 255, 255], [0, 0, 0], [120, 60, 200]]) {
    const sink = await createVideo(at("colour.mp4"), { height: 32, width: 32, fps: 25 });
    const frame = Uint8Array.from({ length: 32 * 32 * 3 }, (_, i) => colour[i % 3]!);
    await sink.write(frame);
    await sink.close();
    const { frames } = await readAll(at("colour.mp4"));
    frames[0]!.forEach((value, i) =>
      assert.ok(Math.abs(value - frame[i]!) <= 4, `${colour}: ${frames[0]!.subarray(0, 3)}`)
    );
  }
});

test("audio goes along: copied where the container takes it, no longer than the video", needs, async () => {
  const pcm = clip(
    "pcm.mkv",
    ...pattern("64x48", 2),
    "-f",
    "lavfi",
    "-i",
    "sine=d=2",
    ...h264,
    "-c:a",
    "pcm_s16le",
    "-shortest",
  );
  const packets = (path: string) => Buffer.from(make("-i", path, "-map", "0:a", "-c", "copy", "-f", "adts", "-"));
  for (
    const [name, from, codec] of [["a.mp4", withAudio(), "aac"], ["b.mkv", pcm, "pcm_s16le"], ["c.mp4", pcm, "aac"], [
      "d.mp4",
      cars,
      undefined,
    ]] as const
  ) {
    const sink = await createVideo(at(name), { height: 48, width: 64, fps: 30, audioFrom: from });
    for (let n = 0; n < 30; n++) await sink.write(gradient(48, 64, n));
    await sink.close();
    const { info, frames } = await readAll(at(name));
    assert.deepEqual([info.audioCodec, info.hasAudio, frames.length], [codec, codec !== undefined, 30], name);
    assert.deepEqual([info.fps, info.isVariableRate], [{ num: 30, den: 1 }, false], name);
    assert.ok(info.numFrames! >= 30 && info.numFrames! <= 33, `${name}: ${info.numFrames} frames long`);
  }
  const [whole, part] = [packets(withAudio()), packets(at("a.mp4"))];
  assert.ok(part.length > 1000 && part.length < whole.length);
  assert.equal(Buffer.compare(part, whole.subarray(0, part.length)), 0, "the packets are copies");

  const sink = await createVideo(at("e.mp4"), {
    height: 48,
    width: 64,
    fps: 30,
    audioFrom: withAudio(),
    startSeconds: 1.5,
  });
  for (let n = 0; n < 30; n++) await sink.write(gradient(48, 64, n));
  await sink.close(); // half a second of audio is left, and the video keeps its length
  assert.equal((await readAll(at("e.mp4"))).frames.length, 30);
  const late = packets(at("e.mp4"));
  assert.ok(late.length > 1000 && late.length < 0.7 * part.length, `${late.length} bytes of ${part.length}`);
  assert.ok(whole.includes(late.subarray(0, 600)));
});

test("a sink leaves a whole file or none", needs, async () => {
  const dir = at("sinks");
  mkdirSync(dir);
  const path = join(dir, "a.mp4"), options = { height: 48, width: 64, fps: 30 }, frame = gradient(48, 64, 1);
  const isEmpty = () => assert.deepEqual([readdirSync(dir), children()], [[], []]);

  const aborted = await createVideo(path, options);
  await aborted.write(frame);
  await aborted.abort();
  await aborted.abort();
  isEmpty();
  await rejects(() => aborted.write(frame), "CLOSED", /expected a video that is open, found "aborted"/);
  await rejects(() => aborted.close(), "CLOSED", /found "aborted"/);

  const unwritten = await createVideo(path, options);
  await rejects(() => unwritten.close(), "VIDEO", /expected at least one frame, found "none"/);
  isEmpty();

  {
    await using dropped = await createVideo(path, options);
    await rejects(() => dropped.write(frame.subarray(1)), "SHAPE", /expected 9216 bytes \(64x48 pixels\), found 9215/);
  }
  isEmpty();

  const abort = new AbortController();
  const cancelled = await createVideo(path, { ...options, signal: abort.signal });
  await cancelled.write(frame);
  abort.abort();
  await rejects(() => cancelled.write(frame), "CANCELLED", /AbortSignal/);
  await rejects(() => cancelled.close(), "CANCELLED", /AbortSignal/);
  isEmpty();

  const killed = await createVideo(path, options);
  await killed.write(frame);
  process.kill(Number(children()[0]), "SIGKILL");
  await rejects(
    async () => {
      for (let n = 0; n < 1000; n++) await killed.write(frame);
    },
    "FFMPEG",
    /a\.mp4: expected FFmpeg to write it, found SIGKILL after \d+ frames/,
  );
  isEmpty();

  writeFileSync(path, "older");
  symlinkSync(path, join(dir, "link.mp4"));
  const good = await createVideo(join(dir, "link.mp4"), options);
  await good.write(frame);
  assert.equal(readFileSync(path, "utf8"), "older");
  await Promise.all([good.close(), good.close()]);
  await good.abort();
  assert.deepEqual(readdirSync(dir).sort(), ["a.mp4", "link.mp4"]);
  assert.equal((await readAll(path)).frames.length, 1);
  assert.deepEqual(children(), []);
});

test("createVideo refuses what it cannot write", needs, async () => {
  const options = { height: 48, width: 64, fps: 30 };
  await rejects(
    () => createVideo(at("a.avi"), options),
    "ARGUMENT",
    /a\.avi: expected one of \.mp4, \.mov, \.mkv, \.y4m, found "\.avi"/,
  );
  await rejects(
    () => createVideo(at("a.mp4"), { ...options, codec: "ffv1" }),
    "ARGUMENT",
    /expected \.mkv, which holds FFV1/,
  );
  await rejects(() => createVideo(at("a.mp4"), { ...options, height: 0 }), "ARGUMENT", /options\.height/);
  await rejects(() => createVideo(at("no/a.mp4"), options), "FILE_IO", /expected its folder to exist/);
  await rejects(() => createVideo(at("a.mp4"), { ...options, audioFrom: at("none.wav") }), "FILE_MISSING", /none\.wav/);
  mkdirSync(at("folder.mp4"));
  await rejects(() => createVideo(at("folder.mp4"), options), "FILE_IO", /found "a directory"/);
});
