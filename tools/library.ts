/**
 * libctok.so of csrc/, and where there is nvcc libctok-cpu.so beside it. A CUDA compiler that fails costs the GPU
 * alone, and is told; with CUDA=1 it ends the build. Called by build.ts.
 */
import { rmSync } from "node:fs";
import { join, resolve } from "node:path";
import process from "node:process";
import { type Cuda, findCuda, kernelObject, kernels, kernelSteps } from "./cuda.ts";
import {
  cc,
  cFlags,
  filesUnder,
  flagsOf,
  isCross,
  isDarwin,
  isOfTarget,
  isSanitized,
  linkFlags,
  objectFile,
  out,
  root,
} from "./settings.ts";
import { compileStep, linkStep, makeSteps, type Step } from "./steps.ts";

export const sources = filesUnder("csrc", ".c").filter(isOfTarget);
const isCuda = (source: string) => source.startsWith("csrc/backends/cuda/");

/** The object of a C file. The seam to CUDA is another one in a build without it. */
export const objectOf = (source: string, hasCuda: boolean) =>
  objectFile(source.replace(/\.c$/, isCuda(source) && !hasCuda ? ".none" : ""));

function compile(source: string, cuda?: Cuda): Step {
  const flags = cuda && isCuda(source) ? ["-DCTOK_HAS_CUDA", "-isystem", cuda.include] : [];
  return compileStep(objectOf(source, cuda !== undefined), source, [...cc, ...cFlags, ...flagsOf(source), ...flags]);
}

/** All that programs are linked with: every object, and the libraries. */
export interface Library {
  readonly objects: readonly string[];
  readonly libraries: readonly string[];
}

export function libraryOf(cuda?: Cuda): Library {
  const objects = sources.map((source) => objectOf(source, cuda !== undefined));
  return {
    objects: [...objects, ...(cuda ? kernels.map(kernelObject) : [])],
    libraries: [...(cuda ? [cuda.runtime, "-ldl", "-lrt"] : []), "-lm"],
  };
}

const isCudaNeeded = process.env.CUDA === "1" && !isCross;
/** What a GPU needs, which may fail. */
const cudaSteps = (
  cuda: Cuda,
) => [...kernelSteps(cuda), ...sources.filter(isCuda).map((source) => compile(source, cuda))];
/** Steps for the CPU, and the seam to nowhere, of which libctok-cpu.so is made too. */
const cpuSteps = () => sources.map((source) => compile(source));

// nodelete: a runtime that unloads its libraries at exit must not take the code from under the engine's threads.
const shared = isDarwin ? ["-shared"] : ["-shared", "-Wl,-z,defs", "-Wl,-z,nodelete", "-Wl,--exclude-libs,ALL"];

function linkSteps(cuda?: Cuda): Step[] {
  if (isSanitized) return [];
  const link = (name: string, { objects, libraries }: Library) =>
    linkStep(join(out, name), [...cc, ...shared, ...objects, ...libraries, ...linkFlags]);
  return [link("libctok.so", libraryOf(cuda)), ...(cuda ? [link("libctok-cpu.so", libraryOf())] : [])];
}

export const librarySteps = (
  cuda?: Cuda,
): Step[] => [...(cuda ? cudaSteps(cuda) : []), ...cpuSteps(), ...linkSteps(cuda)];

/** The toolkit, where it is there; otherwise that it is not is said. */
export function lookForCuda(): Cuda | undefined {
  const found = findCuda();
  if (typeof found !== "string") return found;
  if (isCudaNeeded) throw new Error(`CUDA=1: expected a CUDA compiler, found none: ${found}`);
  console.log(`without CUDA: ${found}`);
  return undefined;
}

/** The toolkit that the library was made with. */
export async function makeLibrary(cuda?: Cuda): Promise<Cuda | undefined> {
  const [onGpu, onCpu] = await Promise.allSettled([makeSteps(cuda ? cudaSteps(cuda) : []), makeSteps(cpuSteps())]);
  if (onCpu.status === "rejected") throw onCpu.reason;
  if (onGpu.status === "rejected") {
    if (isCudaNeeded) throw onGpu.reason;
    console.error(
      `without CUDA, as its compiler failed (CUDA=0 leaves it out, NVCC names another): ${onGpu.reason.message}`,
    );
    return makeLibrary();
  }
  await makeSteps(linkSteps(cuda));
  // A leftover of a build with CUDA would be packed as what libctok.so is now.
  if (!cuda) rmSync(resolve(root, out, "libctok-cpu.so"), { force: true });
  return cuda;
}
