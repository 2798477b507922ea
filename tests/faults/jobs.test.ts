/** Many jobs, few threads: everything settles, nothing is left, memory stays, and the next job works. */
import assert from "node:assert/strict";
import { join } from "node:path";
import { test } from "node:test";
import { setImmediate } from "node:timers/promises";
import { type TensorLike, Tokenizer } from "mod.ts";
import * as layout from "../../ffi/layout.ts";
import { engineFor, newEngine } from "../../ffi/load.ts";
import { carried, collectGarbage, rejects, residentBytes, root } from "../support.ts";

const pixels = (side: number, seed = 0): TensorLike<"uint8"> => ({
  dtype: "uint8",
  shape: [side, side, 3],
  data: Uint8Array.from({ length: side * side * 3 }, (_, i) => (i * 31 + seed) & 255),
});

/** Little to hand over, and much to do. */
const long: TensorLike<"int32"> = { dtype: "int32", shape: [256, 256], data: new Int32Array(256 * 256) };

/** How many long jobs take ten times as long as it takes to queue 10,000 small ones, here and now. */
async function longEnough(tok: Tokenizer): Promise<number> {
  const start = performance.now(), small = Promise.all(Array.from({ length: 100 }, () => tok.encode(pixels(16))));
  const queued = performance.now();
  await small;
  const begun = performance.now();
  await tok.decode(long);
  return Math.ceil(10 * (100 * (queued - start)) / (performance.now() - begun));
}

/** Queues 10,000 jobs behind long ones and cancels every second one, then the long ones; says how they ended. */
async function storm(tok: Tokenizer, numLong: number): Promise<Record<string, number>> {
  const first = new AbortController(), half = new AbortController(), ends: Record<string, number> = {};
  const ahead = Array.from(
    { length: numLong },
    () => rejects(() => tok.decode(long, { signal: first.signal }), "CANCELLED", /./),
  );
  const jobs = Array.from({ length: 10_000 }, (_, n) => {
    return tok.encode(pixels(16, n % 7), n % 2 ? { signal: half.signal } : {}).then(
      () => "done",
      (error) => error.code,
    );
  });
  await setImmediate();
  assert.equal((await engineFor()).info().num_jobs, 10_000 + numLong);
  half.abort();
  first.abort();
  await Promise.all(ahead);
  for (const end of await Promise.all(jobs)) ends[end] = (ends[end] ?? 0) + 1;
  return ends;
}

test("10,000 queued jobs, half of them cancelled: all settle, nothing is left, memory is flat", async () => {
  await using tok = await Tokenizer.open("nano-DI8x8", { threads: 1 }); // more would only wait for each other
  const engine = await engineFor(), wanted = (await tok.encode(pixels(16, 3))).indices.data;
  const models = engine.info().num_models;
  const numLong = await longEnough(tok);
  // A job keeps 10 kB until it is released: jobs that stayed would add 100 MB each time, while malloc keeps or gives
  // back as much once in a while.
  const resident: number[] = [];
  const grown = () => resident.at(-1)! - resident.at(-2)!;
  do {
    assert.deepEqual(await storm(tok, numLong), { done: 5000, CANCELLED: 5000 });
    collectGarbage();
    resident.push(residentBytes() / 1e6);
  } while (resident.length < 2 || (resident.length < 5 && grown() >= 40));
  assert.ok(grown() < 40, `resident MB: ${resident.map((mb) => mb.toFixed(0)).join(", ")}`);
  assert.deepEqual([engine.info().num_jobs, engine.info().num_models], [0, models]);
  assert.deepEqual((await tok.encode(pixels(16, 3))).indices.data, wanted);
});

test("more models and jobs than threads, one thread, an event loop that is blocked: everything settles", async () => {
  const paths = ["nano-DI8x8", "nano-DV4x8x8", join(carried, "Cosmos-Tokenizer-CI8x8")];
  const models = await Promise.all(
    Array.from({ length: 12 }, (_, n) => Tokenizer.open(paths[n % 3]!, { threads: 1 + n % 3 })),
  );
  const work = Array.from({ length: 120 }, async (_, n) => {
    const { shape } = (await models[n % 12]!.encode(models[n % 12]!.info.isVideo ? video() : pixels(24))).main;
    return shape.join();
  });
  for (const until = performance.now() + 1000; performance.now() < until;); // wakes pile up meanwhile
  const grids = ["1,4,4", "1,3,2,2", "1,16,4,4"];
  assert.deepEqual(await Promise.all(work), Array.from({ length: 120 }, (_, n) => grids[n % 3]));
  await Promise.all(models.map((tok) => tok.close()));
});

const video = (): TensorLike<"uint8"> => ({
  dtype: "uint8",
  shape: [5, 16, 16, 3],
  data: new Uint8Array(5 * 16 * 16 * 3),
});

test("an engine of one thread: openings, requests and chunks in each other's way settle, in their order", async () => {
  const engine = await newEngine({ threads: 1 }), path = join(root, "models/nano/DV4x8x8.safetensors");
  const end = (job: number) => engine.ended(job).finally(() => engine.release(job));
  const { model } = await end(engine.openModel(path, {}));
  const stream = engine.openStream(model, layout.task.encode, 0);
  const size = { task: layout.task.encode, input: layout.kind.pixelsU8, height: 16, width: 16 };
  const frames = (count: number) => new Uint8Array(count * 16 * 16 * 3);
  const ended: number[] = [];
  await Promise.all(
    Array.from({ length: 60 }, async (_, n) => {
      const chunk = n === 2 ? 1 : 4; // the first of a stream has one frame more
      const job = n % 3 === 0
        ? engine.openModel(path, {})
        : n % 3 === 1
        ? engine.run(model, frames(5), { ...size, frames: 5 })
        : engine.runChunk(stream, frames(chunk), { ...size, frames: chunk });
      const { model: opened } = await end(job);
      if (opened) engine.closeModel(opened);
      ended.push(n);
    }),
  );
  assert.deepEqual(ended, Array.from({ length: 60 }, (_, n) => n));
  engine.closeStream(stream);
  assert.deepEqual([engine.info().num_jobs, engine.info().num_models, engine.info().num_threads], [0, 1, 1]);
  await engine.close();
});
