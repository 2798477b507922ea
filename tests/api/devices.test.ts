/**
 * The devices of this machine: what is listed, why "auto" took the CPU, and that JavaScript goes on while a device is
 * being opened.
 */
import assert from "node:assert/strict";
import { execFileSync } from "node:child_process";
import { join } from "node:path";
import process from "node:process";
import { setTimeout as sleep } from "node:timers/promises";
import { test } from "node:test";
import { devices, Tokenizer } from "mod.ts";
import * as layout from "../../ffi/layout.ts";
import { Engine, type Functions } from "../../ffi/native.ts";
import { rejects, root, runArgs, runtime } from "../support.ts";

test("devices: the CPU as an engine has it, then GPUs, or why there is none", async () => {
  const [cpu, ...gpus] = await devices();
  await using tokenizer = await Tokenizer.open("nano-DI8x8", { device: "cpu" });
  const { kernels, threads, precision, whyCpu } = tokenizer.info;
  assert.equal(cpu!.device, "cpu");
  assert.ok(cpu!.isUsable && cpu!.reason === undefined && cpu!.totalMemory! > 0);
  assert.equal(cpu!.kernels, kernels);
  assert.equal(cpu!.threads, threads);
  if (precision === "bf16") assert.ok(cpu!.hasBf16);
  assert.equal(whyCpu, undefined);
  assert.ok(gpus.length >= 1);
  for (const [i, gpu] of gpus.entries()) {
    assert.match(gpu.device, gpus.length === 1 ? /^cuda(:0)?$/ : new RegExp(`^cuda:${i}$`));
    assert.equal(gpu.isUsable, gpu.reason === undefined);
    assert.equal(gpu.isUsable, gpu.kernels !== undefined);
    assert.equal(gpu.threads, undefined);
  }
});

test("auto says why it took the CPU, in the words of the list and of the GPU's own error", async () => {
  const [, gpu] = await devices();
  await using tokenizer = await Tokenizer.open("nano-DI8x8");
  assert.equal(tokenizer.info.device, gpu!.isUsable ? "cuda:0" : "cpu");
  assert.equal(tokenizer.info.whyCpu, gpu!.reason);
  if (gpu!.isUsable) return;
  for (let i = 0; i < 2; i++) { // a failure is not kept
    const error = await rejects(() => Tokenizer.open("nano-DI8x8", { device: "cuda" }), "DEVICE", /^cuda:0: expected/);
    assert.equal(error.message, gpu!.reason);
  }
});

test("devices: what is refused", async () => {
  await rejects(() => devices({ signal: AbortSignal.abort() }), "CANCELLED", /./);
  await rejects(() => devices({ gpus: true } as object), "ARGUMENT", /gpus/);
});

const skip = process.platform === "linux" ? false : "no /proc/self/task";
test("devices: no engine is left behind, nor a pool of its threads", { skip }, () => {
  const program = join(root, "tests/api/devices_threads.ts"), config = join(root, "deno.json");
  const args = [...runArgs, ...(runtime === "deno" ? ["--config", config] : []), program];
  const out = execFileSync(process.execPath, args, { cwd: root, encoding: "utf8", timeout: 60_000 });
  const [ofModel, found] = JSON.parse(out);
  assert.deepEqual(found, ofModel);
});

/** A library whose engine is ready at the n-th time that it is asked, or fails then. */
function slowLibrary(times: number, failure = { status: layout.status.OK as number, message: "" }) {
  const calls: string[] = [];
  const known: Partial<Functions> = {
    ctok_abi_version: () => layout.ABI_VERSION,
    ctok_engine_open: (options, _wake, id) => {
      assert.equal(layout.EngineOptions.read(options!).opens_in_background, 1);
      id![0] = 7;
      return 0;
    },
    ctok_engine_ready: (id, timeout, error) => {
      assert.deepEqual([id, timeout], [7, 0]);
      calls.push("ready");
      const { status, message } = calls.length < times ? { status: layout.status.NOT_READY, message: "" } : failure;
      error!.set(layout.ErrorStruct.make({ status, message }));
      return status;
    },
    ctok_engine_wait: () => 0,
    ctok_engine_close: () => {
      calls.push("close");
      return 0;
    },
  };
  return { functions: known as Functions, calls };
}

test("JavaScript goes on while a device is being opened", async () => {
  const { functions, calls } = slowLibrary(5), engine = new Engine(functions);
  let ticks = 0;
  const ready = engine.ready().then(() => ticks);
  while (calls.length < 5) await sleep(0).then(() => ticks++);
  assert.ok(await ready > 0);
  assert.deepEqual(calls, Array(5).fill("ready"));
});

test("a device that cannot be opened closes its engine and says why", async () => {
  const { functions, calls } = slowLibrary(3, { status: layout.status.DEVICE, message: "cuda:0: expected a GPU" });
  await assert.rejects(new Engine(functions).ready(), (error: Error & { status: number }) => {
    assert.equal(error.message, "cuda:0: expected a GPU");
    assert.equal(error.status, layout.status.DEVICE);
    return true;
  });
  assert.deepEqual(calls, ["ready", "ready", "ready", "close"]);
});
