/**
 * The CPU beside PyTorch: every model and size of the list below, in one run, round by round in turn, as tables in
 * build/bench/cpu.md (text for bench/results/). Ratios are of medians over all rounds, theirs over ours.
 *
 *     bun bench/cpu.ts [--rounds 3] [--only 256x256] [--no-peer]     (PyTorch: PYTHON, or sh bench/pytorch/setup.sh)
 *
 * The roof is that of build/bench/ops' multiply-adds in registers, measured before each round; "of the roof" counts the
 * products of the direct form (build/bench/flops), so Winograd may pass 100 %.
 */
import { execFileSync } from "node:child_process";
import { writeFileSync } from "node:fs";
import { cpus } from "node:os";
import { join } from "node:path";
import process from "node:process";
import { fileURLToPath } from "node:url";
import { parseArgs } from "node:util";
import { findPython, median, runPeer } from "./peer.ts";

const root = fileURLToPath(new URL("../", import.meta.url));
const { values } = parseArgs({
  options: {
    rounds: { type: "string", default: "3" },
    only: { type: "string" },
    peer: { type: "boolean", default: true },
  },
  allowNegative: true,
});

/** `f32`: also float32, and float32 held to AVX2. `modes`, `dtypes`, `runs`: of PyTorch, whose calls are long. */
const cases = [
  {
    model: "DI8x8",
    frames: 1,
    size: "256x256",
    runs: 7,
    f32: true,
    modes: "jit,tuned",
    dtypes: "float32,bfloat16",
    peerRuns: 3,
  },
  {
    model: "DI8x8",
    frames: 1,
    size: "512x512",
    runs: 5,
    f32: true,
    modes: "jit,tuned",
    dtypes: "float32,bfloat16",
    peerRuns: 2,
  },
  {
    model: "DI8x8",
    frames: 1,
    size: "1024x1024",
    runs: 2,
    f32: false,
    modes: "jit,tuned",
    dtypes: "bfloat16",
    peerRuns: 1,
  },
  {
    model: "CV4x8x8",
    frames: 9,
    size: "256x256",
    runs: 3,
    f32: true,
    modes: "tuned",
    dtypes: "float32,bfloat16",
    peerRuns: 2,
  },
  {
    model: "DV8x16x16",
    frames: 17,
    size: "352x640",
    runs: 2,
    f32: false,
    modes: "tuned",
    dtypes: "float32,bfloat16",
    peerRuns: 1,
  },
].filter((c) => values.only === undefined || c.size === values.only);

const halves = ["encode", "decode"] as const;
/** Milliseconds and MiB of each "case half who", over the rounds. */
const times = new Map<string, number[]>(), peaks = new Map<string, number[]>();

function note(key: string, ms: number, mib: number): void {
  times.set(key, [...times.get(key) ?? [], ms]);
  peaks.set(key, [...peaks.get(key) ?? [], mib]);
}

const keyOf = (c: (typeof cases)[number], half: string, who: string) =>
  `${c.model} ${c.frames}x${c.size} ${half} ${who}`;

function runOurs(c: (typeof cases)[number], precision: string, kernels: string, who: string): void {
  const shape = [
    "--model",
    c.model,
    "--size",
    c.size,
    "--frames",
    String(c.frames),
    "--runs",
    String(c.runs),
    "--json",
  ];
  const args = [join(root, "bench/end_to_end.ts"), ...shape, "--precision", precision, "--kernels", kernels];
  for (const line of execFileSync(process.execPath, args, { encoding: "utf8", cwd: root }).trim().split("\n")) {
    const row = JSON.parse(line) as { half: string; median_ms: number; peak_rss_mib: number };
    note(keyOf(c, row.half, who), row.median_ms, row.peak_rss_mib);
  }
}

const python = values.peer ? findPython() : undefined;

/** A process for each mode and dtype, so that the peak of each is its own. */
function notePeer(python: string, c: (typeof cases)[number]): void {
  const size = [c.model, ...c.size.split("x"), "--frames", String(c.frames), "--runs", String(c.peerRuns)];
  for (const mode of c.modes.split(",")) {
    for (const dtype of c.dtypes.split(",")) {
      for (const row of runPeer(python, [...size, "--modes", mode, "--dtypes", dtype])) {
        note(keyOf(c, row.half, `${mode} ${dtype}`), row.ms, row.mib);
      }
    }
  }
}

const roofs: { f32: number; bf16: number }[] = [];
function measureRoof(): void {
  roofs.push(JSON.parse(execFileSync(join(root, "build/bench/ops"), ["roof"], { encoding: "utf8" })));
}

for (let round = 0; round < Number(values.rounds); round++) {
  for (const c of cases) {
    measureRoof();
    runOurs(c, "bf16", "auto", "ours bf16");
    if (python) notePeer(python, c);
    if (!c.f32) continue;
    runOurs(c, "f32", "auto", "ours f32");
    runOurs(c, "f32", "avx2", "ours f32 avx2");
  }
  writeFileSync(join(root, "build/bench/cpu.md"), report(round + 1));
}
console.log(report(Number(values.rounds)));

function report(rounds: number): string {
  const roof = { f32: median(roofs.map((r) => r.f32)), bf16: median(roofs.map((r) => r.bf16)) };
  const spread = (all: readonly number[]) => `${Math.round(Math.min(...all))} to ${Math.round(Math.max(...all))}`;
  const round = (n: number, digits = 0) => Number.isFinite(n) ? n.toFixed(digits) : "";
  const lines = [
    `${cpus()[0]!.model}, 2 threads; ${new Date().toISOString().slice(0, 10)}; commit ${
      execFileSync("git", ["rev-parse", "--short", "HEAD"], { encoding: "utf8", cwd: root }).trim()
    }; medians of ${rounds} rounds.`,
    `Roof, GFLOP/s: float32 ${round(roof.f32)} (${spread(roofs.map((r) => r.f32))}), bfloat16 ${round(roof.bf16)} (${
      spread(roofs.map((r) => r.bf16))
    }).`,
    "",
    "| case | half | who | ms | of the roof | peak MiB | PyTorch tuned float32 | tuned bfloat16 | jit bfloat16 |",
    "| --- | --- | --- | --- | --- | --- | --- | --- | --- |",
  ];
  for (const c of cases) {
    const [height, width] = c.size.split("x");
    const args = [c.model, String(c.frames), height!, width!];
    const flops = JSON.parse(execFileSync(join(root, "build/bench/flops"), args, { encoding: "utf8" })) as Record<
      string,
      number
    >;
    for (const half of halves) {
      for (
        const who of [
          "ours bf16",
          "ours f32",
          "ours f32 avx2",
          "tuned float32",
          "tuned bfloat16",
          "jit bfloat16",
          "jit float32",
        ]
      ) {
        const ms = median(times.get(keyOf(c, half, who)));
        if (!Number.isFinite(ms)) continue;
        const ratio = (peer: string) =>
          who.startsWith("ours") ? round(median(times.get(keyOf(c, half, peer))) / ms, 2) : "";
        const part = flops[half]! / ms * 1e-6 / (who.includes("bf") ? roof.bf16 : roof.f32) * 100;
        const peak = Math.max(...peaks.get(keyOf(c, half, who))!);
        const ratios = ["tuned float32", "tuned bfloat16", "jit bfloat16"].map(ratio).join(" | ");
        const name = who.startsWith("ours") ? who : `PyTorch ${who}`;
        lines.push(
          `| ${c.model} ${c.frames}x${c.size} | ${half} | ${name} | ${round(ms)} | ${
            round(part)
          } % | ${peak} | ${ratios} |`,
        );
      }
    }
  }
  const images = cases.filter((c) => c.model === "DI8x8");
  for (
    const [who, peer, some] of [
      ["ours bf16", "tuned bfloat16", images],
      ["ours bf16", "jit bfloat16", images],
      ["ours f32", "tuned float32", images.filter((c) => c.f32)],
      ["ours f32 avx2", "tuned float32", images.filter((c) => c.f32)],
    ] as const
  ) {
    const logs = some.flatMap((c) =>
      halves.map((half) => Math.log(median(times.get(keyOf(c, half, peer))) / median(times.get(keyOf(c, half, who)))))
    );
    const mean = Math.exp(logs.reduce((a, b) => a + b, 0) / logs.length);
    if (Number.isFinite(mean)) {
      lines.push("", `Geometric mean over DI8x8, ${who} to PyTorch ${peer}: ${mean.toFixed(2)}.`);
    }
  }
  return lines.join("\n") + "\n";
}
