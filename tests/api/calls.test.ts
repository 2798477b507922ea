/**
 * How a call ends: callbacks that throw, aborts while a step runs or nothing comes, and the models that one-call forms
 * keep.
 */
import assert from "node:assert/strict";
import { copyFile, mkdir, readFile, writeFile } from "node:fs/promises";
import { join } from "node:path";
import process from "node:process";
import { describe, test } from "node:test";
import { setTimeout as sleep } from "node:timers/promises";
import {
  convert,
  detokenize,
  devices,
  Tensor,
  type TensorLike,
  tokenize,
  Tokenizer,
  TokenizerError,
  Tokens,
} from "mod.ts";
import { ABI_VERSION } from "../../ffi/layout.ts";
import { engineFor } from "../../ffi/load.ts";
import { rejects, root, withFolder } from "../support.ts";

const nano = join(root, "models/nano/DI8x8.safetensors");
const pixels = (side: number): TensorLike<"uint8"> => ({
  dtype: "uint8",
  shape: [side, side, 3],
  data: Uint8Array.from({ length: side * side * 3 }, (_, i) => (i * 31) & 255),
});

/** Encodes larger and larger pictures until `onProgress` is called while one is under way. Gives the last result. */
async function midway(tok: Tokenizer, options: { onProgress: (part: number) => void; signal?: AbortSignal }) {
  for (let side = 512;; side *= 2) {
    let isMidway = false;
    const onProgress = (part: number) => {
      if (part < 1) isMidway = true;
      return options.onProgress(part);
    };
    const result = await tok.encode(pixels(side), { ...options, onProgress }).catch((error) => error);
    if (isMidway) return result;
  }
}

describe("onProgress", () => {
  const boom = new Error("boom");
  const isBoom = (error: unknown) => {
    assert.ok(error instanceof TokenizerError, String(error));
    assert.deepEqual([error.code, error.cause], ["ARGUMENT", boom]);
    assert.match(error.message, /^options\.onProgress: expected a function that does not throw, found boom$/);
    assert.match(error.stack!, /calls\.test\.ts/, "the stack points at the caller");
  };
  const failing: Record<string, () => void> = {
    throws: () => {
      throw boom;
    },
    rejects: () => Promise.reject(boom),
    "rejects later": () => sleep(1).then(() => Promise.reject(boom)),
  };
  for (const [how, fail] of Object.entries(failing)) {
    test(`that ${how} rejects its own call and nothing else`, async () => {
      const unhandled: unknown[] = [], note = (error: unknown) => unhandled.push(error);
      process.on("unhandledRejection", note);
      await using tok = await Tokenizer.open("nano-DI8x8", { threads: 1 });
      const other = tok.encode(pixels(16));
      isBoom(await midway(tok, { onProgress: fail }));
      isBoom(
        await tok.encode(pixels(16), { onProgress: (part) => part === 1 ? fail() : undefined }).catch((error) => error),
      );
      for (const call of [tok.autoencode.bind(tok), tokenize]) {
        isBoom(await call(pixels(16), { onProgress: fail }).catch((error) => error));
      }
      const { indices } = await other;
      isBoom(await tok.decode(indices, { onProgress: fail }).catch((error) => error));
      const { num_models } = (await engineFor()).info();
      isBoom(await Tokenizer.open("nano-DI8x8", { onProgress: fail }).catch((error) => error));
      while ((await engineFor()).info().num_models !== num_models) await sleep(1); // the opened one is closed again
      assert.deepEqual((await tok.encode(pixels(16))).indices.data, indices.data);
      await sleep(10);
      process.off("unhandledRejection", note);
      assert.deepEqual(unhandled, []);
    });
  }
  test("that is async is waited for", async () => {
    await using tok = await Tokenizer.open("nano-DI8x8");
    let hasEnded = false;
    await tok.encode(pixels(16), { onProgress: (part) => sleep(20).then(() => void (hasEnded = part === 1)) as never });
    assert.ok(hasEnded);
  });
  test("of a clip goes from 0 to 1 over all windows", async () => {
    await using tok = await Tokenizer.open("nano-DV4x8x8");
    const clip = { dtype: "uint8" as const, shape: [50, 32, 32, 3], data: new Uint8Array(50 * 32 * 32 * 3) };
    const inWindows = await tok.encode(clip, { window: 10 }), { dtype, shape, data } = inWindows.indices;
    const bare = { dtype, shape, data }; // without an origin: one seamless sequence
    type Call = (o: { onProgress: (part: number) => void }) => Promise<unknown>;
    const calls: Call[] = [
      (o) => tok.encode(clip, { window: 10, ...o }),
      (o) => tok.autoencode(clip, { window: 10, ...o }),
      (o) => tok.decode(inWindows, o),
      (o) => tok.decode(bare, o),
    ];
    for (const call of calls) {
      const parts: number[] = [];
      await call({ onProgress: (part) => void parts.push(part) });
      assert.ok(parts.length >= 5, String(parts));
      assert.deepEqual(parts, parts.toSorted((a, b) => a - b));
      assert.equal(parts.at(-1), 1);
    }
  });
});

/** The engines of this realm, as ffi/load.ts keeps them. */
const engines = (globalThis as { [engines: symbol]: unknown })[Symbol.for(`ctok.engines.${ABI_VERSION}`)] as Map<
  string,
  unknown
>;

/** Whether a promise settles while only microtasks run, so before anything that a native thread says. */
async function settlesAtOnce(promise: Promise<unknown>): Promise<boolean> {
  let isSettled = false;
  promise.then(() => {}, () => {}).finally(() => isSettled = true);
  for (let n = 0; n < 100 && !isSettled; n++) await Promise.resolve();
  return isSettled;
}

describe("an abort", () => {
  test("is answered before the step that runs has ended; close waits for that step", async () => {
    const tok = await Tokenizer.open("nano-DI8x8", { threads: 1 }), engine = await engineFor();
    const controller = new AbortController(), reason = new Error("enough");
    let isAnswered: Promise<boolean> | undefined;
    for (let side = 512; !isAnswered; side *= 2) {
      const call: Promise<unknown> = tok.encode(pixels(side), {
        signal: controller.signal,
        onProgress: (part) => {
          if (part === 1 || isAnswered) return;
          controller.abort(reason);
          isAnswered = settlesAtOnce(call);
        },
      });
      const error = await call.then(() => undefined, (error) => error);
      if (isAnswered) assert.deepEqual([error.code, error.name, error.cause], ["CANCELLED", "AbortError", reason]);
    }
    assert.ok(await isAnswered);
    await tok.close();
    assert.equal(engine.info().num_jobs, 0);
  });
  test("of opening is answered at once, and the model is closed", async () => {
    const engine = await engineFor(), { num_models } = engine.info(), controller = new AbortController();
    const opening = Tokenizer.open("nano-DI8x8", { signal: controller.signal });
    controller.abort();
    assert.ok(await settlesAtOnce(opening));
    await rejects(() => opening, "CANCELLED", /AbortSignal/);
    while (engine.info().num_jobs > 0) await sleep(1);
    assert.equal(engine.info().num_models, num_models);
  });
  test("does not wait until a device is open", async () => {
    const calls: Record<string, (signal: AbortSignal) => Promise<unknown>> = {
      open: (signal) => Tokenizer.open("nano-DI8x8", { signal }),
      convert: (signal) => convert("nano-DI8x8", join(root, "none.safetensors"), { signal }),
    };
    for (const [name, call] of Object.entries(calls)) {
      const asked = Promise.withResolvers<void>(), controller = new AbortController();
      engines.get = () => { // of a device that never opens
        asked.resolve();
        return new Promise<never>(() => {});
      };
      try {
        const ended = call(controller.signal);
        await asked.promise;
        controller.abort();
        assert.ok(await settlesAtOnce(ended), name);
        await rejects(() => ended, "CANCELLED", /AbortSignal/);
      } finally {
        delete (engines as { get?: unknown }).get;
      }
    }
    const controller = new AbortController(), listed = devices({ signal: controller.signal });
    controller.abort();
    assert.ok(await settlesAtOnce(listed), "devices");
    await rejects(() => listed, "CANCELLED", /AbortSignal/);
  });
  test("ends streams whose source gives nothing, and lets the source go", async () => {
    await using tok = await Tokenizer.open("nano-DV4x8x8");
    const { indices } = await tok.encode({ dtype: "uint8", shape: [5, 16, 16, 3], data: new Uint8Array(5 * 768) });
    const begin: Record<string, (source: AsyncIterable<never>, signal: AbortSignal) => AsyncIterable<unknown>> = {
      encodeStream: (source, signal) => tok.encodeStream(source, { signal }),
      decodeStream: (source, signal) => tok.decodeStream(source, { signal }),
    };
    for (const [name, stream] of Object.entries(begin)) {
      const controller = new AbortController(), asked = Promise.withResolvers<void>();
      let isReturned = false, given = 0;
      const source = {
        [Symbol.asyncIterator]: () => source,
        next(): Promise<IteratorResult<never>> {
          const value =
            (name === "encodeStream" ? new Tensor("uint8", [16, 16, 3], new Uint8Array(768)) : indices) as never;
          if (given++ === 0) return Promise.resolve({ done: false, value });
          asked.resolve();
          return new Promise(() => {}); // never
        },
        return() {
          isReturned = true;
          return new Promise<never>(() => {}); // nor does it end
        },
      };
      const reading = (async () => {
        for await (const _ of stream(source, controller.signal));
      })();
      await asked.promise;
      controller.abort();
      await rejects(() => reading, "CANCELLED", /./);
      assert.ok(isReturned, name);
    }
  });
  test("of a conversion tells the truth: cancelled and untouched, or done", () =>
    withFolder(async (folder) => {
      const path = join(folder, "out.safetensors");
      for (let n = 0; n < 12; n++) {
        await writeFile(path, "older");
        const controller = new AbortController(), work = convert(nano, path, { signal: controller.signal });
        const outcome = work.then(() => "done", (error) => error.code);
        if (n % 4) await sleep(n);
        controller.abort();
        const found = await outcome, isOlder = await readFile(path, "latin1") === "older";
        assert.equal(found, isOlder ? "CANCELLED" : "done");
      }
    }));
});

describe("the models of tokenize and detokenize", () => {
  /** Tokens that name `source` as their model. */
  async function naming(source: string): Promise<Tokens> {
    const { origin, indices } = await tokenize(pixels(16)), named = { ...origin, source };
    return new Tokens(named, {
      indices: new Tensor("int32", indices.shape, indices.data, { kind: "indices", origin: named }),
    });
  }
  test("are few however many are named, one after the other or at once", () =>
    withFolder(async (folder) => {
      const engine = await engineFor(), right = (await detokenize(await tokenize(pixels(16)))).data;
      const { num_models } = engine.info(), models: Tokens[] = [];
      for (let n = 0; n < 12; n++) {
        const path = join(folder, `${n}.safetensors`);
        await copyFile(nano, path);
        models.push(await naming(path));
      }
      const check = async (tokens: Tokens) => {
        assert.deepEqual((await detokenize(tokens)).data, right);
        const { num_models: now } = engine.info(); // one may be closing while another opens
        assert.ok(now <= num_models + 5, `expected at most 5 more than ${num_models}, found ${now}`);
      };
      for (const tokens of models) await check(tokens);
      await Promise.all([...models, ...models].map(check));
      await Promise.all([...models].map((tokens) => check(tokens)));
      const controller = new AbortController();
      const many = models.map((tokens) => detokenize(tokens, { signal: controller.signal }));
      controller.abort();
      await Promise.all(many.map((work) => rejects(() => work, "CANCELLED", /./)));
      await check(models[0]!);
    }));
  test("that a file names and that cannot be opened are refused alike, whatever lies there", () =>
    withFolder(async (folder) => {
      await mkdir(join(folder, "folder"));
      await writeFile(join(folder, "folder/secret-name"), "secret-content");
      const sources = ["folder", "folder/secret-name", "nowhere"].map((name) => join(folder, name));
      const told = new Set<string>();
      for (const source of sources) {
        const error = await rejects(
          async () => detokenize(await naming(source)),
          "FILE_MISSING",
          /their model .* cannot be opened/,
        );
        assert.ok(error.cause === undefined && error.detail === undefined);
        told.add(error.message);
        assert.ok(!error.message.includes("secret"));
      }
      assert.equal(told.size, 1);
      // Who chooses the model is told why.
      const tokens = await naming("x");
      await rejects(() => detokenize(tokens, { model: sources[1]! }), "FILE_FORMAT", /./);
      await rejects(() => detokenize(tokens, { model: sources[2]! }), "FILE_MISSING", /embedded name/);
    }));
});
