/**
 * ctok dataset verify, stats, head and cat on a small corpus: what they say, in words and as JSON, and their exit
 * codes.
 */
import { Buffer } from "node:buffer";
import assert from "node:assert/strict";
import { mkdtemp, readFile, rm, writeFile } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { after, test } from "node:test";
import { loadTokens, planDataset, runDataset, writeImage } from "mod.ts";
import { noise } from "../corpus/support.ts";
import { ctokEnds, lines } from "./spawn.ts";

const place = await mkdtemp(join(tmpdir(), "ctok-read-")), corpus = join(place, "corpus");
after(() => rm(place, { recursive: true }));
for (let i = 0; i < 3; i++) await writeImage(join(place, `photo-${i}.png`), noise(16, 32, i));
await writeFile(join(place, "photo-1.txt"), "a photo");
await planDataset({ inputs: [place], out: corpus, shardSize: 2 });
await runDataset(corpus);
const run = (code: number, ...args: string[]) => ctokEnds(code, ["dataset", ...args], { cwd: place });

test("verify: every shard, the quality of what was decoded, and the whole; a problem ends with 1", async () => {
  const { stdout } = await run(0, "verify", "corpus", "--samples", "2");
  const [first, second, whole] = stdout.trim().split("\n");
  assert.match(first!, /^shard 00000: ok, 2 samples, [\d.]+ kB; photo-0 [\d.]+ dB; photo-1 [\d.]+ dB$/);
  assert.match(second!, /^shard 00001: ok, 1 sample, [\d.]+ kB; photo-2 [\d.]+ dB$/);
  assert.match(
    whole!,
    /^corpus: as it was written, 2 shards, 3 samples, 24 tokens, [\d.]+ kB, [\d.]+ dB over 3 decoded$/,
  );
  const [, , done] = lines((await run(0, "verify", "corpus", "--json", "--samples=0")).stdout);
  const { bytes, ...told } = done as Record<string, unknown>;
  assert.ok(Number(bytes) > 0);
  const counts = { numShards: 2, numMissing: 0, numSamples: 3, numTokens: 24, problems: [] };
  assert.deepEqual(told, { event: "done", out: "corpus", ok: true, ...counts });

  const tar = join(corpus, "00001.tar"), bytesOfTar = await readFile(tar), changed = Uint8Array.from(bytesOfTar);
  changed[700]! ^= 1;
  await writeFile(tar, changed);
  const split = join(corpus, ".nv-meta/split.yaml"), text = await readFile(split);
  await writeFile(split, "split_parts: {}\n");
  const bad = await run(1, "verify", "corpus", "--samples", "0");
  assert.match(bad.stderr, /^ctok: 00001\.tar: expected sha256 [0-9a-f]{64}, found [0-9a-f]{64}$/m);
  assert.match(bad.stderr, /^ctok: \.nv-meta\/split\.yaml: expected \d+ bytes, found 16$/m);
  assert.match(bad.stdout, /^corpus: \d problems, 2 shards/m);
  await writeFile(tar, bytesOfTar);
  await writeFile(split, text);
  await run(0, "verify", "corpus", "--samples", "0");
});

test("stats: sizes, use of the codebook and the digits of its levels", async () => {
  const { stdout } = await run(0, "stats", "corpus");
  assert.match(
    stdout,
    /^corpus: 2 shards, 3 samples, 24 tokens\nsize {2}32x16: 3 samples\ncodes {2}\d+ of 64000 used \(0\.0%\)\n/,
  );
  assert.equal(stdout.match(/^level \d {2}([\d.]+% ?){5,8}$/gm)!.length, 6);
  const [told] = lines((await run(0, "stats", "corpus", "--json")).stdout) as [{ codebook: { entropyBits: number } }];
  assert.match(stdout, new RegExp(`^entropy {2}${told.codebook.entropyBits.toFixed(3)} of 15\\.966 bits a token`, "m"));
});

test("head: the first samples, as many as asked for", async () => {
  const { stdout } = await run(0, "head", "corpus", "--samples", "2");
  const told = [
    "photo-0: indices [2, 4], 32x16 pixels, photo-0.png",
    "photo-1: indices [2, 4], 32x16 pixels, photo-1.png, with txt",
  ];
  assert.deepEqual(stdout.trim().split("\n"), told);
  assert.equal(lines((await run(0, "head", "corpus", "--json")).stdout).length, 3);
  assert.equal((await run(0, "head", "corpus", "--samples", "0")).stdout, "");
});

test("cat: samples with their tokens as JSON, and one as a token file that decode takes", async () => {
  const all = lines((await run(0, "cat", "corpus")).stdout) as Record<string, unknown>[];
  assert.deepEqual(all.map(({ key }) => key), ["photo-0", "photo-1", "photo-2"]);
  const [one] = lines((await run(0, "cat", "corpus", "photo-1")).stdout) as Record<string, unknown>[];
  assert.deepEqual(one, all[1]);
  assert.deepEqual(one!.sidecars, { txt: { base64: Buffer.from("a photo").toString("base64") } });
  await run(0, "cat", "corpus", "photo-1", "-o", "one.npy");
  await run(0, "cat", "corpus", "photo-1", "-o", "one.safetensors");
  const tokens = await loadTokens(join(place, "one.safetensors"));
  assert.deepEqual([...tokens.indices.data], one!.tokens);
  assert.deepEqual(tokens.indices.shape, [1, ...one!.shape as number[]]);
  await ctokEnds(0, ["decode", "one.safetensors", "-o", "one.png"], { cwd: place });
  const piped = await run(0, "cat", "corpus", "photo-1", "-o", "-", "--format", "npy");
  assert.ok(piped.stdout.includes("NUMPY"));
});

test("wrong calls say what was expected", async () => {
  await writeFile(join(place, "mine.txt"), "mine");
  const wrong: [code: number, args: string[], said: RegExp][] = [
    [2, ["verify"], /expected one folder with a corpus, found 0/],
    [2, ["stats", "corpus", "corpus"], /found 2/],
    [2, ["stats", "corpus", "--samples", "3"], /--samples: expected an option of dataset stats, found one of another/],
    [2, ["cat", "corpus", "photo-1", "photo-2", "-o", "x.npy"], /--out: expected one key, found 2/],
    [2, ["cat", "corpus", "photo-1", "-o", "x.npy", "--format", "msgpack"], /expected the extension \.msgpack/],
    [2, ["cat", "corpus", "photo-1", "--format", "npy"], /--format: expected --out beside it/],
    [2, ["cat", "corpus", "photo-1", "-o", "mine.txt"], /mine\.txt: expected nothing there yet/],
    [2, ["photo-1.png", "-o", "other", "--samples", "3"], /--samples: expected an option of what plans and runs/],
    [1, ["cat", "corpus", "nobody"], /key: expected one of a committed shard, found "nobody"/],
    [1, ["verify", "nowhere"], /nowhere\/plan\.jsonl/],
  ];
  for (const [code, args, said] of wrong) assert.match((await run(code, ...args)).stderr, said, args.join(" "));
  assert.equal(await readFile(join(place, "mine.txt"), "utf8"), "mine");
});
