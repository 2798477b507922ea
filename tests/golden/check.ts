/** How a network is held to a golden file, for images and videos alike. */
import assert from "node:assert/strict";
import { existsSync } from "node:fs";
import { join } from "node:path";
import { describe, test } from "node:test";
import { type Tensor, type TensorLike, Tokenizer } from "mod.ts";
import { kernels } from "../../ffi/layout.ts";
import { sliceTime } from "../../src/tokens/windows.ts";
import {
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
type KernelSet = Exclude<keyof typeof kernels, "auto">;
export const kernelSets = Object.keys(kernels).filter((name) => name !== "auto") as KernelSet[];

/** Encodes the pixels and decodes the stored tokens; every answer of the golden file is compared. */
export async function checkGolden(
  label: string,
  model: string,
  goldenPath: string,
  kernels: KernelSet | "auto" = "auto",
) {
  const golden = readTensors(goldenPath);
  await using tok = await Tokenizer.open(model, { kernels, precision: "f32" });
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

/** The whole uint8 pipeline; a video in windows of 17 frames, whose tokens are tokens.0, tokens.1, ... */
export async function checkPipeline(label: string, model: string, path: string) {
  const golden = readTensors(path);
  await using tok = await Tokenizer.open(model, { precision: "f32" });
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
  const windows = tokens.origin.video?.windows ?? [undefined];
  let at = 0;
  for (const [n, window] of windows.entries()) {
    const part = window ? sliceTime(tokens.main as Tensor, at, at += window.tokens) : tokens.main;
    const wanted = golden[`tokens.${n}`]!;
    if (tokens.isDiscrete) checkCase(`${label} indices ${n} (different)`, countDifferent(part, wanted), 0);
    else checkCase(`${label} latent ${n}`, relativeError(part, wanted), limit);
  }
  assert.equal(golden[`tokens.${windows.length}`], undefined, "as many windows as the reference makes");
  const decoded = await tok.decode(tokens, { dtype: "uint8" });
  assert.equal(countDifferent(decoded, output), 0, "encode then decode equals autoencode, cropped");
}

/**
 * The cases that ../shared/fixtures holds for each network: small ones as .jit, and full sizes with synthetic weights.
 */
export function testNetworks(names: readonly string[]): void {
  describe("small networks", { skip: noShared }, () => {
    for (const name of names) {
      const folder = join(shared, `${name.includes("-") ? "Cosmos-Tokenize1" : "Cosmos-Tokenizer"}-${name}`);
      const golden = join(folder, "golden.safetensors"), pipeline = join(folder, "pipeline.safetensors");
      test(name, { skip: noShared }, () => checkGolden(`small ${name}`, folder, golden));
      test(`${name} pipeline`, { skip: noShared }, () => checkPipeline(`pipeline ${name}`, folder, pipeline));
      if (hasShared && existsSync(join(folder, "autoencoder.jit"))) {
        test(`${name} autoencoder.jit`, () =>
          checkGolden(`autoencoder.jit ${name}`, join(folder, "autoencoder.jit"), golden));
      }
    }
  });
  describe("full-size networks, synthetic weights", { skip: noShared }, () => {
    for (const name of names) {
      const golden = join(shared, "full", `${name}.safetensors`);
      test(
        name,
        { skip: noShared },
        () => withWeights(name, "full", (path) => checkGolden(`full ${name}`, path, golden)),
      );
    }
  });
}
