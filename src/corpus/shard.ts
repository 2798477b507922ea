/**
 * One shard: takes what becomes of its items in any order, writes it in the plan's, and commits. Formats are asked one
 * thing at a time. Called by run.ts.
 */
import { TokenizerError } from "../errors.ts";
import { checkPresence } from "./failures.ts";
import type { ShardWriter } from "./format.ts";
import { elementsOf } from "../tokens/dense.ts";
import type { Item, Sample } from "./item.ts";
import type { Arithmetic } from "./plan.ts";
import type { Attempt, Quarantined } from "./storage.ts";

export type Outcome = Sample | { readonly failed: TokenizerError };

export interface ShardOptions {
  readonly index: number;
  readonly items: readonly Item[];
  readonly attempt: Attempt;
  readonly writer: ShardWriter;
  readonly plan: string;
  readonly arithmetic: Arithmetic;
  readonly allowMissing: boolean;
  /** Called once the shard is committed. */
  onDone(done: ShardDone): void;
}

export interface ShardDone {
  readonly index: number;
  readonly numItems: number;
  readonly numSamples: number;
  readonly numTokens: number;
  readonly quarantined: readonly Quarantined[];
  /** Whether another worker had committed the shard meanwhile, so that this work was for nothing. */
  readonly isTwice: boolean;
}

export class Shard {
  readonly #o: ShardOptions;
  readonly #waiting = new Map<number, { outcome: Outcome; resolve(): void; reject(error: unknown): void }>();
  readonly #quarantined: Quarantined[] = [];
  /** A promise that settles when the shard is committed or has failed. */
  readonly done: Promise<void>;
  #settle!: { resolve(): void; reject(error: unknown): void };
  #next = 0;
  #numSamples = 0;
  #numTokens = 0;
  #isWriting = false;
  #failure: { readonly error: unknown } | undefined;

  constructor(options: ShardOptions) {
    this.#o = options;
    this.done = new Promise((resolve, reject) => this.#settle = { resolve, reject });
    this.done.catch(() => {}); // the writer of the last item is told as well
  }

  get index(): number {
    return this.#o.index;
  }
  get numItems(): number {
    return this.#o.items.length;
  }
  /** Items written or quarantined so far, and tokens. */
  get written(): { readonly items: number; readonly tokens: number; readonly quarantined: number } {
    return { items: this.#next, tokens: this.#numTokens, quarantined: this.#quarantined.length };
  }

  /** What became of item `position`. Resolves when it is written; of the last one, when the shard is committed. */
  put(position: number, outcome: Outcome): Promise<void> {
    return new Promise((resolve, reject) => {
      if (this.#failure) return reject(this.#failure.error);
      this.#waiting.set(position, { outcome, resolve, reject });
      if (!this.#isWriting) this.#write();
    });
  }

  get isFailed(): boolean {
    return this.#failure !== undefined;
  }

  /** Nothing more is written: who waits, and who comes, is told. */
  fail(error: unknown): void {
    if (this.#failure) return;
    this.#failure = { error };
    this.#settle.reject(error);
    for (const { reject } of this.#waiting.values()) reject(error);
    this.#waiting.clear();
  }

  async #write(): Promise<void> {
    this.#isWriting = true;
    for (let one; (one = this.#waiting.get(this.#next));) {
      const position = this.#next;
      this.#waiting.delete(position);
      try {
        await this.#add(this.#o.items[position]!, one.outcome);
        if (this.#failure) throw this.#failure.error;
        this.#next++;
        if (this.#next === this.numItems) await this.#finish();
        one.resolve();
      } catch (error) {
        this.fail(error);
        one.reject(error);
        return;
      }
    }
    this.#isWriting = false;
  }

  async #add(item: Item, outcome: Outcome): Promise<void> {
    if ("failed" in outcome) return this.#quarantine(item, outcome.failed);
    try {
      await this.#o.writer.add(outcome);
    } catch (error) {
      const isOfSample = error instanceof TokenizerError && ["SHAPE", "VALUE"].includes(error.code);
      if (!isOfSample) throw error; // as for the shard's own file
      return this.#quarantine(item, error);
    }
    this.#numSamples++;
    const { shape } = outcome.tokens.main;
    this.#numTokens += outcome.tokens.isDiscrete ? elementsOf(shape) : elementsOf(shape) / shape[1]!;
  }

  #quarantine({ key, place }: Item, { code, message }: TokenizerError): void {
    this.#quarantined.push({ key, place, code, message });
  }

  async #finish(): Promise<void> {
    const { index, items, attempt, writer, plan, arithmetic, allowMissing, onDone } = this.#o, numItems = items.length;
    const missing = this.#quarantined.filter(({ code }) => code === "FILE_MISSING").length;
    if (!allowMissing) checkPresence(missing, numItems, this.#quarantined[0]?.key ?? "");
    await writer.finish();
    const counts = { numItems, numSamples: this.#numSamples, numTokens: this.#numTokens };
    const quarantined = this.#quarantined;
    const isOurs = await attempt.commit({ plan, arithmetic, ...counts, quarantined });
    onDone({ index, ...counts, quarantined, isTwice: !isOurs });
    this.#settle.resolve();
  }
}
