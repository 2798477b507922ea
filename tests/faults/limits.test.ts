/** Limits: maxMemory refuses before allocating, with plan's numbers; plan's arena is the engine's; headers that lie are refused. */
import assert from "node:assert/strict";
import { writeFileSync } from "node:fs";
import { join } from "node:path";
import { test } from "node:test";
import { setTimeout as sleep } from "node:timers/promises";
import { readImage, Tensor, Tokenizer } from "mod.ts";
import { engineFor } from "../../ffi/load.ts";
import { rejects, residentBytes, withFolder } from "../support.ts";

const pixels = (...shape: number[]) => new Tensor("uint8", shape, new Uint8Array(shape.reduce((n, size) => n * size, 1)));

test("maxMemory: a request over it is refused with the plan's numbers, one at it runs", async () => {
  await using free = await Tokenizer.open("nano-DI8x8");
  const { arenaBytes, weightBytes, inputBytes, resultBytes } = free.plan({ height: 256, width: 256 });
  const needed = arenaBytes + weightBytes + inputBytes + resultBytes;
  await using exact = await Tokenizer.open("nano-DI8x8", { maxMemory: needed });
  assert.deepEqual((await exact.encode(pixels(256, 256, 3))).indices.shape, [1, 32, 32]);
  await using small = await Tokenizer.open("nano-DI8x8", { maxMemory: needed - 1 });
  const error = await rejects(
    () => small.encode(pixels(256, 256, 3)),
    "MEMORY",
    new RegExp(`activations ${arenaBytes}.*${needed - 1}`),
  );
  assert.equal(error.detail, needed);
  assert.deepEqual((await small.encode(pixels(64, 64, 3))).indices.shape, [1, 8, 8]); // the next job is well
  await rejects(
    () => Tokenizer.open("nano-DI8x8", { maxMemory: 1000 }),
    "MEMORY",
    /weights take \d+ bytes, the limit is 1000/,
  );
});

test("plan's arena is what the engine then holds, for every embedded model and size", async () => {
  const engine = await engineFor();
  for (const model of ["nano-DI8x8", "nano-DV4x8x8"]) {
    await using tok = await Tokenizer.open(model);
    while (engine.info().arena_bytes !== 0) await sleep(100); // the engine gives its arena back after a second
    for (const [height, width] of [[16, 16], [17, 95], [96, 64], [256, 160]] as const) { // each needs more than the one before
      const frames = tok.info.isVideo ? 9 : 1;
      const { arenaBytes } = tok.plan({ frames, height, width }, { mode: "whole" });
      await tok.encode(tok.info.isVideo ? pixels(frames, height, width, 3) : pixels(height, width, 3));
      const held = engine.info().arena_bytes;
      assert.ok(
        Math.abs(held - arenaBytes) <= 0.05 * arenaBytes,
        `${model} ${height} x ${width}: planned ${arenaBytes}, held ${held}`,
      );
    }
  }
});

/** A PNG header that claims a size, with 20 bytes of picture. */
function png(height: number, width: number): Uint8Array {
  const chunk = (type: string, data: Uint8Array) => {
    const body = Uint8Array.of(...new TextEncoder().encode(type), ...data), out = new Uint8Array(body.length + 8);
    let crc = ~0;
    for (const byte of body) {
      crc ^= byte;
      for (let i = 0; i < 8; i++) crc = crc >>> 1 ^ (crc & 1 ? 0xedb88320 : 0);
    }
    new DataView(out.buffer).setUint32(0, data.length);
    out.set(body, 4);
    new DataView(out.buffer).setUint32(out.length - 4, ~crc);
    return out;
  };
  const size = new Uint8Array(13);
  new DataView(size.buffer).setUint32(0, width);
  new DataView(size.buffer).setUint32(4, height);
  size.set([8, 2, 0, 0, 0], 8);
  return Uint8Array.of(
    137,
    80,
    78,
    71,
    13,
    10,
    26,
    10,
    ...chunk("IHDR", size),
    ...chunk("IDAT", new Uint8Array(20)),
    ...chunk("IEND", new Uint8Array(0)),
  );
}

test("a picture that claims 100,000 x 100,000 pixels is refused before memory is taken", async () => {
  const before = residentBytes();
  await rejects(() => readImage(png(100_000, 100_000)), "IMAGE", /at most 268402689 pixels/);
  await rejects(() => readImage(png(300, 300), { limitPixels: 80_000 }), "IMAGE", /at most 80000 pixels/);
  assert.ok(residentBytes() - before < 100e6);
});

test("a checkpoint whose header claims a tensor of 2^60 bytes, or an archive of a million entries, is refused", async () => {
  await withFolder(async (folder) => {
    const path = join(folder, "lies.safetensors");
    const header = new TextEncoder().encode(
      '{"a":{"dtype":"F32","shape":[288230376151711744],"data_offsets":[0,1152921504606846976]}}',
    );
    writeFileSync(path, Uint8Array.of(header.length, 0, 0, 0, 0, 0, 0, 0, ...header));
    await rejects(() => Tokenizer.open(path), "FILE_FORMAT", /data_offsets 0 to 1152921504606846976/);
    const end = new Uint8Array(22); // PK 5 6, 65535 entries in a directory of no bytes
    end.set([80, 75, 5, 6, 0, 0, 0, 0, 255, 254, 255, 254]);
    writeFileSync(path, end);
    await rejects(() => Tokenizer.open(path), "FILE_FORMAT", /65279 zip entries/);
  });
});
