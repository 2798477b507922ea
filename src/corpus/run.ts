/**
 * Works on a plan until all shards, or all of its share, are committed: recovers what a killed process has left, takes shards from
 * the ledger or the split, pumps their items through the encoder, the tail of one with the head of the next, and writes the set's
 * files when all are there. A finished corpus costs a look at its manifests. Any number of processes may run on one folder.
 * Called by dataset.ts.
 */
import type { z } from "zod";
import { expected } from "../errors.ts";
import { openEncoder } from "./encoder.ts";
import type { ShardFormat } from "./format.ts";
import type { Item } from "./item.ts";
import type { Leases, LeasesOptions } from "./leases.ts";
import { hasSqlite, Ledger } from "./ledger.ts";
import type { runDatasetOptions } from "./options.ts";
import type { Parts } from "./parts.ts";
import { type Arithmetic, Plan } from "./plan.ts";
import { formatOf } from "./planner.ts";
import { ProgressTeller } from "./progress.ts";
import { Pump, type Work } from "./pump.ts";
import { Shard, type ShardDone } from "./shard.ts";
import { agreeOnSplit, shardsOf, Split } from "./split.ts";
import { allEntries, type DatasetStatus, statusOf } from "./status.ts";
import { type Attempt, type OnStep, Storage } from "./storage.ts";

type Options = z.output<typeof runDatasetOptions>;

/** Runs a plan; gives what `statusOf` says in the end. */
export async function runPlan(folder: string, o: Options, parts: Parts, onStep?: OnStep): Promise<DatasetStatus> {
  const plan = await Plan.open(folder), storage = new Storage(folder, onStep);
  const format = formatOf(plan.header.shardFormat, parts);
  await storage.prepare();
  if (o.shard) await agreeOnSplit(storage, plan, o.shard.of, o.resplit);
  await storage.recover();
  const run = { plan, storage, format, parts, o };
  if (await numLeft(run) > 0) await workOn(run);
  const isAll = (await storage.committed()).size >= plan.numShards; // else others are at their shares
  const entries = await allEntries(plan, storage, isAll ? undefined : o.shard);
  if (isAll && !await storage.setEntry()) await storage.writeSet(plan.id, format.setFiles(entries, plan.facts));
  const status = await statusOf(plan, storage, entries);
  return status.isComplete && !isAll ? await statusOf(plan, storage) : status; // another finished it meanwhile
}

interface Run {
  readonly plan: Plan;
  readonly storage: Storage;
  readonly format: ShardFormat;
  readonly parts: Parts;
  readonly o: Options;
}

async function workOn(run: Run): Promise<void> {
  const { plan, storage, parts, o } = run;
  const model = o.model ?? plan.header.model.at;
  o.onEvent?.({ event: "opening", model });
  await using encoder = await openEncoder(plan, o, await parts.versions(plan.header.model.isVideo ? "video" : "image"));
  o.onEvent?.({ event: "opened", model });
  await using places = parts.openPlaces();
  await using preparer = await parts.openPreparer(plan.header.options, places);
  await using leases = await openLeases(run);
  using teller = new ProgressTeller(plan, leases, shardsHere(run), o.onEvent);
  for (let left = Infinity; left > 0;) {
    const { model: { name: model, source }, window } = plan.header,
      { batch, readers, signal } = o,
      origin = { model, source };
    const pump = new Pump({ encoder: encoder.tokenizer, places, preparer, origin, window, batch, readers, signal });
    await new Worker(run, encoder.arithmetic, leases, teller).work(pump);
    const now = await numLeft(run);
    if (now >= left) throw expected(storage.folder, "all shards committed", `${now} that are not`, "INTERNAL");
    left = now;
  }
}

/** The shards that this process is here for: those of its share, or all. */
function shardsHere({ plan, o }: Run): number[] {
  return shardsOf(o.shard ?? { index: 0, of: 1 }, plan.numShards);
}

/** How many of those are not committed. */
async function numLeft(run: Run): Promise<number> {
  const committed = await run.storage.committed();
  return shardsHere(run).filter((index) => !committed.has(run.plan.stemOf(index))).length;
}

async function openLeases({ plan, storage, o }: Run): Promise<Leases> {
  const options = { plan: plan.id, numShards: plan.numShards, committed: committedIn(plan, storage) };
  if (o.shard) return await Split.open(o.shard, options);
  if (await hasSqlite()) return await Ledger.open(storage.private, options);
  o.onEvent?.({ event: "note", text: alone });
  return await Split.open({ index: 0, of: 1 }, options);
}

const alone =
  "this Node has no SQLite (22.13 and later have it): other processes on this corpus would do the same shards; use --shard";

/** For leases: all names are read once, at the opening; while waiting, the few shards that others are at are looked for. */
export function committedIn(plan: Plan, storage: Storage): LeasesOptions["committed"] {
  return async (among) => {
    if (!among) return new Set([...await storage.committed()].map(Number));
    const are = await Promise.all(among.map((index) => storage.isCommitted(plan.stemOf(index))));
    return new Set(among.filter((_, i) => are[i]));
  };
}

/** The shards that this process has in work. */
class Worker {
  readonly #run: Run;
  readonly #arithmetic: Arithmetic;
  readonly #leases: Leases;
  readonly #teller: ProgressTeller;
  readonly #open = new Map<Attempt, Promise<void>>();

  constructor(run: Run, arithmetic: Arithmetic, leases: Leases, teller: ProgressTeller) {
    this.#run = run;
    this.#arithmetic = arithmetic;
    this.#leases = leases;
    this.#teller = teller;
  }

  async work(pump: Pump): Promise<void> {
    this.#teller.watch(pump);
    try {
      await pump.run((signal) => this.#works(signal));
    } finally {
      for (const attempt of this.#open.keys()) await attempt.discard();
    }
  }

  async *#works(signal: AbortSignal): AsyncGenerator<Work> {
    const { plan, storage } = this.#run;
    for (let index; (index = await this.#leases.next(signal)) !== undefined;) {
      const stem = plan.stemOf(index);
      await storage.settle(stem); // of one that was killed in its commit while we were running
      if (await storage.isCommitted(stem)) {
        this.#leases.done(index);
        continue;
      }
      const items = await plan.items(index), shard = await this.#begin(index, stem, items);
      for (const [position, item] of items.entries()) {
        yield { item, put: (outcome) => shard.put(position, outcome) };
      }
    }
  }

  async #begin(index: number, stem: string, items: readonly Item[]): Promise<Shard> {
    const { plan, storage, format, o: { allowMissing, onEvent } } = this.#run;
    while (this.#open.size >= mostOpen) await Promise.race(this.#open.values());
    const attempt = await storage.begin(stem, index),
      onDone = ({ quarantined, ...counts }: ShardDone) => {
        this.#open.delete(attempt);
        this.#leases.done(index);
        this.#teller.remove(shard);
        for (const one of quarantined) onEvent?.({ event: "quarantined", shard: index, ...one });
        onEvent?.({ event: "shard", ...counts });
      };
    const writer = await format.open(attempt, plan.facts), arithmetic = this.#arithmetic;
    const shard = new Shard({ index, items, attempt, writer, plan: plan.id, arithmetic, allowMissing, onDone });
    this.#teller.add(shard);
    this.#open.set(attempt, shard.done.catch(() => {})); // a failure is the pump's to tell
    return shard;
  }
}
/** Shards begun and not committed: the one that is fed, and those before it that are not done. */
const mostOpen = 4;
