/** Plans, manifests and tars in any number, made quickly: what bench/scale.ts measures and simulates on. */
import { mkdir, writeFile } from "node:fs/promises";
import type { Item } from "../../src/corpus/item.ts";
import { Plan, type PlanStart } from "../../src/corpus/plan.ts";
import type { ShardEntry, Storage } from "../../src/corpus/storage.ts";

/** Of the embedded model, as `planDataset` writes it. */
const start: PlanStart = {
  model: {
    name: "nano-DI8x8",
    source: "nano-DI8x8",
    at: "nano-DI8x8",
    sha256: "0".repeat(64),
    isVideo: false,
    spatialFactor: 8,
    temporalFactor: 1,
    quantizer: { kind: "fsq", levels: [8, 8, 8, 5, 5, 5] },
  },
  arithmetic: { precision: "f32", kernels: "generic", versions: { ctok: "0.0.0" } },
  allowOtherArithmetic: false,
  inputs: ["/data/pictures"],
  options: {},
  shardFormat: "webdataset",
  dtype: "uint16",
  shardSize: 1,
};

/** The real plan of so many items that are nowhere. */
export async function planOf(
  out: string,
  about: { readonly numItems: number; readonly numShards: number },
): Promise<Plan> {
  const { numItems, numShards } = about;
  await mkdir(out, { recursive: true });
  const items = async function* (): AsyncGenerator<Item> {
    for (let i = 0; i < numItems; i++) yield itemOf(i);
  };
  return await Plan.write(out, { ...start, shardSize: Math.ceil(numItems / numShards) }, items());
}

function itemOf(i: number): Item {
  const name = String(i).padStart(9, "0"), path = `/data/pictures/${name.slice(0, 6)}/${name}.jpg`;
  const identity = { bytes: 100_000 + i % 1000, mtimeNs: "1700000000000000000" };
  return { key: `${name.slice(0, 6)}__${name}`, kind: "image", place: { kind: "file", path }, identity, sidecars: [] };
}

/** Writes each shard's manifest as a commit would; gives the bytes of all. */
export async function manifests(plan: Plan, storage: Storage): Promise<number> {
  let bytes = 0;
  for (let index = 0; index < plan.numShards; index++) {
    const stem = plan.stemOf(index), numItems = plan.sizeOf(index), sha256 = "0".repeat(64);
    const entry: ShardEntry = {
      format: "ctok-shard-1",
      plan: plan.id,
      index,
      stem,
      arithmetic: plan.header.arithmetic,
      numItems,
      numSamples: numItems,
      numTokens: numItems * 1024,
      files: [{ name: `${stem}.tar`, bytes: 43_530_240, sha256 }, { name: `${stem}.tar.idx`, bytes: 8008, sha256 }],
      quarantined: [],
    };
    const text = JSON.stringify(entry, undefined, 2) + "\n";
    bytes += text.length;
    await writeFile(storage.manifestOf(stem), text);
  }
  return bytes;
}

/** A webdataset tar of so many pictures of one byte. */
export function tarOf(count: number, keyOf: (i: number) => string): Uint8Array {
  const tar = Buffer.alloc((count * 2 + 2) * 512);
  for (let i = 0; i < count; i++) {
    const at = i * 1024, header = tar.subarray(at, at + 512);
    header.write(`${keyOf(i)}.jpg`, 0);
    header.write("0000644\x000000000\x000000000\x0000000000001\x0000000000000\x00        0", 100);
    header.write("ustar\x0000", 257);
    header.write(header.reduce((sum, byte) => sum + byte, 0).toString(8).padStart(6, "0") + "\0 ", 148);
    tar[at + 512] = 120;
  }
  return tar;
}
