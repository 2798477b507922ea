/**
 * Others read what formats write: the Python of docs/dataset_formats.md with NumPy, PyTorch, pyarrow and safetensors,
 * where Python has them (`PYTHON` names another than python3), and a restatement of how Energon finds a sample. They
 * see the very tokens, and these decode to the pixels that the tokens of `encode` give.
 */
import assert from "node:assert/strict";
import { spawnSync } from "node:child_process";
import { mkdir, writeFile } from "node:fs/promises";
import { join } from "node:path";
import process from "node:process";
import { test } from "node:test";
import { Tokenizer } from "mod.ts";
import type { CorpusFacts, TokenDType } from "../../src/corpus/format.ts";
import { shardFormat, shardFormats } from "../../src/corpus/formats/table.ts";
import type { Sample } from "../../src/corpus/item.ts";
import { blocksOf, read } from "../docs/documents.ts";
import { runtime, withFolder } from "../support.ts";
import { runs } from "../workplace.ts";
import { dtypesOf, factsOf, type Kind, readShard, samplesOf, writeShard } from "./shards.ts";

const python = process.env.PYTHON ?? "python3";
const blocks = blocksOf(read("docs/dataset_formats.md")).filter(({ language }) => language === "python");

/**
 * Why Python cannot run with these modules, or false. Python reads the same files from either runtime: once is enough.
 */
function without(...modules: string[]): string | false {
  if (runtime !== "bun") return "runs once, beside Bun's tests";
  const search = (name: string) => `import importlib.util, sys; sys.exit(importlib.util.find_spec("${name}") is None)`;
  const missing = modules.find((name) => spawnSync(python, ["-c", search(name)]).status !== 0);
  return missing ? `no ${missing} in ${python}` : false;
}

/** Runs a program over the document's readers, which lie beside it; gives the values of its lines. */
async function told(folder: string, program: string, ...args: string[]): Promise<unknown[]> {
  for (const { name, text } of blocks) await writeFile(join(folder, name!), text);
  await writeFile(join(folder, "program.py"), program);
  const { stdout } = await runs(folder, python, ["program.py", ...args], { PYTHONUTF8: "1" });
  return stdout.trim().split("\n").filter(Boolean).map((line) => JSON.parse(line));
}

/** key, dtype, shape, elements: of a sample as it was written. */
function asTold({ key, tokens }: Sample, dtype: string, shape = tokens.main.shape.slice(1)): unknown[] {
  return [key, dtype, shape, [...tokens.main.data]];
}
const names: Record<TokenDType, string> = {
  uint16: "uint16",
  int32: "int32",
  bf16: "bfloat16",
  f16: "float16",
  f32: "float32",
};

interface Case {
  readonly format: string;
  readonly kind: Kind;
  readonly dtype: TokenDType;
}
/** All kinds and dtypes that a format has. */
function casesOf(format: string): Case[] {
  const given = shardFormats.get(format)!;
  return (["pictures", "latents", "clips", "clip latents"] as const).flatMap((kind) =>
    dtypesOf(given, kind).map((dtype) => ({ format, kind, dtype }))
  );
}

interface Written extends Case {
  readonly at: string;
  readonly samples: Sample[];
}

/** A shard of each, all of which one run of Python reads: PyTorch takes seconds to be imported. */
async function inShards(cases: Case[], isEqual: boolean, use: (folder: string, all: Written[]) => Promise<void>) {
  await withFolder(async (folder) => {
    const all: Written[] = [];
    for (const c of cases) {
      const at = join(folder, `${c.kind} ${c.dtype}`.replaceAll(" ", "_")), facts = factsOf(c.kind, c.dtype);
      await mkdir(at);
      const samples = samplesOf(c.kind, facts, isEqual);
      await writeShard(at, shardFormat(c.format), facts, samples);
      all.push({ ...c, at, samples });
    }
    await use(folder, all);
  });
}

const numpyProgram = (module: string, file: string) =>
  `import json, sys
from ${module} import samples
for folder in sys.argv[1:]:
    for key, tokens, *_ in samples(folder + "/${file}"):
        print(json.dumps([key, str(tokens.dtype).replace("torch.", ""), list(tokens.shape), tokens.flatten().tolist()]))
`;

const numpyReaders = [
  { format: "webdataset", module: "read_webdataset", file: "00002.tar", needs: ["numpy"] },
  { format: "megatron", module: "read_megatron", file: "00002", needs: ["numpy"] },
  { format: "npy", module: "read_npy", file: "00002", needs: ["numpy"] },
  { format: "webdataset-pth", module: "read_pth", file: "00002.tar", needs: ["torch"] },
  { format: "safetensors", module: "read_safetensors", file: "00002.safetensors", needs: ["torch", "safetensors"] },
];
for (const { format, module, file, needs } of numpyReaders) {
  test(
    `${needs.join(" and ")}: ${module}.py gives the tokens of ${format}`,
    { skip: without(...needs) },
    () =>
      inShards(casesOf(format), format === "npy", async (folder, all) => {
        const found = await told(folder, numpyProgram(module, file), ...all.map(({ at }) => at));
        const wanted = all.flatMap(({ kind, dtype, samples }) => {
          const hasBatch = format === "webdataset-pth" && kind === "clip latents";
          return samples.map((s) => asTold(s, names[dtype], hasBatch ? [...s.tokens.main.shape] : undefined));
        });
        const byText = (rows: unknown[]) => rows.toSorted((a, b) => JSON.stringify(a) < JSON.stringify(b) ? -1 : 1);
        // Note: safetensors lists keys in an order of its own.
        const [left, right] = format === "safetensors" ? [byText(found), byText(wanted)] : [found, wanted];
        assert.deepEqual(left, right);
        assert.equal(found.length, all.length * 4);
      }),
  );
}

test(
  "pyarrow: read_parquet.py gives the tokens, and the columns have FastVideo's types",
  { skip: without("pyarrow") },
  () =>
    inShards(casesOf("parquet"), false, async (folder, all) => {
      const program = `import json, sys
import pyarrow.parquet
from read_parquet import samples
for path in [folder + "/00002.parquet" for folder in sys.argv[1:]]:
    table, facts = pyarrow.parquet.read_table(path), ("caption", "media_type", "width", "num_frames")
    print(json.dumps([
        {field.name: str(field.type) for field in table.schema},
        [[row[name] for name in facts] for row in table.to_pylist()],
        [[key, str(tokens.dtype), list(tokens.shape), tokens.flatten().tolist()] for key, tokens in samples(path)],
    ]))
`;
      const found = await told(folder, program, ...all.map(({ at }) => at)) as [unknown, unknown[], unknown][];
      assert.equal(found.length, all.length);
      for (const [i, { dtype, samples }] of all.entries()) checkTable(dtype, samples, ...found[i]!);
    }),
);

function checkTable(dtype: TokenDType, samples: Sample[], types: unknown, rows: unknown[], tokens: unknown): void {
  assert.deepEqual(tokens, samples.map((s) => asTold(s, dtype === "f32" ? "float32" : "int64")));
  const tokenTypes = dtype === "f32"
    ? {
      ...{ vae_latent_bytes: "binary", vae_latent_shape: "list<element: int64 not null>", vae_latent_dtype: "string" },
      text_embedding_bytes: "binary",
      ...{ text_embedding_shape: "list<element: int64 not null>", text_embedding_dtype: "string" },
    }
    : {
      indices: `list<element: ${dtype} not null>`,
      indices_shape: "list<element: int64 not null>",
    };
  assert.deepEqual(types, {
    ...{ id: "string", ...tokenTypes, file_name: "string", caption: "string", media_type: "string" },
    ...{ width: "int64", height: "int64", num_frames: "int64", duration_sec: "double", fps: "double" },
    sidecar_fields: "list<element: string not null>",
    sidecar_contents: "list<element: binary not null>",
    ctok: "string",
  });
  const { tokens: { origin } } = samples[0]!;
  const media = origin.video ? ["video", 29, 17] : ["image", 29, 1];
  assert.deepEqual(rows[0], ["a cat, Ünïcode 画像\n", ...media]);
}

test(
  "NumPy: read_1x.py gives the windows, and each frame's clip",
  { skip: without("numpy") },
  () =>
    inShards(casesOf("1x").filter(({ kind }) => kind === "clips"), true, async (_folder, [written]) => {
      const { at, samples } = written!;
      const program = `import json, sys
from read_1x import windows
tokens, clips = windows(sys.argv[1], 2)
print(json.dumps([list(tokens.shape), tokens.flatten().tolist(), clips.tolist()]))
`;
      const elements = samples.flatMap(({ tokens }) => [...tokens.main.data]);
      const clips = samples.flatMap((_, i) => new Array(17).fill(i));
      assert.deepEqual(await told(at, program, at), [[[4, 3, 2, 3], elements, clips]]);
    }),
);

test(
  "Python: read_jsonl.py gives tokens, and the class of a sidecar",
  { skip: without("json") },
  () =>
    inShards([{ format: "jsonl", kind: "pictures", dtype: "uint16" }], false, async (_folder, [written]) => {
      const { at, samples } = written!;
      const program = `import json, sys
from read_jsonl import samples
path = sys.argv[1] + "/00002.jsonl"
for key, tokens, shape in samples(path):
    print(json.dumps([key, shape, tokens]))
print(json.dumps([line.get("class_id") for line in map(json.loads, open(path, encoding="utf-8"))]))
`;
      const wanted = samples.map(({ key, tokens }) => [key, tokens.main.shape.slice(1), [...tokens.main.data]]);
      assert.deepEqual(await told(at, program, at), [...wanted, [207, null, null, null]]);
    }),
);

test(
  "PyTorch: dataloader.py gives all samples, over two workers",
  { skip: without("torch", "numpy") },
  () =>
    withFolder(async (folder) => {
      const facts = factsOf("pictures", "uint16"), samples = samplesOf("pictures", facts, true);
      await mkdir(join(folder, "corpus"));
      await writeShard(join(folder, "corpus"), shardFormat("webdataset"), facts, samples.slice(0, 2), 0);
      await writeShard(join(folder, "corpus"), shardFormat("webdataset"), facts, samples.slice(2), 1);
      for (const { name, text } of blocks) await writeFile(join(folder, name!), text);
      const { stdout } = await runs(folder, python, ["dataloader.py", "corpus"]);
      const sum = (some: Sample[]) =>
        some.reduce((all, { tokens }) => tokens.indices.data.reduce((a, b) => a + b, all), 0);
      const wanted = [samples.slice(0, 2), samples.slice(2)].map((some) => `torch.int32 [2, 2, 3] ${sum(some)}`);
      assert.deepEqual(stdout.trim().split("\n").sort(), wanted.sort());
    }),
);

test(
  "Python's tarfile finds each sample by Energon's index, as Energon does",
  { skip: without("tarfile") },
  () =>
    inShards([{ format: "webdataset", kind: "pictures", dtype: "uint16" }], false, async (_folder, [written]) => {
      const { at, samples } = written!;
      // TarIndexReader and WebdatasetPreparator restated: the same offsets by a pass over the tar, and a sample by two
      // offsets alone.
      const program = `import io, json, re, struct, sys, tarfile
path = sys.argv[1] + "/00002.tar"
index = [offset for offset, in struct.iter_unpack("<Q", open(path + ".idx", "rb").read())]
wanted, last = [], None
with tarfile.open(path) as tar:
    for member in tar:
        base, field = re.match(r"^((?:.*/|)[^.]+)[.]([^/]*)$", member.name).groups()
        if base != last:
            wanted.append(member.offset)
        last = base
        assert (member.mtime, member.uid, member.gid, member.mode) == (0, 0, 0, 0o644)
    wanted.append(tar.offset)
assert index == wanted, (index, wanted)
for begin, end in zip(index, index[1:]):
    with open(path, "rb") as file:
        file.seek(begin)
        with tarfile.open(fileobj=io.BytesIO(file.read(end - begin)), mode="r:") as tar:
            print(json.dumps(tar.getnames()))
`;
      const wanted = samples.map(({ key, sidecars }) => {
        const json = sidecars.some(({ field }) => field === "json") ? "ctok.json" : "json";
        return ["npy", json, ...sidecars.map(({ field }) => field)].map((field) => `${key}.${field}`);
      });
      assert.deepEqual(await told(at, program, at), wanted);
    }),
);

test("Energon's files of the set name the shards that have samples", () => {
  const shards = [3, 0, 2].map((numSamples, index) => ({ index, stem: `0000${index}`, numSamples, files: [] }));
  const files = shardFormat("webdataset").setFiles(shards, factsOf("pictures", "uint16"));
  const text = Object.fromEntries([...files].map(([path, bytes]) => [path, new TextDecoder().decode(bytes)]));
  assert.deepEqual(JSON.parse(text[".nv-meta/.info.json"]!), { shard_counts: { "00000.tar": 3, "00002.tar": 2 } });
  assert.equal(text[".nv-meta/split.yaml"], "split_parts:\n  train:\n  - 00000.tar\n  - 00002.tar\nexclude: []\n");
  assert.equal(text[".nv-meta/dataset.yaml"], "__module__: megatron.energon\n__class__: CrudeWebdataset\n");
  assert.deepEqual(Object.keys(text).sort(), [".nv-meta/.info.json", ".nv-meta/dataset.yaml", ".nv-meta/split.yaml"]);
});

test("what is read back decodes to the pixels of the tokens that encode gave, at the picture's own size", async () => {
  await using tokenizer = await Tokenizer.open("nano-DI8x8");
  const { name, sha256, spatialFactor } = tokenizer.info;
  const data = Uint8Array.from({ length: 30 * 45 * 3 }, (_, i) => (i * 37) & 255);
  const tokens = await tokenizer.encode({ dtype: "uint8", shape: [30, 45, 3], data });
  const wanted = await tokenizer.decode(tokens, { dtype: "uint8" });
  const { quantizer, version } = tokens.origin;
  const facts: Omit<CorpusFacts, "dtype"> = {
    ...{
      model: name,
      source: name,
      sha256,
      precision: tokens.origin.precision!,
      version,
      spatialFactor,
      quantizer: quantizer!,
    },
    ...{ isVideo: false, temporalFactor: 1, numShards: 1 },
  };
  const sizes = { height: 30, width: 45, originalHeight: 30, originalWidth: 45 };
  const sample: Sample = { key: "photo", tokens, facts: { fileName: "photo.png", ...sizes }, sidecars: [] };
  for (const format of shardFormats.values()) {
    if (format.name === "1x") continue;
    await withFolder(async (folder) => {
      const all = { ...facts, dtype: format.dtypeOf(quantizer) },
        shard = await writeShard(folder, format, all, [sample]);
      const [found] = await readShard(folder, format, shard, all);
      assert.deepEqual(found!.tokens.origin, tokens.origin, format.name);
      const pixels = await tokenizer.decode(found!.tokens, { dtype: "uint8" });
      assert.deepEqual(pixels.shape, [1, 30, 45, 3]);
      assert.deepEqual(pixels.data, wanted.data, format.name);
    });
  }
});

test("a latent of bf16 is what PyTorch rounds it to", { skip: without("torch") }, () =>
  withFolder(async (folder) => {
    const facts = factsOf("latents", "bf16"), [sample] = samplesOf("latents", facts), { latent } = sample!.tokens;
    latent.data.set([1 / 3, -0, 1e-40, 3.3895313892515355e38, NaN, Infinity, 1.00390625, 1.01171875, -2.7182818]);
    await writeShard(folder, shardFormat("webdataset-pth"), facts, [sample!]);
    await writeFile(
      join(folder, "exact.bin"),
      new Uint8Array(latent.data.buffer, latent.data.byteOffset, latent.data.byteLength),
    );
    const program = `import json, sys
import torch
from read_pth import samples
(key, tensor), = samples(sys.argv[1] + "/00002.tar")
exact = torch.frombuffer(bytearray(open(sys.argv[1] + "/exact.bin", "rb").read()), dtype=torch.float32)
wanted = exact.bfloat16().reshape(tensor.shape)
same_nan = torch.equal(tensor.isnan(), wanted.isnan())
print(json.dumps([same_nan, torch.equal(tensor.nan_to_num(7), wanted.nan_to_num(7))]))
`;
    assert.deepEqual(await told(folder, program, folder), [[true, true]]);
  }));
