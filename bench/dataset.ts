/**
 * What a corpus costs beside its encoder: `bun bench/dataset.ts [COUNT] [MODEL]` (or `deno run -A`). Makes COUNT JPEGs
 * of 256 x 256 pixels, then measures, in turns: the encoder alone on decoded pictures, kept supplied; preparing alone;
 * and a whole run. Tells the wall time and the processor's time an item, so that a shared machine can be judged by the
 * second: a run cannot be faster than encoder and decoder together, where both are this machine's. Then a run again of
 * what is done, and how memory grew.
 */
import { mkdtempSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import process from "node:process";
import sharp from "sharp";
import { planDataset, runDataset, type Tensor, Tokenizer } from "mod.ts";
import { Plan } from "../src/corpus/plan.ts";
import { standard } from "../src/corpus/standard.ts";

const [, , given = "1000", model = "nano-DI8x8"] = process.argv, count = Number(given), side = 256, rounds = 3;
const folder = mkdtempSync(join(tmpdir(), "ctok-dataset-")), input = join(folder, "in"), out = join(folder, "out");

async function pictures(): Promise<void> {
  const source = new URL("../examples/media/coffee.jpg", import.meta.url).pathname;
  const { width = 0, height = 0 } = await sharp(source).metadata(), { mkdirSync } = await import("node:fs");
  mkdirSync(input);
  for (let i = 0; i < count; i++) {
    const part = { left: (i * 37) % (width - side), top: (i * 23) % (height - side), width: side, height: side };
    const jpeg = await sharp(source).extract(part).jpeg({ quality: 90 }).toBuffer();
    writeFileSync(join(input, `${String(i).padStart(6, "0")}.jpg`), jpeg);
  }
}

interface Cost {
  readonly wallMs: number;
  readonly cpuMs: number;
}
async function cost(items: number, work: () => Promise<unknown>): Promise<Cost> {
  const cpu = process.cpuUsage(), start = performance.now();
  await work();
  const { user, system } = process.cpuUsage(cpu);
  return { wallMs: (performance.now() - start) / items, cpuMs: (user + system) / 1000 / items };
}

function median(costs: readonly Cost[]): Cost {
  const of = (key: keyof Cost) => costs.map((one) => one[key]).sort((a, b) => a - b)[Math.floor(costs.length / 2)]!;
  return { wallMs: of("wallMs"), cpuMs: of("cpuMs") };
}

const residentMb = () => Math.round(process.memoryUsage().rss / 1e6);

try {
  await pictures();
  await planDataset({ inputs: [input], out, model });
  const plan = await Plan.open(out), items = (await plan.items(0)).slice(0, 500);
  await using tokenizer = await Tokenizer.open(model, { half: "encoder" });
  await using places = standard.openPlaces();
  const pixels: Tensor<"uint8">[] = [];
  const prepareAll = async () => {
    await using preparer = await standard.openPreparer(plan.header.options, places);
    pixels.length = 0;
    const queue = items.values();
    await Promise.all([0, 1, 2, 3].map(async () => {
      for (const item of queue) {
        const prepared = await preparer.prepare(item);
        if (prepared.kind === "image") pixels.push(prepared.pixels);
      }
    }));
  };
  const encodeAll = async () => {
    const jobs: Promise<unknown>[] = [];
    for (const one of pixels) {
      jobs.push(tokenizer.encode(one));
      if (jobs.length === 3) await jobs.shift();
    }
    await Promise.all(jobs);
  };
  const costs: Record<"encoder" | "preparing" | "run", Cost[]> = { encoder: [], preparing: [], run: [] },
    memory: number[] = [];
  await prepareAll();
  await encodeAll();
  for (let round = 0; round < rounds; round++) {
    costs.preparing.push(await cost(items.length, prepareAll));
    costs.encoder.push(await cost(items.length, encodeAll));
    rmSync(join(out, "manifest"), { recursive: true, force: true });
    costs.run.push(await cost(count, () => runDataset(out)));
    memory.push(residentMb());
  }
  const [encoder, preparing, run] = [median(costs.encoder), median(costs.preparing), median(costs.run)];
  const again = await cost(1, () => runDataset(out));
  console.log(
    `${count} JPEGs of ${side} x ${side}, ${tokenizer.info.name}, ${tokenizer.info.kernels}, median of ${rounds}:`,
  );
  for (const [name, { wallMs, cpuMs }] of Object.entries({ encoder, preparing, run })) {
    console.log(`${name.padEnd(10)} ${wallMs.toFixed(2)} ms an item, ${cpuMs.toFixed(2)} ms of the processors`);
  }
  const part = (a: number, b: number) => `${(100 * a / b).toFixed(1)} %`;
  console.log(
    `of the encoder's own rate: ${part(encoder.wallMs, run.wallMs)} by the clock, ${
      part(encoder.cpuMs, run.cpuMs)
    } by processor time`,
  );
  console.log(
    `a finished run again: ${again.wallMs.toFixed(0)} ms; resident after each round: ${memory.join(", ")} MB`,
  );
} finally {
  rmSync(folder, { recursive: true, force: true });
}
