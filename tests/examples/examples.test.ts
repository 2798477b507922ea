/**
 * Every numbered example runs as it stands, in a folder that looks like the repository's root, and what it printed and
 * wrote is what the library gives. The programs in C and Python run once, beside Bun's.
 */
import assert from "node:assert/strict";
import { copyFile, mkdir, readdir, readFile, writeFile } from "node:fs/promises";
import { join } from "node:path";
import { after, test } from "node:test";
import {
  defaultVideoModel,
  detokenize,
  framesOf,
  joinTokens,
  loadTokens,
  psnr,
  readImage,
  ssim,
  Tensor,
  tokenize,
  Tokenizer,
  type TokenPart,
} from "mod.ts";
import { root, runtime } from "../support.ts";
import { makeWorkplace, noPython, python, runs, runsScript } from "../workplace.ts";

const { folder, remove } = await makeWorkplace("examples");
after(remove);
const media = (name: string) => join(root, "examples/media", name);
const out = (...names: string[]) => join(folder, "out", ...names);
const example = async (name: string, ...args: string[]) =>
  (await runsScript(folder, `examples/${name}.ts`, args)).stdout;
const onlyBun = runtime === "bun" ? false : "runs once, beside Bun's tests";
const skips = { "09_c_api.c": onlyBun, "10_ctypes.py": onlyBun || noPython };

/** Columns `from` to `to` of a picture [1, H, W, 3]. */
function columnsOf({ data, shape }: Tensor<"uint8">, from: number, to: number): Tensor<"uint8"> {
  const [, height = 0, width = 0] = shape, row = (to - from) * 3;
  const cut = new Uint8Array(height * row);
  for (let y = 0; y < height; y++) cut.set(data.subarray((y * width + from) * 3, (y * width + to) * 3), y * row);
  return new Tensor("uint8", [1, height, to - from, 3], cut);
}

test("each example is tested here and listed in examples/README.md and in the README", async () => {
  const names = (await readdir(join(root, "examples"))).filter((name) => /^\d\d_/.test(name)).sort();
  assert.deepEqual(
    names.map((name) => name.slice(0, 2)),
    Array.from({ length: 10 }, (_, i) => `${i + 1}`.padStart(2, "0")),
  );
  const [list, readme, here] = await Promise.all(
    ["examples/README.md", "README.md", "tests/examples/examples.test.ts"].map((f) => readFile(join(root, f), "utf8")),
  ) as [string, string, string];
  for (const name of names) {
    assert.match(list, new RegExp(`^- \\[${name}\\]\\(${name}\\): `, "m"));
    assert.ok(readme.includes(`examples/${name})`), `README.md lacks ${name}`);
    assert.ok(here.includes(name.replace(/\.ts$/, "")), `no test of ${name}`);
  }
});

test("01_photo", async () => {
  const stdout = await example("01_photo");
  const want = await tokenize(media("astronaut.png"));
  assert.match(stdout, /512x512 pixels -> 64x64 tokens of nano-DI8x8/);
  assert.match(stdout, new RegExp(`^the first eight: ${want.indices.data.subarray(0, 8).join(" ")}$`, "m"));
  assert.deepEqual((await loadTokens(out("01_photo/photo.safetensors"))).indices.data, want.indices.data);
  assert.deepEqual((await readImage(out("01_photo/again.png"))).data, (await detokenize(want)).data);
  assert.deepEqual((await readImage(out("01_photo/token_map.png"))).shape, [1, 512, 512, 3]);
});

test("02_folder", async () => {
  assert.match(await example("02_folder"), /^3 of 3 {2}coffee\.jpg: \[1,50,76\]\n3 done, 0 failed: 10100 tokens/m);
  assert.deepEqual(
    (await readdir(out("02_folder"))).sort(),
    ["astronaut", "cat", "coffee"].map((n) => `${n}.safetensors`),
  );
  const { indices } = await loadTokens(out("02_folder/cat.safetensors"));
  assert.deepEqual(indices.data, (await tokenize(media("cat.png"))).indices.data);

  const mixed = join(folder, "mixed");
  await mkdir(mixed);
  await copyFile(media("cat.png"), join(mixed, "good.png"));
  await writeFile(join(mixed, "bad.png"), "no picture");
  const stdout = await example("02_folder", mixed);
  assert.match(
    stdout,
    /^1 of 2 {2}.*bad\.png: expected an image .*\n2 of 2 {2}good\.png: \[1,38,58\]\n1 done, 1 failed: 2204 /,
  );
});

test("03_round_trip", async () => {
  const rows = (await example("03_round_trip")).split("\n").filter((line) => /^\w+\.(png|jpg) /.test(line));
  assert.equal(rows.length, 3);
  for (const row of rows) {
    const [name, size, grid, bits, distinct, entropy, db, similarity] = row.split(/ +/) as string[];
    const [width] = size!.split("x").map(Number) as [number, number];
    const pair = await readImage(out("03_round_trip", `${name!.split(".")[0]}.png`));
    const original = columnsOf(pair, 0, width), again = columnsOf(pair, width + 8, 2 * width + 8);
    assert.deepEqual(original.data, (await readImage(media(name!))).data);
    assert.equal(db, psnr(original, again).toFixed(2));
    assert.equal(similarity, ssim(original, again).toFixed(4));
    const tokens = grid!.split("x").reduce((product, n) => product * Number(n), 1);
    assert.equal(bits, (tokens * Math.log2(64000) / (original.data.length / 3)).toFixed(3));
    assert.ok(Number(distinct) > 500 && Number(entropy) < Math.log2(Number(distinct)), row);
  }
});

test("04_stream", async () => {
  const stdout = await example("04_stream");
  assert.match(stdout, /^frames 0 to 8 -> tokens \[1,3,54,96\]\nframes 9 to 16 -> tokens \[1,2,54,96\]$/m);
  const again = await framesOf(out("04_stream/again.mp4"));
  let count = 0;
  for await (const frame of again.frames) assert.deepEqual(frame.shape, [432, 768, 3]), count++;
  assert.deepEqual([count, again.fps], [17, "25/2"]);

  // The same tokens from one chunk of all frames.
  await using tokenizer = await Tokenizer.open(defaultVideoModel);
  const { frames } = await framesOf(media("cars.mp4"), { frames: 17 });
  const parts: TokenPart[] = [];
  for await (const part of tokenizer.encodeStream(frames, { chunkFrames: 16 })) parts.push(part);
  const { indices, origin } = await loadTokens(out("04_stream/clip.safetensors"));
  assert.equal(parts.length, 1);
  assert.deepEqual(indices.data, joinTokens(parts).indices.data);
  assert.deepEqual(origin.video, { temporalFactor: 4, frames: 17, fps: "25/2" });
});

test("05_cancel", async () => {
  const stdout = await example("05_cancel");
  const [, done, stopped] = /^(\d+) done, (\d+) stopped within [\d.]+ ms/.exec(stdout)!.map(Number);
  assert.ok(done! >= 2 && stopped! >= 1 && done! + stopped! === 12, stdout);
  assert.match(stdout, /^AbortError CANCELLED: .* \(two are enough\)\na limit of 1 ms: CANCELLED \(TimeoutError\)$/m);
  assert.match(stdout, /goes on: \[1,64,64\] tokens/);
});

test("06_batch", async () => {
  const stdout = await example("06_batch");
  assert.match(stdout, /^3 pictures -> indices \[3,32,32\], codes \[3,6,32,32\]$/m);
  assert.equal(stdout.match(/: the same tokens alone$/gm)?.length, 3, stdout);
  const { indices, origin } = await loadTokens(out("06_batch/batch.safetensors"));
  assert.deepEqual([indices.shape, origin.height], [[3, 32, 32], 256]);
  assert.deepEqual((await readImage(out("06_batch/batch.png"))).shape, [1, 2 * 256 + 8, 3 * 256 + 16, 3]);
});

test("07_interpolate", async () => {
  const shared = [...(await example("07_interpolate")).matchAll(/^t = .*: (\d+) tokens .* (\d+) of/gm)].map((
    [, a, b],
  ) => [+a!, +b!]);
  assert.deepEqual([shared.length, shared[0]![0], shared[4]![1]], [5, 1024, 1024]);
  for (const [i, [ofFirst, ofSecond]] of shared.slice(1).entries()) {
    assert.ok(ofFirst! <= shared[i]![0]! && ofSecond! >= shared[i]![1]!, `step ${i + 1}: ${shared}`);
  }
  assert.ok(shared[2]![0]! < 1024 && shared[2]![1]! < 1024, "the middle is neither photo");
  const sheet = await readImage(out("07_interpolate/steps.png"));
  assert.deepEqual(sheet.shape, [1, 256, 5 * 256 + 4 * 8, 3]);
  // The ends are the round trips of the photos' corners.
  const corner = (name: string) =>
    readImage(media(name)).then((photo) => columnsOf(photo, 0, 256).data.subarray(0, 256 * 256 * 3));
  for (const [name, at] of [["astronaut.png", 0], ["cat.png", 4 * 264]] as const) {
    const db = psnr(new Tensor("uint8", [1, 256, 256, 3], await corner(name)), columnsOf(sheet, at, at + 256));
    assert.ok(db > 20, `${name}: PSNR ${db}`);
  }
});

test("08_edit", async () => {
  const stdout = await example("08_edit");
  const [, inside, near, far] = /: ([\d.]+) inside, ([\d.]+) within 4 tokens, ([\d.]+) elsewhere/.exec(stdout)!.map(
    Number,
  );
  assert.ok(inside! > 3 * near! && near! > far!, stdout);
  assert.match(stdout, /\[1,50,76\] tokens, 4\d\d changed/);
  const { data } = await detokenize(await tokenize(media("coffee.jpg")));
  assert.deepEqual(columnsOf(await readImage(out("08_edit/edited.png")), 0, 600).data, data);
});

// ---------------------------------------------------------------- the C interface
/** What the TypeScript library makes of cat.ppm. */
async function wantedOfPpm(): Promise<{ tokens: string; again: Uint8Array }> {
  const bytes = new Uint8Array(await readFile(media("cat.ppm")));
  const tokens = await tokenize(new Tensor("uint8", [1, 150, 225, 3], bytes.slice(-150 * 225 * 3)));
  return { tokens: tokens.indices.data.subarray(0, 8).join(" "), again: (await detokenize(tokens)).data };
}

for (const [name, skip] of Object.entries(skips)) {
  test(name, { skip }, async () => {
    const source = await readFile(join(root, "examples", name), "utf8");
    const run = name.endsWith(".c")
      ? `${
        /Build: ([^]*?)\n \* Run/.exec(source)![1]!.replace(/\\\n \* +/g, "").replace("-Wall", "-Wall -Wextra -Werror")
      } && out/09_c_api`
      : /Run: (python3 \S+)/.exec(source)![1]!;
    const { stdout, stderr } = await runs(folder, "sh", ["-c", run]);
    const want = await wantedOfPpm();
    assert.match(stdout, /225x150 pixels, padded to 240x160\ntokens \[1, 20, 30\]: (.*) \.\.$/m);
    assert.ok(stdout.includes(`: ${want.tokens} ..`), `${want.tokens}\n${stdout}`);
    assert.match(stdout, /CTOK_E_VALUE.*indices\[0, 0, 5\]: expected 0 to 63999, found 64000/);
    assert.match(stdout, /detail 5/);
    assert.equal(stderr, "");
    const ppm = new Uint8Array(await readFile(out(`${name.slice(0, 2)}_cat_again.ppm`)));
    assert.equal(new TextDecoder().decode(ppm.subarray(0, 15)), "P6\n225 150\n255\n");
    assert.deepEqual(ppm.subarray(15), want.again);
  });
}

test("the C program tells of wrong input", { skip: onlyBun }, async () => {
  await writeFile(join(folder, "cut.ppm"), "P6\n225 150\n255\nshort");
  for (const name of ["cut.ppm", "gone.ppm", "examples/media/cat.png"]) {
    await assert.rejects(() => runs(folder, "out/09_c_api", [name]), new RegExp(`${name}: expected `));
  }
});

test("the Python program tells of wrong input", { skip: onlyBun || noPython }, async () => {
  const args = ["examples/10_ctypes.py", "examples/media/cat.png"];
  await assert.rejects(() => runs(folder, python, args), /cat\.png: expected a binary PPM/);
});
