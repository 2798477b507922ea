/** Models opened from the same files on one engine share their packed weights, and nothing else does. */
import assert from "node:assert/strict";
import { copyFileSync, readFileSync, statSync, utimesSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { describe, test } from "node:test";
import { setTimeout as sleep } from "node:timers/promises";
import { Tokenizer } from "mod.ts";
import { engineFor } from "../../ffi/load.ts";
import { replaceBytes, tensorRange } from "../archive.ts";
import { rejects, residentBytes, root, withFolder, withWeights } from "../support.ts";

const nano = join(root, "models/nano/DI8x8.safetensors");
const name = "nano-DI8x8"; // says what the copies below do not
const image = {
  dtype: "uint8",
  shape: [64, 48, 3],
  data: Uint8Array.from({ length: 64 * 48 * 3 }, (_, i) => (i * 37) & 255),
} as const;

async function tokensOf(tok: Tokenizer): Promise<string> {
  const { codes, preQuant } = await tok.encode(image, { preQuant: true });
  return [codes, preQuant].map((t) => t!.data.join()).join(";");
}

describe("weights of the same files", () => {
  test("take no second copy; the last model to close gives them back", () =>
    withWeights("DI8x8", "full", async (path) => {
      // The memory of earlier tests' jobs is kept for a second, and must not be given back in between.
      while ((await engineFor()).info().arena_bytes > 0) await sleep(20);
      const start = residentBytes();
      const first = await Tokenizer.open(path, { half: "encoder" });
      const { weightBytes } = first.info, tokens = await tokensOf(first), one = residentBytes();
      assert.ok(one - start > 0.7 * weightBytes, `the first took ${one - start} of ${weightBytes} bytes`);
      const others = await Promise.all([1, 2, 3].map(() => Tokenizer.open(path, { half: "encoder" })));
      for (const other of others) {
        assert.equal(await tokensOf(other), tokens);
        assert.deepEqual(other.info, first.info);
      }
      const grown = residentBytes() - one;
      assert.ok(grown < 0.3 * weightBytes, `three more took ${grown} bytes, of which one copy is ${weightBytes}`);
      await first.close();
      for (const other of others) assert.equal(await tokensOf(other), tokens, "after the first was closed");
      await Promise.all(others.map((other) => other.close()));
      // A job lets go just after it ends.
      for (let n = 0; n < 3000 && residentBytes() - start > 0.3 * weightBytes; n++) await sleep(20);
      const kept = residentBytes() - start;
      assert.ok(kept < 0.3 * weightBytes, `closed, ${kept} of ${weightBytes} bytes are still there`);
    }));

  test("are shared half by half, and every check runs all the same", () =>
    withWeights("DI8x8", "full", async (path) => {
      await using both = await Tokenizer.open(path);
      const before = residentBytes();
      await using encoder = await Tokenizer.open(path, { half: "encoder", name: "of-my-own" });
      await using decoder = await Tokenizer.open(path, { half: "decoder" });
      const grown = residentBytes() - before;
      assert.ok(grown < 0.2 * both.info.weightBytes, `two halves took ${grown} bytes`);
      assert.equal(encoder.info.weightBytes + decoder.info.weightBytes, both.info.weightBytes);
      assert.equal(encoder.info.name, "of-my-own");
      assert.equal(await tokensOf(encoder), await tokensOf(both));
      await rejects(
        () => encoder.decode({ dtype: "int32", shape: [1, 1], data: new Int32Array(1) }),
        "UNSUPPORTED",
        /./,
      );
      await rejects(() => Tokenizer.open(path, { fsqLevels: [8, 8] }), "FILE_NETWORK", /levels/);
      await rejects(() => Tokenizer.open(path, { name: "DI16x16" }), "FILE_NETWORK", /DI16x16/);
    }));

  test("are packed again when the file was written again, its size and time of writing kept", () =>
    withFolder(async (folder) => {
      const path = join(folder, "x.safetensors");
      copyFileSync(nano, path);
      await using old = await Tokenizer.open(path, { name });
      const tokens = await tokensOf(old), bytes = new Uint8Array(readFileSync(path)), { atime, mtime } = statSync(path);
      bytes.fill(0x3f, ...tensorRange(bytes, "encoder.conv_in.bias"));
      writeFileSync(path, bytes);
      utimesSync(path, atime, mtime);
      await using changed = await Tokenizer.open(path, { name });
      assert.notEqual(await tokensOf(changed), tokens);
      assert.equal(await tokensOf(old), tokens);

      const text = (t: string) => new TextEncoder().encode(t);
      writeFileSync(path, replaceBytes(bytes, text('"encoder.conv_in.bias"'), text('"encoder.conv_in.bios"')));
      await rejects(() => Tokenizer.open(path, { name }), "FILE_TENSOR", /missing tensor encoder\.conv_in\.bias/);
    }));
});
