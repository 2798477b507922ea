/** The public API on the embedded model: what goes in, what comes out, and wrong input. */
import assert from "node:assert/strict";
import { readFileSync } from "node:fs";
import { join } from "node:path";
import { after, before, describe, test } from "node:test";
import {
  codesFromIndices,
  detokenize,
  loadTokens,
  psnr,
  saveTokens,
  Tensor,
  type TensorLike,
  tokenize,
  Tokenizer,
  Tokens,
} from "mod.ts";
import { carried, countDifferent, rejects, root, withFolder, withWeights } from "../support.ts";

const photo = join(root, "examples/media/cat.png"); // 451 x 300: neither a multiple of 16
const noise = (height: number, width: number, batch = 1): TensorLike<"uint8"> => ({
  dtype: "uint8",
  shape: [batch, height, width, 3],
  data: Uint8Array.from({ length: batch * height * width * 3 }, (_, i) => Math.imul(i + 1, 2654435761) >>> 24),
});

describe("embedded model", () => {
  let tok: Tokenizer;
  before(async () => {
    tok = await Tokenizer.open("nano-DI8x8");
  });
  after(() => tok.close());

  test("tokenize and detokenize a photo", async () => {
    const tokens = await tokenize(photo);
    assert.deepEqual(tokens.indices.shape, [1, 38, 58]);
    assert.deepEqual(tokens.codes.shape, [1, 6, 38, 58]);
    const image = await detokenize(tokens);
    assert.deepEqual([image.height, image.width, image.data.length], [300, 451, 300 * 451 * 3]);
    const again = await tok.autoencode(photo);
    assert.equal(countDifferent(new Tensor("uint8", [1, 300, 451, 3], image.data), again), 0);
  });
  test("quality on a photo that was not trained on, as the model card says", async () => {
    const { readImage } = await import("mod.ts");
    const original = await readImage(photo);
    const found = psnr(original, await tok.autoencode(original));
    assert.ok(Math.abs(found - 25.66) < 0.01, `expected the model card's 25.66 dB, found ${found}`);
  });
  test("a path, its bytes and its pixels give the same tokens", async () => {
    const { readImage } = await import("mod.ts");
    const a = await tok.encode(photo);
    assert.equal(countDifferent((await tok.encode(new Uint8Array(readFileSync(photo)))).indices, a.indices), 0);
    assert.equal(countDifferent((await tok.encode(await readImage(photo))).indices, a.indices), 0);
  });
  test("float32 pixels equal uint8 pixels", async () => {
    const u8 = noise(32, 48), data = new Float32Array(32 * 48 * 3);
    for (let i = 0; i < 32 * 48; i++) {
      for (let c = 0; c < 3; c++) data[c * 32 * 48 + i] = Math.fround(Math.fround(u8.data[i * 3 + c]! / 255) * 2) - 1;
    }
    const a = await tok.encode(u8, { preQuant: true }),
      b = await tok.encode({ dtype: "float32", shape: [3, 32, 48], data }, { preQuant: true });
    assert.equal(countDifferent(a.preQuant, b.preQuant), 0);
  });
  test("a batch equals its pictures one by one", async () => {
    const batch = noise(20, 33, 3);
    const all = await tok.encode(batch);
    assert.deepEqual(all.indices.shape, [3, 4, 6]);
    const list = [0, 1, 2].map((n) => new Tensor("uint8", batch.shape, batch.data).at(n));
    assert.equal(countDifferent((await tok.encode(list)).indices, all.indices), 0);
    for (const [n, one] of list.entries()) {
      assert.equal(countDifferent((await tok.encode(one)).indices, all.indices.at(n)), 0);
    }
    const decoded = await tok.decode(all, { dtype: "uint8" });
    assert.deepEqual(decoded.shape, [3, 20, 33, 3]);
    assert.equal(countDifferent(await tok.decode(all.indices.at(2), { dtype: "uint8" }), decoded.at(2)), 0);
  });
  test("indices and codes decode alike; uint16 too; crop can be left off", async () => {
    const tokens = await tok.encode(noise(40, 24));
    const a = await tok.decode(tokens.indices), b = await tok.decode(tokens.codes);
    assert.deepEqual(a.shape, [1, 3, 40, 24]);
    assert.equal(countDifferent(a, b), 0);
    const whole = await tok.decode(tokens, { crop: false });
    assert.deepEqual(whole.shape, [1, 3, 48, 32]);
    const short = await tok.decode({
      dtype: "uint16",
      shape: tokens.indices.shape,
      data: Uint16Array.from(tokens.indices.data),
    });
    assert.equal(countDifferent(short, whole), 0);
  });
  test("extreme sizes: 1x1, and 3x5000", async () => {
    for (const [height, width] of [[1, 1], [3, 5000]] as const) {
      const pixels = noise(height, width);
      assert.deepEqual((await tok.autoencode(pixels)).shape, [1, height, width, 3]);
      assert.deepEqual((await tok.encode(pixels)).indices.shape, [1, 2, Math.ceil(width / 16) * 2]);
    }
  });
  test("token files decode with nothing else", () =>
    withFolder(async (folder) => {
      const path = join(folder, "cat.safetensors"), tokens = await tok.encode(photo);
      await saveTokens(path, tokens);
      assert.equal(countDifferent((await loadTokens(path)).codes, tokens.codes), 0);
      assert.deepEqual((await detokenize(path)).data, (await detokenize(tokens)).data);
    }));
  test("tokens know the precision and the hash of what made them, in files too", () =>
    withFolder(async (folder) => {
      await using other = await Tokenizer.open(join(carried, "Cosmos-Tokenizer-CI8x8"), { precision: "f32" });
      for (const tokenizer of [tok, other]) {
        const tokens = await tokenizer.encode(noise(16, 16)), path = join(folder, `${tokenizer.info.name}.safetensors`);
        await saveTokens(path, tokens);
        for (const { precision, sha256 } of [tokens.origin, (await loadTokens(path)).origin]) {
          assert.deepEqual([precision, sha256], [tokenizer.info.precision, tokenizer.info.sha256]);
          assert.match(sha256!, /^[0-9a-f]{64}$/);
        }
      }
      assert.notEqual(tok.info.sha256, other.info.sha256);
    }));
  test("a file of a model that is elsewhere says which it is; model says where", () =>
    withFolder(async (folder) => {
      const model = join(carried, "Cosmos-Tokenizer-CI8x8"), path = join(folder, "t.safetensors");
      await using other = await Tokenizer.open(model, { name: "Own-CI8x8" });
      const tokens = await other.encode(noise(16, 16)), { name, sha256 } = other.info;
      await saveTokens(path, tokens);
      const text = new RegExp(`their model ${name} \\(sha256 ${sha256}\\) cannot be opened; .model. says where it is`);
      await rejects(() => detokenize(path), "FILE_MISSING", text);
      assert.deepEqual((await detokenize(path, { model })).data, (await detokenize(tokens)).data);
      await saveTokens(path, tokens, { storePath: true });
      assert.deepEqual((await detokenize(path)).data, (await detokenize(tokens)).data);
      await using known = await Tokenizer.open(model); // by its folder's name, which is a public model's
      await saveTokens(path, await known.encode(noise(16, 16)));
      await rejects(() => detokenize(path), "HUB", /expected nvidia\/Cosmos-0\.1-Tokenizer-CI8x8 at main in .*`model`/);
    }));
  test("plan says what a request takes, before any work", async () => {
    const plan = tok.plan({ height: 300, width: 451 });
    assert.deepEqual([plan.paddedHeight, plan.paddedWidth, plan.top, plan.left], [304, 464, 2, 6]);
    assert.deepEqual(plan.outputs.map((o) => [o.kind, ...o.shape]), [["indices", 1, 38, 58], ["codes", 1, 6, 38, 58]]);
    assert.equal(plan.resultBytes, 38 * 58 * 7 * 4);
    assert.equal(plan.inputBytes, 300 * 451 * 3);
    assert.equal(plan.totalBytes, plan.inputBytes + plan.resultBytes + plan.arenaBytes + plan.weightBytes);
    assert.ok(tok.plan({ height: 600, width: 900 }).arenaBytes > plan.arenaBytes);
    await rejects(() => tok.plan({ height: 1 << 20, width: 1 << 20 }), "SHAPE", /pixels/);
    await rejects(() => tok.plan({ height: 60000, width: 60000 }), "MEMORY", /need \d+ bytes .*this machine has \d+/);
    await rejects(() => tok.plan({ height: 0, width: 5 }), "ARGUMENT", /shape\.height.*found 0/);
  });

  test("wrong indices name their place", async () => {
    const indices = (bad: number): TensorLike => ({
      dtype: "int32",
      shape: [1, 2, 3],
      data: Int32Array.of(0, 1, 2, 3, bad, 5),
    });
    await rejects(() => tok.decode(indices(64000)), "VALUE", /indices\[0, 1, 1\]: expected 0 to 63999, found 64000/);
    const error = await rejects(() => tok.decode(indices(-1)), "VALUE", /found -1/);
    assert.equal(error.detail, 4);
    await tok.decode(indices(63999));
  });
  test("wrong shapes and types", async () => {
    const f32 = (...shape: number[]): TensorLike => ({
      dtype: "float32",
      shape,
      data: new Float32Array(shape.reduce((a, b) => a * b)),
    });
    await rejects(() => tok.decode(f32(1, 16, 4, 4)), "SHAPE", /codes float32 \[B, 6, h, w\].*found \[1, 16, 4, 4\]/);
    await rejects(() => tok.decode(f32(4, 4)), "SHAPE", /expected/);
    await rejects(() => tok.decode(noise(8, 8)), "UNSUPPORTED", /found "uint8"/);
    await rejects(() => tok.encode(f32(1, 4, 16, 16) as TensorLike<"float32">), "SHAPE", /float32 \[\(B,\) 3, H, W\]/);
    await rejects(() => tok.encode({ ...noise(4, 4), shape: [4, 5, 3] }), "SHAPE", /60 elements.*found 48/);
    await rejects(() => tok.encode({ ...noise(4, 4), shape: [4, -4, 3] }), "SHAPE", /positive/);
    await rejects(() => tok.encode(42 as unknown as string), "ARGUMENT", /input/);
    await rejects(() => tok.encode([]), "ARGUMENT", /at least one/);
    await rejects(
      () => tok.encode([noise(16, 16), noise(16, 32)]),
      "SHAPE",
      /input\[1\]: expected 16x16.*found "16x32/,
    );
    const { preQuant } = await tok.encode(noise(16, 16), { preQuant: true });
    await rejects(() => tok.decode(preQuant), "UNSUPPORTED", /not quantised/);
  });
  test("files that are no images", async () => {
    await rejects(() => tok.encode("no/such/photo.png"), "FILE_MISSING", /no\/such\/photo\.png/);
    await rejects(() => tok.encode(join(root, "package.json")), "IMAGE", /package\.json/);
    await rejects(() => tok.encode(new Uint8Array(readFileSync(photo)).slice(0, 5000)), "IMAGE", /./);
    const error = await rejects(() => tokenize("no/such/photo.png"), "FILE_MISSING", /./);
    assert.match(error.stack!, /tokenizer\.test\.ts/, "the stack points at the caller");
  });
  test("what a model does not have is refused by name", async () => {
    const tokens = await tok.encode(noise(16, 16));
    await rejects(() => tokens.latent, "UNSUPPORTED", /indices, codes.*latent/);
    await rejects(() => tokens.preQuant, "UNSUPPORTED", /preQuant: true/);
    await using continuous = await Tokenizer.open(join(carried, "Cosmos-Tokenizer-CI8x8"));
    const { latent } = await continuous.encode(noise(16, 16));
    assert.deepEqual(latent.shape, [1, 16, 2, 2]);
    await rejects(() => continuous.encode(noise(16, 16), { preQuant: true }), "UNSUPPORTED", /continuous|latent/);
    await rejects(() => continuous.decode(tokens.indices), "UNSUPPORTED", /latent float32 \[B, 16, h, w\]/);
    await rejects(
      () => tok.decode(new Tensor("float32", [1, 6, 2, 2], new Float32Array(24), latent)),
      "UNSUPPORTED",
      /tokens of factor 8, FSQ/,
    );
    await rejects(
      () => detokenize(new Tokens(tokens.origin, { indices: new Tensor("int32", [2, 1, 1], new Int32Array(2)) })),
      "SHAPE",
      /batch of 2/,
    );
  });
});

describe("codebook", () => {
  /** Row i of the codebook is the code of index i. */
  async function checkCodebook(tok: Tokenizer): Promise<void> {
    const { codebookSize: size, latentChannels: channels, quantizer } = tok.info, codebook = await tok.codebook();
    assert.deepEqual([codebook.dtype, ...codebook.shape], ["float32", size, channels]);
    // As a batch, a code's channels lie beside each other.
    const all = new Tensor("int32", [size, 1], Int32Array.from({ length: size }, (_, i) => i));
    const { data } = codesFromIndices(all, quantizer!);
    assert.equal(countDifferent(codebook, new Tensor("float32", [size, channels], data)), 0);
  }

  for (const model of ["nano-DI8x8", "nano-DV4x8x8"]) {
    test(`of ${model}: all 64000 codes, by either half`, async () => {
      for (const half of [undefined, "encoder", "decoder"] as const) {
        await using tok = await Tokenizer.open(model, half ? { half } : {});
        assert.equal(tok.info.codebookSize, 64000);
        await checkCodebook(tok);
      }
    });
  }
  test("what one request does not hold comes in several", () =>
    withWeights("DI8x8", "small", async (path) => {
      await using tok = await Tokenizer.open(path, { fsqLevels: [8, 8, 8, 8, 8, 33], half: "encoder" });
      assert.equal(tok.info.codebookSize, 2 ** 20 + 2 ** 15);
      await checkCodebook(tok);
    }));
  test("a continuous model has none, nor a closed one", async () => {
    const tok = await Tokenizer.open(join(carried, "Cosmos-Tokenizer-CI8x8"));
    const error = await rejects(
      () => tok.codebook(),
      "UNSUPPORTED",
      /codebook: expected a discrete model, found .*CI8x8/,
    );
    assert.match(error.stack!, /tokenizer\.test\.ts/, "the stack points at the caller");
    await tok.close();
    await rejects(() => tok.codebook(), "CLOSED", /./);
  });
});
