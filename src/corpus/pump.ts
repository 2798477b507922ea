/**
 * From items to samples, with the encoder never waiting: items are read and prepared ahead, few at a time and within
 * bounds of count and bytes; pictures of one size are encoded as a batch when a batch is full or the encoder has
 * nothing queued; what comes out is handed on as it comes, and put in order by shard.ts. Tokens do not depend on what
 * they are batched with (tests/corpus/pump.test.ts). A failure of an item is its outcome; any other ends all, unless
 * who gave the works takes it. Called by run.ts.
 */
import { throwIfAborted } from "../abort.ts";
import { cancelled, TokenizerError } from "../errors.ts";
import type { Tokenizer } from "../model/tokenizer.ts";
import type { Origin } from "../tokens/origin.ts";
import { concatAxis, Tensor, type TokenPart, Tokens } from "../tokens/tensor.ts";
import { joinTokens } from "../tokens/windows.ts";
import { readSidecars } from "./failures.ts";
import type { Item, Sample, SampleFacts } from "./item.ts";
import type { ItemPreparer } from "./parts.ts";
import type { Prepared } from "./prepare.ts";
import { isItemsFault, type PlaceReader } from "./source.ts";

/** What is needed of an open model here; `Tokenizer` has it. */
export type Encoder = Pick<Tokenizer, "encode" | "encodeStream">;

/** An item to prepare and encode, and the functions that take its tokens or its failure. */
export interface Work {
  readonly item: Item;
  /** Called once. Resolves when the sample is written, and its memory may go. */
  put(outcome: Sample | { readonly failed: TokenizerError }): Promise<void>;
  /**
   * Called with a failure that no single item caused. Returns true where it is dealt with, and the other work goes on.
   */
  fail?(error: unknown): boolean;
}

export interface PumpOptions {
  readonly encoder: Encoder;
  readonly places: PlaceReader;
  readonly preparer: ItemPreparer;
  /** Frames of the windows into which clips and videos are cut; undefined: each is one seamless sequence. */
  readonly window: number | undefined;
  /** What samples say of their model, whatever it is called on this machine. */
  readonly origin: Pick<Origin, "model" | "source">;
  /** The most pictures of one job, and the most items that are prepared at once. */
  readonly batch: number;
  readonly readers: number;
  readonly signal?: AbortSignal | undefined;
}

/**
 * Limits: items between reading and writing; bytes of their pixels; pixels of one job, however many items its batch
 * has.
 */
const mostItems = 256, mostBytes = 1 << 28, batchPixels = 1 << 21;
/** Jobs that the encoder is given: one that runs and one behind it. */
const queued = 2;
/** How many pictures, of how many pixels in all, measure the encoder's own rate. */
const ownItems = 16, ownPixels = 1 << 22;

interface Ready {
  readonly work: Work;
  readonly prepared: Prepared;
  readonly sidecars: Sample["sidecars"];
}

export class Pump {
  readonly #o: PumpOptions;
  readonly #stop = new AbortController();
  readonly #groups = new Map<string, Ready[]>();
  readonly #waiters: (() => void)[] = [];
  #failure: TokenizerError | undefined;
  #inFlight = 0;
  #preparing = 0;
  #bytes = 0;
  #jobs = 0;
  #isAsking = false;
  #isFed = false;
  /** Milliseconds in which the encoder had a job, and since when it has one. */
  #busyMs = 0;
  #busySince = 0;
  /** While the encoder's own rate is measured: nothing else is done meanwhile. */
  #own: { started: number; pixels: number; isEncoding: boolean } | undefined = {
    started: 0,
    pixels: 0,
    isEncoding: false,
  };
  #ownRate: number | undefined;
  #pixels = 0;

  constructor(options: PumpOptions) {
    this.#o = options;
    options.signal?.addEventListener("abort", this.#abort);
  }

  /**
   * Pixels encoded so far; milliseconds in which the encoder had a job; pixels a second that it encodes with nothing
   * beside it.
   */
  get state(): { readonly pixels: number; readonly busyMs: number; readonly ownRate: number | undefined } {
    const since = this.#jobs > 0 ? performance.now() - this.#busySince : 0;
    return { pixels: this.#pixels, busyMs: this.#busyMs + since, ownRate: this.#ownRate };
  }

  /** Does all works; rejects with the first failure that nobody takes, once what was begun has come to rest. */
  async run(worksUntil: (signal: AbortSignal) => AsyncIterable<Work>): Promise<void> {
    throwIfAborted(this.#o.signal);
    const feeding = this.#feed(worksUntil(this.#stop.signal)).catch((error) => this.#fail(error));
    await this.#until(() => this.#failure !== undefined || this.#isFed && this.#inFlight === 0);
    await this.#until(() => this.#jobs === 0 && this.#preparing === 0);
    await feeding;
    this.#o.signal?.removeEventListener("abort", this.#abort);
    if (this.#failure) throw this.#failure;
  }

  async #feed(works: AsyncIterable<Work>): Promise<void> {
    this.#isAsking = true; // as another work may wait for those that are here
    for await (const work of works) {
      this.#isAsking = false;
      await this.#until(() => this.#failure !== undefined || this.#mayStart());
      if (this.#failure) return;
      this.#start(work);
      this.#isAsking = true;
    }
    this.#isFed = true;
    this.#flush();
    this.#wake();
  }

  #mayStart(): boolean {
    if (this.#inFlight === 0) return true;
    const isFull = this.#preparing >= this.#o.readers || this.#inFlight >= mostItems || this.#bytes >= mostBytes;
    return !isFull && !this.#isOwnFull();
  }

  #isOwnFull(): boolean {
    return this.#own !== undefined &&
      (this.#own.isEncoding || this.#own.started >= ownItems || this.#own.pixels >= ownPixels);
  }

  #start(work: Work): void {
    this.#inFlight++;
    this.#preparing++;
    if (this.#own) this.#own.started++;
    this.#prepare(work).catch((error) => this.#failWith([work], 0, error)).finally(() => {
      this.#preparing--;
      this.#flush();
      this.#wake();
    });
  }

  /** Prepares an item. Resolves when it is ready, or when its failure was passed to the shard. */
  async #prepare(work: Work): Promise<void> {
    const { places, preparer } = this.#o, { signal } = this.#stop;
    try {
      const [prepared, sidecars] = await Promise.all([
        preparer.prepare(work.item, signal),
        readSidecars(work.item, places, signal),
      ]);
      if (this.#failure) return;
      const pixels = pixelsOf(prepared),
        size = prepared.kind === "image" ? prepared.pixels.shape.join("x") : work.item.key;
      this.#bytes += heldBytes(prepared);
      if (this.#own) this.#own.pixels += pixels;
      const group = this.#groups.get(size) ?? [];
      group.push({ work, prepared, sidecars });
      this.#groups.set(size, group);
    } catch (error) {
      if (signal.aborted) return;
      if (!isItemsFault(error)) throw error;
      this.#deliver(work, { failed: error }, 0);
    }
  }

  /** Starts the jobs that the encoder should have now. */
  #flush(): void {
    if (this.#failure) return;
    if (this.#own && !this.#own.isEncoding) { // all first pictures are encoded with nothing beside
      if (this.#preparing > 0 || this.#groups.size === 0 || !(this.#isOwnFull() || this.#isAsking || this.#isFed)) {
        return;
      }
      this.#own.isEncoding = true;
      this.#own.pixels = 0;
      this.#own.started = performance.now();
    }
    while (this.#jobs < queued) {
      const [size, group] = this.#next() ?? [];
      if (!size || !group) break;
      const taken = group.splice(0, this.#batchOf(group[0]!));
      if (group.length === 0) this.#groups.delete(size);
      this.#encode(taken).catch((error) => {
        const bytes = taken.reduce((sum, { prepared }) => sum + heldBytes(prepared), 0);
        this.#failWith(taken.map(({ work }) => work), bytes, error);
        this.#flush();
      }).finally(() => this.#wake());
    }
    if (this.#own?.isEncoding && this.#jobs === 0 && this.#groups.size === 0) {
      const { started, pixels } = this.#own;
      if (pixels > 0) this.#ownRate = pixels / (performance.now() - started) * 1000;
      this.#own = undefined;
      this.#wake();
    }
  }

  /** A full batch, else, where the encoder has nothing, the one that has waited longest. */
  #next(): [string, Ready[]] | undefined {
    for (const entry of this.#groups) if (entry[1].length >= this.#batchOf(entry[1][0]!)) return entry;
    const [oldest] = this.#groups;
    const isIdle = this.#jobs === 0 || this.#preparing === 0;
    return isIdle ? oldest : undefined;
  }

  #batchOf({ prepared }: Ready): number {
    if (prepared.kind !== "image") return 1;
    return Math.max(1, Math.min(this.#o.batch, Math.floor(batchPixels / pixelsOf(prepared))));
  }

  async #encode(taken: readonly Ready[]): Promise<void> {
    if (this.#jobs++ === 0) this.#busySince = performance.now();
    const { signal } = this.#stop;
    let outcomes: (Sample | { readonly failed: TokenizerError })[];
    try {
      const all = await this.#tokensOf(taken.map(({ prepared }) => prepared));
      outcomes = taken.map(({ work: { item }, prepared, sidecars }, i) => {
        const tokens = oneOf(all, i, this.#o.origin), facts = factsOf(prepared, tokens);
        return { key: item.key, tokens: withRate(tokens, facts), facts, sidecars };
      });
    } catch (error) {
      if (signal.aborted) return;
      // A video's frames are decoded while it is encoded, so its failure may be the decoder's.
      if (taken[0]!.prepared.kind !== "video" || !isItemsFault(error)) {
        throw beside(
          error,
          taken.map(({ work }) => work.item.key),
        );
      }
      outcomes = [{ failed: error }];
    } finally {
      if (--this.#jobs === 0) this.#busyMs += performance.now() - this.#busySince;
    }
    const pixels = outcomes.reduce((sum, outcome) => sum + ("failed" in outcome ? 0 : pixelsOfFacts(outcome.facts)), 0);
    this.#pixels += pixels;
    if (this.#own) this.#own.pixels += pixels;
    this.#flush(); // before the samples are written
    taken.forEach(({ work, prepared }, i) => this.#deliver(work, outcomes[i]!, heldBytes(prepared)));
  }

  async #tokensOf(all: readonly Prepared[]): Promise<Tokens> {
    const { encoder, window } = this.#o, { signal } = this.#stop, first = all[0]!;
    if (first.kind === "image") {
      const tensors = all.map((one) => (one as Prepared & { kind: "image" }).pixels);
      return await encoder.encode(tensors.length === 1 ? first.pixels : concatAxis(tensors, 0), { signal });
    }
    if (first.kind === "clip" && window !== undefined) return await encoder.encode(first.pixels, { signal, window });
    const frames = first.kind === "clip" ? framesOfTensor(first.pixels) : first.frames, parts: TokenPart[] = [];
    const { fps } = first.facts, options = { signal, ...(window && { window }), ...(fps && { fps }) };
    for await (const part of encoder.encodeStream(frames, options)) parts.push(part);
    return joinTokens(parts);
  }

  #deliver(work: Work, outcome: Sample | { readonly failed: TokenizerError }, bytes: number): void {
    work.put(outcome).then(() => this.#leave(1, bytes), (error) => this.#failWith([work], bytes, error));
  }

  #leave(items: number, bytes: number): void {
    this.#inFlight -= items;
    this.#bytes -= bytes;
    this.#wake();
  }

  /** A failure that these works met together: theirs, where all take it. */
  #failWith(works: readonly Work[], bytes: number, error: unknown): void {
    if (!works.every((work) => work.fail?.(error))) this.#fail(error);
    this.#leave(works.length, bytes);
  }

  readonly #abort = () => this.#fail(cancelled(this.#o.signal!));

  #fail(error: unknown): void {
    if (this.#failure) return;
    this.#failure = error instanceof TokenizerError
      ? error
      : new TokenizerError("INTERNAL", String(error), { cause: error });
    this.#groups.clear();
    this.#stop.abort(this.#failure);
    this.#wake();
  }

  #wake(): void {
    for (const resume of this.#waiters.splice(0)) resume();
  }

  async #until(isTrue: () => boolean): Promise<void> {
    while (!isTrue()) await new Promise<void>((resume) => this.#waiters.push(resume));
  }
}

/** A whole video is open, its frames are read as they are encoded: few at a time. */
function heldBytes(prepared: Prepared): number {
  return prepared.kind === "video" ? mostBytes / 4 : 3 * pixelsOf(prepared);
}

function pixelsOf(prepared: Prepared): number {
  return prepared.kind === "video" ? 0 : prepared.pixels.data.length / 3;
}

function pixelsOfFacts({ height, width, numFrames = 1 }: SampleFacts): number {
  return height * width * numFrames;
}

/** The facts of a sample; how many frames a video has is known only once it is encoded. */
function factsOf({ kind, facts }: Prepared, { origin: { video } }: Tokens): SampleFacts {
  return kind === "video" && video ? { ...facts, numFrames: video.frames } : facts;
}

/** Adds the clip's frame rate to the origin of its tokens. */
function withRate(tokens: Tokens, { fps }: SampleFacts): Tokens {
  const { origin, main } = tokens, { video } = origin;
  if (!fps || !video || video.fps) return tokens;
  return tokensOfTensor(main, { ...origin, video: { ...video, fps } });
}

/** Sample `i` of a batch, in memory of its own: a view would hold the batch. */
function oneOf(all: Tokens, i: number, about: PumpOptions["origin"]): Tokens {
  const { main, origin } = all, one = main.shape[0] === 1 ? main : main.at(i);
  const { dtype, shape, data } = one;
  return tokensOfTensor(main.shape[0] === 1 ? one : new Tensor(dtype, shape, data.slice()), { ...origin, ...about });
}

function tokensOfTensor({ dtype, shape, data }: Tensor, origin: Origin): Tokens {
  const kind = origin.quantizer ? "indices" : "latent";
  return new Tokens(origin, { [kind]: new Tensor(dtype, shape, data, { kind, origin }) });
}

/** The frames of a [1, T, H, W, 3] tensor, as views of its memory. */
function* framesOfTensor(
  { shape: [, frames = 0, height = 0, width = 0], data }: Tensor<"uint8">,
): Generator<Tensor<"uint8">> {
  const bytes = height * width * 3;
  for (let i = 0; i < frames; i++) {
    yield new Tensor("uint8", [height, width, 3], data.subarray(i * bytes, (i + 1) * bytes));
  }
}

/** Adds to an encoder's failure the keys of the items that it was encoding. */
function beside(error: unknown, keys: readonly string[]): unknown {
  if (!(error instanceof TokenizerError)) return error;
  const which = keys.length === 1 ? keys[0] : `${keys[0]} and ${keys.length - 1} more`;
  return new TokenizerError(error.code, `${which}: ${error.message}`, { detail: error.detail, cause: error });
}
