/**
 * Works on a plan until all shards, or all of its share, are committed: recovers what a killed process has left, takes
 * shards from the ledger, the split or a queue, pumps their items through the encoder, the tail of one with the head of
 * the next, and writes the set's files when all are there. A finished corpus costs a look at its manifests. Any number
 * of processes may run on one folder. Called by dataset.ts.
 */
import type { z } from "zod";
import { expected } from "../errors.ts";
import { openEncoder } from "./encoder.ts";
import { isShardsFault } from "./failures.ts";
import type { ShardFormat } from "./format.ts";
import type { Item } from "./item.ts";
import type { Leases } from "./leases.ts";
import { openLeases } from "./openleases.ts";
import type { runDatasetOptions } from "./options.ts";
import { openStorage } from "./openstorage.ts";
import { parkedIndices } from "./parked.ts";
import type { Parts } from "./parts.ts";
import type { Arithmetic, Plan } from "./plan.ts";
import { formatOf } from "./planner.ts";
import { ProgressTeller } from "./progress.ts";
import { Pump, type Work } from "./pump.ts";
import { Shard, type ShardDone } from "./shard.ts";
import { agreeOnSplit, shardsOf } from "./split.ts";
import { allEntries, type DatasetStatus, statusOf } from "./status.ts";
import type { Attempt, OnStep, Storage } from "./storage.ts";

type Options = z.output<typeof runDatasetOptions>;

/** Tokenises what is left of a plan; gives what `statusOf` says at the end. */
export async function runPlan(folder: string, o: Options, parts: Parts, onStep?: OnStep): Promise<DatasetStatus> {
  const storage = openStorage(folder, { onStep, signal: o.signal }), plan = await storage.plan();
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
  await using leases = await openLeases(plan, storage, o);
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

/** The numbers of this worker's shards: those of its share, or all. With a queue, parked shards do not count. */
function shardsHere({ plan, o }: Run): number[] {
  return shardsOf(o.shard ?? { index: 0, of: 1 }, plan.numShards);
}

/** How many of this worker's shards are not committed yet. */
async function numLeft(run: Run): Promise<number> {
  const { plan, storage, o } = run, committed = await storage.committed();
  const parked = o.queue === undefined ? new Set<number>() : await parkedIndices(storage);
  return shardsHere(run).filter((index) => !committed.has(plan.stemOf(index)) && !parked.has(index)).length;
}

/** The shards that this process is working on. */
class Worker {
  readonly #run: Run;
  readonly #arithmetic: Arithmetic;
  readonly #leases: Leases;
  readonly #teller: ProgressTeller;
  readonly #open = new Map<Attempt, Promise<void>>();
  /** Shards that failed and went back to `leases`; and the numbers of those that failed since the last commit. */
  readonly #failed = new WeakSet<Shard>();
  readonly #failedAlike = new Set<number>();

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
      const items = await plan.items(index), { shard, fail } = await this.#begin(index, stem, items);
      for (const [position, item] of items.entries()) {
        if (shard.isFailed) break;
        yield { item, put: (outcome) => shard.put(position, outcome), fail };
      }
    }
  }

  async #begin(index: number, stem: string, items: readonly Item[]): Promise<Begun> {
    const { plan, storage, format, o: { allowMissing, onEvent } } = this.#run;
    while (this.#open.size >= mostOpen) await Promise.race(this.#open.values());
    const attempt = await storage.begin(stem, index),
      onDone = ({ quarantined, ...counts }: ShardDone) => {
        this.#open.delete(attempt);
        this.#failedAlike.clear();
        this.#leases.done(index);
        this.#teller.remove(shard);
        for (const one of quarantined) onEvent?.({ event: "quarantined", shard: index, ...one });
        onEvent?.({ event: "shard", ...counts });
      };
    const writer = await format.open(attempt, plan.facts), arithmetic = this.#arithmetic;
    const shard = new Shard({ index, items, attempt, writer, plan: plan.id, arithmetic, allowMissing, onDone });
    this.#teller.add(shard);
    this.#open.set(attempt, shard.done.catch(() => {})); // a failure is the pump's to tell
    return { shard, fail: (error) => this.#giveUp(shard, attempt, error) };
  }

  /**
   * Leaves a shard that failed for itself to the leases. False where that cannot be, or so many in a row are not for
   * themselves.
   */
  #giveUp(shard: Shard, attempt: Attempt, error: unknown): boolean {
    if (this.#failed.has(shard)) return true; // another of its items
    if (!this.#leases.failed || !isShardsFault(error)) return false;
    if (this.#failedAlike.add(shard.index).size === mostAlike) return false;
    this.#failed.add(shard);
    shard.fail(error);
    this.#teller.drop(shard);
    this.#open.set(attempt, attempt.discard().finally(() => this.#open.delete(attempt)));
    this.#leases.failed(shard.index, error);
    return true;
  }
}

/** A shard in work; `fail` is told of a failure, and says whether it is the shard's. */
interface Begun {
  readonly shard: Shard;
  fail(error: unknown): boolean;
}
/**
 * Shards that are begun and not committed: the one whose items are being read, and those before it whose items are
 * still being encoded.
 */
const mostOpen = 4;
/** So many shards that fail one after the other, with none committed between, are taken for a machine that fails. */
const mostAlike = 4;
