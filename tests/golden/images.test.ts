/**
 * Networks against answers computed in float64 (../shared/fixtures, see its README): pre-quantiser or latent, indices,
 * reconstruction, and the whole uint8 pipeline on awkward sizes. A few cases are carried by the repository.
 */
import assert from "node:assert/strict";
import { readdirSync } from "node:fs";
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
  shared,
  withWeights,
} from "../support.ts";
import { checkGolden, kernelSets, testNetworks } from "./check.ts";

/** The processor decides: kernels that it lacks must be refused with DEVICE, never run. */
async function unlessLacking(kernels: string, run: Promise<void>, tell: (text: string) => void): Promise<void> {
  try {
    await run;
  } catch (error) {
    if ((error as { code?: string }).code !== "DEVICE" || kernels === "reference" || kernels === "generic") throw error;
    tell(`${kernels}: not on this processor`);
  }
}

describe("carried fixtures", () => {
  const model = join(carried, "Cosmos-Tokenizer-CI8x8");
  for (const kernels of kernelSets) {
    test(`CI8x8 from .jit, ${kernels} kernels`, async (t) => {
      const run = checkGolden(`carried CI8x8 ${kernels}`, model, join(model, "golden.safetensors"), kernels);
      await unlessLacking(kernels, run, (text) => t.diagnostic?.(text));
    });
  }
  for (const kernels of kernelSets) {
    test(`VQ-8 small, synthetic weights, ${kernels} kernels`, (t) =>
      withWeights("VQ-8", "small", async (path) => {
        const run = checkGolden(`carried VQ-8 ${kernels}`, path, join(carried, "VQ-8-small.safetensors"), kernels);
        await unlessLacking(kernels, run, (text) => t.diagnostic?.(text));
      }));
  }
  test("VQ-16 full size, synthetic weights", () =>
    withWeights(
      "VQ-16",
      "full",
      (path) => checkGolden("carried VQ-16 full", path, join(carried, "VQ-16-full.safetensors")),
    ));
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

testNetworks(["CI8x8", "CI16x16", "DI8x8", "DI16x16", "DI8x8-360p"]);

describe("LlamaGen's VQ-8 in its public form, a state dict in a .pt", { skip: noShared }, () => {
  const folder = join(shared, "families/llamagen");
  for (const name of ["a", "b"]) {
    test(
      `golden-${name}`,
      { skip: noShared },
      () =>
        checkGolden(`small VQ-8 ${name}`, join(folder, "vq_ds8_c2i.pt"), join(folder, `golden-${name}.safetensors`)),
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
