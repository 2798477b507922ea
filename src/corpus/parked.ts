/**
 * Shards that a queue has given up, as each try at them failed for the shard itself or ended its worker: notes in the
 * corpus, one a shard, which all workers and `status` see without the queue. Who removes a note asks for another try.
 * Called by run.ts, status.ts and dataset.ts.
 */
import { basename, join } from "node:path";
import type { Plan } from "./plan.ts";
import type { Storage } from "./storage.ts";

/** Why a queue gave a shard up: its last error, and after how many attempts. */
export interface WhyParked {
  readonly code: string;
  readonly message: string;
  readonly attempts: number;
}

export interface ParkedShard extends WhyParked {
  readonly index: number;
}

const folder = "parked";

export async function park(plan: Plan, storage: Storage, index: number, why: WhyParked): Promise<void> {
  await storage.writeNote(join(folder, plan.stemOf(index)), new TextEncoder().encode(JSON.stringify(why)));
}

/** Numbers of the shards that are parked, without those that were committed since. */
export async function parkedIndices(storage: Storage): Promise<Set<number>> {
  const stems = (await storage.notes(folder)).map((name) => basename(name));
  if (stems.length === 0) return new Set();
  const committed = await storage.committed();
  return new Set(stems.filter((stem) => !committed.has(stem)).map(Number));
}

/** The parked shards with what their notes say: the error and the number of attempts. */
export async function parkedShards(plan: Plan, storage: Storage): Promise<ParkedShard[]> {
  const all: ParkedShard[] = [];
  for (const index of await parkedIndices(storage)) {
    const bytes = await storage.note(join(folder, plan.stemOf(index)));
    if (bytes) all.push({ index, ...read(bytes) });
  }
  return all;
}

/** Removes all notes; gives the shards that are to be made now. */
export async function unpark(plan: Plan, storage: Storage): Promise<number[]> {
  const found = await parkedIndices(storage);
  for (const name of await storage.notes(folder)) await storage.removeNote(name);
  return [...found].filter((index) => index < plan.numShards);
}

/** Reads a note. Note: its existence alone parks the shard, whatever somebody may have written into it. */
function read(bytes: Uint8Array): WhyParked {
  try {
    const { code, message, attempts } = JSON.parse(new TextDecoder().decode(bytes));
    return { code: String(code), message: String(message), attempts: Number(attempts) };
  } catch {
    return { code: "INTERNAL", message: "its note cannot be read", attempts: 0 };
  }
}
