/**
 * Megatron's indexed dataset, STEM.bin and STEM.idx: a document a sample, its indices row-major (T·H·W, of pictures
 * H·W) without marks at its ends, uint16 for a vocabulary under 65,500 and int32 above. The .idx: "MMIDIDX\0\0", u64
 * version 1, u8 type, u64 sequences, u64 document bounds, then i32 lengths, i64 byte offsets, i64 bounds. STEM.jsonl
 * keeps what the numbers do not say. Ref: github.com/NVIDIA/Megatron-LM, megatron/core/datasets/indexed_dataset.py.
 */
import { expected } from "../../errors.ts";
import { bytesFor, storedTensor } from "../../tokens/stored.ts";
import { elementsOf } from "../../tokens/dense.ts";
import { sampleOf, storedNames } from "../records.ts";
import { readLines, writeLine } from "./companion.ts";
import { defineFormat } from "./define.ts";

const headBytes = 34, magic = "MMIDIDX\0\0";
const codes = { int32: 4, uint16: 8 } as const;

export const megatron = defineFormat({
  name: "megatron",
  about: ".bin and .idx, a document a sample, as Megatron and NeMo read them",
  dtypes: { discrete: ["uint16", "int32"], continuous: [] },
  mostUint16Codes: 65_499, // as Megatron's own tools choose
  async write(files, facts) {
    const bin = await files.create(".bin"), lines = await files.create(".jsonl"), lengths: number[] = [];
    return {
      async add(sample) {
        const { data, shape } = sample.tensor;
        await bin.write(new Uint8Array(data.buffer, data.byteOffset, data.byteLength));
        await writeLine(lines, sample, { shape: shape.slice(1) });
        lengths.push(data.length);
      },
      async finish() {
        const index = await files.create(".idx");
        await index.write(indexOf(lengths, facts.dtype as keyof typeof codes));
      },
    };
  },
  async *read(open, _shard, facts) {
    await using bin = await open(".bin");
    await using index = await open(".idx");
    await using lines = await open(".jsonl");
    const found = await index.read(0, index.bytes), dtype = storedNames[facts.dtype], lengths: number[] = [];
    let at = 0;
    for await (const { record, shape, sidecars } of readLines(lines)) {
      if (!shape) throw expected(`${lines.name}: ${record.key}: shape`, "that of its tokens", "nothing", "TOKEN_FILE");
      const bytes = bytesFor(dtype, shape), data = await bin.read(at, bytes);
      yield sampleOf(record, storedTensor(String(record.key), dtype, shape, data), sidecars, facts);
      lengths.push(elementsOf(shape));
      at += bytes;
    }
    if (at !== bin.bytes) throw expected(bin.name, `${at} bytes, as of all samples`, bin.bytes, "TOKEN_FILE");
    const wanted = indexOf(lengths, facts.dtype as keyof typeof codes),
      odd = wanted.findIndex((byte, i) => byte !== found[i]);
    if (odd >= 0 || found.length !== wanted.length) {
      const place = odd >= 0 ? `another from byte ${odd} on` : `${found.length} bytes`;
      throw expected(
        index.name,
        `the index of ${lengths.length} documents, ${wanted.length} bytes`,
        place,
        "TOKEN_FILE",
      );
    }
  },
});

function indexOf(lengths: readonly number[], dtype: keyof typeof codes): Uint8Array {
  const count = lengths.length, size = codes[dtype] === 8 ? 2 : 4;
  const out = new Uint8Array(headBytes + 4 * count + 8 * count + 8 * (count + 1)), view = new DataView(out.buffer);
  out.set(new TextEncoder().encode(magic));
  view.setBigUint64(9, 1n, true);
  view.setUint8(17, codes[dtype]);
  view.setBigUint64(18, BigInt(count), true);
  view.setBigUint64(26, BigInt(count + 1), true);
  let offset = 0;
  for (const [i, length] of lengths.entries()) {
    view.setInt32(headBytes + 4 * i, length, true);
    view.setBigInt64(headBytes + 4 * count + 8 * i, BigInt(offset), true);
    view.setBigInt64(headBytes + 12 * count + 8 * (i + 1), BigInt(i + 1), true); // the first bound is 0
    offset += length * size;
  }
  return out;
}
