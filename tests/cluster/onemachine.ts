/**
 * A Slurm of one machine, of a test's own: munged, slurmctld and slurmd on free ports, in a temporary folder. As root,
 * without systemd.
 */
import { type ChildProcess, spawn, spawnSync } from "node:child_process";
import { randomBytes } from "node:crypto";
import { chmodSync, existsSync, mkdirSync, readFileSync, writeFileSync } from "node:fs";
import { createServer } from "node:net";
import { hostname } from "node:os";
import { join } from "node:path";
import process from "node:process";
import { setTimeout as sleep } from "node:timers/promises";

/** Why there can be none here, or false. */
export const noSlurm = (() => {
  const lacks = ["munged", "slurmctld", "slurmd"].filter((program) => spawnSync(program, ["-V"]).status !== 0);
  if (lacks.length > 0) return `there is no ${lacks.join(", no ")} (Debian's slurm-wlm and munge)`;
  return process.getuid?.() === 0 ? false : "a Slurm of the test's own is root's";
})();

const numCpus = 4, patienceMs = 120_000;

export class Slurm implements AsyncDisposable {
  readonly #folder: string;
  readonly #daemons: ChildProcess[] = [];
  readonly env: Readonly<Record<string, string>>;

  private constructor(folder: string) {
    this.#folder = folder;
    this.env = { SLURM_CONF: join(folder, "slurm.conf") };
  }

  static async start(folder: string): Promise<Slurm> {
    const slurm = new Slurm(folder);
    try {
      await slurm.#start();
      return slurm;
    } catch (error) {
      await slurm[Symbol.asyncDispose]();
      throw error;
    }
  }

  async #start(): Promise<void> {
    const at = (name: string) => join(this.#folder, name), socket = at("munge/socket");
    chmodSync(this.#folder, 0o755); // as munged wants it
    for (const name of ["munge", "state", "spool"]) mkdirSync(at(name), { mode: 0o755 });
    writeFileSync(at("munge/key"), randomBytes(1024), { mode: 0o400 });
    const [controller, node] = [await freePort(), await freePort()];
    const lines = [
      "ClusterName=test",
      "SlurmctldHost=localhost(127.0.0.1)",
      `SlurmctldPort=${controller}`,
      "AuthType=auth/munge",
      `AuthInfo=socket=${socket}`,
      "SlurmUser=root",
      "SlurmdUser=root",
      `StateSaveLocation=${at("state")}`,
      `SlurmdSpoolDir=${at("spool")}`,
      `SlurmctldPidFile=${at("slurmctld.pid")}`,
      `SlurmdPidFile=${at("slurmd.pid")}`,
      "ProctrackType=proctrack/linuxproc",
      "TaskPlugin=task/none",
      "JobAcctGatherType=jobacct_gather/none",
      "AccountingStorageType=accounting_storage/none",
      "SchedulerType=sched/builtin",
      "SchedulerParameters=batch_sched_delay=0,sched_interval=1,sched_min_interval=0",
      "SelectType=select/cons_tres",
      "SelectTypeParameters=CR_CPU",
      "SlurmdParameters=config_overrides",
      "MpiDefault=none",
      "KillWait=1",
      `NodeName=one NodeHostname=${hostname()} NodeAddr=127.0.0.1 Port=${node} CPUs=${numCpus} State=UNKNOWN`,
      "PartitionName=main Nodes=one Default=YES MaxTime=INFINITE State=UP",
    ];
    writeFileSync(this.env.SLURM_CONF!, lines.join("\n") + "\n");
    const files = ["key-file", "socket", "pid-file", "log-file", "seed-file"].map((name) => {
      return `--${name}=${at(`munge/${name.replace("-file", "")}`)}`;
    });
    this.#daemon("munged", "--foreground", "--force", ...files);
    await until(() => existsSync(socket), () => this.#said());
    this.#daemon("slurmctld", "-D", "-c", "-f", this.env.SLURM_CONF!);
    this.#daemon("slurmd", "-D", "-N", "one", "-f", this.env.SLURM_CONF!);
    await until(() => /idle/.test(this.run("sinfo", "--noheader", "--format=%t").stdout), () => this.#said());
  }

  #daemon(program: string, ...args: string[]): void {
    const log = join(this.#folder, `${program}.out`),
      words = ["-c", `exec "$@" >'${log}' 2>&1`, "sh", program, ...args];
    this.#daemons.push(spawn("sh", words, { cwd: this.#folder, stdio: "ignore" }));
  }

  /** What the daemons said. */
  #said(): string {
    const logs = ["munged", "slurmctld", "slurmd"].map((name) => join(this.#folder, `${name}.out`)).filter(existsSync);
    return logs.map((log) => readFileSync(log, "utf8").slice(-2000)).join("\n");
  }

  /** A program of Slurm, such as squeue. */
  run(
    program: string,
    ...args: string[]
  ): { readonly code: number | null; readonly stdout: string; readonly stderr: string } {
    const { status, stdout, stderr } = spawnSync(program, args, {
      encoding: "utf8",
      env: { ...process.env, ...this.env },
    });
    return { code: status, stdout, stderr };
  }

  async [Symbol.asyncDispose](): Promise<void> {
    this.run("scancel", "--signal=KILL", "--full", "--user=root");
    for (const child of this.#daemons.reverse()) {
      if (child.exitCode !== null || child.signalCode !== null) continue;
      const ended = new Promise((resolve) => child.once("close", resolve));
      child.kill("SIGTERM");
      const timer = globalThis.setTimeout(() => child.kill("SIGKILL"), 20_000);
      await ended;
      clearTimeout(timer);
    }
  }
}

/** Waits until something is so; fails with `said` after two minutes. */
export async function until(isSo: () => boolean, said: () => string): Promise<void> {
  for (const start = performance.now(); !isSo();) {
    if (performance.now() - start > patienceMs) throw new Error(`waited for ${isSo} in vain: ${said()}`);
    await sleep(100);
  }
}

async function freePort(): Promise<number> {
  const server = createServer();
  await new Promise<void>((resolve) => server.listen(0, "127.0.0.1", resolve));
  const { port } = server.address() as { port: number };
  await new Promise((resolve) => server.close(resolve));
  return port;
}
