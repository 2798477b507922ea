/**
 * Which files the command line reads and which it may replace: folders, extensions, what is there already, links,
 * standard input and output, and what file names and contents may do to a terminal.
 */
import assert from "node:assert/strict";
import { execFileSync, spawnSync } from "node:child_process";
import { existsSync, readdirSync, readFileSync, writeFileSync } from "node:fs";
import { copyFile, link, lstat, mkdir, mkdtemp, readFile, rename, rm, symlink, writeFile } from "node:fs/promises";
import { tmpdir } from "node:os";
import { dirname, join } from "node:path";
import process from "node:process";
import { after, test } from "node:test";
import {
  createVideo,
  fileKind,
  framesOf,
  kindOfName,
  loadTokens,
  psnr,
  readImage,
  saveTokens,
  Tensor,
  tokenFormatOf,
  tokenize,
  Tokenizer,
  Tokens,
  writeImage,
  writtenByCtok,
  writtenExtensions,
} from "mod.ts";
import { parseArguments, splitWords } from "../../cli/args.ts";
import { type InOut, Outputs } from "../../cli/paths.ts";
import { findFfmpeg } from "../../src/media/ffmpeg.ts";
import { rejects } from "../support.ts";
import { ctok, ctokEnds, lines, shell, top } from "./spawn.ts";

const cat = join(top, "examples/media/cat.png"), cars = join(top, "examples/media/cars.mp4");
const root = await mkdtemp(join(tmpdir(), "ctok-cli-files-"));
after(() => rm(root, { recursive: true }));
const folder = (name: string) => mkdtemp(join(root, `${name}-`));
const ffmpeg = await findFfmpeg().catch(() => undefined);
const needs = { skip: ffmpeg ? false : "no FFmpeg: none in CTOK_FFMPEG, PATH, or the npm package" };

const flat = (value = 100, height = 16, width = 24) => {
  return new Tensor("uint8", [height, width, 3], new Uint8Array(height * width * 3).fill(value));
};

/** Pictures of one size at these places in a folder, each of another colour. */
async function pictures(dir: string, ...names: string[]): Promise<void> {
  for (const [n, name] of names.entries()) {
    await mkdir(dirname(join(dir, name)), { recursive: true });
    await writeImage(join(dir, name), flat(20 * n));
  }
}

function make(path: string, ...args: string[]): string {
  execFileSync(ffmpeg!.path, ["-v", "error", "-nostdin", "-y", ...args, path], { stdio: "ignore" });
  return path;
}

/** Nine frames of the sample clip, 32 by 48 pixels. */
const clip = (path: string, ...args: string[]) =>
  make(path, "-i", cars, "-vf", "scale=48:32", "-frames:v", "9", ...args);

/** Every file below a folder, hidden ones too. */
const tree = (dir: string) => {
  return readdirSync(dir, { recursive: true, withFileTypes: true }).filter((entry) => !entry.isDirectory())
    .map((entry) => join(entry.parentPath, entry.name).slice(dir.length + 1)).sort();
};

// ---------------------------------------------------------------- folders
test("a folder of pictures is its pictures, recursively; the tree is kept below --out", async () => {
  const dir = await folder("photos");
  await pictures(
    join(dir, "photos"),
    "2.png",
    "10.jpg",
    "a/1.jpg",
    "b/1.jpg",
    "b/c/1.webp",
    ".hidden.png",
    ".git/x.png",
  );
  await writeFile(join(dir, "photos/notes.txt"), "notes");
  await symlink("..", join(dir, "photos/b/loop"));
  const { stdout } = await ctokEnds(0, ["encode", "photos", "--out", "tokens", "--json"], { cwd: dir });
  assert.deepEqual(lines(stdout).map(({ file, out, model }) => [file, out, model]), [
    ["photos/2.png", "tokens/2.safetensors", "nano-DI8x8"],
    ["photos/10.jpg", "tokens/10.safetensors", "nano-DI8x8"],
    ["photos/a/1.jpg", "tokens/a/1.safetensors", "nano-DI8x8"],
    ["photos/b/1.jpg", "tokens/b/1.safetensors", "nano-DI8x8"],
    ["photos/b/c/1.webp", "tokens/b/c/1.safetensors", "nano-DI8x8"],
  ]);
  // And back: decode takes the token files of a folder.
  await writeFile(join(dir, "tokens/readme.md"), "not tokens");
  await ctokEnds(0, ["decode", "tokens/", "--out", "again"], { cwd: dir });
  assert.deepEqual(tree(join(dir, "again")), ["10.png", "2.png", "a/1.png", "b/1.png", "b/c/1.png"]);
  // Results of before, below the folder itself, are no inputs.
  for (let times = 0; times < 2; times++) {
    await ctokEnds(0, ["autoencode", "photos", "--out", "photos/again", "--overwrite"], { cwd: dir });
  }
  assert.deepEqual(tree(join(dir, "photos/again")), ["10.png", "2.png", "a/1.png", "b/1.png", "b/c/1.png"]);
  // Of more than one input, each folder keeps its name.
  await ctokEnds(0, ["encode", "photos/a", "photos/b", "photos/2.png", "--out", "two"], { cwd: dir });
  assert.deepEqual(tree(join(dir, "two")), [
    "2.safetensors",
    "a/1.safetensors",
    "b/1.safetensors",
    "b/c/1.safetensors",
  ]);
});

test("files of a folder that differ by their extension alone keep it in the results' names", async () => {
  const dir = await folder("pairs");
  await pictures(join(dir, "in"), "a/1.png", "a/1.webp", "a/2.png", "1.png");
  await ctokEnds(0, ["encode", "in", "--out", "out"], { cwd: dir });
  const names = ["1.safetensors", "a/1.png.safetensors", "a/1.webp.safetensors", "a/2.safetensors"];
  assert.deepEqual(tree(join(dir, "out")), names);
});

test("a folder of equally large photos is one video only when asked", needs, async () => {
  const dir = await folder("asked");
  await pictures(join(dir, "frames"), "f1.png", "f2.png", "f10.png");
  await ctokEnds(0, ["encode", "frames", "--out", "single"], { cwd: dir });
  assert.deepEqual(tree(join(dir, "single")), ["f1.safetensors", "f10.safetensors", "f2.safetensors"]);
  const { stdout } = await ctokEnds(0, ["encode", "frames", "--video", "--out", "v.safetensors", "--json"], {
    cwd: dir,
  });
  assert.deepEqual([lines(stdout)[0].model, lines(stdout)[0].frames], ["nano-DV4x8x8", 3]);
});

test("a folder is taken by what the model takes; what is not there is told, and how to have it", needs, async () => {
  const dir = await folder("models");
  await pictures(join(dir, "mixed"), "p.png");
  clip(join(dir, "mixed/v.mp4"));
  const models = async (...args: string[]) => {
    const { stdout } = await ctokEnds(0, ["encode", "mixed", ...args, "--out", `out${args.length}/`, "--json"], {
      cwd: dir,
    });
    return lines(stdout).map(({ file, model }) => [file, model]);
  };
  assert.deepEqual(await models(), [["mixed/p.png", "nano-DI8x8"], ["mixed/v.mp4", "nano-DV4x8x8"]]);
  assert.deepEqual(await models("--model", "nano-DI8x8"), [["mixed/p.png", "nano-DI8x8"]]);
  assert.deepEqual(await models("--model", "nano-DV4x8x8"), [["mixed/v.mp4", "nano-DV4x8x8"]]);
  await rm(join(dir, "mixed/v.mp4"));
  await mkdir(join(dir, "empty"));
  const wrong: [args: string[], said: RegExp][] = [
    [
      ["encode", "mixed", "--model", "nano-DV4x8x8"],
      /mixed: expected a folder with videos, found 1 picture \(--video takes /,
    ],
    [["encode", "empty"], /empty: expected a folder with pictures or videos, found no file that ctok reads$/m],
    [
      ["encode", "out0"],
      /out0: expected a folder with pictures or videos, found 2 tokens \(ctok decode takes tokens\)/,
    ],
    [["decode", "mixed"], /mixed: expected a folder with tokens, found 1 picture$/m],
  ];
  for (const [args, said] of wrong) {
    assert.match((await ctokEnds(1, [...args, "--out", "none/"], { cwd: dir })).stderr, said);
  }
  assert.ok(!existsSync(join(dir, "none")), "no folder is left that nothing went into");
  await rm(join(dir, "mixed/p.png"));
  clip(join(dir, "mixed/v.mp4"));
  const { stderr } = await ctokEnds(1, ["encode", "mixed", "--model", "nano-DI8x8", "--out", "none/"], { cwd: dir });
  assert.match(stderr, /expected a folder with pictures, found 1 video \(a video model takes those: nano-DV4x8x8\)/);
});

test("what failed leaves nothing that stands in the way of the right command", needs, async () => {
  const dir = await folder("way");
  await pictures(join(dir, "frames"), "0.png", "1.png");
  await writeImage(join(dir, "frames/2.png"), flat(0, 24, 24));
  const { stderr } = await ctokEnds(2, ["encode", "frames", "--out", "t.safetensors"], { cwd: dir });
  assert.match(
    stderr,
    /--out: expected a folder for what is in a folder, found t\.safetensors, which is a file's name/,
  );
  await ctokEnds(1, ["encode", "frames", "--video", "--out", "t.safetensors"], { cwd: dir }); // another size midway
  await ctokEnds(1, ["encode", "gone", "--out", "new/deep/"], { cwd: dir });
  assert.deepEqual(readdirSync(dir), ["frames"]);
  await rm(join(dir, "frames/2.png"));
  await ctokEnds(0, ["encode", "frames", "--video", "--out", "t.safetensors"], { cwd: dir });
});

// ---------------------------------------------------------------- kinds of files
test("extensions of videos are one table, and without one the content decides", needs, async () => {
  const dir = await folder("kinds"),
    videos = ["mts", "m2ts", "3gp", "wmv", "asf", "flv", "ogv", "vob", "mxf", "m2v", "f4v"];
  for (const name of [...videos, "nut", "mp4", "webm", "Y4M", "TS"]) {
    assert.equal(kindOfName(`x.${name}`), "video", name);
  }
  for (const name of ["png", "JPG", "webp", "avif", "gif", "tif"]) {
    assert.equal(kindOfName(`x.${name}`), "picture", name);
  }
  const written: [string, "picture" | "video" | "tokens" | undefined][] = [["text", undefined], ["none", undefined]];
  await writeFile(join(dir, "text"), "words, nothing but words");
  await writeFile(join(dir, "none"), "");
  for (const extension of writtenExtensions.picture) {
    await writeImage(join(dir, `p${extension}`), flat());
    written.push([`p${extension}`, "picture"]);
  }
  await saveTokens(join(dir, "t.safetensors"), await tokenize(flat()));
  await saveTokens(join(dir, "t.msgpack"), await tokenize(flat()));
  await saveTokens(join(dir, "t.npy"), await tokenize(flat()));
  for (const extension of writtenExtensions.tokens) written.push([`t${extension}`, "tokens"]);
  const muxers = {
    mp4: [],
    mov: [],
    mkv: [],
    avi: [],
    mpg: [],
    ts: ["-c:v", "mpeg2video"],
    flv: [],
    y4m: [],
    nut: [],
    asf: [],
    m2v: [],
    ogv: [],
  };
  for (const [muxer, args] of Object.entries(muxers)) {
    try {
      clip(join(dir, `v.${muxer}`), ...args);
      written.push([`v.${muxer}`, "video"]);
    } catch { // a build without it
    }
  }
  assert.ok(written.length > 16);
  for (const [name, kind] of written) {
    await copyFile(join(dir, name), join(dir, "unnamed"));
    assert.equal(await fileKind(join(dir, "unnamed")), kind, name);
    if (kind) assert.equal(await fileKind(join(dir, name)), kind, name);
  }
  assert.equal(await fileKind(join(dir, "gone")), undefined);
  assert.equal(await fileKind(dir), undefined);
  // What each writer takes is what the table says.
  const frame = { fps: 25, height: 16, width: 16 };
  await rejects(
    () => createVideo(join(dir, "x.txt"), frame),
    "ARGUMENT",
    new RegExp(`one of ${writtenExtensions.video.join(", ")},`),
  );
  await rejects(
    () => writeImage(join(dir, "x.txt"), flat()),
    "ARGUMENT",
    new RegExp(`one of ${writtenExtensions.picture.join(", ")},`),
  );
});

test("files without a known extension go to the model for what they are; others' hints", needs, async () => {
  const dir = await folder("unknown");
  clip(join(dir, "v.mp4"));
  await copyFile(join(dir, "v.mp4"), join(dir, "video.bin"));
  await copyFile(cat, join(dir, "photo"));
  await saveTokens(join(dir, "tokens.dat"), await tokenize(flat()));
  const { stdout, stderr } = await ctokEnds(1, ["encode", "video.bin", "photo", "tokens.dat", "--out", "o", "--json"], {
    cwd: dir,
  });
  assert.deepEqual(lines(stdout).map(({ file, model }) => [file, model]), [
    ["video.bin", "nano-DV4x8x8"],
    ["photo", "nano-DI8x8"],
    ["tokens.dat", undefined],
  ], stderr);
  assert.match(lines(stdout)[2].message, /expected an image, .* found tokens, which ctok decode takes/);
  const image = await ctokEnds(1, ["encode", "video.bin", "--model", "nano-DI8x8", "--out", "x/"], { cwd: dir });
  assert.match(image.stderr, /video\.bin: expected an image, as nano-DI8x8 takes, found a video .* \(nano-DV4x8x8\)/);
});

// ---------------------------------------------------------------- what is there already
const everyExtension = [
  ...["", ".safetensors", ".npy", ".msgpack", ".png", ".jpg", ".webp", ".avif", ".gif"],
  ...[".mp4", ".mov", ".mkv", ".y4m", ".webm", ".ts", ".pt", ".npz", ".jit", ".txt", ".PNG"],
];

test("no command replaces a foreign file unasked, nor one whose extension it does not write", needs, async () => {
  const dir = await folder("every");
  await writeImage(join(dir, "p.png"), flat());
  clip(join(dir, "v.mp4"));
  await ctokEnds(0, ["encode", "p.png", "v.mp4", "--out", "t"], { cwd: dir });
  const pictureOuts = [...writtenExtensions.picture, ""], videoOuts = writtenExtensions.video;
  const commands: [args: string[], written: readonly string[], others: readonly string[]][] = [
    [["encode", "p.png"], [...writtenExtensions.tokens, ""], []],
    [["encode", "v.mp4"], [...writtenExtensions.tokens, ""], []],
    [["autoencode", "p.png"], pictureOuts, []],
    [["autoencode", "v.mp4"], videoOuts, [""]],
    [["decode", "t/p.safetensors"], pictureOuts, videoOuts], // what it holds shows when it is read
    [["decode", "t/v.safetensors"], videoOuts, pictureOuts],
    [["convert", "nano-DI8x8"], [".safetensors", ""], []],
  ];
  const before = new Map(tree(dir).map((name) => [name, readFileSync(join(dir, name))]));
  let count = 0;
  for (const [args, written, others] of commands) {
    await Promise.all(everyExtension.map(async (extension) => {
      const out = `precious-${++count}${extension}`;
      const isWritten = written.includes(extension.toLowerCase()), isOther = others.includes(extension.toLowerCase());
      writeFileSync(join(dir, out), "precious");
      const { code, stderr } = await ctok([...args, "--out", out], { cwd: dir });
      const told = `${args.join(" ")} --out ${out}: ${code} ${stderr}`;
      assert.equal(readFileSync(join(dir, out), "latin1"), "precious", told);
      assert.equal(code, isWritten || isOther ? 1 : 2, told);
      if (isWritten) {
        assert.match(stderr, /expected nothing there yet.*, found a file \(--overwrite replaces it\)/, told);
      }
      await rm(join(dir, out));
    }));
  }
  for (const [name, bytes] of before) assert.deepEqual(readFileSync(join(dir, name)), bytes, name);
  assert.deepEqual(tree(dir), [...before.keys()].sort());
});

test("ctok replaces token files and checkpoints of its own, everything with --overwrite; a batch goes on", async () => {
  const dir = await folder("rerun");
  await pictures(dir, "a.png", "b.png");
  for (const [format, code] of [["safetensors", 0], ["msgpack", 0], ["npy", 1]] as const) {
    const args = ["encode", "a.png", "b.png", "--out", format, "--format", format];
    await ctokEnds(0, args, { cwd: dir });
    const { stderr } = await ctokEnds(code, args, { cwd: dir });
    if (code) {
      assert.match(stderr, /a\.npy: expected nothing there yet, or tokens that ctok wrote, found a file \(--overwrite/);
    }
    await ctokEnds(0, [...args, "--overwrite"], { cwd: dir });
  }
  await ctokEnds(0, ["convert", "nano-DI8x8", "--out", "m.safetensors"], { cwd: dir });
  await ctokEnds(0, ["convert", "nano-DI8x8", "--out", "m.safetensors"], { cwd: dir });
  assert.deepEqual([
    await writtenByCtok(join(dir, "m.safetensors")),
    await writtenByCtok(join(dir, "msgpack/a.msgpack")),
  ], [
    "checkpoint",
    "tokens",
  ]);
  const names = ["m.safetensors", "safetensors/a.safetensors", "msgpack/a.msgpack", "npy/a.npy", "a.png", "gone"];
  assert.deepEqual(await Promise.all(names.map((name) => tokenFormatOf(join(dir, name)))), [
    ...[undefined, "safetensors", "msgpack", "npy", undefined, undefined],
  ]);
  // Neither takes the place of the other.
  const tokens = join(dir, "safetensors/a.safetensors"), bytes = await readFile(tokens);
  await ctokEnds(1, ["convert", "nano-DI8x8", "--out", tokens], { cwd: dir });
  await ctokEnds(1, ["encode", "a.png", "--out", "m.safetensors"], { cwd: dir });
  assert.deepEqual(await readFile(tokens), bytes);
  // One foreign file among the results: that one fails, the others are done.
  await mkdir(join(dir, "out"));
  await writeFile(join(dir, "out/a.png"), "precious");
  const { stdout } = await ctokEnds(1, ["decode", "safetensors", "--out", "out", "--json"], { cwd: dir });
  assert.deepEqual(lines(stdout).map(({ file, ok, code }) => [file, ok, code]), [
    ["safetensors/a.safetensors", false, "FILE_EXISTS"],
    ["safetensors/b.safetensors", true, undefined],
  ]);
  assert.equal(await readFile(join(dir, "out/a.png"), "utf8"), "precious");
  await ctokEnds(0, ["decode", "safetensors", "--out", "out", "--overwrite"], { cwd: dir });
  assert.deepEqual((await readImage(join(dir, "out/a.png"))).shape, [1, 16, 24, 3]);
});

test("an input is never overwritten: by name, link or hard link, as a model; not with --overwrite either", async () => {
  const dir = await folder("inputs");
  await pictures(dir, "p.png");
  await symlink("p.png", join(dir, "soft.png"));
  await link(join(dir, "p.png"), join(dir, "hard.png"));
  await symlink(".", join(dir, "same"));
  await ctokEnds(0, ["convert", "nano-DI8x8", "--out", "m/encoder.safetensors"], { cwd: dir });
  await ctokEnds(0, ["encode", "p.png", "--out", "t.safetensors"], { cwd: dir });
  await symlink("../t.safetensors", join(dir, "m/t.safetensors"));
  const before = new Map(
    ["p.png", "t.safetensors", "m/encoder.safetensors"].map((name) => [name, readFileSync(join(dir, name))]),
  );
  const wrong: string[][] = [
    ...["p.png", "soft.png", "hard.png", "same/p.png", "same/hard.png", "same/"].map((
      out,
    ) => ["autoencode", "p.png", "--out", out]),
    ["autoencode", "soft.png", "--out", "p.png"],
    ["convert", "m/encoder.safetensors", "--out", "m/encoder.safetensors"],
    ["convert", "m", "--out", "m/encoder.safetensors"],
    ["encode", "p.png", "--model", "m/encoder.safetensors", "--out", "m/encoder.safetensors"],
  ];
  for (const args of wrong) {
    const { stderr } = await ctokEnds(2, [...args, "--overwrite"], { cwd: dir });
    assert.match(stderr, /expected to leave the inputs alone, found that \S+ would overwrite \S+; see/, args.join(" "));
  }
  for (const [name, bytes] of before) assert.deepEqual(readFileSync(join(dir, name)), bytes, name);
});

test("two results that are one file are refused: through links, and after the names are final", needs, async () => {
  const dir = await folder("meet");
  await pictures(join(dir, "in"), "cat.png", "coffee.png");
  await ctokEnds(0, ["encode", "in/cat.png", "--out", "out/cat.safetensors"], { cwd: dir });
  await symlink("cat.safetensors", join(dir, "out/coffee.safetensors"));
  const linked = await ctokEnds(2, ["encode", "in", "--out", "out"], { cwd: dir });
  assert.match(
    linked.stderr,
    /in\/cat\.png and in\/coffee\.png: expected different names, .* out\/coffee\.safetensors/,
  );
  await rm(join(dir, "out/cat.safetensors")); // a link to nothing is the same place
  assert.match(
    (await ctokEnds(2, ["encode", "in", "--out", "out"], { cwd: dir })).stderr,
    /would become out\/coffee\.safetensors/,
  );

  // A batch of two videos, and one whose result has the name of its first.
  await using videos = await Tokenizer.open("nano-DV4x8x8");
  const clip = (batch: number, value: number) => {
    return videos.encode(new Tensor("uint8", [batch, 5, 16, 16, 3], new Uint8Array(batch * 5 * 768).fill(value)));
  };
  await saveTokens(join(dir, "v.safetensors"), await clip(2, 10));
  await saveTokens(join(dir, "v-0.safetensors"), await clip(1, 250));
  for (const order of [["v", "v-0"], ["v-0", "v"]]) {
    const inputs = order.map((name) => `${name}.safetensors`), out = order.join("+");
    const { stderr } = await ctokEnds(1, ["decode", ...inputs, "--out", out, "--overwrite"], { cwd: dir });
    assert.match(stderr, /expected different names, found that both would become \S+\/v-0\.mp4/);
    assert.deepEqual(readdirSync(join(dir, out)), ["v-0.mp4"]);
    const [frame] = await Array.fromAsync((await framesOf(join(dir, out, "v-0.mp4"))).frames);
    assert.ok(frame!.data[0]! > 200, "the video of that name");
  }
});

test("another run that replaces results meanwhile makes no two of them one: numbers are given anew", async () => {
  const dir = await folder("anew"), tokens = await tokenize(flat());
  const planned = ["a", "b"].map((name): InOut => {
    const target = join(dir, `${name}.safetensors`), path = join(dir, `${name}.png`);
    return { file: path, path, kind: "picture", stem: name, isFound: false, out: target, target, isNamed: false };
  });
  const [a, b] = planned as [InOut, InOut];
  for (const { target } of planned) await saveTokens(target, tokens);
  const args = parseArguments(splitWords(["encode", a.path, b.path, "--out", dir], []), ["out"]);
  const outputs = new Outputs(args, planned, [], "tokens");
  await rename(a.target, b.target);
  await outputs.admit(b.target, b.file);
  await symlink(b.target, a.target);
  await assert.rejects(outputs.admit(a.target, a.file), /expected different names, found that both would become/);
});

test("--out at the end of a link to nothing is made where that points", async () => {
  const dir = await folder("dangling");
  await pictures(dir, "p.png");
  await mkdir(join(dir, "far"));
  await symlink("far/t.safetensors", join(dir, "t.safetensors"));
  await ctokEnds(0, ["encode", "p.png", "--out", "t.safetensors"], { cwd: dir });
  assert.ok((await lstat(join(dir, "t.safetensors"))).isSymbolicLink());
  assert.equal((await loadTokens(join(dir, "far/t.safetensors"))).origin.height, 16);
});

test("a file whose name is an option does not move --out", async () => {
  const dir = await folder("option");
  await pictures(dir, "a.png", "--out=elsewhere.png");
  const { code, stderr } = await shell(`ctok encode --out d/ *.png`, dir);
  assert.deepEqual([code, stderr], [2, "ctok: --out: expected it once, found it twice; see ctok --help\n"]);
  assert.deepEqual(tree(dir), ["--out=elsewhere.png", "a.png"]);
  await ctokEnds(0, ["encode", "--out", "d/", "--", "--out=elsewhere.png"], { cwd: dir });
  assert.deepEqual(readdirSync(join(dir, "d")), ["--out=elsewhere.safetensors"]);
});

// ---------------------------------------------------------------- standard input and output
/** What ctok keeps in a temporary folder, beside what runs the tests on Node. */
const kept = (folder: string) => readdirSync(folder).filter((name) => name.startsWith("ctok-"));

test("- is standard input and output: a picture to tokens and back in one line of shell", async () => {
  const dir = await folder("pipe");
  await pictures(dir, "p.png");
  await mkdir(join(dir, "tmp"));
  const { code, stdout, stderr } = await shell(
    `export TMPDIR=$PWD/tmp; cat p.png | ctok encode - --out - | ctok decode - --out -`,
    dir,
  );
  assert.equal(code, 0, stderr);
  assert.match(
    stderr,
    /^- -> -: 24x16 pixels, 4x2 tokens, [\d.]+ s\n- -> -: 24x16 pixels, [\d.]+ s\n$/,
    "reports go to stderr",
  );
  await ctokEnds(0, ["autoencode", "p.png", "--out", "again.png"], { cwd: dir });
  assert.deepEqual(await readImage(new Uint8Array(stdout)), await readImage(join(dir, "again.png")));
  for (
    const script of [
      `ctok encode - --out t.safetensors < p.png`,
      `ctok encode <(cat p.png) --out t.safetensors`,
      `cat p.png | ctok encode /dev/stdin --out t.safetensors`,
      `ctok encode /dev/stdin --out t.safetensors < p.png`,
      `mkfifo f; cat p.png > f & ctok encode f --out t.safetensors`,
    ]
  ) {
    const ended = await shell(script, dir);
    assert.equal(ended.code, 0, `${script}: ${ended.stderr}`);
    assert.equal((await loadTokens(join(dir, "t.safetensors"))).origin.width, 24);
    await rm(join(dir, "t.safetensors"));
  }
  await ctokEnds(0, ["encode", "p.png", "--out", "t.msgpack"], { cwd: dir });
  for (const format of ["safetensors", "msgpack"]) {
    const ended = await shell(
      `ctok encode p.png --format ${format} --out - --json | ctok decode <(cat) --out ${format}.png`,
      dir,
    );
    assert.equal(ended.code, 0, ended.stderr);
    assert.equal(lines(ended.stderr.split("\n")[0]!)[0].format, format, "--json goes there, too");
  }
  // A name for it in a folder; a failure names it, not where it was kept.
  await shell(`ctok encode - --out named/ < p.png`, dir);
  assert.deepEqual(readdirSync(join(dir, "named")), ["stdin.safetensors"]);
  const bad = await shell(`echo words | ctok encode - --out - | wc -c`, dir);
  assert.match(bad.stderr, /^ctok: -: expected an image /);
  assert.doesNotMatch(bad.stderr, /\/tmp/);
  assert.equal(bad.stdout.toString().trim(), "0", "nothing of a result that failed");
  const full = await shell(`ctok encode p.png --out - --json > /dev/full`, dir);
  const said = full.stderr.split("\n").filter((line) => line.startsWith("{")).map((line) => JSON.parse(line));
  assert.deepEqual(said.map(({ ok, code }) => [ok, code]), [[false, "FILE_IO"]], full.stderr);
  const device = await shell(`ctok encode p.png --out /dev/stdout | cat`, dir);
  assert.match(device.stderr, /^ctok: p\.png: \/dev\/stdout: expected a regular file or nothing there yet, found /);
  const none = await shell(`true | ctok encode - --out x.safetensors`, dir);
  assert.match(none.stderr, /^ctok: -: expected an encoded image, found no bytes at all/);
  assert.deepEqual(kept(join(dir, "tmp")), [], "what was kept meanwhile is gone");
});

test("- with videos: from a pipe to tokens, to Matroska or MP4 on standard output", needs, async () => {
  const dir = await folder("videos");
  clip(join(dir, "v.mp4"));
  await ctokEnds(0, ["encode", "v.mp4", "--out", "t.safetensors"], { cwd: dir });
  await ctokEnds(0, ["decode", "t.safetensors", "--out", "again.mkv"], { cwd: dir });
  const read = async (path: string) => (await Array.fromAsync((await framesOf(path)).frames)).map(({ data }) => data);
  const wanted = await read(join(dir, "again.mkv"));
  const { code, stdout, stderr } = await shell(`cat v.mp4 | ctok encode - --out - | ctok decode - --out -`, dir);
  assert.equal(code, 0, stderr);
  await writeFile(join(dir, "piped.mkv"), stdout);
  assert.deepEqual(await read(join(dir, "piped.mkv")), wanted, "Matroska with FFV1, exact");
  const y4m = await shell(`cat t.safetensors | ctok decode - --out - --container y4m`, dir);
  await writeFile(join(dir, "piped.y4m"), y4m.stdout);
  assert.match(y4m.stdout.toString("latin1", 0, 60), /^YUV4MPEG2 W48 H32 F25:2 /, y4m.stderr);
  const again = await read(join(dir, "piped.y4m"));
  assert.equal(again.length, wanted.length);
  const asTensor = (data: Uint8Array) => new Tensor("uint8", [32, 48, 3], data);
  for (const [n, data] of again.entries()) {
    assert.ok(psnr(asTensor(data), asTensor(wanted[n]!)) > 38, `frame ${n}: another colour`);
  }
  for (const command of ["encode", "autoencode"]) {
    const kept = await shell(`ctok ${command} v.mp4 --window 3 --limit-frames 6 --keep-partial --out -`, dir);
    assert.deepEqual([kept.code, / - keeps the 6 frames /.test(kept.stderr)], [1, true], kept.stderr);
    await writeFile(join(dir, "kept"), kept.stdout);
    const isVideo = command === "autoencode", at = join(dir, "kept");
    assert.equal(isVideo ? (await read(at)).length : (await loadTokens(at)).origin.video?.frames, 6, command);
  }
  const mp4 = await shell(`ctok autoencode - --container mp4 --out - < v.mp4`, dir);
  assert.equal(mp4.stdout.subarray(4, 8).toString(), "ftyp", mp4.stderr);
  const still = await shell(
    `ctok encode /dev/stdin --out s.safetensors < v.mp4 && ctok encode <(cat v.mp4) --out p.safetensors`,
    dir,
  );
  assert.equal(still.code, 0, still.stderr);
  assert.deepEqual(
    (await loadTokens(join(dir, "p.safetensors"))).indices.data,
    (await loadTokens(join(dir, "t.safetensors"))).indices.data,
  );
});

for (const file of ["-", "silent"]) {
  test(
    `an interruption while ${file === "-" ? "standard input" : "a pipe"} says nothing`,
    { timeout: 600_000 },
    async () => {
      const dir = await folder("silent"), tmp = join(dir, "tmp");
      await mkdir(tmp);
      if (file !== "-") execFileSync("mkfifo", [join(dir, file)]);
      const { stderr } = await ctokEnds(143, ["encode", file, "--out", "x/"], {
        cwd: dir,
        env: { TMPDIR: tmp },
        stdin: "pipe",
        onStart: (pid) => { // once there is a file for what should come
          const look = () => kept(tmp).length > 0 ? process.kill(pid, "SIGTERM") : setTimeout(look, 5);
          look();
        },
      });
      assert.equal(stderr, "ctok: interrupted\n");
      assert.deepEqual([kept(tmp), existsSync(join(dir, "x"))], [[], false]);
    },
  );
}

const hasScript = spawnSync("sh", ["-c", "command -v script"]).status === 0;
const terminal = { skip: hasScript ? false : "no script(1), which makes a terminal" };
test("binary is not written to a terminal, nor read from one", terminal, async () => {
  const dir = await folder("terminal");
  await pictures(dir, "p.png");
  const onTerminal = (command: string) =>
    // in bash: dash passes exported functions on to nobody
    shell(`export -f ctok; SHELL=$BASH script -qec '${command}' /dev/null < /dev/null`, dir);
  const out = await onTerminal("ctok encode p.png --out -");
  assert.match(out.stdout.toString(), /--out -: expected a pipe or file as standard output, found a terminal/);
  assert.equal(out.code, 2);
  const into = await onTerminal("ctok encode - --out t.npy");
  assert.match(into.stdout.toString(), /-: expected a pipe or file as standard input, found a terminal/);
  assert.equal(into.code, 2);
});

// ---------------------------------------------------------------- what files say to a terminal
test("nothing from inside a file or a name reaches the terminal as it is", async () => {
  const dir = await folder("escapes"), tokens = await tokenize(flat());
  const evil = "\x1b]0;pwned\x07\x1b]52;c;cHduZWQ=\x07\x1b[2J\x1b[1;31mdone\x1b[0m\u009b31m\u202egnp\x7f\r\n";
  const of = (edits: object) => {
    const origin = { ...tokens.origin, ...edits };
    return new Tokens(origin, {
      indices: new Tensor("int32", tokens.indices.shape, tokens.indices.data, { kind: "indices", origin }),
    });
  };
  await saveTokens(join(dir, "source.safetensors"), of({ source: `/nowhere/${evil}`, model: evil }));
  await saveTokens(join(dir, "model.safetensors"), of({ model: evil, spatialFactor: 16 }));
  const name = `n${evil.replaceAll("/", "_")}.png`;
  await writeFile(join(dir, name), "not a picture");
  await mkdir(join(dir, "good"));
  await writeImage(join(dir, "good", name), flat());
  // deno-lint-ignore no-control-regex
  const unsafe = /[\x00-\x09\x0b-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069]/;
  for (
    const args of [
      ["decode", "source.safetensors", "--out", "o/"],
      ["decode", "model.safetensors", "--out", "o/"],
      ["decode", "model.safetensors", "--out", "o/", "--stack"],
      ["encode", name, "--out", "o/"],
      ["encode", name, "--out", "o/", "--stack"],
      ["encode", "good", "--out", "o/"],
      ["encode", "good", "--out", "o/", "--json"],
      ["encode", name, "--out", "o/", "--json"],
      [`enc${evil}ode`],
      ["encode", name, `--${evil}`],
    ]
  ) {
    const { stdout, stderr } = await ctok(args, { cwd: dir });
    assert.ok((stdout + stderr).length > 10);
    assert.doesNotMatch(stdout + stderr, unsafe, JSON.stringify(args));
    if (!args.includes("--stack")) {
      assert.ok(stderr.split("\n").length + stdout.split("\n").length <= 4, "no forged line");
    }
    if (args.includes("--json")) assert.ok(lines(stdout)[0].file.includes(evil), "JSON says it exactly");
  }
  const { stdout } = await ctokEnds(0, ["encode", "good", "--out", "o2/"], { cwd: dir });
  assert.match(stdout, /n\\x1b\]0;pwned\\x07.*\\x9b31m\\u202egnp\\x7f\\r\\n\.png -> /);
});
