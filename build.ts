/**
 * Compiles csrc/ into build/libctok.so, tests/native/*.c into build/tests/ and bench/*.c into build/bench/. Run: node_modules/.bin/bun build.ts
 * A file's prefix decides its flags and its architecture (avx512_conv.c gets AVX-512, and is left out on arm64), so only files
 * that dispatch guards hold such code.
 * Objects are kept; a file is compiled again when it, a header or this file changed. Limit: needs gcc or clang (CC names one).
 * The CUDA kernels go in where there is nvcc (on the PATH, in /usr/local/cuda, or NVCC); CUDA=0 leaves them out. The library
 * holds the CUDA runtime and needs no driver to load: one file for machines with and without a GPU. "library" builds it alone.
 * tests/long.ts builds with sanitizers: CFLAGS adds flags, BUILD names the folder, and with -fsanitize=fuzzer-no-link among
 * the flags tests/fuzz/*.c become programs as well. No library is made then.
 * --target aarch64-linux-gnu builds for arm64 on another machine, in build/aarch64: the library, the native tests (for QEMU,
 * see tests/run.ts) and the benchmarks, by Debian's gcc-aarch64-linux-gnu.
 */
import { spawn, spawnSync } from "node:child_process";
import {
  existsSync,
  mkdirSync,
  readdirSync,
  readFileSync,
  realpathSync,
  renameSync,
  statSync,
  writeFileSync,
} from "node:fs";
import { basename, join } from "node:path";
import process from "node:process";
import { fileURLToPath } from "node:url";
import { parseArgs } from "node:util";

const root = fileURLToPath(new URL(".", import.meta.url));
// Note: not import.meta.main, which Node has from 24 on.
const isProgram = process.argv[1] !== undefined && realpathSync(process.argv[1]) === fileURLToPath(import.meta.url);
const { values, positionals } = isProgram
  ? parseArgs({ args: process.argv.slice(2), allowPositionals: true, options: { target: { type: "string" } } })
  : { values: {}, positionals: [] };

/** Architectures with kernels of their own, by the first part of a compiler's triplet. */
const architectures = { x86_64: "x64", aarch64: "arm64" } as const;
type Architecture = typeof architectures[keyof typeof architectures];

function architectureOf(triplet: string): Architecture {
  const architecture = architectures[triplet.split("-")[0] as keyof typeof architectures];
  if (!architecture) throw new Error(`--target: expected aarch64-linux-gnu or x86_64-linux-gnu, found ${triplet}`);
  return architecture;
}

const target = values.target;
const architecture = target ? architectureOf(target) : process.arch;
const isCross = target !== undefined && architecture !== process.arch;
const out = join(root, process.env.BUILD ?? "build", ...(isCross ? [target.split("-")[0]!] : []));
const extra = (process.env.CFLAGS ?? "").split(" ").filter(Boolean);
const isSanitized = extra.some((flag) => flag.startsWith("-fsanitize"));
const isFuzzed = extra.some((flag) => flag.includes("fuzzer-no-link"));

const common = [
  "-std=c11",
  "-O3",
  "-g1",
  "-fPIC",
  "-fvisibility=hidden",
  "-fno-math-errno",
  "-pthread",
  "-D_GNU_SOURCE",
  ...extra,
];
const warnings = ["-Wall", "-Wextra", "-Wstrict-prototypes", "-Werror"];

const avx512 = ["-mavx512f", "-mavx512bw", "-mavx512dq", "-mavx512vl", "-mfma", "-ffp-contract=fast"];
/** First match wins. A file of another architecture is not compiled; the generic kernels serve everywhere. */
const prefixFlags: [prefix: string, of: Architecture | "any", flags: string[]][] = [
  ["avx512bf16_", "x64", [...avx512, "-mavx512bf16"]],
  ["avx512_", "x64", avx512],
  ["avx2_", "x64", ["-mavx2", "-mfma", "-ffp-contract=fast"]],
  ["shani_", "x64", ["-msse4.1", "-msha"]],
  ["neonbf16_", "arm64", ["-march=armv8.2-a+bf16", "-ffp-contract=fast"]],
  ["neon_", "arm64", ["-ffp-contract=fast"]],
  ["armsha_", "arm64", ["-march=armv8-a+crypto"]],
  ["", "any", ["-ffp-contract=off"]],
];
const rowOf = (source: string) => prefixFlags.find(([prefix]) => basename(source).startsWith(prefix))!;
const isOfTarget = (source: string) => ["any", architecture].includes(rowOf(source)[1]);

/** Code for each generation of GPU that a file serves, and PTX of 8.0, which later ones compile when they first load it. */
const gpuCode = (...architectures: number[]) =>
  [...architectures.map((a) => `arch=compute_${a},code=sm_${a}`), "arch=compute_80,code=compute_80"].flatMap((
    g,
  ) => ["-gencode", g]);
const gpuFlags: [prefix: string, flags: string[]][] = [
  ["sm80_", gpuCode(80, 90)],
  ["smxx_", gpuCode(75, 80, 90)],
];

const cc = process.env.CC ?? (isCross ? `${target}-gcc` : "cc");
const cxx = process.env.CXX ?? "g++";
const jobs = Number(process.env.JOBS ?? 2);

interface Cuda {
  readonly nvcc: string;
  readonly include: string;
  readonly runtime: string; // libcudart_static.a
}

/** nvcc and the runtime beside it, or why there is none. */
function findCuda(): Cuda | string {
  if (process.env.CUDA === "0") return "CUDA=0";
  if (isCross) return `this is a build for ${target}`;
  for (const nvcc of process.env.NVCC ? [process.env.NVCC] : ["nvcc", "/usr/local/cuda/bin/nvcc"]) {
    const { stderr } = spawnSync(nvcc, ["--dryrun", "-c", "-x", "cu", "/dev/null"], { encoding: "utf8" });
    const top = /^#\$ TOP=(.*)$/m.exec(stderr ?? "")?.[1];
    const folders = ["lib64", "lib", `targets/${architecture === "x64" ? "x86_64" : "sbsa"}-linux/lib`];
    const runtime = top && folders.map((f) => join(top, f, "libcudart_static.a")).find((f) => existsSync(f));
    if (top && runtime) return { nvcc, include: join(top, "include"), runtime };
    if (top) return `${nvcc} has no libcudart_static.a beside it`;
  }
  return "no nvcc on the PATH or in /usr/local/cuda/bin";
}

const found = findCuda();
const cuda = typeof found === "string" ? undefined : found;

function run(command: string, args: string[]): Promise<void> {
  return new Promise((resolve, reject) => {
    const child = spawn(command, args, { stdio: "inherit" });
    child.on(
      "error",
      (error) =>
        reject(
          new Error(
            `${command}: ${error.message}. A C compiler is needed (apt-get install ${isCross ? `gcc-${target}` : "gcc"})`,
          ),
        ),
    );
    child.on(
      "close",
      (code) => code === 0 ? resolve() : reject(new Error(`${command} ${args.join(" ")}\nexited with ${code}`)),
    );
  });
}

/** What a command wrote, once it has ended well. */
function capture(command: string, args: string[]): Promise<string> {
  return new Promise((resolve, reject) => {
    let log = "";
    const child = spawn(command, args, { stdio: ["ignore", "pipe", "pipe"] });
    child.stdout.on("data", (part) => log += part);
    child.stderr.on("data", (part) => log += part);
    child.on("error", (error) => reject(new Error(`${command}: ${error.message}`)));
    child.on(
      "close",
      (code) => code === 0 ? resolve(log) : reject(new Error(`${command} ${args.join(" ")}\n${log}exited with ${code}`)),
    );
  });
}

async function inParallel(tasks: (() => Promise<void>)[]): Promise<void> {
  const queue = tasks.values();
  await Promise.all(Array.from({ length: jobs }, async () => {
    for (const task of queue) await task();
  }));
}

function filesUnder(folder: string, extension: string): string[] {
  if (!existsSync(join(root, folder))) return [];
  return readdirSync(join(root, folder), { recursive: true, encoding: "utf8" })
    .filter((name) => name.endsWith(extension)).map((name) => join(folder, name)).sort();
}

const modified = (path: string) => existsSync(path) ? statSync(path).mtimeMs : 0;
const newest = (files: string[]) => Math.max(...files.map((f) => modified(join(root, f))));
const headers = [
  ...filesUnder("csrc", ".h"),
  ...filesUnder("csrc", ".inc"),
  ...filesUnder("tests/native", ".h"),
  ...filesUnder("tests/fuzz", ".h"),
];
const newestHeader = newest(["build.ts", ...headers]);
/** Kernels see few headers and take long to compile. */
const kernelHeaders = [
  ...filesUnder("csrc/backends/cuda", "h").filter((header) => !/(op|replay)\.h$/.test(header)),
  "csrc/base/ops.h",
  "csrc/base/tensor.h",
  "csrc/include/ctok.h",
];
const newestKernelHeader = newest(["build.ts", ...kernelHeaders]);
const isStale = (target: string, ...sources: string[]) =>
  modified(target) < Math.max(newestHeader, ...sources.map((f) => modified(join(root, f))));

/** Compiles to a temporary name and renames, so that a killed build leaves no half-written file. */
async function produce(target: string, args: string[], compiler = cc): Promise<void> {
  const temporary = `${target}.${process.pid}.tmp`;
  await run(compiler, [...args, "-o", temporary]);
  renameSync(temporary, target);
}

/** Programs that ask a GPU, and in build/tests the emulated one, for the layouts of its instructions. */
const layouts = filesUnder("tests/native/ptx_layouts", ".cu");
async function buildLayouts({ nvcc }: Cuda): Promise<void> {
  const seen = Math.max(newestKernelHeader, newest(filesUnder("tests/native/ptx_layouts", ".cuh")));
  await inParallel(
    layouts.map((source) => ({ source, target: join(out, "bench", basename(source, ".cu")) }))
      .filter(({ source, target }) => modified(target) < Math.max(seen, modified(join(root, source)))).map(
        ({ source, target }) => () => {
          const own = basename(source).startsWith("sm90_") ? ["-gencode", "arch=compute_90a,code=sm_90a"] : [];
          return produce(target, [
            "-std=c++17",
            "-O2",
            ...own,
            ...gpuCode(80),
            "-Werror",
            "all-warnings",
            join(root, source),
          ], nvcc);
        },
      ),
  );
}

/** The seam to CUDA is another object in a build without it. */
const isCuda = (source: string) => source.startsWith("csrc/backends/cuda/");
const objectOf = (source: string, hasCuda = cuda !== undefined) =>
  join(out, "objects", source.replaceAll("/", "-").replace(/\.cu?$/, isCuda(source) && !hasCuda ? ".none.o" : ".o"));
const cudaFlags = (source: string) => cuda && isCuda(source) ? ["-DCTOK_HAS_CUDA", "-isystem", cuda.include] : [];

/** ptxas tells of spilled registers and of serialised tensor-core instructions (C75xx) in passing: here both are errors. */
async function compileKernel({ nvcc }: Cuda, source: string): Promise<void> {
  const object = objectOf(source), temporary = `${object}.${process.pid}.tmp`;
  const flags = gpuFlags.find(([prefix]) => basename(source).startsWith(prefix))?.[1];
  if (!flags) throw new Error(`${source}: expected a name that begins with ${gpuFlags.map(([p]) => p).join(" or ")}`);
  // Nothing of the C++ library is linked: nvcc's stubs guard statics whose only value is the address of a kernel.
  const host = "-fPIC,-fvisibility=hidden,-fno-exceptions,-fno-rtti,-fno-threadsafe-statics,-Wall,-Wextra,-Werror";
  const args = ["-std=c++17", "-O3", ...flags, "-Werror", "all-warnings", "-Xptxas", "-v", "-Xcompiler", host];
  const log = await capture(nvcc, [...args, "-c", join(root, source), "-o", temporary]);
  writeFileSync(object.replace(/\.o$/, ".ptxas.txt"), log);
  const bad = log.split("\n").filter((line) => /[1-9]\d* bytes spill|\bC75\d\d\b/.test(line));
  if (bad.length > 0) {
    throw new Error(`${source}: expected no spilled registers and no serialised instructions, found\n${bad.join("\n")}`);
  }
  renameSync(temporary, object);
}

/** A test that puts functions of its own before the system's says which by "wrapped: malloc calloc" in its first lines. */
function wrapFlags(source: string): string[] {
  const names = /^\/\/ wrapped: (.*)$/m.exec(readFileSync(join(root, source), "utf8"))?.[1]?.split(" ") ?? [];
  return names.map((name) => `-Wl,--wrap=${name}`);
}

/**
 * The emulator's tests: the kernels again, as C++ for tests/native/cuda_emulator, beside the reference ops. -O2: their time goes
 * into switching fibers. Undefined behaviour (a misaligned address, an int overflow) traps, and the emulator reports it.
 */
const emulator = "tests/native/cuda_emulator/";
const emulated = [
  "-std=c++17",
  "-O2",
  "-g1",
  "-DCTOK_CUDA_EMULATOR",
  `-I${join(root, emulator)}`,
  "-ffp-contract=off",
  "-fno-strict-aliasing",
  "-fsanitize=signed-integer-overflow,alignment,shift,bounds",
  "-fsanitize-undefined-trap-on-error",
  "-Wall",
  "-Wextra",
  "-Wno-unknown-pragmas",
  "-Werror",
];

async function buildEmulator(): Promise<void> {
  if (spawnSync(cxx, ["--version"]).status !== 0) {
    console.log(`without the CUDA emulator's tests: no ${cxx} (apt-get install g++; CXX names another)`);
    return;
  }
  const kernels = filesUnder("csrc/backends/cuda", ".cu"), parts = [...kernels, `${emulator}emulator.cpp`];
  const object = (source: string) => join(out, "objects", `emulated-${basename(source).replace(/\.c\w*$/, ".o")}`);
  const own = [
    ...filesUnder(emulator, ".h"),
    "tests/native/tap.h",
    ...filesUnder("tests/native/ptx_layouts", ".cuh"),
    `${emulator}emulator.cpp`,
  ];
  const seen = Math.max(newestKernelHeader, newest(own));
  await inParallel(
    parts.filter((s) => modified(object(s)) < Math.max(seen, modified(join(root, s)))).map((source) => () =>
      produce(object(source), [...emulated, "-x", "c++", "-c", join(root, source)], cxx)
    ),
  );
  const linked = filesUnder("csrc", ".c").filter(isOfTarget)
    .filter((s) => /backends\/cpu\/|(base\/status|network\/quantizer)\.c|cuda\/(heuristics|conv_pack)\.c/.test(s)).map(
      (s) => objectOf(s),
    );
  const backend = ["cuda_backend", "op", "replay"].map((f) => `csrc/backends/cuda/${f}.c`);
  const tests = ["cuda_test", "backend_test", "loss_test", "list_test", "emulated_device"].map((t) => `${emulator}${t}.c`);
  for (const source of [...tests, "bench/gpu_check/gpu_run.c", ...backend]) {
    const flags = backend.includes(source) ? ["-DCTOK_HAS_CUDA", `-I${join(root, emulator)}`] : [];
    if (isStale(object(source), source)) {
      await produce(object(source), [...common, ...warnings, ...flags, "-c", join(root, source)]);
    }
  }
  const device = [...backend.map(object), object("emulated_device.c"), ...parts.map(object)];
  const programs: [string, string[]][] = [
    ["cuda_test", [object("cuda_test.c"), ...parts.map(object), ...linked]],
    ["backend_test", [object("backend_test.c"), ...device, ...linked]],
    ...["loss_test", "list_test", "emulated_run"].map((name): [string, string[]] => [name, [
      object(name === "emulated_run" ? "gpu_run.c" : `${name}.c`),
      ...device,
      ...filesUnder("csrc", ".c").filter((s) => isOfTarget(s) && !backend.includes(s)).map((s) => objectOf(s)),
    ]]),
    ...[`${emulator}emulator_test.cu`, ...layouts].map((source): [string, string[]] => [
      basename(source, ".cu"),
      ["-x", "c++", join(root, source), "-x", "none", object(`${emulator}emulator.cpp`)],
    ]),
  ];
  const program = (name: string) => join(out, "tests", name);
  const inputsOf = (inputs: string[]) => [seen, ...inputs.filter((i) => i.startsWith("/")).map(modified)];
  await inParallel(
    programs.filter(([name, inputs]) => modified(program(name)) < Math.max(newest(["build.ts"]), ...inputsOf(inputs))).map(
      ([name, inputs]) => () => produce(program(name), [...emulated, ...inputs, "-pthread", "-lm"], cxx),
    ),
  );
}

/** What the programs link too: every object, the libraries, and when the newest of them changed. */
interface Built {
  readonly objects: readonly string[];
  readonly libraries: readonly string[];
  readonly newestObject: number;
}

// nodelete: a runtime that unloads its libraries at exit must not take the code from under the engine's threads.
const shared = ["-shared", "-Wl,-z,defs", "-Wl,-z,nodelete", "-Wl,--exclude-libs,ALL"];

/** Where there is nvcc, libctok-cpu.so beside libctok.so: what pack.ts gives those who have no GPU, of the same objects but few. */
async function buildWithoutCuda(sources: string[]): Promise<void> {
  const library = join(out, "libctok-cpu.so"), objects = sources.map((source) => objectOf(source, false));
  for (const source of sources.filter((s) => isCuda(s) && isStale(objectOf(s, false), s))) {
    await produce(objectOf(source, false), [...common, ...warnings, "-c", join(root, source)]);
  }
  if (modified(library) >= Math.max(...objects.map(modified))) return;
  await produce(library, [...shared, ...objects, "-pthread", "-lm"]);
}

async function buildLibrary(): Promise<Built> {
  mkdirSync(join(out, "objects"), { recursive: true });
  const sources = filesUnder("csrc", ".c").filter(isOfTarget), kernels = cuda ? filesUnder("csrc/backends/cuda", ".cu") : [];
  if (!cuda) console.log(`without CUDA: ${found}`);
  await inParallel([
    ...kernels.filter((s) => modified(objectOf(s)) < Math.max(newestKernelHeader, modified(join(root, s)))).map(
      (source) => () => compileKernel(cuda!, source),
    ),
    ...sources.filter((s) => isStale(objectOf(s), s)).map((source) => () => {
      const flags = rowOf(source)[2];
      return produce(objectOf(source), [...common, ...warnings, ...flags, ...cudaFlags(source), "-c", join(root, source)]);
    }),
  ]);
  const objects = [...sources, ...kernels].map((s) => objectOf(s));
  const libraries = [...(cuda ? [cuda.runtime, "-ldl", "-lrt"] : []), "-pthread", "-lm"];
  const library = join(out, "libctok.so");
  // A list that changed (nvcc came or went) links again, although no object is new.
  const list = join(out, "objects", "linked.txt"), names = [...objects, ...libraries].join("\n");
  if (!existsSync(list) || readFileSync(list, "utf8") !== names) writeFileSync(list, names);
  const newestObject = Math.max(modified(list), ...objects.map(modified));
  if (!isSanitized && modified(library) < newestObject) {
    await produce(library, [...shared, ...objects, ...libraries]);
  }
  if (!isSanitized && cuda) await buildWithoutCuda(sources);
  return { objects, libraries, newestObject };
}

/** Of QEMU, and so for this machine: counts instructions for bench/ops.c. */
const insnsPlugin = "bench/arm64/insns_plugin.c";
async function buildInsnsPlugin(): Promise<void> {
  const plugin = join(out, "bench/insns_plugin.so");
  if (!isStale(plugin, insnsPlugin)) return;
  await produce(plugin, [...common, ...warnings, "-shared", join(root, insnsPlugin)], process.env.HOST_CC ?? "cc");
}

async function buildPrograms({ objects, libraries, newestObject }: Built): Promise<void> {
  for (const folder of ["tests", "bench", ...(isFuzzed ? ["fuzz"] : [])]) mkdirSync(join(out, folder), { recursive: true });
  const folders = ["tests/native", ...(isSanitized ? [] : ["bench"]), ...(isFuzzed ? ["tests/fuzz"] : [])];
  const programs = folders.flatMap((folder) => filesUnder(folder, ".c")).filter((source) =>
    !source.startsWith(emulator) && source !== insnsPlugin
  )
    .map((source) => ({
      source,
      target: join(
        out,
        source.startsWith("tests/native") ? "tests" : source.startsWith("bench") ? "bench" : "fuzz",
        basename(source, ".c"),
      ),
      flags: source.startsWith("tests/fuzz") ? ["-fsanitize=fuzzer"] : wrapFlags(source),
    }));
  await inParallel(
    programs.filter(({ source, target }) => isStale(target, source) || modified(target) < newestObject).map(
      (program) => () =>
        produce(program.target, [
          ...common,
          ...warnings,
          ...program.flags,
          join(root, program.source),
          ...objects,
          ...libraries,
        ]),
    ),
  );
  if (!isSanitized && cuda) await buildLayouts(cuda);
  if (isCross) await buildInsnsPlugin();
  // The emulated kernels are the same C++ for every processor, and one emulator inside another would take an hour.
  if (!isSanitized && !isCross) await buildEmulator();
}

/** `part`: "library" for libctok.so alone; otherwise the programs of tests and benchmarks too. */
export async function build(part?: string): Promise<void> {
  if (part !== undefined && part !== "library") throw new Error(`build.ts: expected library or nothing, found ${part}`);
  const built = await buildLibrary();
  if (part !== "library") await buildPrograms(built);
}

if (isProgram) await build(positionals[0]);
