/**
 * What goes with items fails with them; items that are all gone are a disk that is gone; which failures of a run are a
 * shard's alone, and which are worth another try. Whose failure an error is, the item's or the machine's, is in
 * source.ts. Called by pump.ts, shard.ts and run.ts, and by who runs corpora.
 */
import { type ErrorCode, expected, TokenizerError } from "../errors.ts";
import type { Item, Sample } from "./item.ts";
import { isItemsFault, type PlaceReader } from "./source.ts";

/** The bytes of what goes with an item; a failure is the item's, and says of which. */
export async function readSidecars(item: Item, places: PlaceReader, signal: AbortSignal): Promise<Sample["sidecars"]> {
  const all: { field: string; bytes: Uint8Array }[] = [];
  for (const { field, place, identity } of item.sidecars) {
    try {
      all.push({ field, bytes: await places.read(place, identity, signal) });
    } catch (error) {
      if (!isItemsFault(error)) throw error;
      const { code, message, detail } = error;
      throw new TokenizerError(code, `${field} of ${item.key}: ${message}`, { detail, cause: error });
    }
  }
  return all;
}

/**
 * Fails where a shard has nothing left of what was planned: a disk that is not there, rather than that many removed
 * items.
 */
export function checkPresence(missing: number, planned: number, first: string): void {
  if (missing < planned || planned < fewItems) return;
  const message =
    "the items that were planned (allowMissing: true, --allow-missing where they were removed on purpose)";
  throw new ShardFailure(expected(first, message, `none of the shard's ${planned}`, "FILE_IO"));
}
const fewItems = 4;

/** A failure of which the next shard need have nothing, whatever its code. */
class ShardFailure extends TokenizerError {
  constructor({ code, message }: TokenizerError) {
    super(code, message);
  }
}

/** Codes that say that the next shard would fail as this one did. */
const ofMachines: readonly ErrorCode[] = [
  ...["FILE_IO", "FFMPEG", "HUB", "QUEUE", "DEVICE", "THREAD", "LIBRARY", "CANCELLED", "CLOSED"] as const,
];

/**
 * Whether only this shard may have failed, and not the whole run: none of its items is there, they do not fit the
 * format, they take too much memory, or the encoder refuses them. A worker goes on with its other shards, unless those
 * fail alike.
 */
export function isShardsFault(error: unknown): error is TokenizerError {
  return error instanceof ShardFailure || error instanceof TokenizerError && !ofMachines.includes(error.code);
}

/**
 * What the system says of one path again and again: not permitted, there already, no folder or a folder, too large,
 * read-only, …
 */
const lastingErrnos = [1, 13, 17, 20, 21, 22, 27, 30, 36, 40];

/**
 * Whether a run of a corpus that ended so may well succeed when it is run again, here or on another machine: the disk
 * is full or not there (FILE_IO, but for a missing right and its like), memory, threads or the device went, the hub or
 * the queue did not answer, it was cancelled. All else would fail again. `ctok dataset` exits with 75 then.
 */
export function isWorthAnotherTry(error: unknown): boolean {
  if (!(error instanceof TokenizerError)) return false;
  const { code, detail } = error;
  if (code === "FILE_IO") return detail === undefined || !lastingErrnos.includes(detail);
  if (code === "HUB") return detail === undefined || detail >= 429; // 429 and 5xx of HTTP
  return ["MEMORY", "THREAD", "DEVICE", "QUEUE", "CANCELLED"].includes(code);
}
