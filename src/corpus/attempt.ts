/**
 * One try at a shard, in a folder of this machine: its files under names that begin with the try's own id, hashed as
 * they are written and synced at the end. What becomes of them then is the storage's, which makes tries. Called by
 * formats, through shard.ts.
 */
import { createHash, randomBytes } from "node:crypto";
import { type FileHandle, mkdir, open, readdir, rm, stat } from "node:fs/promises";
import { join } from "node:path";
import { expected } from "../errors.ts";
import { io, isWriterGone, writerName } from "../files.ts";
import type { ShardFile } from "./format.ts";
import { joinLocation } from "./s3/address.ts";
import { abandonedMs, type Attempt, type Decided, type ShardEntry } from "./storage.ts";

export interface Try {
  readonly stem: string;
  readonly index: number;
  readonly id: string;
  /** The folder of this try alone: "STEM-WRITER-ID" in the folder of pending shards. */
  readonly folder: string;
}

/** The writer (process) that made a pending shard, as the name of the shard's folder tells it. */
export function writerOfTry(name: string): string | undefined {
  return /^\d+-([0-9a-f]+-\d+)-[0-9a-f]+$/.exec(name)?.[1];
}

/**
 * The name of a file while its shard is pending. Note: it contains the try's id, so that no file of another try has it.
 */
export function pendingName(id: string, name: string): string {
  return `${id}-${name}`;
}

/** Makes the folder in which a new try at a shard writes its files. */
export async function newTry(pending: string, stem: string, index: number): Promise<Try> {
  const id = randomBytes(8).toString("hex"), folder = join(pending, `${stem}-${writerName}-${id}`);
  await io(folder, "write", mkdir(folder, { recursive: true }));
  return { stem, index, id, folder };
}

/** Removes what killed processes have left in a folder of pending shards. */
export async function removeAbandonedTries(pending: string): Promise<void> {
  for (const name of await readdir(pending).catch(() => [])) {
    const path = join(pending, name), writer = writerOfTry(name);
    const found = await stat(path).catch(() => undefined);
    const isOld = found !== undefined && Date.now() - found.mtimeMs > abandonedMs;
    if (writer && isWriterGone(writer) || isOld) await rm(path, { recursive: true, force: true }).catch(() => {});
  }
}

type Facts = Omit<ShardEntry, "files" | "stem" | "index" | "format">;
/**
 * Commits the shard: by this try, or by another that was decided before and makes this one superfluous. Returns whether
 * it was this one.
 */
export type Decide = (place: Try, decided: Decided) => Promise<boolean>;
const bufferBytes = 1 << 20;

export class LocalAttempt implements Attempt {
  readonly #shown: string;
  readonly #place: Try;
  readonly #decide: Decide;
  readonly #files: PendingShardFile[] = [];
  #commit: Promise<boolean> | undefined;

  /** `shown`: the location where the files will be, for messages. */
  constructor(shown: string, place: Try, decide: Decide) {
    this.#shown = shown;
    this.#place = place;
    this.#decide = decide;
  }

  get stem(): string {
    return this.#place.stem;
  }

  async create(suffix: string, name = this.stem + suffix): Promise<ShardFile> {
    const { id, folder } = this.#place;
    if (!/^[\w-][\w.-]*$/.test(name) || this.#files.some((file) => file.name === name)) {
      throw expected("name", "one of letters, digits, dots, hyphens and underlines, once", name, "INTERNAL");
    }
    const shown = joinLocation(this.#shown, name);
    const handle = await io(shown, "write", open(join(folder, pendingName(id, name)), "wx"));
    const file = new PendingShardFile(name, shown, handle);
    this.#files.push(file);
    return file;
  }

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
    return await this.#decide(this.#place, { id, entry });
  }

  async discard(): Promise<void> {
    await this.#commit?.catch(() => {});
    for (const file of this.#files) await file.abandon();
    await rm(this.#place.folder, { recursive: true, force: true }).catch(() => {});
  }
}

/** A file of a pending shard: gathers small writes into large ones and hashes all bytes. */
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
