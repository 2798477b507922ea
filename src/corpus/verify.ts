/**
 * Whether a corpus holds what it should: every file's size and hash as its manifest says, every sample parsed, the
 * planned keys in their order but for the quarantined, and some samples of each shard decoded and compared with what
 * they were made of, where that can still be read. Finds problems and goes on; changes nothing. What is planned and how
 * pictures are read comes from the caller.
 */
import { createHash } from "node:crypto";
import { throwIfAborted } from "../abort.ts";
import { messageOf, TokenizerError } from "../errors.ts";
import { elementsOf } from "../tokens/dense.ts";
import { psnr } from "../looking/metrics.ts";
import type { TensorLike } from "../tokens/dense.ts";
import type { Tokens } from "../tokens/tensor.ts";
import type { CommittedShard, CorpusFacts, ShardFormat } from "./format.ts";
import type { Sample } from "./item.ts";
import { chunksOf } from "./openfile.ts";
import { joinLocation } from "./s3/address.ts";

/** A shard as its manifest describes it. */
export interface ManifestShard extends CommittedShard {
  readonly numTokens: number;
  readonly quarantined: readonly { readonly key: string }[];
}

/** A corpus that is open for reading its samples back. */
export interface Corpus {
  readonly folder: string;
  readonly format: ShardFormat;
  readonly facts: CorpusFacts;
  /** The committed shards, in order. */
  readonly shards: readonly ManifestShard[];
  /** Keys of a shard's items, in the plan's order. */
  plannedKeys(shard: CommittedShard): Promise<readonly string[]>;
}

/** Compares a sample with its original. Pixels are uint8 [1, H, W, 3], those of clips [1, T, H, W, 3]. */
export interface Judge {
  decode(tokens: Tokens): Promise<TensorLike<"uint8">>;
  /** The pixels that a sample was made of. Throws where they cannot be read any more. */
  original(shard: CommittedShard, key: string): Promise<TensorLike<"uint8">>;
}

export interface VerifyOptions {
  readonly judge?: Judge;
  /** Samples of each shard that are decoded, evenly spread. Default 1. */
  readonly samples?: number;
  readonly signal?: AbortSignal | undefined;
}

export interface VerifiedShard {
  readonly index: number;
  readonly stem: string;
  readonly numSamples: number;
  readonly numTokens: number;
  readonly bytes: number;
  /** What is wrong, in words; empty where all is as it should be. */
  readonly problems: readonly string[];
  readonly decoded: readonly DecodedSample[];
}

export interface DecodedSample {
  readonly key: string;
  /** PSNR against the original, in dB; absent where the original could not be read. */
  readonly psnr?: number;
  /** Why there is no `psnr`: the original could not be read. */
  readonly reason?: string;
}

/**
 * Checks one shard after the other. What is wrong with a shard is among its `problems`; throws CANCELLED, and failures
 * of the machine.
 */
export async function* verifyShards(corpus: Corpus, options: VerifyOptions = {}): AsyncGenerator<VerifiedShard> {
  for (const shard of corpus.shards) {
    const problems: string[] = [];
    for (const file of shard.files) await within(problems, () => checkFile(corpus.folder, file, options.signal));
    const chosen = new Map<string, Sample>();
    await within(problems, () => checkSamples(corpus, shard, options, chosen));
    const decoded: DecodedSample[] = [];
    for (const sample of chosen.values()) {
      await within(problems, async () => void decoded.push(await judged(shard, sample, options.judge!)));
    }
    const { index, stem, numSamples, numTokens, files } = shard,
      bytes = files.reduce((sum, file) => sum + file.bytes, 0);
    yield { index, stem, numSamples, numTokens, bytes, problems, decoded };
  }
}

/** What is wrong with the files of the set, which follow from the shards. */
export async function verifySet({ folder, format, shards, facts }: Corpus): Promise<string[]> {
  const problems: string[] = [];
  for (const [path, bytes] of format.setFiles(shards, facts)) {
    const sha256 = createHash("sha256").update(bytes).digest("hex");
    await within(problems, () => checkFile(folder, { name: path, bytes: bytes.length, sha256 }));
  }
  return problems;
}

/** Runs a check; what it says of the data is a problem, what it says of the flow is not ours to keep. */
async function within(problems: string[], check: () => Promise<void>): Promise<void> {
  try {
    await check();
  } catch (error) {
    if (!(error instanceof TokenizerError) || !blaming.has(error.code)) throw error;
    problems.push(error.message);
  }
}
const blaming: ReadonlySet<string> = new Set([
  "TOKEN_FILE",
  "FILE_MISSING",
  "FILE_IO",
  "VALUE",
  "SHAPE",
  "UNSUPPORTED",
]);

async function checkFile(folder: string, file: CommittedShard["files"][number], signal?: AbortSignal): Promise<void> {
  const hash = createHash("sha256"),
    bad = (wanted: string | number, found: string | number) =>
      new TokenizerError("TOKEN_FILE", `${file.name}: expected ${wanted}, found ${found}`);
  let bytes = 0;
  for await (const chunk of chunksOf(joinLocation(folder, file.name), signal)) {
    hash.update(chunk);
    bytes += chunk.length;
  }
  if (bytes !== file.bytes) throw bad(`${file.bytes} bytes`, bytes);
  const sha256 = hash.digest("hex");
  if (sha256 !== file.sha256) throw bad(`sha256 ${file.sha256}`, sha256);
}

/** Reads every sample of a shard and keeps those that are to be decoded. */
async function checkSamples(
  corpus: Corpus,
  shard: ManifestShard,
  { judge, samples = 1, signal }: VerifyOptions,
  chosen: Map<string, Sample>,
): Promise<void> {
  const gone = new Set(shard.quarantined.map(({ key }) => key));
  const keys = (await corpus.plannedKeys(shard)).filter((key) => !gone.has(key));
  const wanted = new Set(judge ? spread(shard.numSamples, samples) : []);
  let count = 0, tokens = 0;
  for await (const sample of corpus.format.read(corpus.folder, shard, corpus.facts)) {
    throwIfAborted(signal);
    if (sample.key !== keys[count]) {
      const planned = keys[count] ?? "the end";
      throw new TokenizerError(
        "TOKEN_FILE",
        `shard ${shard.stem}: expected ${planned}, as planned, found ${sample.key}`,
      );
    }
    if (wanted.has(count)) chosen.set(sample.key, sample);
    count++;
    tokens += tokensIn(sample.tokens);
  }
  const bad = (wanted: string, found: number) =>
    new TokenizerError("TOKEN_FILE", `shard ${shard.stem}: expected ${wanted}, found ${found}`);
  if (count !== keys.length) throw bad(`${keys.length} samples, as planned but for the quarantined`, count);
  if (tokens !== shard.numTokens) throw bad(`${shard.numTokens} tokens, as its manifest says`, tokens);
}

/** How many tokens there are: the positions of the grid, over all of the batch. */
export function tokensIn({ main, isDiscrete }: Tokens): number {
  return isDiscrete ? main.data.length : main.data.length / main.shape[1]!;
}

/** The numbers of `most` of `count` samples, evenly spread. */
function spread(count: number, most: number): number[] {
  const n = Math.min(count, most);
  return Array.from({ length: n }, (_, i) => Math.floor((i + 0.5) * count / n));
}

/** The most pixels that are decoded of a sample; of a longer clip only the tokens are checked. */
const mostPixels = 1 << 26;

async function judged(shard: CommittedShard, { key, tokens }: Sample, judge: Judge): Promise<DecodedSample> {
  const { height, width, video } = tokens.origin, size = height * width * (video?.frames ?? 1);
  if (size > mostPixels) return { key, reason: `${size} pixels: more than the ${mostPixels} that are decoded` };
  const pixels = await judge.decode(tokens);
  let original: TensorLike<"uint8">;
  try {
    original = await judge.original(shard, key);
  } catch (error) {
    if (error instanceof TokenizerError && error.code === "CANCELLED") throw error;
    return { key, reason: messageOf(error) };
  }
  return { key, psnr: psnr(picture(pixels), picture(original)) };
}

/** A clip as one picture, its frames one below the other, so that the error is that of all frames. */
function picture({ shape, data }: TensorLike<"uint8">): TensorLike<"uint8"> {
  const [height = 1, width = 1, channels = 3] = shape.slice(-3);
  const frames = elementsOf(shape.slice(0, -3));
  return { dtype: "uint8", shape: [frames * height, width, channels], data };
}
