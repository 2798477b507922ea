/**
 * A soak: mixed work for a given time, as a long-lived process does it, with the resident memory and the descriptors
 * sampled as it goes. One JSON line a sample, and a verdict at the end; exit code 1 when memory or descriptors were not
 * flat.
 *
 *     bun bench/soak.ts [--seconds 3600] [--every 30] [--rounds 1] [--share 1] [--seed 1]
 *     deno run -A bench/soak.ts ...
 *
 * It ends when the time is over and so many rounds are done. --every 0 samples after each round. --share 0.1 works a
 * tenth of the time and rests the remainder, on a machine that others use. --leak keeps 20 MB of each round, to see
 * that the verdict tells. Each round is one of: opening and closing models, encoding, decoding, streams (whole, left
 * early, aborted), token files of every format, jobs cancelled in the queue, errors of every kind that input can cause,
 * and, where there is FFmpeg, a video read and written.
 *
 * Flat: of the samples after the first fifth, in which caches fill, the median of the last third is at most 5 % and 8
 * MB above the median of the first third (so that a sawtooth is flat), and likewise the descriptors, at most 2 more.
 * Memory is sampled after a collection of garbage.
 */
import assert from "node:assert/strict";
import { mkdtempSync, readdirSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import process from "node:process";
import { setTimeout as sleep } from "node:timers/promises";
import { fileURLToPath } from "node:url";
import { parseArgs } from "node:util";
import {
  convert,
  createVideo,
  type ErrorCode,
  framesOf,
  loadTokens,
  readImage,
  saveTokens,
  type TensorLike,
  tokenFormats,
  Tokenizer,
  TokenizerError,
  writeImage,
} from "mod.ts";
import { collectGarbage, rejects, residentBytes, runtime } from "../tests/support.ts";
import { median } from "./peer.ts";

const { values } = parseArgs({
  options: {
    seconds: { type: "string", default: "3600" },
    every: { type: "string", default: "30" },
    rounds: { type: "string", default: "1" },
    share: { type: "string", default: "1" },
    seed: { type: "string", default: "1" },
    leak: { type: "boolean", default: false },
  },
});
const [seconds, every, share] = [Number(values.seconds), Number(values.every), Number(values.share)];
const leastRounds = Number(values.rounds);
assert.ok(
  seconds > 0 && every >= 0 && leastRounds >= 1 && share > 0 && share <= 1,
  "expected --seconds above 0, --rounds from 1, --share up to 1",
);

let state = Number(values.seed);
/** 0 .. n - 1, by a linear congruence. */
function any(n: number): number {
  state = (Math.imul(state, 1664525) + 1013904223) >>> 0;
  return Math.floor(state / 2 ** 32 * n);
}

const media = fileURLToPath(new URL("../examples/media/", import.meta.url));
const folder = mkdtempSync(join(tmpdir(), "ctok-soak-"));
const at = (name: string) => join(folder, name);
const picture = (): TensorLike<"uint8"> => {
  const shape = [16 + any(80), 16 + any(80), 3], seed = any(256);
  return {
    dtype: "uint8",
    shape,
    data: Uint8Array.from({ length: shape[0]! * shape[1]! * 3 }, (_, i) => i * seed & 255),
  };
};
function* frames(count: number): Generator<TensorLike<"uint8">> {
  const { shape, data } = picture();
  for (let n = 0; n < count; n++) yield { dtype: "uint8", shape, data: data.map((value) => value ^ n) };
}
const fails = (code: ErrorCode, work: () => unknown) => rejects(work, code, /./);

const images = await Tokenizer.open("nano-DI8x8"), videos = await Tokenizer.open("nano-DV4x8x8");
const hasFfmpeg = await framesOf(join(media, "cars.mp4")).then(() => true, () => false);

/** What a round can be. Each checks what it gets. */
const rounds: Record<string, () => Promise<unknown>> = {
  async open() {
    await using tok = await Tokenizer.open(any(2) ? "nano-DI8x8" : "nano-DV4x8x8", any(2) ? { half: "encoder" } : {});
    if (!tok.info.isVideo) await tok.encode(picture());
  },
  async images() {
    const original = picture(), tokens = await images.encode(original);
    const again = await images.decode(tokens, { dtype: "uint8" });
    assert.deepEqual(again.shape, [1, ...original.shape]);
    await writeImage(at("a.png"), again);
    assert.deepEqual((await readImage(at("a.png"))).data, again.data);
  },
  async batch() {
    const one = picture(), { indices } = await images.encode([one, one, one]);
    assert.equal(indices.shape[0], 3);
  },
  async stream() {
    const count = 1 + any(40),
      parts = videos.encodeStream(frames(count), any(2) ? { window: 9 } : { attentionFrames: 4 });
    let numFrames = 0;
    for await (const _ of videos.decodeStream(parts)) numFrames++;
    assert.equal(numFrames, count);
  },
  async leave() {
    for await (const _ of videos.decodeStream(videos.encodeStream(frames(200)))) if (any(4) === 0) break;
  },
  async abort() {
    const abort = new AbortController();
    setTimeout(() => abort.abort(), any(20));
    await fails("CANCELLED", () => Array.fromAsync(videos.encodeStream(frames(10_000), { signal: abort.signal })));
  },
  async files() {
    const tokens = await images.encode(picture(), { preQuant: any(2) === 0 });
    const format = tokenFormats[any(tokenFormats.length)]!, path = at(`t.${format}`);
    await saveTokens(path, tokens, { format });
    const { info } = images;
    const back = await loadTokens(path, {
      model: info.name,
      source: info.source,
      spatialFactor: 8,
      ...(info.quantizer && { quantizer: info.quantizer }),
      version: "0",
    });
    assert.deepEqual([...back.indices.data], [...tokens.indices.data]);
  },
  async queue() {
    const abort = new AbortController();
    const jobs = Array.from({ length: 100 }, (_, n) => images.encode(picture(), n % 2 ? { signal: abort.signal } : {}));
    const ends = Promise.allSettled(jobs);
    setTimeout(() => abort.abort(), any(5));
    for (const end of await ends) {
      if (end.status === "rejected") assert.equal((end.reason as TokenizerError).code, "CANCELLED");
    }
  },
  async errors() {
    writeFileSync(at("junk.safetensors"), Uint8Array.from({ length: any(500) }, () => any(256)));
    await fails("FILE_FORMAT", () => Tokenizer.open(at("junk.safetensors")));
    await fails("FILE_MISSING", () => Tokenizer.open(at("none")));
    await fails("TOKEN_FILE", () => loadTokens(at("junk.safetensors")));
    await fails("IMAGE", () => images.encode(at("junk.safetensors")));
    await fails("SHAPE", () => images.encode({ dtype: "uint8", shape: [5, 5, 5], data: new Uint8Array(125) }));
    await fails("VALUE", () => images.decode({ dtype: "int32", shape: [1, 1, 1], data: Int32Array.of(64000) }));
    await fails("UNSUPPORTED", () => images.encodeStream(frames(1)));
    await fails("FILE_IO", () => convert("nano-DI8x8", at("no/such/folder")));
  },
  async convert() {
    await convert("nano-DI8x8", at("copy.safetensors"));
  },
  async video() {
    if (!hasFfmpeg) return;
    const { frames, info } = await framesOf(join(media, "cars.mp4"), { frames: 1 + any(5) });
    await using sink = await createVideo(at("v.mp4"), { height: info.height, width: info.width, fps: 25 });
    for await (const frame of frames) await sink.write(frame.data as Uint8Array);
    if (any(3)) await sink.close();
  },
};

interface Sample {
  readonly seconds: number;
  readonly rounds: number;
  readonly residentMb: number;
  readonly descriptors: number;
}
const samples: Sample[] = [],
  names = Object.keys(rounds),
  start = performance.now(),
  counts: Record<string, number> = {};
const elapsed = () => (performance.now() - start) / 1000;
const leaked: Uint8Array[] = [];
let numRounds = 0;

async function sample(): Promise<void> {
  await sleep(50); // Bun closes a pipe a moment after it says so
  collectGarbage();
  const residentMb = Math.round(residentBytes() / 1e5) / 10, descriptors = readdirSync("/proc/self/fd").length;
  const now: Sample = { seconds: Math.round(elapsed()), rounds: numRounds, residentMb, descriptors };
  samples.push(now);
  console.log(JSON.stringify({ runtime, ...now }));
}

try {
  for (let next = 0; elapsed() < seconds || numRounds < leastRounds;) {
    // Each once at first.
    const began = performance.now(), name = names[numRounds < names.length ? numRounds : any(names.length)]!;
    await rounds[name]!();
    numRounds++;
    counts[name] = (counts[name] ?? 0) + 1;
    if (values.leak) leaked.push(new Uint8Array(20e6).fill(1));
    if (elapsed() >= next) {
      await sample();
      next += every;
    }
    await sleep((performance.now() - began) * (1 / share - 1));
  }
} finally {
  await Promise.all([images.close(), videos.close()]);
  rmSync(folder, { recursive: true });
}

const settled = samples.slice(Math.floor(samples.length / 5)), third = Math.max(1, Math.floor(settled.length / 3));
const growth = (key: "residentMb" | "descriptors") => {
  const of = (part: Sample[]) => median(part.map((s) => s[key]));
  return { from: of(settled.slice(0, third)), to: of(settled.slice(-third)) };
};
const memory = growth("residentMb"), descriptors = growth("descriptors");
const isFlat = samples.length >= 5 && memory.to <= memory.from * 1.05 + 8 && descriptors.to <= descriptors.from + 2;
console.log(
  JSON.stringify({ runtime, isFlat, seconds: Math.round(elapsed()), rounds: numRounds, memory, descriptors, counts }),
);
process.exitCode = isFlat ? 0 : 1;
