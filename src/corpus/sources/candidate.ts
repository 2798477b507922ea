/** What a source finds before find.ts makes items of it: keys are wishes yet, and a video is not cut into clips. */
import type { Identity, Item, Place, Sidecar } from "../item.ts";
import type { Refused } from "../source.ts";
import type { Places } from "../places.ts";

export interface Candidate {
  /** The item's name in messages; it distinguishes items that would have the same key. */
  readonly name: string;
  /** Keys that the item could have; the first that is free is taken. */
  readonly keys: readonly string[];
  /** Whether a caller gave the key. Then it is taken as it is, or the item is refused. */
  readonly isKeyGiven?: boolean;
  readonly kind: Item["kind"];
  readonly place: Place;
  readonly identity: Identity;
  readonly sidecars: readonly Sidecar[];
}

export type Seen = { readonly candidate: Candidate } | { readonly refused: Refused };

/** What all sources need to know: options, and where to report what was left out. */
export interface Search {
  readonly kind: Item["kind"];
  /** Where the corpus is written: this folder is not searched. */
  readonly out: string | undefined;
  readonly svg: boolean;
  /** The field of the members that are the samples, where a sample of a tar has several pictures. */
  readonly member: string | undefined;
  /** Parquet files only: the column of pictures or videos, and the columns that go along. */
  readonly column: string | undefined;
  readonly columns: readonly string[] | undefined;
  readonly places: Places;
  readonly signal: AbortSignal | undefined;
  /** Called with a text that people should read, besides items and refusals. */
  readonly note: (text: string) => void;
}

/** Counts in words, the largest first: "12 .txt, 3 .md". */
export function tellCounts(counts: ReadonlyMap<string, number>): string {
  const sorted = [...counts].sort(([a, m], [b, n]) => n - m || (a < b ? -1 : 1));
  const told = sorted.slice(0, 8).map(([what, count]) => `${count} ${what}`);
  return told.join(", ") + (sorted.length > told.length ? ", and others" : "");
}

export function count(counts: Map<string, number>, what: string): void {
  counts.set(what, (counts.get(what) ?? 0) + 1);
}

/** Compares two texts by code units: the same order on every machine, whatever its language. */
export function byCodeUnits(a: string, b: string): number {
  return a < b ? -1 : a > b ? 1 : 0;
}
