/**
 * Prints the commands of build.ts for the programs of bench/gpu_check, for build.sh on a machine that has nvcc and cc
 * but no Bun: a line each, "compile", "program" or "link" before it. What is another machine's stands in variables.
 * pack.sh builds with them what it packs, so that they are tried each time. Run: node_modules/.bin/bun
 * bench/gpu_check/commands.ts
 */
import { basename } from "node:path";
import { type Cuda, findCuda } from "../../tools/cuda.ts";
import { librarySteps } from "../../tools/library.ts";
import { programSteps } from "../../tools/programs.ts";
import type { Step } from "../../tools/steps.ts";

const wanted = ["gpu_run", "gpu_ops", "gpu_test", "make_weights", "sm80_layouts", "sm90_layouts"];

const isProgram = ({ output }: Step) => wanted.includes(basename(output));

/** The programs' steps, after those of all objects that they are linked with. */
function stepsOf(cuda: Cuda): Step[] {
  const all = [...librarySteps(cuda), ...programSteps(cuda)];
  // Note: the layouts are built for a GPU in build/bench, and for the emulator in build/tests.
  const programs = all.filter((step) => isProgram(step) && (step.source || !/_layouts$/.test(step.output)));
  const inputs = new Set(programs.flatMap((step) => step.inputs));
  return [...all.filter(({ output }) => inputs.has(output)), ...programs];
}

/** Without what only the checkout's own build asks of warnings and of ptxas. */
const withoutChecks = (words: readonly string[]) =>
  words.filter((word, i) =>
    !["-Werror", "all-warnings", "-v"].includes(word) && !(word === "-Xptxas" && words[i + 1] === "-v")
  ).map((word) => word.replace(",-Werror", ""));

function lineOf(step: Step, cuda: Cuda): string {
  const name = basename(step.output), output = isProgram(step) ? `$BIN/${name}` : `$OBJECTS/${name}`;
  const [compiler, ...words] = withoutChecks(step.command).map((word) =>
    word.replace(cuda.runtime, "$RUNTIME").replace(cuda.include, "$TOOLKIT/include").replace(
      /^.*\/objects\//,
      "$OBJECTS/",
    )
  );
  const kind = !step.source ? "link" : isProgram(step) ? "program" : "compile";
  const switches = step.source?.startsWith("csrc/backends/cuda/") ? ["$SWITCHES"] : [];
  const rule = step.source ? ["-MMD", "-MF", `$OBJECTS/${name}.d`] : ["-s"]; // linked without symbols
  return [kind, compiler === cuda.nvcc ? "$NVCC" : "$CC", ...words, ...switches, ...rule, "-o", output].join(" ");
}

const cuda = findCuda();
if (typeof cuda === "string") throw new Error(`commands.ts: expected nvcc, found none: ${cuda}`);
for (const step of stepsOf(cuda)) console.log(lineOf(step, cuda));
