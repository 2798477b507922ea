/**
 * Files of a corpus, wherever they lie: of the disk, or objects in S3, which are read by ranges and seen to be the same
 * all the time. What stands in a folder or below a prefix, and what a file is known by, are asked here as well. Called
 * by sources, places and formats, which know a location and no more.
 */
import { type BigIntStats, constants } from "node:fs";
import { open, readdir, stat } from "node:fs/promises";
import { join } from "node:path";
import { expected } from "../errors.ts";
import { io, ioError, readChunks } from "../files.ts";
import { kindOfName } from "../media/kinds.ts";
import type { Identity } from "./item.ts";
import { isS3, joinLocation, parseS3 } from "./s3/address.ts";
import { type ObjectInfo, S3Client } from "./s3/client.ts";

export interface OpenFile {
  readonly location: string;
  /**
   * A file on disk: its identity now. An object: its identity when it was opened, since reads fail once it has
   * changed.
   */
  identity(): Promise<Identity>;
  readonly isFile: boolean;
  /** How many bytes to ask for at once where a few are needed now and the next ones soon. */
  readonly windowBytes: number;
  /**
   * Reads into `bytes`, from `offset` on, at most `length` bytes; bytesRead is 0 at the end of the file. Throws
   * FILE_IO.
   */
  read(bytes: Uint8Array, offset: number, length: number, position: number): Promise<{ readonly bytesRead: number }>;
  close(): Promise<void>;
}

const diskWindowBytes = 4096, storeWindowBytes = 1 << 20;
/** The most bytes of one request, and the bytes of a piece when a whole file is read. */
const mostRangeBytes = 32 << 20, chunkBytes = 8 << 20;

/**
 * Opens a file or an object for reading. Throws FILE_MISSING, FILE_IO. Note: does not wait for the writer of a pipe.
 */
export async function openFile(location: string, signal?: AbortSignal): Promise<OpenFile> {
  if (isS3(location)) return openObject(location, await identityOf(location, signal), signal);
  const handle = await io(location, "read", open(location, constants.O_RDONLY | (constants.O_NONBLOCK ?? 0)));
  const close = () => handle.close().catch(() => {}); // nothing was written
  const found = await handle.stat().catch(async (error) => {
    await close();
    throw ioError(location, "read", error);
  });
  return {
    location,
    identity: async () => await identityOfStats(location, await handle.stat({ bigint: true })),
    isFile: found.isFile(),
    windowBytes: diskWindowBytes,
    read: (bytes, offset, length, position) => io(location, "read", handle.read(bytes, offset, length, position)),
    close,
  };
}

/** Opens an object of S3 whose identity is known. Reads throw FILE_IO once the object has changed or is gone. */
export function openObject(location: string, identity: Identity, signal?: AbortSignal): OpenFile {
  const { bucket, key } = parseS3(location), client = S3Client.of(bucket).with(signal), { etag = "" } = identity;
  return {
    location,
    identity: () => Promise.resolve(identity),
    isFile: true,
    windowBytes: storeWindowBytes,
    async read(bytes, offset, length, position) {
      const bytesRead = Math.max(0, Math.min(length, mostRangeBytes, identity.bytes - position));
      const part = await client.range(key, etag, position, bytesRead);
      if (!part) throw expected(location, `the object with ETag ${etag}`, "another or none", "FILE_IO");
      bytes.set(part, offset);
      return { bytesRead };
    },
    close: () => Promise.resolve(),
  };
}

/** Reads exactly `bytes` bytes from `at` on. Throws FILE_IO where the file ends before. */
export async function readExactly(file: OpenFile, at: number, bytes: number): Promise<Uint8Array<ArrayBuffer>> {
  const into = new Uint8Array(bytes);
  for (let filled = 0; filled < bytes;) {
    const { bytesRead } = await file.read(into, filled, Math.min(bytes - filled, 1 << 30), at + filled);
    if (bytesRead === 0) {
      throw expected(file.location, `bytes ${at} to ${at + bytes}`, `its end at ${at + filled}`, "FILE_IO");
    }
    filled += bytesRead;
  }
  return into;
}

/** All bytes of a file, a piece at a time; of the disk also of a pipe. Throws FILE_MISSING, FILE_IO, CANCELLED. */
export async function* chunksOf(location: string, signal?: AbortSignal): AsyncGenerator<Uint8Array> {
  if (!isS3(location)) return yield* readChunks(location, { signal, mostBytes: Number.MAX_SAFE_INTEGER });
  yield* chunksOfObject(location, await identityOf(location, signal), signal);
}

/** The chunks of an object in S3 whose identity is known already. */
export async function* chunksOfObject(
  location: string,
  identity: Identity,
  signal?: AbortSignal,
): AsyncGenerator<Uint8Array> {
  const file = openObject(location, identity, signal);
  for (let at = 0; at < identity.bytes; at += chunkBytes) {
    yield await readExactly(file, at, Math.min(chunkBytes, identity.bytes - at));
  }
}

// ---------------------------------------------------------------- what is there
/**
 * The identity of a file. That of a folder on disk covers its pictures, which are a video's frames. Throws
 * FILE_MISSING, FILE_IO.
 */
export async function identityOf(location: string, signal?: AbortSignal): Promise<Identity> {
  if (!isS3(location)) return await identityOfStats(location, await statsOf(location));
  const { bucket, key } = parseS3(location),
    found = key === "" ? undefined : await S3Client.of(bucket).with(signal).head(key);
  if (!found) throw expected(location, "a file", "none", "FILE_MISSING");
  return identityOfObject(found);
}

export async function statsOf(path: string): Promise<BigIntStats> {
  return await io(path, "read", stat(path, { bigint: true }));
}

export async function identityOfStats(path: string, found: BigIntStats): Promise<Identity> {
  if (!found.isDirectory()) return { bytes: Number(found.size), mtimeNs: wholeMilliseconds(found.mtimeNs) };
  let bytes = 0, latest = found.mtimeNs;
  for (const name of await readdir(path)) {
    if (kindOfName(name) !== "picture" || name.startsWith(".")) continue;
    const one = await statsOf(join(path, name));
    bytes += Number(one.size);
    if (one.mtimeNs > latest) latest = one.mtimeNs;
  }
  return { bytes, mtimeNs: wholeMilliseconds(latest) };
}

function wholeMilliseconds(ns: bigint): string {
  return String(ns - ns % 1_000_000n);
}

function identityOfObject({ bytes, etag }: ObjectInfo): Identity {
  return { bytes, mtimeNs: "0", etag };
}

/** What stands in a folder, or below a prefix up to the next slash. */
export interface FolderEntry {
  readonly name: string;
  readonly isFolder: boolean;
  /** Whether it is a file; a link answers for its target. */
  isFile(): Promise<boolean>;
  /** Known for objects in S3 only, whose listing brings it. */
  readonly identity?: Identity;
}

/**
 * The entries of a folder, in no order. In S3 only those whose names start with `beginning` are listed. Throws what the
 * system says, and as request.ts.
 */
export async function entriesOf(folder: string, beginning = "", signal?: AbortSignal): Promise<FolderEntry[]> {
  if (isS3(folder)) return await entriesBelow(folder, beginning, signal);
  return (await readdir(folder, { withFileTypes: true })).map((entry) => ({
    name: entry.name,
    isFolder: entry.isDirectory(),
    isFile: async () => {
      if (!entry.isSymbolicLink()) return entry.isFile();
      return await stat(join(folder, entry.name)).then((found) => found.isFile(), () => false);
    },
  }));
}

async function entriesBelow(folder: string, beginning: string, signal?: AbortSignal): Promise<FolderEntry[]> {
  const { bucket, key } = parseS3(folder), prefix = key === "" ? "" : `${key}/`, entries: FolderEntry[] = [];
  for await (const page of S3Client.of(bucket).with(signal).list(prefix + beginning, "/")) {
    for (const found of page.objects) {
      const name = found.key.slice(prefix.length);
      if (name === "" || name.endsWith("/")) continue; // what some tools make to show a folder
      entries.push({ name, isFolder: false, isFile: () => Promise.resolve(true), identity: identityOfObject(found) });
    }
    for (const found of page.folders) {
      entries.push({ name: found.slice(prefix.length, -1), isFolder: true, isFile: () => Promise.resolve(false) });
    }
  }
  return entries;
}

/** All objects below a prefix, by location, in the order of their keys. */
export async function* objectsBelow(folder: string, beginning = "", signal?: AbortSignal): AsyncGenerator<string> {
  const { bucket, key } = parseS3(folder), prefix = key === "" ? "" : `${key}/`;
  for await (const page of S3Client.of(bucket).with(signal).list(prefix + beginning)) {
    for (const found of page.objects) yield joinLocation(`s3://${bucket}`, found.key);
  }
}

/** Whether a location is a folder, or a prefix with something below it. */
export async function isFolder(location: string, signal?: AbortSignal): Promise<boolean> {
  if (!isS3(location)) return await stat(location).then((found) => found.isDirectory(), () => false);
  const { bucket, key } = parseS3(location), client = S3Client.of(bucket).with(signal);
  if (key === "" || location.endsWith("/")) return true;
  if (await client.head(key)) return false;
  const first = await client.list(`${key}/`, "/").next();
  return !first.done && first.value.objects.length + first.value.folders.length > 0;
}
