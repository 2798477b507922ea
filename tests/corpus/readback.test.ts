/** A corpus from pictures to shards and back by its folder alone, in every format: verified, counted, read, decoded. */
import assert from "node:assert/strict";
import { readdirSync, readFileSync, renameSync, rmSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { test } from "node:test";
import {
  datasetSample,
  datasetStats,
  planDataset,
  psnr,
  readDataset,
  runDataset,
  shardFormats,
  Tokenizer,
  verifyDataset,
  writeImage,
} from "mod.ts";
import { findFfmpeg } from "../../src/media/ffmpeg.ts";
import { carried, rejects, root, withFolder, withWeights } from "../support.ts";
import { noise } from "./support.ts";

const noFfmpeg = await findFfmpeg().then(() => false as const, () => "no ffmpeg");

/** Pictures with captions, and one file that is none. */
async function photos(folder: string, count: number): Promise<string> {
  for (let i = 0; i < count; i++) {
    await writeImage(join(folder, `photo-${i}.png`), noise(24, 40, i));
    writeFileSync(join(folder, `photo-${i}.txt`), `photo ${i}`);
  }
  writeFileSync(join(folder, "broken.png"), "no picture");
  return folder;
}

for (const { name, dtypes } of shardFormats.values()) {
  if (name === "1x") continue; // of video models of temporal factor 8, of which none is embedded
  test(
    `${name}: planned, run, verified with PSNR, counted, read and decoded`,
    { skip: dtypes.discrete.length === 0 },
    () =>
      withFolder(async (folder) => {
        const out = join(folder, "corpus"), inputs = [await photos(folder, 5)];
        await planDataset({ inputs, out, format: name, shardSize: 3, model: "nano-DI8x8" });
        const status = await runDataset(out);
        assert.ok(status.isComplete);
        assert.deepEqual(status.quarantined.map(({ key }) => key), ["broken"]);
        const stems: string[] = [];
        const found = await verifyDataset(out, { samples: 2, onShard: ({ stem }) => stems.push(stem) });
        assert.deepEqual({ ...found, bytes: 0, decoded: [] }, {
          ...{ numShards: 2, numMissing: 0, numSamples: 5, numTokens: 5 * 24, bytes: 0, problems: [], decoded: [] },
        });
        assert.deepEqual(stems, ["00000", "00001"]);
        assert.equal(found.decoded.length, 4);
        await using tokenizer = await Tokenizer.open("nano-DI8x8");
        const samples = await Array.fromAsync(readDataset(out));
        assert.deepEqual(samples.map(({ key }) => key), [0, 1, 2, 3, 4].map((i) => `photo-${i}`));
        for (const [i, { key, tokens, facts, sidecars }] of samples.entries()) {
          const picture = noise(24, 40, i), own = await tokenizer.encode(picture);
          assert.deepEqual(tokens.origin, own.origin, key); // all that decoding needs, and the arithmetic
          assert.deepEqual(tokens.indices.data, own.indices.data, key);
          assert.deepEqual([facts.fileName, facts.height, facts.width], [`${key}.png`, 24, 40]);
          assert.deepEqual(sidecars, [{ field: "txt", bytes: new TextEncoder().encode(`photo ${i}`) }]);
          const judged = found.decoded.find((one) => one.key === key);
          const pixels = await tokenizer.decode(own, { dtype: "uint8" });
          if (judged) assert.equal(judged.psnr, psnr(pixels, picture));
        }
        const stats = await datasetStats(out);
        assert.deepEqual(stats.sizes, [{ size: "40x24", count: 5 }]);
        assert.deepEqual([stats.numSamples, stats.numTokens, stats.codebook!.size], [5, 120, 64000]);
        assert.deepEqual((await datasetSample(out, "photo-4")).tokens.indices.data, samples[4]!.tokens.indices.data);
        await rejects(() => datasetSample(out, "broken"), "ARGUMENT", /quarantined/);
      }),
  );
}

test("latents: what is stored is what the encoder gave, rounded to the dtype, and decodes nearly as well", () =>
  withFolder(async (folder) => {
    const inputs = [await photos(folder, 2)], model = join(carried, "Cosmos-Tokenizer-CI8x8");
    await using tokenizer = await Tokenizer.open(model);
    for (
      const [format, dtype, bits] of [["webdataset-pth", "bf16", 8], ["safetensors", "f16", 11], [
        "parquet",
        "f32",
        24,
      ]] as const
    ) {
      const out = join(folder, format);
      await planDataset({ inputs, out, format, dtype, model, shardSize: 3 });
      await runDataset(out);
      const { problems, decoded } = await verifyDataset(out, { samples: 9 });
      assert.deepEqual(problems, [], format);
      for (const [i, { key, psnr: found }] of decoded.entries()) {
        const own = await tokenizer.encode(noise(24, 40, i)), { latent } = (await datasetSample(out, key)).tokens;
        for (const [at, value] of own.latent.data.entries()) {
          const off = Math.abs(latent.data[at]! - value);
          assert.ok(
            off <= Math.max(Math.abs(value), 2 ** -14) * 2 ** -bits,
            `${format} ${key}: ${latent.data[at]} for ${value}`,
          );
        }
        const wanted = psnr(await tokenizer.decode(own, { dtype: "uint8" }), noise(24, 40, i));
        assert.ok(Math.abs(found! - wanted) < 0.1, `${format} ${key}: ${found} dB, ${wanted} dB before rounding`);
      }
    }
  }));

test(
  "1x: clips of 17 frames of a model of temporal factor 8",
  { skip: noFfmpeg },
  () =>
    withFolder((folder) =>
      withWeights("DV8x8x8", "small", async (model) => {
        const out = join(folder, "corpus"), inputs = [join(root, "examples/media/cars.mp4")];
        await planDataset({ inputs, out, format: "1x", model, size: 16, clipFrames: 17, stride: 8, fps: 5 });
        assert.ok((await runDataset(out)).isComplete);
        const { problems, decoded, numSamples } = await verifyDataset(out, { samples: 1 });
        assert.deepEqual([problems, decoded.length], [[], 1]);
        assert.ok(numSamples > 1);
        assert.equal(JSON.parse(readFileSync(join(out, "metadata.json"), "utf8")).num_images, 17 * numSamples);
      })
    ),
);

test("verify goes on after a problem, tells what is not there yet, and needs no model where nothing is decoded", () =>
  withFolder(async (folder) => {
    const out = join(folder, "corpus"), inputs = [await photos(folder, 5)];
    await rejects(() => verifyDataset(out), "FILE_MISSING", /plan\.jsonl/);
    await planDataset({ inputs, out, format: "webdataset", shardSize: 2 });
    const planned = await verifyDataset(out);
    assert.deepEqual([planned.numShards, planned.numMissing, planned.problems], [0, 3, []]);
    await runDataset(out);
    const tar = join(out, "00001.tar"), bytes = readFileSync(tar);
    bytes[bytes.length >> 1]! ^= 1;
    writeFileSync(tar, bytes);
    rmSync(join(out, ".nv-meta/dataset.yaml"));
    rmSync(join(folder, "photo-0.png"));
    const { problems, decoded, numSamples } = await verifyDataset(out, { samples: 9 });
    assert.equal(numSamples, 5);
    assert.match(problems[0]!, /^00001\.tar: expected sha256 /);
    assert.match(problems.at(-1)!, /dataset\.yaml: expected a file/);
    const gone = decoded.find(({ key }) => key === "photo-0")!;
    assert.equal(gone.psnr, undefined);
    assert.match(gone.reason!, /photo-0\.png/);
    assert.ok(decoded.some(({ psnr }) => psnr !== undefined && psnr > 5));
    renameSync(join(out, "manifest/00002.json"), join(folder, "kept.json"));
    const without = await verifyDataset(out, { samples: 0 });
    assert.deepEqual([without.numShards, without.numMissing, without.decoded], [2, 1, []]);
    await rejects(() => verifyDataset(out, { samples: -1 }), "ARGUMENT", /options\.samples/);
    const other = join(folder, "other.safetensors"),
      weights = readFileSync(join(root, "models/nano/DI8x8.safetensors"));
    weights[weights.length - 2]! ^= 1;
    writeFileSync(other, weights);
    await rejects(() => verifyDataset(out, { model: other }), "ARGUMENT", /with the weights that were planned/);
    assert.ok(readdirSync(out).includes("plan.jsonl"));
  }));

test(
  "clips of a video come back as they were tokenised, at their rate",
  { skip: noFfmpeg },
  () =>
    withFolder(async (folder) => {
      const out = join(folder, "corpus"), inputs = [join(root, "examples/media/cars.mp4")];
      const options = { size: 32, crop: "center", clipFrames: 9, stride: 9, fps: 4 } as const;
      await planDataset({ inputs, out, format: "webdataset", model: "nano-DV4x8x8", window: 9, ...options });
      const { isComplete, quarantined } = await runDataset(out);
      assert.deepEqual([isComplete, quarantined], [true, []]);
      const { problems, decoded, numSamples } = await verifyDataset(out, { samples: 2 });
      assert.deepEqual(problems, []);
      assert.ok(numSamples > 1 && decoded.length > 0);
      for (const { key, psnr, reason } of decoded) assert.ok(psnr! > 10, `${key}: ${psnr} ${reason}`);
      for (const { tokens, facts } of await Array.fromAsync(readDataset(out))) {
        assert.deepEqual([facts.numFrames, facts.fps, tokens.origin.video!.fps], [9, "4/1", "4/1"]);
        assert.deepEqual(tokens.origin.video!.windows, [{ tokens: 3, frames: 9, before: 0 }]);
      }
      assert.match((await datasetStats(out)).sizes[0]!.size, /^32x32x9$/);
    }),
);

test(
  "a whole video as one seamless sequence comes back with its frames' times",
  { skip: noFfmpeg },
  () =>
    withFolder(async (folder) => {
      const out = join(folder, "corpus"), inputs = [join(root, "examples/media/cars.mp4")];
      const options = { size: 32, crop: "center", fps: 5, frames: 12, stream: true } as const;
      await planDataset({ inputs, out, format: "safetensors", model: "nano-DV4x8x8", ...options });
      const { quarantined } = await runDataset(out);
      assert.deepEqual(quarantined, []);
      const { problems, decoded: [one] } = await verifyDataset(out);
      assert.deepEqual(problems, []);
      assert.ok(one!.psnr! > 10, `${one!.psnr} ${one!.reason}`);
      const [{ tokens, facts } = await datasetSample(out, "none")] = await Array.fromAsync(readDataset(out));
      assert.equal(facts.numFrames, 12);
      assert.equal(tokens.origin.video!.windows, undefined);
      assert.equal(tokens.origin.video!.frames, 12);
    }),
);
