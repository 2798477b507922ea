/**
 * What planning and running a corpus are made of: where items are found, how they are prepared, which formats there
 * are. Tests give others of these. Used by planner.ts and run.ts; the real ones are standard.ts.
 */
import type { ShardFormat } from "./format.ts";
import type { Item } from "./item.ts";
import type { Prepared } from "./prepare.ts";
import type { Found, PlaceReader } from "./source.ts";

/** Decodes and resizes items; any number may be in work at a time. */
export interface ItemPreparer extends AsyncDisposable {
  prepare(item: Item, signal?: AbortSignal): Promise<Prepared>;
}

/** Options of finding and preparing: plain values, as they stand in the plan. */
export type ItemOptions = Readonly<Record<string, unknown>>;

export interface Parts {
  /** Checks all options, filled in with what is taken unless given. Throws ARGUMENT. */
  checkOptions(options: ItemOptions, isVideo: boolean): ItemOptions;
  find(inputs: readonly string[], options: ItemOptions, about: FindContext): AsyncIterable<Found>;
  openPlaces(): PlaceReader;
  openPreparer(options: ItemOptions, places: PlaceReader): Promise<ItemPreparer>;
  /** Versions of the programs that decode and resize items of that kind, by name. */
  versions(kind: Item["kind"]): Promise<Readonly<Record<string, string>>>;
  /** Shard formats by name; the first is the default. */
  readonly formats: ReadonlyMap<string, ShardFormat>;
}

export interface FindContext {
  readonly isVideo: boolean;
  /** The folder of the corpus itself, which is never searched for inputs. */
  readonly out: string;
  /** Called with a text that people should read, besides items and refusals. */
  note(text: string): void;
  readonly signal?: AbortSignal | undefined;
}
