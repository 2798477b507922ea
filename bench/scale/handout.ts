/**
 * Who works on what in a simulated cluster: a table of leases that run out, or a split that is fixed. Used by
 * cluster.ts.
 */
import type { Clock, Life } from "./clock.ts";

export interface Handout {
  /** A shard for a worker; "wait": nothing is free now; "end": nothing will be. */
  next(worker: number, life: Life): number | "wait" | "end";
  done(index: number): void;
  /** The workers of a life were killed. */
  died(life: Life): void;
  /** The worker at a shard stops for so many seconds, and renews nothing. */
  frozen(index: number, life: Life, seconds: number): void;
  /** All but the manifests is lost. */
  forget(committed: ReadonlySet<number>): void;
}

/** The next free shard for whoever asks; a lease that is not renewed runs out. */
export class LeaseTable implements Handout {
  readonly #clock: Clock;
  readonly #leaseSeconds: number;
  readonly #numShards: number;
  readonly #holders = new Map<number, Life>();
  readonly #done = new Set<number>();
  /** Shards that were given back, before those that nobody had yet. */
  #again: number[] = [];
  #nextNew = 0;

  constructor(numShards: number, clock: Clock, leaseSeconds: number) {
    this.#numShards = numShards;
    this.#clock = clock;
    this.#leaseSeconds = leaseSeconds;
  }

  next(_worker: number, life: Life): number | "wait" {
    for (;;) {
      const index = this.#again.pop() ?? (this.#nextNew < this.#numShards ? this.#nextNew++ : undefined);
      if (index === undefined) return "wait";
      if (this.#done.has(index)) continue;
      this.#holders.set(index, life);
      return index;
    }
  }

  done(index: number): void {
    this.#done.add(index);
    this.#holders.delete(index);
  }

  died(life: Life): void {
    const held = [...this.#holders].flatMap(([index, holder]) => holder === life ? index : []);
    this.#clock.start(async () => {
      await this.#clock.sleep(this.#leaseSeconds);
      for (const index of held) this.#free(index, life);
    });
  }

  frozen(index: number, life: Life, seconds: number): void {
    if (seconds <= this.#leaseSeconds) return;
    this.#clock.start(async () => {
      await this.#clock.sleep(this.#leaseSeconds);
      this.#free(index, life);
    });
  }

  /** Note: a life has several workers, of which each has its own shards. */
  #free(index: number, life: Life): void {
    if (this.#holders.get(index) !== life) return;
    this.#holders.delete(index);
    this.#again.push(index);
  }

  forget(committed: ReadonlySet<number>): void {
    this.#holders.clear();
    this.#done.clear();
    for (const index of committed) this.#done.add(index);
    this.#again = [];
    this.#nextNew = 0;
  }
}

/** Shard k belongs to worker k mod N, who asks for it again when it was killed at it. */
export class Split implements Handout {
  readonly #numShards: number;
  readonly #numWorkers: number;
  readonly #done = new Set<number>();
  /** By worker: shards below are done. */
  readonly #from: number[];

  constructor(numShards: number, numWorkers: number) {
    this.#numShards = numShards;
    this.#numWorkers = numWorkers;
    this.#from = Array.from({ length: numWorkers }, (_, worker) => worker);
  }

  next(worker: number): number | "end" {
    while (this.#done.has(this.#from[worker]!)) this.#from[worker]! += this.#numWorkers;
    return this.#from[worker]! < this.#numShards ? this.#from[worker]! : "end";
  }

  done(index: number): void {
    this.#done.add(index);
  }
  died(): void {}
  frozen(): void {}
  forget(): void {}
}
