/**
 * Videos out keep their times: each frame's own, a start that is late, the rate to the last digit, the sample aspect,
 * and picture and sound together. Truth is what FFmpeg decodes from the result, and the boxes of an MP4.
 */
import assert from "node:assert/strict";
import { mkdtempSync, readdirSync, readFileSync, renameSync, rmSync, symlinkSync, writeFileSync } from "node:fs";
import { Buffer } from "node:buffer";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { after, test } from "node:test";
import { nutFrameHeader, nutHeader } from "../../src/media/nutwriter.ts";
import { createVideo, type VideoSinkOptions } from "../../src/media/videosink.ts";
import { durationsOf, ffmpeg, header, heard, makeClip, runFfmpeg, seen, zeroOf } from "../av.ts";
import { rejects } from "../support.ts";

const needs = { skip: ffmpeg ? false : "no FFmpeg: none in CTOK_FFMPEG, PATH, or the npm package" };
const folder = mkdtempSync(join(tmpdir(), "ctok-sink-"));
after(() => rmSync(folder, { recursive: true }));
const at = (name: string) => join(folder, name);

const height = 48, width = 64, size = { height, width, fps: 25 };
const plain = (value: number) => new Uint8Array(height * width * 3).fill(value);

/** Writes a video whose frames are shown at `times`, white where `lit` says so. */
async function write(
  name: string,
  times: readonly (number | undefined)[],
  options: Partial<VideoSinkOptions> = {},
  lit: readonly boolean[] = [],
): Promise<string> {
  await using sink = await createVideo(at(name), { ...size, ...options });
  for (const [i, seconds] of times.entries()) await sink.write(plain(lit[i] ? 255 : 0), seconds);
  await sink.close();
  return at(name);
}

function near(found: readonly number[], wanted: readonly number[], tolerance: number, about: string): void {
  const worst = Math.max(0, ...wanted.map((value, i) => Math.abs(found[i]! - value)));
  assert.ok(found.length === wanted.length && worst <= tolerance, `${about}: found ${found}, wanted ${wanted}`);
}

const indices = (count: number) => Array.from({ length: count }, (_, i) => i);
const containers: [name: string, codec: "h264" | "ffv1", tolerance: number][] = [
  ["a.mp4", "h264", 0.00002], // the length of a tick
  ["a.mov", "h264", 0.00002],
  ["a.mkv", "ffv1", 0.0006], // counts milliseconds
  ["h264.mkv", "h264", 0.0006],
];

// ---------------------------------------------------------------- NUT
test("NUT: FFmpeg reads each frame's bytes and tick", needs, () => {
  for (
    const [height, width, ticks, times] of [
      [1, 1, 1, [0, 1, 2]],
      [2, 3, 90_000, [0, 1, 127, 128, 16_383, 16_384, 2 ** 21, 2 ** 28]],
      [200, 301, 2 ** 31 - 1, [5, 70, 1e6]], // frames longer than NUT's distance between syncpoints
    ] as const
  ) {
    const frameBytes = height * width * 3;
    const frames = times.map((_, n) => Uint8Array.from({ length: frameBytes }, (_, i) => i * 7 + n * 50));
    const rate = { num: 25, den: 1 }, sampleAspect = { num: 16, den: 11 };
    const path = at("a.nut");
    writeFileSync(
      path,
      Buffer.concat([
        nutHeader({ height, width, ticks, rate, sampleAspect }),
        ...frames.flatMap((frame, n) => [nutFrameHeader(times[n]!, frameBytes), frame]),
      ]),
    );
    const pixels = runFfmpeg("-f", "nut", "-i", path, ...ffmpeg!.passFrames, "-f", "rawvideo", "-");
    assert.equal(Buffer.compare(pixels, Buffer.concat(frames)), 0, `${height} by ${width}`);
    const packets = runFfmpeg("-copyts", "-f", "nut", "-i", path, "-c", "copy", "-f", "framecrc", "-").toString();
    assert.match(packets, new RegExp(`^#tb 0: 1/${ticks}$`, "m"));
    const found = [...packets.matchAll(/^0,\s*\d+,\s*(\d+),/gm)].map(([, tick]) => Number(tick));
    assert.deepEqual(found, [...times]);
    assert.match(header(path), new RegExp(`rgb24, ${width}x${height}, SAR 16:11 .*25 tbr`));
  }
});

// ---------------------------------------------------------------- times
test("a constant rate stays exactly that, at whatever start, also by a clock of milliseconds", needs, async () => {
  for (const [num, den] of [[30000, 1001], [25, 1], [25, 2], [24000, 1001], [60, 1], [15, 1]] as const) {
    const regular = indices(20).map((i) => i * den / num), fps = { num, den };
    const written: [about: string, times: (number | undefined)[], start: number][] = [
      ["no times", regular.map(() => undefined), 0],
      ["times", regular, 0],
      ["a late start", regular.map((seconds) => 0.6006 + seconds), 0.6006],
      ["milliseconds", regular.map((seconds) => Math.round(1000 * (0.6006 + seconds)) / 1000), 0.601],
    ];
    for (const [about, times, start] of written) {
      const path = await write("constant.mp4", times, { fps }), said = `${num}/${den}, ${about}`;
      assert.deepEqual(durationsOf(readFileSync(path)), [{ count: 20, seconds: den / num }], said);
      // An edit list counts milliseconds.
      near(seen(path).times, regular.map((seconds) => start + seconds), 0.001, said);
    }
  }
});

test("each frame is shown when it was, in every container", needs, async () => {
  const varied = [0, 0.02, 0.04, 0.0611, 0.2, 0.4, 0.6, 0.64, 0.68, 0.7201, 1.9];
  for (const [name, codec, tolerance] of containers) {
    for (const start of [0, 0.6]) {
      const path = await write(name, varied.map((seconds) => start + seconds), { codec, fps: { num: 110, den: 19 } });
      const late = start > 0 ? 0.001 : 0; // an MP4's late start is counted in milliseconds
      near(seen(path).times, varied.map((seconds) => start + seconds), tolerance + late, `${name} from ${start}`);
      if (!name.endsWith(".mkv")) {
        const { seconds } = durationsOf(readFileSync(path)).at(-1)!;
        near([seconds], [19 / 110], 0.00002, `${name}, last frame`);
      }
    }
  }
});

test("frames that share a time keep their order; times that go back are refused", needs, async () => {
  const path = await write("same.mp4", [0, 0.1, 0.1, 0.1, 0.5]);
  near(seen(path).times, [0, 0.1, 0.1, 0.1, 0.5], 0.00004, "same");
  await using sink = await createVideo(at("back.mp4"), { ...size, startSeconds: 1 });
  await rejects(
    () => sink.write(plain(0), 0.9),
    "ARGUMENT",
    /seconds: expected from 1 to 2147483648, found 0\.9/,
  );
  await sink.write(plain(0), 1);
  await sink.write(plain(0), 1.5);
  await rejects(() => sink.write(plain(0), 1.4), "ARGUMENT", /seconds: expected from 1\.5 to 2147483648, found 1\.4/);
  for (const wrong of [NaN, Infinity, -Infinity, 2 ** 40, "2" as unknown as number]) {
    await rejects(() => sink.write(plain(0), wrong), "ARGUMENT", /^seconds: /);
  }
  await sink.write(plain(0), 1.5);
  await sink.close();
  near(seen(at("back.mp4")).times, [0, 0.5, 0.50001], 0.00002, "what was taken");
});

test("startSeconds becomes zero", needs, async () => {
  const path = await write("zero.mp4", [7.1, 7.14, 7.18, 7.22], { startSeconds: 7.1 });
  assert.deepEqual(durationsOf(readFileSync(path)), [{ count: 4, seconds: 0.04 }]);
  near(seen(path).times, [0, 0.04, 0.08, 0.12], 0, "mp4");
  near(seen(await write("zero.mkv", [7.1, 7.14, 7.2], { startSeconds: 7 })).times, [0.1, 0.14, 0.2], 0.0006, "mkv");
});

test("the sample aspect is in the result", needs, async () => {
  for (const [name, codec] of containers) {
    for (const [num, den] of [[16, 11], [4, 3], [1, 1]] as const) {
      const path = await write(name, indices(3).map(() => undefined), { codec, sampleAspect: { num, den } });
      const [, wide, high] = /\bSAR (\d+):(\d+)/.exec(header(path)) ?? [, "1", "1"];
      // Matroska has the size to show it at, in whole pixels.
      const tolerance = name.endsWith(".mkv") ? 0.5 / width : 1e-6;
      assert.ok(Math.abs(Number(wide) / Number(high) - num / den) <= tolerance, `${name}: ${wide}:${high}`);
    }
  }
  const zero = { ...size, sampleAspect: { num: 0, den: 1 } };
  await rejects(() => createVideo(at("zero.mp4"), zero), "ARGUMENT", /options\.sampleAspect\.num/);
});

// ---------------------------------------------------------------- sound
const h264 = ["-c:v", "libx264", "-preset", "ultrafast", "-pix_fmt", "yuv420p", "-g", "25"];
const sources: Record<string, string[]> = {
  "aac.mp4": [...h264, "-c:a", "aac"],
  "pcm.mkv": [...h264, "-c:a", "pcm_s16le"],
  "aac.ts": [...h264, "-c:a", "aac"],
  "vorbis.webm": ["-c:v", "libvpx", "-b:v", "1M", "-c:a", "libvorbis"],
  "pcm.mov": [...h264, "-c:a", "pcm_s16le"],
};
const kinds = {
  even: {},
  "picture late": { picture: "select='not(mod(n,2))',trim=start=0.6" },
  "sound late": { sound: "atrim=start=0.6" },
  varied: { picture: "select='lt(t,0.999)+lt(t,1.999)*not(mod(n,10))+gte(t,1.999)*not(mod(n,2))'" },
};
for (const [kind, clip] of Object.entries(kinds)) {
  test(`picture and sound stay together: ${kind}`, needs, async () => {
    for (const [i, [name, output]] of Object.entries(sources).entries()) {
      const source = makeClip(at(`${kind} ${name}`), { ...clip, output }), zero = zeroOf(source);
      const picture = seen(source), sound = heard(source, zero), fps = { num: picture.times.length, den: 4 };
      assert.equal(picture.flashes.length, 3);
      near(sound.beeps, picture.flashes, 0.005, name);
      for (const first of [0, 32]) { // the frame that becomes the first one
        const [result, codec] = containers[(i + (first ? 1 : 0)) % containers.length]!;
        const times = picture.times.slice(first).map((seconds) => seconds - zero);
        const startSeconds = first === 0 ? 0 : times[0]!, options = { codec, fps, audioFrom: source, startSeconds };
        const path = await write(`sound ${result}`, times, options, picture.lit.slice(first)), found = seen(path);
        const about = `${name} -> ${result}, ${first}`;
        const here = (all: number[]) =>
          all.map((seconds) => seconds - zero - startSeconds).filter((seconds) => seconds > 0);
        near(found.times, times.map((seconds) => seconds - startSeconds), 0.0025, about);
        near(found.flashes, here(picture.flashes), 0.0025, about);
        const { beeps, end } = heard(path), last = times.at(-1)! - startSeconds + fps.den / fps.num;
        near(beeps, here(sound.beeps), 0.005, about);
        const least = Math.min(last, sound.end - zero - startSeconds) - 0.1;
        assert.ok(end <= last + 0.1 && end >= least, `${about}: ends at ${end}, the picture at ${last}`);
      }
    }
  });
}

test("FFV1 is exact beside sound and at varied times", needs, async () => {
  const source = makeClip(at("exact source.mp4"), { output: sources["aac.mp4"]! });
  const frames = indices(9).map((n) =>
    Uint8Array.from({ length: height * width * 3 }, (_, i) => Math.imul(i + n, 2654435761) >>> 24)
  );
  await using sink = await createVideo(at("exact.mkv"), { ...size, audioFrom: source });
  for (const [n, frame] of frames.entries()) await sink.write(frame, 0.1 + n * n / 50);
  await sink.close();
  const pixels = runFfmpeg("-i", at("exact.mkv"), ...ffmpeg!.passFrames, "-f", "rawvideo", "-pix_fmt", "rgb24", "-");
  assert.equal(Buffer.compare(pixels, Buffer.concat(frames)), 0);
  near(seen(at("exact.mkv")).times, indices(9).map((n) => 0.1 + n * n / 50), 0.0011, "times");
});

// ---------------------------------------------------------------- what others do meanwhile
for (const name of ["a.mp4", "a.mkv"]) {
  test(`a link put under the temporary's name is not written through: ${name}`, needs, async () => {
    const dir = mkdtempSync(at("shared-")), victim = at("victim");
    writeFileSync(victim, "precious");
    await using sink = await createVideo(join(dir, name), size);
    const [temporary] = readdirSync(dir);
    renameSync(join(dir, temporary!), at("taken"));
    symlinkSync(victim, join(dir, temporary!));
    for (let n = 0; n < 5; n++) await sink.write(plain(n));
    await sink.close().catch(() => {}); // whether it is told or not
    assert.equal(readFileSync(victim, "utf8"), "precious");
  });
}
