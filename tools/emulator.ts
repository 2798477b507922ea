/**
 * The emulator's tests: the kernels again, as C++ for tests/native/cuda_emulator, beside the reference ops; and the
 * test of launches, of the kernels as nvcc built them. Called by programs.ts.
 */
import { spawnSync } from "node:child_process";
import { basename, join } from "node:path";
import { type Cuda, kernelObject, kernels, layouts } from "./cuda.ts";
import { objectOf, sources } from "./library.ts";
import { architecture, cc, cFlags, cppFlags, cxx, emulatedFlags, objectFile, out, seenFlags } from "./settings.ts";
import { compileStep, linkStep, type Step } from "./steps.ts";

export const emulatorFolder = "tests/native/cuda_emulator/";
const inFolder = (name: string) => emulatorFolder + name;
const emulated = (source: string) => objectFile(`emulated-${basename(source).replace(/\.c\w*$/, "")}`);

/** The CUDA backend in C, over a runtime that is the emulator's. */
const backend = ["cuda_backend", "gpu", "op", "replay"].map((name) => `csrc/backends/cuda/${name}.c`);
/**
 * What of the core a test of single kernels needs: the reference ops, and the choices and layouts that kernels share.
 */
const isForKernels = (source: string) =>
  /backends\/cpu\/|(base\/status|network\/quantizer)\.c|cuda\/(heuristics|conv_pack)\.c/.test(source);

export function emulatorSteps(cuda?: Cuda): Step[] {
  const [program = "", ...args] = cxx;
  if (spawnSync(program, [...args, "--version"]).status !== 0) {
    console.log(`without the CUDA emulator's tests: no ${cxx.join(" ")} (apt-get install g++; CXX names another)`);
    return [];
  }
  const asCpp = (source: string) =>
    compileStep(emulated(source), source, [
      ...[...cxx, ...emulatedFlags],
      ...(emulator.includes(source) ? [] : seenFlags),
      ...["-x", "c++"],
    ]);
  /** With leave to join a product and a sum, as nvcc has it. */
  const contracted = (source: string) =>
    compileStep(emulated(source).replace("emulated", "contracted"), source, [
      ...[...cxx, ...emulatedFlags],
      ...[...seenFlags, "-ffp-contract=fast", ...(architecture === "x64" ? ["-mfma"] : []), "-x", "c++"],
    ]);
  const asC = (source: string) => compileStep(emulated(source), source, [...cc, ...cFlags]);
  const overEmulator = (source: string) =>
    compileStep(emulated(source), source, [...cc, ...cFlags, "-DCTOK_HAS_CUDA", `-I${emulatorFolder}`]);

  const emulator = ["emulator", "emulated_memory", "emulated_stream"].map((part) => inFolder(`${part}.cpp`));
  const parts = [...kernels, ...emulator],
    alone = [inFolder("emulator_test.cu"), inFolder("emulator_memory_test.cu"), ...layouts];
  const tests = [
    ...[
      "cuda_test",
      "contract_test",
      "backend_test",
      "loss_test",
      "list_test",
      "device_test",
      "gpu_steps",
      "emulated_device",
    ].map((t) => inFolder(`${t}.c`)),
    ...["gpu_run", "gpu_ops"].map((program) => `bench/gpu_check/${program}.c`),
  ];
  const device = [...backend, inFolder("emulated_device.c"), ...parts].map(emulated);
  const core = (isWanted: (source: string) => boolean) =>
    sources.filter(isWanted).map((source) => objectOf(source, cuda !== undefined));

  const link = (name: string, objects: string[]) =>
    linkStep(join(out, "tests", name), [...cxx, ...emulatedFlags, ...objects, "-pthread", "-lm"]);
  // Not emulated: the kernels as nvcc built them, over a runtime that only looks at how they are launched.
  const launchTest = inFolder("launch_test.c"), runtime = inFolder("fake_cudart.cpp");
  const ptxas = kernels.map((source) => kernelObject(source).replace(/\.o$/, ".ptxas.txt"));
  const launches = cuda
    ? [
      compileStep(emulated(launchTest), launchTest, [
        ...[...cc, ...cFlags],
        ...["-DCTOK_HAS_CUDA", `-DCTOK_PTXAS="{${ptxas}}"`],
      ]),
      compileStep(emulated(runtime), runtime, [...cxx, ...cppFlags, "-isystem", cuda.include]),
    ]
    : [asC(launchTest)];
  const exact = [
    ...kernels.filter((source) => /_(pixels|haar|pool|quantize)\./.test(source)),
    inFolder("contracted.cpp"),
  ]
    .map(contracted);
  return [
    ...[...parts, ...alone].map(asCpp),
    ...tests.map(asC),
    ...backend.map(overEmulator),
    ...launches,
    link("launch_test", [
      ...launches.map(({ output }) => output),
      ...(cuda ? kernels.map(kernelObject) : []),
      ...core(isForKernels),
    ]),
    ...exact,
    link("contract_test", [
      emulated("contract_test.c"),
      ...exact.map(({ output }) => output),
      ...emulator.map(emulated),
      ...core(isForKernels),
    ]),
    link("cuda_test", [emulated("cuda_test.c"), ...parts.map(emulated), ...core(isForKernels)]),
    link("backend_test", [emulated("backend_test.c"), ...device, ...core(isForKernels)]),
    ...["loss_test", "list_test", "device_test", "gpu_steps", "emulated_run", "emulated_ops"].map((name) => {
      const source = `${name.replace("emulated", "gpu")}.c`; // emulated_run is gpu_run on the emulated device
      return link(name, [emulated(source), ...device, ...core((source) => !backend.includes(source))]);
    }),
    ...alone.map((source) => link(basename(source, ".cu"), [emulated(source), ...emulator.map(emulated)])),
  ];
}
