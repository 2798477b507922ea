/**
 * Virtual time for work that is real beside it: tasks read and write files as they do, and sleep in seconds that nobody
 * waits for. When all tasks sleep, the clock goes on to the earliest end of a sleep, one at a time, so that a run
 * repeats from its seed alone. Used by cluster.ts.
 */

/**
 * What a task sleeps under. Whoever is dead does nothing more: its sleep ends with Killed, as SIGKILL leaves a process
 * no time.
 */
export interface Life {
  /** Seconds; undefined: alive. */
  diedAt?: number;
}
export class Killed extends Error {}

interface Sleep {
  readonly until: number;
  /** Of two that end at once, the first that began ends first. */
  readonly order: number;
  wake(): void;
}

export class Clock {
  /** Seconds since the beginning. */
  now = 0;
  readonly #sleeps: Sleep[] = [];
  #numAwake = 0;
  #order = 0;
  #allAsleep: () => void = () => {};
  #failure: unknown;

  /** Starts a task once all others sleep. What it throws, but Killed, ends `run`. */
  start(task: () => Promise<void>): void {
    this.#add(0, () => {
      task().catch((error) => {
        if (!(error instanceof Killed)) this.#failure ??= error;
      }).finally(() => this.#fallAsleep());
    });
  }

  /** Resolves so many seconds later; rejects with Killed then, where `life` has ended meanwhile. */
  sleep(seconds: number, life: Life = {}): Promise<void> {
    return new Promise((resolve, reject) => {
      this.#add(seconds, () => life.diedAt === undefined ? resolve() : reject(new Killed()));
      this.#fallAsleep();
    });
  }

  /** Until `isOver` says so. Throws what a task threw. */
  async run(isOver: () => boolean): Promise<void> {
    for (;;) {
      if (this.#numAwake > 0) await new Promise<void>((resolve) => this.#allAsleep = resolve);
      if (this.#failure) throw this.#failure;
      if (isOver()) return;
      const next = this.#first();
      if (!next) throw new Error("expected somebody who goes on, found all tasks at their end");
      this.now = next.until;
      this.#numAwake++;
      next.wake();
    }
  }

  #fallAsleep(): void {
    if (--this.#numAwake === 0) this.#allAsleep();
  }

  /** Into a heap: each sleep ends no later than the two below it. */
  #add(seconds: number, wake: () => void): void {
    const all = this.#sleeps, sleep: Sleep = { until: this.now + seconds, order: this.#order++, wake };
    let at = all.push(sleep) - 1;
    for (let above; at > 0 && isBefore(sleep, all[above = (at - 1) >> 1]!); at = above) all[at] = all[above]!;
    all[at] = sleep;
  }

  #first(): Sleep | undefined {
    const all = this.#sleeps, [first] = all, last = all.pop();
    if (first === last || !last) return first;
    let at = 0;
    for (let below; (below = 2 * at + 1) < all.length; at = below) {
      if (below + 1 < all.length && isBefore(all[below + 1]!, all[below]!)) below++;
      if (isBefore(last, all[below]!)) break;
      all[at] = all[below]!;
    }
    all[at] = last;
    return first;
  }
}

function isBefore(a: Sleep, b: Sleep): boolean {
  return a.until < b.until || a.until === b.until && a.order < b.order;
}
