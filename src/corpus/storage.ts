/**
 * What a place for corpora must do, whichever it is: keep a plan, notes, and shards that come whole, once, whoever
 * makes them and whenever one is killed. A folder is one (folderstorage.ts), a prefix in S3 the other (s3storage.ts);
 * docs/dataset.md and docs/dataset_s3.md prove their steps. A shard is tried in a folder of this machine (attempt.ts),
 * decided, given its names, and committed by its manifest. Called by whoever plans, runs and reads corpora, who get
 * theirs of openstorage.ts.
 */
import { expected } from "../errors.ts";
import type { CommittedShard, ShardFiles } from "./format.ts";
import type { Item, Place } from "./item.ts";
import type { Arithmetic, Plan, PlanStart } from "./plan.ts";
import type { Refused } from "./source.ts";

/** An item that could not be tokenised and is left out of its shard, and why. */
export interface Quarantined {
  readonly key: string;
  readonly place: Place;
  readonly code: string;
  readonly message: string;
}

/** What a manifest file says: the commit of a shard. Nothing in it tells when, where or by whom the shard was made. */
export interface ShardEntry extends CommittedShard {
  readonly format: "ctok-shard-1";
  /** `Plan.id` of the plan that the shard belongs to. */
  readonly plan: string;
  readonly numItems: number;
  readonly numTokens: number;
  /** The arithmetic that made the shard, where the plan allows any. */
  readonly arithmetic: Arithmetic;
  readonly quarantined: readonly Quarantined[];
}

/** What manifest/set.json says: the files of the whole set are there, and so the corpus is complete. */
export interface SetEntry {
  readonly format: "ctok-set-1";
  readonly plan: string;
  readonly files: CommittedShard["files"];
}

/** Called at each step of a commit, which waits for it; a test ends the process in it, or lets others come first. */
export type OnStep = (step: CommitStep, index: number) => void | Promise<void>;
export type CommitStep =
  | "begun"
  | "written"
  | "entered"
  | "decided"
  | "placing"
  | "placed"
  | "committed"
  | "tidied";

/**
 * The store of one corpus. Errors: FILE_MISSING, FILE_IO, FILE_FORMAT; in S3 also ARGUMENT for requests that it will
 * never allow.
 */
export interface Storage {
  /** The location as the caller gave it: a path, or s3://BUCKET/PREFIX. The corpus's files are read below it. */
  readonly folder: string;
  /** A folder of this machine for what may be lost: leases, shards that are being made. */
  readonly private: string;

  /** Opens the plan. Throws FILE_MISSING where there is none. */
  plan(): Promise<Plan>;
  /**
   * Writes the plan of the items found, whole or not at all. Throws ARGUMENT where another plan was written meanwhile,
   * in S3.
   */
  writePlan(start: PlanStart, found: AsyncIterable<Item | Refused>): Promise<Plan>;

  /** Before work: makes what is needed, and refuses a store that does not keep its promises (UNSUPPORTED). */
  prepare(): Promise<void>;
  /** Finishes what was decided, and removes what killed processes have left. */
  recover(): Promise<void>;

  /** The numbers of the committed shards, as file names have them ("00017"). */
  committed(): Promise<Set<string>>;
  isCommitted(stem: string): Promise<boolean>;
  /** The name of a shard's manifest in messages. */
  manifestOf(stem: string): string;
  /** Reads the manifest of a committed shard. Throws FILE_MISSING, FILE_FORMAT. */
  entry(stem: string): Promise<ShardEntry>;
  /** The list of the set's files, which is written after them; undefined where it is not there. */
  setEntry(): Promise<SetEntry | undefined>;
  /**
   * Writes the files of the whole set, by path below the folder, and last of all the list of them. Writing them twice
   * changes nothing.
   */
  writeSet(plan: string, all: ReadonlyMap<string, Uint8Array>): Promise<void>;

  /**
   * A small file that workers leave for each other; the corpus does not depend on it. Undefined where there is none of
   * that name.
   */
  note(name: string): Promise<Uint8Array | undefined>;
  /** Leaves a note, whole or not at all. False where one of that name is there already, which stays. */
  writeNote(name: string, bytes: Uint8Array): Promise<boolean>;
  removeNote(name: string): Promise<void>;
  /** Names of the notes that lie in a folder of notes. */
  notes(folder: string): Promise<string[]>;

  /** Begins a new try at a shard. */
  begin(stem: string, index: number): Promise<Attempt>;
  /**
   * Brings a decided shard to its commit. Several workers may do so at once; one that comes late finds nothing to do.
   */
  settle(stem: string): Promise<void>;
}

/** One try at a shard: its files, and the end of it, one of `commit` and `discard`. */
export interface Attempt extends ShardFiles {
  /** Commits the shard, or finds that another has; gives whether it was this try. */
  commit(about: Omit<ShardEntry, "files" | "stem" | "index" | "format">): Promise<boolean>;
  /**
   * Removes the files, unless a commit is on its way: that comes to its end first. Never throws: the next run removes
   * what is left.
   */
  discard(): Promise<void>;
}

export type Step = (name: CommitStep) => void | Promise<void>;

/** The outcome of a shard: the id of the try that won, and its manifest. */
export interface Decided {
  readonly id: string;
  readonly entry: ShardEntry;
}

export const setName = "set.json";
/** What a killed process has left, where its end cannot be known. */
export const abandonedMs = 86_400_000;

/** A manifest as the bytes of its file. */
export function manifestBytes(entry: ShardEntry | SetEntry): Uint8Array {
  return new TextEncoder().encode(JSON.stringify(entry, undefined, 2) + "\n");
}

/** The shard's number in the name of its manifest, as text; undefined for other names. */
export function stemOfManifest(name: string): string | undefined {
  return /^(\d+)\.json$/.exec(name)?.[1];
}

/** Parses a manifest. Its format and its list of files are checked, and nothing else, as ctok wrote it. */
export function checkedEntry<E extends ShardEntry | SetEntry>(path: string, bytes: Uint8Array, format: E["format"]): E {
  let entry: Partial<E> | null = null;
  try {
    entry = JSON.parse(new TextDecoder("utf-8", { fatal: true }).decode(bytes));
  } catch {
    // No JSON: the check below says so.
  }
  if (entry?.format === format && Array.isArray(entry.files)) return entry as E;
  throw expected(path, `a manifest of ctok dataset ("${format}")`, "another file", "FILE_FORMAT");
}
