/**
 * Networks against answers computed in float64 (../shared/fixtures, see its README): pre-quantiser or latent, indices,
 * reconstruction, and the whole uint8 pipeline on awkward sizes. A few cases are carried by the repository.
 */
import assert from "node:assert/strict";
import { readdirSync } from "node:fs";
import { join } from "node:path";
import { describe, test } from "node:test";
import { type TensorLike, Tokenizer } from "mod.ts";
import { carried, checkCase, countDifferent, hasShared, noShared, readTensors, shared, withWeights } from "../support.ts";
import { checkGolden, kernelSets, testNetworks } from "./check.ts";

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

testNetworks(["CI8x8", "CI16x16", "DI8x8", "DI16x16", "DI8x8-360p"]);

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
