/**
 * A corpus as users make it, from inputs to shards that are read back: every format, every kind of input, pictures and
 * videos. The tokens are those that `encode` gives.
 */
import assert from "node:assert/strict";
import { copyFileSync, mkdirSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { test } from "node:test";
import { type DatasetStatus, datasetStatus, planDataset, runDataset, shardFormats, tokenize, Tokenizer } from "mod.ts";
import type { Sample } from "../../src/corpus/item.ts";
import { Plan } from "../../src/corpus/plan.ts";
import { openStorage } from "../../src/corpus/openstorage.ts";
import { findFfmpeg } from "../../src/media/ffmpeg.ts";
import { root, withFolder } from "../support.ts";
import { contentOf } from "./support.ts";

const media = join(root, "examples/media");
const noFfmpeg = await findFfmpeg().then(
  () => false as const,
  () => "no FFmpeg: none in CTOK_FFMPEG, PATH, or the npm package",
);

type Options = Omit<Parameters<typeof planDataset>[0], "inputs" | "out">;

/** Plans, runs, and reads all samples back. */
async function made(
  inputs: readonly string[],
  out: string,
  options: Options,
): Promise<{ status: DatasetStatus; samples: Sample[] }> {
  await planDataset({ inputs, out, ...options });
  const status = await runDataset(out), plan = await Plan.open(out), storage = openStorage(out), samples: Sample[] = [];
  const format = shardFormats.get(plan.header.shardFormat)!;
  for (let i = 0; i < plan.numShards; i++) {
    for await (const one of format.read(out, await storage.entry(plan.stemOf(i)), plan.facts)) samples.push(one);
  }
  assert.ok(status.isComplete);
  assert.equal(samples.length, status.committed.numSamples);
  return { status, samples };
}

function photos(folder: string): string {
  const path = join(folder, "photos");
  mkdirSync(join(path, "sub.d"), { recursive: true });
  copyFileSync(join(media, "cat.png"), join(path, "cat.v2.png"));
  copyFileSync(join(media, "coffee.jpg"), join(path, "sub.d/coffee.jpg"));
  writeFileSync(join(path, "cat.v2.txt"), "a cat");
  writeFileSync(join(path, "broken.jpg"), "no picture");
  return path;
}

/** 1x and npy take one size alone, and 1x a video model. */
const ofPictures = [...shardFormats.keys()].filter((name) => name !== "1x");

for (const format of ofPictures) {
  test(`${format}: pictures there and back, twice the same bytes`, () =>
    withFolder(async (folder) => {
      const inputs = [photos(folder)], [out, again] = [join(folder, "out"), join(folder, "again")];
      const options = { format, shardSize: 2, ...(format === "npy" && { size: 64 }) };
      const { status, samples } = await made(inputs, out, options);
      assert.deepEqual(status.quarantined.map(({ key, code }) => [key, code]), [["broken", "IMAGE"]]);
      assert.deepEqual(samples.map(({ facts }) => facts.fileName).sort(), ["cat.v2.png", "coffee.jpg"]);
      const cat = samples.find(({ facts }) => facts.fileName === "cat.v2.png")!;
      if (format !== "npy") {
        const { indices, origin } = await tokenize(join(media, "cat.png"));
        assert.deepEqual([...cat.tokens.indices.data], [...indices.data]);
        assert.deepEqual([cat.tokens.origin.height, cat.tokens.origin.width], [origin.height, origin.width]);
      }
      await made(inputs, again, { ...options, onEvent: () => {} });
      assert.deepEqual(contentOf(again), contentOf(out));
    }));
}

test("captions go along", () =>
  withFolder(async (folder) => {
    const source = photos(folder), { samples } = await made([source], join(folder, "out"), {});
    const cat = samples.find(({ facts }) => facts.fileName === "cat.v2.png")!;
    const caption = cat.sidecars.find(({ field }) => field === "txt");
    assert.equal(new TextDecoder().decode(caption?.bytes), "a cat");
  }));

test("looks: crops and mirrored ones are samples of their own", () =>
  withFolder(async (folder) => {
    const options = { size: 64, crop: "random:3", crops: 2, flip: true } as const;
    const { samples } = await made([join(media, "cat.png")], join(folder, "out"), options);
    assert.equal(new Set(samples.map(({ key }) => key)).size, 4);
    for (const { tokens } of samples) assert.deepEqual(tokens.indices.shape, [1, 8, 8]);
  }));

test("videos: clips, whole, and one seamless sequence", { skip: noFfmpeg }, async () => {
  await withFolder(async (folder) => {
    const cars = join(media, "cars.mp4"), options = { model: "nano-DV4x8x8", size: 32, frames: 36 };
    const clips = await made([cars], join(folder, "clips"), { ...options, clipFrames: 17, shardSize: 1 });
    assert.deepEqual(clips.samples.map(({ facts }) => facts.firstFrame), [0, 17]);
    for (const { tokens, facts } of clips.samples) {
      assert.deepEqual(tokens.indices.shape, [1, 5, 4, 4]);
      assert.deepEqual([facts.numFrames, tokens.origin.video!.frames, tokens.origin.video!.fps], [17, 17, facts.fps]);
    }
    const whole = await made([cars], join(folder, "whole"), options);
    const stream = await made([cars], join(folder, "stream"), { ...options, stream: true });
    assert.deepEqual([...whole.samples, ...stream.samples].map(({ facts }) => facts.numFrames), [36, 36]);
    // A first window is a clip; of a seamless sequence, only its first frames are known to be equal.
    assert.deepEqual(whole.samples[0]!.tokens.indices.data.slice(0, 80), clips.samples[0]!.tokens.indices.data);
    assert.deepEqual(stream.samples[0]!.tokens.indices.shape, [1, 10, 4, 4]);
  });
});

test("equal pictures have equal tokens, wherever they stand", () =>
  withFolder(async (folder) => {
    const input = join(folder, "in");
    mkdirSync(input);
    for (let i = 0; i < 6; i++) {
      copyFileSync(join(media, i % 2 ? "cat.png" : "coffee.jpg"), join(input, `${i}.${i % 2 ? "png" : "jpg"}`));
    }
    const { samples } = await made([input], join(folder, "out"), { size: 96 });
    await using tok = await Tokenizer.open("nano-DI8x8");
    for (const { tokens } of samples) {
      assert.equal(tokens.origin.sha256, tok.info.sha256);
    }
    const texts = samples.map(({ tokens }) => tokens.indices.data.join());
    assert.deepEqual([texts[0], texts[1]], [texts[2], texts[3]]);
    assert.notEqual(texts[0], texts[1]);
    assert.equal((await datasetStatus(join(folder, "out"))).committed.numSamples, 6);
  }));
