/**
 * Pictures that the command line encodes together: those that are read when a job ends, of one size and in their order;
 * each with the tokens that it has alone, and each with its own failure.
 */
import assert from "node:assert/strict";
import { mkdtemp, rm, writeFile } from "node:fs/promises";
import { tmpdir } from "node:os";
import { basename, join } from "node:path";
import { after, test } from "node:test";
import { loadTokens, type Tensor, tokenize, Tokenizer, TokenizerError, writeImage } from "mod.ts";
import { PicturesAhead } from "../../cli/ahead.ts";
import type { InOut } from "../../cli/paths.ts";
import { noise } from "../corpus/support.ts";
import { rejects } from "../support.ts";
import { ctok, lines } from "./spawn.ts";

const root = await mkdtemp(join(tmpdir(), "ctok-cli-ahead-"));
after(() => rm(root, { recursive: true }));

const fileOf = (path: string): InOut => {
  return { file: path, path, kind: "picture", stem: path, isFound: false, out: path, target: path, isNamed: false };
};
/** Sides of the pictures; 0 is one that cannot be read. */
const sides = [16, 16, 16, 0, 16, 32, 32, 16, 16, 16];
const pictureOf = (i: number, all = sides) => noise(all[i]!, 16, i);

interface Given {
  sides?: readonly number[];
  batchFails?: boolean;
  isPicture?: boolean;
  /** Places of files that fail before they come to be encoded. */
  passed?: readonly number[];
  /** Why a picture cannot be read ahead, though it can when its turn comes. */
  notAhead?: (i: number) => TokenizerError | undefined;
}

/**
 * Encodes all; gives the batches of the jobs, of each picture whether its tokens are its own, or its error, and how
 * often each was read.
 */
async function encodeAll(tokenizer: Tokenizer, given: Given = {}) {
  const { batchFails = false, isPicture = true, passed = [], notAhead } = given, all = [...given.sides ?? sides];
  const jobs: number[] = [], ends: (boolean | string)[] = [], reads = all.map(() => 0);
  const files = all.map((_, i) => fileOf(String(i)));
  const encode = async (input: Tensor | readonly Tensor[]) => {
    jobs.push(Array.isArray(input) ? input.length : 1);
    await new Promise((resolve) => setTimeout(resolve)); // what is read ahead at once is read
    if (batchFails && Array.isArray(input)) throw new TokenizerError("MEMORY", "too many at once");
    return await tokenizer.encode(input as Tensor<"uint8">);
  };
  const read = (path: string, limitPixels?: number) => {
    const i = Number(path);
    reads[i]!++;
    const failure = all[i] === 0
      ? new TokenizerError("IMAGE", `${i}: no picture`)
      : limitPixels === undefined
      ? undefined
      : notAhead?.(i);
    return failure ? Promise.reject(failure) : Promise.resolve(pictureOf(i, all));
  };
  const ahead = new PicturesAhead(files, () => isPicture, read);
  for (const [i, io] of files.entries()) {
    if (passed.includes(i)) continue;
    try {
      const { tokens } = await ahead.encode(io, { encode } as unknown as Tokenizer, {});
      ends.push(tokens.indices.data.join() === (await tokenizer.encode(pictureOf(i, all))).indices.data.join());
    } catch (error) {
      ends.push((error as TokenizerError).message);
    }
  }
  return { jobs, ends, reads };
}

const wanted = sides.map((side, i) => side === 0 ? `${i}: no picture` : true);
const alike = (count: number) => new Array<number>(count).fill(16);

test("what is ready goes into one job: of one size, up to one that cannot be read", async () => {
  await using tokenizer = await Tokenizer.open("nano-DI8x8", { half: "encoder" });
  const { jobs, ends, reads } = await encodeAll(tokenizer);
  assert.deepEqual(ends, wanted);
  assert.deepEqual(reads, sides.map(() => 1));
  // The first has nobody behind it that is read; reading stops at what fails, and goes on when that has had its turn.
  assert.deepEqual(jobs, [1, 2, 1, 2, 3]);
});

test("a job of several that fails is none's: each is tried alone, and all from then on", async () => {
  await using tokenizer = await Tokenizer.open("nano-DI8x8", { half: "encoder" });
  const { jobs, ends, reads } = await encodeAll(tokenizer, { batchFails: true });
  assert.deepEqual(ends, wanted);
  assert.deepEqual(reads, sides.map(() => 1));
  assert.deepEqual(jobs, [1, 2, ...new Array(8).fill(1)]);
});

test("while a job runs a whole job is read", async () => {
  await using tokenizer = await Tokenizer.open("nano-DI8x8", { half: "encoder" });
  const { jobs, ends, reads } = await encodeAll(tokenizer, { sides: alike(60) });
  assert.deepEqual(ends, alike(60).map(() => true));
  assert.deepEqual(jobs, [1, 16, 16, 16, 11]);
  assert.deepEqual(reads, alike(60).map(() => 1));
});

test("what failed before it came to be encoded keeps no room", async () => {
  await using tokenizer = await Tokenizer.open("nano-DI8x8", { half: "encoder" });
  const passed = Array.from({ length: 19 }, (_, i) => i + 1);
  const { jobs, ends } = await encodeAll(tokenizer, { sides: alike(40), passed });
  assert.deepEqual(ends, alike(21).map(() => true));
  assert.deepEqual(jobs, [1, 1, 16, 3]);
});

test("a picture is read again only where it may have failed for being read ahead", async () => {
  await using tokenizer = await Tokenizer.open("nano-DI8x8", { half: "encoder" });
  const failures = [
    { failure: new TokenizerError("IMAGE", "too large", { detail: 1 << 22 }), end: true },
    { failure: new TokenizerError("MEMORY", "none now"), end: true },
    { failure: new TokenizerError("IMAGE", "too large for --limit-pixels", { detail: 100 }) },
    { failure: new TokenizerError("IMAGE", "more than 2 seconds (limitSeconds)") },
  ];
  for (const { failure, end = failure.message } of failures) {
    const notAhead = (i: number) => i === 2 ? failure : undefined;
    const { ends, reads } = await encodeAll(tokenizer, { sides: alike(5), notAhead });
    assert.deepEqual(ends, [true, true, end, true, true]);
    assert.deepEqual(reads, [1, 1, end === true ? 2 : 1, 1, 1], failure.message);
  }
});

test("nothing is read ahead of what the model does not take", async () => {
  await using tokenizer = await Tokenizer.open("nano-DI8x8", { half: "encoder" });
  const { jobs, ends } = await encodeAll(tokenizer, { isPicture: false });
  assert.deepEqual(ends, wanted);
  assert.deepEqual(jobs, new Array(9).fill(1));
});

test("tokens of a batch are those of its pictures", async () => {
  const all = await tokenize([pictureOf(0), pictureOf(1)]);
  for (const i of [0, 1]) {
    const one = all.at(i), alone = await tokenize(pictureOf(i));
    assert.deepEqual(one.parts, alone.parts);
    assert.deepEqual(one.indices.shape, alone.indices.shape);
    assert.deepEqual(one.indices.data, alone.indices.data);
    assert.deepEqual(one.codes.data, alone.codes.data);
    assert.deepEqual(one.origin, all.origin);
  }
  await rejects(() => Promise.resolve().then(() => all.at(2)), "ARGUMENT", /from 0 to 1/);
});

test("ctok encode: many pictures, one of them damaged, in their order and as each alone", async () => {
  const names: string[] = [];
  for (const [i, side] of sides.entries()) {
    const path = join(root, `${i}.png`);
    if (side === 0) await writeFile(path, "\x89PNG\r\n\x1a\n and no more");
    else await writeImage(path, pictureOf(i));
    names.push(path);
  }
  const { code, stdout } = await ctok(["encode", ...names, "-o", join(root, "out"), "--json"]);
  assert.equal(code, 1);
  const told = lines(stdout);
  assert.deepEqual(told.map(({ file }) => file), names);
  for (const [i, { ok, out, code }] of told.entries()) {
    assert.equal(ok, sides[i] !== 0, basename(names[i]!));
    if (!ok) assert.equal(code, "IMAGE");
    else assert.deepEqual((await loadTokens(out)).indices.data, (await tokenize(pictureOf(i))).indices.data);
  }
});
