/**
 * npm run test:long [-- SECONDS]: what takes too long for every commit. Builds the core with clang's sanitizers, gives every
 * fuzz target SECONDS (default 600), then runs the native tests (the job storm among them) under AddressSanitizer + UBSan and
 * under ThreadSanitizer, the parsers' tests under valgrind where it is installed, and the readers of token files on random
 * bytes. Prints the number of inputs tried; ends with an error when anything was found. What the fuzzer finds stays in
 * build/fuzz/found, its grown corpus in build/fuzz/corpus. Run by Bun. Installs Debian's clang when there is none and it may.
 */
import { spawnSync } from "node:child_process";
import { existsSync, mkdirSync, readdirSync } from "node:fs";
import { join } from "node:path";
import process from "node:process";
import { fileURLToPath } from "node:url";

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
    for (const folder of [`corpus/${target}`, "found"]) mkdirSync(join(root, "build/fuzz", folder), { recursive: true });
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

if (run("clang", ["--version"]).code !== 0) {
  check("install clang", run("apt-get", ["install", "-y", "clang", "libclang-rt-dev"]));
}
build("build/fuzz", "address,undefined,fuzzer-no-link");
const numInputs = fuzz();
const native = ["abi_test", "checkpoint_test", "memory_test"].filter((name) =>
  existsSync(join(root, `tests/native/${name}.c`))
);
for (const name of native) check(`${name} with address and undefined`, run(`build/fuzz/tests/${name}`, []));
build("build/thread", "thread");
check("abi_test with thread", run("build/thread/tests/abi_test", []));
if (run("valgrind", ["--version"]).code === 0) {
  check("checkpoint_test under valgrind", run("valgrind", ["-q", "--error-exitcode=9", "build/tests/checkpoint_test"]));
} else console.log("skipped - checkpoint_test under valgrind: it is not installed");
const tokenfiles = run(process.execPath, ["test", "--timeout", "3600000", "./tests/fuzz"], {
  CTOK_FUZZ_SECONDS: String(seconds),
});
const numTokenFiles = Number(/(\d+) token files tried/.exec(tokenfiles.out)?.[1] ?? 0);
check("readers of token files", tokenfiles, `${numTokenFiles} inputs`);
console.log(`${numInputs + numTokenFiles} inputs tried, ${failures.length} failures`);
process.exit(failures.length > 0 ? 1 : 0);
