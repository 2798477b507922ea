/**
 * Whole networks on an emulated GPU: the CUDA backend, every kernel's own source and core together, against the float64
 * answers, as bench/gpu_check does on a real one. Image networks of both families and a video network (this one as a
 * stream too), small, in both precisions, and each run again from CUDA graphs. The limits are those of the CPU: 2e-5 in
 * float32, indices equal; in bfloat16 0.9 of PyTorch's own error, and as many equal indices.
 */
import assert from "node:assert/strict";
import { execFileSync } from "node:child_process";
import { existsSync, readFileSync } from "node:fs";
import { join } from "node:path";
import { test } from "node:test";
import { carried, root, runtime, withWeights } from "../support.ts";

interface Result {
  readonly device: string;
  readonly kernels: string;
  readonly pre_quant: number;
  readonly reconstruction: number;
  readonly stream?: number;
  readonly different?: number;
  readonly tokens?: number;
  readonly repeats: boolean;
}
interface Errors {
  readonly pre_quant: number;
  readonly reconstruction: number;
  readonly index_agreement?: number;
}
const program = join(root, "build/tests/emulated_run");
const peers = JSON.parse(readFileSync(join(carried, "pytorch_errors.json"), "utf8")) as Record<
  string,
  { readonly small: { readonly bfloat16: Errors } }
>;
const skip = !existsSync(program)
  ? "the emulator was not built: no g++"
  : runtime !== "bun"
  ? "native code alone: it runs once, on Bun"
  : false;

for (const model of ["DI8x8", "CV4x8x8", "VQ-8"]) {
  for (const precision of ["f32", "bf16"]) {
    test(`${model} small on an emulated GPU, ${precision}`, { skip }, () =>
      withWeights(model, "small", (path) => {
        const golden = join(carried, `${model}-small.safetensors`);
        const out = execFileSync(program, ["golden", path, golden, "--device", "cuda", "--precision", precision]);
        const result = JSON.parse(out.toString()) as Result;
        assert.equal(result.device, "cuda:0");
        assert.equal(result.kernels, "sm80");
        assert.ok(result.repeats, "a second run, which is started as CUDA graphs, has the same bits");
        const peer = peers[model]!.small.bfloat16, isHalf = precision === "bf16";
        const limits = isHalf
          ? { pre_quant: 0.9 * peer.pre_quant, reconstruction: 0.9 * peer.reconstruction }
          : undefined;
        assert.ok(result.pre_quant <= (limits?.pre_quant ?? 2e-5), out.toString());
        assert.ok((result.stream ?? 0) <= (limits?.pre_quant ?? 2e-5), out.toString());
        assert.equal(result.stream !== undefined, model === "CV4x8x8");
        assert.ok(result.reconstruction <= (limits?.reconstruction ?? 2e-5), out.toString());
        if (result.tokens !== undefined) {
          const agreement = 1 - result.different! / result.tokens;
          // Stored as float32.
          assert.ok(agreement >= (isHalf ? Math.fround(peer.index_agreement!) - 1e-7 : 1), out.toString());
        }
        return Promise.resolve();
      }));
  }
}
