/**
 * Checkpoints nobody should trust: each damaged in one way, each refused with a message that says what was expected.
 */
import assert from "node:assert/strict";
import { execFileSync } from "node:child_process";
import { createHash } from "node:crypto";
import {
  copyFileSync,
  lstatSync,
  mkdirSync,
  readdirSync,
  readFileSync,
  rmSync,
  statSync,
  symlinkSync,
  writeFileSync,
} from "node:fs";
import { join } from "node:path";
import { describe, test } from "node:test";
import { convert, type ErrorCode, Tokenizer } from "mod.ts";
import {
  addTensors,
  concat,
  editSafetensors,
  type Entry,
  keepTensors,
  readZip,
  replaceBytes,
  tensorRange,
  tensorsOf,
  writeZip,
} from "../archive.ts";
import {
  carried,
  countDifferent,
  hasShared,
  noShared,
  rejects,
  root,
  sequence,
  shared,
  withFolder,
  withWeights,
} from "../support.ts";

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

/** What a model says of itself under a name, and where it has that from. */
function fact({ info }: Tokenizer, name: string): string | undefined {
  const found = info.facts.find((f) => f.name === name);
  return found && `${found.value} (${found.from})`;
}

describe("TorchScript archives", () => {
  test("rewritten without change, opens", () =>
    withFolder(async (temporary) => {
      writeFileSync(join(temporary, "encoder.jit"), writeZip(readZip(jit)));
      await using tok = await Tokenizer.open(join(temporary, "encoder.jit"));
      assert.equal(fact(tok, "encoder widths"), "32 64 64 (keys)");
      assert.deepEqual(tok.info.halves, ["encoder"]);
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
    refuses(
      "encoder.jit",
      writeZip(readZip(jit).filter((e) => !e.name.endsWith("/data/9"))),
      "FILE_FORMAT",
      /data\/9/,
    ));
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

describe("modules that hold the tokenizer, or hold it no more", () => {
  /** The carried folder, its encoder edited. */
  const withEncoder = (edit: (entries: Entry[]) => Entry[], use: (model: string) => Promise<void>) =>
    withFolder(async (temporary) => {
      const model = join(temporary, "CI8x8");
      mkdirSync(model);
      copyFileSync(join(folder, "decoder.jit"), join(model, "decoder.jit"));
      writeFileSync(join(model, "encoder.jit"), writeZip(edit(readZip(jit))));
      await use(model);
    });
  /** The pickle of a module whose one attribute is the module of `pickle`. */
  const wrap = (pickle: Uint8Array, name: string) => {
    const length = new Uint8Array(4);
    new DataView(length.buffer).setUint32(0, name.length, true);
    const head = concat([
      Uint8Array.of(0x80, 2),
      bytes("c__torch__\nWrapper\n)"),
      Uint8Array.of(0x81),
      bytes("}(X"),
      length,
      bytes(name),
    ]);
    return concat([head, pickle.subarray(2, -1), bytes("ub.")]);
  };
  /** A module without a tensor. */
  const frozen = concat([Uint8Array.of(0x80, 2), bytes("c__torch__\nFrozen\n)"), Uint8Array.of(0x81), bytes("}b.")]);
  const isPickle = (entry: Entry) => entry.name.endsWith("/data.pkl");

  for (const names of [["module"], ["model"], ["_orig_mod", "module"]]) {
    test(`an encoder inside of ${names.join(" inside of ")} is read, and is the same`, () =>
      withEncoder(
        (entries) => entries.map((e) => isPickle(e) ? { ...e, data: names.reduce(wrap, e.data) } : e),
        async (model) => {
          await using plain = await Tokenizer.open(folder);
          await using wrapped = await Tokenizer.open(model);
          assert.equal(wrapped.info.sha256, plain.info.sha256);
          assert.equal(countDifferent((await wrapped.encode(pixels)).latent, (await plain.encode(pixels)).latent), 0);
        },
      ));
  }
  test("a frozen encoder beside a good decoder is refused", () => {
    const isOwn = (entry: Entry) => isPickle(entry) || entry.name.includes("/data/"); // and no constants of its code
    return withEncoder(
      (entries) =>
        entries.filter(isOwn).map((e) =>
          isPickle(e) ? { ...e, data: frozen } : { ...e, name: e.name.replace("/data/", "/constants/") }
        ),
      async (model) => {
        const text = /encoder\.jit: .*no parameters.*frozen.*torch\.jit\.freeze/;
        await rejects(() => Tokenizer.open(model), "FILE_FORMAT", text);
      },
    );
  });
  test("an encoder.jit that holds a decoder is refused", () =>
    withFolder(async (temporary) => {
      for (const name of ["encoder.jit", "decoder.jit"]) {
        copyFileSync(join(folder, "decoder.jit"), join(temporary, name));
      }
      await rejects(
        () => Tokenizer.open(temporary),
        "FILE_NETWORK",
        /encoder\.jit: expected tensors named encoder\.\*, found/,
      );
    }));
  test("every name under one prefix, in safetensors", () =>
    withFolder(async (temporary) => {
      const path = join(temporary, "DI8x8.safetensors");
      writeFileSync(
        path,
        editSafetensors(nano, (h) => {
          for (const name of Object.keys(h).filter((n) => n !== "__metadata__")) {
            h[`first_stage_model.${name}`] = h[name]!;
            delete h[name];
          }
        }),
      );
      await using tok = await Tokenizer.open(path);
      await using plain = await Tokenizer.open("nano-DI8x8");
      assert.equal(tok.info.sha256, plain.info.sha256);
    }));
});

describe("state dicts of torch.save", () => {
  const number = (value: number) => {
    const out = new Uint8Array(5);
    new DataView(out.buffer).setInt32(1, value, true);
    out[0] = 0x4a; // BININT
    return out;
  };
  const string = (text: string) => {
    const out = new Uint8Array(5);
    new DataView(out.buffer).setInt32(1, text.length, true);
    out[0] = 0x58; // BINUNICODE
    return concat([out, bytes(text)]);
  };
  const tuple = (...items: Uint8Array[]) => concat([bytes("("), ...items, bytes("t")]);
  const dict = (entries: Record<string, Uint8Array>) =>
    concat([bytes("}("), ...Object.entries(entries).flatMap(([key, value]) => [string(key), value]), bytes("u")]);
  const storages: Record<string, string> = { F32: "Float", F16: "Half", BF16: "BFloat16", I64: "Long", I32: "Int" };
  const tensors = tensorsOf(nano);
  const stateDict = dict(Object.fromEntries(tensors.map(([name, { dtype, shape }], i) => {
    const count = shape.reduce((product, size) => product * size, 1);
    const strides = shape.map((_, axis) => shape.slice(axis + 1).reduce((product, size) => product * size, 1));
    assert.ok(storages[dtype], dtype);
    const type = bytes(`ctorch\n${storages[dtype]}Storage\n`);
    const storage = tuple(string("storage"), type, string(String(i)), string("cuda:0"), number(count));
    const [sizes, steps] = [shape, strides].map((values) => tuple(...values.map(number)));
    const hooks = bytes("ccollections\nOrderedDict\n)R"), no = Uint8Array.of(0x89);
    const all = tuple(concat([storage, bytes("Q")]), number(0), sizes!, steps!, no, hooks);
    return [name, concat([bytes("ctorch._utils\n_rebuild_tensor_v2\n"), all, bytes("R")])];
  })));
  const archive = (pickle: Uint8Array) =>
    writeZip([
      { name: "DI8x8/data.pkl", data: concat([Uint8Array.of(0x80, 2), pickle, bytes(".")]) },
      { name: "DI8x8/byteorder", data: bytes("little") },
      ...tensors.map(([name], i) => ({ name: `DI8x8/data/${i}`, data: nano.slice(...tensorRange(nano, name)) })),
    ]);
  const args = concat([bytes("cargparse\nNamespace\n)"), Uint8Array.of(0x81), dict({ lr: number(1) }), bytes("b")]);
  const trainer = archive(dict({ args, steps: number(7), model: stateDict }));

  for (const [what, content] of [["bare", archive(stateDict)], ["of a trainer", trainer]] as const) {
    test(`${what}: opens from its path and its folder, and is converted, with the same tokens`, () =>
      withFolder(async (temporary) => {
        const path = join(temporary, "DI8x8.pt"), out = join(temporary, "DI8x8.safetensors");
        writeFileSync(path, content);
        await using plain = await Tokenizer.open("nano-DI8x8");
        const wanted = (await plain.encode(pixels)).indices;
        const holdsTheSame = async (model: string) => {
          await using tok = await Tokenizer.open(model);
          assert.equal(tok.info.sha256, plain.info.sha256);
          if (model !== temporary) assert.equal(tok.info.name, "DI8x8"); // the file's, without its ending
          assert.equal(countDifferent((await tok.encode(pixels)).indices, wanted), 0);
        };
        await holdsTheSame(path);
        await holdsTheSame(temporary);
        await convert(path, out);
        await holdsTheSame(out);
      }));
  }
  test("an unknown name among the weights is never called", async () => {
    const call = bytes("cos\nsystem\n(X\x04\0\0\0truetR");
    await refuses("a.pt", archive(dict({ model: dict({ w: call }) })), "FILE_FORMAT", /a\.pt: .*the name os system/);
    await refuses("a.pt", archive(call), "FILE_FORMAT", /the name os system/);
  });
  test("what is no state dict says so", async () => {
    await refuses("a.pt", archive(dict({ epoch: number(1) })), "FILE_FORMAT", /epoch: expected a tensor, found an int/);
    const old = concat([Uint8Array.of(0x80, 2, 0x8a, 10), bytes("l.........."), bytes(".")]);
    await refuses("a.pt", old, "FILE_FORMAT", /before PyTorch 1\.6.*torch\.save\(torch\.load/);
  });
});

describe("buffers", () => {
  const floats = (...numbers: number[]) => new Uint8Array(Float32Array.from(numbers).buffer);
  const numbers = (name: string, values: number[]) => ({
    [name]: { dtype: "F32", shape: [values.length], data: floats(...values) },
  });
  const opens = async (name: string, content: Uint8Array): Promise<string> => {
    let sha256 = "";
    await withFolder(async (temporary) => {
      writeFileSync(join(temporary, name), content);
      await using tok = await Tokenizer.open(join(temporary, name));
      sha256 = tok.info.sha256;
    });
    return sha256;
  };

  test("kept as float32 say the same, and are checked", async () => {
    await using plain = await Tokenizer.open("nano-DI8x8");
    const whole = addTensors(nano, {
      ...numbers("encoder.patcher._arange", [0, 1]),
      ...numbers("decoder.unpatcher.patch_size_buffer", [4]),
      ...numbers("quantizer._levels", [8, 8, 8, 5, 5, 5]),
      ...numbers("quantizer._basis", [1, 8, 64, 512, 2560, 12800]),
    });
    assert.equal(await opens("DI8x8.safetensors", whole), plain.info.sha256);
    for (
      const [name, values, text] of [
        ["encoder.patcher._arange", [0, 2], /_arange: expected 0, 1, 2 and so on/],
        ["encoder.patcher._arange", [0, 0.5], /_arange: expected a row of whole numbers/],
        ["decoder.unpatcher.patch_size_buffer", [8], /patch_size_buffer: expected the side/],
        ["quantizer._basis", [1, 8, 64, 512, 2560, NaN], /_basis: expected one whole number/],
      ] as const
    ) await refuses("DI8x8.safetensors", addTensors(nano, numbers(name, [...values])), "FILE_TENSOR", text);
    await refuses("x.safetensors", addTensors(nano, numbers("quantizer._levels", [8, 8])), "FILE_NETWORK", /levels/);
  });
  test("of a diffusion model's latents are dropped where they fit", () =>
    withFolder(async (temporary) => {
      const path = join(temporary, "one.safetensors");
      await convert(folder, path);
      const plain = new Uint8Array(readFileSync(path)), sha256 = await opens("CI8x8.safetensors", plain);
      const channels = 16, each = (n: number) => Array.from({ length: n }, (_, i) => i / n);
      for (
        const added of [
          { ...numbers("latent_mean", each(channels * 16)), ...numbers("latent_std", each(channels * 16)) }, // ComfyUI
          // diffusers.
          { latents_mean: { dtype: "F32", shape: [1, channels, 16, 1, 1], data: floats(...each(channels * 16)) } },
        ]
      ) assert.equal(await opens("CI8x8.safetensors", addTensors(plain, added)), sha256);
      const wrong = addTensors(plain, numbers("latent_mean", each(channels * 16 - 1)));
      await refuses("CI8x8.safetensors", wrong, "FILE_TENSOR", /latent_mean: expected floats for each channel/);
      await refuses(
        "DI8x8.safetensors",
        addTensors(nano, numbers("latent_std", each(6))),
        "FILE_TENSOR",
        /continuous latent/,
      );
    }));
});

describe("the hash of all parameters", () => {
  const hashOf = async (...open: Parameters<typeof Tokenizer.open>) => {
    await using tok = await Tokenizer.open(...open);
    return tok.info.sha256;
  };
  test("of the embedded models, as node:crypto has it", async () => { // Ref: docs/token_formats.md
    for (const name of ["DI8x8", "DV4x8x8"]) {
      const file = new Uint8Array(readFileSync(join(root, `models/nano/${name}.safetensors`))),
        whole = createHash("sha256");
      for (const [tensor, { dtype, shape }] of tensorsOf(file)) {
        const values = createHash("sha256").update(file.subarray(...tensorRange(file, tensor))).digest("hex");
        whole.update(`${tensor} ${dtype} ${shape.join()} ${values}\n`);
      }
      assert.equal(await hashOf(`nano-${name}`), whole.digest("hex"));
    }
  });
  test("is the same in every form, for each half, thread, precision and kernel", () =>
    withFolder(async (temporary) => {
      const converted = join(temporary, "one.safetensors"), halves = join(temporary, "CI8x8-halves");
      const sha256 = await hashOf(folder);
      await convert(folder, converted);
      assert.match(sha256, /^[0-9a-f]{64}$/);
      const one = new Uint8Array(readFileSync(converted));
      mkdirSync(halves);
      writeFileSync(join(halves, "encoder.safetensors"), keepTensors(one, /^(encoder|quant_conv)\./));
      writeFileSync(join(halves, "decoder.safetensors"), keepTensors(one, /^(decoder|post_quant_conv)\./));
      for (const path of [folder, converted, halves]) {
        assert.equal(await hashOf(path), sha256);
        assert.equal(await hashOf(path, { half: "encoder" }), sha256);
        assert.equal(await hashOf(path, { half: "decoder" }), sha256);
        assert.equal(await hashOf(path, { threads: 1, precision: "f32", kernels: "generic", name: "mine" }), sha256);
      }
      const alone = await hashOf(join(folder, "encoder.jit"));
      assert.notEqual(alone, sha256, "the encoder's file is another checkpoint");
      assert.equal(alone, await hashOf(join(halves, "encoder.safetensors")));
    }));
  test("of archives that PyTorch wrote", { skip: noShared }, async () => {
    assert.ok(hasShared);
    const model = join(shared, "Cosmos-Tokenizer-DI8x8");
    assert.equal(await hashOf(model), await hashOf(join(model, "autoencoder.jit")));
  });
  test("changes with one bit of a weight, and with a type, not with the order in the file", () =>
    withFolder(async (temporary) => {
      const path = join(temporary, "DI8x8.safetensors"), changed = nano.slice(), sha256 = await hashOf("nano-DI8x8");
      changed[tensorRange(nano, "decoder.conv_out.bias")[0]]! ^= 1;
      writeFileSync(path, changed);
      assert.notEqual(await hashOf(path), sha256);
      assert.notEqual(await hashOf(path, { half: "encoder" }), sha256, "the half that is not opened counts");
      writeFileSync(path, keepTensors(nano, /./, true));
      assert.notDeepEqual(new Uint8Array(readFileSync(path)), nano);
      assert.equal(await hashOf(path), sha256);
      const bias = new Uint8Array(readFileSync(path)), [from, to] = tensorRange(nano, "quant_conv.bias");
      const wide = new Uint8Array(new Float32Array((to - from) / 2).buffer);
      // The same values as float32.
      for (let i = from; i < to; i += 2) wide.set(nano.subarray(i, i + 2), (i - from) * 2 + 2);
      writeFileSync(
        path,
        addTensors(keepTensors(bias, /^(?!quant_conv\.bias)/), {
          "quant_conv.bias": { dtype: "F32", shape: [wide.length / 4], data: wide },
        }),
      );
      assert.notEqual(await hashOf(path), sha256);
    }));
  test("a name that would forge a line is refused", () =>
    withFolder(async (temporary) => {
      const path = join(temporary, "x.safetensors");
      writeFileSync(
        path,
        addTensors(nano, { "decoder.a BF16 1 00\ndecoder.b": { dtype: "U8", shape: [1], data: Uint8Array.of(1) } }),
      );
      await rejects(() => Tokenizer.open(path, { half: "encoder", name: "DI8x8" }), "FILE_TENSOR", /unexpected tensor/);
    }));
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
          h[`other_${name}`] = h[name]!;
          delete h[name];
        }
      }),
      "FILE_NETWORK",
      /encoder\.\* or decoder\.\*/,
    ));
  test("a name that says something else", () =>
    refuses("DI16x16.safetensors", nano, "FILE_NETWORK", /DI16x16.*factor 8/));
  test("random bytes", () =>
    refuses("x.safetensors", Uint8Array.from({ length: 5000 }, (_, i) => (i * 7919) >> 3), "FILE_FORMAT", /./));

  test("weights that are not finite are allowed and told", () =>
    withFolder(async (temporary) => {
      const path = join(temporary, "x.safetensors"), damaged = nano.slice();
      // bfloat16 NaN.
      new DataView(damaged.buffer).setUint16(tensorRange(damaged, "encoder.conv_in.bias")[0], 0x7fc0, true);
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
  test("a public name without its files and without a network says where they are", async () => {
    const text = sequence(
      /nvidia\/Cosmos-0\.1-Tokenizer-DI16x16 at main .*/,
      /`ctok pull nvidia\/Cosmos-0\.1-Tokenizer-DI16x16@main` downloads it/,
    );
    await rejects(() => Tokenizer.open("DI16x16"), "HUB", text);
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
      assert.deepEqual(tok.info.halves, ["decoder"]);
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
    await rejects(
      () => Tokenizer.open("nano-DI8x8", { device: "cuda:999" }),
      "DEVICE",
      /cuda:999: expected .*, found /,
    );
    await rejects(() => Tokenizer.open("nano-DI8x8", { device: "gpu" as "cuda" }), "ARGUMENT", /"cuda:1", found "gpu"/);
    await rejects(
      () => Tokenizer.open("nano-DI8x8", { device: "cuda", kernels: "generic" }),
      "ARGUMENT",
      /found 2, which is of the CPU/,
    );
    await rejects(
      () => Tokenizer.open("nano-DI8x8", { precision: "bf16", kernels: "generic" }),
      "DEVICE",
      /expected kernels (avx512|neon)_bf16.*found generic/,
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
    assert.equal(tok.info.family, "cosmos");
    assert.equal(fact(tok, "kind"), "discrete (option)");
    assert.equal(fact(tok, "FSQ levels"), "8 8 8 5 5 5 (option)");
    assert.equal(fact(tok, "pixels a token"), "8x8 (keys)");
    await using plain = await Tokenizer.open("nano-DI8x8");
    assert.equal(fact(plain, "kind"), "discrete (name)");
    assert.equal(fact(plain, "FSQ levels"), "8 8 8 5 5 5 (default)");
    assert.equal(fact(plain, "Haar patch"), "4 (keys)");
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
      assert.equal(fact(b, "kind"), "continuous (metadata)");
      assert.equal(countDifferent((await a.encode(pixels)).latent, (await b.encode(pixels)).latent), 0);
      assert.equal(a.info.parameters, b.info.parameters);
      await rejects(() => convert(folder, join(temporary, "missing/one.safetensors")), "FILE_IO", /missing/);
    }));
  const isCheckpoint = (path: string) => statSync(path).size > 1e6;
  test("goes through a symbolic link, and replaces no device, pipe or folder", () =>
    withFolder(async (temporary) => {
      const at = (name: string) => join(temporary, name);
      execFileSync("mkfifo", [at("pipe")]);
      symlinkSync("/dev/null", at("null"));
      mkdirSync(at("folder"));
      for (
        const [name, found] of [["pipe", /device or pipe/], ["null", /device or pipe/], [
          "folder",
          /a directory/,
        ]] as const
      ) {
        const error = await rejects(
          () => convert("nano-DI8x8", at(name)),
          "FILE_IO",
          /expected a regular file or nothing there yet/,
        );
        assert.match(error.message, found);
      }
      assert.ok(lstatSync(at("pipe")).isFIFO() && lstatSync(at("null")).isSymbolicLink());
      assert.ok(statSync("/dev/null").isCharacterDevice());
      writeFileSync(at("file"), "older");
      symlinkSync("file", at("link"));
      symlinkSync("new", at("dangling"));
      await convert("nano-DI8x8", at("link"));
      await convert("nano-DI8x8", at("dangling"));
      assert.ok(
        lstatSync(at("link")).isSymbolicLink() && isCheckpoint(at("file")),
        "the file that the link leads to is written",
      );
      assert.ok(lstatSync(at("dangling")).isSymbolicLink() && isCheckpoint(at("new")), "and made where there was none");
      assert.deepEqual(readdirSync(temporary).sort(), ["dangling", "file", "folder", "link", "new", "null", "pipe"]);
    }));
  test("a text that C would read as another is refused", () =>
    withFolder(async (temporary) => {
      const at = (name: string) => join(temporary, name), any = (value: unknown) => value as string;
      writeFileSync(at("precious"), "precious");
      await rejects(
        () => convert("nano-DI8x8", at("precious\0.safetensors")),
        "ARGUMENT",
        /outPath: .*without NUL.*\\u0000/,
      );
      await rejects(
        () => convert("nano-DI8x8", `${temporary}/\ud800.safetensors`), // join would mend it on Bun
        "ARGUMENT",
        /outPath: .*lone surrogates.*\\ud800/,
      );
      await rejects(() => convert("nano-DI8x8", any(5)), "ARGUMENT", /outPath: expected a string, found 5/);
      await rejects(() => convert(any(5), at("a")), "ARGUMENT", /model: expected .*, found 5/);
      await rejects(() => Tokenizer.open(any(null)), "ARGUMENT", /model: expected .*, found null/);
      for (
        const [name, text] of [
          ["a\0Cosmos-CV8x8x8", /name: .*without NUL/],
          ["\ud800", /name: .*lone surrogates/],
          ["é".repeat(63), /name: expected at most 63 bytes of UTF-8, found 126/],
          ["x".repeat(64), /name/],
          [any(5), /name/],
        ] as const
      ) {
        await rejects(() => Tokenizer.open("nano-DI8x8", { name }), "ARGUMENT", text);
        await rejects(() => convert("nano-DI8x8", at("a"), { name }), "ARGUMENT", text);
      }
      assert.equal(readFileSync(at("precious"), "utf8"), "precious");
      assert.deepEqual(readdirSync(temporary), ["precious"]);
    }));
  test("a folder's long name is cut between two letters", () =>
    withFolder(async (temporary) => {
      const path = join(temporary, `${"é".repeat(40)}.safetensors`);
      writeFileSync(path, nano);
      await using tok = await Tokenizer.open(path);
      assert.equal(tok.info.name, "é".repeat(31));
    }));
  test("aborted, it has written nothing; or it resolves", () =>
    withFolder(async (temporary) => {
      const target = join(temporary, "target.safetensors");
      let cancelled = 0;
      const attempt = async (abort: (controller: AbortController) => void) => {
        writeFileSync(target, "older");
        const controller = new AbortController(), work = convert("nano-DV4x8x8", target, { signal: controller.signal });
        abort(controller);
        const end = await work.then(() => "resolved", (error) => error.code);
        assert.ok(
          end === "resolved" ? isCheckpoint(target) : end === "CANCELLED" && readFileSync(target, "utf8") === "older",
          end,
        );
        cancelled += Number(end === "CANCELLED");
        assert.deepEqual(readdirSync(temporary), ["target.safetensors"]);
      };
      await attempt((controller) => controller.abort());
      assert.equal(cancelled, 1);
      for (const ms of [0, 1, 2, 3, 5, 8, 13, 21]) {
        await attempt((controller) => setTimeout(() => controller.abort(), ms));
      }
      rmSync(target);
    }));
  test("levels travel in the metadata", () =>
    withWeights("DI8x8", "small", async (path) => {
      const out = path.replace("DI8x8", "renamed");
      await convert(path, out);
      await using tok = await Tokenizer.open(out);
      assert.deepEqual(tok.info.quantizer, { kind: "fsq", levels: [8, 8, 8, 5, 5, 5] });
      assert.equal(fact(tok, "FSQ levels"), "8 8 8 5 5 5 (metadata)");
    }));
});
