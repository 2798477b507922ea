/**
 * How shards are handed out to workers, whoever does it: a ledger for the processes of one machine (ledger.ts), a fixed
 * split for many machines (split.ts), a queue for those (queue.ts). Nothing of it is truth: manifests are, and a shard
 * that is made twice is committed once. Called by run.ts.
 */
import type { TokenizerError } from "../errors.ts";

/** Hands out shards. */
export interface Leases extends AsyncDisposable {
  /**
   * A shard that nobody works on; waits while others work on all that are left. Undefined: all but the caller's own are
   * done.
   */
  next(signal?: AbortSignal): Promise<number | undefined>;
  /** The shard is committed. */
  done(index: number): void;
  /** Gives a shard back. */
  release(index: number): void;
  /** A shard failed for itself: it is tried again later, or given up. Absent where that ends the run. */
  failed?(index: number, error: TokenizerError): void;
  /** How far a shard is, for those who ask. */
  tell(index: number, numItems: number): void;
  /** Of the shards that may be handed out here, those that are committed, as far as is known here. */
  numDone(): number;
}

export interface LeasesOptions {
  /** `Plan.id`: what another plan left is not taken for this one's. */
  readonly plan: string;
  readonly numShards: number;
  /**
   * Which shards are committed: all at the opening; of the few that others are at, with `among`, again and again while
   * waiting.
   */
  committed(among?: readonly number[]): Promise<ReadonlySet<number>>;
}
