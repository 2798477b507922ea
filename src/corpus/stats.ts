/**
 * What the tokens of a corpus are like: how many of the codes are used and how evenly, the digits of each level, or the
 * moments of each channel; which sizes there are. One pass, in memory that does not grow with the corpus. And samples
 * by themselves: the first ones, and one by its key.
 */
import { throwIfAborted } from "../abort.ts";
import { expected } from "../errors.ts";
import type { ChannelMoments } from "../looking/edit.ts";
import { codebookSize, digitsOf, type Quantizer } from "../tokens/quantizer.ts";
import type { Tokens } from "../tokens/tensor.ts";
import type { Sample } from "./item.ts";
import { type Corpus, tokensIn } from "./verify.ts";

export interface CorpusStats {
  readonly numShards: number;
  readonly numSamples: number;
  readonly numTokens: number;
  /**
   * "WIDTHxHEIGHT" in pixels as tokenised, of clips "WIDTHxHEIGHTxFRAMES", and how many samples have it; the most
   * frequent first.
   */
  readonly sizes: readonly { readonly size: string; readonly count: number }[];
  /** Discrete tokens only. `entropyBits`: bits for each token; `perplexity`: 2 to that power, the effective codes. */
  readonly codebook?: {
    readonly size: number;
    readonly distinct: number;
    readonly entropyBits: number;
    readonly perplexity: number;
    /** The most frequent codes and how often each occurs. */
    readonly top: readonly { readonly code: number; readonly count: number }[];
  };
  /** FSQ and signs only: how often each digit of each level occurs. */
  readonly levels?: readonly (readonly number[])[];
  /** Latents only: moments of each channel's finite values; `notFinite`: how many values are NaN or infinite. */
  readonly channels?: readonly ChannelMoments[];
  readonly notFinite?: number;
}

const mostTop = 10;
/** Largest codebook whose codes are counted in an array; those of a larger one are counted in a map. */
const mostCounters = 1 << 20;

/** Statistics of all committed shards. Throws TOKEN_FILE for a shard that cannot be read, CANCELLED. */
export async function statsOfCorpus(corpus: Corpus, signal?: AbortSignal): Promise<CorpusStats> {
  const { quantizer } = corpus.facts, sizes = new Map<string, number>();
  const counter = quantizer ? new CodeCounter(quantizer) : new ChannelCounter();
  let numSamples = 0, numTokens = 0;
  for await (const { tokens } of samplesOf(corpus, signal)) {
    const { width, height, video } = tokens.origin, size = [width, height, ...(video ? [video.frames] : [])].join("x");
    sizes.set(size, (sizes.get(size) ?? 0) + 1);
    numSamples++;
    numTokens += tokensIn(tokens);
    counter.add(tokens);
  }
  const sorted = [...sizes].map(([size, count]) => ({ size, count }));
  sorted.sort((a, b) => b.count - a.count || (a.size < b.size ? -1 : 1));
  return { numShards: corpus.shards.length, numSamples, numTokens, sizes: sorted, ...counter.result() };
}

/** All samples of the committed shards, shard after shard. */
export async function* samplesOf(corpus: Corpus, signal?: AbortSignal): AsyncGenerator<Sample> {
  for (const shard of corpus.shards) {
    for await (const sample of corpus.format.read(corpus.folder, shard, corpus.facts)) {
      throwIfAborted(signal);
      yield sample;
    }
  }
}

/** The first `count` samples. */
export async function* headOf(corpus: Corpus, count: number, signal?: AbortSignal): AsyncGenerator<Sample> {
  if (count < 1) return;
  let left = count;
  for await (const sample of samplesOf(corpus, signal)) {
    yield sample;
    if (--left === 0) return;
  }
}

/**
 * The sample of a key; only its shard is read. Throws ARGUMENT where there is none, and says whether it was planned.
 */
export async function sampleByKey(corpus: Corpus, key: string, signal?: AbortSignal): Promise<Sample> {
  for (const shard of corpus.shards) {
    if (!(await corpus.plannedKeys(shard)).includes(key)) continue;
    if (shard.quarantined.some((item) => item.key === key)) {
      throw expected("key", "one that was tokenised", `${key}, which is quarantined`);
    }
    for await (const sample of corpus.format.read(corpus.folder, shard, corpus.facts)) {
      throwIfAborted(signal);
      if (sample.key === key) return sample;
    }
  }
  throw expected("key", "one of a committed shard", key);
}

class CodeCounter {
  readonly #quantizer: Quantizer;
  readonly #size: number;
  readonly #counts: Float64Array | Map<number, number>;
  #total = 0;

  constructor(quantizer: Quantizer) {
    this.#quantizer = quantizer;
    this.#size = codebookSize(quantizer);
    this.#counts = this.#size <= mostCounters ? new Float64Array(this.#size) : new Map();
  }

  add({ indices: { data } }: Tokens): void {
    const counts = this.#counts;
    this.#total += data.length;
    if (counts instanceof Map) { for (const code of data) counts.set(code, (counts.get(code) ?? 0) + 1); }
    else for (let i = 0; i < data.length; i++) counts[data[i]!]!++;
  }

  result(): Pick<CorpusStats, "codebook" | "levels"> {
    const levels = digitsOf(this.#quantizer)?.map((size) => new Array<number>(size).fill(0));
    const used = [...this.#counts.entries()].filter(([, count]) => count > 0);
    let entropyBits = 0;
    for (const [code, count] of used) {
      entropyBits += count / this.#total * Math.log2(this.#total / count);
      let rest = code;
      for (const digits of levels ?? []) {
        digits[rest % digits.length]! += count;
        rest = Math.floor(rest / digits.length);
      }
    }
    const top = used.sort((a, b) => b[1] - a[1] || a[0] - b[0]).slice(0, mostTop).map(([code, count]) => ({
      code,
      count,
    }));
    const codebook = { size: this.#size, distinct: used.length, entropyBits, perplexity: 2 ** entropyBits, top };
    return { codebook, ...(levels && { levels }) };
  }
}

/**
 * Running mean and sum of squared deviations, to which batches can be added without loss of accuracy. Ref: Chan, Golub
 * and LeVeque 1983.
 */
interface Running {
  count: number;
  mean: number;
  squares: number;
  least: number;
  greatest: number;
}

class ChannelCounter {
  readonly #channels: Running[] = [];
  #notFinite = 0;

  add({ latent: { shape, data } }: Tokens): void {
    const channels = shape[1]!, positions = data.length / channels;
    for (let c = 0; c < channels; c++) {
      const running = this.#channels[c] ??= { count: 0, mean: 0, squares: 0, least: Infinity, greatest: -Infinity };
      const values = data.subarray(c * positions, (c + 1) * positions);
      let count = 0, sum = 0, squares = 0;
      for (const value of values) {
        if (!Number.isFinite(value)) continue;
        count++;
        sum += value;
        running.least = Math.min(running.least, value);
        running.greatest = Math.max(running.greatest, value);
      }
      this.#notFinite += positions - count;
      if (count === 0) continue;
      const mean = sum / count;
      for (const value of values) if (Number.isFinite(value)) squares += (value - mean) ** 2;
      const all = running.count + count, apart = mean - running.mean;
      running.squares += squares + apart ** 2 * running.count * count / all;
      running.mean += apart * count / all;
      running.count = all;
    }
  }

  result(): Pick<CorpusStats, "channels" | "notFinite"> {
    const channels = this.#channels.map(({ count, mean, squares, least, greatest }) => {
      return { mean, deviation: Math.sqrt(squares / count), least, greatest };
    });
    return { channels, notFinite: this.#notFinite };
  }
}
