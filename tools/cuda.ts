/**
 * The CUDA toolkit, where there is one: nvcc, the runtime that libctok.so is linked with, and the steps that it does.
 * The kernels of a file are compiled for the GPUs that its prefix names. Called by library.ts and programs.ts.
 */
import { spawnSync } from "node:child_process";
import { existsSync, writeFileSync } from "node:fs";
import { basename, join, resolve } from "node:path";
import process from "node:process";
import { architecture, crossTarget, filesUnder, isStrict, objectFile, out, root } from "./settings.ts";
import { compileStep, type Step } from "./steps.ts";

export interface Cuda {
  readonly nvcc: string;
  readonly include: string;
  readonly runtime: string; // libcudart_static.a
}

/** nvcc and the runtime beside it, or why there is none. */
export function findCuda(): Cuda | string {
  if (process.env.CUDA === "0") return "CUDA=0";
  if (crossTarget) return `this is a build for ${crossTarget}`;
  for (const nvcc of process.env.NVCC ? [process.env.NVCC] : ["nvcc", "/usr/local/cuda/bin/nvcc"]) {
    const { error, status, stdout, stderr } = spawnSync(nvcc, ["--dryrun", "-c", "-x", "cu", "/dev/null"], {
      encoding: "utf8",
    });
    if (error) continue;
    if (status !== 0) return `${nvcc} --dryrun ended with ${status}: ${(stderr + stdout).trim()}`;
    const top = /^#\$ TOP=(.*)$/m.exec(stderr)?.[1];
    if (!top) return `${nvcc} --dryrun names no TOP, the folder of the toolkit`;
    const folders = ["lib64", "lib", `targets/${architecture === "x64" ? "x86_64" : "sbsa"}-linux/lib`];
    const runtime = folders.map((f) => join(top, f, "libcudart_static.a")).find((f) => existsSync(f));
    return runtime ? { nvcc, include: join(top, "include"), runtime } : `${nvcc} has no libcudart_static.a beside it`;
  }
  return process.env.NVCC ? `no ${process.env.NVCC}` : "no nvcc on the PATH or in /usr/local/cuda/bin";
}

/**
 * Code for each generation of GPU that a file serves, and PTX of 8.0, which later ones compile when they first load it.
 */
const gpuCode = (...architectures: number[]) =>
  [...architectures.map((a) => `arch=compute_${a},code=sm_${a}`), "arch=compute_80,code=compute_80"]
    .flatMap((code) => ["-gencode", code]);
const gpuFlags: [prefix: string, flags: string[]][] = [
  ["sm80_", gpuCode(80, 90)],
  ["smxx_", gpuCode(75, 80, 90)],
];
const strict = isStrict ? ["-Werror", "all-warnings"] : [];

/**
 * ptxas tells of spilled registers and of serialised tensor-core instructions (C75xx) in passing: either is slow code.
 */
function checkKernel(source: string, object: string): (log: string) => void {
  return (log) => {
    writeFileSync(resolve(root, object.replace(/\.o$/, ".ptxas.txt")), log);
    const bad = log.split("\n").filter((line) => /[1-9]\d* bytes spill|\bC75\d\d\b/.test(line));
    if (bad.length === 0) return;
    const told = `${source}: expected no spilled registers and no serialised instructions, found\n${bad.join("\n")}`;
    if (isStrict) throw new Error(told);
    console.error(told);
  };
}

export const kernels = filesUnder("csrc/backends/cuda", ".cu");
export const kernelObject = (source: string) => objectFile(source.replace(/\.cu$/, ""));

export function kernelSteps({ nvcc }: Cuda): Step[] {
  // Nothing of the C++ library is linked: nvcc's stubs guard statics whose only value is the address of a kernel.
  const host = [
    "-fPIC",
    "-fvisibility=hidden",
    "-fno-exceptions",
    "-fno-rtti",
    "-fno-threadsafe-statics",
    "-Wall",
    "-Wextra",
  ];
  const compiler = [...host, ...(isStrict ? ["-Werror"] : [])].join(",");
  return kernels.map((source) => {
    const flags = gpuFlags.find(([prefix]) => basename(source).startsWith(prefix))?.[1];
    if (!flags) throw new Error(`${source}: expected a name that begins with ${gpuFlags.map(([p]) => p).join(" or ")}`);
    const object = kernelObject(source);
    const command = [nvcc, "-std=c++17", "-O3", ...flags, ...strict, "-Xptxas", "-v", "-Xcompiler", compiler];
    return { ...compileStep(object, source, command), check: checkKernel(source, object) };
  });
}

/** Programs that ask a GPU, and in build/tests the emulated one, for the layouts of its instructions. */
export const layouts = filesUnder("tests/native/ptx_layouts", ".cu");

export function layoutSteps({ nvcc }: Cuda): Step[] {
  return layouts.map((source) => {
    const own = basename(source).startsWith("sm90_") ? ["-gencode", "arch=compute_90a,code=sm_90a"] : [];
    return {
      output: join(out, "bench", basename(source, ".cu")),
      command: [nvcc, "-std=c++17", "-O2", ...own, ...gpuCode(80), ...strict, source],
      inputs: [source],
      source,
    };
  });
}
