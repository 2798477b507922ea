/** Nothing blocks, order holds, work can be stopped, and memory stays where it was. */
import assert from "node:assert/strict";
import { execFileSync } from "node:child_process";
import { readdirSync } from "node:fs";
import { join } from "node:path";
import process from "node:process";
import { describe, test } from "node:test";
import { setImmediate as turn } from "node:timers/promises";
import { type TensorLike, Tokenizer } from "mod.ts";
import * as layout from "../../ffi/layout.ts";
import { newEngine } from "../../ffi/load.ts";
import { carried, grownMb, rejects, root, runArgs, withWeights } from "../support.ts";

const pixels = (side: number): TensorLike<"uint8"> => ({
  dtype: "uint8",
  shape: [side, side, 3],
  data: Uint8Array.from({ length: side * side * 3 }, (_, i) => (i * 31) & 255),
});

/** What a script of this folder prints, run as a process of its own. */
function runAlone(script: string, ...args: string[]): string {
  return execFileSync(process.execPath, [...runArgs, join(root, "tests/api", script), ...args], {
    encoding: "utf8",
    cwd: root,
  });
}

describe("the event loop", () => {
  // Counted in turns, not in time: a call that computed on this thread, or waited for the one that does, would leave
  // none.
  test("turns again and again while jobs run", async () => {
    await using tok = await Tokenizer.open("nano-DI8x8", { threads: 1 });
    const image = pixels(512);
    let turns = 0, isOver = false;
    const all = Promise.all(Array.from({ length: 12 }, () => tok.encode(image))).finally(() => isOver = true);
    for (; !isOver; turns++) await turn();
    await all;
    assert.ok(turns > 100, `${turns} turns while 12 jobs ran`);
  });
});

describe("order and many at once", () => {
  test("jobs of a model end in the order submitted; several models mix", async () => {
    await using a = await Tokenizer.open("nano-DI8x8");
    await using b = await Tokenizer.open(join(carried, "Cosmos-Tokenizer-CI8x8"));
    const ended: number[] = [];
    const work = Array.from({ length: 40 }, async (_, i) => {
      const tokens = await (i % 2 ? b : a).encode(pixels(16 + (i % 3) * 16));
      assert.equal(tokens.isDiscrete, i % 2 === 0);
      ended.push(i);
    });
    await Promise.all(work);
    for (const parity of [0, 1]) {
      const mine = ended.filter((i) => i % 2 === parity);
      assert.deepEqual(mine, [...mine].sort((x, y) => x - y));
    }
  });
  test("limits of threads change no result, and no model has threads of its own", async () => {
    const all = await Tokenizer.open("nano-DI8x8");
    const threadsOfProcess = () => readdirSync("/proc/self/task").length, before = threadsOfProcess();
    const limited = await Promise.all([1, 2, 256].map((threads) => Tokenizer.open("nano-DI8x8", { threads })));
    const most = all.info.threads;
    assert.deepEqual(limited.map((tok) => tok.info.threads), [1, Math.min(2, most), most]);
    const results = await Promise.all([all, ...limited].map(async (tok) => {
      return (await tok.encode(pixels(96))).indices.data.join();
    }));
    assert.equal(new Set(results).size, 1);
    assert.ok(threadsOfProcess() - before < most, `${before} threads became ${threadsOfProcess()}`);
    await Promise.all([all, ...limited].map((tok) => tok.close()));
  });
  test("engines of any number of threads, and models with fewer, give equal results", async () => {
    const request = { task: layout.task.encode, input: layout.kind.pixelsU8, height: 96, width: 96 };
    const results = await Promise.all([1, 2, 5].map(async (threads) => {
      const engine = await newEngine({ threads });
      const jobs = await Promise.all([0, 3].map(async (num_threads) => {
        const opening = engine.openModel(join(root, "models/nano/DI8x8.safetensors"), { num_threads });
        const { model } = await engine.ended(opening);
        assert.equal(engine.modelInfo(model).num_threads, Math.min(num_threads || threads, threads));
        const job = engine.run(model, pixels(96).data as Uint8Array, request);
        const { outputs } = await engine.ended(job);
        return engine.take(job, 0, outputs[0]!.bytes).join();
      }));
      await engine.close();
      return jobs;
    }));
    assert.equal(new Set(results.flat()).size, 1);
  });
});

describe("stopping", () => {
  test("abort before, midway, and while queued", async () => {
    await using tok = await Tokenizer.open("nano-DI8x8");
    await rejects(() => tok.encode(pixels(16), { signal: AbortSignal.abort() }), "CANCELLED", /AbortSignal/);
    const controller = new AbortController(), reason = new Error("enough");
    const running = tok.encode(pixels(1024), { signal: controller.signal });
    const queued = tok.encode(pixels(1024), { signal: controller.signal });
    const untouched = tok.encode(pixels(32));
    await turn();
    controller.abort(reason);
    const [one] = await Promise.all([
      rejects(() => running, "CANCELLED", /./),
      rejects(() => queued, "CANCELLED", /./),
    ]);
    assert.equal(one.name, "AbortError");
    assert.equal(one.cause, reason);
    assert.deepEqual((await untouched).indices.shape, [1, 4, 4]);
    await rejects(() => Tokenizer.open("nano-DI8x8", { signal: AbortSignal.abort() }), "CANCELLED", /./);
  });
  test("a running job ends between two steps, not at its end", async () => {
    const engine = await newEngine({ threads: 1 });
    const { model } = await engine.ended(engine.openModel(join(root, "models/nano/DI8x8.safetensors"), {}));
    const job = engine.run(model, pixels(1024).data as Uint8Array, { task: 1, input: 1, height: 1024, width: 1024 });
    const ended = engine.ended(job).then(() => 0, (failure) => failure.status);
    while (engine.query(job).steps_done === 0) await turn();
    engine.cancel(job);
    assert.equal(await ended, layout.status.CANCELLED);
    const { steps_done, num_steps } = engine.query(job);
    assert.ok(steps_done > 0 && steps_done < num_steps, `${steps_done} of ${num_steps} steps`);
    await engine.close();
  });
  test("progress goes from 0 to 1 and never back", async () => {
    await using tok = await Tokenizer.open("nano-DI8x8", { threads: 1 });
    const parts: number[] = [];
    await tok.encode(pixels(1024), { onProgress: (part) => parts.push(part) });
    assert.ok(parts.length > 0, String(parts));
    assert.deepEqual(parts, [...parts].sort((a, b) => a - b));
    assert.equal(parts.at(-1), 1);
  });
  test("close ends pending work, twice is fine, use afterwards is refused", async () => {
    const tok = await Tokenizer.open("nano-DI8x8");
    const pending = [tok.encode(pixels(1024)), tok.encode(pixels(16))].map((p) => rejects(() => p, "CLOSED", /closed/));
    const closing = tok.close();
    await Promise.all([...pending, closing, tok.close()]);
    await rejects(() => tok.encode(pixels(16)), "CLOSED", /open tokenizer/);
    await rejects(() => tok.decode({ dtype: "int32", shape: [1, 1], data: new Int32Array(1) }), "CLOSED", /./);
    await rejects(() => tok.plan({ height: 16, width: 16 }), "CLOSED", /./);
  });
  test("an engine closes under its jobs", async () => {
    const engine = await newEngine({ threads: 1 });
    const job = engine.openModel(join(root, "models/nano/DI8x8.safetensors"), {});
    const { model } = await engine.ended(job);
    engine.release(job);
    // Little to hand over and much to do: none has ended when the engine closes.
    const request = { task: layout.task.decode, input: layout.kind.indices, height: 256, width: 256 };
    const jobs = [0, 1, 2].map(() => engine.run(model, new Uint8Array(4 * 256 * 256), request));
    const ends = jobs.map((j) => engine.ended(j).then(() => 0, (failure) => failure.status));
    await engine.close();
    assert.deepEqual(await Promise.all(ends), [402, 402, 402]);
    assert.throws(() => engine.modelInfo(model), /expected the id of an open model/);
  });
});

describe("memory", () => {
  test("1,000 open, encode, close cycles grow resident memory by under 20 MB", async () => {
    const image = pixels(16);
    const cycle = async () => {
      await using tok = await Tokenizer.open("nano-DI8x8");
      await tok.encode(image);
    };
    const grown = await grownMb(cycle, 100, 1000);
    assert.ok(grown < 20, `grew by ${grown.toFixed(1)} MB`);
  });
  test("opening a full-size DI8x8 takes its packed weights and a window of its file, not all of the file", () =>
    withWeights("DI8x8", "full", (path) => {
      const [addedMb, weightMb] = runAlone("open_memory.ts", path).split(" ").map((bytes) => Number(bytes) / 1e6);
      assert.ok(addedMb! < weightMb! + 40, `added ${addedMb} MB to the peak, of which weights are ${weightMb}`);
      return Promise.resolve();
    }));
  for (const [side, limitMb] of [[512, 700], [1024, 1200]] as const) {
    test(`peak of a full-size DI8x8 encode at ${side}x${side} is under ${limitMb} MB`, () =>
      withWeights("DI8x8", "full", (path) => {
        const peakMb = Number(runAlone("peak_memory.ts", path, String(side))) / 1e6;
        assert.ok(peakMb < limitMb, `peak of ${peakMb.toFixed(0)} MB`);
        return Promise.resolve();
      }));
  }
});
