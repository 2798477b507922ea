/**
 * The programs beside the library: tests/native/*.c in build/tests, bench/*.c in build/bench, and tests/fuzz/*.c in a
 * build for a fuzzer; for arm64 QEMU's plugin that counts instructions. Called by build.ts.
 */
import { readFileSync } from "node:fs";
import { basename, join, resolve } from "node:path";
import process from "node:process";
import { type Cuda, layoutSteps } from "./cuda.ts";
import { emulatorFolder, emulatorSteps } from "./emulator.ts";
import { libraryOf } from "./library.ts";
import {
  cc,
  cFlags,
  filesUnder,
  isCross,
  isFuzzed,
  isSanitized,
  linkFlags,
  objectFile,
  out,
  root,
} from "./settings.ts";
import { compileStep, linkStep, type Step } from "./steps.ts";

/**
 * A test that puts functions of its own before the system's says which by "wrapped: malloc calloc" in its first lines.
 */
function wrapFlags(source: string): string[] {
  const names = /^\/\/ wrapped: (.*)$/m.exec(readFileSync(resolve(root, source), "utf8"))?.[1]?.split(" ") ?? [];
  return names.map((name) => `-Wl,--wrap=${name}`);
}

const folderOf = { tests: "tests/native", bench: "bench", fuzz: "tests/fuzz" } as const;

/** Of QEMU, and so for this machine: counts instructions for bench/ops.c. */
const insnsPlugin = "bench/arm64/insns_plugin.c";
const insnsStep = (): Step => ({
  output: join(out, "bench/insns_plugin.so"),
  command: [process.env.HOST_CC ?? "cc", ...cFlags, "-shared", insnsPlugin],
  inputs: [insnsPlugin],
  source: insnsPlugin,
});

function programs(kind: keyof typeof folderOf, cuda?: Cuda): Step[] {
  const { objects, libraries } = libraryOf(cuda), fuzzer = kind === "fuzz" ? ["-fsanitize=fuzzer"] : [];
  const sources = filesUnder(folderOf[kind], ".c").filter((s) => !s.startsWith(emulatorFolder) && s !== insnsPlugin);
  return sources.flatMap((source) => {
    const object = objectFile(source.replace(/\.c$/, "")), program = join(out, kind, basename(source, ".c"));
    const flags = [...fuzzer, ...wrapFlags(source)];
    return [
      compileStep(object, source, [...cc, ...cFlags, ...fuzzer]),
      linkStep(program, [...cc, ...flags, object, ...objects, ...libraries, ...linkFlags]),
    ];
  });
}

export const programSteps = (cuda?: Cuda): Step[] => [
  ...programs("tests", cuda),
  ...(isSanitized ? [] : programs("bench", cuda)),
  ...(isFuzzed ? programs("fuzz", cuda) : []),
  ...(!isSanitized && cuda ? layoutSteps(cuda) : []),
  ...(isCross ? [insnsStep()] : []),
  // The emulated kernels are the same C++ for every processor, and one emulator inside another would take an hour.
  ...(isSanitized || isCross ? [] : emulatorSteps(cuda)),
];
