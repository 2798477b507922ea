/**
 * The format of C and CUDA, by .clang-format. npm run fmt writes it; tests/run.ts checks it, and that no line of csrc/
 * is longer than 100 columns, which clang-format leaves where it finds no place to break. Versions of clang-format
 * differ in what they write, so the one of Debian 12 rules. Run: node_modules/.bin/bun tools/format.ts
 */
import { spawnSync } from "node:child_process";
import { readFileSync, realpathSync } from "node:fs";
import { join } from "node:path";
import process from "node:process";
import { fileURLToPath } from "node:url";
import { filesUnder, root } from "./settings.ts";

const version = 14, widest = 100;
const files = ["csrc", "tests/native", "tests/fuzz", "bench", "examples"].flatMap((folder) =>
  [".c", ".h", ".inc", ".cu", ".cuh", ".cpp"].flatMap((end) => filesUnder(folder, end))
);

/** clang-format of that version, or why there is none. */
function findFormatter(): { program: string } | string {
  for (const program of [`clang-format-${version}`, "clang-format"]) {
    const { stdout } = spawnSync(program, ["--version"], { encoding: "utf8" });
    if (new RegExp(`version ${version}\\.`).test(stdout ?? "")) return { program };
  }
  return `there is no clang-format ${version} (apt-get install clang-format-${version})`;
}

function formatted(program: string, ...args: string[]): { isGood: boolean; out: string } {
  const { status, stderr } = spawnSync(program, [...args, "--style=file", ...files], { cwd: root, encoding: "utf8" });
  return { isGood: status === 0, out: stderr };
}

/** What is wrong with the format of C; undefined where nothing is. `skipped`: it could not be asked. */
export function checkC(): { skipped?: string; wrong?: string } {
  const wide = filesUnder("csrc", "").filter((path) => /\.(c|h|inc|cu|cuh)$/.test(path)).flatMap((path) =>
    readFileSync(join(root, path), "utf8").split("\n").flatMap((line, i) =>
      line.length > widest ? [`${path}:${i + 1}: expected at most ${widest} columns, found ${line.length}`] : []
    )
  );
  if (wide.length > 0) return { wrong: wide.join("\n") };
  const found = findFormatter();
  if (typeof found === "string") return { skipped: found };
  const { isGood, out } = formatted(found.program, "--dry-run", "-Werror");
  return isGood ? {} : { wrong: out };
}

if (process.argv[1] !== undefined && realpathSync(process.argv[1]) === fileURLToPath(import.meta.url)) {
  const found = findFormatter();
  if (typeof found === "string") console.log(`C is left as it is: ${found}`);
  // Note: what the first pass breaks, the second may join.
  else {for (let pass = 0; pass < 3 && !formatted(found.program, "--dry-run", "-Werror").isGood; pass++) {
      formatted(found.program, "-i");
    }}
}
