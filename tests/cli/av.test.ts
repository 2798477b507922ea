/**
 * Picture and sound of `ctok autoencode --audio`, measured in its results: flashes and beeps are within a frame of each
 * other and of the source, whichever starts late, in constant and varied rates, in every container, from the start or
 * --start on. The frames are small and the windows short: only their times count here.
 */
import assert from "node:assert/strict";
import { mkdtempSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { after, test } from "node:test";
import { type Clip, durationsOf, ffmpeg, header, heard, makeClip, seen, zeroOf } from "../av.ts";
import { ctokEnds } from "./spawn.ts";

const needs = { skip: ffmpeg ? false : "no FFmpeg: none in CTOK_FFMPEG, PATH, or the npm package" };
const folder = mkdtempSync(join(tmpdir(), "ctok-av-"));
after(() => rmSync(folder, { recursive: true }));
const at = (name: string) => join(folder, name);

const frame = 0.04;
const h264 = ["-c:v", "libx264", "-preset", "ultrafast", "-pix_fmt", "yuv420p", "-g", "25"];
const aac = [...h264, "-c:a", "aac"], pcm = [...h264, "-c:a", "pcm_s16le"];
const webm = ["-c:v", "libvpx", "-b:v", "1M", "-c:a", "libvorbis"];
const even = "select='not(mod(n,2))'";
const varied = "select='lt(t,0.999)+lt(t,1.999)*not(mod(n,10))+gte(t,1.999)*not(mod(n,2))'";
const late = { picture: `${even},trim=start=0.6` }, lateSound = { sound: "atrim=start=0.6" };

const clips: [name: string, clip: Clip, out: string, start?: number][] = [
  ["even.mp4", { output: aac }, "o.mp4"],
  ["even.webm", { output: webm }, "o.mkv"],
  ["television.mkv", { picture: "select='not(mod(n,2))',fps=30000/1001", output: pcm }, "o.mov"],
  ["picture-late.mp4", { ...late, output: aac }, "o.mp4"],
  ["picture-late.ts", { ...late, output: aac }, "o.mkv"],
  ["picture-late.mkv", { ...late, output: pcm }, "o.mp4"],
  ["sound-late.ts", { ...lateSound, output: aac }, "o.mp4"],
  ["sound-late.mov", { ...lateSound, output: pcm }, "o.mov"],
  ["sound-late.webm", { ...lateSound, output: webm }, "o.mp4"],
  ["varied.mp4", { picture: varied, output: aac }, "o.mp4"],
  ["varied.mkv", { picture: varied, output: pcm }, "o.mkv"],
  ["varied.ts", { picture: varied, output: aac }, "o.mov"],
  ["edit-list.mp4", { sound: "asetpts=PTS-0.3/TB", picture: `${even},setpts=PTS-0.3/TB`, output: aac }, "o.mp4"],
  ["hours.ts", { ...lateSound, output: [...aac, "-output_ts_offset", "20000"] }, "o.mp4"],
  ["varied.mp4", { picture: varied, output: aac }, "o.mp4", 52],
  ["picture-late.ts", { ...late, output: aac }, "o.mkv", 30],
  ["sound-late.mov", { ...lateSound, output: pcm }, "o.mov", 10],
];

/** Runs it, and compares the result's flashes and beeps with the source's. */
async function check(source: string, out: string, start = 0): Promise<void> {
  const result = join(mkdtempSync(at("out-")), out);
  const args = ["autoencode", source, "--audio", "--window", "9", "--out", result];
  await ctokEnds(0, start > 0 ? [...args, "--start", String(start)] : args);
  const began = zeroOf(source),
    before = seen(source, began),
    sound = heard(source, began),
    after = seen(result),
    heardAgain = heard(result);
  const zero = start > 0 ? before.times[start]! : began;
  const wanted = (all: number[]) => all.map((seconds) => seconds - zero).filter((seconds) => seconds >= 0);
  const compare = (found: number[], wanted: number[], tolerance: number, what: string) => {
    const about = `${source} -> ${out}, ${what}: found ${found}, wanted ${wanted}`;
    assert.equal(found.length, wanted.length, about);
    for (const [i, seconds] of wanted.entries()) assert.ok(Math.abs(found[i]! - seconds) <= tolerance, about);
  };
  compare(after.times, wanted(before.times.slice(start)), 0.003, "frames");
  // A small model smears a flash over the frames beside it, and one of a single frame over all its token's.
  const long = before.flashes.filter((seconds) => before.lit[before.times.indexOf(seconds) + 1]);
  compare(after.flashes, wanted(long), frame + 0.003, "flashes");
  compare(heardAgain.beeps, wanted(sound.beeps), frame / 2, "beeps");
}

for (const [name, clip, out, start] of clips) {
  test(`${name} -> ${out}${start ? `, --start ${start}` : ""}`, needs, async () => {
    const source = makeClip(at(`${start ?? 0}-${name}`), clip);
    assert.ok(seen(source).flashes.length >= 2);
    await check(source, out, start);
  });
}

test("a recording joined midway", needs, async () => {
  const whole = readFileSync(makeClip(at("whole.ts"), { output: [...h264, "-g", "60", "-c:a", "aac"] }));
  writeFileSync(at("joined.ts"), whole.subarray(Math.floor(whole.length / 188 / 6) * 188));
  const source = at("joined.ts"), result = at("joined.mp4");
  await ctokEnds(0, ["autoencode", source, "--audio", "--window", "9", "--out", result]);
  const { flashes } = seen(result), { beeps } = heard(result);
  assert.ok(flashes.length >= 1, String(flashes));
  for (const flash of flashes) {
    assert.ok(beeps.some((beep) => Math.abs(beep - flash) <= frame + 0.003), `${flashes}; ${beeps}`);
  }
});

test("the rate to the last digit and the sample aspect, by way of tokens too", needs, async () => {
  const picture = `fps=30000/1001,scale=64:48,setsar=16/11`;
  const source = makeClip(at("exact.mp4"), { picture, output: ["-frames:v", "20", ...aac] });
  await ctokEnds(0, ["autoencode", source, "--audio", "--out", at("again.mp4")]);
  await ctokEnds(0, ["encode", source, "--out", at("tokens.safetensors")]);
  await ctokEnds(0, ["decode", at("tokens.safetensors"), "--out", at("decoded.mp4")]);
  for (const name of ["again.mp4", "decoded.mp4"]) {
    assert.deepEqual(durationsOf(readFileSync(at(name))), [{ count: 20, seconds: 1001 / 30000 }], name);
    assert.match(header(at(name)), /SAR 16:11 DAR 64:33/, name);
  }
});
