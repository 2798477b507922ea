/**
 * What a shard format is: a writer that takes samples one after the other, a reader that gives them back, and the files
 * of the whole set. Formats know nothing of plans, leases or commits: they get files to write to, already pending, and
 * return names.
 */
import type { Quantizer } from "../tokens/origin.ts";
import type { Sample } from "./item.ts";

/** What all shards of a corpus have in common: the model, its kind of tokens and their type. */
export interface CorpusFacts {
  /** Name of the model, and what finds it again; never a path of this machine. */
  readonly model: string;
  readonly source: string;
  readonly sha256: string;
  /** Precision of the arithmetic that made the tokens; tokens that are read back state it. Absent: unknown. */
  readonly precision?: "f32" | "bf16";
  readonly isVideo: boolean;
  /** How discrete tokens are quantized; absent for continuous ones. */
  readonly quantizer?: Quantizer;
  readonly spatialFactor: number;
  readonly temporalFactor: number;
  /** "uint16" or "int32" for indices, "bf16", "f16" or "f32" for latents. */
  readonly dtype: TokenDType;
  readonly numShards: number;
  readonly version: string;
}
export type TokenDType = "uint16" | "int32" | "bf16" | "f16" | "f32";

/**
 * A file that a writer fills. What is written is hashed and, when the shard is committed, fsynced and renamed with the
 * rest.
 */
export interface ShardFile {
  /** Bytes written so far. */
  readonly offset: number;
  write(bytes: Uint8Array): Promise<void>;
}

/** Makes the files of one shard, under the shard's stem, which is its number: `create(".tar")` is "00017.tar". */
export interface ShardFiles {
  readonly stem: string;
  /** `name`: the whole name of the file, for readers that look for another; unique in the set ("video_17.bin"). */
  create(suffix: string, name?: string): Promise<ShardFile>;
}

export interface ShardWriter {
  /**
   * In the plan's order. Equal samples give equal bytes, on every machine. Throws, before anything of the sample is
   * written: SHAPE or VALUE where this sample cannot be held, and the shard can go on without it; ARGUMENT where the
   * corpus needs other options, such as one size for all.
   */
  add(sample: Sample): Promise<void>;
  /** Writes what follows the last sample. The shard may have no sample at all, where all its items were quarantined. */
  finish(): Promise<void>;
}

/** A committed shard as its manifest describes it. */
export interface CommittedShard {
  readonly index: number;
  readonly stem: string;
  readonly numSamples: number;
  readonly files: readonly { readonly name: string; readonly bytes: number; readonly sha256: string }[];
}

export interface ShardFormat {
  /** The format's name, as `--format` takes it. */
  readonly name: string;
  readonly about: string;
  /**
   * Types that the format stores, the default first, for discrete and for continuous models; an empty list: it cannot
   * store them.
   */
  readonly dtypes: { readonly discrete: readonly TokenDType[]; readonly continuous: readonly TokenDType[] };
  /**
   * The dtype in which a corpus of such a model is stored (without a quantizer: continuous): the one asked for, or the
   * format's first that fits. Throws ARGUMENT where the format cannot store such tokens, or not in that dtype.
   */
  dtypeOf(quantizer: Quantizer | undefined, wanted?: TokenDType): TokenDType;
  /** Refuses what it cannot hold, before any work: throws ARGUMENT with what was expected and found. */
  check(facts: CorpusFacts): void;
  open(files: ShardFiles, facts: CorpusFacts): Promise<ShardWriter>;
  /** Files of the whole set by path below its folder, made once all shards are committed; deterministic. */
  setFiles(shards: readonly CommittedShard[], facts: CorpusFacts): ReadonlyMap<string, Uint8Array>;
  /** The samples of a committed shard, in order, checked as if a stranger had written it. */
  read(folder: string, shard: CommittedShard, facts: CorpusFacts): AsyncGenerator<Sample>;
}
