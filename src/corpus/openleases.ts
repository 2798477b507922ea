/**
 * Chooses who hands out a run's shards, by its options: a queue, a fixed split, or this machine's ledger. Called by
 * run.ts.
 */
import type { Leases, LeasesOptions } from "./leases.ts";
import { hasSqlite, Ledger } from "./ledger.ts";
import type { RunDatasetOptions } from "./options.ts";
import { park, parkedIndices } from "./parked.ts";
import type { Plan } from "./plan.ts";
import { Queue } from "./queue.ts";
import { Split } from "./split.ts";
import type { Storage } from "./storage.ts";

type Options = Pick<RunDatasetOptions, "shard" | "queue" | "onEvent" | "signal">;

export async function openLeases(plan: Plan, storage: Storage, o: Options): Promise<Leases> {
  const { shard, queue, onEvent, signal } = o, note = (text: string) => onEvent?.({ event: "note", text });
  const options = { plan: plan.id, numShards: plan.numShards, committed: committedIn(plan, storage) };
  if (shard) return await Split.open(shard, options);
  if (queue !== undefined) {
    return await Queue.open(queue, {
      ...options,
      signal,
      note,
      parked: () => parkedIndices(storage),
      async park(index, why) {
        await park(plan, storage, index, why);
        onEvent?.({ event: "parked", shard: index, ...why });
      },
    });
  }
  if (await hasSqlite()) return await Ledger.open(storage.private, options);
  note(
    "this Node has no SQLite (22.13 and later have it): other processes on this corpus would do the same shards; " +
      "use --shard",
  );
  return await Split.open({ index: 0, of: 1 }, options);
}

/**
 * The `committed` of LeasesOptions: at the opening it lists all manifests; while waiting it looks for the few shards
 * that other workers have.
 */
export function committedIn(plan: Plan, storage: Storage): LeasesOptions["committed"] {
  return async (among) => {
    if (!among) return new Set([...await storage.committed()].map(Number));
    const are = await Promise.all(among.map((index) => storage.isCommitted(plan.stemOf(index))));
    return new Set(among.filter((_, i) => are[i]));
  };
}
