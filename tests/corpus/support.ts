/** What the tests of corpora share: pictures, plans in plainest form, worker processes, and what a corpus holds. */
import { spawn } from "node:child_process";
import { createHash } from "node:crypto";
import { existsSync, mkdirSync, readdirSync, readFileSync, statSync } from "node:fs";
import { join } from "node:path";
import process from "node:process";
import { Tensor, writeImage } from "mod.ts";
import type { PlanDatasetOptions, RunDatasetOptions } from "../../src/corpus/options.ts";
import { planWith } from "../../src/corpus/dataset.ts";
import { root } from "../support.ts";
import { plain } from "./plain.ts";

/** Noise, another for each `seed`. */
export function noise(height: number, width: number, seed: number): Tensor<"uint8"> {
  const data = Uint8Array.from(
    { length: height * width * 3 },
    (_, i) => Math.imul(i + 1 + seed * 7919, 2654435761) >>> 24,
  );
  return new Tensor("uint8", [height, width, 3], data);
}

/** So many small pictures of three sizes as PNG, made once in each folder. */
export async function pictures(folder: string, count: number): Promise<string> {
  const path = join(folder, `pictures-${count}`);
  if (existsSync(path)) return path;
  mkdirSync(path);
  for (let i = 0; i < count; i++) {
    await writeImage(join(path, `${String(i).padStart(5, "0")}.png`), noise(16 + 16 * (i % 3), 16, i));
  }
  return path;
}

/** A plan over pictures of `folder` in `out`. */
export async function madeCorpus(
  folder: string,
  out: string,
  { numItems, ...options }: { numItems: number } & Partial<PlanDatasetOptions>,
): Promise<void> {
  await planWith(plain, { inputs: [await pictures(folder, numItems)], out, ...options }, {});
}

export interface Said {
  readonly signal: string | null;
  readonly code: number | null;
  readonly lines: readonly Record<string, unknown>[];
  readonly stderr: string;
}

export interface HowWorker {
  /** Options of the run. */
  readonly run?: RunDatasetOptions;
  /** How far its clock is ahead of this machine's. */
  readonly clockMs?: number;
  /** The signal that it gives itself. */
  readonly signal?: "SIGKILL" | "SIGSTOP";
  readonly onStart?: (pid: number) => void;
}

/**
 * Runs worker.ts on the runtime of the test; it kills itself at that step, or after so many lines. `shell`: what goes
 * before it.
 */
export function runWorker(
  out: string,
  end: string | number = "",
  shell = "",
  { onStart, ...how }: HowWorker = {},
): Promise<Said> {
  const run = [...(process.versions.deno ? ["run", "-A", "--no-check"] : []), join(root, "tests/corpus/worker.ts")];
  const args = ["-c", `${shell} exec "$@"`, "sh", process.execPath, ...run, out, String(end), JSON.stringify(how)];
  const child = spawn("sh", args, { cwd: root, stdio: ["ignore", "pipe", "pipe"] });
  if (child.pid !== undefined) onStart?.(child.pid);
  let stdout = "", stderr = "";
  child.stdout.setEncoding("utf8").on("data", (text: string) => stdout += text);
  child.stderr.setEncoding("utf8").on("data", (text: string) => stderr += text);
  return new Promise((resolve, reject) => {
    child.on("error", reject);
    child.on("close", (code, signal) => {
      const lines = stdout.split("\n").filter(Boolean).map((line) => JSON.parse(line));
      resolve({ code, signal, lines, stderr });
    });
  });
}

/** Numbers from 0 to n - 1. */
export function dice(seed: number): (n: number) => number {
  let state = seed;
  return (n) => (state = Math.imul(state, 1664525) + 1013904223 >>> 0) % n;
}

/** Hashes of all that a corpus holds, by path; of what is this machine's own, nothing. */
export function contentOf(out: string): Map<string, string> {
  const names = readdirSync(out, { recursive: true, encoding: "utf8" }).filter((name) => {
    return !name.startsWith(".ctok") && statSync(join(out, name)).isFile();
  });
  return new Map(
    names.sort().map((name) => [name, createHash("sha256").update(readFileSync(join(out, name))).digest("hex")]),
  );
}
