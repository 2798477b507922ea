/** The fuzz targets that are parsers: they need the reading of checkpoints alone, and so are built by themselves. */
import { readdirSync } from "node:fs";
import { join } from "node:path";
import { fileURLToPath } from "node:url";

const root = fileURLToPath(new URL("../../", import.meta.url));

const sourcesIn = (folder: string) =>
  readdirSync(join(root, folder)).filter((f) => f.endsWith(".c")).map((f) => join(folder, f));

export const parsers: readonly string[] = sourcesIn("tests/fuzz").map((path) => path.slice("tests/fuzz/".length, -2))
  .filter((name) => /^(zip|pickle|torchscript|safetensors)_/.test(name));

/** What the compiler takes to build one of them, from the root. */
export function compilerArgs(name: string, flags: readonly string[], program: string): string[] {
  const inputs = [join("tests/fuzz", `${name}.c`), "csrc/core/status.c", ...sourcesIn("csrc/checkpoint")];
  return ["-std=c11", "-O1", "-g1", "-D_GNU_SOURCE", ...flags, ...inputs, "-lm", "-o", program];
}
