/**
 * Videos through the command line, as its users meet it: files, texts, exit codes, and what is left behind. The clips
 * are made here from the sample clip, by the FFmpeg that the library finds.
 */
import assert from "node:assert/strict";
import { execFileSync } from "node:child_process";
import { existsSync, readdirSync, readFileSync, writeFileSync } from "node:fs";
import { mkdir, mkdtemp, readdir, readFile, rm, writeFile } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { Buffer } from "node:buffer";
import process from "node:process";
import { after, test } from "node:test";
import { framesOf, loadTokens, psnr, saveTokens, Tensor, Tokenizer, Tokens, writeImage } from "mod.ts";
import { findFfmpeg } from "../../src/media/ffmpeg.ts";
import { seen } from "../av.ts";
import { sequence, withWeights } from "../support.ts";
import { ctokEnds, lines, noHangup, top } from "./spawn.ts";

const cars = join(top, "examples/media/cars.mp4"); // 75 frames of 432x768, 12.5 a second, no audio
const cat = join(top, "examples/media/cat.png"), fixtures = join(top, "../shared/fixtures");
const ffmpeg = await findFfmpeg().catch(() => undefined);
const needs = { skip: ffmpeg ? false : "no FFmpeg: none in CTOK_FFMPEG, PATH, or the npm package", timeout: 600_000 };
const root = await mkdtemp(join(tmpdir(), "ctok-cli-video-"));
after(() => rm(root, { recursive: true }));
const folder = (name: string) => mkdtemp(join(root, `${name}-`));

function make(path: string, ...args: string[]): string {
  execFileSync(ffmpeg!.path, ["-v", "error", "-nostdin", "-y", ...args, path], { stdio: "ignore" });
  return path;
}

const h264 = ["-c:v", "libx264", "-preset", "ultrafast", "-pix_fmt", "yuv420p"];
/** 30 frames of the sample clip, 64 by 96 pixels unless told, with audio. */
const small = (dir: string, name = "small.mp4", size = "96:64") =>
  make(
    ...[
      join(dir, name),
      "-i",
      cars,
      "-f",
      "lavfi",
      "-i",
      "sine=d=2.4",
      "-vf",
      `scale=${size}`,
      "-frames:v",
      "30",
    ] as const,
    ...[...h264, "-c:a", "aac", "-shortest"],
  );

async function read(path: string) {
  const { frames, info } = await framesOf(path);
  return { info, frames: await Array.fromAsync(frames) };
}

/** What a JSON line says but how long it took. */
function said(stdout: string): Record<string, unknown>[] {
  return lines(stdout).map(({ seconds, framesPerSecond, ...facts }) => {
    if (facts.ok) assert.ok(seconds > 0 && framesPerSecond > 0);
    return facts;
  });
}

// ---------------------------------------------------------------- there and back
for (
  const [mode, args, tokenFrames, about] of [
    ["window", [], 10, { mode: "window", window: 17 }],
    ["window", ["--window", "9"], 12, { mode: "window", window: 9 }],
    ["stream", ["--stream"], 9, { mode: "stream" }],
    ["stream", ["--stream", "--chunk", "4", "--attention-frames", "3"], 9, { mode: "stream" }],
  ] as const
) {
  test(`encodes and decodes a video: ${mode} mode ${args.join(" ")}`, needs, async () => {
    const dir = await folder(mode), file = small(dir), out = join(dir, "t.safetensors"), again = join(dir, "again.mkv");
    const { stdout, stderr } = await ctokEnds(0, ["encode", file, ...args, "--out", out, "--json"]);
    const size = { height: 64, width: 96 },
      facts = { ok: true, model: "nano-DV4x8x8", ...size, frames: 30, fps: "25/2" };
    const kind = { format: "safetensors", kind: "indices", shape: [1, tokenFrames, 8, 12] };
    assert.deepEqual([said(stdout), stderr], [[{ file, out, ...kind, ...facts, ...about }], ""]);

    // The tokens are the library's.
    await using tokenizer = await Tokenizer.open("nano-DV4x8x8");
    const streamOptions = mode === "window" ? { window: about.window } : args.length > 1 ? { attentionFrames: 3 } : {};
    const parts = await Array.fromAsync(tokenizer.encodeStream((await framesOf(file)).frames, streamOptions));
    const { indices, origin } = await loadTokens(out);
    const want = parts.flatMap((part) => [...part.indices.data]);
    assert.deepEqual([[...indices.data], origin.video?.fps], [want, "25/2"]);

    const decodeArgs = ["decode", out, "--out", again, "--json", ...(mode === "stream" ? args.slice(1) : [])];
    const done = said((await ctokEnds(0, decodeArgs)).stdout);
    assert.deepEqual(done, [{ file: out, out: again, ...facts, mode }]);
    const { info, frames } = await read(again);
    assert.deepEqual([info.height, info.width, info.fps, info.codec, info.hasAudio], [
      64,
      96,
      { num: 25, den: 2 },
      "ffv1",
      false,
    ]);
    const decoded = await Array.fromAsync(tokenizer.decodeStream(parts, mode === "stream" ? streamOptions : {}));
    assert.deepEqual(frames.map((f) => f.data), decoded.map((f) => f.data), "FFV1 is exact");
  });
}

test("--start, --frames and --fps choose the frames; a folder of outputs gives .mp4", needs, async () => {
  const dir = await folder("choice"), file = small(dir);
  const { stdout } = await ctokEnds(0, [
    "encode",
    file,
    "--start",
    "4",
    "--frames",
    "10",
    "--fps",
    "25",
    "--out",
    dir + "/",
  ]);
  assert.match(
    stdout,
    sequence(
      /: 10 frames of 96x64 pixels, 5 frames of 12x8 tokens in 1 window, /,
      /[\d.]+ s \([\d.]+ frames\/s\); audio left out\n$/,
    ),
  );
  const { origin: { video } } = await loadTokens(join(dir, "small.safetensors"));
  assert.deepEqual(video, {
    ...{ frames: 10, temporalFactor: 4, fps: "25/1", start: 0.16 }, // the fourth frame of 25 a second
    windows: [{ tokens: 5, frames: 10, before: 3 }],
  });
  await ctokEnds(0, ["decode", "small.safetensors", "--out", "out/"], { cwd: dir });
  const { info, frames } = await read(join(dir, "out/small.mp4"));
  assert.deepEqual([frames.length, info.fps, info.codec], [10, { num: 25, den: 1 }, "h264"]);
  await ctokEnds(0, ["decode", "small.safetensors", "--fps", "30000/1001", "--out", "other.mov"], { cwd: dir });
  assert.deepEqual((await framesOf(join(dir, "other.mov"))).fps, "30000/1001");
  const { stderr } = await ctokEnds(1, ["encode", file, "--start", "99", "--out", "x"], { cwd: dir });
  assert.match(stderr, /small\.mp4: expected a frame 99 \(counted from 0\), found no frame there/);
});

test("autoencode: the video again, how near it is, and its audio on request", needs, async () => {
  const dir = await folder("auto"), file = small(dir);
  await mkdir(join(dir, "out"));
  const { stdout } = await ctokEnds(0, ["autoencode", file, "--audio", "--out", join(dir, "out"), "--json"]);
  const [{ psnr: decibels, ssim, ...facts }] = said(stdout) as [{ psnr: number; ssim: number }];
  const size = { height: 64, width: 96, frames: 30, fps: "25/2", mode: "window", window: 17 };
  const out = join(dir, "out/small.mp4");
  assert.deepEqual(facts, { file, out, ok: true, model: "nano-DV4x8x8", ...size, audio: true });
  assert.ok(decibels > 15 && ssim > 0.3, `PSNR ${decibels}, SSIM ${ssim}`);
  const got = await read(out);
  assert.deepEqual([got.frames.length, got.info.fps, got.info.audioCodec], [30, { num: 25, den: 2 }, "aac"]);

  // Without --audio there is a note; the PSNR is that of all frames together.
  const silent = await ctokEnds(0, ["autoencode", file, "--stream", "--out", "s.mkv"], { cwd: dir });
  const pattern = /PSNR ([\d.]+) dB, SSIM [\d.]+ \(every 8th frame\), .*; audio left out \(--audio takes it along\)\n$/;
  const [, told] = pattern.exec(silent.stdout) ?? [];
  const [original, again] = [await read(file), await read(join(dir, "s.mkv"))];
  const all = ({ frames }: typeof original) => {
    const bytes = new Uint8Array(frames.length * 64 * 96 * 3);
    frames.forEach((frame, i) => bytes.set(frame.data, i * frame.data.length));
    return new Tensor("uint8", [frames.length * 64, 96, 3], bytes);
  };
  assert.deepEqual([told, again.info.hasAudio], [psnr(all(original), all(again)).toFixed(2), false]);
});

test("1080p with audio, a few frames: there and back", needs, async () => {
  const dir = await folder("1080p"), file = small(dir, "large.mp4", "1920:1080");
  // 16x16: the embedded model has four times the tokens to attend to.
  await withWeights("DV8x16x16", "small", async (model) => {
    const args = ["autoencode", file, "--model", model, "--frames", "9", "--start", "3", "--stream", "--audio"];
    const { stdout } = await ctokEnds(0, [...args, "--out", "again.mp4"], { cwd: dir });
    assert.match(stdout, /: 9 frames of 1920x1080 pixels, PSNR [\d.]+ dB, .*; audio taken along\n$/);
  });
  const { info, frames } = await read(join(dir, "again.mp4"));
  assert.deepEqual([info.height, info.width, frames.length, info.audioCodec], [1080, 1920, 9, "aac"]);
  assert.ok(Math.abs(info.numFrames! - 9) <= 1, "the audio is as long as the video");
});

// ---------------------------------------------------------------- what counts as a video
test("a folder of images is a video when asked, and so is a photo for a video model", needs, async () => {
  const dir = await folder("frames"), images = join(dir, "frames");
  await mkdir(images);
  const { frames } = await read(small(dir));
  for (let i = 0; i < 11; i++) await writeImage(join(images, `f${i}.png`), frames[i]!); // f10 comes after f9
  const runs: [args: string[], frames: number, fps: string][] = [
    [["frames/", "--video"], 11, "25/1"],
    [["frames", "--video", "--fps", "25/2"], 11, "25/2"],
    [["frames", "--video", "--model", "nano-DV4x8x8", "--start", "9"], 2, "25/1"],
    [[cat, "--model", "nano-DV4x8x8"], 1, "25/1"],
  ];
  for (const [args, count, fps] of runs) {
    const [done] = said((await ctokEnds(0, ["encode", ...args, "--out", "out/", "--json"], { cwd: dir })).stdout);
    assert.deepEqual([done!.model, done!.frames, done!.fps], ["nano-DV4x8x8", count, fps]);
  }
  await ctokEnds(0, ["encode", "frames", "--video", "--stream", "--out", "whole.npy"], { cwd: dir });
  const silent = await ctokEnds(0, [
    "autoencode",
    "frames/",
    "--video",
    "--window",
    "11",
    "--audio",
    "--out",
    "again.mkv",
  ], {
    cwd: dir,
  });
  assert.match(silent.stdout, /; it has no audio\n$/);
  assert.equal((await read(join(dir, "again.mkv"))).frames.length, 11);
  // A bare array knows neither rate nor frames: those of its token grid, 25 a second.
  const [bare] = said(
    (await ctokEnds(0, ["decode", "whole.npy", "--model", "nano-DV4x8x8", "--out", "bare.mp4", "--json"], { cwd: dir }))
      .stdout,
  );
  assert.deepEqual([bare!.frames, bare!.fps], [13, "25/1"]);
});

test("each input takes its own model; one that does not fit is told", needs, async () => {
  const dir = await folder("mixed"), file = small(dir);
  const { stdout } = await ctokEnds(0, ["encode", cat, file, "--frames", "1", "--out", "out", "--json"], { cwd: dir });
  assert.deepEqual(lines(stdout).map(({ model, shape }) => [model, shape]), [
    ["nano-DI8x8", [1, 38, 58]],
    ["nano-DV4x8x8", [1, 1, 8, 12]],
  ]);
  for (const input of [[file], ["out/", "--video"]]) {
    for (const command of ["encode", "autoencode"]) {
      const { stderr } = await ctokEnds(1, [command, ...input, "--model", "nano-DI8x8", "--out", "x/"], { cwd: dir });
      assert.match(
        stderr,
        /: expected an image, as nano-DI8x8 takes, found a video .* which a video model takes \(nano-DV4x8x8\)/,
      );
    }
  }
  await ctokEnds(0, ["decode", "out/cat.safetensors", "out/small.safetensors", "--out", "back"], { cwd: dir });
  assert.deepEqual((await readdir(join(dir, "back"))).sort(), ["cat.png", "small.mp4"]);
  const wrong: [tokens: string, model: string, said: RegExp][] = [
    [
      "small",
      "nano-DI8x8",
      /expected tokens of an image, for nano-DI8x8, found those of a video, int32 \[1, 1, 8, 12\]/,
    ],
    [
      "cat",
      "nano-DV4x8x8",
      /expected tokens of a video, for nano-DV4x8x8, found those of an image, int32 \[1, 38, 58\]/,
    ],
  ];
  for (const [tokens, model, text] of wrong) {
    const args = ["decode", `out/${tokens}.safetensors`, "--model", model, "--out", "x/"];
    assert.match((await ctokEnds(1, args, { cwd: dir })).stderr, text);
  }
  const { stderr } = await ctokEnds(1, ["decode", "out/small.safetensors", "--out", "x.png"], { cwd: dir });
  assert.match(stderr, /x\.png: expected one of \.mp4, \.mov, \.mkv, \.y4m, found "\.png"/);
  assert.ok(!existsSync(join(dir, "x")));
});

test("odd sizes, and a phone's rotated clip, keep their size", needs, async () => {
  const dir = await folder("odd"),
    odd = make(join(dir, "odd.mkv"), "-i", cars, "-vf", "scale=75:51", "-frames:v", "6", "-c:v", "ffv1");
  const turned = small(dir, "turned.mp4");
  turnDisplayMatrix(turned, 64);
  await ctokEnds(0, ["autoencode", odd, turned, "--frames", "6", "--out", "out"], { cwd: dir });
  for (const [name, height, width] of [["odd", 51, 75], ["turned", 96, 64]] as const) {
    const { info, frames } = await read(join(dir, `out/${name}.mp4`));
    assert.deepEqual([info.height, info.width, info.rotation, frames.length], [height, width, 0, 6]);
  }
});

/** Writes the 90° clockwise matrix of a phone into the video's track header (ISO 14496-12, 8.3.2). */
function turnDisplayMatrix(path: string, height: number): void {
  const bytes = readFileSync(path);
  const matrix = bytes.indexOf("tkhd") + 4 + 40; // version 0: the matrix is 40 bytes into the box's content
  [0, 0x10000, 0, -0x10000, 0, 0, height << 16, 0, 0x40000000].forEach((value, i) => {
    bytes.writeInt32BE(value, matrix + 4 * i);
  });
  writeFileSync(path, bytes);
}

test("a batch of videos: one file each", needs, async () => {
  const dir = await folder("batch");
  const { indices, origin } = await encodedTwice(dir);
  const { shape, data } = indices, both = Int32Array.of(...data, ...data);
  const twice = new Tensor("int32", [2, ...shape.slice(1)], both, { kind: "indices", origin });
  await saveTokens(join(dir, "two.safetensors"), new Tokens(origin, { indices: twice }));
  await ctokEnds(0, ["decode", "two.safetensors", "--out", "out/"], { cwd: dir });
  assert.deepEqual((await readdir(join(dir, "out"))).sort(), ["two-0.mp4", "two-1.mp4"]);
});

test("times from long before zero or far behind it: what is written begins with its first frame", needs, async () => {
  const dir = await folder("times"), { indices, origin } = await encodedTwice(dir);
  const { start: _, times: __, ...video } = origin.video!, steps = Array.from({ length: video.frames }, (_, i) => i);
  for (const when of [{ start: -5 }, { start: 1e10 }, { times: steps.map((i) => i * i / 100 - 3) }]) {
    const its = { ...origin, video: { ...video, fps: "25/2", ...when } };
    const tensor = new Tensor("int32", indices.shape, indices.data, { kind: "indices", origin: its });
    await saveTokens(join(dir, "t.safetensors"), new Tokens(its, { indices: tensor }));
    await ctokEnds(0, ["decode", "t.safetensors", "--out", "v.mp4", "--overwrite"], { cwd: dir });
    const found = seen(join(dir, "v.mp4")).times, wanted = steps.map((i) => when.times ? i * i / 100 : i / 12.5);
    assert.equal(found.length, wanted.length);
    for (const [i, seconds] of wanted.entries()) {
      assert.ok(Math.abs(found[i]! - seconds) < 0.003, `${found}; ${wanted}`);
    }
  }
});

test(
  "a continuous model's latent, eight frames a token",
  { ...needs, skip: needs.skip || (existsSync(fixtures) ? false : "no ../shared/fixtures") },
  async () => {
    const dir = await folder("latent"), model = join(fixtures, "Cosmos-Tokenizer-CV8x8x8"), file = small(dir);
    await ctokEnds(0, ["encode", file, "--model", model, "--stream", "--frames", "17", "--out", "t"], { cwd: dir });
    assert.deepEqual((await loadTokens(join(dir, "t"))).latent.shape, [1, 16, 3, 8, 12]);
    const [done] = said(
      (await ctokEnds(0, ["decode", "t", "--model", model, "--out", "t.mkv", "--json"], { cwd: dir })).stdout,
    );
    assert.deepEqual([done!.model, done!.frames], ["Cosmos-Tokenizer-CV8x8x8", 17]);
    const { stderr } = await ctokEnds(1, ["encode", file, "--model", model, "--stream", "--chunk", "4", "--out", "x"], {
      cwd: dir,
    });
    assert.match(stderr, /chunkFrames: expected a multiple of 8/);
  },
);

// ---------------------------------------------------------------- bad input
test(
  "a clip cut short leaves nothing; with --keep-partial the frames before, and the failure says how many",
  needs,
  async () => {
    const dir = await folder("cut");
    const whole = await readFile(
      make(join(dir, "whole.mp4"), "-i", small(dir), "-c", "copy", "-movflags", "+faststart"),
    );
    await writeFile(join(dir, "cut.mp4"), whole.subarray(0, whole.length * 0.6));
    const { frames: readable } = await framesOf(join(dir, "cut.mp4"));
    let count = 0;
    await assert.rejects(async () => {
      for await (const _ of readable) count++;
    }, { code: "VIDEO" });
    assert.ok(count > 5 && count < 30, `${count} frames`);

    for (const command of ["encode", "autoencode"]) {
      const { stderr } = await ctokEnds(1, [command, "cut.mp4", "--out", "none/"], { cwd: dir });
      assert.match(stderr, /^ctok: cut\.mp4: expected a whole video, /);
      assert.doesNotMatch(stderr, /keeps/);
      assert.ok(!existsSync(join(dir, "none")));
    }
    const text = await ctokEnds(1, [
      "encode",
      "cut.mp4",
      "whole.mp4",
      "--keep-partial",
      "--window",
      "9",
      "--out",
      "out",
    ], {
      cwd: dir,
    });
    const parts = Math.ceil(count / 9);
    const kept = `; out/cut\\.safetensors keeps the ${count} frames in ${parts} parts before that \\(--keep-partial\\)`;
    assert.match(text.stderr, new RegExp(`^ctok: cut\\.mp4: expected a whole video, .*${kept}\n1 of 2 files done`));
    assert.match(text.stdout, /^whole\.mp4 -> .*\n$/);
    assert.equal((await loadTokens(join(dir, "out/cut.safetensors"))).origin.video?.frames, count);
    await ctokEnds(0, ["decode", "out/cut.safetensors", "--out", "out/cut.mp4"], { cwd: dir });
    assert.equal((await read(join(dir, "out/cut.mp4"))).frames.length, count);

    const args = ["autoencode", "cut.mp4", "--stream", "--keep-partial", "--out", "again.mp4", "--json"];
    const json = await ctokEnds(1, args, { cwd: dir });
    const [{ ok, code, isPartial, frames, out }] = lines(json.stdout);
    assert.deepEqual([ok, code, isPartial, frames, out, json.stderr], [false, "VIDEO", true, count, "again.mp4", ""]);
    assert.equal((await read(join(dir, "again.mp4"))).frames.length, count);
  },
);

test("a folder whose images change size midway: the frames before, where they are asked for", needs, async () => {
  const dir = await folder("sizes"), images = join(dir, "frames");
  await mkdir(images);
  const flat = (height: number) => new Tensor("uint8", [height, 32, 3], new Uint8Array(height * 96));
  for (const [i, height] of [32, 32, 32, 40].entries()) await writeImage(join(images, `${i}.png`), flat(height));
  const args = ["encode", "frames/", "--video", "--out", "t"];
  const { stderr } = await ctokEnds(1, args, { cwd: dir });
  assert.match(stderr, /expected every image to be 32x32 pixels, .* 32x40 in 3\.png\n$/);
  assert.ok(!existsSync(join(dir, "t")));
  const partial = await ctokEnds(1, [...args, "--keep-partial"], { cwd: dir });
  assert.match(partial.stderr, /32x40 in 3\.png; t keeps the 3 frames in 1 part before that \(--keep-partial\)\n$/);
  assert.equal((await loadTokens(join(dir, "t"))).origin.video?.frames, 3);
});

test("what is no video is told, and the others are done", needs, async () => {
  const dir = await folder("bad"), good = small(dir);
  await writeFile(join(dir, "text.mp4"), "not a video");
  await writeFile(join(dir, "empty.mkv"), "");
  await mkdir(join(dir, "none"));
  make(join(dir, "sound.mov"), "-f", "lavfi", "-i", "sine=d=0.5");
  const bad = ["gone.mp4", "text.mp4", "empty.mkv", "none/", "sound.mov"];
  const { stdout, stderr } = await ctokEnds(1, ["encode", ...bad, good, "--frames", "5", "--out", "out"], { cwd: dir });
  for (const name of bad) assert.match(stderr, new RegExp(`^ctok: ${name}: expected `, "m"));
  assert.match(stderr, /sound\.mov: expected a video stream, found only audio/);
  assert.match(stdout, /^\S*small\.mp4 -> out\/small\.safetensors: 5 frames /);
  assert.deepEqual(await readdir(join(dir, "out")), ["small.safetensors"]);
});

test("without FFmpeg the message says what was tried and how to get it", async () => {
  const dir = await folder("ffmpeg");
  const { stderr } = await ctokEnds(1, ["encode", cars, "--out", "t"], {
    cwd: dir,
    env: { CTOK_FFMPEG: "/nonexistent" },
  });
  assert.match(
    stderr,
    sequence(
      /expected to find FFmpeg, .* at \/nonexistent, which CTOK_FFMPEG names; /,
      /install it \(apt-get install ffmpeg, or npm install @ffmpeg-installer\/ffmpeg\)/,
    ),
  );
  assert.deepEqual(await readdir(dir), []);
});

async function encodedTwice(dir: string): Promise<Tokens> {
  await ctokEnds(0, ["encode", small(dir), "--window", "9", "--frames", "18", "--out", "t"], { cwd: dir });
  return await loadTokens(join(dir, "t"));
}

test("a token file with a missing or repeated window is refused", needs, async () => {
  const dir = await folder("windows");
  assert.equal((await encodedTwice(dir)).origin.video?.windows?.length, 2);
  const wrong: [edits: Record<string, string>, said: RegExp][] = [
    [{ windows: "3/9/0", frames: "9" }, /windows: expected 6 token frames in all, as the tensor has, found 3/],
    [
      { windows: "3/9/0 3/9/0 3/9/0", frames: "27" },
      /windows: expected 6 token frames in all, as the tensor has, found 9/,
    ],
    [{ frames: "27" }, /windows: expected 27 frames in all, found 18/],
    [{ windows: "3/9/0 3/9/0 x" }, /windows: expected "tokens\/frames\/before" for each window/],
  ];
  for (const [edits, said] of wrong) {
    await editMetadata(join(dir, "t"), join(dir, "wrong"), edits);
    const { stdout } = await ctokEnds(1, ["decode", "wrong", "--out", "x.mp4", "--json"], { cwd: dir });
    assert.equal(lines(stdout)[0].code, "TOKEN_FILE");
    assert.match(lines(stdout)[0].message, said);
  }
  assert.ok(!existsSync(join(dir, "x.mp4")));
});

/** A safetensors file with other metadata: u64 header length, JSON, data at offsets that count from there. */
async function editMetadata(from: string, to: string, edits: Record<string, string>): Promise<void> {
  const bytes = await readFile(from), length = Number(bytes.readBigUInt64LE(0));
  const header = JSON.parse(bytes.toString("utf8", 8, 8 + length));
  Object.assign(header.__metadata__, edits);
  const text = JSON.stringify(header),
    json = Buffer.from(text.padEnd(Math.ceil(text.length / 8) * 8)),
    size = Buffer.alloc(8);
  size.writeBigUInt64LE(BigInt(json.length));
  await writeFile(to, Buffer.concat([size, json, bytes.subarray(8 + length)]));
}

// ---------------------------------------------------------------- interrupted
/** 200 frames of 128 by 192 pixels: few of them fit into the pipes between FFmpeg and ctok. */
const frameBytes = 128 * 192 * 3;
const longClip = (dir: string) => {
  return make(
    join(dir, "long.mp4"),
    "-stream_loop",
    "2",
    "-i",
    cars,
    "-vf",
    "scale=192:128",
    "-frames:v",
    "200",
    ...h264,
  );
};

/**
 * Interrupts at the line that says that the first is done, once FFmpegs read and write the second; gives their
 * commands.
 */
function interruptsMidway(ffmpegs: () => Ffmpeg[], signal: NodeJS.Signals, commands: string[]) {
  let isAsked = false;
  return (interrupt: (signal: NodeJS.Signals) => void) => {
    if (isAsked) return;
    isAsked = true;
    const look = () => {
      const working = ffmpegs(), isAt = (pipe: string) => working.some(({ command }) => command.includes(pipe));
      // One FFmpeg writes what we give, one gives what it reads.
      if (!isAt("pipe:0") || !isAt("pipe:1")) return setTimeout(look, 5);
      // Stopped, what reads gives no more frames: the work cannot come to its end before the signal does.
      for (const { pid } of working) process.kill(pid, "SIGSTOP");
      commands.push(...working.map(({ command }) => command));
      interrupt(signal);
    };
    look();
  };
}

for (
  const [who, signal, code, isGroup] of [
    ["Ctrl-C from a terminal", "SIGINT", 130, true],
    ["SIGINT", "SIGINT", 130, false],
    ["SIGTERM", "SIGTERM", 143, false],
    ["SIGHUP", "SIGHUP", 129, false],
  ] as const
) {
  test(`${who} midway: ${code}, nothing of the result, and no FFmpeg left`, {
    ...needs,
    skip: needs.skip || (signal === "SIGHUP" && noHangup),
  }, async () => {
    const dir = await folder("interrupt"), children: string[] = [];
    longClip(dir);
    small(dir);
    const args = ["autoencode", "small.mp4", "long.mp4", "--stream", "--chunk", "4", "--out", "out"];
    let ctok = 0;
    const { stdout, stderr } = await ctokEnds(code, args, {
      cwd: dir,
      isGroup,
      onStart: (pid) => ctok = pid,
      onOutput: interruptsMidway(() => ffmpegsOf(dir, ctok), signal, children),
    });
    assert.match(stdout, /^small\.mp4 -> .*\n$/);
    assert.equal(stderr, "ctok: interrupted\n");
    assert.equal(children.length, 2, `one reads and one writes: ${children.join("\n")}`);
    assert.deepEqual(await readdir(join(dir, "out")), ["small.mp4"]);
    assert.deepEqual(ffmpegsOf(dir, ctok), []);
  });
}

for (const [command, extension] of [["encode", "safetensors"], ["autoencode", "mp4"]] as const) {
  test(`Ctrl-C midway of ${command} with --keep-partial: whole parts under the final name, told`, needs, async () => {
    const dir = await folder("partial"), long = longClip(dir);
    small(dir);
    let isAsked = false;
    const args = [command, "small.mp4", "long.mp4", "--window", "5", "--keep-partial", "--json", "--out", "out"];
    const { stdout, stderr } = await ctokEnds(130, args, {
      cwd: dir,
      isGroup: true,
      onOutput: (interrupt) => {
        if (isAsked) return;
        isAsked = true;
        const look = () => { // 55 frames are read: of those at most 40 are on their way, and no more will come
          const reader = ffmpegsOf(dir).find(({ pid, command }) =>
            command.includes(`file:${long}`) && writtenBy(pid) > 55 * frameBytes
          );
          if (!reader) return setTimeout(look, 5);
          process.kill(reader.pid, "SIGSTOP");
          interrupt("SIGINT");
        };
        look();
      },
    });
    const [, { ok, code, message, isPartial, frames, parts }] = lines(stdout), out = `out/long.${extension}`;
    assert.deepEqual([ok, code, isPartial, stderr], [false, "CANCELLED", true, ""]);
    assert.ok(frames >= 5 && frames < 200, `${frames} frames`);
    const kept = command === "encode" ? `${frames} frames in ${parts} parts?` : `${frames} frames`;
    assert.match(message, new RegExp(`^interrupted; ${out} keeps the ${kept} before that \\(--keep-partial\\)$`));
    if (command === "encode") {
      const { origin: { video }, indices } = await loadTokens(join(dir, out));
      assert.deepEqual([video?.frames, video?.windows?.length, indices.shape[1]], [frames, parts, 3 * parts]);
      await using tokenizer = await Tokenizer.open("nano-DV4x8x8");
      const first = tokenizer.encodeStream((await framesOf(long, { frames: 5 })).frames, { window: 5 });
      for await (const part of first) {
        assert.deepEqual(indices.data.slice(0, part.indices.data.length), part.indices.data);
      }
    } else {
      assert.equal((await read(join(dir, out))).frames.length, frames);
    }
    assert.deepEqual((await readdir(join(dir, "out"))).sort(), [`long.${extension}`, `small.${extension}`]);
  });
}

/** Bytes that a process has written, to pipes too. */
function writtenBy(pid: number): number {
  try {
    return Number(/wchar: (\d+)/.exec(readFileSync(`/proc/${pid}/io`, "utf8"))![1]);
  } catch {
    return 0; // it has ended
  }
}

interface Ffmpeg {
  readonly pid: number;
  readonly command: string;
}

/** The processes that read files of a folder, or write to a descriptor of ctok's. */
function ffmpegsOf(dir: string, ctok?: number): Ffmpeg[] {
  return readdirSync("/proc").filter((name) => /^\d+$/.test(name)).flatMap((pid) => {
    try {
      const command = readFileSync(`/proc/${pid}/cmdline`, "utf8").replaceAll("\0", " ");
      const isOurs = command.includes(`file:${dir}`) || (ctok && command.includes(`file:/proc/${ctok}/fd/`));
      return isOurs ? [{ pid: Number(pid), command }] : [];
    } catch {
      return []; // it has ended
    }
  });
}
