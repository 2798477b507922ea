/**
 * Whose failure it is: an item's, which is quarantined and named in the manifest, or the machine's, which ends the run with nothing
 * committed, as another run will do better. Called by pump.ts and shard.ts.
 */
import { type ErrorCode, expected, TokenizerError } from "../errors.ts";
import type { Item, Sample } from "./item.ts";
import type { PlaceReader } from "./source.ts";

/** Codes that blame an item. FILE_IO is both: see below. */
const itemCodes: ReadonlySet<ErrorCode> = new Set([
  "FILE_MISSING",
  "FILE_FORMAT",
  "FILE_IO",
  "IMAGE",
  "VIDEO",
  "SHAPE",
  "VALUE",
  "UNSUPPORTED",
]);
/** What the system refuses for its own reasons: EIO, ENOMEM, EBUSY, ENFILE, EMFILE, ENOSPC, EROFS, ETIMEDOUT, ESTALE, EDQUOT. */
const machineErrnos: ReadonlySet<number> = new Set([5, 12, 16, 23, 24, 28, 30, 110, 116, 122]);

export function isOfItem(error: unknown): error is TokenizerError {
  if (!(error instanceof TokenizerError) || !itemCodes.has(error.code)) return false;
  return error.code !== "FILE_IO" || error.detail === undefined || !machineErrnos.has(error.detail);
}

/** The bytes of what goes with an item; a failure is the item's, and says of which. */
export async function readSidecars(item: Item, places: PlaceReader, signal: AbortSignal): Promise<Sample["sidecars"]> {
  const all: { field: string; bytes: Uint8Array }[] = [];
  for (const { field, place, identity } of item.sidecars) {
    try {
      all.push({ field, bytes: await places.read(place, identity, signal) });
    } catch (error) {
      if (!isOfItem(error)) throw error;
      const { code, message, detail } = error;
      throw new TokenizerError(code, `${field} of ${item.key}: ${message}`, { detail, cause: error });
    }
  }
  return all;
}

/** Fails where a shard has nothing left of what was planned: a disk that is not there, rather than that many removed items. */
export function checkPresence(missing: number, planned: number, first: string): void {
  if (missing < planned || planned < fewItems) return;
  const message = "the items that were planned (allowMissing: true, --allow-missing where they were removed on purpose)";
  throw expected(first, message, `none of the shard's ${planned}`, "FILE_MISSING");
}
const fewItems = 4;
