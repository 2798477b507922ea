/**
 * What planning and running a corpus tell while they work: plain objects, which `ctok dataset --json` prints one a
 * line.
 */
import type { Quarantined } from "./storage.ts";

/** How far a run is. Counts of items and tokens are those of the corpus and of this process, each as named. */
export interface DatasetProgress {
  /** Items of the corpus, or with `shard` of the share, that are done, by any process; and all. */
  readonly items: number;
  readonly numItems: number;
  /** This run's quarantined items and tokens, and the seconds since its start. */
  readonly quarantined: number;
  readonly tokens: number;
  readonly seconds: number;
  /** Rates of this process over the last seconds. */
  readonly itemsPerSecond: number;
  readonly tokensPerSecond: number;
  /**
   * The rate of pixels, as a part of that at which the encoder alone did this run's first pictures; absent until that
   * is known. It is above 1 where the machine had less else to do later.
   */
  readonly ownRate?: number;
  /** Part of the time in which the encoder had something to do. */
  readonly busy: number;
  /** Seconds until all is done at the present rate; absent while no rate is known. */
  readonly secondsLeft?: number;
}

export type DatasetEvent =
  /** The model is being opened, and it is open: a failure between the two is that of the model. */
  | { readonly event: "opening"; readonly model: string }
  | { readonly event: "opened"; readonly model: string }
  /** Sent while the planner finds items. */
  | { readonly event: "planning"; readonly numItems: number; readonly numRefused: number }
  | { readonly event: "refused"; readonly name: string; readonly reason: string }
  /** Says in words what was left out, or what else people should know. */
  | { readonly event: "note"; readonly text: string }
  | { readonly event: "planned"; readonly numItems: number; readonly numRefused: number; readonly numShards: number }
  /** Work begins on the corpus or the share; `items` of it are done already. */
  | { readonly event: "started"; readonly items: number; readonly numItems: number; readonly numShards: number }
  | ({ readonly event: "progress" } & DatasetProgress)
  | ({ readonly event: "quarantined"; readonly shard: number } & Quarantined)
  /** A queue gave up a shard after so many tries. */
  | {
    readonly event: "parked";
    readonly shard: number;
    readonly code: string;
    readonly message: string;
    readonly attempts: number;
  }
  /** A shard is committed; `isTwice`: by another process, while this one made it, too. */
  | {
    readonly event: "shard";
    readonly index: number;
    readonly numItems: number;
    readonly numSamples: number;
    readonly numTokens: number;
    readonly isTwice: boolean;
  };

export type OnEvent = (event: DatasetEvent) => void;
