/**
 * ctok dataset on many machines, as a child process: which worker this is, what is missing, and exit codes that say
 * whether another try is worth it. What workers do is held in tests/corpus/split.test.ts.
 */
import assert from "node:assert/strict";
import { execFileSync, spawnSync } from "node:child_process";
import { copyFileSync, mkdirSync, readFileSync, renameSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { test } from "node:test";
import { datasetCommand } from "../../cli/dataset.ts";
import { contentOf } from "../corpus/support.ts";
import { root, withFolder } from "../support.ts";
import { ctokEnds, type How, lines } from "./spawn.ts";

const noCluster = { SLURM_ARRAY_TASK_ID: "", JOB_COMPLETION_INDEX: "" };

/** A plan in "out" over so many pictures. */
async function planned(cwd: string, count: number, shardSize: number, side = 32): Promise<void> {
  mkdirSync(join(cwd, "photos"), { recursive: true });
  for (let i = 0; i < count; i++) copyFileSync(join(root, "examples/media/cat.png"), join(cwd, `photos/${i}.png`));
  const size = ["--size", String(side), "--shard-size", String(shardSize)];
  await ctokEnds(0, ["dataset", "plan", "photos", "-o", "out", ...size], { cwd });
}

test("the worker's number is given, or the cluster's; the list of those missing is fit for sbatch", () =>
  withFolder(async (cwd) => {
    await planned(cwd, 14, 1);
    const run = (code: number, shard: string, env: Record<string, string> = {}) =>
      ctokEnds(code, ["dataset", "run", "out", `--shard=${shard}`], { cwd, env: { ...noCluster, ...env } });
    const missing = async (...more: string[]) =>
      (await ctokEnds(0, ["dataset", "missing", "out", ...more], { cwd })).stdout;
    assert.match(
      (await ctokEnds(2, ["dataset", "missing", "out"], { cwd })).stderr,
      /that --shard splits, or --shard N, found/,
    );
    assert.equal(await missing("--shard", "10"), "0-9\n");
    const refused: [shard: string, env: Record<string, string>, said: RegExp][] = [
      ["10/10", {}, /--shard: expected a worker from 0 to 9, as there are 10, found 10;/],
      ["10", { SLURM_ARRAY_TASK_ID: "10" }, /SLURM_ARRAY_TASK_ID: expected .*: sbatch --array=0-9, found 10;/],
      ["/10", { JOB_COMPLETION_INDEX: "12" }, /JOB_COMPLETION_INDEX: expected .*: completions: 10, found 12;/],
      ["/10", { SLURM_ARRAY_TASK_ID: "%a" }, /expected a worker from 0 to 9, .*found %a;/],
      [
        "/10",
        {},
        /--shard: expected a worker's number, as 0\/10 or in SLURM_ARRAY_TASK_ID or JOB_COMPLETION_INDEX, found none/,
      ],
      ["a/10", {}, /--shard: expected a worker and their number such as 3\/10/],
      ["3/", {}, /--shard: expected a worker/],
      ["0/0", {}, /--shard: expected a worker/],
    ];
    for (const [shard, env, said] of refused) assert.match((await run(2, shard, env)).stderr, said);
    await ctokEnds(2, ["dataset", "run", "out", "--resplit"], { cwd });
    await ctokEnds(2, ["dataset", "photos", "-o", "out", "--shard", "0/2"], { cwd });
    await ctokEnds(2, ["dataset", "missing", "out", "--shard", "0/2"], { cwd });
    assert.match((await run(0, "3/10")).stdout, /^share 3\/10 done; out: 2 of 14 shards; 2 of 14 items, /);
    await run(0, "10", { SLURM_ARRAY_TASK_ID: "0", JOB_COMPLETION_INDEX: "7" });
    await run(0, "/10", { JOB_COMPLETION_INDEX: "7" });
    assert.equal(await missing(), "1-2,4-6,8-9\n");
    assert.deepEqual(lines(await missing("--json")), [{
      out: "out",
      shards: [1, 2, 4, 5, 6, 8, 9, 11, 12],
      of: 10,
      elements: [1, 2, 4, 5, 6, 8, 9],
      parked: [],
      isComplete: false,
    }]);
    const status = await ctokEnds(0, ["dataset", "status", "out"], { cwd });
    assert.match(status.stdout, /\nsplit among 10 workers; to do: 1-2,4-6,8-9\n/);
    const other = await run(1, "0/9"); // not to be tried again
    assert.match(other.stderr, /expected shard i\/10, as this corpus is split \(--resplit/);
    await ctokEnds(0, ["dataset", "run", "out", "--shard", "0/1", "--resplit"], { cwd });
    assert.equal(await missing(), "");
    await ctokEnds(0, ["dataset", "plan", "photos", "-o", "whole", "--size", "32", "--shard-size", "1"], { cwd });
    await ctokEnds(0, ["dataset", "run", "whole", "--shard", "0/1"], { cwd });
    assert.deepEqual(contentOf(join(cwd, "out")), contentOf(join(cwd, "whole")));
  }));

test("a share with items set aside is done: 0, and status names them; without --shard it is 1", () =>
  withFolder(async (cwd) => {
    mkdirSync(join(cwd, "photos"));
    writeFileSync(join(cwd, "photos/3.png"), "no picture");
    await planned(cwd, 3, 2);
    for (const shard of ["1/2", "0/2"]) {
      const { stdout, stderr } = await ctokEnds(0, ["dataset", "run", "out", "--shard", shard], { cwd });
      if (shard === "1/2") {
        assert.match(stdout + stderr, /ctok: 3, set aside: [\s\S]*1 set aside|1 set aside[\s\S]*3, set aside/);
      }
    }
    assert.match((await ctokEnds(0, ["dataset", "status", "out"], { cwd })).stdout, /set aside: 3: IMAGE: /);
    await ctokEnds(1, ["dataset", "run", "out"], { cwd });
  }));

test("interrupted: by SIGTERM, as clusters do, 75; by Ctrl-C 130, which ends a shell's loop of tries, too", () =>
  withFolder(async (cwd) => {
    await planned(cwd, 400, 4, 512); // a minute of work
    for (const [signal, code] of [["SIGTERM", 75], ["SIGINT", 130]] as const) {
      const onOutput: How["onOutput"] = (interrupt) => interrupt(signal);
      const { stdout } = await ctokEnds(code, ["dataset", "run", "out", "--shard", "0/1", "--json"], { cwd, onOutput });
      assert.equal(lines(stdout).at(-1).code, "CANCELLED", stdout);
    }
  }));

test("a disk of items that is not there is worth another try, a model that is not there is not", () =>
  withFolder(async (cwd) => {
    await planned(cwd, 8, 4);
    const run = ["dataset", "run", "out", "--shard", "0/1"];
    renameSync(join(cwd, "photos"), join(cwd, "away"));
    assert.match((await ctokEnds(75, run, { cwd })).stderr, /found "none of the shard's 4"/);
    renameSync(join(cwd, "away"), join(cwd, "photos"));
    await ctokEnds(3, [...run, "--model", "none-such"], { cwd });
    await ctokEnds(3, [...run, "--device", "cuda:93"], { cwd });
    await ctokEnds(0, run, { cwd });
  }));

test("a full disk is worth another try, and with room it succeeds", async (t) => {
  await withFolder(async (cwd) => {
    const out = join(cwd, "out");
    mkdirSync(out);
    const { status, stderr } = spawnSync("mount", ["-t", "tmpfs", "-o", "size=1m", "tmpfs", out]);
    if (status !== 0) return t.skip(`no filesystem may be mounted here: ${stderr}`);
    try {
      await planned(cwd, 6, 2);
      writeFileSync(join(out, "ballast"), new Uint8Array((1 << 20) - 40_960));
      assert.match(
        (await ctokEnds(75, ["dataset", "run", "out", "--shard", "0/1"], { cwd })).stderr,
        /found a full disk/,
      );
      execFileSync("mount", ["-o", "remount,size=32m", out]);
      await ctokEnds(0, ["dataset", "run", "out", "--shard", "0/1"], { cwd });
    } finally {
      execFileSync("umount", [out]);
    }
  });
});

test("docs/cli.md has the exit codes that the help has", () => {
  const document = readFileSync(join(root, "docs/cli.md"), "utf8"), rows = datasetCommand.exits ?? [];
  assert.ok(rows.length >= 6);
  assert.ok(document.includes(rows.map(([code, about]) => `| ${code} | ${about} |\n`).join("")), "another table");
});
