/**
 * One file of the hub into the cache: resumed where it was left, hashed as a whole, and there under its hash only when
 * all of it is right. What has come so far lies beside it: as HASH.incomplete, which anyone may take up (Python does,
 * too), or, while a process is at it, under a name with the process in it. A file under such a name has one owner: to
 * take one up is to rename it, which one process alone can. So several processes do not fetch one file twice, and bytes
 * that a killed one left are used. Called by hub.ts. Limit: that others wait for the owner needs one clock; where two
 * believe that they own it, the hash tells and it starts anew.
 */
import { createHash, type Hash, randomBytes } from "node:crypto";
import { mkdir, open, readdir, readFile, rename, rm, stat, utimes } from "node:fs/promises";
import type { FileHandle } from "node:fs/promises";
import { basename, dirname, join } from "node:path";
import { setTimeout as wait } from "node:timers/promises";
import { throwIfAborted } from "../abort.ts";
import { ioError, isGone, place, readChunks } from "../files.ts";
import { type HubClient, Interrupted, mostTries } from "./hubclient.ts";

const { process } = globalThis;

export interface RemoteFile {
  readonly name: string;
  readonly bytes: number;
  /** SHA-256 of a large file, git's SHA-1 of a small one: the blob's name. */
  readonly hash: string;
  readonly url: string;
}

export interface DownloadOptions {
  readonly signal: AbortSignal | undefined;
  /** Whether a file that is here already is hashed once more. */
  readonly isVerified: boolean;
  /** Called often, with the number of the file's bytes that are here. */
  readonly onBytes: (bytes: number) => void;
}

/** How long the owner of a file may leave no mark on it, before it is taken for gone. */
const goneMs = 60_000, markEveryMs = 5_000, lookEveryMs = 100;

/**
 * Puts the file at `blob`, unless it is there; gives the bytes that were fetched. Throws HUB, FILE_IO, CANCELLED; what
 * has come by then stays for the next time, unless its hash is wrong.
 */
export async function download(
  file: RemoteFile,
  blob: string,
  client: HubClient,
  options: DownloadOptions,
): Promise<number> {
  const { signal, onBytes } = options;
  for (let isFirst = true;; isFirst = false) {
    throwIfAborted(signal);
    if (await isWhole(file, blob, isFirst && options.isVerified, signal)) {
      onBytes(file.bytes);
      return 0;
    }
    if (isFirst) await io(blob, mkdir(dirname(blob), { recursive: true }));
    const partial = await PartialFile.take(blob);
    if (partial) {
      try {
        if (await isWhole(file, blob, false)) continue; // another has just ended
        const fetched = await fill(partial, file, client, options);
        if (await partial.publish(blob)) return fetched;
      } finally {
        await partial.release(blob);
      }
    } else {
      onBytes(Math.min(await bytesSoFar(blob), file.bytes));
      await wait(lookEveryMs * (0.5 + Math.random())); // not in step with one that began at the same time
    }
  }
}

/**
 * Whether the file is there with the right size. Another size means damage, as a file gets its name only when it is
 * whole.
 */
async function isWhole(
  { bytes, hash }: RemoteFile,
  blob: string,
  isVerified: boolean,
  signal?: AbortSignal,
): Promise<boolean> {
  const found = await stat(blob).catch(() => undefined);
  if (found?.size !== bytes) return false;
  if (!isVerified) return true;
  const hasher = hasherFor(hash, bytes);
  for await (const chunk of readChunks(blob, { mostBytes: bytes, signal })) hasher.update(chunk);
  if (hasher.digest("hex") === hash) return true;
  await io(blob, rm(blob, { force: true }));
  return false;
}

function hasherFor(hash: string, bytes: number): Hash {
  return hash.length === 64 ? createHash("sha256") : createHash("sha1").update(`blob ${bytes}\0`);
}

async function fill(
  partial: PartialFile,
  file: RemoteFile,
  client: HubClient,
  options: DownloadOptions,
): Promise<number> {
  const { bytes, hash, name } = file, { signal, onBytes } = options;
  let hasher = hasherFor(hash, bytes), at = 0, fetched = 0, isResumed = false;
  const restart = async () => {
    await partial.truncate();
    [hasher, at, isResumed] = [hasherFor(hash, bytes), 0, false];
  };
  for await (const chunk of partial.chunks(bytes)) {
    throwIfAborted(signal);
    hasher.update(chunk);
    at += chunk.length;
    isResumed = true;
  }
  if (partial.size > bytes) await restart();
  for (let tries = 1;;) {
    onBytes(at);
    if (at === bytes) {
      const found = hasher.digest("hex");
      if (found === hash) return fetched;
      const wasResumed = isResumed;
      await restart();
      if (wasResumed) continue; // what an earlier process left was wrong, not the hub
      throw client.wrong(name, `${hash.length === 64 ? "SHA-256" : "git's SHA-1"} ${hash}`, found);
    }
    const before = at;
    try {
      const range = { range: `bytes=${at}-` };
      const { response, body, drop } = await client.open(file.url, new Headers(at > 0 ? range : {}));
      try {
        const start = startOf(response), whole = totalOf(response);
        if (start !== undefined && whole !== undefined && whole !== bytes) {
          throw client.wrong(name, `a file of ${bytes} bytes`, `one of ${whole}`);
        }
        if (start !== at) await restart(); // the server knows no ranges
        if (start !== at) throw new Interrupted(new Error("an answer for another range"));
        for await (const chunk of body) {
          if (at + chunk.length > bytes) throw client.wrong(name, `a file of ${bytes} bytes`, "a longer one");
          await partial.write(chunk, at);
          hasher.update(chunk);
          at += chunk.length;
          fetched += chunk.length;
          onBytes(at);
        }
      } finally {
        await drop();
      }
      if (at < bytes) throw new Interrupted(new Error(`the end after ${at} of ${bytes} bytes`));
    } catch (error) {
      if (at > before) tries = 1;
      if (!(error instanceof Interrupted) || tries >= mostTries || signal?.aborted) throw client.told(error);
      await client.pause(tries++);
    }
  }
}

/** The offset in the file at which a response begins; undefined where it does not say so, or the range is empty. */
function startOf({ status, headers }: Response): number | undefined {
  if (status === 200) return 0;
  const start = /^bytes (\d+)-/.exec(headers.get("content-range") ?? "")?.[1];
  return status === 206 && start !== undefined ? Number(start) : undefined;
}

/** Size of the whole file in bytes, where the response's headers give it. */
function totalOf({ status, headers }: Response): number | undefined {
  const text = status === 200
    ? headers.get("content-length")
    : /\/(\d+)$/.exec(headers.get("content-range") ?? "")?.[1];
  return text ? Number(text) : undefined;
}

// ---------------------------------------------------------------- what has come so far
const ownedPattern = /\.ctok-([0-9a-f]+)-(\d+)-[0-9a-f]+\.incomplete$/;

interface Found {
  readonly path: string;
  readonly bytes: number;
  readonly isOwned: boolean;
}

/** A partly downloaded file that belongs to this process, as its name says. */
class PartialFile {
  readonly #path: string;
  readonly #file: FileHandle;
  readonly #marker: ReturnType<typeof setInterval>;
  /** When it was taken. */
  readonly size: number;
  #isOurs = true;

  private constructor(path: string, file: FileHandle, size: number) {
    this.#path = path;
    this.#file = file;
    this.size = size;
    this.#marker = setInterval(() => void utimes(path, new Date(), new Date()).catch(() => {}), markEveryMs);
    this.#marker.unref?.();
  }

  /**
   * Takes up the largest partial file that no process owns, or begins one; undefined where another process owns one. A
   * process that finds another's file beside its own gives way; of two that begin at once both do, and try again.
   */
  static async take(blob: string): Promise<PartialFile | undefined> {
    const found = await partialsOf(blob);
    if (found.some(({ isOwned }) => isOwned) || await isLockedByPython(blob)) return undefined;
    const path = `${blob}.ctok-${place}-${process.pid}-${randomBytes(6).toString("hex")}.incomplete`;
    const [left, ...others] = found.sort((a, b) => b.bytes - a.bytes);
    if (left) {
      await rename(left.path, path).catch(() => {}); // another was faster
      await utimes(path, new Date(), new Date()).catch(() => {});
    }
    const file = await open(path, left ? "r+" : "wx+").catch((error) => {
      if (left && (error as { code?: string }).code === "ENOENT") return undefined;
      throw ioError(path, "write", error);
    });
    if (!file) return undefined;
    const partial = new PartialFile(path, file, (await io(path, file.stat())).size);
    if ((await partialsOf(blob)).some((other) => other.isOwned && other.path !== path)) {
      await partial.release(blob);
      return undefined;
    }
    for (const other of others) await rm(other.path, { force: true }).catch(() => {});
    return partial;
  }

  /** From its begin, `most` bytes. */
  async *chunks(most: number): AsyncGenerator<Uint8Array> {
    for (let at = 0; at < Math.min(most, this.size);) {
      const chunk = new Uint8Array(Math.min(1 << 20, Math.min(most, this.size) - at));
      const { bytesRead } = await io(this.#path, this.#file.read(chunk, 0, chunk.length, at), "read");
      if (bytesRead === 0) return;
      at += bytesRead;
      yield chunk.subarray(0, bytesRead);
    }
  }

  async truncate(): Promise<void> {
    await io(this.#path, this.#file.truncate(0));
  }

  async write(chunk: Uint8Array, at: number): Promise<void> {
    for (let done = 0; done < chunk.length;) {
      const part = this.#file.write(chunk, done, chunk.length - done, at + done);
      done += (await io(this.#path, part)).bytesWritten;
    }
  }

  /**
   * Renames the finished file to its final name. False where another process took it over, taking this one for dead.
   */
  async publish(blob: string): Promise<boolean> {
    await io(this.#path, this.#file.sync());
    if (!await this.#isThere()) return false;
    await io(blob, rename(this.#path, blob));
    this.#isOurs = false;
    return true;
  }

  /** Closes the partial file and leaves it for the next process; an empty one is removed. */
  async release(blob: string): Promise<void> {
    clearInterval(this.#marker);
    const isThere = this.#isOurs && await this.#isThere().catch(() => false);
    const { size } = await this.#file.stat().catch(() => ({ size: 0 }));
    await this.#file.close().catch(() => {});
    if (!isThere) return;
    await (size > 0 ? rename(this.#path, `${blob}.incomplete`) : rm(this.#path, { force: true })).catch(() => {});
  }

  async #isThere(): Promise<boolean> {
    const [ours, named] = await Promise.all([
      this.#file.stat({ bigint: true }),
      stat(this.#path, { bigint: true }).catch(() => undefined),
    ]);
    return named !== undefined && named.ino === ours.ino && named.dev === ours.dev;
  }
}

async function partialsOf(blob: string): Promise<Found[]> {
  const folder = dirname(blob), start = `${basename(blob)}.`, found: Found[] = [];
  for (const name of await io(folder, readdir(folder), "read")) {
    if (!name.startsWith(start) || !name.endsWith(".incomplete")) continue;
    const path = join(folder, name), facts = await stat(path).catch(() => undefined);
    if (!facts?.isFile()) continue;
    const [, at, pid] = ownedPattern.exec(name) ?? [];
    const isMarked = Date.now() - facts.mtimeMs < goneMs;
    found.push({
      path,
      bytes: facts.size,
      isOwned: at !== undefined && isMarked && !(at === place && isGone(Number(pid))),
    });
  }
  return found;
}

async function bytesSoFar(blob: string): Promise<number> {
  return Math.max(0, ...(await partialsOf(blob)).map(({ bytes }) => bytes));
}

/** Whether Python is downloading that file: it holds a lock on .locks/REPOSITORY/HASH.lock, which Linux lists. */
async function isLockedByPython(blob: string): Promise<boolean> {
  const repository = dirname(dirname(blob));
  const lock = join(dirname(repository), ".locks", basename(repository), `${basename(blob)}.lock`);
  const found = await stat(lock).catch(() => undefined);
  if (!found) return false;
  const locks = await readFile("/proc/locks", "utf8").catch(() => "");
  return locks.split("\n").some((line) => / FLOCK /.test(line) && line.includes(`:${found.ino} `));
}

async function io<T>(path: string, work: Promise<T>, doing: "read" | "write" = "write"): Promise<T> {
  try {
    return await work;
  } catch (error) {
    throw ioError(path, doing, error);
  }
}
