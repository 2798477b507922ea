/**
 * Compiles csrc/ into build/libctok.so, tests/native/*.c into build/tests/ and bench/*.c into build/bench/. Run: node_modules/.bin/bun build.ts
 * A file's prefix decides its flags (avx512_conv.c gets AVX-512), so only files that dispatch guards hold such code.
 * Objects are kept; a file is compiled again when it, a header or this file changed. Limit: needs gcc or clang (CC names one).
 */
import { spawn } from "node:child_process";
import { existsSync, mkdirSync, readdirSync, renameSync, statSync } from "node:fs";
import { basename, join } from "node:path";
import process from "node:process";
import { fileURLToPath } from "node:url";

const root = fileURLToPath(new URL(".", import.meta.url));
const out = join(root, "build");
const isX86 = process.arch === "x64";

const common = ["-std=c11", "-O3", "-g1", "-fPIC", "-fvisibility=hidden", "-fno-math-errno", "-pthread", "-D_GNU_SOURCE"];
const warnings = ["-Wall", "-Wextra", "-Wstrict-prototypes", "-Werror"];

/** First match wins. Off x86-64 the files are compiled to nothing and the generic kernels serve. */
const prefixFlags: [prefix: string, flags: string[]][] = [
  [
    "avx512bf16_",
    isX86 ? ["-mavx512f", "-mavx512bw", "-mavx512dq", "-mavx512vl", "-mavx512bf16", "-mfma", "-ffp-contract=fast"] : [],
  ],
  ["avx512_", isX86 ? ["-mavx512f", "-mavx512bw", "-mavx512dq", "-mavx512vl", "-mfma", "-ffp-contract=fast"] : []],
  ["avx2_", isX86 ? ["-mavx2", "-mfma", "-ffp-contract=fast"] : []],
  ["", ["-ffp-contract=off"]],
];

const cc = process.env.CC ?? "cc";
const jobs = Number(process.env.JOBS ?? 2);

function run(command: string, args: string[]): Promise<void> {
  return new Promise((resolve, reject) => {
    const child = spawn(command, args, { stdio: "inherit" });
    child.on(
      "error",
      (error) => reject(new Error(`${command}: ${error.message}. A C compiler is needed (apt-get install gcc)`)),
    );
    child.on(
      "close",
      (code) => code === 0 ? resolve() : reject(new Error(`${command} ${args.join(" ")}\nexited with ${code}`)),
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
const headers = [...filesUnder("csrc", ".h"), ...filesUnder("csrc", ".inc"), ...filesUnder("tests/native", ".h")];
const newestHeader = Math.max(...["build.ts", ...headers].map((f) => modified(join(root, f))));
const isStale = (target: string, ...sources: string[]) =>
  modified(target) < Math.max(newestHeader, ...sources.map((f) => modified(join(root, f))));

/** Compiles to a temporary name and renames, so that a killed build leaves no half-written file. */
async function produce(target: string, args: string[]): Promise<void> {
  const temporary = `${target}.${process.pid}.tmp`;
  await run(cc, [...args, "-o", temporary]);
  renameSync(temporary, target);
}

const objectOf = (source: string) => join(out, "objects", source.replaceAll("/", "-").replace(/\.c$/, ".o"));

export async function build(): Promise<void> {
  mkdirSync(join(out, "objects"), { recursive: true });
  for (const folder of ["tests", "bench"]) mkdirSync(join(out, folder), { recursive: true });
  const sources = filesUnder("csrc", ".c");
  await inParallel(
    sources.filter((s) => isStale(objectOf(s), s)).map((source) => () => {
      const flags = prefixFlags.find(([prefix]) => basename(source).startsWith(prefix))![1];
      return produce(objectOf(source), [...common, ...warnings, ...flags, "-c", join(root, source)]);
    }),
  );
  const objects = sources.map(objectOf);
  const library = join(out, "libctok.so");
  const newestObject = Math.max(...objects.map(modified));
  if (modified(library) < newestObject) {
    // nodelete: a runtime that unloads its libraries at exit must not take the code from under the engine's threads.
    await produce(library, [
      "-shared",
      "-Wl,-z,defs",
      "-Wl,-z,nodelete",
      "-Wl,--exclude-libs,ALL",
      ...objects,
      "-pthread",
      "-lm",
    ]);
  }
  const programs = [...filesUnder("tests/native", ".c"), ...filesUnder("bench", ".c")].map((source) => ({
    source,
    target: join(out, source.startsWith("bench") ? "bench" : "tests", basename(source, ".c")),
  }));
  await inParallel(
    programs.filter(({ source, target }) => isStale(target, source) || modified(target) < newestObject).map(
      (program) => () =>
        produce(program.target, [...common, ...warnings, join(root, program.source), ...objects, "-pthread", "-lm"]),
    ),
  );
}

if (import.meta.main) await build();
