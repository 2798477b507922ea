/**
 * LlamaGen's VQ-8 through the public API: any size, token files, and what its options and checkpoints are refused for.
 */
import assert from "node:assert/strict";
import { readFileSync, writeFileSync } from "node:fs";
import { dirname, join } from "node:path";
import { test } from "node:test";
import { codesFromIndices, convert, decodeTokens, encodeTokens, Tensor, tokenFormats, Tokenizer } from "mod.ts";
import { decodeSafetensors, encodeSafetensors } from "../../src/tokens/formats/safetensors.ts";
import { countDifferent, rejects, withWeights } from "../support.ts";

/** A picture whose sizes are no multiples of the factor, 8, nor of Cosmos' 16. */
const picture = new Tensor(
  "uint8",
  [1, 21, 37, 3],
  Uint8Array.from({ length: 21 * 37 * 3 }, (_, i) => (i * 37 + i % 251) % 256),
);

const withModel = (use: (path: string) => Promise<void>) => withWeights("VQ-8", "small", use);

test("pixels to tokens and back: padded to the factor alone, cropped again", () =>
  withModel(async (path) => {
    await using tok = await Tokenizer.open(path, { precision: "f32" });
    const { info } = tok;
    assert.equal(info.family, "llamagen");
    assert.deepEqual(info.quantizer, { kind: "lookup", size: 16384, channels: 8 });
    assert.deepEqual([info.isVideo, info.isDiscrete, info.codebookSize, info.spatialFactor], [false, true, 16384, 8]);
    const tokens = await tok.encode(picture, { preQuant: true });
    assert.deepEqual(tokens.indices.shape, [1, 3, 5]);
    assert.deepEqual([tokens.origin.top, tokens.origin.left], [1, 1]);
    const { data } = tokens.codes, positions = 15;
    for (let p = 0; p < positions; p++) {
      let square = 0;
      for (let c = 0; c < 8; c++) square += data[c * positions + p]! ** 2;
      assert.ok(Math.abs(square - 1) < 1e-5, `codes are unit vectors, found one of length ${Math.sqrt(square)}`);
    }
    const image = await tok.decode(tokens, { dtype: "uint8" });
    assert.deepEqual(image.shape, [1, 21, 37, 3]);
    assert.equal(countDifferent(image, await tok.autoencode(picture)), 0, "encode then decode is autoencode");
    assert.equal(
      countDifferent(await tok.decode(tokens.codes), await tok.decode(tokens.indices)),
      0,
      "codes decode as indices",
    );
  }));

test("token files of every form that name their model come back", () =>
  withModel(async (path) => {
    await using tok = await Tokenizer.open(path);
    const tokens = await tok.encode(picture);
    for (const format of tokenFormats.filter((format) => format !== "npy")) {
      const back = decodeTokens(encodeTokens(tokens, format), "test");
      assert.deepEqual(back.origin.quantizer, { kind: "lookup", size: 16384, channels: 8 }, format);
      assert.equal(countDifferent(back.indices, tokens.indices), 0, format);
      assert.equal(countDifferent(await tok.decode(back), await tok.decode(tokens)), 0, format);
      assert.throws(
        () => back.codes,
        /tokenizer\.codebook\(\)/,
        "indices alone do not tell a learned codebook's codes",
      );
    }
  }));

test("halves open alone, and what convert writes is the same", () =>
  withModel(async (path) => {
    const out = join(dirname(path), "converted.safetensors");
    await convert(path, out);
    await using whole = await Tokenizer.open(path, { precision: "f32" });
    await using copy = await Tokenizer.open(out, { precision: "f32" });
    await using encoder = await Tokenizer.open(path, { precision: "f32", half: "encoder" });
    await using decoder = await Tokenizer.open(path, { precision: "f32", half: "decoder" });
    const tokens = await whole.encode(picture), image = await whole.decode(tokens);
    assert.equal(copy.info.sha256, whole.info.sha256);
    assert.equal(copy.info.parameters, whole.info.parameters);
    assert.equal(countDifferent((await copy.encode(picture)).indices, tokens.indices), 0);
    assert.equal(countDifferent((await encoder.encode(picture)).indices, tokens.indices), 0);
    for (const tok of [whole, copy, encoder, decoder]) {
      const codes = codesFromIndices(tokens.indices, tok.info.quantizer!, await tok.codebook());
      assert.equal(countDifferent(codes, tokens.codes), 0, "the codebook has the codes that encode gives");
    }
    assert.equal(countDifferent(await decoder.decode(tokens), image), 0);
  }));

test("options and checkpoints that do not fit are refused by name", () =>
  withModel(async (path) => {
    await rejects(() => Tokenizer.open(path, { fsqLevels: [8, 8] }), "ARGUMENT", /no FSQ levels, as it has a codebook/);
    await rejects(() => Tokenizer.open(path, { spatialFactor: 16 }), "FILE_NETWORK", /expected factor 8 in space/);
    const { tensors } = decodeSafetensors(new Uint8Array(readFileSync(path))),
      edited = join(dirname(path), "edited.safetensors");
    const write = (edit: (all: Map<string, unknown>) => void) => {
      const all = new Map(tensors);
      edit(all);
      writeFileSync(edited, encodeSafetensors(Object.fromEntries(all), {}));
    };
    write((all) => all.delete("quantize.embedding.weight"));
    await rejects(() => Tokenizer.open(edited), "FILE_TENSOR", /missing tensor quantize\.embedding\.weight/);
    write((all) => all.delete("decoder.mid.1.q.bias"));
    await rejects(() => Tokenizer.open(edited), "FILE_TENSOR", /missing tensor decoder\.mid\.1\.q\.bias/);
    write((all) => all.set("encoder.more.weight", tensors.get("encoder.conv_in.weight")));
    await rejects(() => Tokenizer.open(edited), "FILE_TENSOR", /unexpected tensor encoder\.more\.weight/);
    write((all) => {
      for (const name of tensors.keys()) if (!name.startsWith("quantize.")) all.delete(name);
    });
    await rejects(
      () => Tokenizer.open(edited),
      "FILE_NETWORK",
      /encoder\.conv_blocks\.\* .*llamagen.*encoder\.\* .*cosmos/,
    );
  }));
