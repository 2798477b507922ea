/**
 * FFmpeg that dies, stops or is not there, while a video is read and while one is written: an error with its code, no
 * part of the result, no process and no descriptor left, and the next video of the same process works. A stand-in that
 * CTOK_FFMPEG names does it: a shell script that is FFmpeg until the file `fault` beside it says how to end.
 */
import assert from "node:assert/strict";
import { chmodSync, mkdirSync, mkdtempSync, readdirSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import process from "node:process";
import { after, before, test } from "node:test";
import { setTimeout as sleep } from "node:timers/promises";
import { createVideo, framesOf } from "mod.ts";
import { findFfmpeg } from "../../src/media/ffmpeg.ts";
import { ctokEnds, lines } from "../cli/spawn.ts";
import { rejects, root } from "../support.ts";

const cars = join(root, "examples/media/cars.mp4"); // 75 frames of 432x768
const real = await findFfmpeg().catch(() => undefined);
const needs = { skip: real ? false : "no FFmpeg: none in CTOK_FFMPEG, PATH, or the npm package" };
const dir = mkdtempSync(join(tmpdir(), "ctok-ffmpeg-")), out = join(dir, "out"), standIn = join(dir, "ffmpeg");
after(() => rmSync(dir, { recursive: true }));
mkdirSync(out);
writeFileSync(
  standIn,
  `#!/bin/sh
fault=$(cat "${dir}/fault")
case "$fault" in
"" | *-version*) exec "${real?.path}" "$@" ;;
esac
case " $* " in
*" -version "* | *" -frames:v 1 "*) exec "${real?.path}" "$@" ;; # a look at the file
*" pipe:1 "*) "${real?.path}" "$@" 2>/dev/null | head -c 3000000 ;; # 3 frames
*) head -c 3000000 | cat >"${dir}/taken" ;;
esac
eval "$fault"
`,
);
chmodSync(standIn, 0o755);
const given = process.env.CTOK_FFMPEG;
before(() => void (process.env.CTOK_FFMPEG = standIn));
after(() => given === undefined ? delete process.env.CTOK_FFMPEG : process.env.CTOK_FFMPEG = given);
const setFault = (fault: string) => writeFileSync(join(dir, "fault"), fault);

/** What this process has started and what has not been waited for: "(name) state". */
function children(): string[] {
  return readdirSync("/proc").filter((pid) => /^\d+$/.test(pid)).flatMap((pid) => {
    try {
      const stat = readFileSync(`/proc/${pid}/stat`, "utf8"),
        [state, parent] = stat.slice(stat.lastIndexOf(")") + 2).split(" ");
      return parent === String(process.pid)
        ? [`${stat.slice(stat.indexOf("("), stat.lastIndexOf(")") + 1)} ${state}`]
        : [];
    } catch {
      return []; // gone between the two calls
    }
  });
}
const descriptors = () => readdirSync("/proc/self/fd").length;

/** Reads and writes a video; it is well. */
async function isWell(): Promise<void> {
  setFault("");
  const { frames } = await framesOf(cars, { frames: 2 });
  await using sink = await createVideo(join(out, "well.mp4"), { height: 432, width: 768, fps: 25 });
  for await (const frame of frames) await sink.write(frame.data);
  await sink.close();
  assert.deepEqual(readdirSync(out), ["well.mp4"]);
  rmSync(join(out, "well.mp4"));
  assert.deepEqual(children(), []);
}

const faults: [fault: string, found: RegExp][] = [
  ["kill -9 $$", /found SIGKILL after \d+ frames/],
  ["exit 3", /found exit code 3 after \d+ frames/],
  ["exit 0", /found (exit code 0|a video that) /],
];
for (const [fault, found] of faults) {
  test(`FFmpeg ends midway by ${fault}`, needs, async () => {
    await isWell(); // what the runtime opens once and keeps
    const before = descriptors();
    setFault(fault);
    let numRead = 0;
    const read = async () => {
      for await (const _ of (await framesOf(cars)).frames) numRead++;
    };
    if (fault !== "exit 0") { // as a file that ends there does
      const error = await rejects(read, "FFMPEG", found);
      assert.deepEqual([error.detail, numRead], [3, 3]);
    }
    const write = async () => {
      await using sink = await createVideo(join(out, "a.mp4"), { height: 432, width: 768, fps: 25 });
      for (let n = 0; n < 30; n++) await sink.write(new Uint8Array(432 * 768 * 3));
      await sink.close();
    };
    await rejects(write, "FFMPEG", found);
    assert.deepEqual([readdirSync(out), children()], [[], []]);
    await isWell();
    // Bun closes a pipe a moment after it says so.
    for (let tries = 0; tries < 100 && descriptors() > before; tries++) await sleep(20);
    assert.ok(descriptors() <= before, `${descriptors()} descriptors, ${before} before`);
  });
}

test("FFmpeg that never ends is ended by an abort, and by a consumer that leaves", needs, async () => {
  setFault("exec sleep 1000");
  const abort = new AbortController();
  const read = async () => {
    let count = 0;
    for await (const _ of (await framesOf(cars, { signal: abort.signal })).frames) {
      if (++count === 3) setTimeout(() => abort.abort(), 100);
    }
  };
  await rejects(read, "CANCELLED", /AbortSignal/);
  for await (const _ of (await framesOf(cars)).frames) break;
  await using sink = await createVideo(join(out, "a.mp4"), { height: 432, width: 768, fps: 25 });
  await sink.write(new Uint8Array(432 * 768 * 3));
  await sink.abort();
  assert.deepEqual([readdirSync(out), children()], [[], []]);
  await isWell();
});

test(
  "the command line: FFmpeg that dies while it reads or writes, or is missing, and the next file",
  needs,
  async () => {
    setFault("");
    await ctokEnds(0, ["encode", cars, "--frames", "9", "--out", join(dir, "t.safetensors")]);
    await ctokEnds(0, ["encode", join(root, "examples/media/cat.png"), "--out", join(dir, "cat.safetensors")]);
    setFault("kill -9 $$");
    const run = async (args: string[], env = {}) => {
      const { stdout } = await ctokEnds(1, [...args, "--out", `${out}/`, "--json"], { env, cwd: dir });
      const said = lines(stdout).map(({ ok, code, frames }) => [ok, code, frames]), left = readdirSync(out).sort();
      for (const name of left) rmSync(join(out, name));
      return [said, left];
    };
    assert.deepEqual(await run(["encode", cars]), [[[false, "FFMPEG", undefined]], []]);
    // The tokens of the frames before, and how many these are.
    const kept = await run(["encode", cars, "--keep-partial"]);
    assert.deepEqual(kept, [[[false, "FFMPEG", 3]], ["cars.safetensors"]]);
    const both = ["decode", "t.safetensors", "cat.safetensors"], rest = ["cat.png"];
    assert.deepEqual(await run(both), [[[false, "FFMPEG", undefined], [true, undefined, undefined]], rest]);
    const missing = { CTOK_FFMPEG: join(dir, "none") };
    assert.deepEqual(await run(both, missing), [[[false, "FFMPEG", undefined], [true, undefined, undefined]], rest]);
    assert.deepEqual(await run(["encode", cars], missing), [[[false, "FFMPEG", undefined]], []]);
  },
);
