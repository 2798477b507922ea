/**
 * examples/cluster/slurm.sh: as an array of ten on a Slurm of one machine, of which two elements are killed and
 * resubmitted by what `ctok dataset missing` says; and alone, with a ctok and an scontrol that play what may happen.
 */
import assert from "node:assert/strict";
import { spawn } from "node:child_process";
import {
  chmodSync,
  copyFileSync,
  existsSync,
  mkdirSync,
  readdirSync,
  readFileSync,
  rmSync,
  writeFileSync,
} from "node:fs";
import { join } from "node:path";
import process from "node:process";
import { test } from "node:test";
import { ctokEnds, runtimeCommand } from "../cli/spawn.ts";
import { contentOf } from "../corpus/support.ts";
import { root, runArgs, withFolder } from "../support.ts";
import { noSlurm, Slurm, until } from "./onemachine.ts";

const script = join(root, "examples/cluster/slurm.sh");
const quoted = (words: readonly string[]) => words.map((word) => `'${word}'`).join(" ");

/** Programs in a folder "bin", which comes first on the PATH. */
function programs(cwd: string, scripts: Readonly<Record<string, string>>): string {
  mkdirSync(join(cwd, "bin"), { recursive: true });
  for (const [name, text] of Object.entries(scripts)) {
    writeFileSync(join(cwd, "bin", name), `#!/bin/bash\n${text}\n`);
    chmodSync(join(cwd, "bin", name), 0o755);
  }
  return `${join(cwd, "bin")}:${process.env.PATH}`;
}

test("an array of ten, two of them killed: missing names exactly those, and the corpus is that of one run", {
  skip: noSlurm,
}, () =>
  withFolder(async (cwd) => {
    mkdirSync(join(cwd, "photos"));
    for (let i = 0; i < 25; i++) copyFileSync(join(root, "examples/media/cat.png"), join(cwd, `photos/${i}.png`));
    const size = ["--size", "32", "--shard-size", "1"], held = [3, 7] as const;
    await ctokEnds(0, ["dataset", "photos", "-o", "whole", ...size], { cwd });
    await ctokEnds(0, ["dataset", "plan", "photos", "-o", "tokens", ...size], { cwd });
    const worker = [process.execPath, ...runArgs, join(root, "tests/cluster/held.ts")];
    const ctok = [
      "index=$SLURM_ARRAY_TASK_ID",
      `if [ -e "held-$index" ]; then echo $$ >"held-$index"; cd ${root}; exec ${
        quoted(worker)
      } "${cwd}/$3" "$index" 10; fi`,
      `exec ${quoted(runtimeCommand)} "$@"`,
    ];
    const PATH = programs(cwd, { ctok: ctok.join("\n") });
    for (const index of held) writeFileSync(join(cwd, `held-${index}`), "");
    mkdirSync(join(cwd, "slurm"));
    await using slurm = await Slurm.start(join(cwd, "slurm"));
    const submit = (array: string) => {
      const about = [
        `--array=${array}`,
        "--parsable",
        "--cpus-per-task=1",
        `--chdir=${cwd}`,
        `--export=ALL,PATH=${PATH}`,
      ];
      const { code, stdout, stderr } = slurm.run("sbatch", ...about, script, "tokens", "10");
      assert.equal(code, 0, stderr);
      return stdout.trim();
    };
    const left = (job: string) =>
      slurm.run("squeue", "--noheader", "--array", `--job=${job}`, "--format=%K").stdout.split(/\s+/).filter(Boolean);
    const logs = () => readdirSync(cwd).filter((name) => name.endsWith(".log"));
    const told = () => logs().map((name) => `${name}: ${readFileSync(join(cwd, name), "utf8")}`).join("\n");
    const pidOf = (index: number) => Number(readFileSync(join(cwd, `held-${index}`), "utf8"));
    const isStopped = (index: number) => {
      const pid = pidOf(index);
      return pid > 0 && existsSync(`/proc/${pid}/stat`) &&
        /^\d+ \(.*\) T /.test(readFileSync(`/proc/${pid}/stat`, "utf8"));
    };

    const first = submit("0-9");
    await until(() => held.every(isStopped) && left(first).sort().join() === held.join(), told);
    process.kill(pidOf(3), "SIGKILL");
    slurm.run("scancel", `${first}_7`);
    await until(() => left(first).length === 0, told);
    const missing = (await ctokEnds(0, ["dataset", "missing", "tokens"], { cwd })).stdout.trim();
    assert.equal(missing, "3,7", told());

    for (const index of held) rmSync(join(cwd, `held-${index}`));
    const second = submit(missing);
    await until(() => left(second).length === 0, told);
    const mine = logs().filter((name) => name.startsWith(`ctok-${second}_`)).sort();
    assert.deepEqual(mine, [`ctok-${second}_3.log`, `ctok-${second}_7.log`]);
    assert.equal((await ctokEnds(0, ["dataset", "missing", "tokens"], { cwd })).stdout, "", told());
    assert.deepEqual(contentOf(join(cwd, "tokens")), contentOf(join(cwd, "whole")));
  }));

interface Played {
  readonly code: number | null;
  readonly requeued: string;
}

/** The script alone: `ctok` is what that program does; the script gets a signal once that has said "begun". */
async function play(cwd: string, ctok: string, restarts: number | undefined, signal?: NodeJS.Signals): Promise<Played> {
  const at = join(cwd, `${readdirSync(cwd).length}`);
  mkdirSync(at);
  const PATH = programs(at, { ctok, scontrol: 'echo "$@" >>requeued' });
  const env = { ...process.env, PATH, SLURM_JOB_ID: "42", SLURM_ARRAY_TASK_ID: "1" };
  const more = restarts === undefined ? {} : { SLURM_RESTART_COUNT: String(restarts) };
  const child = spawn("bash", [script, "tokens", "10"], {
    cwd: at,
    env: { ...env, ...more },
    stdio: ["ignore", "pipe", "inherit"],
  });
  child.stdout.setEncoding("utf8").once("data", () => signal && process.kill(child.pid!, signal));
  const code = await new Promise<number | null>((resolve) => child.once("close", (code) => resolve(code)));
  const requeued = existsSync(join(at, "requeued")) ? readFileSync(join(at, "requeued"), "utf8") : "";
  return { code, requeued };
}

test("slurm.sh requeues what is worth another try, a few times, and what the time limit ends; nothing else", () =>
  withFolder(async (cwd) => {
    const ends = (code: number) => `echo begun "$@"; [ "$*" = "dataset run tokens --shard /10" ] && exit ${code}`;
    for (const code of [0, 1, 2, 3, 137]) {
      assert.deepEqual(await play(cwd, ends(code), undefined), { code, requeued: "" });
    }
    const requeued = { code: 75, requeued: "requeue 42\n" };
    for (const restarts of [undefined, 1, 4]) assert.deepEqual(await play(cwd, ends(75), restarts), requeued);
    assert.deepEqual(await play(cwd, ends(75), 5), { code: 75, requeued: "" });
    const waits = "trap 'kill $!; sleep 0.3; echo ended >ended; exit 75' TERM; sleep 600 & " +
      'until grep -q "^State:.S" /proc/$PPID/status; do :; done; echo begun; wait'; // the script waits by then
    assert.deepEqual(await play(cwd, waits, undefined, "SIGUSR1"), requeued);
    assert.ok(readdirSync(cwd).some((name) => existsSync(join(cwd, name, "ended"))), "ctok was not waited for");
  }));
