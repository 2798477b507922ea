/**
 * A disk that fills up while a file is written: every command that writes says so with its code, leaves nothing of the
 * file, and does the next one. Once on a filesystem of that size, where one may be mounted, and once with a limit on
 * the size of a file, which refuses the same writes with another errno.
 */
import assert from "node:assert/strict";
import { execFileSync, spawnSync } from "node:child_process";
import { copyFileSync, mkdirSync, mkdtempSync, readdirSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { after, test } from "node:test";
import { createVideo, saveTokens, Tensor, tokenFormats, tokenize, Tokenizer, writeImage } from "mod.ts";
import { findFfmpeg } from "../../src/media/ffmpeg.ts";
import { ctokEnds, lines } from "../cli/spawn.ts";
import { carried, rejects, root } from "../support.ts";

const noFfmpeg = await findFfmpeg().then(
  () => false as const,
  () => "no FFmpeg: none in CTOK_FFMPEG, PATH, or the npm package",
);
const dir = mkdtempSync(join(tmpdir(), "ctok-disk-"));
after(() => rmSync(dir, { recursive: true }));
const at = (name: string) => join(dir, name);

/** A filesystem of so many bytes at an empty folder; what the system says where that is not allowed. */
function mount(folder: string, bytes: number): string | undefined {
  const { status, stderr, error } = spawnSync("mount", ["-t", "tmpfs", "-o", `size=${bytes}`, "tmpfs", folder]);
  return status === 0 ? undefined : String(error ?? stderr).trim();
}
mkdirSync(at("probe"));
const refusal = mount(at("probe"), 4096);
if (!refusal) execFileSync("umount", [at("probe")]);
const noMount = refusal !== undefined && `no filesystem may be mounted here: ${refusal}`;
const noise = (n: number) => Uint8Array.from({ length: n }, (_, i) => Math.imul(i + 1, 2654435761) >>> 24);
/** Inputs: of "large" the result does not fit, of "small" it does. */
for (const [name, side, frames] of [["small", 16, 1], ["large", 256, 9]] as const) {
  const picture = new Tensor("uint8", [side, side, 3], noise(side * side * 3));
  await writeImage(at(`${name}.png`), picture);
  mkdirSync(at(`${name}-frames`));
  for (let n = 0; n < frames; n++) copyFileSync(at(`${name}.png`), at(`${name}-frames/${n}.png`));
  await saveTokens(at(`${name}.safetensors`), await tokenize(picture));
  await using tok = await Tokenizer.open("nano-DV4x8x8");
  const clip = new Tensor("uint8", [1, frames, side, side, 3], noise(frames * side * side * 3));
  await saveTokens(at(`${name}-clip.safetensors`), await tok.encode(clip));
}

/** Each command with an input whose result is too much for the disk, and then one whose is not. */
const video = { bytes: 8192, skip: noFfmpeg, result: "small-clip.mp4" };
const cases: { bytes: number; args: string[]; result: string; skip?: string | false }[] = [
  {
    bytes: 5 << 20,
    args: ["convert", "nano-DI8x8", join(carried, "Cosmos-Tokenizer-CI8x8")],
    result: "Cosmos-Tokenizer-CI8x8.safetensors",
  },
  ...tokenFormats.map((format) => ({
    bytes: 4096,
    args: ["encode", join(root, "examples/media/cat.png"), "small.png", "--format", format],
    result: `small.${format}`,
  })),
  { bytes: 4096, args: ["decode", "large.safetensors", "small.safetensors"], result: "small.png" },
  { bytes: 4096, args: ["autoencode", "large.png", "small.png"], result: "small.png" },
  { ...video, args: ["decode", "large-clip.safetensors", "small-clip.safetensors"] },
  { ...video, args: ["autoencode", "large-frames/", "small-frames/", "--video"], result: "small-frames.mp4" },
  { bytes: 8192, args: ["run", join(root, "tests/faults/save_latents.ts")], result: "small.safetensors" },
];
const disks = [
  { disk: "a full filesystem", isMounted: true, says: /found a full disk|No space left on device/, skip: noMount },
  { disk: "files that may not grow", isMounted: false, says: /file too large|SIGXFSZ/i, skip: false as const },
];
for (const { bytes, args, result, skip: lacking } of cases) {
  for (const { disk, isMounted, says, skip } of disks) {
    const name = args.join(" ").replaceAll(root, "");
    test(`${disk}: ctok ${name}`, { skip: skip || (lacking ?? false) }, async () => {
      const out = mkdtempSync(at("out-"));
      if (isMounted) assert.equal(mount(out, bytes), undefined);
      try {
        const shell = isMounted ? {} : { shell: `trap '' XFSZ; ulimit -f ${bytes / 512}; exec "$@"` };
        const isScript = args[0] === "run", how = { cwd: dir, env: { OUT: out }, ...shell };
        const ending = await ctokEnds(isScript ? 0 : 1, isScript ? args : [...args, "--out", `${out}/`, "--json"], how);
        const [large, small] = lines(ending.stdout);
        const code = lacking !== undefined && !isMounted ? "FFMPEG" : "FILE_IO"; // of the limit FFmpeg dies itself
        assert.deepEqual([large.ok, large.code, small.ok], [false, code, true], ending.stdout);
        assert.match(large.message, says);
        assert.ok(large.message.length < 600, large.message);
        assert.deepEqual(readdirSync(out), [result]);
      } finally {
        if (isMounted) execFileSync("umount", [out]);
      }
    });
  }
}

for (const extension of [".mp4", ".mov", ".mkv"]) {
  test(`a full filesystem: a video as ${extension}`, { skip: noMount || noFfmpeg }, async () => {
    const out = mkdtempSync(at("sink-")), size = { height: 64, width: 64, fps: 25 };
    assert.equal(mount(out, 16384), undefined);
    try {
      const write = async (path: string, frames: number) => {
        await using sink = await createVideo(path, size);
        for (let n = 0; n < frames; n++) await sink.write(noise(64 * 64 * 3).map((value) => value ^ (n * 37)));
        await sink.close();
      };
      await rejects(() => write(join(out, `large${extension}`), 60), "FILE_IO", /found a full disk \(.*No space left/);
      await write(join(out, `small${extension}`), 1);
      assert.deepEqual(readdirSync(out), [`small${extension}`]);
    } finally {
      execFileSync("umount", [out]);
    }
  });
}
