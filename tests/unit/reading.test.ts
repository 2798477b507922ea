/**
 * Real recordings, and clips made here, read as they are: every frame that FFmpeg decodes, with the time that ffprobe
 * says, whatever rate is declared, whatever the file's texts say, and nothing that a decoder made up. FFmpeg and
 * ffprobe themselves are the truth.
 */
import assert from "node:assert/strict";
import { execFileSync, spawn } from "node:child_process";
import { once } from "node:events";
import { copyFileSync, mkdirSync, mkdtempSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import process from "node:process";
import { after, test } from "node:test";
import sharp from "sharp";
import { framesOf, joinTokens, Tokenizer, VideoFrame } from "mod.ts";
import { findFfmpeg, findFfprobe } from "../../src/media/ffmpeg.ts";
import { NutReader } from "../../src/media/nutreader.ts";
import { openVideo, type VideoOptions } from "../../src/media/video.ts";
import { carried, rejects, root, runArgs, runtime } from "../support.ts";

const ffmpeg = await findFfmpeg().catch(() => undefined);
const ffprobe = await findFfprobe().catch(() => undefined);
const needs = {
  skip: ffmpeg && ffprobe ? false : "no FFmpeg or ffprobe: none in the environment, PATH, or the npm packages",
  timeout: 600_000,
};
const dir = mkdtempSync(join(tmpdir(), "ctok-reading-"));
after(() => rmSync(dir, { recursive: true }));
const at = (name: string) => join(dir, name), recorded = (name: string) => join(carried, "videos", name);
const cars = join(root, "examples/media/cars.mp4"); // 75 frames of 432 × 768, 12.5 a second, no audio

const quiet = { maxBuffer: 1 << 30, stdio: ["ignore", "pipe", "ignore"] as ["ignore", "pipe", "ignore"] };
function make(...args: string[]): Uint8Array {
  return new Uint8Array(execFileSync(ffmpeg!.path, ["-v", "error", "-nostdin", "-y", ...args], quiet));
}
function clip(name: string, ...args: string[]): string {
  make(...args, at(name));
  return at(name);
}
const pattern = (rate: string, seconds: number) => ["-f", "lavfi", "-i", `testsrc=s=64x48:r=${rate}:d=${seconds}`];
const h264 = ["-c:v", "libx264", "-preset", "ultrafast", "-pix_fmt", "yuv420p"];

/** What ffprobe says, as lines. */
function probe(path: string, entries: string): string[] {
  const args = ["-v", "quiet", "-select_streams", "V:0", "-show_entries", entries, "-of", "csv=print_section=0", path];
  const env = { ...process.env, GCONV_PATH: "/nonexistent" }; // as ffmpeg.ts has it
  return execFileSync(ffprobe!.path, args, { ...quiet, env }).toString().split("\n").map((line) =>
    line.replace(/,.*/, "")
  )
    .filter(Boolean);
}
/** When frames are shown: packets' times, on the clock whose zero is the file's start. */
function timesOf(path: string): number[] {
  const [start] = probe(path, "format=start_time");
  return probe(path, "packet=pts_time").map((time) => Number(time) - Number(start)).sort((a, b) => a - b);
}
/** Every frame that FFmpeg decodes, one behind the other. */
function decoded(path: string): Uint8Array {
  return make("-i", path, "-map", "0:V:0", ...ffmpeg!.passFrames, "-f", "rawvideo", "-pix_fmt", "rgb24", "-");
}

async function readAll(path: string, options?: VideoOptions) {
  const { info, frames } = await openVideo(path, options);
  const all = await Array.fromAsync(frames());
  return { info, frames: all.map(({ data }) => data), seconds: all.map(({ seconds }) => seconds) };
}

function near(found: readonly number[], wanted: readonly number[], tolerance = 2e-5): void {
  assert.equal(found.length, wanted.length);
  found.forEach((time, i) =>
    assert.ok(Math.abs(time - wanted[i]!) <= tolerance, `frame ${i}: ${time}, not ${wanted[i]}`)
  );
}

// ---------------------------------------------------------------- whole videos
for (const [name, numFrames] of [["rec.webm", 97], ["rec2.webm", 82], ["ip.mp4", 192], ["vfr.mkv", 105]] as const) {
  test(`${name}: every frame, at its own time`, needs, async () => {
    const { info, frames, seconds } = await readAll(recorded(name));
    assert.equal(frames.length, numFrames);
    assert.ok(Buffer.concat(frames).equals(decoded(recorded(name))), "other pixels than FFmpeg's");
    near(seconds, timesOf(recorded(name)));
    const average = (numFrames - 1) / (seconds.at(-1)! - seconds[0]!);
    assert.equal(info.isVariableRate, true);
    assert.ok(Math.abs(info.fps.num / info.fps.den - average) < 0.01 * average, `${info.fps.num}/${info.fps.den}`);
    assert.equal(info.startSeconds.toFixed(5), seconds[0]!.toFixed(5));
  });
}

test("an MPEG-2 program stream with B-frames is whole, though not every packet has a time", needs, async () => {
  const { info, frames, seconds } = await readAll(recorded("m2.mpg"));
  assert.equal(frames.length, 100);
  assert.ok(Buffer.concat(frames).equals(decoded(recorded("m2.mpg"))));
  assert.deepEqual([info.fps, info.isVariableRate], [{ num: 25, den: 1 }, false]);
  seconds.forEach((time, i) => assert.ok(i === 0 || time > seconds[i - 1]!, `frame ${i} at ${time}`));
});

test("spoilt bytes in the middle are still told", needs, async () => {
  for (const name of ["spoilt.mp4", "spoilt.ts", "spoilt.avi"]) {
    const codec = name.endsWith("avi") ? ["-c:v", "mjpeg"] : ["-c", "copy"];
    const bytes = readFileSync(clip(name, "-i", cars, ...codec));
    const from = Math.floor(bytes.length * 0.6);
    bytes.fill("XYZW", from, from + 200);
    writeFileSync(at(name), bytes);
    await rejects(() => readAll(at(name)), "VIDEO", /expected a whole video, found it cut short or damaged/);
    assert.ok((await readAll(at(name), { allowDamage: true })).frames.length > 40, name);
  }
});

// ---------------------------------------------------------------- recordings joined midway
test("frames that a decoder makes up before the first key frame are not given: HEVC", needs, async () => {
  const { info, frames, seconds } = await readAll(recorded("hevccut.m2t"));
  const all = decoded(recorded("hevccut.m2t")), size = info.height * info.width * 3;
  assert.equal(all.length / size, 72);
  assert.equal(frames.length, 50);
  assert.ok(Buffer.concat(frames).equals(all.subarray(22 * size)));
  // Real ones are black and white.
  const isGrey = (frame: Uint8Array) => frame.every((byte) => byte >= 130 && byte <= 160);
  assert.ok(isGrey(all.subarray(0, 22 * size)) && !frames.some(isGrey));
  near(seconds, Array.from({ length: 50 }, (_, i) => 1.08 + i / 25));
  assert.deepEqual([info.numFrames, info.fps, info.startSeconds.toFixed(4)], [50, { num: 25, den: 1 }, "1.0800"]);
  const part = await readAll(recorded("hevccut.m2t"), { start: 3, frames: 4 });
  assert.ok(Buffer.concat(part.frames).equals(all.subarray(25 * size, 29 * size)));
});

test("likewise MPEG-2 and H.264: each frame is one of the whole recording's, at its time", needs, async () => {
  for (const [name, codec] of [["m2.ts", ["-c:v", "mpeg2video", "-b:v", "2M"]], ["h264.ts", h264]] as const) {
    const path = clip(name, "-i", cars, "-vf", "scale=96:64", ...codec, "-g", "20", "-bf", "2");
    const whole = await readAll(path), bytes = readFileSync(path);
    writeFileSync(at(`cut ${name}`), bytes.subarray(Math.floor(bytes.length * 0.2 / 188) * 188));
    const { frames, seconds } = await readAll(at(`cut ${name}`));
    assert.ok(frames.length >= 30 && frames.length < 75, `${name}: ${frames.length} frames`);
    const first = whole.frames.length - frames.length, begin = seconds[0]! - whole.seconds[first]!;
    frames.forEach((frame, i) =>
      assert.equal(Buffer.compare(frame, whole.frames[first + i]!), 0, `${name}: frame ${i}`)
    );
    near(seconds, whole.seconds.slice(first).map((time) => time + begin));
  }
});

// ---------------------------------------------------------------- what changes midway
/** The number that is drawn in a frame of pixfmt: 8 bits, light above dark for 1. */
function numberIn(frame: Uint8Array, width: number): number {
  const light = (x: number, y: number) => frame[((y + 8) * width + x + 8) * 3 + 1]!;
  return Array.from({ length: 8 }, (_, bit) => light(16 * bit, 0) > light(16 * bit, 16) ? 2 ** bit : 0).reduce((a, b) =>
    a + b
  );
}

for (const name of ["pixfmt.m2t", "pixfmt.mjpeg"]) {
  test(
    `${name}: a pixel format that changes midway loses no frame, from a start and resampled too`,
    needs,
    async () => {
      const numbers = async (options: VideoOptions) => {
        const { info, frames } = await readAll(recorded(name), options);
        return frames.map((frame) => numberIn(frame, info.width));
      };
      const count = (length: number, of: (i: number) => number) =>
        Array.from({ length }, (_, i) => Math.floor(of(i) + 1e-9));
      assert.deepEqual(await numbers({}), count(40, (i) => i));
      assert.deepEqual(await numbers({ start: 5 }), count(35, (i) => i + 5));
      assert.deepEqual(await numbers({ start: 18, frames: 4 }), [18, 19, 20, 21]);
      assert.deepEqual(await numbers({ fps: 50 }), count(80, (i) => i / 2));
      assert.deepEqual(await numbers({ start: 5, fps: 10 }), count(11, (i) => (i + 5) * 2.5));
      assert.deepEqual(await numbers({ fps: 12.5, frames: 12 }), count(12, (i) => i * 2));
    },
  );
}

test("resampled, each moment shows what is shown then: a varying rate, a clock of milliseconds", needs, async () => {
  const stored = await readAll(recorded("vfr.mkv")), even = await readAll(recorded("vfr.mkv"), { fps: 25 });
  assert.equal(even.frames.length, 100);
  near(even.seconds, Array.from({ length: 100 }, (_, i) => stored.seconds[0]! + i / 25));
  even.frames.forEach((frame, i) => {
    const shown = stored.seconds.findLastIndex((time) => time <= even.seconds[i]! + 0.001);
    assert.equal(Buffer.compare(frame, stored.frames[shown]!), 0, `frame ${i} is not frame ${shown}`);
  });
  const path = clip("thirty.mkv", ...pattern("30", 2), ...h264), whole = await readAll(path);
  const again = await readAll(path, { fps: 30 });
  assert.ok(Buffer.concat(again.frames).equals(Buffer.concat(whole.frames)), "each frame once");
});

// ---------------------------------------------------------------- rates, starts, aspects
test("a constant rate in whole milliseconds is constant", needs, async () => {
  for (const [name, codec] of [["r.mkv", h264], ["r.flv", ["-c:v", "flv1"]], ["r.webm", ["-c:v", "libvpx"]]] as const) {
    const { info, frames } = await readAll(clip(name, ...pattern("30000/1001", 3), ...codec));
    assert.deepEqual([info.fps, info.isVariableRate], [{ num: 30000, den: 1001 }, false], name);
    assert.equal(frames.length, 90, name);
  }
});

test("a picture that starts later than the sound says so, and its tokens and frames keep it", needs, async () => {
  await using tok = await Tokenizer.open("nano-DV4x8x8");
  for (const name of ["late.mp4", "late.mov", "late.mkv", "late.ts"]) {
    const sound = ["-f", "lavfi", "-i", "sine=d=2"];
    const path = clip(
      name,
      "-itsoffset",
      "0.6",
      ...pattern("25", 1),
      ...sound,
      ...ffmpeg!.passFrames,
      ...h264,
      "-c:a",
      "aac",
    );
    const times = timesOf(path);
    assert.ok(Math.abs(times[0]! - 0.6) < 0.05, `${name}: ${times[0]}`);
    const { info, seconds } = await readAll(path);
    near(seconds, times, 1e-3);
    assert.ok(Math.abs(info.startSeconds - times[0]!) < 1e-3, `${name}: ${info.startSeconds}`);
    const { video } = (await tok.encode(path)).origin;
    assert.deepEqual([video!.fps, video!.times], ["25/1", undefined], name);
    assert.ok(Math.abs(video!.start! - times[0]!) < 1e-3, `${name}: ${video!.start}`);
  }
});

test("a picture that starts 12 s later than the sound, which FFmpeg would move", needs, async () => {
  const late = [
    ...pattern("25", 1),
    "-f",
    "lavfi",
    "-i",
    "sine=d=13",
    "-vf",
    "setpts=PTS+12/TB",
    ...ffmpeg!.passFrames,
  ];
  const { info, frames, seconds } = await readAll(clip("very late.ts", ...late, ...h264, "-bf", "0", "-c:a", "aac"));
  assert.deepEqual([frames.length, info.fps], [25, { num: 25, den: 1 }]);
  assert.ok(Math.abs(info.startSeconds - 12) < 0.1, String(info.startSeconds));
  near(seconds, Array.from({ length: 25 }, (_, i) => info.startSeconds + i / 25));
});

test("tokens and decoded frames keep the times of a varying rate, and the shape of pixels", needs, async () => {
  await using tok = await Tokenizer.open("nano-DV4x8x8");
  const { seconds } = await readAll(recorded("vfr.mkv"));
  const { frames, fps, sampleAspect } = await framesOf(recorded("vfr.mkv"));
  assert.equal(sampleAspect, undefined);
  const parts = await Array.fromAsync(tok.encodeStream(frames, { fps }));
  const tokens = joinTokens(parts);
  assert.equal(tokens.origin.video!.start, undefined);
  near(tokens.origin.video!.times!, seconds, 1 / 600); // parts of one rate keep that
  for (const source of [parts, [tokens]]) {
    const again = await Array.fromAsync(tok.decodeStream(source));
    assert.ok(again.every((frame) => frame instanceof VideoFrame));
    near(again.map((frame) => (frame as VideoFrame).seconds), seconds, 1 / 600);
  }
  assert.deepEqual((await openVideo(recorded("sar.mp4"))).info.sampleAspect, { num: 16, den: 11 });
  assert.equal((await tok.encode(recorded("sar.mp4"))).origin.video!.sampleAspect, "16:11");
  const untimed = Array.from(
    { length: 5 },
    () => ({ dtype: "uint8" as const, shape: [16, 16, 3], data: new Uint8Array(768) }),
  );
  const plain = await Array.fromAsync(tok.decodeStream(await Array.fromAsync(tok.encodeStream(untimed))));
  assert.ok(plain.length === 5 && plain.every((frame) => !(frame instanceof VideoFrame)));
});

// ---------------------------------------------------------------- words inside a file
test("a file's own texts, and its name, are not taken for FFmpeg's words", needs, async () => {
  const wanted = (await openVideo(cars)).info, fps = "Stream #0:0: Video: h264, 8x8 , 0.001 fps, 9k tbr";
  const texts = [
    ["size.mp4", "-metadata", "title=Stream #0:0: Video: x, 8x8 "],
    ["turn.mkv", "-metadata:s:v", "comment=displaymatrix: rotation of 90.00 degrees"],
    ["rate.mkv", "-metadata", `${fps.replaceAll("=", "")}=1`],
    ["sound.mkv", "-metadata", "Stream #0:7: Audio: aac=1"],
    [
      "lines.mkv",
      "-metadata",
      "title=a\n[h264 @ 0x1] [error] hello\n[graph 0 @ 0x1] [verbose] w:8 h:8 pixfmt:x fr:1/1",
    ],
  ] as const;
  for (const [name, ...metadata] of texts) {
    const { info, frames } = await readAll(clip(name, "-i", cars, "-c", "copy", ...metadata));
    assert.deepEqual(info, wanted, name);
    assert.equal(frames.length, 75, name);
  }
  for (
    const name of ["a\n[error] hello.mp4", "b\n[graph 0 @ 0x1] [verbose] w:8 h:8 pixfmt:\n[h264 @ 0x1] [error] hello"]
  ) {
    copyFileSync(cars, at(name));
    assert.equal((await readAll(at(name))).frames.length, 75, name);
  }
});

// ---------------------------------------------------------------- still images
test("a still image is a clip of one frame, upright, whatever its format and its name", needs, async () => {
  await using tok = await Tokenizer.open("nano-DV4x8x8");
  const flat = sharp({ create: { width: 48, height: 32, channels: 3, background: { r: 200, g: 40, b: 90 } } });
  for (const format of ["jpeg", "png", "webp", "avif", "tiff", "gif"] as const) {
    for (const name of [`still.${format}`, `${format} named.mp4`]) {
      await flat.clone().withMetadata({ orientation: format === "jpeg" ? 6 : 1 }).toFormat(format).toFile(at(name))
        .catch(() => flat.clone().toFormat(format).toBuffer().then((bytes) => writeFileSync(at(name), bytes)));
      const { info, frames, seconds } = await readAll(at(name));
      assert.deepEqual([info.height, info.width], format === "jpeg" ? [48, 32] : [32, 48], name);
      assert.deepEqual([frames.length, seconds, info.numFrames, info.hasAudio], [1, [0], 1, false], name);
      assert.equal((await tok.encode(at(name))).origin.video!.frames, 1, name);
    }
  }
  for (const name of ["moves.gif", "moves.apng"]) {
    const { frames } = await readAll(clip(name, ...pattern("10", 1), ...(name.endsWith("apng") ? ["-f", "apng"] : [])));
    assert.equal(frames.length, 10, name);
  }
  copyFileSync(at("moves.apng"), at("moves.png"));
  assert.equal((await readAll(at("moves.png"))).frames.length, 10);
  await rejects(
    () => openVideo(at("still.png"), { start: 1 }),
    "VIDEO",
    /expected an image 1 \(counted from 0\), found 1 image$/,
  );
});

test("a pipe in a folder of frames is an error at once", { skip: process.platform === "win32" }, async () => {
  mkdirSync(at("frames"));
  await sharp({ create: { width: 8, height: 8, channels: 3, background: "red" } }).png().toFile(at("frames/1.png"));
  execFileSync("mkfifo", [at("frames/2.png")]);
  await rejects(() => readAll(at("frames")), "FILE_IO", /2\.png: expected a file, found "a device or pipe"/);
});

// ---------------------------------------------------------------- processes
test(
  "frames that nobody asks for any more, and a video that nobody goes on with, do not keep the process",
  needs,
  async () => {
    const script = at("abandoned.mts"), mod = JSON.stringify(join(root, "mod.ts"));
    const sink = `const sink = await createVideo(${
      JSON.stringify(at("abandoned.mp4"))
    }, { height: 16, width: 16, fps: 5 });
await sink.write(new Uint8Array(768));`;
    for (const next of ["", "await it.next(); await it.next();", sink]) {
      writeFileSync(
        script,
        `import { createVideo, framesOf } from ${mod};
const { frames } = await framesOf(${JSON.stringify(cars)}), it = frames[Symbol.asyncIterator]();
${next}
console.log("end of the program", typeof it);`,
      );
      const args = runtime === "deno"
        ? ["run", "-A", "--no-check", "--config", join(root, "deno.json"), script]
        : [...runArgs, script];
      const child = spawn(process.execPath, args, { cwd: root, stdio: ["ignore", "pipe", "inherit"] });
      const guard = setTimeout(() => child.kill("SIGKILL"), 300_000);
      let said = "";
      child.stdout.on("data", (text) => said += text);
      const [code] = await once(child, "close");
      clearTimeout(guard);
      assert.deepEqual([code, said.trim()], [0, "end of the program object"]);
    }
  },
);

test("ffprobe is found, or the message says what was tried", async () => {
  const { CTOK_FFPROBE } = process.env;
  process.env.CTOK_FFPROBE = "/nonexistent";
  try {
    const text =
      /ffprobe: expected to find ffprobe.* at \/nonexistent, which CTOK_FFPROBE names; .*apt-get install ffmpeg/;
    await rejects(() => openVideo(cars), "FFMPEG", ffmpeg ? text : /./);
  } finally {
    if (CTOK_FFPROBE === undefined) delete process.env.CTOK_FFPROBE;
    else process.env.CTOK_FFPROBE = CTOK_FFPROBE;
  }
});

// ---------------------------------------------------------------- NUT
test(
  "NUT cut anywhere: the whole frames before, or an error that says what is strange, and never another",
  needs,
  async () => {
    const bytes = make(
      ...pattern("25", 0.2),
      "-vf",
      "scale=16:12",
      "-c:v",
      "rawvideo",
      "-pix_fmt",
      "rgb24",
      "-f",
      "nut",
      "-",
    );
    async function read(part: Uint8Array, chunk: number) {
      async function* chunks() {
        for (let from = 0; from < part.length; from += chunk) yield part.subarray(from, from + chunk);
      }
      const reader = new NutReader(chunks()), frames: Uint8Array[] = [];
      for (let frame; (frame = await reader.frame());) frames.push(frame.data);
      return { frames, isCut: reader.isCut };
    }
    const { frames } = await read(bytes, 7);
    assert.equal(frames.length, 5);
    let most = 0;
    for (let length = 0; length < bytes.length; length += 3) {
      const cut = await read(bytes.subarray(0, length), 1000);
      assert.ok(cut.frames.length >= most);
      most = cut.frames.length;
      cut.frames.forEach((frame, i) => assert.equal(Buffer.compare(frame, frames[i]!), 0));
    }
    for (let n = 0; n < bytes.length; n += 5) {
      const spoilt = bytes.slice();
      spoilt[n]! ^= 1 << n % 8;
      await read(spoilt, 4096).catch((error) => assert.match(error.message, /FFmpeg's frames: expected/));
    }
  },
);
