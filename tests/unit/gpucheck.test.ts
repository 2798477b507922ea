/**
 * bench/gpu_check/check.py, which a machine with a GPU runs once, in minutes that are dear: from end to end on the
 * emulated device, with a played nvidia-smi, ncu and compute-sanitizer, and PyTorch on the CPU where Python has it; and
 * with programs that crash, hang or are cut off, where the report on the disk must name every row at any moment.
 */
import assert from "node:assert/strict";
import { type ChildProcess, spawn, spawnSync } from "node:child_process";
import { chmodSync, existsSync, mkdirSync, readdirSync, readFileSync, symlinkSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import process from "node:process";
import { test } from "node:test";
import { findCuda } from "../../tools/cuda.ts";
import { carried, root, runtime, withFolder } from "../support.ts";
import { python } from "../workplace.ts";

const folder = join(root, "bench/gpu_check"), built = (name: string) => join(root, "build/tests", name);
const once = runtime === "bun" ? false : "it tries a script of Python: it runs once, on Bun";
const isBuilt = existsSync(built("emulated_ops")) ? false : "the emulator was not built: no g++";

interface Row {
  readonly part: string;
  readonly name: string;
  readonly state: string;
  readonly text: string;
  // deno-lint-ignore no-explicit-any -- each part's own
  readonly data: Record<string, any>;
}

/** A folder with programs in bin/ and data beside; `tools` come first on the PATH. */
function furnish(at: string, bin: Record<string, string>, tools: Record<string, string> = {}): void {
  for (const [name, target] of [["goldens", carried], ["reference", join(root, "reference")]] as const) {
    mkdirSync(join(at, "data"), { recursive: true });
    symlinkSync(target, join(at, "data", name));
  }
  symlinkSync(join(root, "tests/native/ptx_layouts"), join(at, "data/layouts"));
  for (const [place, files] of [["bin", bin], ["tools", tools]] as const) {
    mkdirSync(join(at, place));
    for (const [name, content] of Object.entries(files)) {
      if (!content.startsWith("#!")) symlinkSync(content, join(at, place, name));
      else writeFileSync(join(at, place, name), content), chmodSync(join(at, place, name), 0o755);
    }
  }
}

const argsOf = (at: string, args: readonly string[]) => [
  join(folder, "check.py"),
  ...[
    "--tiny",
    "--rounds",
    "1",
    "--bin",
    join(at, "bin"),
    "--data",
    join(at, "data"),
    "--out",
    join(at, "out"),
    ...args,
  ],
];
const environmentOf = (at: string) => ({
  ...process.env,
  PATH: `${join(at, "tools")}:${process.env.PATH}`,
  TMPDIR: at,
  PYTHONDONTWRITEBYTECODE: "1",
});

/** Runs check.py to its end. */
function check(at: string, ...args: string[]) {
  const { status, stdout, stderr } = spawnSync(python, argsOf(at, args), { encoding: "utf8", env: environmentOf(at) });
  return { code: status, said: stdout + stderr, ...reportOf(at) };
}

const rowsOf = (at: string): Row[] => JSON.parse(readFileSync(join(at, "out/results.json"), "utf8")).rows;

/** What is on the disk, where the report must name each row that is not good. */
function reportOf(at: string): { rows: Row[]; report: string } {
  const rows = rowsOf(at), report = readFileSync(join(at, "out/results.md"), "utf8");
  for (const { part, name, state } of rows) {
    if (state === "failed") assert.ok(report.includes(`### ${part}: ${name}\n`), `${part} ${name}`);
    else if (state !== "good") assert.ok(report.includes(`| ${part} | ${name} |`), `${part} ${name}`);
  }
  return { rows, report };
}

const stateOf = (rows: readonly Row[], part: string, name?: string) =>
  rows.filter((row) => row.part === part && (name === undefined || row.name === name)).map(({ state }) => state);

/** What ncu prints of a kernel, after what the program prints: names, units, values. */
const counters = [
  '"ID","Kernel Name","gpu__time_duration.sum","sm__pipe_tensor_cycles_active.avg.pct_of_peak_sustained_active",' +
  '"smsp__average_warps_issue_stalled_barrier_per_issue_active.ratio","lts__t_sector_hit_rate.pct"',
  '"","","us","%","inst","%"',
  '"0","an_attention_kernel(int, float)","1,234.5","61.25","2.5","88"',
];
const nvidiaSmi = "#!/bin/sh\necho 'Emulated GPU, 580.00, 4096 MiB, 1980 MHz, 345 MHz, 30, Default'\n";
/** Runs the program at the end of its arguments; of attention it knows no counter by its name. */
const ncu = `#!/bin/sh
case "$*" in *_attention_kernel*--metrics*) echo '==ERROR== Failed to find metric'; exit 1 ;; esac
while [ "\${1%/gpu_ops}" = "$1" ]; do shift; done
"$@" || exit 1
cat <<'END'
${counters.join("\n")}
END
`;
const sanitizer = `#!/bin/sh
case "$*" in "--tool "*check" --error-exitcode 9 "*/gpu_test" small") ;; *) exit 2 ;; esac
printf 'ok 1 - haar\\nok 2 - conv\\n========= ERROR SUMMARY: 0 errors\\n'
`;

test(
  "the check runs from end to end on the emulated device",
  { skip: once || isBuilt, timeout: 280_000 },
  () =>
    withFolder((at) => {
      const bin = {
        gpu_run: built("emulated_run"),
        gpu_ops: built("emulated_ops"),
        gpu_test: "#!/bin/sh\nprintf 'ok 1 - haar\\nok 2 - conv\\n1..2\\n'\n", // backend_test has these cases
        make_weights: built("make_weights"),
        sm80_layouts: built("sm80_layouts"),
        sm90_layouts: built("sm90_layouts"),
      };
      furnish(at, bin, { "nvidia-smi": nvidiaSmi, ncu, "compute-sanitizer": sanitizer });
      mkdirSync(join(at, "bin/variants/same"), { recursive: true });
      symlinkSync(bin.gpu_run, join(at, "bin/variants/same/gpu_run"));
      const { code, said, rows, report } = check(at, "--budget", "3000", ...deadlines(500));
      assert.equal(code, 0, said);
      assert.deepEqual(rows.filter(({ state }) => !["good", "left out"].includes(state)), [], said);
      const leftOut = rows.filter(({ state }) => state === "left out");
      const hasTorch = spawnSync(python, ["-c", "import torch"]).status === 0;
      for (const { part, text } of leftOut) {
        assert.ok(["peer", "compile"].includes(part), `${part}: ${text}`);
        assert.match(text, hasTorch ? /^PyTorch refused: / : /^no PyTorch: /);
      }
      if (hasTorch) assert.deepEqual(stateOf(rows, "peer"), ["good", "good", "good"]);
      assert.match(report, /^# Emulated GPU: ctok's GPU check$/m);
      assert.match(report, /The check ended after \d+ s/);
      assert.match(report, /^\| an_attention_kernel \| 1234 \| 61\.25 \|.*\| barrier 2\.5 \|$/m);
      assert.match(report, /^\| DI8x8 2 of 8 x 16, bf16 \|/m, "a batch");
      assert.match(report, /^\| same \| .* \*\*\d+\.\d\d\*\* \|/m, "a variant beside this build");
      assert.match(report, /64x64x32: [\d.]+/, "a convolution in each tile");
      assert.match(report, /^- racecheck: 2 cases, ERROR SUMMARY: 0 errors$/m);
      assert.match(report, /^`bin\/gpu_test`: 2 cases, 0 failed$/m);
      assert.deepEqual(readdirSync(join(at, "out")).sort(), ["log.txt", "results.json", "results.md"]);
      return Promise.resolve();
    }),
);

const parts = /NAMES = \(([^)]*)\)/.exec(readFileSync(join(folder, "gpucheck/order.py"), "utf8"))![1]!
  .match(/\w+/g)!;
const deadlines = (seconds: number) => parts.flatMap((part) => ["--deadline", `${part}=${seconds}`]);

// ---------------------------------------------------------------- programs that go wrong
/** Prints where it is, starts a child as compute-sanitizer does, and waits for ever. */
const hangs = (says: string) =>
  `#!/bin/sh
${says}
sleep 100000 &
echo $$ $! > "$TMPDIR/pids"
wait
`;
const step = (op: string) =>
  JSON.stringify({ half: "encode", op, shape: "1", count: 1, us: 10, tflops: 0, gb_per_s: 100 });
const differs = { precision: "bf16", pre_quant: 1, reconstruction: 1e-9, repeats: false, different: 1, tokens: 9 };
const faulty = {
  gpu_run: `#!/bin/sh
case "$1 $*" in
  golden*f32) echo '{"error": "device: cuda:0: expected it to compute, found cudaErrorIllegalAddress: an | address"}'
    exit 1 ;;
  golden*) echo '${JSON.stringify(differs)}' ;;
  *) kill -SEGV $$ ;;
esac
`,
  gpu_test: "#!/bin/sh\necho 'ok 1 - haar'\necho 'not ok 2 - conv 1x9x13x512: at 7, found nan'\nexit 1\n",
  gpu_ops: hangs(`echo '${step("conv")}'\necho '${step("norm")}'`),
  make_weights: "#!/bin/sh\ntouch $1\n",
  sm80_layouts: "#!/bin/sh\necho 'mma'\n",
  sm90_layouts: "#!/bin/sh\necho 'cuda: no GPU of compute capability 9.0' >&2\nexit 3\n",
};
const isThere = (pid: string) => {
  try { // a process that has ended and whose parent has not asked yet is no more either
    return !/^State:\s+Z/m.test(readFileSync(`/proc/${pid}/status`, "utf8"));
  } catch {
    return false;
  }
};
const pidsOf = (at: string) =>
  existsSync(join(at, "pids")) ? readFileSync(join(at, "pids"), "utf8").trim().split(" ") : [];
const sleep = (ms: number) => new Promise((settle) => setTimeout(settle, ms));

/** Starts check.py, and waits until gpu_ops hangs and the file has what it printed. */
async function startUntilItHangs(at: string, ...args: string[]): Promise<ChildProcess> {
  const child = spawn(python, argsOf(at, args), { stdio: "ignore", env: environmentOf(at) });
  const stepsOf = () => rowsOf(at).find(({ part }) => part === "profile")!.data.steps?.length;
  while (!existsSync(join(at, "out/results.json")) || stepsOf() !== 2 || pidsOf(at).length !== 2) {
    assert.equal(child.exitCode, null, "it goes on");
    await sleep(20);
  }
  return child;
}
const hasEnded = (child: ChildProcess) => new Promise((settle) => child.on("exit", (code) => settle(code)));

test(
  "what crashes, differs or hangs is told in full, and stops nothing behind it",
  { skip: once },
  () =>
    withFolder((at) => {
      furnish(at, faulty, { "nvidia-smi": nvidiaSmi });
      const only = ["preflight", "layouts", "ops", "ours", "profile", "fusions"].join();
      const { code, said, rows, report } = check(at, "--only", only, "--deadline", "profile=6", "--budget", "3000");
      assert.equal(code, 1, said);
      assert.deepEqual(stateOf(rows, "preflight"), ["good", "failed", "failed"]);
      assert.match(report, /found cudaErrorIllegalAddress: an \| address/);
      assert.match(report, /pre_quant: expected at most 1\.\d+e-02, found 1\.00e\+00\nrepeats: expected a second run/);
      assert.deepEqual(stateOf(rows, "layouts"), ["failed", "left out"]);
      assert.match(report, /line 1: expected '.+', found 'mma'/);
      assert.match(report, /^\| layouts \| sm90 \| left out \| cuda: no GPU of compute capability 9\.0 \|$/m);
      assert.deepEqual(stateOf(rows, "ops"), ["failed"]);
      assert.match(report, /2 cases, 1 failed; it ended with 1; .*\nnot ok 2 - conv 1x9x13x512: at 7, found nan/);
      assert.deepEqual(stateOf(rows, "ours"), ["failed", "failed", "failed", "failed"]);
      assert.match(report, /it was killed by SIGSEGV/);
      // On a machine that is busy the deadline may pass before the program begins; what it printed is held below.
      assert.match(report, /^\| profile \| .* \| (cut off|not reached) \| its deadline( of 6 s)? passed/m);
      assert.deepEqual(stateOf(rows, "fusions"), ["failed"]);
      assert.ok(report.indexOf("## Failures") < report.indexOf("## Expected and found"));
      assert.deepEqual(pidsOf(at).filter(isThere), [], "what hung is ended, and what it started");
      return Promise.resolve();
    }),
);

test(
  "a fault of the check itself is one row's; a spent budget is said of all rows",
  { skip: once },
  () =>
    withFolder((at) => {
      const odd = '#!/bin/sh\necho \'{"pre_quant": 1, "us": 1}\'\n'; // what no part is made for
      furnish(at, { ...faulty, gpu_run: odd, gpu_ops: odd, gpu_test: join(at, "nowhere") }, {
        "nvidia-smi": nvidiaSmi,
      });
      const { code, rows, report } = check(at, "--only", "preflight,ops,profile,layouts", "--budget", "3000");
      assert.equal(code, 1);
      assert.deepEqual(stateOf(rows, "preflight"), ["good", "failed", "not reached"]);
      assert.match(report, /Traceback[\s\S]*KeyError: 'repeats'/);
      assert.match(report, /^\| preflight \| VQ-8 small bf16 \| not reached \| the part ended with 1 /m);
      assert.deepEqual(stateOf(rows, "ops"), ["failed"]);
      assert.match(report, /FileNotFoundError: .*gpu_test/);
      assert.match(report, /^This table could not be made: KeyError: 'half'/m);
      assert.deepEqual(stateOf(rows, "layouts"), ["failed", "left out"], "the next part begins");
      const spent = check(at, "--budget", "0");
      assert.equal(spent.code, 0);
      assert.deepEqual([...new Set(spent.rows.map(({ state, text }) => `${state}: ${text}`))], [
        "not reached: the budget of 0 s was spent",
      ]);
      const named = parts.filter((part) => part !== "golden" && part !== "peers"); // which have no tiny networks
      assert.deepEqual([...new Set(spent.rows.map(({ part }) => part))], named);
      return Promise.resolve();
    }),
);

test(
  "killed by SIGKILL at any moment, it leaves a report that names every row, and no process",
  { skip: once },
  () =>
    withFolder(async (at) => {
      furnish(at, faulty, { "nvidia-smi": nvidiaSmi });
      const child = await startUntilItHangs(at);
      const ended = hasEnded(child);
      child.kill("SIGKILL");
      await ended;
      const { rows, report } = reportOf(at); // which looks for each row's name
      assert.match(report, /Not whole: last written at \d+ s, in `profile`/);
      assert.match(report, /^\| profile \| .* \| cut off \| it was under way when the check was ended \|$/m);
      assert.match(report, /^\| encode \| norm \| 1 \| 1 \| 10\.0 \|/m, "what was measured is kept");
      assert.ok(rows.some(({ part, state }) => part === "compile" && state === "not reached"));
      while (isThere(pidsOf(at)[0]!)) await sleep(20); // the test's own deadline
      process.kill(Number(pidsOf(at)[1])); // of a program of a program: the machine's to end
    }),
);

test(
  "ended by SIGTERM, it says so and takes all that it started with it",
  { skip: once },
  () =>
    withFolder(async (at) => {
      furnish(at, faulty, { "nvidia-smi": nvidiaSmi });
      const child = await startUntilItHangs(at, "--only", "ops,profile,sanitizer");
      const ended = hasEnded(child);
      child.kill("SIGTERM");
      assert.equal(await ended, 143);
      const { rows, report } = reportOf(at);
      assert.deepEqual(stateOf(rows, "profile"), ["cut off"]);
      assert.deepEqual(stateOf(rows, "sanitizer"), ["not reached", "not reached", "not reached"]);
      assert.match(report, /The check ended after/);
      assert.match(report, /Partial: .*\n\n.*\n.*\n\| encode \| conv \| 1 \| 1 \| 10\.0 \| 50 %/);
      assert.deepEqual(pidsOf(at).filter(isThere), []);
    }),
);

// ---------------------------------------------------------------- what it packs
test("the kernels that ncu is asked for are there, and patches of variants apply", { skip: once }, () => {
  const cuda = join(root, "csrc/backends/cuda");
  const kernels = readdirSync(cuda).filter((name) => name.endsWith(".cu")).map((name) =>
    readFileSync(join(cuda, name))
  );
  const asked = /KERNELS = \{([^}]*)\}/.exec(readFileSync(join(folder, "gpucheck/parts/counters.py"), "utf8"))![1]!;
  for (const [, kernel] of asked.matchAll(/: "(\w+)"/g)) {
    assert.ok(kernels.some((text) => new RegExp(`__global__[^;{]*${kernel}\\(`).test(text.toString())), kernel);
  }
  const variants = join(folder, "variants");
  for (const name of existsSync(variants) ? readdirSync(variants) : []) {
    if (!name.endsWith(".patch")) continue; // one that takes a commit back may be outgrown: pack.sh tells it
    const { status, stdout } = spawnSync("git", ["apply", "--check", join(variants, name)], {
      cwd: root,
      encoding: "utf8",
    });
    assert.equal(
      status,
      0,
      `bench/gpu_check/variants/${name} no longer applies: make it anew, or delete it\n${stdout}`,
    );
  }
});

const cuda = findCuda();
test("build.sh's commands are the build's own, and whole", { skip: once || (typeof cuda === "string" && cuda) }, () => {
  const bun = join(root, "node_modules/.bin/bun"), script = join(folder, "commands.ts");
  const { status, stdout, stderr } = spawnSync(bun, [script], { encoding: "utf8", cwd: root });
  assert.equal(status, 0, stderr);
  const made = new Set([...stdout.matchAll(/ -o (\$OBJECTS\/\S+\.o)$/gm)].map(([, object]) => object!));
  const linked = new Set(stdout.split("\n").filter((line) => line.startsWith("link")).join().match(/\$OBJECTS\S+\.o/g));
  assert.deepEqual([...linked].sort(), [...made].sort());
  assert.ok(linked.size > 50 && stdout.includes("csrc/backends/cuda/sm80_conv.cu"));
  const programs = [...stdout.matchAll(/ -o \$BIN\/(\w+)$/gm)].map(([, name]) => name);
  assert.deepEqual(programs.sort(), ["gpu_ops", "gpu_run", "gpu_test", "make_weights", "sm80_layouts", "sm90_layouts"]);
  assert.doesNotMatch(stdout, /-Werror|\/work\/|\/usr\/local\/cuda|build\//);
});
