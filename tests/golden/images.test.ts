/**
 * Networks against answers computed in float64 (../shared/fixtures, see its README): pre-quantiser or latent, indices,
 * reconstruction, and the whole uint8 pipeline on awkward sizes. A few cases are carried by the repository.
 */
import assert from "node:assert/strict";
import { existsSync, readdirSync } from "node:fs";
import { join } from "node:path";
import { describe, test } from "node:test";
import { type TensorLike, Tokenizer } from "mod.ts";
import {
  carried,
  checkCase,
  countDifferent,
  hasShared,
  noShared,
  readTensors,
  relativeError,
  shared,
  withWeights,
} from "../support.ts";

const limit = 2e-5; // relative L2 in float32
const kernelSets = ["reference", "generic", "avx2", "avx512"] as const;

/** Encodes the pixels and decodes the stored tokens; every answer of the golden file is compared. */
async function checkGolden(
  label: string,
  model: string,
  goldenPath: string,
  kernels: (typeof kernelSets)[number] | "auto" = "auto",
) {
  const golden = readTensors(goldenPath);
  await using tok = await Tokenizer.open(model, { kernels });
  const isDiscrete = "indices" in golden;
  assert.equal(tok.info.isDiscrete, isDiscrete);
  const tokens = await tok.encode(golden.pixels as TensorLike<"uint8">, { preQuant: isDiscrete });
  checkCase(
    `${label} ${isDiscrete ? "pre_quant" : "latent"}`,
    relativeError(isDiscrete ? tokens.preQuant : tokens.latent, golden.pre_quant!),
    limit,
  );
  if (isDiscrete) {
    checkCase(`${label} indices (different)`, countDifferent(tokens.indices, golden.indices!), 0);
    checkCase(`${label} codes`, relativeError(tokens.codes, golden.codes!), 0);
  }
  const pixels = await tok.decode((isDiscrete ? golden.indices : golden.latent)!);
  checkCase(`${label} reconstruction`, relativeError(pixels, golden.reconstruction!), limit);
  if (isDiscrete) {
    assert.equal(countDifferent(await tok.decode(golden.codes!), pixels), 0, "codes decode as their indices do");
  }
}

async function checkPipeline(label: string, model: string, path: string) {
  const golden = readTensors(path);
  await using tok = await Tokenizer.open(model);
  const output = await tok.autoencode(golden.pixels as TensorLike<"uint8">);
  const wanted = golden.output!;
  assert.deepEqual([...output.shape], [...wanted.shape]);
  let byOne = 0, byMore = 0;
  wanted.data.forEach((v, i) => {
    const difference = Math.abs(output.data[i]! - v);
    if (difference === 1) byOne++;
    else if (difference !== 0) byMore++;
  });
  checkCase(`${label} bytes off by one (part)`, byOne / wanted.data.length, 0.003);
  checkCase(`${label} bytes off by more`, byMore, 0);

  const tokens = await tok.encode(golden.pixels as TensorLike<"uint8">);
  if (tokens.isDiscrete) checkCase(`${label} indices (different)`, countDifferent(tokens.indices, golden["tokens.0"]!), 0);
  else checkCase(`${label} latent`, relativeError(tokens.latent, golden["tokens.0"]!), limit);
  const decoded = await tok.decode(tokens, { dtype: "uint8" });
  assert.equal(countDifferent(decoded, output), 0, "encode then decode equals autoencode, cropped");
}

describe("carried fixtures", () => {
  const model = join(carried, "Cosmos-Tokenizer-CI8x8");
  for (const kernels of kernelSets) {
    test(`CI8x8 from .jit, ${kernels} kernels`, async (t) => {
      try {
        await checkGolden(`carried CI8x8 ${kernels}`, model, join(model, "golden.safetensors"), kernels);
      } catch (error) {
        // The processor decides: kernels that it lacks must be refused with DEVICE, never run.
        if ((error as { code?: string }).code !== "DEVICE" || kernels === "reference" || kernels === "generic") throw error;
        t.diagnostic?.(`${kernels}: not on this processor`);
      }
    });
  }
  test("DI8x8 small, synthetic weights", () =>
    withWeights(
      "DI8x8",
      "small",
      (path) => checkGolden("carried DI8x8 small", path, join(carried, "DI8x8-small.safetensors")),
    ));
  test("DI8x8 full size, synthetic weights", () =>
    withWeights(
      "DI8x8",
      "full",
      (path) => checkGolden("carried DI8x8 full", path, join(carried, "DI8x8-full.safetensors")),
    ));
});

const names = ["CI8x8", "CI16x16", "DI8x8", "DI16x16", "DI8x8-360p"];

describe("small networks", { skip: noShared }, () => {
  for (const name of names) {
    const folder = join(shared, `${name.includes("-") ? "Cosmos-Tokenize1" : "Cosmos-Tokenizer"}-${name}`);
    test(name, { skip: noShared }, () => checkGolden(`small ${name}`, folder, join(folder, "golden.safetensors")));
    test(
      `${name} pipeline`,
      { skip: noShared },
      () => checkPipeline(`pipeline ${name}`, folder, join(folder, "pipeline.safetensors")),
    );
    if (hasShared && existsSync(join(folder, "autoencoder.jit"))) {
      test(`${name} autoencoder.jit`, () =>
        checkGolden(`autoencoder.jit ${name}`, join(folder, "autoencoder.jit"), join(folder, "golden.safetensors")));
    }
  }
});

describe("full-size networks, synthetic weights", { skip: noShared }, () => {
  for (const name of names) {
    test(
      name,
      { skip: noShared },
      () =>
        withWeights(name, "full", (path) => checkGolden(`full ${name}`, path, join(shared, "full", `${name}.safetensors`))),
    );
  }
});

describe("the DI8x8 encoder as other writers leave it", { skip: noShared }, () => {
  const variants = hasShared ? readdirSync(join(shared, "variants")).filter((f) => f.endsWith(".jit")).sort() : [];
  const plain = join(shared, "Cosmos-Tokenizer-DI8x8");
  test("there are variants", { skip: noShared }, () => assert.ok(variants.length >= 5));
  for (const file of variants) {
    test(file, async () => {
      const { pixels } = readTensors(join(plain, "golden.safetensors"));
      const encode = async (path: string) => {
        await using tok = await Tokenizer.open(path, { half: "encoder" });
        return await tok.encode(pixels as TensorLike<"uint8">, { preQuant: true });
      };
      const [a, b] = [await encode(join(shared, "variants", file)), await encode(join(plain, "encoder.jit"))];
      checkCase(`variant ${file} pre_quant (different)`, countDifferent(a.preQuant, b.preQuant), 0);
      checkCase(`variant ${file} indices (different)`, countDifferent(a.indices, b.indices), 0);
    });
  }
});
