/**
 * Bytes of places, once it is sure that what is there is what was planned: its size, its time of change, its hash where the plan
 * has one. Files that hold many items stay open, the latest few; of parquet files what is decoded stays, too. Called by whoever
 * makes samples (prepare.ts, sidecars) and by the sources that look into files. Any number of reads at a time.
 *
 * Messages name the place and what is there as far as that is the same on every machine; they go into manifests.
 */
import { createHash } from "node:crypto";
import { type BigIntStats, constants } from "node:fs";
import { type FileHandle, open, readdir, stat } from "node:fs/promises";
import { join } from "node:path";
import { throwIfAborted } from "../abort.ts";
import { wholeFileBytes } from "../bytes.ts";
import { expected, TokenizerError } from "../errors.ts";
import { ioError, readChunks } from "../files.ts";
import { kindOfName } from "../media/kinds.ts";
import type { Identity, Place } from "./item.ts";
import { ParquetFile, readExactly } from "./parquetfile.ts";
import type { PlaceReader } from "./source.ts";

const mostOpen = 16;

/** As messages call a place: a path, and what of the file it is. */
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

/** What a file is known by. Of a folder: its pictures, which are a video's frames. Throws FILE_MISSING, FILE_IO. */
export async function identityOf(path: string): Promise<Identity> {
  return identityOfStats(path, await stats(path));
}

async function identityOfStats(path: string, found: BigIntStats): Promise<Identity> {
  if (!found.isDirectory()) return { bytes: Number(found.size), mtimeNs: wholeMilliseconds(found.mtimeNs) };
  let bytes = 0, latest = found.mtimeNs;
  for (const name of await readdir(path)) {
    if (kindOfName(name) !== "picture" || name.startsWith(".")) continue;
    const one = await stats(join(path, name));
    bytes += Number(one.size);
    if (one.mtimeNs > latest) latest = one.mtimeNs;
  }
  return { bytes, mtimeNs: wholeMilliseconds(latest) };
}

function wholeMilliseconds(ns: bigint): string {
  return String(ns - ns % 1_000_000n);
}

async function stats(path: string): Promise<BigIntStats> {
  return await stat(path, { bigint: true }).catch((error) => {
    throw ioError(path, "read", error);
  });
}

/** Hash of all bytes of a file, in hexadecimal. Throws FILE_MISSING, FILE_IO, CANCELLED. */
export async function hashOfFile(path: string, signal?: AbortSignal): Promise<string> {
  const hash = createHash("sha256");
  for await (const chunk of readChunks(path, { signal, mostBytes: Number.MAX_SAFE_INTEGER })) hash.update(chunk);
  return hash.digest("hex");
}

interface OpenFile {
  readonly path: string;
  readonly handle: FileHandle;
  /** Made when a cell is first asked for. */
  parquet?: Promise<ParquetFile>;
  numReaders: number;
  /** No longer among the open ones; it is closed when nobody reads it. */
  isDropped: boolean;
  isClosed: boolean;
}

export class Places implements PlaceReader {
  /** The latest used last. */
  readonly #open = new Map<string, Promise<OpenFile>>();
  readonly #dropped = new Set<Promise<void>>();
  #isClosed = false;

  /**
   * All bytes of a place. Throws FILE_MISSING where its file is gone, FILE_IO where it is another by now, cannot be read, or has more
   * than 2^31 bytes; FILE_FORMAT for a damaged parquet file; CANCELLED. An empty
   * cell has no bytes.
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

  /** Throws unless what is there is what was planned; for what is read by others, a video's file or folder. */
  async check(place: Place & { kind: "file" }, identity: Identity, signal?: AbortSignal): Promise<void> {
    const found = await stats(place.path).catch((error) => Promise.reject(missing(place, error)));
    checkIdentity(place, identity, await identityOfStats(place.path, found));
    if (identity.sha256 === undefined || found.isDirectory()) return;
    const sha256 = await hashOfFile(place.path, signal);
    if (sha256 !== identity.sha256) throw changed(place, `sha256 ${identity.sha256}`, sha256);
  }

  /** The parquet file at a path, for as long as `use` runs. Throws FILE_MISSING, FILE_IO, FILE_FORMAT. */
  async withParquet<T>(path: string, use: (file: ParquetFile) => Promise<T>): Promise<T> {
    return await this.#with(path, async (file) => {
      const size = Number((await file.handle.stat()).size);
      return await use(await (file.parquet ??= ParquetFile.open(path, file.handle, size)));
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
      return await this.#with(place.path, async (file) => {
        checkIdentity(place, identity, await identityOfStats(place.path, await file.handle.stat({ bigint: true })));
        throwIfAborted(signal);
        if (place.kind === "tar") {
          checkSize(place, place.bytes);
          return new Uint8Array(await readExactly(place.path, file.handle, place.offset, place.bytes));
        }
        const parquet = await (file.parquet ??= ParquetFile.open(place.path, file.handle, identity.bytes));
        return place.kind === "row" ? await rowBytes(parquet, place) : await cellBytes(parquet, place);
      });
    } catch (error) {
      throw missing(place, error);
    }
  }

  async #readFile(place: Place & { kind: "file" }, identity: Identity, signal?: AbortSignal): Promise<Uint8Array> {
    // Not to wait for the writer of a pipe that took the file's place.
    const flags = constants.O_RDONLY | (constants.O_NONBLOCK ?? 0);
    const handle = await open(place.path, flags).catch((error) => {
      throw missing(place, ioError(place.path, "read", error));
    });
    try {
      const found = await handle.stat({ bigint: true });
      if (!found.isFile()) throw expected(place.path, "the file that was planned", "no file", "FILE_IO");
      checkIdentity(place, identity, await identityOfStats(place.path, found));
      checkSize(place, identity.bytes);
      throwIfAborted(signal);
      return new Uint8Array(await readExactly(place.path, handle, 0, identity.bytes));
    } finally {
      await handle.close().catch(() => {});
    }
  }

  /** An open file for as long as `use` runs. */
  async #with<T>(path: string, use: (file: OpenFile) => Promise<T>): Promise<T> {
    if (this.#isClosed) throw new TokenizerError("CLOSED", "places: expected them to be open, found them closed");
    let opening = this.#open.get(path);
    if (opening) this.#open.delete(path);
    else {
      opening = open(path).then(
        (handle): OpenFile => ({ path, handle, numReaders: 0, isDropped: false, isClosed: false }),
        (error) => Promise.reject(ioError(path, "read", error)),
      );
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

  #drop(file: OpenFile): void {
    file.isDropped = true;
    this.#closeUnused(file);
  }

  #closeUnused(file: OpenFile): void {
    if (!file.isDropped || file.isClosed || file.numReaders > 0) return;
    file.isClosed = true;
    const closing = file.handle.close().catch(() => {}).then(() => void this.#dropped.delete(closing));
    this.#dropped.add(closing);
  }
}

function checkSize(place: Place, bytes: number): void {
  if (bytes > wholeFileBytes) throw expected(nameOfPlace(place), `at most ${wholeFileBytes} bytes`, bytes, "FILE_IO");
}

function checkIdentity(place: Place, planned: Identity, found: Identity): void {
  if (found.bytes !== planned.bytes) throw changed(place, `${planned.bytes} bytes`, `${found.bytes}`);
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

/** What is gone is told in words that every system and runtime shares. */
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

/** As JSON has it: whole numbers as such where a number holds them exactly, else as text; bytes as base64; times as ISO 8601. */
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
