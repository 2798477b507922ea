/**
 * npm run test:long [-- SECONDS]: what takes too long for every commit. Builds the core with clang's sanitizers, gives
 * every fuzz target SECONDS (default 600), then runs the native tests and a storm of jobs (SECONDS / 10 and at least
 * 10, of other seeds than npm test's) under AddressSanitizer + UBSan and under ThreadSanitizer, the parsers' tests and
 * corpora under valgrind, the readers of token files on random bytes, and on each runtime 1,000 rounds of writers of
 * one target, 10,000 items on six workers that are killed, and SECONDS of chaos.ts. Prints the number of inputs tried;
 * ends with an error when anything was found. What the fuzzer finds stays in build/fuzz/found, its grown corpus in
 * build/fuzz/corpus. Run by Bun. Installs Debian's clang and valgrind where there are none and it may.
 */
import { spawnSync } from "node:child_process";
import { existsSync, mkdirSync, readdirSync } from "node:fs";
import { join } from "node:path";
import process from "node:process";
import { fileURLToPath } from "node:url";
import { compilerArgs, parsers } from "./fuzz/targets.ts";
import { nodeArguments, nodesHere, testsOnNode } from "./nodes.ts";

const root = fileURLToPath(new URL("../", import.meta.url));
const seconds = Number(process.argv[2] ?? 600);
if (!(seconds >= 1)) throw new Error(`expected the seconds of a target, found ${process.argv[2]}`);
const failures: string[] = [];

function run(command: string, args: string[], env: Record<string, string> = {}): { code: number | null; out: string } {
  const child = spawnSync(command, args, {
    cwd: root,
    encoding: "utf8",
    env: { ...process.env, ...env },
    maxBuffer: 1 << 28,
  });
  return { code: child.status, out: (child.stdout ?? "") + (child.stderr ?? "") + (child.error?.message ?? "") };
}

function check(name: string, { code, out }: { code: number | null; out: string }, note = ""): void {
  console.log(`${code === 0 ? "ok" : "not ok"} - ${name}${note && `: ${note}`}`);
  if (code === 0) return;
  failures.push(name);
  console.log(out.slice(-6000));
}

/** Objects and programs of one set of sanitizers, in a folder of their own. */
function build(folder: string, sanitizers: string): void {
  const flags = `-O1 -fsanitize=${sanitizers} -fno-sanitize-recover=all -fno-omit-frame-pointer`;
  const result = run(process.execPath, ["build.ts"], { CC: "clang", CUDA: "0", BUILD: folder, CFLAGS: flags });
  check(`build with ${sanitizers}`, result);
  if (result.code !== 0) process.exit(1);
}

function fuzz(): number {
  let total = 0;
  for (const target of readdirSync(join(root, "tests/fuzz/corpus")).sort()) {
    for (const folder of [`corpus/${target}`, "found"]) {
      mkdirSync(join(root, "build/fuzz", folder), { recursive: true });
    }
    const limits = ["-max_len=16384", "-timeout=60", "-rss_limit_mb=3072", "-artifact_prefix=build/fuzz/found/"];
    const corpora = [`build/fuzz/corpus/${target}`, `tests/fuzz/corpus/${target}`];
    const result = run(`build/fuzz/fuzz/${target}`, [
      `-max_total_time=${seconds}`,
      "-print_final_stats=1",
      ...limits,
      ...corpora,
    ]);
    const tried = Number(/number_of_executed_units: (\d+)/.exec(result.out)?.[1] ?? 0);
    total += tried;
    check(target, result, `${tried} inputs`);
  }
  return total;
}

function install(program: string, ...packages: string[]): void {
  if (run(program, ["--version"]).code === 0) return;
  check(`install ${program}`, run("apt-get", ["install", "-y", "--no-install-recommends", ...packages]));
}

/** The native tests of a build with sanitizers. */
function native(folder: string, names: readonly string[]): void {
  for (const name of names) check(`${folder}: ${name}`, run(join(folder, "tests", name), []));
  for (const seed of [2, 3]) {
    const storm = run(join(folder, "tests/storm_test"), [String(Math.max(10, seconds / 10)), String(seed)]);
    check(`${folder}: storm_test`, storm, /\d+ threads, seed.*/.exec(storm.out)?.[0]);
  }
}

/** The parsers' tests, and every input of their corpora, grown ones too: valgrind sees what was never written. */
function valgrind(): void {
  const under = [
    "-q",
    "--child-silent-after-fork=yes",
    "--error-exitcode=9",
    "--leak-check=full",
    "--errors-for-leak-kinds=definite",
  ];
  check("valgrind: checkpoint_test", run("valgrind", [...under, "build/tests/checkpoint_test"]));
  mkdirSync(join(root, "build/valgrind"), { recursive: true });
  for (const name of parsers) {
    const program = join("build/valgrind", name);
    check(`build ${name}`, run("cc", compilerArgs(name, ["-DCTOK_FUZZ_REPLAY"], program)));
    const folders = ["tests/fuzz/corpus", "build/fuzz/corpus"].map((folder) => join(folder, name));
    const inputs = folders.filter((folder) => existsSync(join(root, folder)))
      .flatMap((folder) => readdirSync(join(root, folder)).map((file) => join(folder, file))).slice(0, 4000);
    check(`valgrind: ${name}`, run("valgrind", [...under, program, ...inputs]), `${inputs.length} inputs`);
  }
}

install("clang", "clang", "libclang-rt-dev");
install("valgrind", "valgrind");
build("build/fuzz", "address,undefined,fuzzer-no-link");
const numInputs = fuzz();
native("build/fuzz", ["abi_test", "cgroup_test", "checkpoint_test", "life_test", "memory_test", "status_test"]);
build("build/thread", "thread");
native("build/thread", ["abi_test", "life_test", "status_test"]);
valgrind();
const tokenfiles = run(process.execPath, ["test", "--timeout", "3600000", "./tests/fuzz"], {
  CTOK_FUZZ_SECONDS: String(seconds),
});
const numTokenFiles = Number(/(\d+) token files tried/.exec(tokenfiles.out)?.[1] ?? 0);
check("readers of token files", tokenfiles, `${numTokenFiles} inputs`);
const writers = "./tests/faults/writers.test.ts", thousand = { CTOK_WRITER_ROUNDS: "1000" };
check("1,000 rounds of writers, Bun", run(process.execPath, ["test", "--timeout", "3600000", writers], thousand));
check("1,000 rounds of writers, Deno", run("node_modules/.bin/deno", ["test", "-A", "--no-check", writers], thousand));
const many = "./tests/cluster/many.test.ts", tenThousand = { CTOK_MANY_ITEMS: "10000" };
check("10,000 items on six workers, Bun", run(process.execPath, ["test", "--timeout", "3600000", many], tenThousand));
check(
  "10,000 items on six workers, Deno",
  run("node_modules/.bin/deno", ["test", "-A", "--no-check", many], tenThousand),
);
mkdirSync(join(root, "build/reports"), { recursive: true });
for (const node of nodesHere()) {
  const { version, why, files } = testsOnNode(["tests"], "long", node);
  const report = join(root, `build/reports/node-${version}.xml`);
  check(
    `suite on Node ${version}`,
    run(node, why ? ["-e", `throw new Error(${JSON.stringify(why)})`] : nodeArguments(files, report)),
  );
}
const chaos = ["tests/chaos.ts", "--seconds", String(seconds)];
check("chaos, Bun", run(process.execPath, chaos));
check("chaos, Deno", run("node_modules/.bin/deno", ["run", "-A", "--no-check", ...chaos]));
console.log(`${numInputs + numTokenFiles} inputs tried, ${failures.length} failures`);
process.exit(failures.length > 0 ? 1 : 0);
