/**
 * How far a corpus is, from its manifests; what is in work, from the ledger, where there is one. Called by run.ts,
 * dataset.ts.
 */
import { expected } from "../errors.ts";
import { fewAtOnce } from "./atonce.ts";
import { type LeasedShard, leasedShards } from "./ledger.ts";
import { missingOf } from "./missing.ts";
import { type ParkedShard, parkedShards } from "./parked.ts";
import type { Plan, PlanHeader } from "./plan.ts";
import type { Share } from "./split.ts";
import type { Quarantined, ShardEntry, Storage } from "./storage.ts";

export interface DatasetStatus {
  readonly plan: PlanHeader;
  readonly numShards: number;
  readonly numItems: number;
  readonly numRefused: number;
  /**
   * Shards that are committed, and of those: items, the samples and tokens that were made of them, bytes of their
   * files.
   */
  readonly committed: {
    readonly numShards: number;
    readonly numItems: number;
    readonly numSamples: number;
    readonly numTokens: number;
    readonly bytes: number;
  };
  readonly quarantined: readonly Quarantined[];
  /** Shards that processes of this machine are working on. */
  readonly inWork: readonly LeasedShard[];
  /** Only where the corpus was split by `shard`: among how many workers, and which of them have shards to make. */
  readonly split?: { readonly of: number; readonly missing: readonly number[] };
  /** Shards that a queue has given up (`unparkDataset` has them tried again), and why. */
  readonly parked: readonly ParkedShard[];
  /** All shards are committed, and the files of the whole set are there. */
  readonly isComplete: boolean;
}

/**
 * Status of a corpus. `entries`: the manifests to count, such as those of a share; by default those of all committed
 * shards.
 */
export async function statusOf(plan: Plan, storage: Storage, entries?: readonly ShardEntry[]): Promise<DatasetStatus> {
  entries ??= await allEntries(plan, storage);
  const { of, elements, isComplete } = await missingOf(plan, storage);
  const sum = (of: (entry: ShardEntry) => number) => entries.reduce((total, entry) => total + of(entry), 0);
  return {
    plan: plan.header,
    numShards: plan.numShards,
    numItems: plan.header.numItems,
    numRefused: plan.header.numRefused,
    committed: {
      numShards: entries.length,
      numItems: sum(({ numItems }) => numItems),
      numSamples: sum(({ numSamples }) => numSamples),
      numTokens: sum(({ numTokens }) => numTokens),
      bytes: sum(({ files }) => files.reduce((total, { bytes }) => total + bytes, 0)),
    },
    quarantined: entries.flatMap(({ quarantined }) => quarantined),
    inWork: await leasedShards(storage.private, plan.id),
    parked: await parkedShards(plan, storage),
    ...(of !== undefined && elements && { split: { of, missing: elements } }),
    isComplete,
  };
}

/** The entries of all committed shards, or those of a share, in order. Throws FILE_FORMAT for one of another plan. */
export async function allEntries(
  plan: Plan,
  storage: Storage,
  { index, of }: Share = { index: 0, of: 1 },
): Promise<ShardEntry[]> {
  const stems = [...await storage.committed()].filter((stem) => Number(stem) % of === index);
  stems.sort((a, b) => Number(a) - Number(b));
  return await fewAtOnce(stems.length, async (i) => {
    const stem = stems[i]!, entry = await storage.entry(stem);
    if (entry.plan === plan.id && stem === plan.stemOf(entry.index)) return entry;
    throw expected(storage.manifestOf(stem), `a shard of the plan ${plan.id}`, `one of ${entry.plan}`, "FILE_FORMAT");
  }, entriesAtOnce);
}

/** How many manifests are read at once: a store across a network answers many in the time of one. */
const entriesAtOnce = 32;
