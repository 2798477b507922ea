/**
 * The command line as its users meet it: spawned by the runtime that runs the tests, in folders of its own. What the
 * models compute is tested elsewhere; here it is files, texts, and exit codes.
 */
import assert from "node:assert/strict";
import { existsSync } from "node:fs";
import { copyFile, mkdir, mkdtemp, readdir, readFile, rm, symlink, writeFile } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import process from "node:process";
import { after, test } from "node:test";
import { devices, loadTokens, readImage, saveTokens, Tensor, tokenize, Tokenizer, Tokens, writeImage } from "mod.ts";
import { ctok, ctokEnds, lines, noHangup, top } from "./spawn.ts";

const fixtures = join(top, "../shared/fixtures");
const cat = join(top, "examples/media/cat.png"), coffee = join(top, "examples/media/coffee.jpg");
const root = await mkdtemp(join(tmpdir(), "ctok-cli-"));
after(() => rm(root, { recursive: true }));

const slow = { timeout: 600_000 };
const folder = (name: string) => mkdtemp(join(root, `${name}-`));

/** A picture of stripes, 48×64 unless told. */
async function picture(path: string, height = 48, width = 64): Promise<string> {
  const data = Uint8Array.from({ length: height * width * 3 }, (_, i) => (i % 97) + (i % 7) * 20);
  await writeImage(path, new Tensor("uint8", [height, width, 3], data));
  return path;
}

// ---------------------------------------------------------------- usage; help is in help.test.ts
test("--version is the package's", async () => {
  const { version } = JSON.parse(await readFile(join(top, "package.json"), "utf8"));
  assert.equal((await ctokEnds(0, ["--version"], { env: { CTOK_LIBRARY: "/nonexistent" } })).stdout, `${version}\n`);
});

const wrongUsages: [args: string[], said: RegExp][] = [
  [["encdoe", "x"], /unknown command encdoe \(did you mean encode\?\)/],
  [["encode", cat, "--out", "x", "--modle", "M"], /unknown option --modle \(did you mean --model\?\)/],
  [["decode", "x", "--out", "x", "--format", "npy"], /unknown option --format/],
  [["encode", cat], /expected --out FILE\|DIR, found none/],
  [["encode", "--out", "x"], /expected at least one file, found none/],
  [["encode", cat, "--out"], /--out: expected a value, found none/],
  [["encode", cat, "--out", "--json"], /--out: expected a value, found --json/],
  [["encode", cat, "--out", "x", "--format", "png"], /--format: expected one of safetensors, npy, msgpack, found png/],
  [["encode", cat, "--out", "x.npy", "--format", "msgpack"], /expected the extension \.msgpack, .* found \.npy/],
  [["encode", cat, "--out", "x.npy", "--pre-quant"], /--pre-quant: expected safetensors or msgpack, found npy/],
  [["encode", cat, "--out", "x", "--precision", "f64"], /--precision: expected one of auto, f32, bf16, found f64/],
  [["encode", cat, "-o", "x", "-m"], /-m: expected a value, found none/],
  [["encode", cat, "-o=x"], /-o: expected a value after a space, or --out=x, found -o=x/],
  [["encode", cat, "-o", "x", "--out", "y"], /--out: expected it once, found it twice/],
  [["encode", cat, "-o", "x", "-y"], /unknown option -y/],
  [
    ["encode", cat, "-o", "x", "--max-memory", "2XB"],
    /--max-memory: expected bytes, such as 2GB, 512MiB .*, found 2XB/,
  ],
  [["encode", cat, "-o", "x", "--max-memory", "0.1"], /--max-memory: expected bytes, .*, found 0\.1/],
  [["encode", cat, "-o", "x", "--limit-pixels", "0x9"], /--limit-pixels: expected pixels from 1 to \d+, .*, found 0x9/],
  [["convert", "nano-DI8x8", "-o", "x", "--device", "cpu"], /unknown option --device, which other commands have/],
  [["help", "encdoe"], /unknown command encdoe \(did you mean encode\?\)/],
  [["completions", "tcsh"], /expected one of bash, zsh, fish, found tcsh/],
  [["run"], /expected a script, found none/],
  [["encode", cat, "--out", "x", "--threads", "0"], /--threads: expected a whole number from 1 to 256, found 0/],
  [["encode", cat, "--out", "x", "--out=y"], /--out: expected it once, found it twice/],
  [["encode", cat, "--out", "x", "--quiet", "--quiet"], /--quiet: expected it once, found it twice/],
  [["encode", cat, "--out", "x", "--video"], /--video: expected a folder among the inputs, found none/],
  [["encode", cat, cat + "/../coffee.jpg", "--out", "-"], /--out -: expected one file to read, found 2/],
  [["convert", "nano-DI8x8", "--out", "-"], /--out: expected a file or folder, found standard output/],
  [["encode", cat, "--out", "x", "--json=1"], /--json: expected no value, found "1"/],
  [
    ["encode", "v.mp4", "--out", "x", "--window", "9", "--stream"],
    /--stream: expected no --window beside it, found one/,
  ],
  [["encode", "v.mp4", "--out", "x", "--window", "0"], /--window: expected a whole number from 1 to 1048576, found 0/],
  [
    ["encode", "v.mp4", "--out", "x", "--frames", "1.5"],
    /--frames: expected a whole number from 1 to 1048576, found 1\.5/,
  ],
  [["encode", "v.mp4", "--out", "x", "--chunk", "8"], /--chunk: expected --stream beside it, found none/],
  [["encode", "v.mp4", "--out", "x", "--fps", "fast"], /--fps: expected frames a second .*, found fast/],
  [["encode", "v.mp4", "--out", "x", "--fps", "30/0"], /--fps: expected frames a second .*, found 30\/0/],
  [["autoencode", cat, "--out", "x", "--audio"], /--audio: expected a video among the inputs, found only images/],
  [["decode", "x", "--out", "x", "--stream"], /unknown option --stream, which other commands have/],
  [
    ["decode", "x", "--out", "x.mp4", "--container", "mp4"],
    /--container: expected --out - beside it, found --out x\.mp4/,
  ],
  [
    ["autoencode", "x", "--out", "x.mp4", "--container", "mp4"],
    /--container: expected --out - beside it, found --out x\.mp4/,
  ],
  [["convert", "a", "b", "--out", "x", "--name", "n"], /--name: expected one model, found 2/],
];
for (const [args, said] of wrongUsages) {
  test(`wrong usage: ctok ${args.join(" ").replaceAll(`${top}/`, "")}`, async () => {
    const { stdout, stderr } = await ctokEnds(2, args);
    assert.match(stderr + stdout, said);
    assert.doesNotMatch(stderr, /\n./, "one line, no stack");
    if (args.includes("--json")) {
      assert.deepEqual([lines(stdout)[0].ok, lines(stdout)[0].code, stderr], [false, "USAGE", ""]);
    }
  });
}

// ---------------------------------------------------------------- encode and decode
for (const format of ["safetensors", "npy", "msgpack"]) {
  test(`encodes to ${format} by the extension and by --format, and decodes`, async () => {
    const dir = await folder("format"), file = join(dir, `t.${format}`), again = join(dir, "again.png");
    await ctokEnds(0, ["encode", cat, "--out", file]);
    await ctokEnds(0, ["encode", cat, "--out", `${dir}/sub/`, "--format", format]);
    assert.deepEqual(await readFile(join(dir, `sub/cat.${format}`)), await readFile(file));
    if (format === "npy") {
      const { stderr } = await ctokEnds(1, ["decode", file, "--out", again]);
      assert.match(stderr, /a bare .*array; .* --model/);
    }
    await ctokEnds(0, ["decode", file, "--out", again, ...(format === "npy" ? ["--model", "nano-DI8x8"] : [])]);
    // 300×451 is padded by 4 and 45 to the grid of 38×58 tokens; a bare array knows only that grid.
    assert.deepEqual((await readImage(again)).shape, format === "npy" ? [1, 304, 464, 3] : [1, 300, 451, 3]);
    assert.deepEqual((await readdir(dir)).sort(), ["again.png", "sub", `t.${format}`]);
  });
}

test("the tokens are those of the library, pre-quantiser vector included when asked", async () => {
  const dir = await folder("library"), file = join(dir, "t.safetensors");
  await ctokEnds(0, [
    "encode",
    await picture(join(dir, "p.png")),
    "--out",
    file,
    "--pre-quant",
    "--threads",
    "1",
    "--precision",
    "f32",
  ]);
  await using tok = await Tokenizer.open("nano-DI8x8", { precision: "f32" });
  const [got, want] = [await loadTokens(file), await tok.encode(join(dir, "p.png"))];
  assert.deepEqual(got.indices.data, want.indices.data);
  assert.deepEqual(got.origin, want.origin);
  assert.deepEqual(got.preQuant.shape, [1, 6, 6, 8]);
});

test(
  "a continuous model's latent goes to a file and back",
  { skip: existsSync(fixtures) ? false : "no ../shared/fixtures" },
  async () => {
    const dir = await folder("latent"), model = join(fixtures, "Cosmos-Tokenizer-CI8x8");
    await picture(join(dir, "p.png"));
    await ctokEnds(0, ["encode", "p.png", "--model", model, "--out", "named.safetensors"], { cwd: dir });
    assert.equal((await loadTokens(join(dir, "named.safetensors"))).origin.source, "Cosmos-Tokenizer-CI8x8");
    assert.ok(!(await readFile(join(dir, "named.safetensors"))).includes(fixtures), "no path of this machine");
    const decode = ["decode", "named.safetensors", "--out", "x.png"];
    const { stderr } = await ctokEnds(3, decode, { cwd: dir });
    assert.match(stderr, /its model Cosmos-Tokenizer-CI8x8 .* cannot be opened, --model can name another/);
    await ctokEnds(0, [...decode, "--model", model], { cwd: dir });
    await ctokEnds(0, ["encode", "p.png", "--model", model, "--store-path", "--out", "t.safetensors"], { cwd: dir });
    const { latent, origin } = await loadTokens(join(dir, "t.safetensors"));
    assert.deepEqual([latent.shape, origin.source], [[1, 16, 6, 8], model]);
    const [done] = lines(
      (await ctokEnds(0, ["decode", "t.safetensors", "--out", "again.png", "--json"], { cwd: dir })).stdout,
    );
    assert.deepEqual([done.model, done.height, done.width], ["Cosmos-Tokenizer-CI8x8", 48, 64]);
  },
);

test("decode writes by FILE's extension, and one picture for each of a batch", async () => {
  const dir = await folder("batch"), path = await picture(join(dir, "p.png"));
  await saveTokens(join(dir, "two.safetensors"), await tokenize([path, path]));
  await ctokEnds(0, ["encode", path, "--out", `${dir}/`]);
  await ctokEnds(0, ["decode", "two.safetensors", "p.safetensors", "--out", "out"], { cwd: dir });
  assert.deepEqual((await readdir(join(dir, "out"))).sort(), ["p.png", "two-0.png", "two-1.png"]);
  await ctokEnds(0, ["decode", "p.safetensors", "--out", "p.webp"], { cwd: dir });
  assert.equal((await readFile(join(dir, "p.webp"))).subarray(8, 12).toString(), "WEBP");
});

test("decode reports a batch whose pictures would overwrite another file's", async () => {
  const dir = await folder("meet"), path = await picture(join(dir, "p.png"));
  await saveTokens(join(dir, "a.safetensors"), await tokenize([path, path]));
  await saveTokens(join(dir, "a-1.safetensors"), await tokenize(path));
  const { stderr } = await ctokEnds(1, ["decode", "a.safetensors", "a-1.safetensors", "--out", "out"], { cwd: dir });
  assert.match(
    stderr,
    /a-1\.safetensors and a\.safetensors: expected different names, .* both would become out\/a-1\.png/,
  );
  assert.deepEqual(await readdir(join(dir, "out")), ["a-1.png"]);
});

test("autoencode gives the picture again, and says how near", async () => {
  const dir = await folder("auto");
  const { stdout } = await ctokEnds(0, [
    "autoencode",
    cat,
    coffee,
    await picture(join(dir, "dot.png"), 1, 1),
    "--out",
    dir + "/out",
    "--json",
  ]);
  const done = lines(stdout);
  assert.deepEqual(done.map((d) => [d.ok, d.height, d.width]), [[true, 300, 451], [true, 400, 600], [true, 1, 1]]);
  for (const { psnr, ssim } of done.slice(0, 2)) assert.ok(psnr > 20 && ssim > 0.5, `PSNR ${psnr}, SSIM ${ssim}`);
  assert.equal(done[2].ssim, undefined, "no 7×7 window fits");
  assert.deepEqual((await readImage(join(dir, "out/cat.png"))).shape, [1, 300, 451, 3]);
  assert.match(
    (await ctokEnds(0, ["autoencode", cat, "--out", dir + "/"])).stdout,
    /cat\.png: 451x300 pixels, PSNR \d\d\.\d\d dB, SSIM 0\.\d{4}, /,
  );
});

// ---------------------------------------------------------------- one bad file never stops the others
test("bad files among good ones: the good are done, the exit code is 1", async () => {
  const dir = await folder("bad");
  await writeFile(join(dir, "text.png"), "not an image");
  await writeFile(join(dir, "empty.png"), "");
  const whole = await readFile(cat);
  await writeFile(join(dir, "cut.png"), whole.subarray(0, whole.length / 2));
  await picture(join(dir, "good.png"));
  const { stdout, stderr } = await ctokEnds(1, [
    "encode",
    "gone.png",
    "text.png",
    "empty.png",
    "cut.png",
    "good.png",
    "--out",
    "out",
  ], { cwd: dir });
  assert.match(stdout, /^good\.png -> out\/good\.safetensors: .*\n$/);
  for (const name of ["gone", "text", "empty", "cut"]) {
    assert.match(stderr, new RegExp(`^ctok: ${name}\\.png: expected `, "m"));
  }
  assert.match(stderr, /1 of 5 files done in .* 4 failed\n$/);
  assert.deepEqual(await readdir(join(dir, "out")), ["good.safetensors"]);

  const all = lines(
    (await ctokEnds(1, ["decode", "gone", "text.png", "out/good.safetensors", "--out", "out", "--json"], { cwd: dir }))
      .stdout,
  );
  assert.deepEqual(all.map((line) => [line.file, line.ok, line.code]), [
    ["gone", false, "FILE_MISSING"],
    ["text.png", false, "TOKEN_FILE"],
    ["out/good.safetensors", true, undefined],
  ]);
});

test("--json is one object a line and nothing else; --quiet says nothing", async () => {
  const dir = await folder("json"), path = await picture(join(dir, "p.png"));
  const { stdout, stderr } = await ctokEnds(1, ["--json", "encode", path, "/gone", "--out", dir + "/"]);
  const [done, failed] = lines(stdout), { seconds, ...facts } = done;
  const kind = { format: "safetensors", kind: "indices", shape: [1, 6, 8], height: 48, width: 64 };
  assert.deepEqual(facts, { file: path, out: join(dir, "p.safetensors"), ok: true, model: "nano-DI8x8", ...kind });
  assert.ok(seconds > 0);
  assert.deepEqual([failed.file, failed.ok, failed.code, stderr], ["/gone", false, "FILE_MISSING", ""]);
  const quiet = await ctokEnds(0, ["encode", path, "--out", dir + "/", "--quiet"]);
  assert.deepEqual([quiet.stdout, quiet.stderr], ["", ""]);
});

test("--stack shows where a failure came from; without it there is no stack", async () => {
  for (const command of ["encode", "decode"]) {
    const { stderr } = await ctokEnds(1, [command, "/gone", "--out", "x", "--stack"]);
    assert.match(stderr, /TokenizerError \[FILE_MISSING\]: .*\n +at /);
  }
  assert.doesNotMatch((await ctokEnds(1, ["encode", "/gone", "--out", "x"])).stderr, /\n +at /);
  const { stderr } = await ctokEnds(1, ["encode", "/gone $& $1", "--out", "x", "--stack"]);
  assert.match(stderr, /^ctok: \/gone \$& \$1: expected/m, "a name is no pattern");
  assert.match(stderr, /^TokenizerError \[FILE_MISSING\]: \/gone \$& \$1: expected a file, found .*'\/gone \$& \$1'$/m);
});

// ---------------------------------------------------------------- names in, names out
test("patterns are expanded in order; a file of that very name goes first; a file counts once", async () => {
  const dir = await folder("glob");
  for (const name of ["b.png", "a.png", "c1.png", "C.png", "odd[1].png"]) await picture(join(dir, name));
  await symlink("/nowhere", join(dir, "z.txt"));
  const files = async (...args: string[]) => {
    const { stdout } = await ctok(["encode", ...args, "--out", "out/", "--json"], { cwd: dir });
    return lines(stdout).map(({ file }) => file);
  };
  assert.deepEqual(await files("?.png"), ["C.png", "a.png", "b.png"]);
  assert.deepEqual(await files("odd[1].png", "{c1,a}.png", "a.p*"), ["odd[1].png", "a.png", "c1.png"]);
  assert.deepEqual(await files("none*.png", "b.png"), ["none*.png", "b.png"]);
});

test("two inputs of one stem are refused before any work", async () => {
  const dir = await folder("stems");
  await mkdir(join(dir, "other"));
  await picture(join(dir, "p.png"));
  await copyFile(join(dir, "p.png"), join(dir, "other/p.png"));
  const { stderr } = await ctokEnds(2, ["encode", "p.png", "other/p.png", "--out", "out"], { cwd: dir });
  assert.match(stderr, /p\.png and other\/p\.png: .* both would become out\/p\.safetensors/);
  assert.ok(!existsSync(join(dir, "out")));
});

test("a result never overwrites an input", async () => {
  const dir = await folder("input"), path = await picture(join(dir, "p.png")), before = await readFile(path);
  await symlink(dir, join(dir, "same"));
  for (const out of [".", "p.png", "same/"]) {
    assert.match(
      (await ctokEnds(2, ["autoencode", "p.png", "--out", out], { cwd: dir })).stderr,
      /would overwrite p\.png/,
    );
  }
  assert.deepEqual(await readFile(path), before);
});

test("folders of outputs are made; where they cannot be, or a file is in their place, that is said", async () => {
  const dir = await folder("out"), path = await picture(join(dir, "p.png"));
  await ctokEnds(0, ["encode", path, "--out", "new/deep/t.safetensors"], { cwd: dir });
  await ctokEnds(0, ["encode", path, "--out", "new/folder/"], { cwd: dir });
  assert.deepEqual((await readdir(join(dir, "new"), { recursive: true })).sort(), [
    "deep",
    "deep/t.safetensors",
    "folder",
    "folder/p.safetensors",
  ]);
  assert.match(
    (await ctokEnds(2, ["encode", path, cat, "--out", "p.png"], { cwd: dir })).stderr,
    /expected a folder for 2 inputs, found the file p\.png/,
  );
  assert.match(
    (await ctokEnds(1, ["encode", path, "--out", "p.png/sub/"], { cwd: dir })).stderr,
    /^ctok: p\.png\/sub: expected a folder/,
  );
  assert.match(
    (await ctokEnds(1, ["encode", path, "--out", "/proc/t.safetensors"])).stderr,
    /^ctok: .*\/proc\/t\.safetensors: expected /,
  );
});

// ---------------------------------------------------------------- models
test("info: a table, JSON; of nothing, where the list of models is", async () => {
  const { stdout } = await ctokEnds(0, ["info", "nano-DI8x8"]);
  assert.match(
    stdout,
    /^name +nano-DI8x8\n(.*\n)*kind +discrete .*\nFSQ levels +8 8 8 5 5 5 \(from default\)\n(.*\n)*codes +64000\n/,
  );
  await using tokenizer = await Tokenizer.open("nano-DI8x8");
  assert.deepEqual(lines((await ctokEnds(0, ["info", "nano-DI8x8", "--json"])).stdout), [
    JSON.parse(JSON.stringify(tokenizer.info)),
  ]);
  const { stderr } = await ctokEnds(2, ["info"], { env: { CTOK_LIBRARY: "/nonexistent" } });
  assert.match(stderr, /^ctok: expected a model or token files, found none \(ctok models lists the models\)/);
});

test("info --devices: what can compute, why a GPU cannot, and why auto took the CPU", async () => {
  const found = lines((await ctokEnds(0, ["info", "--devices", "--json"])).stdout);
  const all = await devices(), gpu = all[1]!; // of free memory each run has another number
  assert.deepEqual(
    found.map(({ freeMemory: _, ...d }) => d),
    all.map(({ freeMemory: _, ...d }) => JSON.parse(JSON.stringify(d))),
  );
  const { stdout } = await ctokEnds(0, ["info", "--devices", "nano-DI8x8"]);
  assert.match(stdout, /^cpu +\w+ kernels, \d+ threads, [\d.]+ GB of memory\ncuda/);
  assert.equal(stdout.includes(`cannot be used: ${gpu.reason}`), !gpu.isUsable);
  assert.equal(stdout.includes(`\nno GPU                 ${gpu.reason}\n`), !gpu.isUsable);
  assert.match(stdout, /\n\nname +nano-DI8x8\n/);
  const library = await ctokEnds(3, ["info", "--devices", "--json"], { env: { CTOK_LIBRARY: "/nonexistent" } });
  assert.equal(lines(library.stdout)[0].code, "LIBRARY");
});

test("a model or library that cannot be opened ends with 3", async () => {
  const dir = await folder("model"), path = await picture(join(dir, "p.png"));
  await writeFile(join(dir, "junk.safetensors"), "junk");
  for (const model of ["/gone", "DI8x8", "junk.safetensors"]) {
    const { stderr } = await ctokEnds(3, ["encode", path, "--model", model, "--out", "out/"], { cwd: dir });
    assert.match(stderr, new RegExp(`^ctok: .*${model}.*\n$`));
  }
  assert.match((await ctokEnds(3, ["info", "/gone"])).stderr, /expected an embedded name/);
  const library = await ctokEnds(3, ["info", "nano-DI8x8", "--json"], { env: { CTOK_LIBRARY: "/nonexistent" } });
  assert.equal(lines(library.stdout)[0].code, "LIBRARY");
  assert.deepEqual((await readdir(dir)).sort(), ["junk.safetensors", "p.png"]);
});

test("tokens whose model is gone: 3, the others are done, and --model names another", async () => {
  const dir = await folder("moved"), tokens = await tokenize(await picture(join(dir, "p.png")));
  await saveTokens(join(dir, "here.safetensors"), tokens);
  await saveTokens(
    join(dir, "gone.safetensors"),
    new Tokens({ ...tokens.origin, model: "Gone-DI8x8", source: "/gone/it", sha256: "b2".repeat(32) }, {
      indices: tokens.indices,
    }),
  );
  const args = ["decode", "gone.safetensors", "here.safetensors", "--out", "out"];
  const { stdout, stderr } = await ctokEnds(3, args, { cwd: dir });
  const its = `Gone-DI8x8 \\(sha256 ${"b2".repeat(32)}\\)`;
  assert.match(
    stderr,
    new RegExp(`gone\\.safetensors: its model ${its} cannot be opened, --model can name another: .*"Gone-DI8x8"`),
  );
  assert.match(stdout, /^here\.safetensors -> out\/here\.png/);
  await ctokEnds(0, [...args, "--model", "nano-DI8x8", "--overwrite"], { cwd: dir });
  assert.deepEqual(await readFile(join(dir, "out/gone.png")), await readFile(join(dir, "out/here.png")));
});

test("decode says when other weights made the tokens, and decodes them", async () => {
  const dir = await folder("weights"), tokens = await tokenize(await picture(join(dir, "p.png")));
  const { sha256 } = tokens.origin,
    other = new Tokens({ ...tokens.origin, sha256: "0123456789abcdef".repeat(4) }, {
      indices: tokens.indices,
    });
  await saveTokens(join(dir, "own.safetensors"), tokens);
  await saveTokens(join(dir, "other.safetensors"), other);
  const { stderr } = await ctokEnds(0, ["decode", "own.safetensors", "other.safetensors", "--out", "o"], { cwd: dir });
  const said = `expected tokens of nano-DI8x8 with the weights ${
    sha256!.slice(0, 12)
  }… \\(sha256\\), found those of nano-DI8x8 with 0123456789ab…`;
  assert.match(
    stderr,
    new RegExp(`^ctok: other\\.safetensors: ${said}: the result may be another picture\n2 of 2 files`),
  );
  const json = await ctokEnds(0, ["decode", "other.safetensors", "own.safetensors", "--out", "j", "--json"], {
    cwd: dir,
  });
  assert.deepEqual([lines(json.stdout).map(({ isOtherModel }) => isOtherModel), json.stderr], [[true, undefined], ""]);
  assert.deepEqual(await readFile(join(dir, "o/other.png")), await readFile(join(dir, "o/own.png")));
});

test("an SVG is drawn only with --svg, in a folder too", async () => {
  const dir = await folder("svg");
  await mkdir(join(dir, "in"));
  await writeFile(
    join(dir, "in/s.svg"),
    `<svg xmlns="http://www.w3.org/2000/svg" width="24" height="16"><rect width="24" height="16" fill="red"/></svg>`,
  );
  await picture(join(dir, "in/p.png"));
  const files = (stdout: string) => lines(stdout).map(({ file, ok }) => [file, ok]);
  for (const command of ["encode", "autoencode"]) {
    const refused = await ctokEnds(1, [command, "in/s.svg", "--out", `${command}/`], { cwd: dir });
    assert.match(refused.stderr, /in\/s\.svg: expected pixels, found what may be SVG, .* --svg/);
    const plain = await ctokEnds(0, [command, "in", "--out", `${command}-plain`, "--json"], { cwd: dir });
    assert.deepEqual(files(plain.stdout), [["in/p.png", true]]);
    const drawn = await ctokEnds(0, [command, "in", "--svg", "--out", `${command}-svg`, "--json"], { cwd: dir });
    assert.deepEqual(files(drawn.stdout), [["in/p.png", true], ["in/s.svg", true]]);
  }
});

test("a converted model gives the same tokens", async () => {
  const dir = await folder("convert"), path = await picture(join(dir, "p.png"));
  await ctokEnds(0, ["convert", "nano-DI8x8", "--out", "copy.safetensors", "--name", "Copy-DI8x8"], { cwd: dir });
  const [info] = lines((await ctokEnds(0, ["info", "copy.safetensors", "--json"], { cwd: dir })).stdout);
  assert.equal(info.source, join(dir, "copy.safetensors"));
  assert.match((await readFile(join(dir, "copy.safetensors"))).toString("latin1", 8, 200), /"ctok\.name":"Copy-DI8x8"/);
  await ctokEnds(0, ["encode", path, "--model", "copy.safetensors", "--out", "t.safetensors"], { cwd: dir });
  assert.deepEqual((await loadTokens(join(dir, "t.safetensors"))).indices.data, (await tokenize(path)).indices.data);
  assert.match(
    (await ctokEnds(3, ["convert", "/gone", "--out", "x"], { cwd: dir })).stderr,
    /^ctok: .*expected .*"\/gone"/,
  );
  assert.deepEqual((await readdir(dir)).sort(), ["copy.safetensors", "p.png", "t.safetensors"]);
});

test(
  "folders of .jit files are converted, many at once",
  { skip: existsSync(fixtures) ? false : "no ../shared/fixtures" },
  async () => {
    const dir = await folder("jit"), path = await picture(join(dir, "p.png"));
    const names = ["Cosmos-Tokenizer-DI8x8", "Cosmos-Tokenizer-CI16x16"];
    await ctokEnds(0, ["convert", ...names.map((name) => join(fixtures, name)), "--out", dir]);
    for (const name of names) {
      for (const [model, out] of [[join(fixtures, name), "a.npy"], [`${name}.safetensors`, "b.npy"]] as const) {
        await ctokEnds(0, ["encode", path, "--model", model, "--out", out, "--overwrite"], { cwd: dir });
      }
      assert.deepEqual(await readFile(join(dir, "b.npy")), await readFile(join(dir, "a.npy")));
    }
  },
);

// ------------------------------------------------------- nothing half-written; kill -9 and full disks are in faults/
for (const [signal, code] of [["SIGINT", 130], ["SIGTERM", 143], ["SIGHUP", 129]] as const) {
  test(`${signal} ends with ${code}, keeps what was finished, and leaves no part of the rest`, {
    ...slow,
    skip: signal === "SIGHUP" && noHangup,
  }, async () => {
    const dir = await folder("interrupt"), names = Array.from({ length: 99 }, (_, n) => `${100 + n}.png`);
    const first = await picture(join(dir, names[0]!), 256, 256);
    for (const name of names.slice(1)) await copyFile(first, join(dir, name));
    const { stdout, stderr } = await ctokEnds(code, ["autoencode", ...names, "--out", "out"], {
      cwd: dir,
      onOutput: (interrupt) => interrupt(signal), // at the line that says that the first is done
    });
    assert.equal(stderr, "ctok: interrupted\n");
    const done = stdout.split("\n").filter(Boolean).map((line) => /-> out\/(\d+\.png): /.exec(line)![1]!);
    assert.ok(done.length >= 1 && done.length < names.length, `${done.length} were done`);
    assert.deepEqual((await readdir(join(dir, "out"))).sort(), done);
  });
}

const resets = process.versions.bun || process.versions.deno
  ? false
  : "Node gives every signal its default when it starts";
test("nohup lets it work on when the terminal goes", { ...slow, skip: resets }, async () => {
  const dir = await folder("nohup"), names = ["a.png", "b.png", "c.png"];
  for (const name of names) await picture(join(dir, name), 256, 256);
  await ctokEnds(0, ["autoencode", ...names, "--out", "out"], {
    cwd: dir,
    shell: `trap "" HUP; exec "$@"`,
    onOutput: (interrupt) => interrupt("SIGHUP"), // at the line that says that the first is done
  });
  assert.deepEqual((await readdir(join(dir, "out"))).sort(), names);
});

test("a reader that leaves early does not end the work", async () => {
  const dir = await folder("pipe");
  for (const name of ["a.png", "b.png"]) await picture(join(dir, name));
  const shell = `"$@" | true`;
  const { stderr } = await ctokEnds(0, ["encode", "a.png", "b.png", "--out", "out"], { cwd: dir, shell });
  assert.doesNotMatch(stderr, /EPIPE/);
  assert.deepEqual((await readdir(join(dir, "out"))).sort(), ["a.safetensors", "b.safetensors"]);
});

test("indices of PyTorch and NumPy, with --model; without it they are told what is missing", async () => {
  const dir = await folder("python"), names = ["i64.npy", "st_i64.safetensors", "st_i32.safetensors"];
  const files = names.map((name) => join(top, "tests/fixtures/python", name));
  await ctokEnds(0, ["decode", ...files, "--model", "nano-DI8x8", "--out", "out"], { cwd: dir });
  const [npy, int64, int32] = await Promise.all(
    ["i64", "st_i64", "st_i32"].map((name) => readFile(join(dir, `out/${name}.png`))),
  );
  assert.deepEqual(npy, int32);
  assert.deepEqual(int64, int32);
  const { shape } = await readImage(join(dir, "out/i64.png"));
  assert.deepEqual(shape.slice(-3), [80, 128, 3]);
  const { stderr } = await ctokEnds(1, ["decode", ...files, "--out", "none"], { cwd: dir });
  for (const name of names) assert.match(stderr, new RegExp(`${name}: .*; say which: --model`));
});
