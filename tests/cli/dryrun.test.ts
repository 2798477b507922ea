/** --dry-run says what a run then does, and does nothing; info tells of a file what the run that made it knew. */
import assert from "node:assert/strict";
import { copyFile, mkdir, mkdtemp, readdir, readFile, rm, stat, writeFile } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { after, test } from "node:test";
import { loadTokens, saveTokens, Tensor, tokenize, Tokenizer, writeImage } from "mod.ts";
import { root } from "../support.ts";
import { writeClip } from "../workplace.ts";
import { ctokEnds, lines } from "./spawn.ts";

const place = await mkdtemp(join(tmpdir(), "ctok-dry-"));
after(() => rm(place, { recursive: true }));
const folder = (name: string) => mkdtemp(join(place, `${name}-`));
const slow = { timeout: 600_000 };

async function picture(path: string, height: number, width: number): Promise<string> {
  await writeImage(path, new Tensor("uint8", [height, width, 3], new Uint8Array(height * width * 3).fill(90)));
  return path;
}

/** All that is below a folder, with what tells whether it was written anew. */
async function state(dir: string): Promise<string[]> {
  const names = (await readdir(dir, { recursive: true })).sort();
  return await Promise.all(names.map(async (name) => {
    const { ino, size, mtimeMs } = await stat(join(dir, name));
    return `${name} ${ino} ${size} ${mtimeMs}`;
  }));
}

async function dry(args: readonly string[], cwd: string, code = 0) {
  const before = await state(cwd), ended = await ctokEnds(code, [...args, "--dry-run", "--json"], { cwd });
  assert.deepEqual(await state(cwd), before, "nothing was written");
  return lines(ended.stdout);
}

// ---------------------------------------------------------------- dry runs
test("encode: files, names, sizes, shapes and memory as a run then has them", slow, async () => {
  const dir = await folder("encode");
  await mkdir(join(dir, "in/deep"), { recursive: true });
  await picture(join(dir, "in/a.png"), 48, 72);
  await picture(join(dir, "in/deep/b.webp"), 17, 33);
  await writeClip(join(dir, "in/clip.mp4"));
  for (
    const options of [[], ["--stream"], ["--window", "9", "--start", "3"], [
      "--stream",
      "--chunk",
      "4",
      "--frames",
      "7",
    ]]
  ) {
    const args = ["encode", "in", "--out", "out", "--overwrite", ...options], told = await dry(args, dir);
    const done = lines((await ctokEnds(0, [...args, "--json"], { cwd: dir })).stdout);
    assert.equal(told.length, 3);
    const facts = (all: Record<string, unknown>[]) => {
      return all.map(({ file, out, ok, model, height, width, shape, frames, fps, mode, window }) => {
        return { file, out, ok, model, height, width, shape, frames, fps, mode, window };
      });
    };
    assert.deepEqual(facts(told), facts(done), options.join(" "));
    for (const { isDryRun, memoryBytes } of told) assert.ok(isDryRun && memoryBytes > 1e6, `${memoryBytes}`);
    await rm(join(dir, "out"), { recursive: true });
  }
  await using tokenizer = await Tokenizer.open("nano-DI8x8", { half: "encoder" });
  const [first] = await dry(["encode", "in/a.png", "--out", "x.npy"], dir);
  assert.equal(first.memoryBytes, tokenizer.plan({ height: 48, width: 72 }).totalBytes);
});

test("decode and autoencode: results of pictures, batches and videos", slow, async () => {
  const dir = await folder("decode"), a = await picture(join(dir, "a.png"), 30, 40);
  await writeClip(join(dir, "clip.mp4"));
  await mkdir(join(dir, "t"));
  await saveTokens(join(dir, "t/two.safetensors"), await tokenize([a, a]));
  await ctokEnds(0, ["encode", "a.png", "clip.mp4", "--out", "t/"], { cwd: dir });
  for (const args of [["decode", "t", "--out", "d"], ["autoencode", "a.png", "clip.mp4", "--out", "e"]]) {
    const told = await dry(args, dir), done = lines((await ctokEnds(0, [...args, "--json"], { cwd: dir })).stdout);
    const facts = (all: Record<string, unknown>[]) => {
      return all.map(({ file, out, model, height, width, frames }) => ({ file, out, model, height, width, frames }));
    };
    assert.deepEqual(facts(told), facts(done));
    assert.equal(told.length, args[0] === "decode" ? 4 : 2);
  }
  const { stdout, stderr } = await ctokEnds(0, ["decode", "t", "--out", "d", "-n", "--overwrite"], { cwd: dir });
  assert.match(
    stdout,
    /^t\/a\.safetensors -> d\/a\.png: 40x30 pixels, nano-DI8x8, [\d.]+ MB of memory; replaces what is there$/m,
  );
  assert.match(stdout, /clip\.mp4: 20 frames of 96x64 pixels, nano-DV4x8x8, /);
  assert.equal(stderr, "3 of 3 files would be done; nothing was written\n");
});

test("what is known to fail fails in a dry run with the run's own codes", slow, async () => {
  const dir = await folder("fail");
  await picture(join(dir, "good.png"), 16, 16);
  await writeFile(join(dir, "bad.png"), "no picture");
  await writeFile(join(dir, "x.npy"), "somebody's");
  await writeClip(join(dir, "clip.mp4"));
  const cases: [code: number, args: string[]][] = [
    [1, ["encode", "good.png", "bad.png", "gone.png", "--out", "out"]],
    [1, ["encode", "good.png", "--out", "x.npy"]],
    [1, ["encode", "good.png", "--out", "x.npy/sub/"]],
    [1, ["encode", "good.png", "--out", "y.npy", "--max-memory", "2700kB"]],
    [1, ["encode", "good.png", "--out", "y.npy", "--limit-pixels", "15x17"]],
    [1, ["encode", "clip.mp4", "--out", "y.npy", "--limit-frames", "19"]],
    [1, ["encode", "clip.mp4", "--out", "y.npy", "--stream", "--chunk", "6"]],
    [1, ["encode", "clip.mp4", "--model", "nano-DI8x8", "--out", "y.npy"]],
    [1, ["decode", "bad.png", "--out", "y.png"]],
    [2, ["autoencode", "good.png", "--out", "."]],
    [3, ["encode", "good.png", "--model", "gone", "--out", "y.npy"]],
  ];
  for (const [code, args] of cases) {
    const told = await dry(args, dir, code),
      ran = lines((await ctokEnds(code, [...args, "--json"], { cwd: dir })).stdout);
    const failures = (all: Record<string, unknown>[]) => {
      return all.filter(({ ok }) => !ok).map(({ file, code, message }) => [file, code, `${message}`.split(":")[0]]);
    };
    const found = failures(told);
    assert.ok(found.length > 0, args.join(" "));
    const isChunk = args.includes("--chunk"); // an option of the API there, of the command line here
    if (!isChunk) assert.deepEqual(found, failures(ran), args.join(" "));
    else assert.deepEqual(found.map((f) => f[1]), failures(ran).map((f) => f[1]));
    await rm(join(dir, "out"), { recursive: true, force: true });
  }
  const { stderr } = await ctokEnds(1, ["encode", "good.png", "bad.png", "--out", "out", "-n"], { cwd: dir });
  assert.match(stderr, /\n1 of 2 files would be done, 1 would fail; nothing was written\n$/);
});

test("a dry run reads a pipe and sends nothing on", async () => {
  const dir = await folder("pipe");
  await picture(join(dir, "a.png"), 16, 24);
  const { stdout, stderr } = await ctokEnds(0, ["encode", "-", "--out", "-", "-n"], {
    cwd: dir,
    shell: `cat a.png | "$@"`,
  });
  assert.equal(stdout, "");
  assert.match(stderr, /^- -> -: 24x16 pixels, 4x2 tokens, nano-DI8x8, [\d.]+ MB of memory\n$/);
});

// ---------------------------------------------------------------- info
test("info tells token files from models by their content, and several at once", slow, async () => {
  const dir = await folder("info");
  await picture(join(dir, "p.png"), 30, 44);
  await writeClip(join(dir, "clip.mp4"));
  for (const format of ["safetensors", "msgpack"]) {
    await ctokEnds(0, ["encode", "p.png", "--out", `p.${format}`, "--pre-quant"], { cwd: dir });
  }
  await ctokEnds(0, ["encode", "p.png", "--out", "p.npy"], { cwd: dir });
  await ctokEnds(0, ["encode", "clip.mp4", "--out", "clip.safetensors"], { cwd: dir });
  await ctokEnds(0, ["convert", "nano-DI8x8", "--out", "model.safetensors"], { cwd: dir });
  await copyFile(join(dir, "p.msgpack"), join(dir, "noname"));
  const { stdout } = await ctokEnds(0, ["info", "p.safetensors", "model.safetensors", "noname", "--json"], {
    cwd: dir,
  });
  const [tokens, model, packed] = lines(stdout), { origin } = await loadTokens(join(dir, "p.safetensors"));
  const bits = 24 * Math.log2(64000) / (30 * 44), { size } = await stat(join(dir, "p.safetensors"));
  assert.deepEqual(tokens, {
    ...{ file: "p.safetensors", holds: "tokens", format: "safetensors", bytes: size, kind: "indices", dtype: "int32" },
    ...{ shape: [1, 4, 6], parts: ["indices", "codes", "preQuant"], origin: JSON.parse(JSON.stringify(origin)) },
    ...{ bitsPerPixel: bits, fileBitsPerPixel: 8 * size / (30 * 44) },
  });
  assert.equal(model.isDiscrete, true);
  assert.deepEqual([packed.format, packed.shape], ["msgpack", [1, 4, 6]]);

  const text = (await ctokEnds(0, ["info", "clip.safetensors"], { cwd: dir })).stdout;
  for (
    const row of [
      /^format +safetensors, [\d.]+ kB$/m,
      /^tokens +8 frames of 12x8 tokens$/m,
      /^stored +indices int32 \[1, 8, 8, 12\]$/m,
      /^model +nano-DV4x8x8$/m,
      /^quantizer +FSQ levels 8 8 8 5 5 5, 64000 codes$/m,
      /^frame +96x64 pixels, in 96x64 with its padding: 0 from the left, 0 from the top$/m,
      /^video +20 frames, 12\.5 frames a second$/m,
      /^windows +2$/m,
      /^made by +ctok \d/m,
    ]
  ) assert.match(text, row);

  assert.match((await ctokEnds(1, ["info", "p.npy"], { cwd: dir })).stderr, /a bare npy array; say which: --model/);
  const [bare] = lines((await ctokEnds(0, ["info", "p.npy", "-m", "nano-DI8x8", "--json"], { cwd: dir })).stdout);
  assert.deepEqual([bare.format, bare.shape, bare.origin.model], ["npy", [1, 4, 6], "nano-DI8x8"]);
  // A variable for bare arrays costs the others nothing.
  await ctokEnds(0, ["info", "p.safetensors", "model.safetensors"], { cwd: dir, env: { CTOK_MODEL: "/gone" } });
});

test("info of what is nothing, among others", async () => {
  const dir = await folder("nothing");
  await writeFile(join(dir, "text.safetensors"), "text");
  const whole = await readFile(join(root, "tests/fixtures/python/st_i64.safetensors"));
  await writeFile(join(dir, "bare.safetensors"), whole);
  const { stdout, stderr } = await ctokEnds(3, ["info", "gone", "text.safetensors", "bare.safetensors", "nano-DI8x8"], {
    cwd: dir,
  });
  assert.match(stdout, /^\n?name +nano-DI8x8$/m);
  assert.match(stderr, /found "gone"\n.*text\.safetensors.*\n.*bare\.safetensors: .*say which: --model.*\n$/);
});
