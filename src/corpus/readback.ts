/**
 * A corpus that is read back by its folder alone: its plan says what shards hold and which items were planned, its
 * manifests which shards there are. Verification, statistics and samples as mod.ts has them; the work is in verify.ts
 * and stats.ts.
 */
import { z } from "zod";
import { type Fields, parse, signal } from "../checks.ts";
import { expected, TokenizerError } from "../errors.ts";
import { located } from "../model/job.ts";
import { type OpenOptions, openOptions } from "../model/options.ts";
import { Tokenizer } from "../model/tokenizer.ts";
import { allocate } from "../model/pixels.ts";
import type { TensorLike } from "../tokens/dense.ts";
import { Tensor } from "../tokens/tensor.ts";
import type { Item, Sample } from "./item.ts";
import { openStorage } from "./openstorage.ts";
import type { ItemPreparer, Parts } from "./parts.ts";
import type { Plan } from "./plan.ts";
import { formatOf } from "./planner.ts";
import { standard } from "./standard.ts";
import { type CorpusStats, sampleByKey, samplesOf, statsOfCorpus } from "./stats.ts";
import { allEntries } from "./status.ts";
import { type Corpus, type DecodedSample, type Judge, type VerifiedShard, verifySet, verifyShards } from "./verify.ts";

export interface VerifyDatasetOptions extends Pick<OpenOptions, "device" | "threads" | "maxMemory"> {
  /**
   * Where the plan's model is on this machine, if not where it was when it was planned. Its weights must be the same.
   */
  model?: string | undefined;
  /**
   * How many samples of each shard, evenly spread, are decoded and compared with their originals; with 0 no model is
   * opened. Default 1.
   */
  samples?: number | undefined;
  /** Called after each shard is checked. What it throws ends the call. */
  onShard?: ((shard: VerifiedShard) => void) | undefined;
  /** Aborting it ends the call with code CANCELLED. */
  signal?: AbortSignal | undefined;
}
const { device, threads, maxMemory } = openOptions.shape;
const verifyOptions = z.strictObject(
  {
    device,
    threads,
    maxMemory,
    model: z.string().min(1).optional(),
    samples: z.int().min(0).max(1 << 20).default(1),
    onShard: z.custom<(shard: VerifiedShard) => void>((v) => typeof v === "function", "expected a function").optional(),
    signal,
  } satisfies Fields<VerifyDatasetOptions>,
);

export interface DatasetVerification {
  readonly numShards: number;
  /** How many planned shards are not committed yet. */
  readonly numMissing: number;
  readonly numSamples: number;
  readonly numTokens: number;
  readonly bytes: number;
  /** All that is wrong, in words; empty: the corpus is as it was written. Missing shards are none. */
  readonly problems: readonly string[];
  readonly decoded: readonly DecodedSample[];
}

/**
 * Whether a corpus is as it was written: the size and SHA-256 of every file, every sample read, their keys those of the
 * plan in its order but for the quarantined, the files of the set; and some samples decoded, with their PSNR in dB
 * against the pictures that they were made of, where these are still there. Changes nothing; goes on after a problem.
 * Errors: FILE_MISSING without a plan; FILE_FORMAT for a damaged plan or manifest; those of opening the model; ARGUMENT
 * where it has other weights; CANCELLED.
 */
export function verifyDataset(folder: string, options: VerifyDatasetOptions = {}): Promise<DatasetVerification> {
  return located(() => verifyWith(standard, folder, options));
}

/** `verifyDataset` with other sources and formats, for tests. */
export async function verifyWith(
  parts: Parts,
  folder: string,
  options: VerifyDatasetOptions = {},
): Promise<DatasetVerification> {
  const o = parse(verifyOptions, options, "options"),
    { plan, storage, corpus } = await openCorpus(folder, parts, o.signal);
  await using judge = o.samples > 0 && corpus.shards.length > 0 ? await openJudge(plan, parts, o) : undefined;
  const shards: VerifiedShard[] = [];
  for await (const shard of verifyShards(corpus, { ...(judge && { judge }), samples: o.samples, signal: o.signal })) {
    shards.push(shard);
    o.onShard?.(shard);
  }
  const sum = (of: (shard: VerifiedShard) => number) => shards.reduce((total, shard) => total + of(shard), 0);
  const ofSet = await storage.setEntry() ? await verifySet(corpus) : [];
  return {
    numShards: shards.length,
    numMissing: plan.numShards - shards.length,
    numSamples: sum(({ numSamples }) => numSamples),
    numTokens: sum(({ numTokens }) => numTokens),
    bytes: sum(({ bytes }) => bytes),
    problems: [...shards.flatMap(({ problems }) => problems), ...ofSet],
    decoded: shards.flatMap(({ decoded }) => decoded),
  };
}

/**
 * What the tokens of a corpus are like, over all committed shards: sizes, use and entropy of the codebook with the
 * digits of each level, or moments of each channel. Opens no model. Errors: as `datasetStatus`; TOKEN_FILE for a
 * damaged shard; CANCELLED.
 */
export function datasetStats(folder: string, options: { signal?: AbortSignal | undefined } = {}): Promise<CorpusStats> {
  return located(async () =>
    statsOfCorpus((await openCorpus(folder, standard, options.signal)).corpus, options.signal)
  );
}

/**
 * All samples of a corpus, shard after shard, in the plan's order: `for await (const { key, tokens, facts, sidecars }
 * of readDataset("corpus"))`. Tokens are what `decode` takes. In memory is one sample at a time. Errors: as
 * `datasetStats`.
 */
export function readDataset(
  folder: string,
  options: { signal?: AbortSignal | undefined } = {},
): AsyncGenerator<Sample> {
  return samplesIn(folder, options.signal);
}

async function* samplesIn(folder: string, signal?: AbortSignal): AsyncGenerator<Sample> {
  yield* samplesOf((await openCorpus(folder, standard, signal)).corpus, signal);
}

/**
 * The sample of a key; only its shard is read. Errors: as `datasetStats`; ARGUMENT for a key that no committed shard
 * has.
 */
export function datasetSample(
  folder: string,
  key: string,
  options: { signal?: AbortSignal | undefined } = {},
): Promise<Sample> {
  return located(async () =>
    sampleByKey((await openCorpus(folder, standard, options.signal)).corpus, key, options.signal)
  );
}

async function openCorpus(folder: string, parts: Parts, signal?: AbortSignal) {
  const storage = openStorage(folder, { signal }),
    plan = await storage.plan(),
    shards = await allEntries(plan, storage);
  const corpus: Corpus = {
    folder,
    format: formatOf(plan.header.shardFormat, parts),
    facts: plan.facts,
    shards,
    plannedKeys: async ({ index }) => (await plan.items(index)).map(({ key }) => key),
  };
  return { plan, storage, corpus };
}

/** Opens the plan's model for decoding, and what reads the original items again. */
async function openJudge(
  plan: Plan,
  parts: Parts,
  o: z.output<typeof verifyOptions>,
): Promise<Judge & AsyncDisposable> {
  const decoder = await openDecoder(plan, o), opened: AsyncDisposable[] = [decoder], { header } = plan, { signal } = o;
  const close = async () => {
    for (const one of opened.reverse()) await one[Symbol.asyncDispose]();
  };
  try {
    const places = parts.openPlaces();
    opened.push(places);
    const preparer = await parts.openPreparer(header.options, places);
    opened.push(preparer);
    return {
      decode: (tokens) => decoder.decode(tokens, { dtype: "uint8", signal }) as Promise<TensorLike<"uint8">>,
      async original({ index }, key) {
        const item = (await plan.items(index)).find((item) => item.key === key);
        if (!item) throw expected("key", `one of shard ${index}`, key, "INTERNAL"); // it was compared with the plan
        return await pixelsOf(item, preparer, signal);
      },
      [Symbol.asyncDispose]: close,
    };
  } catch (error) {
    await close();
    throw error;
  }
}

/** Opens the decoder of the plan's model. Throws ARGUMENT where its weights are not those of the plan. */
async function openDecoder(
  { header: { model, arithmetic: { precision } } }: Plan,
  { model: given, device, threads, maxMemory, signal }: z.output<typeof verifyOptions>,
): Promise<Tokenizer> {
  const at = given ?? model.at,
    limits = { ...(threads && { threads }), ...(maxMemory && { maxMemory }), ...(signal && { signal }) };
  const decoder = await Tokenizer.open(at, { half: "decoder", name: model.name, device, precision, ...limits });
  const { sha256 } = decoder.info;
  if (sha256 === model.sha256) return decoder;
  await decoder.close();
  const wanted = `${model.name} with the weights that were planned (sha256 ${model.sha256})`;
  throw expected("model", wanted, `${at} with ${sha256}`);
}

/** The pixels that were tokenised, as one tensor. */
async function pixelsOf(item: Item, preparer: ItemPreparer, signal?: AbortSignal): Promise<TensorLike<"uint8">> {
  const prepared = await preparer.prepare(item, signal);
  if (prepared.kind !== "video") return prepared.pixels;
  const { height, width } = prepared.facts, frames: Uint8Array[] = [];
  for await (const { data } of prepared.frames) frames.push(data);
  if (frames.length === 0) throw new TokenizerError("VIDEO", `${item.key}: expected frames, found none`);
  const all = allocate(item.key, frames.length * frames[0]!.length);
  for (const [i, frame] of frames.entries()) all.set(frame, i * frame.length);
  return new Tensor("uint8", [1, frames.length, height, width, 3], all, { kind: "pixels" });
}
