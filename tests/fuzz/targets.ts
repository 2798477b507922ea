/**
 * The fuzz targets, and how each is built by itself. Most of them need the reading and writing of checkpoints alone.
 */
import { readdirSync } from "node:fs";
import { join } from "node:path";
import { fileURLToPath } from "node:url";

const root = fileURLToPath(new URL("../../", import.meta.url));

const filesIn = (folder: string, end: string) =>
  readdirSync(join(root, folder)).filter((f) => f.endsWith(end)).sort().map((f) => join(folder, f));

export const targets: readonly string[] = filesIn("tests/fuzz", ".c").map((path) =>
  path.slice("tests/fuzz/".length, -2)
);
const isParser = (name: string) => /^(zip|pickle|torchscript|safetensors|values|outputs)_/.test(name);
export const parsers = targets.filter(isParser);

/**
 * What the compiler takes to build one of them, from the root. Code with flags of its own comes as build.ts has
 * compiled it: watched, they take minutes to compile and do a tenth of the inputs, which is what tests/long.ts has time
 * for.
 */
export function compilerArgs(name: string, flags: readonly string[], program: string): string[] {
  const inputs = [join("tests/fuzz", `${name}.c`), ...filesIn("csrc/checkpoint", ".c")];
  if (isParser(name)) inputs.push("csrc/base/status.c");
  else {
    inputs.push(
      "csrc/abi.c",
      ...["base", "network", "runtime"].flatMap((folder) => filesIn(`csrc/${folder}`, ".c")).filter((path) =>
        !/(shani|armsha)_/.test(path)
      ),
    );
    inputs.push(...filesIn("csrc/backends/cuda", ".c"));
    inputs.push(
      ...filesIn("build/objects", ".o").filter((path) => /csrc-(backends-cpu|base-(shani|armsha))/.test(path)),
    );
  }
  return ["-std=c11", "-O1", "-g1", "-D_GNU_SOURCE", ...flags, ...inputs, "-pthread", "-lm", "-o", program];
}
