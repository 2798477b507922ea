/**
 * Video networks against answers computed in float64 (../shared/fixtures): whole clips, the uint8 pipeline in windows,
 * full sizes with synthetic weights. One case is carried by the repository.
 */
import { join } from "node:path";
import { describe, test } from "node:test";
import { carried, withWeights } from "../support.ts";
import { checkGolden, kernelSets, testNetworks } from "./check.ts";

describe("carried fixtures", () => {
  for (const kernels of kernelSets) {
    test(`CV4x8x8 small, synthetic weights, ${kernels} kernels`, () =>
      withWeights("CV4x8x8", "small", async (path) => {
        try {
          await checkGolden(
            `carried CV4x8x8 small ${kernels}`,
            path,
            join(carried, "CV4x8x8-small.safetensors"),
            kernels,
          );
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

testNetworks(["CV4x8x8", "CV8x8x8", "CV8x16x16", "DV4x8x8", "DV8x8x8", "DV8x16x16", "DV4x8x8-360p"]);
