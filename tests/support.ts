/**
 * What tests share: where things are, errors between tensors, and the table of fixture cases that npm test prints.
 */
import assert from "node:assert/strict";
import { execFileSync } from "node:child_process";
import { appendFileSync, existsSync, mkdirSync, mkdtempSync, readFileSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import process from "node:process";
import { fileURLToPath } from "node:url";
import { setFlagsFromString } from "node:v8";
import { runInNewContext } from "node:vm";
import { type ErrorCode, fsq, type Origin, type TensorLike, TokenizerError } from "mod.ts";
import "./offline.ts";
import { decodeSafetensors } from "../src/tokens/formats/safetensors.ts";

export const root = fileURLToPath(new URL("../", import.meta.url));
/** Fixtures that the repository carries, and all of them where they lie beside the checkout. */
export const carried = join(root, "tests/fixtures");
export const shared = join(root, "../shared/fixtures");
export const hasShared = existsSync(shared);
export const noShared = hasShared ? false : "no ../shared/fixtures beside the checkout";
export const runtime = process.versions.bun ? "bun" : process.versions.deno ? "deno" : "node";
/** What process.execPath is given before a program of the checkout. */
export const runArgs = {
  bun: [],
  deno: ["run", "-A", "--no-check"],
  node: ["--import", new URL("./node.mjs", import.meta.url).href],
}[runtime];

export function readTensors(path: string): Record<string, TensorLike> {
  const { tensors } = decodeSafetensors(new Uint8Array(readFileSync(path)));
  const all = [...tensors].map(([name, t]) => {
    if (t.dtype !== "int64") return [name, t];
    return [name, { dtype: "int32", shape: t.shape, data: Int32Array.from(t.data as BigInt64Array, Number) }];
  });
  return Object.fromEntries(all) as Record<string, TensorLike>; // of the four types that tensors have
}

/** Of tokens of a picture of 13 x 29 pixels, 2 x 4 tokens, as the embedded model gives them. */
export const pictureOrigin = {
  model: "nano-DI8x8",
  source: "nano-DI8x8",
  precision: "bf16",
  sha256: "0123456789abcdef".repeat(4),
  spatialFactor: 8,
  quantizer: fsq([8, 8, 8, 5, 5, 5]),
  height: 13,
  width: 29,
  top: 1,
  left: 1,
  version: "0.1.0",
} as const satisfies Origin;

const { quantizer: _quantizer, ...ofPicture } = pictureOrigin;
/** The same of a continuous model. */
export const latentOrigin: Origin = ofPicture;

/** |a - b| / |b|, in float64. NaN where shapes differ, so that every comparison fails. */
export function relativeError(a: TensorLike, b: TensorLike): number {
  if (a.shape.join() !== b.shape.join()) return NaN;
  let difference = 0, size = 0;
  for (let i = 0; i < b.data.length; i++) {
    difference += (a.data[i]! - b.data[i]!) ** 2;
    size += b.data[i]! ** 2;
  }
  return Math.sqrt(difference / size);
}

export function countDifferent(a: TensorLike, b: TensorLike): number {
  assert.deepEqual(a.shape, b.shape);
  let count = 0;
  for (let i = 0; i < b.data.length; i++) if (a.data[i] !== b.data[i]) count++;
  return count;
}

const table = join(root, "build/reports", `fixtures-${runtime}.jsonl`);

/** Adds a row to the fixture table, then fails unless error <= limit (so NaN fails). */
export function checkCase(name: string, error: number, limit: number): void {
  mkdirSync(join(root, "build/reports"), { recursive: true });
  appendFileSync(table, JSON.stringify({ name, error, limit }) + "\n");
  assert.ok(error <= limit, `${name}: expected an error of at most ${limit}, found ${error}`);
}

/** Full-size or small synthetic weights, made by the native tool, in a folder that `use` has for its time. */
export async function withWeights(
  model: string,
  size: "full" | "small",
  use: (path: string) => Promise<void>,
): Promise<void> {
  await withFolder(async (folder) => {
    const path = join(folder, `${model}.safetensors`);
    execFileSync(join(root, "build/tests/make_weights"), [path, model, ...(size === "small" ? ["--small"] : [])]);
    await use(path);
  });
}

export async function withFolder(use: (folder: string) => Promise<void>): Promise<void> {
  const folder = mkdtempSync(join(tmpdir(), "ctok-test-"));
  try {
    await use(folder);
  } finally {
    rmSync(folder, { recursive: true, force: true });
  }
}

/** Asserts that work fails with a TokenizerError of that code and text. */
export async function rejects(work: () => unknown, code: ErrorCode, text: RegExp): Promise<TokenizerError> {
  let caught: unknown;
  try {
    await work();
  } catch (error) {
    caught = error;
  }
  assert.ok(caught instanceof TokenizerError, `expected a TokenizerError ${code}, found ${caught}`);
  assert.equal(caught.code, code, caught.message);
  assert.match(caught.message, text);
  return caught;
}

/** Peak resident memory of this process, bytes. */
export function peakResidentBytes(): number {
  return Number(/VmHWM:\s+(\d+) kB/.exec(readFileSync("/proc/self/status", "utf8"))![1]) * 1024;
}

export function residentBytes(): number {
  return Number(/VmRSS:\s+(\d+) kB/.exec(readFileSync("/proc/self/status", "utf8"))![1]) * 1024;
}

/** Before a look at resident memory. */
export function collectGarbage(): void {
  if (runtime === "bun") return Bun.gc(true);
  setFlagsFromString("--expose-gc"); // V8 gives it to contexts that are made afterwards
  runInNewContext("gc")();
}

/** MB of resident memory that `times` runs of `work` add, after `before` runs in which caches fill. */
export async function grownMb(work: () => Promise<void>, before: number, times: number): Promise<number> {
  for (let n = 0; n < before; n++) await work();
  collectGarbage();
  const bytes = residentBytes();
  for (let n = 0; n < times; n++) await work();
  collectGarbage();
  return (residentBytes() - bytes) / 1e6;
}

/** The chunks of kitty pictures in a terminal's output: all, keys, payload. */
export function kittyChunks(text: string): RegExpMatchArray[] {
  // deno-lint-ignore no-control-regex
  return [...text.matchAll(/\x1b_G([^;]*);([^\x1b]*)\x1b\\/g)];
}

/** One pattern of parts that follow each other, with the flags of the first. */
export function sequence(...parts: RegExp[]): RegExp {
  return new RegExp(parts.map(({ source }) => source).join(""), parts[0]?.flags);
}
