/** All formats by the names that `--format` takes. Called by what plans, runs and reads corpora. */
import { expected } from "../../errors.ts";
import type { ShardFormat } from "../format.ts";
import { jsonl } from "./jsonl.ts";
import { megatron } from "./megatron.ts";
import { npyShard } from "./npyshard.ts";
import { oneX } from "./onex.ts";
import { parquet } from "./parquet.ts";
import { safetensorsShard } from "./safetensorshard.ts";
import { webdataset, webdatasetPth } from "./webdataset.ts";

const all = [webdataset, webdatasetPth, megatron, parquet, oneX, npyShard, safetensorsShard, jsonl];

/** All shard formats by name; the first is the default. */
export const shardFormats: ReadonlyMap<string, ShardFormat> = new Map(all.map((format) => [format.name, format]));

/** The shard format of that name. Throws ARGUMENT where there is none. */
export function shardFormat(name: string): ShardFormat {
  const format = shardFormats.get(name);
  if (!format) throw expected("format", `one of ${[...shardFormats.keys()].join(", ")}`, name);
  return format;
}
