/**
 * What of a corpus is not there yet, and which workers of its split have it to make: for who starts workers again.
 * Called by dataset.ts.
 */
import { basename } from "node:path";
import { expected } from "../errors.ts";
import type { Plan } from "./plan.ts";
import { splitOf, workersOf } from "./split.ts";
import type { Storage } from "./storage.ts";

export interface DatasetMissing {
  /** Numbers of the shards that are not committed, ascending. */
  readonly shards: readonly number[];
  /**
   * How many workers the corpus is split among, and which of them have missing shards, ascending; absent where it is
   * not split.
   */
  readonly of?: number;
  readonly elements?: readonly number[];
  /** Those of `shards` that a queue has given up: `datasetStatus` says why. */
  readonly parked: readonly number[];
  /** All shards are committed, and the files of the whole set are written. */
  readonly isComplete: boolean;
}

/**
 * Lists the missing shards. `of`: into how many shares the corpus will be split, where it is not split yet. Throws
 * ARGUMENT where it is split into another number.
 */
export async function missingOf(plan: Plan, storage: Storage, of?: number): Promise<DatasetMissing> {
  const said = await splitOf(storage, plan), committed = await storage.committed();
  if (of !== undefined && said !== undefined && said !== of) {
    throw expected(storage.folder, `${said} workers, as this corpus is split`, of);
  }
  const all = Array.from({ length: plan.numShards }, (_, index) => index);
  const shards = all.filter((index) => !committed.has(plan.stemOf(index))), missing = new Set(shards);
  const isComplete = shards.length === 0 && (await storage.setEntry())?.plan === plan.id;
  const workers = said ?? of, parked = (await storage.notes("parked")).map((name) => Number(basename(name)));
  return {
    shards,
    ...(workers !== undefined && { of: workers, elements: workersOf(shards, workers, isComplete) }),
    parked: parked.filter((index) => missing.has(index)),
    isComplete,
  };
}
