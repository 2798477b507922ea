/**
 * What a source of items is, and how an item's bytes come back: the border between sources/ and the rest of the corpus.
 */
import { TokenizerError } from "../errors.ts";
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
   * All bytes of a place, after checking that what is there is still what was planned. Throws FILE_MISSING or FILE_IO
   * that say what was planned and what is there.
   */
  read(place: Place, identity: Item["identity"], signal?: AbortSignal): Promise<Uint8Array>;
}

/**
 * Error codes of the system that concern one path only: no right to read it, a folder, a name too long, circular links.
 */
const errnosOfPaths = [1, 13, 21, 36, 40];

/**
 * Whether an error is that of an item, which is then set aside, or else of the machine: a full disk, too many open
 * files, no FFmpeg, no memory. A run stops at those, as every item after it would fail, too. Note: an FFmpeg that ended
 * early counts as the item's.
 */
export function isItemsFault(error: unknown): error is TokenizerError {
  if (!(error instanceof TokenizerError)) return false;
  const { code, detail } = error;
  if (code === "FILE_IO") return detail === undefined || errnosOfPaths.includes(detail);
  if (code === "FFMPEG") return detail !== undefined; // frames that it read
  return ["FILE_MISSING", "FILE_FORMAT", "IMAGE", "VIDEO", "UNSUPPORTED"].includes(code);
}
