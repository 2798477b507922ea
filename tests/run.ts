/**
 * npm test: format, lint and types; the native tests, here and on arm64 under QEMU; then one suite on Bun and on Deno,
 * and what of it meets the runtime on Node. Prints the table of fixture cases and ends with "N passed, N failed, N
 * skipped". Where the fixtures lie beside the checkout, none of their cases may be skipped. Run by Bun, after build.ts.
 * Arguments: test files or folders instead of all, or --check (npm run check) for format, lint and types alone.
 */
import { spawn, spawnSync } from "node:child_process";
import { existsSync, mkdirSync, readdirSync, readFileSync, rmSync } from "node:fs";
import { join } from "node:path";
import process from "node:process";
import { createInterface } from "node:readline";
import { fileURLToPath } from "node:url";
import { checkC } from "../tools/format.ts";
import { compilerArgs, targets } from "./fuzz/targets.ts";
import { nodeArguments, testsOnNode } from "./nodes.ts";

const root = fileURLToPath(new URL("../", import.meta.url));
const reports = join(root, "build/reports");
const bin = (name: string) => join(root, "node_modules/.bin", name);
const counts = { passed: 0, failed: 0, skipped: 0 };
const failures: string[] = [];

function run(command: string, args: string[], showAll = true): { code: number; out: string } {
  const child = spawnSync(command, args, {
    cwd: root,
    encoding: "utf8",
    stdio: ["ignore", showAll ? "inherit" : "pipe", showAll ? "inherit" : "pipe"],
    maxBuffer: 1 << 28,
  });
  if (child.error) throw child.error;
  return { code: child.status ?? 1, out: (child.stdout ?? "") + (child.stderr ?? "") };
}

function count(name: string, outcome: keyof typeof counts): void {
  counts[outcome]++;
  if (outcome === "failed") failures.push(name);
}

function section(title: string): void {
  console.log(`\n=== ${title}`);
}

function end(): never {
  section("result");
  for (const failure of failures) console.log(`FAILED ${failure}`);
  console.log(`${counts.passed} passed, ${counts.failed} failed, ${counts.skipped} skipped`);
  process.exit(counts.failed || !counts.passed ? 1 : 0);
}

// ---------------------------------------------------------------- checks
function check(name: string, command: string, args: string[]): void {
  const { code, out } = run(command, args, false);
  count(name, code === 0 ? "passed" : "failed");
  console.log(`${code === 0 ? "ok" : "not ok"} - ${name}`);
  if (code !== 0) console.log(out);
}

// ---------------------------------------------------------------- native tests: TAP lines
function countTap(name: string, code: number, out: string): void {
  let total = 0, bad = 0;
  for (const line of out.split("\n")) {
    if (!/^(not )?ok /.test(line)) continue;
    total++;
    if (line.startsWith("not ok")) bad++;
    count(`${name}: ${line}`, line.startsWith("not ok") ? "failed" : /# SKIP/i.test(line) ? "skipped" : "passed");
    if (line.startsWith("not ok") || /# SKIP/i.test(line)) console.log(line);
  }
  if (code !== 0 && bad === 0) {
    count(`${name}: exited with ${code} after ${total} cases`, "failed"), console.log(out.slice(-4000));
  }
  console.log(`${name}: ${total} cases, ${bad} failed`);
}

const nativeTests = (folder: string) => readdirSync(join(root, folder)).filter((f) => f.endsWith("_test")).sort();

function native(name: string): void {
  const { code, out } = run(join(root, "build/tests", name), [], false);
  countTap(name, code, out);
}

/** What a program writes, and how it ended, while others run. */
function runBeside(
  command: string,
  args: string[],
  env: Record<string, string> = {},
): Promise<{ code: number; out: string }> {
  return new Promise((settle, fail) => {
    let out = "";
    const child = spawn(command, args, {
      cwd: root,
      stdio: ["ignore", "pipe", "pipe"],
      env: { ...process.env, ...env },
    });
    for (const stream of [child.stdout, child.stderr]) stream.setEncoding("utf8").on("data", (text) => out += text);
    child.on("error", fail);
    child.on("close", (code) => settle({ code: code ?? 1, out }));
  });
}

// ---------------------------------------------------------------- the native tests on arm64, under QEMU
/**
 * Built by Debian's cross compiler and run two at a time. QEMU's neoverse-n1 has no BF16: there NEON is chosen at run
 * time. "max" has it, but computes it slowly, and gets only the tests that ask for it. What cannot hold under an
 * emulator skips itself (tap.h).
 */
async function nativeOnArm64(): Promise<void> {
  const triplet = "aarch64-linux-gnu";
  const lacks = [`${triplet}-gcc`, "qemu-aarch64"].filter((c) => spawnSync(c, ["--version"]).status !== 0);
  if (process.arch === "arm64" || lacks.length > 0) {
    const why = lacks.length > 0 ? `there is no ${lacks.join(" and no ")}` : "this machine is one, and ran them";
    count("native tests on arm64", "skipped"), console.log(`skipped: the native tests on arm64, as ${why}`);
    return;
  }
  const { code, out } = await runBeside(process.execPath, ["build.ts", "--target", triplet]);
  count(`build.ts --target ${triplet}`, code === 0 ? "passed" : "failed");
  if (code !== 0) return console.log(out);
  const folder = "build/aarch64/tests", withBf16 = ["golden_test", "op_bf16_test"];
  const first = ["op_test", "op_bf16_test", "memory_test", "life_test"]; // the longest
  const names = nativeTests(folder).sort((a, b) => Number(first.includes(b)) - Number(first.includes(a)));
  const queue = names.values();
  await Promise.all([0, 1].map(async () => {
    for (const name of queue) {
      const args = [
        "-cpu",
        withBf16.includes(name) ? "max" : "neoverse-n1",
        "-L",
        `/usr/${triplet}`,
        join(folder, name),
      ];
      const { code, out } = await runBeside("qemu-aarch64", args, { CTOK_EMULATED: "1" });
      countTap(`arm64 ${name}`, code, out);
    }
  }));
}

// ---------------------------------------------------------------- suites: JUnit files
interface Suite {
  /** "bun", "deno" or "node"; what it prints has that before each line, as two run beside each other. */
  readonly name: string;
  readonly command: string;
  readonly args: string[];
  readonly report: string;
}

async function suite({ name, command, args, report }: Suite): Promise<void> {
  const child = spawn(command, args, { cwd: root, stdio: ["ignore", "pipe", "pipe"] });
  for (const stream of [child.stdout, child.stderr]) {
    createInterface(stream).on("line", (line) => console.log(`${name} | ${line}`));
  }
  const code = await new Promise<number>((settle, fail) => {
    child.on("error", fail);
    child.on("close", (code) => settle(code ?? 1));
  });
  const before = counts.failed;
  const xml = existsSync(report) ? readFileSync(report, "utf8") : "";
  for (const [, attributes, , body] of xml.matchAll(/<testcase\b([^>]*?)(\/>|>([\s\S]*?)<\/testcase>)/g)) {
    const title = /\bname="([^"]*)"/.exec(attributes!)?.[1] ?? "?";
    const outcome = /<(failure|error)\b/.test(body ?? "")
      ? "failed"
      : /<skipped\b/.test(body ?? "")
      ? "skipped"
      : "passed";
    if (outcome === "skipped") console.log(`skipped on ${name}: ${title}`);
    count(`${name}: ${title}`, outcome);
  }
  if (code !== 0 && counts.failed === before) count(`${name}: exited with ${code}`, "failed");
}

function fixtureTable(runtime: string): number {
  const path = join(reports, `fixtures-${runtime}.jsonl`);
  const rows = existsSync(path)
    ? readFileSync(path, "utf8").trim().split("\n").map((line) =>
      JSON.parse(line) as { name: string; error: number; limit: number }
    )
    : [];
  section(`fixture cases on ${runtime}: case, error, limit`);
  for (const { name, error, limit } of rows) {
    const number = (n: number | null) => n === 0 ? "0" : n === null ? "NaN" : n.toExponential(1);
    console.log(
      `${name.padEnd(58)} ${number(error).padStart(8)} ${number(limit).padStart(8)} ${
        error <= limit ? "" : "  FAILED"
      }`,
    );
  }
  return rows.length;
}

rmSync(reports, { recursive: true, force: true });
mkdirSync(reports, { recursive: true });
section("format, lint, types");
check("deno fmt", bin("deno"), ["fmt", "--check"]);
check("deno lint", bin("deno"), ["lint"]);
check("deno check mod.ts", bin("deno"), ["check", "mod.ts", "cli/main.ts"]);
check("tsc", bin("tsc"), ["-p", "."]);
const { skipped, wrong } = checkC();
count("clang-format", skipped ? "skipped" : wrong ? "failed" : "passed");
console.log(
  skipped ? `skipped: the format of C, as ${skipped}` : wrong ? `not ok - clang-format\n${wrong}` : "ok - clang-format",
);

const filter = process.argv.slice(2);
if (filter[0] === "--check") end();

section("native tests");
for (const name of nativeTests("build/tests")) native(name);

// ---------------------------------------------------------------- fuzz targets, 30 s each; long.ts gives them more
async function fuzz(seconds: number): Promise<void> {
  if (spawnSync("clang", ["--version"]).status !== 0) {
    count("fuzz targets", "skipped"), console.log(`skipped: ${targets.length} fuzz targets, as there is no clang`);
    return;
  }
  const folder = "build/fuzz/short";
  mkdirSync(join(root, folder), { recursive: true });
  const one = async (name: string) => {
    const corpus = join(folder, `${name}.corpus`), program = join(folder, name);
    mkdirSync(join(root, corpus), { recursive: true });
    const sanitizers = ["-fsanitize=fuzzer,address,undefined", "-fno-sanitize-recover=all"];
    const run = (command: string, args: string[]) =>
      new Promise<{ code: number | null; out: string }>((settle) => {
        let out = "";
        const child = spawn(command, args, { cwd: root, stdio: ["ignore", "ignore", "pipe"] });
        child.stderr.setEncoding("utf8").on("data", (text) => out = (out + text).slice(-8000));
        child.on("close", (code) => settle({ code, out }));
      });
    let { code, out } = await run("clang", compilerArgs(name, sanitizers, program));
    const limits = [`-max_total_time=${seconds}`, "-max_len=16384", "-timeout=20", "-print_final_stats=1"];
    if (code === 0) {
      const artifacts = `-artifact_prefix=${folder}/`;
      ({ code, out } = await run(program, [...limits, artifacts, corpus, join("tests/fuzz/corpus", name)]));
    }
    count(`fuzz: ${name}`, code === 0 ? "passed" : "failed");
    const tried = /number_of_executed_units: (\d+)/.exec(out)?.[1];
    console.log(code === 0 ? `ok - ${name}: ${tried} inputs` : `not ok - ${name}\n${out}`);
  };
  const queue = targets.values(); // two at a time
  await Promise.all([0, 1].map(async () => {
    for (const name of queue) await one(name);
  }));
}

if (filter.length === 0) {
  section("native tests on arm64, under QEMU");
  await nativeOnArm64();
  section("fuzz targets");
  await fuzz(30);
  process.env.CTOK_FUZZ_SECONDS ??= "15"; // of tests/fuzz/tokenfile.test.ts, on each runtime
}

const paths = filter.length ? filter : ["./tests"];
const node = testsOnNode(paths, "short"), reportOf = (name: string) => join(reports, `${name}.xml`);
const bunArguments = ["test", "--timeout", "600000", "--reporter=junit", `--reporter-outfile=${reportOf("bun")}`];
const suites: Suite[] = [
  { name: "bun", command: bin("bun"), args: [...bunArguments, ...paths], report: reportOf("bun") },
  {
    name: "deno",
    command: bin("deno"),
    args: ["test", "-A", "--no-check", `--junit-path=${reportOf("deno")}`, ...paths],
    report: reportOf("deno"),
  },
];
section(`suites on Bun, Deno and Node ${node.version}`);
if (node.why) count("suite on Node", "skipped"), console.log(`skipped: ${node.why}`);
else if (node.files.length > 0) {
  suites.push({
    name: "node",
    command: "node",
    args: nodeArguments(node.files, reportOf("node")),
    report: reportOf("node"),
  });
}
const queue = suites.values();
await Promise.all([0, 1].map(async () => {
  for (const one of queue) await suite(one);
}));

const rows = ["bun", "deno", "node"].map(fixtureTable);
if (filter.length === 0 && existsSync(join(root, "../shared/fixtures"))) {
  count(
    `every fixture case ran on each runtime (${rows.join(", ")})`,
    rows[0] === rows[1] && (node.why !== undefined || rows[0] === rows[2]) && rows[0]! > 60 ? "passed" : "failed",
  );
}

end();
