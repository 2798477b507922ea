/**
 * What calls take and what becomes of it: every kind of source wherever a picture's or a token file's bytes are, memory
 * that the caller changes right after a call, pixels that are no numbers, values of the wrong kind, batches and their
 * limits.
 */
import assert from "node:assert/strict";
import { readFileSync } from "node:fs";
import { copyFile, mkdtemp, rm } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { after, before, describe, test } from "node:test";
import { pathToFileURL } from "node:url";
import {
  type BytesSource,
  decodeTokens,
  detokenize,
  encodeTokens,
  loadTokens,
  psnr,
  readImage,
  saveTokens,
  Tensor,
  type TensorLike,
  tokenize,
  Tokenizer,
  Tokens,
  writeImage,
} from "mod.ts";
import { countDifferent, peakResidentBytes, rejects, root, runtime, withFolder } from "../support.ts";

const bytesOf = (path: string) => new Uint8Array(readFileSync(path));
const side = 64, frames = 40;
const noise = (shape: number[]) =>
  Uint8Array.from({ length: shape.reduce((n, size) => n * size, 1) }, (_, i) => Math.imul(i + 1, 2654435761) >>> 24);

let image: Tokenizer, video: Tokenizer, top: string, photo: string; // 36 x 48
before(async () => {
  [image, video] = await Promise.all([Tokenizer.open("nano-DI8x8"), Tokenizer.open("nano-DV4x8x8")]);
  top = await mkdtemp(join(tmpdir(), "ctok-test-"));
  photo = join(top, "photo.png");
  await writeImage(photo, tensorU8([36, 48, 3], noise([36, 48, 3])));
});
after(async () => {
  await Promise.all([image.close(), video.close()]);
  await rm(top, { recursive: true, force: true });
});

/** Every form in which the bytes of a file may come. */
function sourcesOf(path: string): Record<string, BytesSource> {
  const bytes = bytesOf(path), shared = new SharedArrayBuffer(bytes.length);
  new Uint8Array(shared).set(bytes);
  return {
    path,
    URL: pathToFileURL(path),
    Uint8Array: bytes,
    Buffer: readFileSync(path),
    ArrayBuffer: bytes.buffer,
    "view of shared memory": new Uint8Array(shared),
    Blob: new Blob([bytes]),
    File: new File([bytes], "some.bin"),
    ...(runtime === "bun" && { "Bun.file": Bun.file(path) }),
  };
}

describe("sources", () => {
  test("a picture's bytes, of any form, through every way in", async () => {
    const pixels = await readImage(photo), tokens = await image.encode(pixels);
    for (const [form, source] of Object.entries(sourcesOf(photo))) {
      assert.equal(countDifferent(await readImage(source), pixels), 0, form);
      assert.equal(countDifferent((await image.encode(source)).indices, tokens.indices), 0, form);
      assert.equal(countDifferent((await tokenize([source, pixels])).indices.at(0), tokens.indices), 0, form);
    }
    assert.equal(countDifferent(await image.autoencode(new Blob([bytesOf(photo)])), await image.autoencode(pixels)), 0);
  });
  test("a token file's", () =>
    withFolder(async (folder) => {
      const path = join(folder, "t.safetensors"),
        tokens = await image.encode(photo),
        picture = await detokenize(tokens);
      await saveTokens(path, tokens);
      for (const [form, source] of Object.entries(sourcesOf(path))) {
        assert.equal(countDifferent((await loadTokens(source)).indices, tokens.indices), 0, form);
        assert.equal(countDifferent(await detokenize(source), picture), 0, form);
      }
      const { buffer } = bytesOf(path);
      assert.equal(countDifferent(decodeTokens(buffer, "an ArrayBuffer").indices, tokens.indices), 0);
    }));
  test("a video's path and URL; its bytes are refused with what to do", async () => {
    const path = join(root, "examples/media/cars.mp4"), some = { signal: AbortSignal.abort() };
    await rejects(() => video.encode(pathToFileURL(path), some), "CANCELLED", /./);
    for (const source of [new Blob([bytesOf(path)]), bytesOf(path)]) {
      await rejects(() => video.encode(source), "ARGUMENT", /path or file: URL of a video, found .*write them to one/);
    }
  });
  test("what is none of them names those that are", async () => {
    const wrong = { null: null, undefined: undefined, number: 5, Object: {}, Float32Array: new Float32Array(4) };
    for (const [kind, value] of Object.entries(wrong)) {
      const text = new RegExp(`a path, a file: URL, bytes \\(Uint8Array, ArrayBuffer\\) or a Blob.*found "${kind}"`);
      for (const call of [readImage, loadTokens, detokenize, tokenize, image.encode.bind(image)]) {
        await rejects(() => call(value as never), "ARGUMENT", text);
      }
    }
    await rejects(() => decodeTokens("a path" as never, "x"), "ARGUMENT", /loadTokens takes paths/);
    await rejects(() => readImage(new URL("https://example.org/a.png")), "ARGUMENT", /file: URL .*https:..example/);
    await rejects(() => image.encode(new URL("file:///a%2Fb")), "ARGUMENT", /names a file of this machine/);
    await rejects(() => readImage(new Response("x") as never), "ARGUMENT", /await response\.blob\(\)/);
    await rejects(() => readImage(pathToFileURL("/no/such.png")), "FILE_MISSING", /^\/no\/such\.png/);
    await rejects(() => readImage(new Blob([])), "IMAGE", /found no bytes/);
    if (runtime === "bun") await rejects(() => readImage(Bun.file("/no/such.png")), "FILE_MISSING", /such\.png/);
  });
  test("what detokenize gives is a picture for every other call", () =>
    withFolder(async (folder) => {
      const picture = await detokenize(await tokenize(photo)), path = join(folder, "p.png");
      assert.deepEqual(picture.shape, [1, picture.height, picture.width, 3]);
      await writeImage(path, picture);
      assert.equal(countDifferent(await readImage(path), picture), 0);
      assert.equal(psnr(picture, await readImage(path)), Infinity);
      assert.deepEqual((await tokenize(picture)).origin.height, picture.height);
    }));
});

// ---------------------------------------------------------------- memory
type Memory = Uint8Array | Int32Array | Float32Array;
/** What a caller may do with memory that it has passed. */
const changes: Record<string, (data: Memory) => void> = {
  filled: (data) => data.fill(0),
  transferred: ({ buffer }) => structuredClone(buffer, { transfer: [buffer as ArrayBuffer] }),
  shrunk: ({ buffer }) => (buffer as ArrayBuffer).resize(0),
};
/** A copy in memory that can be shrunk. */
function resizable<M extends Memory>(data: M): M {
  const buffer = new ArrayBuffer(data.byteLength, { maxByteLength: 2 * data.byteLength });
  const copy = new (data.constructor as new (buffer: ArrayBuffer) => M)(buffer);
  copy.set(data as never);
  return copy;
}
/** The values of a result, to compare. */
const shown = (result: unknown) => {
  if (result instanceof Tokens) return result.main.data.join();
  return (result as TensorLike).data.join();
};

test("memory changed right after a call, or a tick later, changes no result", async () => {
  const picture = noise([side, side, 3]), clip = noise([frames, side, side, 3]), file = bytesOf(photo);
  const tokens = (await image.encode(tensorU8([side, side, 3], picture))).indices;
  const windows = (await video.encode(tensorU8([frames, side, side, 3], clip))).indices;
  const small = noise([frames, 16, 16, 3]);
  // Each method with memory of its own kind.
  const calls: Record<string, [Memory, (data: never) => Promise<unknown>]> = {
    "encode, uint8": [picture, (data: Uint8Array) => image.encode(tensorU8([side, side, 3], data))],
    "encode, float32": [Float32Array.from(picture, (v) => v / 128 - 1), (data: Float32Array) => {
      return image.encode({ dtype: "float32", shape: [3, side, side], data });
    }],
    "encode, a file's bytes": [file, (data: Uint8Array) => image.encode(data)],
    "encode, an ArrayBuffer": [file, (data: Uint8Array) => image.encode(data.buffer as ArrayBuffer)],
    "encode, a batch": [picture, (data: Uint8Array) => {
      const one = tensorU8([side, side, 3], data);
      return image.encode([one, one]);
    }],
    "encode, a batch with a file": [noise([36, 48, 3]), (data: Uint8Array) => {
      return image.encode([photo, tensorU8([36, 48, 3], data)]);
    }],
    "encode, windows of a clip": [clip, (data: Uint8Array) => video.encode(tensorU8([frames, side, side, 3], data))],
    "autoencode, a picture": [picture, (data: Uint8Array) => image.autoencode(tensorU8([side, side, 3], data))],
    "autoencode, a clip": [small, (data: Uint8Array) => video.autoencode(tensorU8([frames, 16, 16, 3], data))],
    "decode": [tokens.data, (data: Int32Array) => image.decode(tensorI32(tokens, data))],
    "decode, windows": [windows.data, (data: Int32Array) => video.decode(tensorI32(windows, data))],
    "decode, a seamless clip": [windows.data, (data: Int32Array) => {
      return video.decode({ dtype: "int32", shape: windows.shape, data });
    }],
    "tokenize": [picture, (data: Uint8Array) => tokenize(tensorU8([side, side, 3], data))],
    "tokenize, a file's bytes": [file, (data: Uint8Array) => tokenize(data)],
    "detokenize": [tokens.data, (data: Int32Array) => {
      return detokenize(new Tokens(tokens.origin!, { indices: tensorI32(tokens, data) as Tensor<"int32"> }));
    }],
    "detokenize, a token file": [
      encodeTokens(new Tokens(tokens.origin!, { indices: tokens }), "msgpack"),
      (data: Uint8Array) => detokenize(data),
    ],
    "readImage": [file, (data: Uint8Array) => readImage(data)],
  };
  for (const [name, [data, call]] of Object.entries(calls)) {
    const right = shown(await call(resizable(data) as never));
    for (const [change, apply] of Object.entries(changes)) {
      for (const when of ["at once", "a tick later"]) {
        const mine = resizable(data), work = call(mine as never);
        if (when !== "at once") await new Promise((resolve) => setTimeout(resolve));
        apply(mine);
        const found = await work.then(shown, (error) => `${error.code}: ${error.message}`);
        assert.ok(found === right, `${name}, ${change} ${when}: ${found.slice(0, 200)}`);
      }
    }
  }
});

test("a part's memory is the caller's again once the first frame of it has come", async () => {
  const { indices } = await video.encode(tensorU8([frames, 16, 16, 3], noise([frames, 16, 16, 3])));
  const decoded = async (apply: (data: Int32Array) => void) => {
    const out: string[] = [], data = resizable(indices.data);
    for await (const frame of video.decodeStream([tensorI32(indices, data)])) {
      if (out.push(shown(frame)) === 1) apply(data);
    }
    return out.join();
  };
  const right = await decoded(() => {});
  for (const [change, apply] of Object.entries(changes)) assert.ok(await decoded(apply) === right, change);
});

test("the first tokenize and detokenize of a model, which open it, copy too", () =>
  withFolder(async (folder) => {
    const model = join(folder, "first.safetensors");
    await copyFile(join(root, "models/nano/DI8x8.safetensors"), model);
    const pixels = tensorU8([side, side, 3], noise([side, side, 3])), right = (await image.encode(pixels)).indices;
    const first = tokenize(pixels, { model });
    pixels.data.fill(0);
    const tokens = await first;
    assert.equal(countDifferent(tokens.indices, right), 0);
    const second = join(folder, "second.safetensors"), picture = await image.decode(right, { dtype: "uint8" });
    await copyFile(model, second);
    const decoded = detokenize(tokens, { model: second });
    tokens.indices.data.fill(0);
    assert.equal(countDifferent(await decoded, picture), 0);
  }));

test("a frame's memory may be used again for the next one", async () => {
  const clip = noise([frames, side, side, 3]), size = side * side * 3;
  const all = Array.from(
    { length: frames },
    (_, t) => tensorU8([side, side, 3], clip.subarray(t * size, (t + 1) * size)),
  );
  async function* reused() {
    const buffer = new Uint8Array(size);
    for (const { data } of all) {
      buffer.set(data);
      yield tensorU8([side, side, 3], buffer);
      buffer.fill(0);
    }
  }
  for (const options of [{}, { window: 5 }]) {
    const tokens = async (source: Parameters<Tokenizer["encodeStream"]>[0]) => {
      const parts: string[] = [];
      for await (const part of video.encodeStream(source, options)) parts.push(shown(part));
      return parts.join();
    };
    assert.equal(await tokens(reused()), await tokens(all));
  }
});

test("shared memory, views at odd offsets, and a getter that gives less the second time", async () => {
  const data = noise([side, side, 3]), right = shown(await image.encode(tensorU8([side, side, 3], data)));
  const shared = new Uint8Array(new SharedArrayBuffer(data.length)), odd = new Uint8Array(data.length + 7).subarray(7);
  shared.set(data);
  odd.set(data);
  for (const memory of [shared, odd]) assert.equal(shown(await image.encode(tensorU8([side, side, 3], memory))), right);
  for (let honest = 0; honest < 8; honest++) {
    let reads = 0;
    const liar = {
      dtype: "uint8" as const,
      shape: [side, side, 3],
      get data() {
        return reads++ < honest ? data : new Uint8Array(3);
      },
    };
    const found = await image.encode(liar).then(shown, (error) => error.code);
    assert.ok(found === right || found === "SHAPE", `${honest} reads: ${found.slice(0, 100)}`);
  }
});

// ---------------------------------------------------------------- values
test("a pixel that is no finite number is an error with its position, unless allowed", async () => {
  const float = (value: number, at: number) => {
    const data = new Float32Array(2 * 3 * side * side);
    data[at] = value;
    return { dtype: "float32" as const, shape: [2, 3, side, side], data };
  };
  const at = ((1 * 3 + 2) * side + 5) * side + 7;
  for (const value of [NaN, Infinity, -Infinity]) {
    const wanted = new RegExp(`^input\\[1, 2, 5, 7\\]: expected a finite pixel .*found ${value}$`);
    for (const call of [image.encode.bind(image), image.autoencode.bind(image), tokenize]) {
      assert.equal((await rejects(() => call(float(value, at)), "VALUE", wanted)).detail, at);
    }
    const tokens = await image.encode(float(value, at), { allowNonFinite: true });
    assert.ok(tokens.indices.data.every((index) => index >= 0 && index < 64000));
    await image.autoencode(float(value, at), { allowNonFinite: true });
  }
  const clip = {
    dtype: "float32" as const,
    shape: [3, 2, 16, 16],
    data: new Float32Array(3 * 2 * 256).fill(NaN, 300, 301),
  };
  await rejects(() => video.encode(clip), "VALUE", /^input\[0, 1, 2, 12\]/);
  await rejects(() => image.encode([float(0, 0), float(NaN, 3)]), "VALUE", /^input\[1\]\[0, 0, 0, 3\]/);
  for (const value of [3.4e38, -3.4e38, 1e-45, -0, 0]) await image.encode(float(value, at));
});

test("wrong values are told as the caller's, never as a fault of ctok or in the runtime's words", async () => {
  const tokens = await video.encode(tensorU8([20, 16, 16, 3], noise([20, 16, 16, 3])));
  const { origin, indices } = tokens;
  const decode = (change: object) =>
    video.decode(new Tensor("int32", indices.shape, indices.data, { origin: { ...origin, ...change } }));
  for (const height of [63.5, -1, NaN, 2 ** 53, "16", undefined]) {
    await rejects(() => decode({ height }), "ARGUMENT", /^tokens\.origin\.height: expected a whole number/);
  }
  for (const wrong of [-1, NaN, 2 ** 53, 0.5]) {
    const windows = [{ tokens: wrong, frames: 17, before: 0 }];
    await rejects(() => decode({ video: { ...origin.video, windows } }), "ARGUMENT", /windows\[0\]\.tokens: expected/);
  }
  for (const windows of [[], origin.video!.windows!.slice(1)]) {
    await rejects(
      () => decode({ video: { ...origin.video, windows } }),
      "SHAPE",
      /windows: expected \d+ frames of tokens/,
    );
  }
  await rejects(() => decode({ quantizer: [8, 8] }), "ARGUMENT", /quantizer/);
  const collect = async (stream: () => AsyncIterable<unknown>) => await Array.fromAsync(stream());
  for (const wrong of [undefined, null, 5, {}]) {
    await rejects(() => collect(() => video.encodeStream(wrong as never)), "ARGUMENT", /^frames: expected frames/);
    await rejects(() => collect(() => video.decodeStream(wrong as never)), "ARGUMENT", /^parts: expected parts/);
    if (wrong !== undefined) {
      await rejects(() => collect(() => video.encodeStream([wrong as never])), "ARGUMENT", /^frame 0/);
    }
    await rejects(() => collect(() => video.decodeStream([wrong as never])), "ARGUMENT", /^part 0/);
  }
  const detached = new Uint8Array(3 * side * side);
  structuredClone(detached.buffer, { transfer: [detached.buffer] });
  await rejects(() => image.encode(tensorU8([side, side, 3], detached)), "SHAPE", /found 0/);
  await rejects(() => readImage(detached), "IMAGE", /no bytes/);
  await rejects(() => readImage(detached.buffer), "IMAGE", /no bytes/);
  await rejects(() => detokenize(detached), "TOKEN_FILE", /empty/);
  await rejects(
    () => image.encode(tensorU8([4, 4, 3], new Uint8Array(48)), { signal: 5 as never }),
    "ARGUMENT",
    /signal/,
  );
  await rejects(() => tokenize(photo, { signal: 5 } as never), "ARGUMENT", /signal/);
  await rejects(() => tokenize(photo, { model: 5 } as never), "ARGUMENT", /^model/);
});

// ---------------------------------------------------------------- batches
test("a batch over maxMemory is refused before it is joined", async () => {
  const one = tensorU8([2000, 2000, 3], new Uint8Array(2000 * 2000 * 3)), before = peakResidentBytes();
  for (const call of [image.encode.bind(image), image.autoencode.bind(image)]) {
    const wanted = /need \d{10} bytes .* is 100000000$/;
    const { detail } = await rejects(() => call(new Array(300).fill(one), { maxMemory: 1e8 }), "MEMORY", wanted);
    assert.ok(detail! > 3.6e9);
  }
  assert.ok(peakResidentBytes() - before < 300e6, `grew by ${peakResidentBytes() - before}, joined it has 3.6 GB`);
  // Beyond what one array can hold, where no limit is given.
  await rejects(() => image.encode(new Array(400_000).fill(one)), "MEMORY", /./);
});

test("files of a batch are read a few at a time, and none once they are known to be too many", () =>
  withFolder(async (folder) => {
    const other = join(folder, "other.png"), none = join(folder, "none.png");
    await writeImage(other, tensorU8([16, 32, 3], noise([16, 32, 3])));
    let open = 0, most = 0, all = 0;
    /** A Blob that counts how many of its kind are being read. */
    class Counted extends Blob {
      override stream(): ReadableStream<Uint8Array<ArrayBuffer>> {
        const { readable, writable } = new TransformStream<Uint8Array<ArrayBuffer>, Uint8Array<ArrayBuffer>>({
          flush: () => void open--,
        });
        most = Math.max(most, ++open);
        all++;
        super.stream().pipeTo(writable).catch(() => {}); // whose reader has left
        return readable;
      }
    }
    const count = 60, file = new Counted([bytesOf(photo)]);
    const tokens = await image.encode(new Array(count).fill(file)), right = (await image.encode(photo)).indices;
    assert.deepEqual(tokens.indices.shape, [count, ...right.shape.slice(1)]);
    for (const n of [0, 1, count - 1]) assert.equal(countDifferent(tokens.indices.at(n), right), 0);
    assert.equal(all, count);
    assert.ok(most >= 1 && most <= 8, `expected a few at a time, found ${most}`);
    await rejects(() => image.encode(new Array(100_000).fill(file), { maxMemory: 2e7 }), "MEMORY", /./);
    assert.ok(all <= count + 8, `expected a few to be read, found ${all - count}`);
    const pixels = tensorU8([36, 48, 3], noise([36, 48, 3]));
    await rejects(
      () => image.encode([photo, pixels, other]),
      "SHAPE",
      /^input\[2\]: expected 36x48 .*input\[1\].*16x32/,
    );
    await rejects(() => image.encode([photo, none, none]), "FILE_MISSING", /none\.png/);
    all = open = 0;
    await rejects(() => image.encode([none, ...new Array(1000).fill(file)]), "FILE_MISSING", /none\.png/);
    const begun = all;
    for (let n = 0; n < 20; n++) await image.encode(photo);
    assert.equal(all, begun, "files are read behind a call that has failed");
    assert.ok(begun < 1000);
  }));

function tensorU8(shape: number[], data: Uint8Array): TensorLike<"uint8"> {
  return { dtype: "uint8", shape, data };
}

/** The same tokens in other memory. */
function tensorI32({ shape, origin, kind }: Tensor, data: Int32Array): Tensor {
  return new Tensor("int32", shape, data, { origin: origin!, ...(kind && { kind }) });
}
