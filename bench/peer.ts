/**
 * PyTorch's times, by bench/pytorch/network_times.py, and the median that every table takes. Its Python is PYTHON, or
 * else build/pytorch, which bench/pytorch/setup.sh makes; nothing is installed from here.
 */
import { execFileSync, spawnSync } from "node:child_process";
import { existsSync } from "node:fs";
import process from "node:process";
import { fileURLToPath } from "node:url";

export interface PeerRow {
  readonly half: "encode" | "decode";
  /** "jit": traced, contiguous, as users run it; "tuned": channels-last; "both": traced and channels-last. */
  readonly mode: string;
  readonly dtype: string;
  readonly ms: number;
  /** Peak resident memory of the process so far. */
  readonly mib: number;
}

const path = (name: string) => fileURLToPath(new URL(name, import.meta.url));

/** A Python that imports PyTorch. Throws with the command that makes one. */
export function findPython(): string {
  const made = path("../build/pytorch/bin/python"),
    python = process.env.PYTHON || (existsSync(made) ? made : undefined);
  const wanted = "expected a Python with torch and numpy in PYTHON or in build/pytorch (sh bench/pytorch/setup.sh)";
  if (python === undefined) throw new Error(`${wanted}, found neither`);
  const tried = spawnSync(python, ["-c", "import numpy, torch"], { encoding: "utf8" });
  if (tried.status === 0) return python;
  throw new Error(`${wanted}, found ${python}: ${tried.error?.message ?? tried.stderr.trim().split("\n").at(-1)}`);
}

/** One process; `args` as network_times.py takes them: model, height, width, options. */
export function runPeer(python: string, args: readonly string[]): PeerRow[] {
  const out = execFileSync(python, [path("pytorch/network_times.py"), ...args], { encoding: "utf8" });
  return out.trim().split("\n").map((line) => JSON.parse(line) as PeerRow);
}

/** NaN of none. */
export function median(all: readonly number[] = []): number {
  const sorted = [...all].sort((a, b) => a - b), middle = (sorted.length - 1) / 2;
  return (sorted[Math.floor(middle)]! + sorted[Math.ceil(middle)]!) / 2;
}
