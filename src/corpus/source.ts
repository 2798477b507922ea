/** What a source of items is, and how an item's bytes come back: the border between sources/ and the rest of the corpus. */
import type { Item, Place } from "./item.ts";

/** What a source could not take: told in the plan's summary and kept in it, never silently left out. */
export interface Refused {
  readonly name: string;
  readonly reason: string;
}

export type Found = { readonly item: Item } | { readonly refused: Refused };

/** Reads bytes of places; keeps what is worth keeping open (tars, parquet row groups) until it is closed. */
export interface PlaceReader extends AsyncDisposable {
  /**
   * All bytes of a place, after checking that what is there is still what was planned. Throws FILE_MISSING or FILE_IO that say what
   * was planned and what is there.
   */
  read(place: Place, identity: Item["identity"], signal?: AbortSignal): Promise<Uint8Array>;
}
