/** The command line as its tests run it: spawned by the runtime that runs the tests. */
import assert from "node:assert/strict";
import { Buffer } from "node:buffer";
import { spawn } from "node:child_process";
import { readFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import process from "node:process";
import "../offline.ts";
import { runArgs } from "../support.ts";

export const top = join(import.meta.dirname!, "../..");
const main = join(top, "cli/main.ts");
/** The command line by the runtime that runs the tests. */
export const runtimeCommand = [process.execPath, ...runArgs, main];

export interface Ended {
  /** The exit code, or the name of the signal that ended it. */
  code: number | string | null;
  stdout: string;
  stderr: string;
}

export interface How {
  cwd?: string;
  env?: Record<string, string>;
  /** A shell command that ends in exec "$@". */
  shell?: string;
  /** "pipe": standard input says nothing and does not end. */
  stdin?: "pipe";
  /** Called once, with the process's id. */
  onStart?: (pid: number) => void;
  /** Called at each output, with a way to interrupt; the first signal is sent. */
  onOutput?: (interrupt: (signal?: NodeJS.Signals) => void) => void;
  /** Whether an interruption goes to the children too, as a terminal's Ctrl-C does. */
  isGroup?: boolean;
}

/** What runs inherit, as it is by then, without the variables that ctok looks at: those are a test's to set. */
function inherited(): NodeJS.ProcessEnv {
  const {
    FORCE_COLOR: _colour,
    CTOK_MODEL: _model,
    CTOK_DEVICE: _device,
    CTOK_PRECISION: _precision,
    CTOK_TRACE: _trace,
    ...others
  } = process.env;
  return others;
}

export function ctok(args: readonly string[], how: How = {}): Promise<Ended> {
  const { cwd = tmpdir(), env = {}, shell, onStart, onOutput, isGroup = false, stdin = "ignore" } = how;
  const [command, ...rest] = [...(shell ? ["sh", "-c", shell, "sh"] : []), ...runtimeCommand, ...args];
  const child = spawn(command!, rest, {
    cwd,
    env: { ...inherited(), ...env },
    stdio: [stdin, "pipe", "pipe"],
    detached: isGroup,
  });
  if (child.pid !== undefined) onStart?.(child.pid);
  const ended = { code: null as Ended["code"], stdout: "", stderr: "" };
  let isInterrupted = false;
  child.stdout!.setEncoding("utf8").on("data", (text: string) => {
    ended.stdout += text;
    // Note: after child.kill, Deno tells the signal and not the exit code.
    onOutput?.((signal = "SIGINT") => {
      if (!isInterrupted) process.kill(isGroup ? -child.pid! : child.pid!, signal);
      isInterrupted = true;
    });
  });
  child.stderr!.setEncoding("utf8").on("data", (text: string) => ended.stderr += text);
  return new Promise((resolve, reject) => {
    child.on("error", reject);
    child.on("close", (code, signal) => resolve({ ...ended, code: code ?? signal }));
  });
}

/** Why SIGHUP does nothing here, or false: what nohup starts ignores it, with all its children. */
export const noHangup = (() => {
  const mask = /^SigIgn:\s*([0-9a-f]+)/m.exec(readFileSync("/proc/self/status", "utf8"))![1]!;
  return parseInt(mask.slice(-1), 16) % 2 === 1 ? "SIGHUP is ignored (nohup)" : false;
})();

/** Runs, and fails with all that was said unless it ends with `code`. */
export async function ctokEnds(code: number, args: readonly string[], how?: How): Promise<Ended> {
  const ended = await ctok(args, how);
  assert.equal(ended.code, code, `ctok ${args.join(" ")}\n${ended.stdout}\n${ended.stderr}`);
  return ended;
}

export const lines = (text: string) => text.split("\n").filter(Boolean).map((line) => JSON.parse(line));

/** A shell script in which `ctok` is the command line. */
export function shell(
  script: string,
  cwd: string,
  env: Record<string, string> = {},
): Promise<{ code: number | null; stdout: Buffer; stderr: string }> {
  const quoted = runtimeCommand.map((word) => `'${word}'`).join(" ");
  const child = spawn("bash", ["-c", `ctok() { ${quoted} "$@"; }\n${script}`], {
    cwd,
    env: { ...inherited(), ...env },
    stdio: ["ignore", "pipe", "pipe"],
  });
  const stdout: Buffer[] = [];
  let stderr = "";
  child.stdout.on("data", (chunk: Buffer) => stdout.push(chunk));
  child.stderr.setEncoding("utf8").on("data", (text: string) => stderr += text);
  return new Promise((resolve, reject) => {
    child.on("error", reject);
    child.on("close", (code) => resolve({ code, stdout: Buffer.concat(stdout), stderr }));
  });
}
