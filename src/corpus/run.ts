/**
 * Works on a plan until all shards are committed: recovers what a killed process has left, takes shards from the ledger, pumps
 * their items through the encoder, the tail of one with the head of the next, and writes the set's files at the end. A finished
 * corpus costs a look at its manifests. Any number of processes may run on one folder. Called by dataset.ts.
 */
import type { z } from "zod";
import { expected } from "../errors.ts";
import { openEncoder } from "./encoder.ts";
import type { ShardFormat } from "./format.ts";
import type { Item } from "./item.ts";
import type { Leases } from "./leases.ts";
import { Ledger } from "./ledger.ts";
import type { runDatasetOptions } from "./options.ts";
import { openStorage } from "./openstorage.ts";
import type { Parts } from "./parts.ts";
import type { Arithmetic, Plan } from "./plan.ts";
import { formatOf } from "./planner.ts";
import { ProgressTeller } from "./progress.ts";
import { Pump, type Work } from "./pump.ts";
import { Shard, type ShardDone } from "./shard.ts";
import { allEntries, type DatasetStatus, statusOf } from "./status.ts";
import type { Attempt, OnStep, Storage } from "./storage.ts";

type Options = z.output<typeof runDatasetOptions>;

/** Runs a plan; gives what `statusOf` says in the end. */
export async function runPlan(folder: string, o: Options, parts: Parts, onStep?: OnStep): Promise<DatasetStatus> {
  const storage = openStorage(folder, { onStep, signal: o.signal }), plan = await storage.plan();
  const format = formatOf(plan.header.shardFormat, parts);
  await storage.prepare();
  await storage.recover();
  if ((await storage.committed()).size < plan.numShards) await workOn({ plan, storage, format, parts, o });
  const entries = await allEntries(plan, storage);
  if (!await storage.setEntry()) await storage.writeSet(plan.id, format.setFiles(entries, plan.facts));
  return await statusOf(plan, storage, entries);
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
  using teller = new ProgressTeller(plan, leases, o.onEvent);
  for (let left = Infinity; left > 0;) {
    const { model: { name: model, source }, window } = plan.header,
      { batch, readers, signal } = o,
      origin = { model, source };
    const pump = new Pump({ encoder: encoder.tokenizer, places, preparer, origin, window, batch, readers, signal });
    await new Worker(run, encoder.arithmetic, leases, teller).work(pump);
    const now = plan.numShards - (await storage.committed()).size;
    if (now >= left) throw expected(storage.folder, "all shards committed", `${now} that are not`, "INTERNAL");
    left = now;
  }
}

function openLeases({ plan, storage }: Run): Promise<Leases> {
  const committed = async () => new Set([...await storage.committed()].map(Number));
  return Ledger.open(storage.private, { plan: plan.id, numShards: plan.numShards, committed });
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
