/** The direction of dependencies and the budgets, as the README's tree states them: nothing points up. */
import assert from "node:assert/strict";
import { readdirSync, readFileSync } from "node:fs";
import { dirname, join, relative } from "node:path";
import { test } from "node:test";
import { root } from "../support.ts";

function files(folder: string, pattern: RegExp): string[] {
  return readdirSync(join(root, folder), { recursive: true, encoding: "utf8" }).filter((f) => pattern.test(f)).map((f) =>
    join(folder, f)
  ).sort();
}
const read = (file: string) => readFileSync(join(root, file), "utf8");

/** Local files that a file imports or includes, relative to the root. */
function dependencies(file: string): string[] {
  const pattern = file.endsWith(".ts") ? /(?:from|import)\s*\(?\s*"((?:\.{1,2}\/)[^"]+|mod\.ts)"/g : /#include "([^"]+)"/g;
  const code = read(file).replace(/\/\*[\s\S]*?\*\//g, "");
  return [...code.matchAll(pattern)].map(([, path]) =>
    path === "mod.ts" ? "mod.ts" : relative(root, join(root, dirname(file), path!))
  );
}

/** What files under `from` may depend on. The first pattern that matches a file rules. */
function checkRules(all: string[], rules: [from: RegExp, allowed: RegExp][]): void {
  for (const file of all) {
    const rule = rules.find(([from]) => from.test(file));
    assert.ok(rule, `${file}: no rule says where it belongs`);
    for (const dependency of dependencies(file)) {
      assert.match(dependency, rule[1], `${file} depends on ${dependency}`);
    }
  }
}

test("TypeScript: cli → repl → mod.ts; examples, plugin → mod.ts → src → ffi", () => {
  const all = ["src", "ffi", "examples", "plugin"].flatMap((folder) => files(folder, /\.ts$/));
  checkRules([...all, "mod.ts"], [
    [/^examples\//, /^(mod\.ts|examples\/.*)$/],
    [/^plugin\//, /^mod\.ts$/],
    [/^src\/cli\//, /^(mod\.ts|src\/(cli|repl)\/.*)$/],
    [/^src\/repl\//, /^(mod\.ts|src\/repl\/.*)$/],
    [/^mod\.ts$/, /^src\/(?!cli\/|repl\/)/],
    [/^src\//, /^(src\/(?!cli\/|repl\/).*|ffi\/(native|layout|load)\.ts)$/],
    [/^ffi\/load\.ts$/, /^ffi\/(native|layout|bun|deno)\.ts$/],
    [/^ffi\/(bun|deno)\.ts$/, /^ffi\/(native|symbols)\.ts$/],
    [/^ffi\/native\.ts$/, /^ffi\/(layout|symbols)\.ts$/],
    [/^ffi\/(symbols|layout)\.ts$/, /^$/],
  ]);
});

test("C: abi → core → checkpoint, backend.h; backends → backend.h and the core's plain types", () => {
  const plain = "csrc/(include/ctok|core/(status|tensor|fsq))\\.h";
  checkRules(files("csrc", /\.(c|h|inc|cu|cuh)$/), [
    [/^csrc\/include\//, /^$/],
    [/^csrc\/abi\.c$/, /^csrc\/(include\/ctok|core\/(job|lifetime))\.h$/],
    [/^csrc\/core\/(status|tensor)\./, /^csrc\/(include\/ctok|core\/(status|tensor))\.h$/],
    [/^csrc\/core\//, /^csrc\/(core\/\w+|checkpoint\/checkpoint|backends\/backend|include\/ctok)\.h$/],
    [/^csrc\/checkpoint\//, new RegExp(`^(csrc/checkpoint/\\w+\\.h|${plain})$`)],
    [/^csrc\/backends\/\w+\.h$/, new RegExp(`^(csrc/backends/params\\.h|${plain})$`)],
    [
      /^csrc\/backends\/cpu\//,
      new RegExp(`^(csrc/backends/(backend|params)\\.h|csrc/backends/cpu/\\w+\\.(h|inc)|${plain})$`),
    ],
    [
      /^csrc\/backends\/cuda\/.*\.[ch]$/,
      new RegExp(`^(csrc/backends/(backend|params)\\.h|csrc/backends/cuda/\\w+\\.h|${plain})$`),
    ],
    // Kernels see parameters, each other's headers and ptx/: nothing of the seam or of core.
    [
      /^csrc\/backends\/cuda\//,
      new RegExp(`^(csrc/backends/params\\.h|csrc/backends/cuda/(ptx/)?\\w+\\.(h|cuh)|${plain})$`),
    ],
  ]);
});

test("src/ names no runtime", () => {
  for (const file of files("src", /\.ts$/)) assert.doesNotMatch(read(file), /\b(Deno|Bun)\.|"bun:/, file);
});

test("budgets: abi.c, adapters, backend ops; long files say why", () => {
  const lines = (file: string) => read(file).split("\n").length;
  assert.ok(lines("csrc/abi.c") <= 500);
  for (const adapter of ["ffi/bun.ts", "ffi/deno.ts"]) {
    assert.ok(lines(adapter) <= 60, `${adapter}: ${lines(adapter)} lines`);
  }
  const ops = /\/\/ Ops\.[\s\S]*?\} backend_ops;/.exec(read("csrc/backends/backend.h"))![0].match(/ctok_status \(\*/g)!;
  assert.ok(ops.length <= 10, `${ops.length} backend ops`);
  for (const file of [...files("csrc", /\.(c|h|inc|cu|cuh)$/), ...files("src", /\.ts$/), ...files("ffi", /\.ts$/)]) {
    assert.ok(lines(file) <= 400 || /Note: over 400 lines/.test(read(file)), `${file}: ${lines(file)} lines and no reason`);
  }
});
