/**
 * How shards are handed out to workers, whoever does it: a ledger for the processes of one machine (ledger.ts), a fixed
 * split for many machines (split.ts), a queue for those (queue.ts). Nothing of it is truth: manifests are, and a shard
 * that is made twice is committed once. Called by run.ts.
 */
import type { TokenizerError } from "../errors.ts";

/** Hands out shards to this worker, so that no two work on one shard without need. */
export interface Leases extends AsyncDisposable {
  /**
   * Gives a shard that nobody works on; waits while other workers have all that are left. Undefined when all are done
   * but those that the caller itself has.
   */
  next(signal?: AbortSignal): Promise<number | undefined>;
  /** Says that the shard is committed. */
  done(index: number): void;
  /** Gives an unfinished shard back, for anyone to take. */
  release(index: number): void;
  /** A shard failed for itself: it is tried again later, or given up. Absent where that ends the run. */
  failed?(index: number, error: TokenizerError): void;
  /** Says how many items of a shard are done, for those who ask for the status. */
  tell(index: number, numItems: number): void;
  /** How many of the shards that may be handed out here are committed, as far as is known here. */
  numDone(): number;
}

export interface LeasesOptions {
  /** `Plan.id`. Leases that workers on another plan left are not taken for leases of this one. */
  readonly plan: string;
  readonly numShards: number;
  /**
   * Which shards are committed. Without `among` all are looked for, once at the opening; with it, again and again while
   * waiting, only those few that other workers have.
   */
  committed(among?: readonly number[]): Promise<ReadonlySet<number>>;
}
