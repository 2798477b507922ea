/**
 * docs/environment.md names every environment variable that ctok, its build and its tests read, and no other. A program
 * that is given its environment calls it `env`; src/media/ffmpeg.ts and cli/options.ts name variables in tables,
 * src/model/hubcache.ts by functions.
 */
import assert from "node:assert/strict";
import { readdirSync, readFileSync } from "node:fs";
import { join } from "node:path";
import { test } from "node:test";
import { root } from "../support.ts";

const read = (path: string) => readFileSync(join(root, path), "utf8");
const under = (folder: string, pattern: RegExp) =>
  readdirSync(join(root, folder), { recursive: true, encoding: "utf8" }).filter((name) => pattern.test(name))
    .map((name) => join(folder, name)).sort();

/** What the runtime reads for us: colours (getColorDepth) and the proxy (fetch). */
const ofRuntime = ["FORCE_COLOR", "HTTPS_PROXY", "NO_COLOR"];
/** What is not ours to describe. */
const ofSystem = ["PATH", "TMPDIR"];

/** Variables that TypeScript reads. */
function variablesOf(source: string): string[] {
  const code = source.replace(/\/\*[\s\S]*?\*\/|\/\/ .*/g, "");
  const members = [...code.matchAll(/\benv(?:\??\.|\[")([A-Z][A-Z0-9_]+)\b/g)].map(([, name]) => name!);
  const taken = [...code.matchAll(/\{([^{}]*)\} = (?:process\.)?env\b/g)].flatMap(([, names]) =>
    names!.match(/\b[A-Z][A-Z0-9_]+\b/g) ?? []
  );
  const named = [
    ...code.matchAll(/\b(?:variable|isOn)\("([A-Z][A-Z0-9_]+)"\)|\b(?:env|variable): "([A-Z][A-Z0-9_]+)"/g),
  ];
  // However it is read: names that begin so are nothing else. ffi/ has constants of C that do.
  const prefixed = code.match(/(?<=["'`.{,]\s*)(?:CTOK|HF|AWS|SLURM|REDIS|XDG|JOB_COMPLETION)_[A-Z0-9_]+\b/g) ?? [];
  return [...members, ...taken, ...named.map(([, a, b]) => a ?? b!), ...prefixed];
}

const table = new Set(
  read("docs/environment.md").split("\n").filter((line) => line.startsWith("| `")).flatMap((line) =>
    [...line.split(" | ")[0]!.matchAll(/`([A-Z][A-Z0-9_]+)`/g)].map(([, name]) => name!)
  ),
);

/** Read by tests and by what they start: those that tests/ itself sets for its children have no place on the page. */
const ofTests = [
  "CTOK_CHAOS_ITEMS",
  "CTOK_CHAOS_SEED",
  "CTOK_EMULATED",
  "CTOK_FUZZ_SECONDS",
  "CTOK_MANY_ITEMS",
  "CTOK_SHARED",
  "CTOK_WRITER_ROUNDS",
  "PYTHON",
];

test("the page has what the sources read, and nothing else", () => {
  const typescript = [
    ...["src", "cli", "repl", "ffi", "plugin", "tools"].flatMap((folder) => under(folder, /\.ts$/)),
    ...["build.ts", "pack.ts", "release.ts"],
  ].filter((path) => !/^ffi\/(layout|symbols|native)\.ts$/.test(path));
  const ofCode = new Set(
    typescript.flatMap((path) => variablesOf(read(path))).filter((name) => !ofSystem.includes(name)),
  );
  assert.ok(
    ofCode.has("CTOK_LIBRARY") && ofCode.has("HF_TOKEN_PATH") && ofCode.has("CTOK_FFPROBE") && ofCode.has("JOBS"),
  );
  assert.deepEqual([...table].sort(), [...new Set([...ofCode, ...ofRuntime, ...ofTests])].sort());
});

test("what tests ask of the environment is on the page, but for what they set themselves", () => {
  const sources = [...under("tests", /\.(ts|c|h)$/), ...under("bench", /\.(ts|sh)$/)].map(read).join("\n");
  const asked: readonly string[] = sources.match(/(?<=process\.env\.|getenv\("|\$\{)(?:CTOK_[A-Z_]+|PYTHON)\b/g) ?? [];
  const set = ["CTOK_TEST_PLACE"];
  for (const name of new Set(asked)) {
    assert.ok(table.has(name) || set.includes(name), `docs/environment.md lacks ${name}`);
  }
  for (const name of ofTests) assert.ok(asked.includes(name), `${name}: nothing reads it`);
});

test("the C library reads no variable", () => {
  for (const path of under("csrc", /\.(c|h|inc|cu|cuh)$/)) {
    assert.doesNotMatch(read(path), /\b(secure_)?getenv\b|\benviron\b/, path);
  }
});

test("the reader of names finds them", () => {
  const code = `const { A_B, CC } = process.env, x = env.D_E ?? variable("F_G"); // env.COMMENT
    ({ env: "H_I" }); read("SLURM_ARRAY_TASK_ID"); env["J_K"]; x.env.NO;`;
  const found = ["A_B", "CC", "D_E", "F_G", "H_I", "SLURM_ARRAY_TASK_ID", "J_K", "NO"];
  assert.deepEqual(variablesOf(code).toSorted(), found.toSorted());
});
