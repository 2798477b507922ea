/** PyTorch's times, by ../shared/tools/peer_bench.py, and the median that every table takes. */
import { execFileSync } from "node:child_process";
import { join } from "node:path";
import { fileURLToPath } from "node:url";

export interface PeerRow {
  readonly half: "encode" | "decode";
  /** "jit": traced, contiguous, as users run it; "tuned": channels-last. */
  readonly mode: string;
  readonly dtype: string;
  readonly ms: number;
  /** Peak resident memory of the process so far. */
  readonly mib: number;
}

const tools = fileURLToPath(new URL("../../shared/tools/", import.meta.url));

/** One process; `args` as peer_bench.py takes them: model, height, width, options. */
export function runPeer(args: readonly string[]): PeerRow[] {
  const python = execFileSync(join(tools, "peer_env.sh"), { encoding: "utf8" }).trim();
  const out = execFileSync(python, [join(tools, "peer_bench.py"), ...args], { encoding: "utf8" });
  return out.trim().split("\n").map((line) => { // "DI8x8 1x512x512 enc jit float32 123.4 ms 800 MiB"
    const [, , half, mode, dtype, ms, , mib] = line.split(" ") as string[];
    return { half: half === "enc" ? "encode" : "decode", mode: mode!, dtype: dtype!, ms: Number(ms), mib: Number(mib) };
  });
}

/** NaN of none. */
export function median(all: readonly number[] = []): number {
  const sorted = [...all].sort((a, b) => a - b), middle = (sorted.length - 1) / 2;
  return (sorted[Math.floor(middle)]! + sorted[Math.ceil(middle)]!) / 2;
}
