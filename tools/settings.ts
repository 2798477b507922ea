/**
 * What build.ts was asked for, on its command line and in the environment, and the flags that a file's name decides.
 * Called by build.ts and the files beside this one. docs/environment.md lists the variables.
 */
import { existsSync, readdirSync } from "node:fs";
import { basename, join } from "node:path";
import process from "node:process";
import { fileURLToPath } from "node:url";
import { parseArgs } from "node:util";

export const root = fileURLToPath(new URL("../", import.meta.url));

// Note: a test that asks for a function of this folder is another program, with arguments of its own.
const isBuild = /^build\.[jt]s$/.test(basename(process.argv[1] ?? ""));
export const { values: options, positionals } = parseArgs({
  args: isBuild ? process.argv.slice(2) : [],
  allowPositionals: true,
  options: { target: { type: "string" }, "dry-run": { type: "boolean" } },
});
const { target } = options;

/** Architectures with kernels of their own, by the first part of a compiler's triplet. */
const architectures = { x86_64: "x64", aarch64: "arm64" } as const;
type Architecture = typeof architectures[keyof typeof architectures];

function architectureOf(triplet: string): Architecture {
  const architecture = architectures[triplet.split("-")[0] as keyof typeof architectures];
  if (!architecture) throw new Error(`--target: expected aarch64-linux-gnu or x86_64-linux-gnu, found ${triplet}`);
  return architecture;
}

export const architecture = target ? architectureOf(target) : process.arch;
export const isDarwin = target ? target.includes("darwin") : process.platform === "darwin";
export const isCross = target !== undefined &&
  (architecture !== process.arch || isDarwin !== (process.platform === "darwin"));
/** The triplet of a build for another machine. */
export const crossTarget = isCross ? target : undefined;

const words = (text: string | undefined) => (text ?? "").split(" ").filter(Boolean);
const extra = words(process.env.CFLAGS);
export const isSanitized = extra.some((flag) => flag.startsWith("-fsanitize"));
export const isFuzzed = extra.some((flag) => flag.includes("fuzzer-no-link"));
/** Warnings end the build where it is checked; a user with a newer compiler only reads them. */
export const isStrict = !["", "0", "false"].includes(process.env.CI ?? "");

/** The folder of all that is made, from the root. */
export const out = join(
  process.env.BUILD ?? "build",
  ...(isCross ? [isDarwin ? target! : target!.split("-")[0]!] : []),
);

/** Compilers, which may have arguments: CC="ccache gcc". */
export const cc = process.env.CC ? words(process.env.CC) : [isCross ? `${target}-gcc` : "cc"];
export const cxx = words(process.env.CXX ?? "g++");

const strict = isStrict ? ["-Werror"] : [];
const optimised = [
  "-std=c11",
  "-O3",
  "-g1",
  "-fPIC",
  "-fvisibility=hidden",
  "-fno-math-errno",
  "-pthread",
  "-D_GNU_SOURCE",
];
const warnings = ["-Wall", "-Wextra", "-Wstrict-prototypes", ...strict];
export const cFlags = [...optimised, ...extra, ...warnings];
/** What programs are linked with too. */
export const linkFlags = [...extra, "-pthread"];

/** Of C++ that runs on no emulator. */
export const cppFlags = ["-std=c++17", "-O2", "-g1", "-Wall", "-Wextra", ...strict];

/**
 * The CUDA emulator's flags: kernels as C++. -O2: their time goes into switching fibers. Undefined behaviour (a
 * misaligned address, an int overflow) traps, and the emulator reports it.
 */
export const emulatedFlags = [
  ...["-std=c++17", "-O2", "-g1", "-DCTOK_CUDA_EMULATOR", "-Itests/native/cuda_emulator/"],
  ...["-ffp-contract=off", "-fno-strict-aliasing", "-fsanitize=signed-integer-overflow,alignment,shift,bounds"],
  ...["-fsanitize-undefined-trap-on-error", "-Wall", "-Wextra", "-Wno-unknown-pragmas", ...strict],
];

/** Of what runs on the emulator: each access calls a function, which is the emulator's (emulated_memory.cpp). */
export const seenFlags = ["-fsanitize=thread", "--param", "tsan-instrument-func-entry-exit=0"];

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
export const isOfTarget = (source: string) => ["any", architecture].includes(rowOf(source)[1]);
export const flagsOf = (source: string): readonly string[] => rowOf(source)[2];

/** Files below a folder of the root with that end, in the order of their names. */
export function filesUnder(folder: string, end: string): string[] {
  if (!existsSync(join(root, folder))) return []; // as tests are in the package
  return readdirSync(join(root, folder), { recursive: true, encoding: "utf8" })
    .filter((name) => name.endsWith(end)).map((name) => join(folder, name)).sort();
}

export const objectFile = (name: string) => join(out, "objects", `${name.replaceAll("/", "-")}.o`);
