/**
 * webdataset: a tar a shard, whose members KEY.npy (or KEY.pth), KEY.json and the sidecars are one sample, side by
 * side. With it the index of Megatron-Energon, STEM.tar.idx (u64 of each sample's first header, then of the members'
 * end), and for the set its .nv-meta: a reader of either needs no pass over the data. Sidecars keep their bytes and
 * names; where one is called as ours is, ours is called ctok.npy or ctok.json, and so on. Ours are the first two
 * members of a sample.
 * Ref: github.com/webdataset/webdataset, tariterators.py; github.com/NVIDIA/Megatron-Energon, flavors/webdataset.
 */
import { expected } from "../../errors.ts";
import { decodeNpy, encodeNpy } from "../../tokens/formats/npy.ts";
import type { StoredTensor } from "../../tokens/stored.ts";
import type { CommittedShard, CorpusFacts, TokenDType } from "../format.ts";
import type { Sample } from "../item.ts";
import { commonKeys, ownRecord, type RecordKeys, sampleOf, type StoredSample } from "../records.ts";
import { defineFormat, type OpenPart } from "./define.ts";
import { parseJSON, type Part } from "./part.ts";
import { decodePth, encodePth } from "./pth.ts";
import { type Member, tarEnd, tarMember, tarMembers } from "./tar.ts";

/** How a sample's tokens are stored as a member of the tar. */
interface Form {
  readonly field: "npy" | "pth";
  readonly dtypes: { readonly discrete: readonly TokenDType[]; readonly continuous: readonly TokenDType[] };
  readonly encode: (tensor: StoredTensor, facts: CorpusFacts) => Uint8Array;
  readonly decode: (bytes: Uint8Array) => StoredTensor;
}

const withoutBatch = (tensor: StoredTensor): StoredTensor => ({ ...tensor, shape: tensor.shape.slice(1) });

export const webdataset = define("webdataset", "tars of KEY.npy and KEY.json, ready for Megatron-Energon", {
  field: "npy",
  dtypes: { discrete: ["uint16", "int32"], continuous: ["f32", "f16"] },
  encode: (tensor) => encodeNpy(withoutBatch(tensor)),
  decode: decodeNpy,
});

export const webdatasetPth = define("webdataset-pth", "the same with KEY.pth, as Megatron-Bridge reads it", {
  field: "pth",
  dtypes: { discrete: ["int32"], continuous: ["bf16", "f16", "f32"] },
  // Megatron-Bridge takes [C, H, W] of pictures and [1, C, T, H, W] of videos.
  encode: (tensor, facts) => encodePth(facts.isVideo && !facts.quantizer ? tensor : withoutBatch(tensor)),
  decode: decodePth,
});

/** Keys of a sample's JSON that Megatron-Bridge looks for. */
const extraKeys = ["image_height", "image_width"];

function define(name: string, about: string, form: Form) {
  return defineFormat({
    name,
    about,
    dtypes: form.dtypes,
    async write(files, facts) {
      const common = commonKeys(facts), starts: number[] = [];
      const tar = await files.create(".tar");
      return {
        async add(sample) {
          const members = membersOf(sample, form, common, facts);
          starts.push(tar.offset);
          for (const member of members) await tar.write(member);
        },
        async finish() {
          starts.push(tar.offset);
          await tar.write(tarEnd());
          const index = await files.create(".tar.idx");
          await index.write(new Uint8Array(BigUint64Array.from(starts, BigInt).buffer));
        },
      };
    },
    read: (open, shard, facts) => readSamples(open, form, shard, facts),
    setFiles: energonFiles,
  });
}

/**
 * Makes all members of a sample as bytes of the tar, before the first one is written, as a later one may be refused.
 */
function membersOf(sample: StoredSample, form: Form, common: RecordKeys, facts: CorpusFacts): Uint8Array[] {
  const { key, record, sidecars } = sample, taken = new Set(sidecars.map(({ field }) => field));
  const size = { image_height: record.height, image_width: record.width };
  const json = new TextEncoder().encode(JSON.stringify({ ...record, ...size, ...common }));
  const all: [field: string, content: Uint8Array][] = [
    [freeField(form.field, taken), form.encode(sample.tensor, facts)],
    [freeField("json", taken), json],
    ...sidecars.map(({ field, bytes }): [string, Uint8Array] => [field, bytes]),
  ];
  return all.map(([field, content]) => tarMember(`${key}.${field}`, content));
}

function freeField(field: string, taken: ReadonlySet<string>): string {
  return taken.has(field) ? freeField(`ctok.${field}`, taken) : field;
}

interface Found {
  readonly key: string;
  readonly start: number;
  readonly members: (Member & { readonly field: string })[];
}

async function* readSamples(
  open: OpenPart,
  form: Form,
  shard: CommittedShard,
  facts: CorpusFacts,
): AsyncGenerator<Sample> {
  await using tar = await open(".tar");
  await using index = await open(".tar.idx");
  const bytes = await index.read(0, index.bytes), view = new DataView(bytes.buffer, bytes.byteOffset, bytes.length);
  if (bytes.length !== 8 * (shard.numSamples + 1)) {
    throw expected(index.name, `${shard.numSamples + 1} offsets of 8 bytes`, `${bytes.length} bytes`, "TOKEN_FILE");
  }
  let count = 0;
  for await (const found of samplesOf(tar)) {
    checkOffset(index, view, count++, found.start);
    if (found.key !== undefined) yield await readSample(tar, found as Found, form, facts);
  }
}

function checkOffset(index: Part, view: DataView, n: number, wanted: number): void {
  const found = 8 * n < view.byteLength ? view.getBigUint64(8 * n, true) : "its end";
  if (found !== BigInt(wanted)) throw expected(`${index.name}: offset ${n}`, `${wanted}`, found, "TOKEN_FILE");
}

/** Groups a tar's members by sample. One more without a key follows, whose `start` is where the last one ends. */
async function* samplesOf(tar: Part): AsyncGenerator<Found | { readonly key: undefined; readonly start: number }> {
  let sample: Found | undefined, end = 0;
  for await (const member of tarMembers(tar)) {
    const dot = member.name.indexOf("."), key = member.name.slice(0, dot), field = member.name.slice(dot + 1);
    if (dot < 1) throw expected(`${tar.name}: ${member.name}`, "a name KEY.FIELD", "another", "TOKEN_FILE");
    if (sample?.key !== key) {
      if (sample) yield sample;
      sample = { key, start: member.start, members: [] };
    }
    sample.members.push({ ...member, field });
    end = member.offset + Math.ceil(member.bytes / 512) * 512;
  }
  if (sample) yield sample;
  yield { key: undefined, start: end };
}

async function readSample(tar: Part, { key, members }: Found, form: Form, facts: CorpusFacts): Promise<Sample> {
  const [tokens, json, ...others] = members, taken = new Set(others.map(({ field }) => field));
  const wanted = [freeField(form.field, taken), freeField("json", taken)];
  if (!tokens || !json || tokens.field !== wanted[0] || json.field !== wanted[1]) {
    const found = members.slice(0, 2).map(({ field }) => field).join(" and ");
    throw expected(`${tar.name}: ${key}`, `the members ${wanted.join(" and ")} first`, found, "TOKEN_FILE");
  }
  // Copies: sidecars and the record outlive the window that they are read by.
  const content = async ({ offset, bytes }: Member) => (await tar.read(offset, bytes)).slice();
  const record = parseJSON(`${tar.name}: ${json.name}`, await content(json));
  const told = ownRecord(Object(record) as RecordKeys, facts, extraKeys);
  const { image_height, image_width } = Object(record) as RecordKeys;
  if (told.key !== key || image_height !== told.height || image_width !== told.width) {
    const found = `${told.key} of ${image_height} by ${image_width}`;
    throw expected(`${tar.name}: ${json.name}`, `${key} of ${told.height} by ${told.width}`, found, "TOKEN_FILE");
  }
  const sidecars = [];
  for (const other of others) sidecars.push({ field: other.field, bytes: await content(other) });
  return sampleOf(told, form.decode(await content(tokens)), sidecars, facts);
}

/** What `energon prepare` would write. A shard without samples is not named: its readers expect some in each. */
function energonFiles(shards: readonly CommittedShard[]): ReadonlyMap<string, Uint8Array> {
  const full = shards.filter(({ numSamples }) => numSamples > 0);
  const counts = Object.fromEntries(full.map(({ stem, numSamples }) => [`${stem}.tar`, numSamples]));
  const names = full.length === 0 ? " []\n" : "\n" + full.map(({ stem }) => `  - ${stem}.tar\n`).join("");
  const texts = {
    ".nv-meta/.info.json": JSON.stringify({ shard_counts: counts }, null, 2) + "\n",
    ".nv-meta/split.yaml": `split_parts:\n  train:${names}exclude: []\n`,
    ".nv-meta/dataset.yaml": "__module__: megatron.energon\n__class__: CrudeWebdataset\n",
  };
  return new Map(Object.entries(texts).map(([path, text]) => [path, new TextEncoder().encode(text)]));
}
