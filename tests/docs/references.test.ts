/**
 * Files that a source, a script or a document names by their path from the root exist: `Ref:
 * reference/cosmos_reference.py`, docs/limits.md, csrc/backends/backend.h. Names within a folder ("runtime/model"), and
 * those of other projects (torch/csrc/…), are not read. In docs/architecture.md folders and files at the root count
 * too.
 */
import assert from "node:assert/strict";
import { existsSync, readdirSync, readFileSync, statSync } from "node:fs";
import { join } from "node:path";
import { test } from "node:test";
import { root } from "../support.ts";

const folders = [
  "bench",
  "cli",
  "container",
  "csrc",
  "docs",
  "examples",
  "ffi",
  "plugin",
  "reference",
  "repl",
  "src",
  "tests",
  "tools",
];
const self = "tests/docs/references.test.ts"; // it names files that are not there
const isText = /\.(ts|c|h|cu|cuh|cpp|inc|py|sh|md|json)$/;
const sources = folders.flatMap((folder) =>
  readdirSync(join(root, folder), { recursive: true, encoding: "utf8" }).map((name) => join(folder, name))
).filter((path) =>
  isText.test(path) && !path.startsWith("tests/fixtures") && path !== self && statSync(join(root, path)).isFile()
)
  .concat(["README.md", "SECURITY.md", "build.ts", "mod.ts", "pack.ts"]);

/**
 * Paths from the root with an extension. A name that goes on, has a place holder or stands below another folder is
 * none.
 */
function pathsOf(text: string): string[] {
  const path = new RegExp(
    String.raw`(?<![\w./$*{}@-])(?:${
      folders.join("|")
    })/[\w./-]*\.(?:ts|c|h|cu|cuh|cpp|inc|py|sh|md|svg)\b(?![\w/*{$]|\.\w)`,
    "g",
  );
  return [...text.matchAll(path)].map(([found]) => found);
}

test("files that sources and documents name exist", () => {
  const named = sources.map((source) => ({ source, paths: pathsOf(readFileSync(join(root, source), "utf8")) }));
  const missing = named.flatMap(({ source, paths }) =>
    paths.filter((path) => !existsSync(join(root, path))).map((path) => `${source}: ${path}`)
  );
  assert.deepEqual(missing, []);
  assert.ok(named.flatMap(({ paths }) => paths).filter((path) => path.startsWith("reference/")).length >= 13);
});

test("what docs/architecture.md names by its path is there", () => {
  const spans = [...readFileSync(join(root, "docs/architecture.md"), "utf8").matchAll(/`([^`]+)`/g)].map(([, span]) =>
    span!
  );
  const paths = spans.filter((span) => /^[\w/.]+(\/|\.(ts|c|h|cu|cuh|inc|json|md))$/.test(span));
  assert.ok(paths.length > 60, `${paths.length} paths`);
  assert.deepEqual(paths.filter((path) => !existsSync(join(root, path))), []);
});

test("the reader of names finds them", () => {
  const text =
    "Ref: reference/a.py, spec(); see `docs/b.md`. torch/csrc/c.h, ../shared/reference/d.py, src/e.ts.orig, tests/*.ts";
  assert.deepEqual(pathsOf(text), ["reference/a.py", "docs/b.md"]);
});
