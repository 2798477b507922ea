/**
 * Everything at once, in one process: Workers that end in the middle of their jobs, aborted calls and streams,
 * processes of the command line that are killed, a disk that is full, several writers of one target, and beside them
 * work whose results are known. One JSON line at the end; exit code 1 when a result was wrong, a file was not whole, or
 * threads, memory or files stayed.
 *
 *     bun tests/chaos.ts [--seconds 600] [--seed 1]
 *     deno run -A tests/chaos.ts ...
 *
 * tests/long.ts gives it ten minutes on each runtime.
 */
import assert from "node:assert/strict";
import { type ChildProcess, execFileSync, spawn, spawnSync } from "node:child_process";
import { existsSync, mkdirSync, mkdtempSync, readdirSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import process from "node:process";
import { setTimeout as sleep } from "node:timers/promises";
import { parseArgs } from "node:util";
import { loadTokens, saveTokens, type TensorLike, Tokenizer, TokenizerError, writeImage } from "mod.ts";
import { engineFor } from "../ffi/load.ts";
import { runtimeCommand } from "./cli/spawn.ts";
import { collectGarbage, residentBytes, runtime } from "./support.ts";

const { values } = parseArgs({
  options: { seconds: { type: "string", default: "600" }, seed: { type: "string", default: "1" } },
});
const seconds = Number(values.seconds);
assert.ok(seconds > 0, "expected --seconds above 0");

let state = Number(values.seed);
/** 0 .. n - 1, by a linear congruence. */
function any(n: number): number {
  state = (Math.imul(state, 1664525) + 1013904223) >>> 0;
  return Math.floor(state / 2 ** 32 * n);
}

const folder = mkdtempSync(join(tmpdir(), "ctok-chaos-")), at = (name: string) => join(folder, name);
const small: TensorLike<"uint8"> = {
  dtype: "uint8",
  shape: [64, 48, 3],
  data: Uint8Array.from({ length: 64 * 48 * 3 }, (_, i) => (i * 37) & 255),
};
function* frames(count: number): Generator<TensorLike<"uint8">> {
  for (let n = 0; n < count; n++) yield { ...small, data: small.data.map((value) => value ^ n) };
}

const images = await Tokenizer.open("nano-DI8x8"), videos = await Tokenizer.open("nano-DV4x8x8");
const tokens = await images.encode(small), wanted = tokens.indices.data.join();
const disk = mountDisk();

/** A filesystem of 4 kB, where one may be mounted. */
function mountDisk(): string | undefined {
  mkdirSync(at("disk"));
  const { status } = spawnSync("mount", ["-t", "tmpfs", "-o", "size=4096", "tmpfs", at("disk")]);
  return status === 0 ? at("disk") : undefined;
}

async function fails(code: string, work: Promise<unknown>): Promise<void> {
  await work.then(() => assert.fail(`expected ${code}, found success`), (error) => {
    assert.ok(error instanceof TokenizerError && error.code === code, `expected ${code}, found ${error}`);
  });
}

/** A Worker at work, ended by one of the ways there are. */
async function endWorker(): Promise<void> {
  const how = ["terminate", "close", "exit", "throw"][any(4)]!;
  const worker = new Worker(new URL("./faults/worker.ts", import.meta.url), { type: "module" });
  worker.onerror = (event) => event.preventDefault(); // what "throw" throws is not this process's
  const isAtWork = new Promise((resolve) => worker.onmessage = resolve);
  worker.postMessage(how);
  await isAtWork;
  await sleep(any(30));
  if (how === "terminate") worker.terminate();
  else worker.postMessage("end");
}

/** A call, a stream and an opening, each told to stop at some moment: done, or CANCELLED. */
async function abortCalls(): Promise<void> {
  const abort = new AbortController(), { signal } = abort, timer = setTimeout(() => abort.abort(), any(40));
  const ends = await Promise.allSettled([
    images.encode(small, { signal }),
    Array.fromAsync(videos.decodeStream(videos.encodeStream(frames(200), { signal }), { signal })),
    Tokenizer.open("nano-DI8x8", { signal }).then((tok) => tok.close()),
    saveTokens(at(`aborted-${any(3)}.safetensors`), tokens),
  ]);
  clearTimeout(timer);
  for (const end of ends) if (end.status === "rejected") assert.equal((end.reason as TokenizerError).code, "CANCELLED");
}

/** Three processes encode to one target, and one of them is killed or told to end: the target is whole. */
async function killWriters(): Promise<void> {
  const args = ["encode", at("photo.png"), "--out", at("target.safetensors"), "--overwrite", "--quiet"];
  const children = Array.from({ length: 3 }, (): ChildProcess => {
    const [command, ...rest] = runtimeCommand;
    return spawn(command!, [...rest, ...args], { cwd: folder, stdio: "ignore" });
  });
  const ends = children.map((child) => new Promise<number | null>((resolve) => child.once("close", resolve)));
  await sleep(any(1500));
  children[any(3)]!.kill((["SIGKILL", "SIGTERM", "SIGINT"] as const)[any(3)]!);
  const codes = await Promise.all(ends);
  if (existsSync(at("target.safetensors"))) {
    assert.equal((await loadTokens(at("target.safetensors"))).indices.data.join(), wanted, "the target is not whole");
  }
  assert.ok(codes.filter((code) => code === 0).length >= 2, `two writers were left alone: ${codes}`);
}

async function fillDisk(): Promise<void> {
  if (!disk) return;
  await fails("FILE_IO", writeImage(join(disk, "large.png"), { ...small, data: small.data.map(() => any(256)) }));
  assert.deepEqual(readdirSync(disk), []);
}

async function encode(): Promise<void> {
  assert.equal((await images.encode(small)).indices.data.join(), wanted, "other tokens than alone");
}

const events = { endWorker, abortCalls, killWriters, fillDisk, encode }, counts: Record<string, number> = {};

async function during(milliseconds: number): Promise<void> {
  const end = performance.now() + milliseconds;
  await Promise.all(
    Object.entries(events).map(async ([name, happen]) => {
      while (performance.now() < end) {
        await happen();
        counts[name] = (counts[name] ?? 0) + 1;
      }
    }),
  );
}

/** Threads, resident memory and descriptors once everything has come to rest: they go on their own time. */
async function settled() {
  const threads = () => readdirSync("/proc/self/task").length;
  for (let last = 0, tries = 0; tries < 100 && threads() !== last; tries++) {
    last = threads();
    await sleep(300);
  }
  collectGarbage();
  return { threads: threads(), residentMb: residentBytes() / 1e6, descriptors: readdirSync("/proc/self/fd").length };
}

try {
  await writeImage(at("photo.png"), small);
  await during(seconds * 1000 / 3); // what caches keep
  const before = await settled();
  await during(seconds * 2000 / 3);
  const after = await settled();
  const { num_jobs, num_models } = (await engineFor()).info();
  const [command, ...rest] = runtimeCommand; // a writer that comes new into the folder removes what killed ones left
  spawnSync(command!, [...rest, "encode", at("photo.png"), "--out", at("last.safetensors")], { cwd: folder });
  const left = readdirSync(folder).filter((name) => name.endsWith(".tmp"));
  const isWell = after.threads <= before.threads + 2 && after.descriptors <= before.descriptors + 4 &&
    after.residentMb <= before.residentMb * 1.1 + 20 && num_jobs === 0 && num_models === 2 &&
    left.length === 0;
  console.log(JSON.stringify({ runtime, isWell, before, after, num_jobs, num_models, left: left.length, counts }));
  process.exitCode = isWell ? 0 : 1;
} finally {
  if (disk) execFileSync("umount", [disk]);
  await Promise.all([images.close(), videos.close()]);
  rmSync(folder, { recursive: true });
}
