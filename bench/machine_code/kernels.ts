/**
 * Which kernels have a hot loop, and what one time round it gets done, by their sources: of sm80_conv a stage of the
 * ring, of sm80_attention a block of 64 keys, of the float32 convolution a step. Called by report.ts,
 * bench/gpu_model.ts and tests/unit/machinecode.test.ts.
 */
import { existsSync } from "node:fs";
import { join } from "node:path";
import { kernelObject } from "../../tools/cuda.ts";
import { root } from "../../tools/settings.ts";
import { disassemble, type Kernel, parseListing } from "./listing.ts";
import type { Work } from "./loops.ts";

/** The numbers of a kernel's template. */
export const numbersOf = ({ name }: Kernel): number[] =>
  [...(/<(.*)>/.exec(name)?.[1] ?? "").matchAll(/\d+/g)].map(Number);

const wanted: [kernel: RegExp, work: (...numbers: number[]) => Work][] = [
  [
    /^sm80_conv_kernel/, // BM, BN, BK, WARPS_M, WARPS_N
    (bm = 0, bn = 0, bk = 0, warpsM = 0, warpsN = 0) => ({
      products: ["HMMA", bm / warpsM / 16 * (bn / warpsN / 8) * (bk / 16)],
      copies: ["LDGSTS", (bm + bn) * bk / 8 / (warpsM * warpsN * 32)],
    }),
  ],
  // panels of 64 channels: q k and p v, each 64 x 64 x 64 over 8 warps; k and v, each 8 KiB over 256 threads
  [/^sm80_attention_kernel/, (panels = 0) => ({ products: ["HMMA", 32 * panels], copies: ["LDGSTS", 4 * panels] })],
  // 4 x 4 outputs by 16 channels; 4 single floats of pixels and 4 weights at once
  [/^smxx_conv_kernel/, () => ({ products: ["FFMA", 256], copies: ["LDG", 5] })],
];

/** What a time round a kernel's hot loop gets done; undefined: it has none that is looked at. */
export function workOf(kernel: Kernel): Work | undefined {
  return wanted.find(([pattern]) => pattern.test(kernel.name))?.[1](...numbersOf(kernel));
}

export const files = ["sm80_conv", "sm80_attention", "smxx_conv"];

const known = new Map<string, Kernel[]>();

/** The kernels of a CUDA file as the build of a checkout left its object. Throws where it was not built. */
export function kernelsOf(file: string, architecture: string, checkout = root): Kernel[] {
  const object = join(checkout, kernelObject(`csrc/backends/cuda/${file}.cu`)), key = `${object} ${architecture}`;
  if (!existsSync(object)) throw new Error(`expected ${object}, found none (npm run build, where there is nvcc)`);
  const kernels = known.get(key) ?? parseListing(disassemble(object, architecture));
  known.set(key, kernels);
  return kernels;
}
