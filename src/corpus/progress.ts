/**
 * Tells how far a run is, twice a second and at its end: rates over the last seconds, and what is left at them. Called
 * by run.ts.
 */
import type { DatasetProgress, OnEvent } from "./events.ts";
import type { Leases } from "./leases.ts";
import type { Plan } from "./plan.ts";
import type { Pump } from "./pump.ts";
import type { Shard } from "./shard.ts";

const everyMs = 500, windowMs = 15_000;

interface Moment {
  readonly at: number;
  readonly items: number;
  readonly tokens: number;
  readonly pixels: number;
  readonly busyMs: number;
}

export class ProgressTeller implements Disposable {
  readonly #plan: Plan;
  readonly #leases: Leases;
  /** How many shards this worker may be given, and how many items they have. */
  readonly #numShards: number;
  readonly #numItems: number;
  readonly #onEvent: OnEvent | undefined;
  readonly #start = performance.now();
  readonly #shards = new Set<Shard>();
  readonly #moments: Moment[] = [];
  readonly #timer: ReturnType<typeof setInterval> | undefined;
  #pump: Pump | undefined;
  /** Totals over the shards that are done. */
  #items = 0;
  #tokens = 0;
  #quarantined = 0;

  constructor(plan: Plan, leases: Leases, shards: readonly number[], onEvent: OnEvent | undefined) {
    this.#plan = plan;
    this.#leases = leases;
    this.#onEvent = onEvent;
    const numShards = this.#numShards = shards.length;
    const numItems = this.#numItems = shards.reduce((sum, index) => sum + plan.sizeOf(index), 0);
    if (!onEvent) return;
    onEvent({ event: "started", items: this.#committedItems(), numItems, numShards });
    this.#timer = setInterval(() => this.#tell(), everyMs);
  }

  watch(pump: Pump): void {
    this.#pump = pump;
  }
  add(shard: Shard): void {
    this.#shards.add(shard);
  }
  remove(shard: Shard): void {
    this.#shards.delete(shard);
    const { items, tokens, quarantined } = shard.written;
    this.#items += items;
    this.#tokens += tokens;
    this.#quarantined += quarantined;
  }
  /** Forgets a shard that failed: nothing of it was kept. */
  drop(shard: Shard): void {
    this.#shards.delete(shard);
  }

  [Symbol.dispose](): void {
    clearInterval(this.#timer);
    this.#tell();
  }

  #tell(): void {
    if (!this.#onEvent) return;
    for (const shard of this.#shards) this.#leases.tell(shard.index, shard.written.items);
    this.#onEvent({ event: "progress", ...this.#progress() });
  }

  #progress(): DatasetProgress {
    const open = [...this.#shards].map(({ written }) => written);
    const sum = (of: (written: Shard["written"]) => number) => open.reduce((total, written) => total + of(written), 0);
    const { pixels, busyMs, ownRate } = this.#pump?.state ?? { pixels: 0, busyMs: 0, ownRate: undefined };
    const items = this.#items + sum((w) => w.items),
      tokens = this.#tokens + sum((w) => w.tokens),
      at = performance.now();
    const now: Moment = { at, items, tokens, pixels, busyMs };
    while (this.#moments.length > 1 && at - this.#moments[0]!.at > windowMs) this.#moments.shift();
    const before = this.#moments[0] ?? { at: this.#start, items: 0, tokens: 0, pixels: 0, busyMs: 0 };
    this.#moments.push(now);
    const seconds = Math.max((at - before.at) / 1000, 1e-6), itemsPerSecond = (items - before.items) / seconds;
    const all = this.#committedItems() + sum((w) => w.items), numItems = this.#numItems;
    return {
      items: Math.min(all, numItems),
      numItems,
      quarantined: this.#quarantined + sum((w) => w.quarantined),
      tokens,
      seconds: (at - this.#start) / 1000,
      itemsPerSecond,
      tokensPerSecond: (tokens - before.tokens) / seconds,
      ...(ownRate !== undefined && { ownRate: (pixels - before.pixels) / seconds / ownRate }),
      busy: Math.min(1, (busyMs - before.busyMs) / seconds / 1000),
      ...(itemsPerSecond > 0 && { secondsLeft: (numItems - all) / itemsPerSecond }),
    };
  }

  /** Items of committed shards. Note: the last shard may be shorter, but counts as a full one until all are done. */
  #committedItems(): number {
    const done = this.#leases.numDone(), { shardSize } = this.#plan.header;
    return done === this.#numShards ? this.#numItems : Math.min(done * shardSize, this.#numItems);
  }
}
