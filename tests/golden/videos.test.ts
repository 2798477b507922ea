/**
 * Video networks against answers computed in float64 (../shared/fixtures): whole clips, the uint8 pipeline in windows, full
 * sizes with synthetic weights. One case is carried by the repository.
 */
import { existsSync } from "node:fs";
import { join } from "node:path";
import { describe, test } from "node:test";
import { carried, hasShared, noShared, shared, withWeights } from "../support.ts";
import { checkGolden, checkPipeline, kernelSets } from "./check.ts";

describe("carried fixtures", () => {
  for (const kernels of kernelSets) {
    test(`CV4x8x8 small, synthetic weights, ${kernels} kernels`, () =>
      withWeights("CV4x8x8", "small", async (path) => {
        try {
          await checkGolden(`carried CV4x8x8 small ${kernels}`, path, join(carried, "CV4x8x8-small.safetensors"), kernels);
        } catch (error) {
          // The processor decides: kernels that it lacks must be refused with DEVICE, never run.
          if ((error as { code?: string }).code !== "DEVICE" || kernels === "reference" || kernels === "generic") {
            throw error;
          }
        }
      }));
  }
  test("DV8x16x16 full size, synthetic weights", () =>
    withWeights(
      "DV8x16x16",
      "full",
      (path) => checkGolden("carried DV8x16x16 full", path, join(carried, "DV8x16x16-full.safetensors")),
    ));
});

const names = ["CV4x8x8", "CV8x8x8", "CV8x16x16", "DV4x8x8", "DV8x8x8", "DV8x16x16", "DV4x8x8-360p"];

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
