/**
 * Bytes of places, once it is sure that what is there is what was planned: its size, its time of change, its hash where
 * the plan has one. Files that hold many items stay open, the latest few; of parquet files what is decoded stays, too.
 * Called by whoever makes samples (prepare.ts, sidecars) and by the sources that look into files. Any number of reads
 * at a time.
 *
 * Messages name the place and what is there as far as that is the same on every machine; they go into manifests.
 */
import { createHash } from "node:crypto";
import { throwIfAborted } from "../abort.ts";
import { wholeFileBytes } from "../bytes.ts";
import { expected, TokenizerError } from "../errors.ts";
import type { Identity, Place } from "./item.ts";
import {
  chunksOf,
  chunksOfObject,
  identityOf,
  identityOfStats,
  type OpenFile,
  openFile,
  openObject,
  readExactly,
  statsOf,
} from "./openfile.ts";
import { ParquetFile } from "./parquetfile.ts";
import { isS3 } from "./s3/address.ts";
import { isItemsFault, type PlaceReader } from "./source.ts";

const mostOpen = 16;

/** The name of a place in messages: a path, and which part of the file it is. */
export function nameOfPlace(place: Place): string {
  switch (place.kind) {
    case "file":
      return place.path;
    case "tar":
      return `${place.path}: ${place.member}`;
    case "parquet":
      return `${place.path}: row ${place.row}, ${place.column}`;
    case "row":
      return `${place.path}: row ${place.row}`;
    case "text":
      return "text of the plan";
  }
}

/** Hash of all bytes of a file, in hexadecimal. Throws FILE_MISSING, FILE_IO, CANCELLED. */
export async function hashOfFile(path: string, signal?: AbortSignal): Promise<string> {
  const hash = createHash("sha256");
  for await (const chunk of chunksOf(path, signal)) hash.update(chunk);
  return hash.digest("hex");
}

interface SharedFile {
  readonly file: OpenFile;
  /** Opened when one of its cells is first asked for. */
  parquet?: Promise<ParquetFile>;
  numReaders: number;
  /** Whether the file was taken out of the cache; it is closed when nobody reads it any more. */
  isDropped: boolean;
  isClosed: boolean;
}

export class Places implements PlaceReader {
  /** Files that are open; the most recently used is last. */
  readonly #open = new Map<string, Promise<SharedFile>>();
  readonly #dropped = new Set<Promise<void>>();
  #isClosed = false;

  /**
   * All bytes of a place. Throws FILE_MISSING where its file is gone, FILE_IO where it is another by now, cannot be
   * read, or has more than 2^31 bytes; FILE_FORMAT for a damaged parquet file; CANCELLED. An empty cell has no bytes.
   */
  async read(place: Place, identity: Identity, signal?: AbortSignal): Promise<Uint8Array> {
    throwIfAborted(signal);
    const bytes = await this.#read(place, identity, signal);
    if (identity.sha256 !== undefined) {
      const sha256 = createHash("sha256").update(bytes).digest("hex");
      if (sha256 !== identity.sha256) throw changed(place, `sha256 ${identity.sha256}`, sha256);
    }
    return bytes;
  }

  /**
   * Throws unless a file or folder is what was planned. For what others read by its path: a video's file, or the folder
   * of its frames.
   */
  async check(place: Place & { kind: "file" }, identity: Identity, signal?: AbortSignal): Promise<void> {
    const found = await statsOf(place.path).catch((error) => Promise.reject(missing(place, error)));
    checkIdentity(place, identity, await identityOfStats(place.path, found));
    if (identity.sha256 === undefined || found.isDirectory()) return;
    const sha256 = await hashOfFile(place.path, signal);
    if (sha256 !== identity.sha256) throw changed(place, `sha256 ${identity.sha256}`, sha256);
  }

  /** The parquet file at a path, for as long as `use` runs. Throws FILE_MISSING, FILE_IO, FILE_FORMAT. */
  async withParquet<T>(path: string, use: (file: ParquetFile) => Promise<T>): Promise<T> {
    return await this.#with(path, async (file) => {
      const { bytes } = await file.file.identity();
      return await use(await (file.parquet ??= ParquetFile.open(file.file, bytes)));
    });
  }

  async [Symbol.asyncDispose](): Promise<void> {
    this.#isClosed = true;
    for (const file of [...this.#open.values()]) await file.then((open) => this.#drop(open), () => {});
    this.#open.clear();
    await Promise.all(this.#dropped);
  }

  async #read(place: Place, identity: Identity, signal?: AbortSignal): Promise<Uint8Array> {
    if (place.kind === "text") return new TextEncoder().encode(place.text);
    if (place.kind === "file") return await this.#readFile(place, identity, signal);
    try {
      return await this.#with(place.path, async (shared) => {
        checkIdentity(place, identity, await shared.file.identity());
        throwIfAborted(signal);
        if (place.kind === "tar") {
          checkSize(place, place.bytes);
          return await readExactly(shared.file, place.offset, place.bytes);
        }
        const parquet = await (shared.parquet ??= ParquetFile.open(shared.file, identity.bytes));
        return place.kind === "row" ? await rowBytes(parquet, place) : await cellBytes(parquet, place);
      });
    } catch (error) {
      throw missing(place, error);
    }
  }

  async #readFile(place: Place & { kind: "file" }, identity: Identity, signal?: AbortSignal): Promise<Uint8Array> {
    checkSize(place, identity.bytes);
    if (isS3(place.path)) {
      const read = () => readExactly(openObject(place.path, identity, signal), 0, identity.bytes);
      return await this.#asPlanned(place, identity, read, signal);
    }
    const file = await openFile(place.path).catch((error) => Promise.reject(missing(place, error)));
    try {
      if (!file.isFile) throw expected(place.path, "the file that was planned", "no file", "FILE_IO");
      checkIdentity(place, identity, await file.identity());
      throwIfAborted(signal);
      return await readExactly(file, 0, identity.bytes);
    } finally {
      await file.close();
    }
  }

  /** The bytes of a planned file in S3, of any size, a piece at a time. */
  async *chunks(place: Place & { kind: "file" }, identity: Identity, signal?: AbortSignal): AsyncGenerator<Uint8Array> {
    const hash = createHash("sha256"), chunks = chunksOfObject(place.path, identity, signal);
    for (;;) {
      const next = await this.#asPlanned(place, identity, () => chunks.next(), signal);
      if (next.done) break;
      if (identity.sha256 !== undefined) hash.update(next.value);
      yield next.value;
    }
    const sha256 = identity.sha256 === undefined ? undefined : hash.digest("hex");
    if (sha256 !== identity.sha256) throw changed(place, `sha256 ${identity.sha256}`, String(sha256));
  }

  /** What a read of an object gives; only where it fails another request looks what is there. */
  async #asPlanned<T>(
    place: Place & { kind: "file" },
    identity: Identity,
    read: () => Promise<T>,
    signal?: AbortSignal,
  ): Promise<T> {
    try {
      return await read();
    } catch (error) {
      if (!isItemsFault(error)) throw error;
      const found = await identityOf(place.path, signal).catch((error) => Promise.reject(missing(place, error)));
      checkIdentity(place, identity, found);
      throw error;
    }
  }

  /** Runs `use` with an open file, which nobody closes meanwhile. */
  async #with<T>(path: string, use: (file: SharedFile) => Promise<T>): Promise<T> {
    if (this.#isClosed) throw new TokenizerError("CLOSED", "places: expected them to be open, found them closed");
    let opening = this.#open.get(path);
    if (opening) this.#open.delete(path);
    else {
      opening = openFile(path).then((file) => ({ file, numReaders: 0, isDropped: false, isClosed: false }));
      opening.catch(() => this.#open.delete(path));
    }
    this.#open.set(path, opening);
    for (const [oldest, other] of this.#open) {
      if (this.#open.size <= mostOpen) break;
      this.#open.delete(oldest);
      other.then((file) => this.#drop(file), () => {});
    }
    const file = await opening;
    file.numReaders++;
    try {
      return await use(file);
    } catch (error) {
      const isWhole = error instanceof TokenizerError && (error.code === "FILE_FORMAT" || error.code === "CANCELLED");
      if (!isWhole && this.#open.get(path) === opening) { // a file that was replaced is found by the next read
        this.#open.delete(path);
        this.#drop(file);
      }
      throw error;
    } finally {
      file.numReaders--;
      this.#closeUnused(file);
    }
  }

  #drop(file: SharedFile): void {
    file.isDropped = true;
    this.#closeUnused(file);
  }

  #closeUnused(file: SharedFile): void {
    if (!file.isDropped || file.isClosed || file.numReaders > 0) return;
    file.isClosed = true;
    const closing = file.file.close().then(() => void this.#dropped.delete(closing));
    this.#dropped.add(closing);
  }
}

function checkSize(place: Place, bytes: number): void {
  if (bytes > wholeFileBytes) throw expected(nameOfPlace(place), `at most ${wholeFileBytes} bytes`, bytes, "FILE_IO");
}

function checkIdentity(place: Place, planned: Identity, found: Identity): void {
  if (found.bytes !== planned.bytes) throw changed(place, `${planned.bytes} bytes`, `${found.bytes}`);
  if (found.etag !== planned.etag) throw changed(place, `ETag ${planned.etag}`, `ETag ${found.etag}`);
  if (found.mtimeNs !== planned.mtimeNs) throw changed(place, timeOf(planned), timeOf(found));
}

function timeOf({ mtimeNs }: Identity): string {
  return `changed last at ${new Date(Number(BigInt(mtimeNs) / 1_000_000n)).toISOString()}`;
}

function changed(place: Place, planned: string, found: string): TokenizerError {
  const file = place.kind === "file" || place.kind === "text" ? "the file" : "its file";
  const message = `${nameOfPlace(place)}: expected ${file} as it was planned, ${planned}, found ${found}`;
  return new TokenizerError("FILE_IO", message);
}

/** The error for a file that is gone, in the same words on every system and runtime, as it goes into manifests. */
function missing(place: Place, error: unknown): unknown {
  if (!(error instanceof TokenizerError) || error.code !== "FILE_MISSING") return error;
  const message = `${nameOfPlace(place)}: expected the file that was planned, found none`;
  return new TokenizerError("FILE_MISSING", message, { cause: error });
}

async function cellBytes(file: ParquetFile, place: Place & { kind: "parquet" }): Promise<Uint8Array> {
  const value = await file.cell(place.row, place.column);
  const content = isObject(value) ? value.bytes : value;
  if (typeof content === "string") return new TextEncoder().encode(content);
  if (content instanceof Uint8Array) return new Uint8Array(content); // not a view of the whole column
  if (content === null || content === undefined) return new Uint8Array(); // as an empty file: its reader tells
  throw expected(nameOfPlace(place), "bytes or text", typeof content, "FILE_FORMAT");
}

async function rowBytes(file: ParquetFile, place: Place & { kind: "row" }): Promise<Uint8Array> {
  const row: Record<string, unknown> = {};
  for (const column of place.columns) row[column] = plain(await file.cell(place.row, column));
  return new TextEncoder().encode(JSON.stringify(row));
}

/**
 * A cell's value for JSON: whole numbers as numbers where those hold them exactly, else as text; bytes as base64; times
 * as ISO 8601.
 */
function plain(value: unknown): unknown {
  if (typeof value === "bigint") return Number.isSafeInteger(Number(value)) ? Number(value) : String(value);
  if (value instanceof Uint8Array) return Buffer.from(value).toString("base64");
  if (value instanceof Date) return Number.isNaN(value.getTime()) ? null : value.toISOString();
  if (ArrayBuffer.isView(value)) return Array.from(value as unknown as ArrayLike<unknown>, plain);
  if (Array.isArray(value)) return value.map(plain);
  if (isObject(value)) return Object.fromEntries(Object.entries(value).map(([name, one]) => [name, plain(one)]));
  return value === undefined ? null : value;
}

function isObject(value: unknown): value is Record<string, unknown> {
  return typeof value === "object" && value !== null && !ArrayBuffer.isView(value) && !(value instanceof Date) &&
    !Array.isArray(value);
}
