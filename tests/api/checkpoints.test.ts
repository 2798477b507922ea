/** Checkpoints nobody should trust: each damaged in one way, each refused with a message that says what was expected. */
import assert from "node:assert/strict";
import { copyFileSync, mkdirSync, readFileSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { describe, test } from "node:test";
import { convert, type ErrorCode, Tokenizer } from "mod.ts";
import { concat, editSafetensors, type Entry, readZip, replaceBytes, tensorRange, writeZip } from "../archive.ts";
import { carried, countDifferent, rejects, root, withFolder, withWeights } from "../support.ts";

const folder = join(carried, "Cosmos-Tokenizer-CI8x8");
const jit = new Uint8Array(readFileSync(join(folder, "encoder.jit")));
const nano = new Uint8Array(readFileSync(join(root, "models/nano/DI8x8.safetensors")));
const bytes = (text: string) => new TextEncoder().encode(text);
const pixels = {
  dtype: "uint8",
  shape: [32, 48, 3],
  data: Uint8Array.from({ length: 32 * 48 * 3 }, (_, i) => (i * 37) & 255),
} as const;

async function refuses(name: string, content: Uint8Array, code: ErrorCode, text: RegExp) {
  await withFolder(async (temporary) => {
    const path = join(temporary, name);
    writeFileSync(path, content);
    await rejects(() => Tokenizer.open(path), code, text);
  });
}

function editPickle(edit: (pickle: Uint8Array) => Uint8Array): Uint8Array {
  return writeZip(readZip(jit).map((e) => e.name.endsWith("/data.pkl") ? { ...e, data: edit(e.data) } : e));
}

describe("TorchScript archives", () => {
  test("rewritten without change, opens", () =>
    withFolder(async (temporary) => {
      writeFileSync(join(temporary, "encoder.jit"), writeZip(readZip(jit)));
      await using tok = await Tokenizer.open(join(temporary, "encoder.jit"));
      assert.equal(tok.info.encoder?.widths.join(), "32,64,64");
      assert.equal(tok.info.decoder, undefined);
    }));
  test("truncated, at many lengths", async () => {
    for (const part of [0, 3, 100, jit.length >> 1, jit.length - 30, jit.length - 1]) {
      await refuses("encoder.jit", jit.slice(0, part), "FILE_FORMAT", /encoder\.jit/);
    }
  });
  test("deflated data.pkl", () => {
    const entries = readZip(jit).map((e): Entry => ({ ...e, isDeflated: e.name.endsWith("/data.pkl") }));
    return refuses("encoder.jit", writeZip(entries), "FILE_FORMAT", /data\.pkl.*(deflated|compressed|stored)/);
  });
  test("deflated data/N", () => {
    const entries = readZip(jit).map((e): Entry => ({ ...e, isDeflated: e.name.endsWith("/data/7") }));
    return refuses("encoder.jit", writeZip(entries), "FILE_FORMAT", /data\/7.*(deflated|compressed|stored)/);
  });
  test("missing data/N", () =>
    refuses("encoder.jit", writeZip(readZip(jit).filter((e) => !e.name.endsWith("/data/9"))), "FILE_FORMAT", /data\/9/));
  test("missing tensor", () =>
    refuses(
      "encoder.jit",
      editPickle((p) => replaceBytes(p, bytes("norm_out"), bytes("norm_but"))),
      "FILE_TENSOR",
      /missing tensor encoder\.norm_out\.weight/,
    ));
  test("extra tensor", () =>
    withFolder(async (temporary) => {
      const path = join(temporary, "extra.safetensors");
      writeFileSync(
        path,
        editSafetensors(nano, (h) => {
          h["encoder.conv_in.surprise"] = h["encoder.conv_in.bias"]!;
          delete h["encoder.conv_in.bias"];
        }),
      );
      await rejects(() => Tokenizer.open(path), "FILE_TENSOR", /encoder\.conv_in/);
    }));
  test("unknown opcode", () =>
    // 0x95 FRAME is of a later pickle protocol
    refuses(
      "encoder.jit",
      editPickle((p) => concat([p.subarray(0, 2), Uint8Array.of(0x95), p.subarray(2)])),
      "FILE_FORMAT",
      /opcode.*95/i,
    ));
  test("unknown global is never called", () =>
    refuses(
      "encoder.jit",
      editPickle((p) => replaceBytes(p, bytes("ccollections\nOrderedDict\n"), bytes("cos\nsystem\n"))),
      "FILE_FORMAT",
      /os[ .]system/,
    ));
});

describe("safetensors", () => {
  const withLength = (length: bigint) => {
    const out = nano.slice();
    new DataView(out.buffer).setBigUint64(0, length, true);
    return out;
  };
  test("header length past the end", () =>
    refuses("x.safetensors", withLength(BigInt(nano.length)), "FILE_FORMAT", /header/));
  test("header length of 2^63", () => refuses("x.safetensors", withLength(1n << 63n), "FILE_FORMAT", /./));
  test("empty, and eight bytes", async () => {
    await refuses("x.safetensors", new Uint8Array(0), "FILE_FORMAT", /x\.safetensors/);
    await refuses("x.safetensors", new Uint8Array(8), "FILE_FORMAT", /./);
  });
  test("truncated data", () => refuses("x.safetensors", nano.slice(0, nano.length - 1000), "FILE_FORMAT", /./));
  const edited = (edit: Parameters<typeof editSafetensors>[1]) => editSafetensors(nano, edit);
  test("overlapping offsets", () =>
    refuses(
      "x.safetensors",
      edited((h) => (h["quant_conv.bias"]!.data_offsets = h["encoder.norm_out.bias"]!.data_offsets)),
      "FILE_FORMAT",
      /quant_conv\.bias|encoder\.norm_out\.bias/,
    ));
  test("offsets out of range", () =>
    refuses(
      "x.safetensors",
      edited((h) => (h["quant_conv.bias"]!.data_offsets = [nano.length, nano.length + 12])),
      "FILE_FORMAT",
      /quant_conv\.bias/,
    ));
  test("size and shape disagree", () =>
    refuses("x.safetensors", edited((h) => (h["quant_conv.bias"]!.shape = [7])), "FILE_FORMAT", /quant_conv\.bias/));
  test("wrong shape", () =>
    refuses(
      "x.safetensors",
      edited((h) => h["encoder.mid.attn_1.q.weight"]!.shape = [64, 256, 1, 1]),
      "FILE_TENSOR",
      /encoder\.mid\.attn_1\.q\.weight: expected shape \[128, 128, 1, 1\], found \[64, 256, 1, 1\]/,
    ));
  test("missing tensor", () =>
    refuses(
      "x.safetensors",
      edited((h) => {
        h["encoder.patcher._arange"] = { ...h["encoder.conv_in.bias"]!, dtype: "I16" };
        delete h["encoder.conv_in.bias"];
      }),
      "FILE_TENSOR",
      /missing tensor encoder\.conv_in\.bias/,
    ));
  test("no tokenizer at all", () =>
    refuses(
      "x.safetensors",
      edited((h) => {
        for (const name of Object.keys(h)) {
          h[`model.${name}`] = h[name]!;
          delete h[name];
        }
      }),
      "FILE_NETWORK",
      /encoder\.\* or decoder\.\*/,
    ));
  test("a name that says something else", () => refuses("DI16x16.safetensors", nano, "FILE_NETWORK", /DI16x16.*factor 8/));
  test("random bytes", () =>
    refuses("x.safetensors", Uint8Array.from({ length: 5000 }, (_, i) => (i * 7919) >> 3), "FILE_FORMAT", /./));

  test("weights that are not finite are allowed and told", () =>
    withFolder(async (temporary) => {
      const path = join(temporary, "x.safetensors"), damaged = nano.slice();
      new DataView(damaged.buffer).setUint16(tensorRange(damaged, "encoder.conv_in.bias")[0], 0x7fc0, true); // bfloat16 NaN
      writeFileSync(path, damaged);
      await using tok = await Tokenizer.open(path);
      assert.deepEqual(tok.info.nonFinite, { weights: 1, tensors: 1, first: "encoder.conv_in.bias" });
      const { indices } = await tok.encode(pixels);
      assert.ok(indices.data.every((i) => i >= 0 && i < 64000), "indices stay in range whatever the weights are");
    }));
});

describe("folders and options", () => {
  test("nothing there", async () => {
    await rejects(() => Tokenizer.open("no/such/model"), "FILE_MISSING", /nano-DI8x8.*no\/such\/model/);
  });
  test("a public name without its files says where they are", async () => {
    const text = /nvidia\/Cosmos-Tokenizer-DI16x16.*NVIDIA Open Model License/;
    await rejects(() => Tokenizer.open("DI16x16"), "FILE_MISSING", text);
  });
  test("a folder without a checkpoint", () =>
    withFolder(async (temporary) => {
      writeFileSync(join(temporary, "notes.txt"), "x");
      await rejects(() => Tokenizer.open(temporary), "FILE_MISSING", /encoder\.jit/);
    }));
  test("one half alone", () =>
    withFolder(async (temporary) => {
      const model = join(temporary, "CI8x8");
      mkdirSync(model);
      copyFileSync(join(folder, "decoder.jit"), join(model, "decoder.jit"));
      await using tok = await Tokenizer.open(model);
      assert.equal(tok.info.encoder, undefined);
      await rejects(() => tok.encode(pixels), "UNSUPPORTED", /only its decoder/);
      await rejects(() => Tokenizer.open(model, { half: "encoder" }), "FILE_TENSOR", /expected the encoder half/);
      const image = await tok.decode({ dtype: "float32", shape: [16, 2, 3], data: new Float32Array(96) });
      assert.deepEqual(image.shape, [1, 3, 16, 24]);
    }));
  test("half: encoder takes half of the memory", async () => {
    await using both = await Tokenizer.open(folder);
    await using one = await Tokenizer.open(folder, { half: "encoder" });
    assert.ok(one.info.weightBytes < both.info.weightBytes * 0.6);
    await rejects(
      () => one.decode({ dtype: "float32", shape: [16, 2, 2], data: new Float32Array(64) }),
      "UNSUPPORTED",
      /only its encoder/,
    );
  });
  test("device, precision and other options", async () => {
    await rejects(() => Tokenizer.open("nano-DI8x8", { device: "cuda:999" }), "DEVICE", /cuda:999: expected .*, found /);
    await rejects(() => Tokenizer.open("nano-DI8x8", { device: "gpu" as "cuda" }), "ARGUMENT", /"cuda:1", found "gpu"/);
    await rejects(
      () => Tokenizer.open("nano-DI8x8", { device: "cuda", kernels: "generic" }),
      "ARGUMENT",
      /found 2, which is of the CPU/,
    );
    await rejects(
      () => Tokenizer.open("nano-DI8x8", { precision: "bf16", kernels: "generic" }),
      "DEVICE",
      /expected kernels avx512_bf16.*found generic/,
    );
    await rejects(
      () => Tokenizer.open("nano-DI8x8", { precision: "f64" as "f32" }),
      "ARGUMENT",
      /options\.precision.*found "f64"/,
    );
    await rejects(() => Tokenizer.open("nano-DI8x8", { threads: 0 }), "ARGUMENT", /options\.threads.*found 0/);
    await rejects(() => Tokenizer.open("nano-DI8x8", { colour: 1 } as object), "ARGUMENT", /colour/);
    await rejects(() => Tokenizer.open("nano-DI8x8", { fsqLevels: [8, 8] }), "FILE_NETWORK", /levels/);
  });
  test("where facts come from", async () => {
    await using tok = await Tokenizer.open("nano-DI8x8", { fsqLevels: [8, 8, 8, 5, 5, 5] });
    assert.deepEqual(tok.info.from, { kind: "option", levels: "option", factors: "keys" });
    await using plain = await Tokenizer.open("nano-DI8x8");
    assert.deepEqual(plain.info.from, { kind: "name", levels: "default", factors: "keys" });
    assert.equal(plain.info.codebookSize, 64000);
    assert.equal(plain.info.parameters, 3233686); // models/nano/README.md
  });
});

describe("convert", () => {
  test("a folder of .jit files becomes one file with the same tokens", () =>
    withFolder(async (temporary) => {
      const out = join(temporary, "one.safetensors");
      await convert(folder, out);
      await using a = await Tokenizer.open(folder);
      await using b = await Tokenizer.open(out);
      assert.equal(b.info.from.kind, "metadata");
      assert.equal(countDifferent((await a.encode(pixels)).latent, (await b.encode(pixels)).latent), 0);
      assert.equal(a.info.parameters, b.info.parameters);
      await rejects(() => convert(folder, join(temporary, "missing/one.safetensors")), "FILE_IO", /missing/);
    }));
  test("levels travel in the metadata", () =>
    withWeights("DI8x8", "small", async (path) => {
      const out = path.replace("DI8x8", "renamed");
      await convert(path, out);
      await using tok = await Tokenizer.open(out);
      assert.deepEqual(tok.info.levels, [8, 8, 8, 5, 5, 5]);
      assert.equal(tok.info.from.levels, "metadata");
    }));
});
