/**
 * Compiles csrc/ into build/libctok.so, tests/native/*.c into build/tests/ and bench/*.c into build/bench/. Run:
 * node_modules/.bin/bun build.ts A file's prefix decides its flags and its architecture (avx512_conv.c gets AVX-512,
 * and is left out on arm64), so only files that dispatch guards hold such code: tools/settings.ts has the table.
 * Objects are kept; a file is compiled again when it, a header that it includes or its command changed, and --dry-run
 * tells which and why (tools/steps.ts). Limit: needs gcc or clang (CC names one). JOBS run at once, as many as there
 * are processors. The CUDA kernels go in where there is nvcc (on the PATH, in /usr/local/cuda, or NVCC); CUDA=0 leaves
 * them out. The library holds the CUDA runtime and needs no driver to load: one file for machines with and without a
 * GPU.
 * "library" builds it alone, "op_test golden_test" these programs beside it. Warnings are errors where CI is set.
 * build/compile_commands.json tells editors the commands, unless the library was built alone.
 * tests/long.ts builds with sanitizers: CFLAGS adds flags, BUILD names the folder, and with -fsanitize=fuzzer-no-link
 * among the flags tests/fuzz/*.c become programs as well. No library is made then.
 * --target aarch64-linux-gnu builds for arm64 on another machine, in build/aarch64: the library, the native tests (for
 * QEMU, see tests/run.ts) and the benchmarks, by Debian's gcc-aarch64-linux-gnu.
 */
import { basename } from "node:path";
import type { Cuda } from "./tools/cuda.ts";
import { librarySteps, lookForCuda, makeLibrary } from "./tools/library.ts";
import { programSteps } from "./tools/programs.ts";
import { options, positionals } from "./tools/settings.ts";
import { makeSteps, type Step, tellSteps, writeCompileCommands } from "./tools/steps.ts";

/** The steps of the programs that were asked for: all, or those of these names. */
function wantedSteps(cuda: Cuda | undefined): Step[] {
  if (positionals.join() === "library") return [];
  const all = programSteps(cuda), names = positionals.filter((name) => name !== "library");
  if (names.length === 0) return all;
  const wanted = all.filter(({ output }) => names.includes(basename(output)));
  const missing = names.filter((name) => wanted.every(({ output }) => basename(output) !== name));
  if (missing.length > 0) {
    throw new Error(`build.ts: expected library or names of programs, found ${missing.join(", ")}`);
  }
  return all.filter((step) => wanted.includes(step) || wanted.some(({ inputs }) => inputs.includes(step.output)));
}

const found = lookForCuda();
if (options["dry-run"]) {
  for (const line of tellSteps([...librarySteps(found), ...wantedSteps(found)])) console.log(line);
} else {
  wantedSteps(found); // a wrong name ends the build before any work
  const cuda = await makeLibrary(found);
  if (positionals.join() !== "library") writeCompileCommands([...librarySteps(cuda), ...programSteps(cuda)]);
  await makeSteps(wantedSteps(cuda));
}
