/**
 * One safetensors file a shard, each sample's tokens under its key, without the batch axis; the metadata says what a
 * token file says of all of them, STEM.jsonl the rest. The header stands in front, so that a shard is held in memory
 * until its end.
 */
import { expected } from "../../errors.ts";
import { headerLength, parseHeader, safetensorsHeader } from "../../tokens/formats/safetensors.ts";
import { type StoredTensor, storedTensor } from "../../tokens/stored.ts";
import type { CorpusFacts } from "../format.ts";
import { commonKeys, sampleOf } from "../records.ts";
import { readLines, writeLine } from "./companion.ts";
import { defineFormat } from "./define.ts";

/** The largest header: readers of the safetensors library take no larger one. */
const mostBytes = 100_000_000;
/** The most bytes that an entry of the header takes beside its key: dtype, shape and two offsets. */
const entryBytes = 160;

export const safetensorsShard = defineFormat({
  name: "safetensors",
  about: "one safetensors file a shard, a tensor a sample",
  dtypes: { discrete: ["uint16", "int32"], continuous: ["bf16", "f16", "f32"] },
  async write(files, facts) {
    const lines = await files.create(".jsonl"), all: [key: string, tensor: StoredTensor][] = [];
    let headerBytes = JSON.stringify(metadataOf(facts)).length + entryBytes;
    return {
      async add(sample) {
        const { key, tensor } = sample;
        if (key === "__metadata__") throw expected("key", "another, as safetensors keeps this one", key, "SHAPE");
        headerBytes += new TextEncoder().encode(JSON.stringify(key)).length + entryBytes;
        if (headerBytes > mostBytes) {
          throw expected(
            "format safetensors",
            `a header of at most ${mostBytes} bytes (--shard-size)`,
            `${all.length} samples`,
          );
        }
        await writeLine(lines, sample);
        all.push([key, { ...tensor, shape: tensor.shape.slice(1) }]);
      },
      async finish() {
        const file = await files.create(".safetensors");
        await file.write(safetensorsHeader(all, metadataOf(facts), mostBytes));
        for (const [, { data }] of all) await file.write(new Uint8Array(data.buffer, data.byteOffset, data.byteLength));
      },
    };
  },
  async *read(open, shard, facts) {
    await using file = await open(".safetensors");
    await using lines = await open(".jsonl");
    const start = 8 + headerLength(await file.read(0, Math.min(8, file.bytes)), file.bytes, mostBytes);
    const { entries, metadata } = parseHeader(await file.read(8, start - 8), file.bytes - start);
    const wanted = metadataOf(facts);
    for (const key of new Set([...Object.keys(wanted), ...Object.keys(metadata)])) {
      if (wanted[key] === metadata[key]) continue;
      throw expected(
        `${file.name}: ${key}`,
        String(wanted[key] ?? "nothing"),
        metadata[key] ?? "nothing",
        "TOKEN_FILE",
      );
    }
    if (entries.size !== shard.numSamples) {
      throw expected(file.name, `${shard.numSamples} tensors`, entries.size, "TOKEN_FILE");
    }
    for await (const { record, sidecars } of readLines(lines)) {
      const key = String(record.key), entry = entries.get(key);
      if (!entry) throw expected(file.name, `a tensor ${key}`, "none", "TOKEN_FILE");
      const data = await file.read(start + entry.begin, entry.end - entry.begin);
      yield sampleOf(record, storedTensor(key, entry.dtype, entry.shape, data), sidecars, facts);
    }
  },
});

/** Strings, as in a token file; the list of levels becomes "8,8,8,5,5,5". */
function metadataOf(facts: CorpusFacts): Record<string, string> {
  return Object.fromEntries(Object.entries(commonKeys(facts)).map(([key, value]) => [key, String(value)]));
}
