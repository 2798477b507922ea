/**
 * Where a corpus lies, and how a shard gets there: whole, once, whoever makes it and whenever it is killed. All that touches the
 * folder's shards and manifests is here; another kind of storage would be another such file. docs/dataset.md proves the steps:
 *
 *   pending/SHARD-WRITER-ID/   a shard that is being made: its files under names that nobody else has, then entry.json, all synced
 *   decided/SHARD/             the same folder renamed: one rename wins, as a folder that is not empty is never replaced
 *   SHARD.tar, …               its files renamed to their names, then
 *   manifest/SHARD.json        its entry: from here on the shard is committed and never touched again
 *
 * Who finds a decided shard finishes it, so nothing depends on two workers making the same bytes. Called by shard.ts and run.ts.
 */
import { createHash, randomBytes } from "node:crypto";
import { existsSync } from "node:fs";
import { type FileHandle, link, mkdir, open, readdir, rename, rm, rmdir, stat } from "node:fs/promises";
import { dirname, join } from "node:path";
import { expected, TokenizerError } from "../errors.ts";
import { io, isWriterGone, readWholeFile, syncFolder, writeFileAtomic, writerName } from "../files.ts";
import type { CommittedShard, ShardFile, ShardFiles } from "./format.ts";
import type { Place } from "./item.ts";
import type { Arithmetic } from "./plan.ts";

/** An item that is not in its shard, and why. */
export interface Quarantined {
  readonly key: string;
  readonly place: Place;
  readonly code: string;
  readonly message: string;
}

/** What a manifest file says: the commit of a shard. Nothing in it tells when, where or by whom the shard was made. */
export interface ShardEntry extends CommittedShard {
  readonly format: "ctok-shard-1";
  /** Of the plan: `Plan.id`. */
  readonly plan: string;
  readonly numItems: number;
  readonly numTokens: number;
  /** What made it, where the plan allows any. */
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

const entryName = "entry.json", setName = "set.json", bufferBytes = 1 << 20;
/** What a killed process has left, where its end cannot be known. */
const abandonedMs = 86_400_000;

export class Storage {
  readonly folder: string;
  readonly #onStep: OnStep;

  constructor(folder: string, onStep: OnStep = () => {}) {
    this.folder = folder;
    this.#onStep = onStep;
  }

  /** Where this machine keeps what may be lost: leases, pending shards. */
  get private(): string {
    return join(this.folder, ".ctok");
  }
  get #manifests(): string {
    return join(this.folder, "manifest");
  }
  manifestOf(stem: string): string {
    return join(this.#manifests, `${stem}.json`);
  }
  get #notes(): string {
    return join(this.private, "notes");
  }
  #decidedOf(stem: string): string {
    return join(this.private, "decided", stem);
  }

  /** Makes the folders. */
  async prepare(): Promise<void> {
    for (const folder of [this.#manifests, join(this.private, "pending"), join(this.private, "decided")]) {
      await io(folder, "write", mkdir(folder, { recursive: true }));
    }
  }

  /** The stems of the shards that are committed. */
  async committed(): Promise<Set<string>> {
    const names = await readdir(this.#manifests).catch(() => []);
    return new Set(names.flatMap((name) => /^(\d+)\.json$/.exec(name)?.[1] ?? []));
  }

  isCommitted(stem: string): Promise<boolean> {
    return Promise.resolve(existsSync(this.manifestOf(stem)));
  }

  /** The entry of a committed shard. Throws FILE_MISSING, FILE_FORMAT. */
  async entry(stem: string): Promise<ShardEntry> {
    const path = this.manifestOf(stem);
    return checked<ShardEntry>(path, await readWholeFile(path), "ctok-shard-1");
  }

  /** The list of the set's files, which is written after them; undefined where it is not there. */
  async setEntry(): Promise<SetEntry | undefined> {
    const path = join(this.#manifests, setName), bytes = await readWholeFile(path).catch(missingAsUndefined);
    return bytes && checked<SetEntry>(path, bytes, "ctok-set-1");
  }

  /** Files of the whole set by path below the folder, and last of all their list. Done twice it is the same. */
  async writeSet(plan: string, all: ReadonlyMap<string, Uint8Array>): Promise<void> {
    const files: SetEntry["files"][number][] = [];
    for (const [name, bytes] of [...all].sort(([a], [b]) => a < b ? -1 : 1)) {
      const path = join(this.folder, name);
      await io(path, "write", mkdir(dirname(path), { recursive: true }));
      await writeFileAtomic(path, bytes);
      await syncFolder(dirname(path));
      files.push({ name, bytes: bytes.length, sha256: createHash("sha256").update(bytes).digest("hex") });
    }
    const entry: SetEntry = { format: "ctok-set-1", plan, files };
    await this.#writeManifest(setName, entry);
  }

  /** A small file that workers leave each other; nothing of it is truth. Undefined where it is not there. */
  note(name: string): Promise<Uint8Array | undefined> {
    return readWholeFile(join(this.#notes, name)).catch(missingAsUndefined);
  }

  /** Leaves a note, whole or not at all. False where one of that name is there already, which stays. */
  async writeNote(name: string, bytes: Uint8Array): Promise<boolean> {
    const path = join(this.#notes, name), pending = `${path}-${writerName}-${randomBytes(8).toString("hex")}.tmp`;
    await io(path, "write", mkdir(dirname(path), { recursive: true }));
    try {
      await writeSynced(pending, bytes);
      return await link(pending, path).then(() => true, (error) => {
        return error.code === "EEXIST" ? false : io(path, "write", Promise.reject(error));
      });
    } finally {
      await rm(pending, { force: true });
    }
  }

  removeNote(name: string): Promise<void> {
    const path = join(this.#notes, name);
    return io(path, "write", rm(path, { force: true }));
  }

  /** Names of notes in a folder of them. */
  async notes(folder: string): Promise<string[]> {
    const names = await readdir(join(this.#notes, folder)).catch(() => []);
    return names.filter((name) => !name.endsWith(".tmp")).sort().map((name) => join(folder, name));
  }

  /** Finishes what was decided, and removes what killed processes have left. */
  async recover(): Promise<void> {
    for (const stem of await readdir(join(this.private, "decided")).catch(() => [])) await this.settle(stem);
    const pending = join(this.private, "pending");
    for (const name of await readdir(pending).catch(() => [])) {
      const path = join(pending, name), [, writer] = /^\d+-([0-9a-f]+-\d+)-[0-9a-f]+$/.exec(name) ?? [];
      const found = await stat(path).catch(() => undefined);
      const isOld = found !== undefined && Date.now() - found.mtimeMs > abandonedMs;
      if (writer && isWriterGone(writer) || isOld) await rm(path, { recursive: true, force: true }).catch(() => {});
    }
  }

  /** A new try at a shard. */
  async begin(stem: string, index: number): Promise<Attempt> {
    const id = randomBytes(8).toString("hex"), folder = join(this.private, "pending", `${stem}-${writerName}-${id}`);
    await io(folder, "write", mkdir(folder, { recursive: true }));
    await this.#onStep("begun", index);
    return new Attempt(this, { stem, index, id, folder });
  }

  /** For Attempt: the winner's files get their names. False where another was first; the shard is committed in either case. */
  async decide({ stem, index, folder }: Try, entry: object): Promise<boolean> {
    const step = (name: CommitStep) => this.#onStep(name, index);
    await step("written");
    await writeSynced(join(folder, entryName), new TextEncoder().encode(JSON.stringify(entry)));
    await syncFolder(folder);
    await step("entered");
    const decided = this.#decidedOf(stem);
    const isFirst = !await this.isCommitted(stem) && await rename(folder, decided).then(() => true, (error) => {
      if (["ENOTEMPTY", "EEXIST"].includes(error.code)) return false;
      return io(decided, "write", Promise.reject(error));
    });
    if (isFirst) {
      await syncFolder(dirname(decided));
      await step("decided");
    } else await rm(folder, { recursive: true, force: true });
    await this.settle(stem, step);
    return isFirst;
  }

  /** Takes a decided shard to its commit. Several may do so at once; who comes late finds nothing to do. */
  async settle(stem: string, step: Step = () => {}): Promise<void> {
    const decided = this.#decidedOf(stem);
    if (!existsSync(decided)) return;
    // Read first, looked at then: what was decided after a commit, by who had looked before it, is seen to be late.
    const said = await readWholeFile(join(decided, entryName)).catch(missingAsUndefined);
    if (said && !await this.isCommitted(stem)) await this.#place(decided, JSON.parse(new TextDecoder().decode(said)), step);
    if (!await this.isCommitted(stem)) return; // emptied by another, who has not committed: impossible, and so left to be looked at
    await rm(join(decided, entryName), { force: true });
    // Late files of one who lost, after the winner had tidied up.
    for (const name of await readdir(decided).catch(() => [])) await rm(join(decided, name), { force: true });
    await rmdir(decided).catch(() => {});
    await step("tidied");
  }

  /** Note: names within a decided folder begin with the try's own id, so that nobody can take the file of another try for it. */
  async #place(decided: string, { id, entry }: Decided, step: Step): Promise<void> {
    for (const { name, bytes } of entry.files) {
      const target = join(this.folder, name);
      await rename(join(decided, pendingName(id, name)), target).catch(async (error) => {
        if (error.code !== "ENOENT") return await io(target, "write", Promise.reject(error));
        const found = await stat(target).catch(() => undefined); // placed before, by who was killed or is as far as we are
        if (found?.size !== bytes) throw expected(target, `a file of ${bytes} bytes`, found?.size ?? "none", "FILE_IO");
      });
      await step("placing");
    }
    await syncFolder(this.folder);
    await step("placed");
    await this.#writeManifest(`${entry.stem}.json`, entry);
    await step("committed");
  }

  async #writeManifest(name: string, entry: ShardEntry | SetEntry): Promise<void> {
    const text = JSON.stringify(entry, undefined, 2) + "\n";
    await writeFileAtomic(join(this.#manifests, name), new TextEncoder().encode(text));
    await syncFolder(this.#manifests);
  }
}

type Step = (name: CommitStep) => void | Promise<void>;
interface Try {
  readonly stem: string;
  readonly index: number;
  readonly id: string;
  readonly folder: string;
}
type Decided = { readonly id: string; readonly entry: ShardEntry };
type Facts = Omit<ShardEntry, "files" | "stem" | "index" | "format">;
const pendingName = (id: string, name: string) => `${id}-${name}`;

/** One try at a shard: its files, and the end of it, one of `commit` and `discard`. */
export class Attempt implements ShardFiles {
  readonly #storage: Storage;
  readonly #place: Try;
  readonly #files: PendingShardFile[] = [];
  #commit: Promise<boolean> | undefined;

  constructor(storage: Storage, place: Try) {
    this.#storage = storage;
    this.#place = place;
  }

  get stem(): string {
    return this.#place.stem;
  }

  async create(suffix: string, name = this.stem + suffix): Promise<ShardFile> {
    const { id, folder } = this.#place;
    if (!/^[\w-][\w.-]*$/.test(name) || this.#files.some((file) => file.name === name)) {
      throw expected("name", "one of letters, digits, dots, hyphens and underlines, once", name, "INTERNAL");
    }
    const shown = join(this.#storage.folder, name);
    const handle = await io(shown, "write", open(join(folder, pendingName(id, name)), "wx"));
    const file = new PendingShardFile(name, shown, handle);
    this.#files.push(file);
    return file;
  }

  /** Commits the shard, or finds that another has; gives whether it was this try. */
  commit(about: Facts): Promise<boolean> {
    return this.#commit = this.#end(about);
  }

  async #end(about: Facts): Promise<boolean> {
    for (const file of this.#files) await file.close();
    const files = this.#files.map(({ name, offset, sha256 }) => ({ name, bytes: offset, sha256 }));
    const { id, stem, index } = this.#place;
    const { plan, arithmetic, numItems, numSamples, numTokens, quarantined } = about; // in this order, always
    const entry: ShardEntry = {
      format: "ctok-shard-1",
      plan,
      index,
      stem,
      arithmetic,
      numItems,
      numSamples,
      numTokens,
      files,
      quarantined,
    };
    return await this.#storage.decide(this.#place, { id, entry } satisfies Decided);
  }

  /** Removes the files, unless a commit is on its way: that comes to its end first. Never throws: the next run removes what is left. */
  async discard(): Promise<void> {
    await this.#commit?.catch(() => {});
    for (const file of this.#files) await file.abandon();
    await rm(this.#place.folder, { recursive: true, force: true }).catch(() => {});
  }
}

/** Gathers small writes, and hashes all. */
class PendingShardFile implements ShardFile {
  readonly name: string;
  readonly #shown: string;
  readonly #file: FileHandle;
  readonly #hash = createHash("sha256");
  readonly #buffer = new Uint8Array(bufferBytes);
  #buffered = 0;
  #isOpen = true;
  #sha256 = "";
  offset = 0;

  constructor(name: string, shown: string, file: FileHandle) {
    this.name = name;
    this.#shown = shown;
    this.#file = file;
  }

  get sha256(): string {
    return this.#sha256;
  }

  async write(bytes: Uint8Array): Promise<void> {
    this.#hash.update(bytes);
    this.offset += bytes.length;
    if (this.#buffered + bytes.length > bufferBytes) await this.#flush();
    if (bytes.length > bufferBytes) return await this.#put(bytes);
    this.#buffer.set(bytes, this.#buffered);
    this.#buffered += bytes.length;
  }

  async close(): Promise<void> {
    await this.#flush();
    await io(this.#shown, "write", this.#file.sync());
    this.#isOpen = false;
    await io(this.#shown, "write", this.#file.close());
    this.#sha256 = this.#hash.digest("hex");
  }

  async abandon(): Promise<void> {
    if (this.#isOpen) await this.#file.close().catch(() => {});
    this.#isOpen = false;
  }

  async #flush(): Promise<void> {
    const length = this.#buffered;
    this.#buffered = 0;
    await this.#put(this.#buffer.subarray(0, length));
  }

  async #put(bytes: Uint8Array): Promise<void> {
    for (let at = 0; at < bytes.length;) {
      const part = this.#file.write(bytes, at, Math.min(bytes.length - at, 1 << 30));
      at += (await io(this.#shown, "write", part)).bytesWritten;
    }
  }
}

async function writeSynced(path: string, bytes: Uint8Array): Promise<void> {
  const file = await io(path, "write", open(path, "wx"));
  try {
    await io(path, "write", file.writeFile(bytes));
    await io(path, "write", file.sync());
  } finally {
    await file.close();
  }
}

/** What ctok wrote to a manifest, as far as its first and its list of files tell. */
function checked<E extends ShardEntry | SetEntry>(path: string, bytes: Uint8Array, format: E["format"]): E {
  let entry: Partial<E> | null = null;
  try {
    entry = JSON.parse(new TextDecoder("utf-8", { fatal: true }).decode(bytes));
  } catch {
    // told below
  }
  if (entry?.format === format && Array.isArray(entry.files)) return entry as E;
  throw expected(path, `a manifest of ctok dataset ("${format}")`, "another file", "FILE_FORMAT");
}

function missingAsUndefined(error: unknown): undefined {
  if (error instanceof TokenizerError && error.code === "FILE_MISSING") return undefined;
  throw error;
}
