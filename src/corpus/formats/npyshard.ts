/**
 * One array a shard, STEM.npy [N, ...], of samples that all have one shape; STEM.jsonl keeps what the numbers do not
 * say. An empty shard is an array of shape (0,). Its first bytes say how many samples follow, so that a shard is held
 * in memory until its end.
 */
import { expected } from "../../errors.ts";
import { npyHeader } from "../../tokens/formats/npy.ts";
import { bytesFor, storedTensor } from "../../tokens/stored.ts";
import { sampleOf, storedNames } from "../records.ts";
import { readLines, writeLine } from "./companion.ts";
import { defineFormat } from "./define.ts";

export const npyShard = defineFormat({
  name: "npy",
  about: "one NumPy array a shard, of samples of one size",
  dtypes: { discrete: ["uint16", "int32"], continuous: ["f32", "f16"] },
  async write(files, facts) {
    const lines = await files.create(".jsonl"), all: Uint8Array[] = [];
    let shape: readonly number[] | undefined;
    return {
      async add(sample) {
        const { tensor } = sample;
        shape ??= tensor.shape.slice(1);
        checkShape(sample.key, shape, tensor.shape.slice(1));
        await writeLine(lines, sample, { shape });
        all.push(new Uint8Array(tensor.data.buffer, tensor.data.byteOffset, tensor.data.byteLength));
      },
      async finish() {
        const file = await files.create(".npy");
        await file.write(npyHeader(storedNames[facts.dtype], [all.length, ...(shape ?? [])]));
        for (const bytes of all) await file.write(bytes);
      },
    };
  },
  async *read(open, shard, facts) {
    await using file = await open(".npy");
    await using lines = await open(".jsonl");
    const dtype = storedNames[facts.dtype];
    let at = 0, of: readonly number[] | undefined;
    const begin = async (shape: readonly number[]) => {
      const header = npyHeader(dtype, [shard.numSamples, ...shape]), found = await file.read(0, header.length);
      if (header.every((byte, i) => byte === found[i])) return header.length;
      throw expected(
        file.name,
        `the header of ${dtype} [${[shard.numSamples, ...shape].join(", ")}]`,
        "another",
        "TOKEN_FILE",
      );
    };
    for await (const { record, shape, sidecars } of readLines(lines)) {
      if (!shape || (of && shape.join() !== of.join())) {
        throw expected(`${lines.name}: ${record.key}: shape`, of ? `${of}` : "that of its tokens", shape, "TOKEN_FILE");
      }
      if (!of) at = await begin(of = shape);
      const bytes = bytesFor(dtype, shape), data = await file.read(at, bytes);
      yield sampleOf(record, storedTensor(String(record.key), dtype, shape, data), sidecars, facts);
      at += bytes;
    }
    if (!of) at = await begin([]);
    if (at !== file.bytes) throw expected(file.name, `${at} bytes`, file.bytes, "TOKEN_FILE");
  },
});

/** Throws ARGUMENT where a sample's shape is not that of the first: other options of the corpus would avoid it. */
function checkShape(key: string, wanted: readonly number[], found: readonly number[]): void {
  if (wanted.join() === found.join()) return;
  const hint = `[${found.join(", ")}] (one size for all: --size with --crop center; format webdataset holds any)`;
  throw expected(`${key}: tokens`, `[${wanted.join(", ")}], as of the first sample`, hint);
}
