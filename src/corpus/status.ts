/** How far a corpus is, from its manifests; what is in work, from the ledger, where there is one. Called by run.ts and dataset.ts. */
import { expected } from "../errors.ts";
import { fewAtOnce } from "./atonce.ts";
import { type LeasedShard, leasedShards } from "./ledger.ts";
import type { Plan, PlanHeader } from "./plan.ts";
import type { Quarantined, ShardEntry, Storage } from "./storage.ts";

export interface DatasetStatus {
  readonly plan: PlanHeader;
  readonly numShards: number;
  readonly numItems: number;
  readonly numRefused: number;
  /** Shards that are committed, and of those: items, the samples and tokens that were made of them, bytes of their files. */
  readonly committed: {
    readonly numShards: number;
    readonly numItems: number;
    readonly numSamples: number;
    readonly numTokens: number;
    readonly bytes: number;
  };
  readonly quarantined: readonly Quarantined[];
  /** Shards that processes of this machine are at. */
  readonly inWork: readonly LeasedShard[];
  /** All shards are committed, and the set's files are there. */
  readonly isComplete: boolean;
}

export async function statusOf(plan: Plan, storage: Storage, given?: readonly ShardEntry[]): Promise<DatasetStatus> {
  const entries = given ?? await allEntries(plan, storage);
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
    isComplete: entries.length === plan.numShards && (await storage.setEntry())?.plan === plan.id,
  };
}

/** The entries of all committed shards, in order. Throws FILE_FORMAT for one of another plan. */
export async function allEntries(plan: Plan, storage: Storage): Promise<ShardEntry[]> {
  const stems = [...await storage.committed()].sort((a, b) => Number(a) - Number(b));
  return await fewAtOnce(stems.length, async (i) => {
    const stem = stems[i]!, entry = await storage.entry(stem);
    if (entry.plan !== plan.id || stem !== plan.stemOf(entry.index)) {
      throw expected(storage.manifestOf(stem), `a shard of the plan ${plan.id}`, `one of ${entry.plan}`, "FILE_FORMAT");
    }
    return entry;
  }, entriesAtOnce);
}

/** Of a store each costs a request. */
const entriesAtOnce = 16;
