/**
 * Times a whole half of a network, pixels to tokens or back, as a user's process runs it. One JSON object a line with
 * --json.
 *
 *     bun bench/end_to_end.ts --model DI8x8 --size 512x512 [--frames 9] [--precision bf16] [--threads 2] [--runs 5]
 *                             [--kernels auto] [--weights FILE|DIR] [--peer] [--json]
 *
 * Without --weights: synthetic weights, made once by build/tests/make_weights into build/weights/. Each half runs in a
 * process of its own (so its peak memory is its own): one warm-up, then `runs` timed calls. --peer runs
 * bench/pytorch/network_times.py (PyTorch as users run it, and tuned) in turn with ours, round by round, and prints
 * ratios of medians: theirs over ours. Its Python is PYTHON, or what sh bench/pytorch/setup.sh has made.
 */
import { execFileSync, spawnSync } from "node:child_process";
import { existsSync, mkdirSync, readFileSync } from "node:fs";
import { join } from "node:path";
import process from "node:process";
import { fileURLToPath } from "node:url";
import { parseArgs } from "node:util";
import { type TensorLike, Tokenizer } from "mod.ts";
import { findPython, median, type PeerRow, runPeer } from "./peer.ts";

const root = fileURLToPath(new URL("../", import.meta.url));
const { values } = parseArgs({
  options: {
    model: { type: "string", default: "DI8x8" },
    size: { type: "string", default: "512x512" },
    frames: { type: "string", default: "9" },
    precision: { type: "string", default: "auto" },
    threads: { type: "string", default: "2" },
    runs: { type: "string", default: "5" },
    kernels: { type: "string", default: "auto" },
    weights: { type: "string" },
    rounds: { type: "string", default: "3" },
    peer: { type: "boolean", default: false },
    json: { type: "boolean", default: false },
    half: { type: "string" }, // set for the child process
  },
});
const [height, width] = values.size.split("x").map(Number) as [number, number];
const [threads, runs] = [Number(values.threads), Number(values.runs)];
const isVideo = values.model[1] === "V", frames = isVideo ? Number(values.frames) : 1;

interface Row {
  model: string;
  frames: number;
  height: number;
  width: number;
  half: string;
  precision: string;
  kernels: string;
  threads: number;
  runs: number;
  median_ms: number;
  min_ms: number;
  max_ms: number;
  peak_rss_mib: number;
}

function weightsPath(): string {
  if (values.weights) return values.weights;
  const path = join(root, "build/weights", `${values.model}.safetensors`);
  if (!existsSync(path)) {
    mkdirSync(join(root, "build/weights"), { recursive: true });
    execFileSync(join(root, "build/tests/make_weights"), [path, values.model]);
  }
  return path;
}

/** In the child: one half, timed. */
async function measure(half: "encode" | "decode"): Promise<Row> {
  const open = { threads, kernels: values.kernels as "auto", precision: values.precision as "auto" };
  await using tok = await Tokenizer.open(weightsPath(), { ...open, half: half === "encode" ? "encoder" : "decoder" });
  const { spatialFactor: s, temporalFactor: t, isDiscrete, codebookSize, latentChannels } = tok.info;
  const noise = (n: number, limit: number) =>
    Array.from({ length: n }, (_, i) => (Math.imul(i + 1, 2654435761) >>> 0) % limit);
  const time = isVideo ? [frames] : [], tokenTime = isVideo ? [(frames - 1) / t + 1] : [];
  const grid = [1, ...tokenTime, height / s, width / s], tokens = grid.reduce((a, b) => a * b, 1);
  const pixels: TensorLike<"uint8"> = {
    dtype: "uint8",
    shape: [1, ...time, height, width, 3],
    data: Uint8Array.from(noise(frames * height * width * 3, 256)),
  };
  const input: TensorLike = isDiscrete
    ? { dtype: "int32", shape: grid, data: Int32Array.from(noise(tokens, codebookSize)) }
    : {
      dtype: "float32",
      shape: [1, latentChannels, ...grid.slice(1)],
      data: new Float32Array(tokens * latentChannels).fill(0.3),
    };
  const call = () => half === "encode" ? tok.encode(pixels, isVideo ? { window: frames } : {}) : tok.decode(input);
  await call();
  const times: number[] = [];
  for (let i = 0; i < runs; i++) {
    const start = performance.now();
    await call();
    times.push(performance.now() - start);
  }
  const peak = Number(/VmHWM:\s+(\d+) kB/.exec(readFileSync("/proc/self/status", "utf8"))![1]) / 1024;
  const round = (ms: number) => Math.round(ms * 10) / 10;
  return {
    ...{
      model: values.model,
      frames,
      height,
      width,
      half,
      precision: tok.info.precision,
      kernels: tok.info.kernels,
      threads,
      runs,
    },
    ...{ median_ms: round(median(times)), min_ms: round(Math.min(...times)), max_ms: round(Math.max(...times)) },
    peak_rss_mib: Math.round(peak),
  };
}

function runChild(half: string): Row {
  const args = [fileURLToPath(import.meta.url), ...process.argv.slice(2), "--half", half];
  const child = spawnSync(process.execPath, args, { encoding: "utf8", cwd: root });
  if (child.status !== 0) throw new Error(child.stderr || `${half} ended with ${child.status}`);
  return JSON.parse(child.stdout) as Row;
}

if (values.half) {
  console.log(JSON.stringify(await measure(values.half as "encode")));
} else {
  const python = values.peer ? findPython() : undefined; // before ours take minutes
  const ours: Row[] = [], theirs: PeerRow[] = [];
  const peerSize = [
    values.model,
    String(height),
    String(width),
    "--frames",
    String(frames),
    "--threads",
    values.threads,
    "--runs",
    "3",
  ];
  for (let round = 0; round < (values.peer ? Number(values.rounds) : 1); round++) {
    for (const half of ["encode", "decode"]) {
      const row = runChild(half);
      ours.push(row);
      const { median_ms, min_ms, max_ms, peak_rss_mib } = row;
      const times = `${median_ms} ms (${min_ms} to ${max_ms}), peak ${peak_rss_mib} MiB`;
      const text =
        `${row.model} ${row.frames}x${row.height}x${row.width} ${half} ${row.precision} ${row.kernels}: ${times}`;
      console.log(values.json ? JSON.stringify(row) : text);
    }
    if (python) theirs.push(...runPeer(python, peerSize));
  }
  const kinds = new Set(theirs.map((row) => `${row.mode} ${row.dtype}`));
  for (const half of values.peer ? ["encode", "decode"] : []) {
    const mine = median(ours.filter((row) => row.half === half).map((row) => row.median_ms));
    for (const kind of kinds) {
      const peer = median(
        theirs.filter((row) => row.half === half && `${row.mode} ${row.dtype}` === kind).map((row) => row.ms),
      );
      const ratio = Math.round(peer / mine * 100) / 100;
      if (values.json) {
        console.log(JSON.stringify({ half, peer: `PyTorch ${kind}`, peer_ms: peer, ours_ms: mine, ratio }));
      } else console.log(`${half}: PyTorch ${kind} ${peer} ms, ours ${mine} ms: ${ratio} times as fast`);
    }
  }
}
