/**
 * Predicts how long a network takes on a GPU that is not there, from the machine code of the kernels: what each start
 * is given (build/tests/gpu_steps), what a warp executes in each loop (bench/machine_code), and the constants below.
 * Prints tables in Markdown, for bench/results/gpu-model.md. Nothing is measured: a part that the model leaves out, and
 * a constant that is wrong, show only on a GPU.
 *
 *     bun bench/gpu_model.ts [--model DI8x8] [--size 1024x1024] [--checkout FOLDER]     (after npm run build)
 *
 * --checkout: another checkout that is built, such as one of an earlier commit.
 *
 * A round of a loop: its barriers cut it into parts. In each part all warps first execute what stands before the first
 * product, one instruction a clock and scheduler, and wait for shared memory once; then the tensor cores, shared memory
 * and the schedulers work side by side, and the slowest rules. Copies into the ring land at any time, so that they
 * count in a whole round alone. Where blocks share an SM, one's waits are not hidden by the other's work. A
 * convolution's block: its stages, once a tap the longest way round, and its end, which is what its instructions take,
 * or its residual's round trips where those take longer. Blocks run in whole rounds of all SMs.
 */
import { spawnSync } from "node:child_process";
import { readFileSync } from "node:fs";
import { join } from "node:path";
import { parseArgs } from "node:util";
import { root } from "../tools/settings.ts";
import { kernelsOf, numbersOf, workOf } from "./machine_code/kernels.ts";
import { type Instruction, type Kernel, readerVersion, whyUnreadable } from "./machine_code/listing.ts";
import { hotRounds, isOf, loopsOf, type Round } from "./machine_code/loops.ts";

// ---------------------------------------------------------------- what is assumed
export interface Gpu {
  readonly name: string;
  readonly architecture: string;
  readonly numSms: number;
  readonly sharedBytes: number; // that a block may ask for
  readonly ghz: number; // under load
  readonly productClocks: number; // of an SM for one mma.m16n8k16 of a warp, which is 2048 multiply-adds
  readonly l2BytesPerClock: number; // that an SM gets while all read: 5120 of all
  readonly memoryTbPerS: number; // that a norm reaches
  readonly floatTflops: number; // that smxx_conv reaches: 45 % of the peak
  readonly busGbPerS: number;
}

export const gpus: readonly Gpu[] = [
  {
    name: "H100",
    architecture: "sm_90",
    numSms: 132,
    sharedBytes: 232448,
    ghz: 1.85,
    productClocks: 1 / 0.63, // 2048 a clock by WGMMA, of which mma.sync gets 63 %
    l2BytesPerClock: 5120 / 132,
    memoryTbPerS: 2.4,
    floatTflops: 28,
    busGbPerS: 45,
  },
  {
    name: "A100",
    architecture: "sm_80",
    numSms: 108,
    sharedBytes: 166912,
    ghz: 1.38,
    productClocks: 2,
    l2BytesPerClock: 5120 / 108,
    memoryTbPerS: 1.45,
    floatTflops: 8.8,
    busGbPerS: 22,
  },
];

const schedulers = 4; // of an SM, an instruction a clock each
const sharedBytesPerClock = 128;
const barrierClocks = 30; // from the last warp's arrival to the next instruction
const ldmatrixClocks = 33; // from its issue to its registers
const roundTripClocks = 400; // of a load of the residual: the L2's latency, 300 to 700
const launchMicroseconds = 2; // of a kernel in a graph
const mergeMicroseconds = { dividing: 5, plain: 2 }; // of a norm's statistics, with divisions in the loop and without
const hostGbPerS = 12; // of one thread that copies to and from pinned memory

// ---------------------------------------------------------------- loops
/** Bytes of shared memory that a warp's instruction moves. */
function sharedBytesOf({ opcode }: Instruction): number {
  if (opcode.startsWith("LDSM")) return 512;
  if (opcode.startsWith("LDGSTS")) return opcode.includes(".128") ? 512 : 128;
  if (!/^(LDS|STS)\b/.test(opcode)) return 0;
  return opcode.includes(".128") ? 512 : opcode.includes(".64") ? 256 : 128;
}

interface Clocks {
  readonly products: number; // what the tensor cores alone would take
  readonly shared: number; // what shared memory alone would take
  readonly issue: number; // what the schedulers alone would take
  readonly total: number;
  readonly longest: number; // more on the longest way
  readonly l2Bytes: number; // that the copies take of the L2, each clock
}

/** Clocks of an SM for one block's round of a loop, by the model of the file's head. */
function clocksOf(round: Round, product: string, warps: number, gpu: Gpu): Clocks {
  const barrier = isOf("BAR"), isProduct = isOf(product), issueClocks = warps / schedulers;
  const first = round.usual.findIndex(barrier);
  const cyclic = [...round.usual.slice(first), ...round.usual.slice(0, first)]; // begins with a barrier
  const parts: Instruction[][] = [];
  for (const instruction of cyclic) {
    if (barrier(instruction)) parts.push([]);
    parts.at(-1)!.push(instruction);
  }
  const sumOf = (code: readonly Instruction[], amount: (i: Instruction) => number) =>
    code.reduce((sum, i) => sum + amount(i), 0) * warps;
  const sharedOf = (code: readonly Instruction[]) => sumOf(code, sharedBytesOf) / sharedBytesPerClock;
  const productsOf = (code: readonly Instruction[]) => sumOf(code, (i) => isProduct(i) ? gpu.productClocks : 0);
  const isCopy = isOf("LDGSTS"); // what it writes comes later, at any time: it is no part's own
  const inParts = parts.reduce((sum, part) => {
    const at = part.findIndex(isProduct), before = at < 0 ? part : part.slice(0, at), rest = part.slice(before.length);
    const wait = before.some(isOf("LDSM")) || before.some(isOf("LDS")) ? ldmatrixClocks : 0;
    const shared = sharedOf(part.filter((i) => !isCopy(i)));
    const beside = Math.max(productsOf(rest), shared, rest.length * issueClocks);
    return sum + barrierClocks + before.length * issueClocks + wait + beside;
  }, 0);
  const copied = sumOf(cyclic.filter(isCopy), sharedBytesOf);
  const total = Math.max(inParts, sharedOf(cyclic), copied / gpu.l2BytesPerClock);
  const each = (n: number) => n / round.times;
  return {
    products: each(productsOf(cyclic)),
    shared: each(sharedOf(cyclic)),
    issue: each(cyclic.length * issueClocks),
    total: each(total),
    longest: each((round.most - round.usual.length) * issueClocks),
    l2Bytes: copied / total,
  };
}

// ---------------------------------------------------------------- kernels
/** As build/tests/gpu_steps tells them. */
interface Start {
  readonly half: string;
  readonly op: string;
  readonly kernel?: string;
  readonly tile: [number, number, number];
  readonly blocks: number;
  readonly steps: number;
  readonly stages_a_tap: number;
  readonly has_residual: boolean;
  readonly has_moments: boolean;
  readonly flops: number;
  readonly bytes: number;
}

interface Tile {
  readonly usual: number; // instructions
  readonly clocks: Clocks; // of a stage
  readonly end: End; // of a block
}

const rowsOfRun = 4;
const momentsOfRow = 50; // instructions for the statistics of 4 channels, as read in a listing

/** What a block's end takes: rows of 4 channels, in runs of 4 rows, of bf16. */
interface End {
  readonly plain: number; // clocks to issue it without a residual
  readonly residual: number; // and with one
  readonly waits: number; // clocks of the residual's round trips, one behind the other
  readonly moments: number; // more clocks to issue, with statistics
}

function endOf(kernel: Kernel, rows: number, warps: number): End {
  const store = isOf("STG"), load = isOf("LDG"), issueClocks = warps / schedulers;
  const isOfBf16 = ({ loop }: Round) => {
    const stores = kernel.instructions.slice(loop.first, loop.last + 1).filter(store);
    return stores.some(({ opcode }) => opcode.includes(".64")) && !stores.some(({ opcode }) => opcode.includes(".128"));
  };
  const runOf = (loads: number[]): Round | undefined => {
    for (const n of loads) {
      try {
        const rounds = hotRounds(kernel, { products: ["STG", rowsOfRun * 8], copies: ["LDG", n] });
        if (rounds.some(isOfBf16)) return rounds.find(isOfBf16);
      } catch {
        continue;
      }
    }
    return undefined;
  };
  // the bias may be loaded once for each row; where loads are skipped by predicates, they are issued all the same
  const residual = runOf([4, 5, 8]), plain = runOf([0, 4]) ?? residual;
  if (!residual || !plain) throw new Error(`${kernel.name}: expected a loop that stores rows of bf16, found none`);
  let trips = 0, hasStored = true; // a load behind a store is another round trip
  for (const instruction of residual.usual) {
    if (load(instruction) && hasStored) trips++, hasStored = false;
    if (store(instruction)) hasStored = true;
  }
  const runs = rows / rowsOfRun, issueOf = (round: Round) => round.usual.length / round.times * runs * issueClocks;
  return {
    plain: issueOf(plain),
    residual: issueOf(residual),
    waits: trips / residual.times * runs * roundTripClocks,
    moments: momentsOfRow * rows * issueClocks,
  };
}

function tilesOf(gpu: Gpu, checkout: string): Map<string, Tile> {
  return new Map(
    kernelsOf("sm80_conv", gpu.architecture, checkout).flatMap((kernel): [string, Tile][] => {
      const [bm = 0, bn = 0, bk = 0, warpsM = 0, warpsN = 0] = numbersOf(kernel);
      const work = workOf(kernel), warps = warpsM * warpsN;
      if (!work) return [];
      const round = hotRounds(kernel, work)[0]!, rows = bm / (warps * 32 / (bn / 4));
      return [[[bm, bn, bk].join(), {
        usual: round.usual.length / round.times,
        clocks: clocksOf(round, work.products[0], warps, gpu),
        end: endOf(kernel, rows, warps),
      }]];
    }),
  );
}

/** Blocks run in whole rounds of all SMs. */
const roundsOf = (blocks: number, gpu: Gpu) => Math.ceil(blocks / gpu.numSms);

function convMs(start: Start, tiles: Map<string, Tile>, gpu: Gpu): number {
  const tile = tiles.get(start.tile.join());
  if (!tile) throw new Error(`expected a kernel of tile ${start.tile}, found ${[...tiles.keys()].join(" ")}`);
  const newTaps = Math.ceil(start.steps / start.stages_a_tap) - 1;
  const stages = start.steps * tile.clocks.total + newTaps * tile.clocks.longest;
  const issue = (start.has_residual ? tile.end.residual : tile.end.plain) + (start.has_moments ? tile.end.moments : 0);
  const end = start.has_residual ? Math.max(issue, tile.end.waits) : issue;
  return roundsOf(start.blocks, gpu) * (stages + end) / gpu.ghz * 1e-6;
}

/**
 * The share of steps in which the maximum of any of a warp's rows moves, where scores come in no order: in the n-th
 * step a row's maximum is new with probability 1 / n.
 */
function movedShare(numSteps: number, rows: number): number {
  let sum = 0;
  for (let n = 1; n <= numSteps; n++) sum += 1 - (1 - 1 / n) ** rows;
  return sum / numSteps;
}

// ---------------------------------------------------------------- the network
export interface Parts {
  readonly ms: Record<string, number>;
  readonly tera: Record<string, number>; // FLOP
  readonly starts: number;
  readonly tiles: Map<string, Tile>;
  readonly attention: { usual: number; most: number; clocks: Clocks };
}

/** Milliseconds of a norm beside its traffic. */
function normMs(hasMoments: boolean, gpu: Gpu, checkout: string): number {
  const merge = kernelsOf("smxx_norm", gpu.architecture, checkout).find(({ name }) => name === "norm_merge");
  if (!merge) throw new Error("expected a kernel norm_merge, found none");
  const divides = loopsOf(merge).some(({ first, last }) => {
    const inside = merge.instructions.slice(first, last + 1);
    return inside.some(isOf("LDG")) && inside.some(isOf("MUFU.RCP64H"));
  });
  const launches = (hasMoments ? 2 : 3) * launchMicroseconds;
  return (launches + (divides ? mergeMicroseconds.dividing : mergeMicroseconds.plain)) * 1e-3;
}

/** Milliseconds of a picture's way through pinned buffers, one piece copied while the one before travels. */
function copyMs(bytes: number, gpu: Gpu, checkout: string): number {
  const source = readFileSync(join(checkout, "csrc/backends/cuda/cuda_backend.c"), "utf8");
  const [, factor, shift] = /\bSTAGING_BYTES = (\d+) << (\d+)/.exec(source) ?? [];
  if (!shift) throw new Error("cuda_backend.c: expected STAGING_BYTES = N << N, found none");
  const piece = Math.min(bytes, Number(factor) * 2 ** Number(shift));
  const host = piece / hostGbPerS * 1e-6, bus = piece / gpu.busGbPerS * 1e-6;
  return bytes / piece * Math.max(host, bus) + Math.min(host, bus);
}

/** The parts of one model's encode and decode of one image. Throws where the checkout is not built. */
export function predict(gpu: Gpu, model: string, size: readonly [string, string], checkout: string): Parts {
  const program = join(checkout, "build/tests/gpu_steps");
  const { status, stdout, stderr } = spawnSync(
    program,
    [model, ...size, `${gpu.numSms}`, `${gpu.sharedBytes}`],
    { encoding: "utf8", cwd: checkout },
  );
  if (status !== 0) throw new Error(`${program} ended with ${status}: ${stderr}`);
  const starts = stdout.trim().split("\n").map((line) => JSON.parse(line) as Start);
  const tiles = tilesOf(gpu, checkout), kernels = kernelsOf("sm80_attention", gpu.architecture, checkout);
  const parts = ["convolutions, tensor cores", "convolutions, FFMA", "attention", "norms", "Haar, launches, copies"];
  const ms = Object.fromEntries(parts.map((part) => [part, 0])), tera = { ...ms };
  const add = (part: string, time: number, flops = 0) => {
    ms[part]! += time, tera[part]! += flops * 1e-12;
  };
  const trafficMs = (bytes: number) => bytes / gpu.memoryTbPerS * 1e-9;
  const normsMs = [normMs(true, gpu, checkout), normMs(false, gpu, checkout)] as const;
  let attention: Parts["attention"] | undefined;
  for (const start of starts) {
    if (start.op === "norm") {
      const reads = start.has_moments ? 1 : 1.5; // bytes has one read and one write
      add("norms", trafficMs(start.bytes * reads) + normsMs[start.has_moments ? 0 : 1]);
      continue;
    }
    add("Haar, launches, copies", launchMicroseconds * 1e-3);
    if (start.kernel === "smxx_conv") add("convolutions, FFMA", start.flops / gpu.floatTflops * 1e-9, start.flops);
    else if (start.op === "conv") add("convolutions, tensor cores", convMs(start, tiles, gpu), start.flops);
    else if (start.kernel === "sm80_attention") {
      const kernel = kernels.find((k) => numbersOf(k).slice(0, 3).join() === start.tile.join());
      if (!kernel) throw new Error(`expected an attention kernel <${start.tile}>, found none`);
      const work = workOf(kernel)!, round = hotRounds(kernel, work)[0]!;
      const clocks = clocksOf(round, work.products[0], 8, gpu), share = movedShare(start.steps / round.times, 32);
      attention = { usual: round.usual.length / round.times, most: round.most / round.times, clocks };
      const each = clocks.total + share * clocks.longest;
      add("attention", roundsOf(start.blocks, gpu) * start.steps * each / gpu.ghz * 1e-6, start.flops);
    } else add("Haar, launches, copies", trafficMs(start.bytes));
  }
  const pictureBytes = 3 * Number(size[0]) * Number(size[1]);
  add("Haar, launches, copies", 2 * copyMs(pictureBytes, gpu, checkout)); // there and back
  if (!attention) throw new Error(`${model}: expected attention, found none`);
  return { ms, tera, starts: starts.length, tiles, attention };
}

export const totalMs = ({ ms }: Parts): number => Object.values(ms).reduce((a, b) => a + b, 0);

if (import.meta.main) {
  const { values } = parseArgs({
    options: {
      model: { type: "string", default: "DI8x8" },
      size: { type: "string", default: "1024x1024" },
      checkout: { type: "string", default: root },
    },
  });
  const size = values.size.split("x") as [string, string], why = whyUnreadable();
  if (why) throw new Error(why);
  const found = gpus.map((gpu) => predict(gpu, values.model, size, values.checkout));
  console.log(`${values.model} ${values.size}, encode + decode, bfloat16; cuobjdump ${readerVersion()}\n`);
  console.log(`| ms | TFLOP | ${gpus.map(({ name }) => name).join(" | ")} |`);
  console.log("| --- | --- | --- | --- |");
  for (const part of Object.keys(found[0]!.ms)) {
    const cells = found.map(({ ms }) => (ms[part] ?? 0).toFixed(2));
    console.log(`| ${part} | ${found[0]!.tera[part]!.toFixed(3)} | ${cells.join(" | ")} |`);
  }
  console.log(`| **sum** | | ${found.map((parts) => `**${totalMs(parts).toFixed(1)}**`).join(" | ")} |`);
  console.log(`| starts | | ${found.map(({ starts }) => starts).join(" | ")} |\n`);
  console.log(
    "| loop | GPU | executed | products | shared | issue | clocks | L2 | + longest | end | + residual | waits |",
  );
  console.log(`|${" --- |".repeat(12)}`);
  gpus.forEach((gpu, i) => {
    const { tiles, attention } = found[i]!;
    const row = (name: string, usual: number, c: Clocks, ...more: number[]) =>
      console.log(
        `| ${name} | ${gpu.name} | ${usual} | ${
          [c.products, c.shared, c.issue, c.total, c.l2Bytes, c.longest, ...more].map((n) => n.toFixed(0)).join(" | ")
        } |`,
      );
    for (const [name, { usual, clocks, end }] of tiles) {
      row(`conv ${name}`, usual, clocks, end.plain, end.residual - end.plain, end.waits);
    }
    row("attention, 64 keys", attention.usual, attention.clocks);
  });
}
