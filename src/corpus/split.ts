/**
 * A fixed split, without a server: shard k belongs to worker k mod N. Workers ask nobody and know no clock; two of one
 * number make the same shards twice, of which one each is committed. N is kept in a note of the corpus, as another N
 * would leave shards to nobody while workers of the one before are still at work. Called by run.ts, status.ts and
 * missing.ts.
 */
import { expected } from "../errors.ts";
import type { Leases, LeasesOptions } from "./leases.ts";
import type { Plan } from "./plan.ts";
import type { Storage } from "./storage.ts";

/** A worker's share of a corpus that is split among `of` workers. */
export interface Share {
  /** The worker's number, 0 to `of` - 1. */
  readonly index: number;
  readonly of: number;
}

/** The shards of a worker, in order; none where there are fewer shards than workers. */
export function shardsOf({ index, of }: Share, numShards: number): number[] {
  return Array.from({ length: Math.max(0, Math.ceil((numShards - index) / of)) }, (_, i) => index + i * of);
}

/**
 * The workers that have shards to make, in order. Where all are committed and the set's files are not there, the first
 * writes them.
 */
export function workersOf(missing: readonly number[], of: number, isComplete: boolean): number[] {
  if (missing.length === 0) return isComplete ? [] : [0];
  return [...new Set(missing.map((index) => index % of))].sort((a, b) => a - b);
}

const noteName = "split.json";
interface Note {
  readonly plan: string;
  readonly of: number;
}

/** Among how many workers the corpus is split; undefined where it is not. */
export async function splitOf(storage: Storage, plan: Plan): Promise<number | undefined> {
  const bytes = await storage.note(noteName);
  try {
    const note: Note | null = bytes ? JSON.parse(new TextDecoder().decode(bytes)) : null;
    return note?.plan === plan.id && Number.isSafeInteger(note.of) ? note.of : undefined;
  } catch {
    return undefined; // no note of ours
  }
}

/** Writes the number of workers to the corpus. Throws ARGUMENT where another one is there, unless `isAnew`. */
export async function agreeOnSplit(storage: Storage, plan: Plan, of: number, isAnew: boolean): Promise<void> {
  const bytes = new TextEncoder().encode(JSON.stringify({ plan: plan.id, of } satisfies Note));
  while (!await storage.writeNote(noteName, bytes)) {
    const found = await splitOf(storage, plan);
    if (found === of) return;
    if (found !== undefined && !isAnew) {
      const change =
        "--resplit, resplit: true, splits it anew once the workers of that split have ended; what is committed stays";
      throw expected(storage.folder, `shard i/${found}, as this corpus is split (${change})`, `i/${of}`);
    }
    await storage.removeNote(noteName);
  }
}

/** Gives a worker the shards of its share, one after the other. */
export class Split implements Leases {
  readonly #waiting: number[];
  #numDone: number;

  private constructor(waiting: number[], numDone: number) {
    this.#waiting = waiting;
    this.#numDone = numDone;
  }

  static async open(share: Share, { numShards, committed }: LeasesOptions): Promise<Split> {
    const all = shardsOf(share, numShards), done = await committed(), waiting = all.filter((index) => !done.has(index));
    return new Split(waiting, all.length - waiting.length);
  }

  next(): Promise<number | undefined> {
    return Promise.resolve(this.#waiting.shift());
  }
  done(): void {
    this.#numDone++;
  }
  release(index: number): void {
    this.#waiting.unshift(index);
  }
  tell(): void {}
  numDone(): number {
    return this.#numDone;
  }
  [Symbol.asyncDispose](): Promise<void> {
    return Promise.resolve();
  }
}
