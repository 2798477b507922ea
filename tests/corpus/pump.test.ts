/** Tokens do not depend on what they were batched with: what lets a run batch by what happens to be ready, and be the same again. */
import assert from "node:assert/strict";
import { join } from "node:path";
import { test } from "node:test";
import { Tensor, Tokenizer } from "mod.ts";
import { carried, withWeights } from "../support.ts";
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
