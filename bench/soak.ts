/**
 * Mixed work for a long time in one process, to see whether memory, descriptors and threads stay where they are: models opened
 * and closed, pictures of changing sizes there and back, token files of every format, a stream read to its end and one left
 * early, jobs cancelled, calls that must fail, and a clip through FFmpeg. Every round checks its results against the first one's.
 *
 *     bun bench/soak.ts [--minutes 60] [--busy 0.5] [--every 10]     deno run -A bench/soak.ts likewise
 *
 * `--busy`: the part of the time that is work; the rest is waited. A JSON line every `--every` seconds, then a last one with
 * the verdict. Flat: with the run cut in four, the last quarter's median resident memory is at most 5 % and 8 MiB over the
 * second's, and its most descriptors and threads are no more than the second's. Ends with 1 where it is not.
 */
import assert from "node:assert/strict";
import { mkdtempSync, readdirSync, readFileSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import process from "node:process";
import { setTimeout as sleep } from "node:timers/promises";
import { fileURLToPath } from "node:url";
import { parseArgs } from "node:util";
import { type ErrorCode, framesOf, loadTokens, saveTokens, Tensor, tokenFormats, Tokenizer, TokenizerError } from "mod.ts";
import { median } from "./peer.ts";

const { values } = parseArgs({
  options: {
    minutes: { type: "string", default: "60" },
    busy: { type: "string", default: "1" },
    every: { type: "string", default: "10" },
  },
});
const minutes = Number(values.minutes), busy = Number(values.busy), every = Number(values.every);
if (!(minutes > 0) || !(busy > 0 && busy <= 1) || !(every > 0)) {
  throw new Error(`expected --minutes and --every above 0 and --busy in 0..1, found ${JSON.stringify(values)}`);
}
const clip = fileURLToPath(new URL("../examples/media/cars.mp4", import.meta.url));
const folder = mkdtempSync(join(tmpdir(), "ctok-soak-"));

const pixels = (height: number, width: number, seed: number): Tensor<"uint8"> =>
  new Tensor(
    "uint8",
    [height, width, 3],
    Uint8Array.from({ length: height * width * 3 }, (_, i) => (i * 37 + seed * 11) & 255),
  );

/** A short sum of what was made; every kind of work must give the same in every round. */
const firstSums = new Map<string, number>();
function check(name: string, data: ArrayLike<number>): void {
  let sum = 0;
  for (let i = 0; i < data.length; i++) sum = (Math.imul(sum, 31) + data[i]!) | 0;
  const first = firstSums.get(name) ?? sum;
  firstSums.set(name, first);
  assert.equal(sum, first, `${name}: another result than in the first round`);
}

async function fails(work: () => Promise<unknown>, code: ErrorCode): Promise<void> {
  const error = await work().then(() => undefined, (e: unknown) => e);
  assert.ok(
    error instanceof TokenizerError && error.code === code,
    `expected ${code}, found ${error instanceof TokenizerError ? error.code : error}`,
  );
}

async function pictures(round: number): Promise<void> {
  await using tok = await Tokenizer.open("nano-DI8x8", { precision: round % 2 ? "f32" : "auto" });
  const sizes = [[64, 48], [200, 120], [256, 256], [17, 333]];
  const all = await Promise.all(sizes.map(([h, w], i) => tok.encode(pixels(h!, w!, i))));
  for (const [i, tokens] of all.entries()) {
    check(`encode ${i} ${round % 2}`, tokens.indices.data);
    check(`decode ${i} ${round % 2}`, (await tok.decode(tokens, { dtype: "uint8" })).data);
  }
  for (const format of tokenFormats) {
    const path = join(folder, `tokens.${format}`);
    await saveTokens(path, all[0]!, format);
    check(`encode 0 ${round % 2}`, (await loadTokens(path, all[0]!.origin)).indices.data);
  }
}

async function streams(): Promise<void> {
  await using tok = await Tokenizer.open("nano-DV4x8x8");
  async function* frames() {
    for (let n = 0; n < 21; n++) yield pixels(64, 96, n);
  }
  let n = 0;
  for await (const frame of tok.decodeStream(tok.encodeStream(frames()))) check(`frame ${n++}`, frame.data);
  for await (const part of tok.encodeStream(frames())) {
    check("the first part", part.indices.data);
    break;
  }
  const fromFile = await framesOf(clip, undefined, { frames: 5 });
  for await (const part of tok.encodeStream(fromFile.frames)) check(`clip ${part.firstFrame}`, part.indices.data);
}

async function failures(): Promise<void> {
  await using tok = await Tokenizer.open("nano-DI8x8");
  const controller = new AbortController(), { signal } = controller;
  const jobs = Array.from({ length: 8 }, (_, i) => tok.encode(pixels(256, 256, i), { signal }));
  controller.abort();
  for (const job of jobs) await fails(() => job, "CANCELLED");
  await fails(() => tok.encode({ dtype: "uint8", shape: [8, 8, 4], data: new Uint8Array(256) }), "SHAPE");
  await fails(() => loadTokens(clip), "TOKEN_FILE");
  await fails(() => Tokenizer.open(clip), "FILE_FORMAT");
}

interface Sample {
  readonly seconds: number;
  readonly rounds: number;
  readonly resident_mib: number;
  readonly descriptors: number;
  readonly threads: number;
}
const samples: Sample[] = [], start = performance.now(), elapsed = () => (performance.now() - start) / 1000;
let rounds = 0;

function sample(): void {
  const status = readFileSync("/proc/self/status", "utf8"),
    read = (key: string) => Number(new RegExp(`${key}:\\s+(\\d+)`).exec(status)![1]);
  samples.push({
    seconds: Math.round(elapsed()),
    rounds,
    resident_mib: Math.round(read("VmRSS") / 102.4) / 10,
    descriptors: readdirSync("/proc/self/fd").length,
    threads: read("Threads"),
  });
  console.log(JSON.stringify(samples.at(-1)));
}

/** The second and the last quarter of the run, each in one line. */
function verdict() {
  const quarter = (n: number) => {
    const part = samples.slice(Math.floor(samples.length * (n - 1) / 4), Math.floor(samples.length * n / 4));
    const most = (key: "descriptors" | "threads") => Math.max(...part.map((s) => s[key]));
    return {
      resident_mib: median(part.map((s) => s.resident_mib)),
      descriptors: most("descriptors"),
      threads: most("threads"),
    };
  };
  const second = quarter(2), last = quarter(4);
  const isFlat = last.resident_mib <= 1.05 * second.resident_mib + 8 && last.descriptors <= second.descriptors &&
    last.threads <= second.threads;
  return { runtime: process.versions.bun ? "bun" : "deno", minutes, rounds, second, last, is_flat: isFlat };
}

try {
  while (elapsed() < minutes * 60) {
    const began = performance.now();
    await pictures(rounds);
    await streams();
    await failures();
    rounds++;
    if (elapsed() >= (samples.length + 1) * every) sample();
    await sleep((performance.now() - began) * (1 / busy - 1));
  }
} finally {
  rmSync(folder, { recursive: true });
}
assert.ok(
  samples.length >= 8,
  `expected at least 8 samples, found ${samples.length}: take more minutes or fewer seconds for each`,
);
const result = verdict();
console.log(JSON.stringify(result));
process.exitCode = result.is_flat ? 0 : 1;
