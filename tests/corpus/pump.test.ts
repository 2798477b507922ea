/**
 * Tokens do not depend on what they were batched with: what lets a run batch by what happens to be ready, and be the
 * same again. And the pump comes to its end, however its works come.
 */
import assert from "node:assert/strict";
import { join } from "node:path";
import { test } from "node:test";
import { Tensor, Tokenizer, TokenizerError } from "mod.ts";
import type { Item, Sample } from "../../src/corpus/item.ts";
import { Pump, type Work } from "../../src/corpus/pump.ts";
import { carried, rejects, withWeights } from "../support.ts";
import { plain } from "./plain.ts";
import { noise } from "./support.ts";

/** Encodes pictures of one size alone, and in batches of several sizes. */
async function check(model: string, precision: "f32" | "bf16" | "auto", height: number, width: number): Promise<void> {
  await using tok = await Tokenizer.open(model, { half: "encoder", precision });
  const all = Array.from({ length: 7 }, (_, i) => noise(height, width, i));
  const alone = await Promise.all(all.map(async (one) => (await tok.encode(one)).main));
  for (const size of [2, 3, 7]) {
    for (let from = 0; from < all.length; from += size) {
      const batch = all.slice(from, from + size), { main } = await tok.encode(batch);
      for (const [i] of batch.entries()) {
        const { shape, data } = main.at(i), wanted = alone[from + i]!;
        assert.deepEqual(shape, wanted.shape);
        assert.deepEqual(
          new Uint8Array(data.slice().buffer),
          new Uint8Array(wanted.data.slice().buffer),
          `${size} at once, picture ${from + i}`,
        );
      }
    }
  }
}

for (const precision of ["auto", "f32"] as const) {
  test(`nano-DI8x8, ${precision}: a batch gives what each gives alone, bit for bit`, async () => {
    await check("nano-DI8x8", precision, 40, 72);
    await check("nano-DI8x8", precision, 256, 256);
  });
  test(`a continuous latent, ${precision}: a batch gives what each gives alone, bit for bit`, async () => {
    await check(join(carried, "Cosmos-Tokenizer-CI8x8"), precision, 48, 80);
    await withWeights("CI8x8", "small", (path) => check(path, precision, 64, 64));
  });
}

for (const atOnce of [1, 3, 16, 17, 40]) {
  test(`works that wait until the ${atOnce} before them are done`, async () => {
    await using encoder = await Tokenizer.open("nano-DI8x8", { half: "encoder" });
    const done: string[] = [],
      preparer = {
        prepare(item: Item) {
          const n = Number(item.key);
          if (n % 10 === 4) return Promise.reject(new TokenizerError("IMAGE", "no picture"));
          const height = 16 * (1 + n % 3),
            { data } = noise(height, 16, n),
            pixels = new Tensor("uint8", [1, height, 16, 3], data, { kind: "pixels" });
          const facts = { fileName: item.key, height, width: 16, originalHeight: height, originalWidth: 16 };
          return Promise.resolve({ kind: "image" as const, pixels, facts });
        },
        [Symbol.asyncDispose]: () => Promise.resolve(),
      };
    const works = async function* (): AsyncGenerator<Work> {
      for (let from = 0; from < 40; from += atOnce) {
        const settled: Promise<void>[] = [];
        for (let n = from; n < Math.min(from + atOnce, 40); n++) {
          const place = { kind: "file", path: "" } as const, identity = { bytes: 0, mtimeNs: "0" };
          const item: Item = { key: String(n), kind: "image", place, identity, sidecars: [] };
          const { promise, resolve } = Promise.withResolvers<void>();
          settled.push(promise);
          const put = (outcome: Sample | { failed: TokenizerError }) => {
            done.push(`${item.key} ${"failed" in outcome ? outcome.failed.code : outcome.tokens.indices.shape}`);
            return Promise.resolve(resolve());
          };
          yield { item, put };
        }
        await Promise.all(settled);
      }
    };
    const origin = { model: "nano-DI8x8", source: "nano-DI8x8" };
    const pump = new Pump({
      encoder,
      places: plain.openPlaces(),
      preparer,
      origin,
      window: undefined,
      batch: 4,
      readers: 3,
    });
    await pump.run(works);
    const wanted = Array.from({ length: 40 }, (_, n) => `${n} ${n % 10 === 4 ? "IMAGE" : `1,${2 * (1 + n % 3)},2`}`);
    assert.deepEqual(done.toSorted((a, b) => parseInt(a) - parseInt(b)), wanted);
  });
}

/** A work of a small picture. */
function workOf(n: number, put: Work["put"], fail?: Work["fail"]): Work {
  const place = { kind: "file", path: "" } as const, identity = { bytes: 0, mtimeNs: "0" };
  return { item: { key: String(n), kind: "image", place, identity, sidecars: [] }, put, ...(fail && { fail }) };
}

for (const where of ["prepared", "encoded", "written"] as const) {
  test(`a failure when works are ${where}: taken, the others go on; otherwise it ends all`, async () => {
    await using tokenizer = await Tokenizer.open("nano-DI8x8", { half: "encoder" });
    const failure = new TokenizerError("MEMORY", `not ${where}`), { data } = noise(16, 16, 0);
    const facts = { fileName: "", height: 16, width: 16, originalHeight: 16, originalWidth: 16 };
    const preparer = {
      prepare({ key }: Item) {
        if (where === "prepared" && key === "3") return Promise.reject(failure);
        const pixels = new Tensor("uint8", [1, 16, 16, 3], data, { kind: "pixels" });
        return Promise.resolve({ kind: "image" as const, pixels, facts });
      },
      [Symbol.asyncDispose]: () => Promise.resolve(),
    };
    let jobs = 0;
    const encode: Tokenizer["encode"] = (input, options) =>
      where === "encoded" && ++jobs === 2 ? Promise.reject(failure) : tokenizer.encode(input, options);
    const encoder = { encode, encodeStream: tokenizer.encodeStream.bind(tokenizer) };
    const run = async (fail?: Work["fail"]) => {
      const put: string[] = [], origin = { model: "nano-DI8x8", source: "nano-DI8x8" };
      jobs = 0;
      const options = {
        encoder,
        places: plain.openPlaces(),
        preparer,
        origin,
        window: undefined,
        batch: 4,
        readers: 3,
      };
      await new Pump(options).run(async function* () {
        for (let n = 0; n < 40; n++) {
          yield workOf(n, () => {
            if (where === "written" && n === 3) return Promise.reject(failure);
            return Promise.resolve(void put.push(String(n)));
          }, fail);
        }
      });
      return put;
    };
    const failed: unknown[] = [];
    const put = await run((error) => failed.push(error) > 0);
    assert.equal(put.length + failed.length, 40);
    assert.ok(failed.length >= 1 && failed.length <= 4, `${failed.length} failed`);
    for (const error of failed) assert.match(String(error), new RegExp(failure.message));
    await rejects(() => run(), "MEMORY", new RegExp(failure.message));
    await rejects(() => run(() => false), "MEMORY", new RegExp(failure.message));
  });
}
