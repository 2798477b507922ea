/**
 * bfloat16 networks against the float64 answers: each error at most 0.9 of PyTorch's own bfloat16 error on the same
 * case (fixtures/pytorch_errors.json), and of all discrete cases together at least as many equal indices. Where the
 * processor has no bfloat16 kernels the reference ops compute the small networks.
 */
import assert from "node:assert/strict";
import { existsSync, readFileSync } from "node:fs";
import { join } from "node:path";
import { describe, test } from "node:test";
import { type TensorLike, Tokenizer, TokenizerError } from "mod.ts";
import {
  carried,
  checkCase,
  countDifferent,
  noShared,
  readTensors,
  relativeError,
  shared,
  withWeights,
} from "../support.ts";
import { kernelSets } from "./check.ts";

type Size = "small" | "full";
interface Errors {
  readonly pre_quant: number;
  readonly reconstruction: number;
  readonly index_agreement?: number;
}
const peers = JSON.parse(readFileSync(join(carried, "pytorch_errors.json"), "utf8")) as Record<
  string,
  Record<Size, { readonly bfloat16: Errors }>
>;
const share = 0.9; // of PyTorch's error

/** The processor's own kernels for bfloat16; undefined where it has none. */
const kernels = await (async () => {
  for (const kernels of kernelSets.filter((name) => name.endsWith("_bf16"))) {
    try {
      await using _ = await Tokenizer.open("nano-DI8x8", { kernels });
      return kernels;
    } catch (error) {
      if (!(error instanceof TokenizerError && error.code === "DEVICE")) throw error;
    }
  }
  return undefined;
})();
const hasKernels = kernels !== undefined;

const pooled = { tokens: 0, equal: 0, peerEqual: 0 };

async function check(model: string, size: Size, path: string, goldenPath: string): Promise<void> {
  const golden = readTensors(goldenPath), peer = peers[model]![size].bfloat16, label = `bf16 ${size} ${model}`;
  await using tok = await Tokenizer.open(path, { precision: "bf16", kernels: kernels ?? "reference" });
  assert.equal(tok.info.precision, "bf16");
  const { isDiscrete } = tok.info;
  const tokens = await tok.encode(golden.pixels as TensorLike<"uint8">, { preQuant: isDiscrete });
  const pixels = await tok.decode((isDiscrete ? golden.indices : golden.latent)!);
  if (isDiscrete) {
    const count = golden.indices!.data.length;
    pooled.tokens += count;
    pooled.equal += count - countDifferent(tokens.indices, golden.indices!);
    pooled.peerEqual += count * peer.index_agreement!;
  }
  checkCase(
    `${label} ${isDiscrete ? "pre_quant" : "latent"}`,
    relativeError(isDiscrete ? tokens.preQuant : tokens.latent, golden.pre_quant!),
    share * peer.pre_quant,
  );
  checkCase(`${label} reconstruction`, relativeError(pixels, golden.reconstruction!), share * peer.reconstruction);
}

describe("carried fixtures in bfloat16", () => {
  test("CI8x8 from .jit", () => {
    const folder = join(carried, "Cosmos-Tokenizer-CI8x8");
    return check("CI8x8", "small", folder, join(folder, "golden.safetensors"));
  });
  for (const model of ["DI8x8", "CV4x8x8", "VQ-8"]) {
    test(`${model} small, synthetic weights`, () =>
      withWeights(model, "small", (path) => check(model, "small", path, join(carried, `${model}-small.safetensors`))));
  }
  for (const model of ["DI8x8", "DV8x16x16", "VQ-16"]) {
    test(
      `${model} full size, synthetic weights`,
      { skip: hasKernels ? false : "no bfloat16 kernels on this processor" },
      () =>
        withWeights(model, "full", (path) => check(model, "full", path, join(carried, `${model}-full.safetensors`))),
    );
  }
});

describe(
  "all networks in bfloat16",
  { skip: noShared || !hasKernels ? noShared || "no bfloat16 kernels" : false },
  () => {
    for (const model of Object.keys(peers)) {
      const folder = join(shared, `${model.includes("-") ? "Cosmos-Tokenize1" : "Cosmos-Tokenizer"}-${model}`);
      if (existsSync(folder)) {
        test(`small ${model}`, () => check(model, "small", folder, join(folder, "golden.safetensors")));
      }
      const full = join(shared, "full", `${model}.safetensors`);
      if (existsSync(full)) {
        test(`full ${model}`, () => withWeights(model, "full", (path) => check(model, "full", path, full)));
      }
    }
  },
);

test("indices of all discrete cases: at least as many equal as PyTorch's", () => {
  assert.ok(pooled.tokens > 0);
  const part = pooled.equal / pooled.tokens, peer = pooled.peerEqual / pooled.tokens;
  checkCase(`bf16 different indices of ${pooled.tokens} (part; limit: PyTorch's)`, 1 - part, 1 - peer);
});
