/**
 * What callers may ask of a corpus: each options type as an interface, and beside it the zod schema that checks it (see
 * checks.ts).
 */
import { z } from "zod";
import { type Fields, signal } from "../checks.ts";
import { encodeStreamOptions, type OpenOptions, openOptions } from "../model/options.ts";
import type { OnEvent } from "./events.ts";
import type { TokenDType } from "./format.ts";
import type { Share } from "./split.ts";

/** Default number of items of a shard. */
export const defaultShardSize = 1000;

/** The most workers that a corpus may be split among. */
const mostWorkers = 1 << 20;

const onEvent = z.custom<OnEvent>((v) => typeof v === "function", "expected a function").optional();
const { device, precision, kernels, threads, maxMemory, name } = openOptions.shape;
const text = z.string().min(1).optional();

export interface PlanDatasetOptions
  extends Pick<OpenOptions, "device" | "precision" | "kernels" | "threads" | "maxMemory" | "name"> {
  /**
   * What to tokenise, in this order: folders, patterns, lists, webdataset tars, parquet files, single files; of S3 by
   * s3://BUCKET/KEY.
   */
  inputs: readonly string[];
  /**
   * The corpus's folder, or s3://BUCKET/PREFIX; made as needed. One that has a plan keeps it, and is refused where it
   * is another.
   */
  out: string;
  /** The model, as for `Tokenizer.open`. Default: the embedded model for images. */
  model?: string | undefined;
  /** Format of the shards, a name in `shardFormats`. Default: the first one. */
  format?: string | undefined;
  /** Type of the stored tokens. Default: the format's first for the model's kind of tokens. */
  dtype?: TokenDType | undefined;
  /**
   * Video models only: frames of the windows, which do not see each other, into which clips and videos are cut. Default
   * 17.
   */
  window?: number | undefined;
  /** Video models only: each clip or video is one seamless sequence, without windows. Default false. */
  stream?: boolean | undefined;
  /** Items of a shard, the unit of work and of what is lost by a crash; 1 to 2^20. Default 1000. */
  shardSize?: number | undefined;
  /**
   * Whether workers with another precision, kernel set or versions may take part: their tokens differ here and there.
   * Default false.
   */
  allowOtherArithmetic?: boolean | undefined;
  /** Called with each event. What it throws ends the call. */
  onEvent?: OnEvent | undefined;
  /** Aborting it ends the planning; no plan is left. */
  signal?: AbortSignal | undefined;
}
export const planDatasetOptions = z.strictObject(
  {
    inputs: z.array(z.string().min(1)).min(1).readonly(),
    out: z.string().min(1),
    model: text,
    format: text,
    dtype: z.enum(["uint16", "int32", "bf16", "f16", "f32"]).optional(),
    window: encodeStreamOptions.shape.window,
    stream: z.boolean().default(false),
    shardSize: z.int().min(1).max(1 << 20).optional(),
    allowOtherArithmetic: z.boolean().default(false),
    device,
    precision,
    kernels,
    threads,
    maxMemory,
    name,
    onEvent,
    signal,
  } satisfies Fields<PlanDatasetOptions>,
);

export interface RunDatasetOptions extends Pick<OpenOptions, "device" | "threads" | "maxMemory"> {
  /**
   * Where the plan's model is on this machine, if not where it was when it was planned. Its weights must be the same.
   */
  model?: string | undefined;
  /**
   * Pictures encoded as one job at most, 1 to 256; fewer where they are large. Tokens do not depend on it. Default 16.
   */
  batch?: number | undefined;
  /** How many items are read and prepared at once, 1 to 64. Default 4. */
  readers?: number | undefined;
  /**
   * This worker among several that share the shards by their numbers: shard k is that of worker k mod `of`. Default: by
   * a ledger.
   */
  shard?: Share | undefined;
  /**
   * With `shard`: allows another number of workers than the corpus was split among before. Default false: it is
   * refused.
   */
  resplit?: boolean | undefined;
  /**
   * Whether a shard of which no item is there any more is committed as it is, rather than taken for a missing disk.
   * Default false.
   */
  allowMissing?: boolean | undefined;
  /**
   * Where shards are handed out to workers on many machines: `redis://[USER:PASSWORD@]HOST[:PORT][/DATABASE]`, or
   * rediss:// with TLS. Takes the packages bullmq and ioredis. Behind `?`, seconds: `lock` (15) after which a silent
   * worker's shard is another's, `gone` (300) after which a run ends that gets no answer, `retry` (10) until a shard
   * that failed is tried again. Default: this machine's ledger.
   */
  queue?: string | undefined;
  /** Called with each event. What it throws ends the call. */
  onEvent?: OnEvent | undefined;
  /** Aborting it ends the run with code CANCELLED; committed shards stay. */
  signal?: AbortSignal | undefined;
}
export const runDatasetOptions = z.strictObject(
  {
    model: text,
    device,
    threads,
    maxMemory,
    batch: z.int().min(1).max(256).default(16),
    readers: z.int().min(1).max(64).default(4),
    shard: z.strictObject({ index: z.int().min(0), of: z.int().min(1).max(mostWorkers) })
      .refine(({ index, of }) => index < of, "expected an index below of, counted from 0").optional(),
    resplit: z.boolean().default(false),
    allowMissing: z.boolean().default(false),
    queue: z.string().regex(/^rediss?:\/\//, "expected redis://HOST:PORT, or rediss:// with TLS").optional(),
    onEvent,
    signal,
  } satisfies Fields<RunDatasetOptions>,
);

export interface DatasetMissingOptions {
  /** Into how many shares the corpus will be split, where it is not split yet: then all of them are missing. */
  of?: number | undefined;
}
export const datasetMissingOptions = z.strictObject(
  { of: z.int().min(1).max(mostWorkers).optional() } satisfies Fields<DatasetMissingOptions>,
);

/** Ranges and defaults of the schemas above, for programs that show them to people. */
export const datasetFacts = {
  shardSize: { range: [1, 1 << 20], default: defaultShardSize },
  batch: { range: [1, 256], default: 16 },
  readers: { range: [1, 64], default: 4 },
  workers: { range: [1, mostWorkers] },
} as const;
