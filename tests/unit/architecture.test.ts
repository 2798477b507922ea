/**
 * The direction of dependencies and the budgets, as docs/architecture.md draws them: nothing points up, nothing goes
 * round.
 */
import assert from "node:assert/strict";
import { readdirSync, readFileSync } from "node:fs";
import { dirname, join, relative } from "node:path";
import { test } from "node:test";
import { root } from "../support.ts";

function files(folder: string, pattern: RegExp): string[] {
  return readdirSync(join(root, folder), { recursive: true, encoding: "utf8" }).filter((f) => pattern.test(f)).map((
    f,
  ) => join(folder, f)).sort();
}
const read = (file: string) => readFileSync(join(root, file), "utf8");

/** Local files that a file imports or includes, relative to the root. */
function dependencies(file: string): string[] {
  const pattern = file.endsWith(".ts")
    ? /(?:from|import)\s*\(?\s*"((?:\.{1,2}\/)[^"]+|mod\.ts|ctok)"/g
    : /#include "([^"]+)"/g;
  const code = read(file).replace(/\/\*[\s\S]*?\*\//g, "");
  return [...code.matchAll(pattern)].map(([, path]) =>
    path === "mod.ts" || path === "ctok" ? "mod.ts" : relative(root, join(root, dirname(file), path!))
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

/** A circle among files, or undefined. `unitOf` says which files are one: a C file and its header. */
function findCircle(all: string[], unitOf: (file: string) => string): string[] | undefined {
  const edges = new Map<string, Set<string>>();
  for (const file of all) {
    const from = unitOf(file), to = edges.get(from) ?? new Set();
    edges.set(from, to);
    for (const dependency of dependencies(file)) if (unitOf(dependency) !== from) to.add(unitOf(dependency));
  }
  const done = new Set<string>(), path: string[] = [];
  const visit = (unit: string): string[] | undefined => {
    if (path.includes(unit)) return [...path.slice(path.indexOf(unit)), unit];
    if (done.has(unit)) return undefined;
    path.push(unit);
    for (const next of edges.get(unit) ?? []) {
      const circle = visit(next);
      if (circle) return circle;
    }
    path.pop();
    done.add(unit);
    return undefined;
  };
  for (const unit of edges.keys()) {
    const circle = visit(unit);
    if (circle) return circle;
  }
  return undefined;
}

const typescript = [
  ...["src", "ffi", "cli", "repl", "plugin", "examples"].flatMap((folder) => files(folder, /\.ts$/)),
  "mod.ts",
];
const c = files("csrc", /\.(c|h|inc|cu|cuh)$/);

test("TypeScript: programs → mod.ts → corpus → model → media, looking → tokens → the ground; model → ffi", () => {
  const ground = "src/\\w+\\.ts", tokens = `${ground}|src/tokens/.*`;
  checkRules(typescript, [
    [/^(examples|plugin)\//, /^(mod\.ts|examples\/.*)$/],
    [/^cli\//, /^(mod\.ts|(cli|repl)\/.*)$/],
    [/^repl\//, /^(mod\.ts|repl\/.*)$/],
    [/^mod\.ts$/, /^src\//],
    [/^src\/corpus\//, /^src\//],
    [/^src\/model\//, /^(src\/(?!corpus\/).*|ffi\/(native|layout|load)\.ts)$/],
    [/^src\/media\//, new RegExp(`^(${tokens}|src/media/.*)$`)],
    [/^src\/looking\//, new RegExp(`^(${tokens}|src/looking/.*)$`)],
    [/^src\/tokens\//, new RegExp(`^(${tokens})$`)],
    [/^src\/\w+\.ts$/, new RegExp(`^(${ground})$`)],
    [/^ffi\/load\.ts$/, /^ffi\/(native|layout|platform|bun|deno|node)\.ts$/],
    [/^ffi\/(bun|deno|node)\.ts$/, /^ffi\/(native|symbols)\.ts$/],
    [/^ffi\/native\.ts$/, /^ffi\/(layout|symbols)\.ts$/],
    [/^ffi\/(symbols|layout|platform)\.ts$/, /^$/],
  ]);
});

test("C: abi → runtime → network → backend.h → base; runtime, network → checkpoint; backends → backend.h, base", () => {
  const base = "csrc/(include/ctok|base/\\w+)\\.h";
  checkRules(c, [
    [/^csrc\/include\//, /^$/],
    [/^csrc\/abi\.c$/, /^csrc\/(include\/ctok|runtime\/(job|lifetime))\.h$/],
    [/^csrc\/base\//, new RegExp(`^${base}$`)],
    [/^csrc\/checkpoint\//, new RegExp(`^(csrc/checkpoint/\\w+\\.h|${base})$`)],
    [
      /^csrc\/network\//,
      new RegExp(`^(csrc/network/\\w+\\.h|csrc/(checkpoint/checkpoint|backends/backend)\\.h|${base})$`),
    ],
    [
      /^csrc\/runtime\//,
      new RegExp(`^(csrc/(runtime|network)/\\w+\\.h|csrc/(checkpoint/checkpoint|backends/backend)\\.h|${base})$`),
    ],
    [/^csrc\/backends\/\w+\.h$/, new RegExp(`^${base}$`)],
    [/^csrc\/backends\/cpu\//, new RegExp(`^(csrc/backends/backend\\.h|csrc/backends/cpu/\\w+\\.(h|inc)|${base})$`)],
    [
      /^csrc\/backends\/cuda\/.*\.[ch]$/,
      new RegExp(`^(csrc/backends/backend\\.h|csrc/backends/cuda/\\w+\\.h|${base})$`),
    ],
    // Kernels see the ops' parameters, each other's headers and ptx/: nothing of the seam.
    [/^csrc\/backends\/cuda\//, new RegExp(`^(csrc/backends/cuda/(ptx/)?\\w+\\.(h|cuh)|${base})$`)],
  ]);
});

test("nothing goes round", () => {
  assert.equal(findCircle(typescript, (file) => file), undefined);
  assert.equal(findCircle(c, (file) => file.replace(/\.\w+$/, "")), undefined);
});

test("what runs a network knows no family", () => {
  const files = [
    ...c.filter((file) => /^csrc\/(abi\.c|runtime\/|backends\/)/.test(file)),
    ...typescript.filter((f) => f.startsWith("ffi/")),
  ];
  for (const file of files) {
    assert.doesNotMatch(read(file).replace(/reference\/\w+\.\w+/g, ""), /cosmos|llamagen/i, file);
  }
});

test("src/ names no runtime", () => {
  for (const file of files("src", /\.ts$/)) assert.doesNotMatch(read(file), /\b(Deno|Bun)\.|"bun:/, file);
});

test("the library uses nothing that Node has from 22 on; tests/node.mjs adds it for tests alone", () => {
  const late = [
    /\b(Promise\.(try|withResolvers)|Array\.fromAsync|(Object|Map)\.groupBy|globSync|import\.meta\.main)\b/,
    /\b(Async)?DisposableStack\b|\.(to|from)(Base64|Hex)\(|import \{[^}]*zstd|new Float16Array/,
    /[a-z]\.(values|keys|entries)\(\)\.[a-z]/,
  ];
  for (
    const file of [
      ...typescript.filter((name) => !name.startsWith("examples/")),
      "build.ts",
      ...files("tools", /\.ts$/),
    ]
  ) {
    const code = read(file).replace(/\/\*[\s\S]*?\*\/|\/\/.*/g, "");
    for (const pattern of late) assert.doesNotMatch(code, pattern, file);
  }
});

/**
 * Node reads each of a builtin's exports when a module imports it, and so opens standard input, non-blocking for all
 * who share it.
 */
test("standard input is left alone by who does not read it: process is the global one", () => {
  for (const file of typescript.filter((name) => !name.startsWith("examples/"))) {
    assert.doesNotMatch(read(file), /"node:process"/, file);
  }
});

test("tokens but for their files, and the ground that they stand on, need no runtime: a page can bundle them", () => {
  const reached = new Set<string>();
  const visit = (file: string) => {
    if (reached.has(file)) return;
    reached.add(file);
    for (const dependency of dependencies(file)) visit(dependency);
  };
  for (const file of files("src/tokens", /\.ts$/)) if (file !== "src/tokens/store.ts") visit(file);
  assert.ok(reached.has("src/tokens/tokenfile.ts") && reached.has("src/errors.ts"));
  for (const file of reached) {
    assert.match(file, /^src\/(tokens\/.*|\w+)\.ts$/, `${file} is reached`);
    assert.doesNotMatch(file, /^src\/(files|inputs|tokens\/store)\.ts$/, `${file} is reached`);
    assert.doesNotMatch(read(file), /(from|import)\s*\(?\s*"node:/, `${file} imports of node:`);
  }
});

/** All of the checkout's own TypeScript. */
const everyScript = [
  ...readdirSync(root).filter((name) => name.endsWith(".ts")),
  ...["src", "cli", "repl", "ffi", "plugin", "tools", "tests", "examples", "docs", "bench"].flatMap((folder) =>
    files(folder, /\.(ts|mts|mjs)$/)
  ),
];

test("no line of TypeScript passes 120 columns", () => {
  assert.ok(everyScript.includes("mod.ts") && everyScript.includes("tests/support.ts"));
  const long = everyScript.flatMap((file) =>
    read(file).split("\n").flatMap((line, i) => [...line].length > 120 ? [`${file}:${i + 1}`] : [])
  );
  assert.deepEqual(long, []);
});

test("budgets: abi.c, adapters, backend ops; long files say why", () => {
  const lines = (file: string) => read(file).split("\n").length;
  assert.ok(lines("csrc/abi.c") <= 500);
  for (const adapter of ["ffi/bun.ts", "ffi/deno.ts", "ffi/node.ts"]) {
    assert.ok(lines(adapter) <= 60, `${adapter}: ${lines(adapter)} lines`);
  }
  const ops = /typedef enum \{[^}]*\} op_kind;/.exec(read("csrc/backends/backend.h"))![0].match(/\bOP_\w+/g)!;
  assert.ok(ops.includes("OP_COPY") && ops.length <= 11, `${ops.length} ops, and no more than ten and OP_COPY`);
  for (const file of [...c, ...typescript]) {
    assert.ok(
      lines(file) <= 400 || /Note: over 400 lines/.test(read(file)),
      `${file}: ${lines(file)} lines and no reason`,
    );
  }
});
