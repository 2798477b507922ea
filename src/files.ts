/**
 * Whole files in, whole files out. A file that ctok writes is there complete or not at all: the bytes go to a temporary
 * file in the same folder, reach the disk, and only then take the name. A name always stands for the file that was
 * opened under it: that is looked at before the rename. The system's refusals become TokenizerErrors here. Called by
 * all that reads or writes files but the checkpoints, which are C's (csrc/checkpoint).
 */
import { createHash, randomBytes } from "node:crypto";
import { type BigIntStats, constants, readFileSync, readlinkSync } from "node:fs";
import { type FileHandle, lstat, open, readdir, readlink, realpath, rename, rm, stat } from "node:fs/promises";
import { dirname, join, resolve } from "node:path";
import { setImmediate, setTimeout } from "node:timers/promises";
import { throwIfAborted } from "./abort.ts";
import { wholeFileBytes } from "./bytes.ts";
import { expected, messageOf, TokenizerError } from "./errors.ts";

const { process } = globalThis;

const sliceBytes = 1 << 22, pipeBytes = 1 << 16;
const longestWaitMs = 16;

export interface ReadOptions {
  /** Aborting it ends the reading with code CANCELLED, also while a pipe gives nothing. */
  readonly signal?: AbortSignal | undefined;
  /** A file of more is refused; of a pipe, reading ends there. Default 2^31. */
  readonly mostBytes?: number;
}

/**
 * Reads all bytes of a file, or of a pipe until its writers have closed it. Throws FILE_MISSING when nothing is there;
 * FILE_IO for a device, which may never end, for more than `mostBytes`, for a folder and whatever else the system
 * refuses; CANCELLED.
 */
export async function readWholeFile(path: string, options: ReadOptions = {}): Promise<Uint8Array> {
  const chunks: Uint8Array[] = [];
  let length = 0;
  for await (const chunk of readPieces(path, options, true)) {
    chunks.push(chunk);
    length += chunk.length;
  }
  const [first] = chunks;
  if (first && chunks.every(({ buffer }) => buffer === first.buffer)) return new Uint8Array(first.buffer, 0, length);
  const whole = new Uint8Array(length);
  for (let at = 0, i = 0; i < chunks.length; at += chunks[i++]!.length) whole.set(chunks[i]!, at);
  return whole;
}

/** Reads a file or a pipe, a piece at a time. */
export function readChunks(path: string, options: ReadOptions = {}): AsyncGenerator<Uint8Array> {
  return readPieces(path, options, false);
}

/** Reads a file in pieces. `isWhole`: the pieces of a regular file are parts of one buffer of the file's size. */
async function* readPieces(
  path: string,
  { signal, mostBytes = wholeFileBytes }: ReadOptions,
  isWhole: boolean,
): AsyncGenerator<Uint8Array> {
  throwIfAborted(signal);
  const found = await io(path, "read", stat(path));
  if (found.isCharacterDevice() || found.isBlockDevice()) throw expected(path, "a file or pipe", "a device", "FILE_IO");
  const tooLarge = (bytes: number | string) => expected(path, `at most ${mostBytes} bytes`, bytes, "FILE_IO");
  if (found.size > mostBytes) throw tooLarge(found.size);
  // Without O_NONBLOCK, opening and reading a pipe would each block one of the runtime's few threads.
  const isPipe = found.isFIFO(), flags = constants.O_RDONLY | (isPipe ? constants.O_NONBLOCK : 0);
  const file = await io(path, "read", open(path, flags));
  try {
    const read = isPipe
      ? await pipeReader(file, path, signal)
      : (into: Uint8Array) => file.read(into, 0, into.length, null);
    const whole = new Uint8Array(isWhole ? found.size : 0);
    for (let length = 0;;) {
      throwIfAborted(signal);
      const left = found.size - length, size = left > 0 ? Math.min(left, sliceBytes) : pipeBytes;
      const piece = length + size <= whole.length ? whole.subarray(length, length + size) : new Uint8Array(size);
      const { bytesRead } = await io(path, "read", read(piece));
      if (bytesRead === 0) return;
      length += bytesRead;
      if (length > mostBytes) throw tooLarge("more");
      yield piece.buffer !== whole.buffer && bytesRead < size / 2
        ? piece.slice(0, bytesRead)
        : piece.subarray(0, bytesRead);
    }
  } finally {
    await file.close().catch(() => {}); // nothing was written
  }
}

/**
 * Reads of a pipe that was opened without blocking: each waits until there is something, zero bytes are the end. Of a
 * pipe with a name and no writer yet, the first is waited for. Limit: one that comes and goes between two looks, having
 * written nothing, was never there.
 */
async function pipeReader(file: FileHandle, path: string, signal: AbortSignal | undefined) {
  const { ino } = await file.stat();
  // "pipe:[123]" has no name.
  let isBegun = !await realpath(path).then(stat).then((named) => named.ino === ino, () => false);
  return async (into: Uint8Array): Promise<{ bytesRead: number }> => {
    for (let wait = 0;; wait = Math.min(2 * wait + 1, longestWaitMs)) {
      throwIfAborted(signal);
      try {
        const got = await file.read(into, 0, into.length, null);
        if (got.bytesRead > 0) isBegun = true;
        if (isBegun) return got;
      } catch (error) {
        if ((error as { code?: string }).code !== "EAGAIN") throw error;
        isBegun = true; // there is a writer
      }
      await (wait ? setTimeout(wait) : setImmediate());
    }
  };
}

/**
 * Writes a file whole, replacing one of that name; through a symbolic link, the file that it points to. On any failure,
 * one thrown by `content` included, neither the file nor the temporary one is left behind, and an older file is
 * untouched. Throws FILE_IO (detail: errno) naming the path; what `content` throws passes unchanged.
 */
export async function writeFileAtomic(
  path: string,
  content: Uint8Array | Iterable<Uint8Array> | AsyncIterable<Uint8Array>,
): Promise<void> {
  const pending = await PendingFile.create(path);
  try {
    for await (const chunk of content instanceof Uint8Array ? [content] : content) await pending.write(chunk);
    await pending.publish();
  } finally {
    await pending.discard();
  }
}

/**
 * A file that is being written, under a temporary name beside its target that nobody can foresee:
 * `.ctok-PLACE-PID-RANDOM.tmp`. A process that is killed leaves such a file; the next one that finishes a file in the
 * folder removes it, where it can tell that its writer is gone.
 */
export class PendingFile {
  readonly temporary: string;
  readonly #path: string;
  readonly #target: string;
  readonly #file: FileHandle;
  #isOpen = true;
  #isPublished = false;

  private constructor(path: string, target: string, temporary: string, file: FileHandle) {
    this.#path = path;
    this.#target = target;
    this.temporary = temporary;
    this.#file = file;
  }

  /**
   * Opens a temporary file beside `path`. Throws FILE_IO for a folder, device or pipe, and where no file can be made.
   */
  static async create(path: string): Promise<PendingFile> {
    const target = await targetOf(path), temporary = temporaryName(target);
    return new PendingFile(path, target, temporary, await io(path, "write", open(temporary, "wx")));
  }

  /**
   * Where a child process finds this very file, whatever others in the folder have put under its name meanwhile: our
   * descriptor, where the system shows those (Linux), else the name.
   */
  async pathForChild(): Promise<string> {
    const descriptor = `/proc/${process.pid}/fd/${this.#file.fd}`;
    const [ours, shown] = await Promise.all([
      io(this.#path, "write", this.#file.stat({ bigint: true })),
      stat(descriptor, { bigint: true }).catch(() => undefined),
    ]);
    return shown && isSameFile(ours, shown) ? descriptor : this.temporary;
  }

  async write(bytes: Uint8Array): Promise<void> {
    for (let at = 0; at < bytes.length;) {
      const part = this.#file.write(bytes, at, Math.min(bytes.length - at, 1 << 30));
      at += (await io(this.#path, "write", part)).bytesWritten;
    }
  }

  /** Writes over what is at `position` already; what comes next still goes to the end. */
  async overwrite(bytes: Uint8Array, position: number): Promise<void> {
    for (let at = 0; at < bytes.length;) {
      at += (await io(this.#path, "write", this.#file.write(bytes, at, bytes.length - at, position + at))).bytesWritten;
    }
  }

  /**
   * Throws FILE_IO unless the temporary name still stands for the file that was made here: others who may write to the
   * folder could have put another file or a link there. `publish` checks it too.
   */
  async verify(): Promise<void> {
    const [ours, named] = await Promise.all([
      io(this.#path, "write", this.#file.stat({ bigint: true })),
      lstat(this.temporary, { bigint: true }).catch(() => undefined),
    ]);
    if (named && isSameFile(ours, named)) return;
    const found = named ? "another" : "that another process has removed it";
    throw new TokenizerError(
      "FILE_IO",
      `${this.#path}: expected the file that was begun at ${this.temporary}, found ${found}`,
    );
  }

  /**
   * Brings the file to the disk and gives it its final name; then removes temporary files of dead writers from the
   * folder.
   */
  async publish(): Promise<void> {
    await io(this.#path, "write", this.#file.sync());
    await this.verify(); // open still, so that no other file can have its number
    await io(this.#path, "write", rename(this.temporary, this.#target));
    this.#isPublished = true;
    await this.#close().catch(() => {}); // the file is there
    await removeAbandoned(dirname(this.#target));
  }

  /** Removes the file unless it was published; never throws. */
  async discard(): Promise<void> {
    const isOurs = !this.#isPublished && this.#isOpen && await this.verify().then(() => true, () => false);
    await this.#close().catch(() => {}); // the first failure is the one to report
    if (isOurs) await rm(this.temporary, { force: true }).catch(() => {});
  }

  async #close(): Promise<void> {
    if (!this.#isOpen) return;
    this.#isOpen = false;
    await this.#file.close();
  }
}

/** Makes sure that the names in a folder are on the disk: a rename alone may be lost when the machine stops. */
export async function syncFolder(path: string): Promise<void> {
  const folder = await io(path, "write", open(path, "r"));
  try {
    await io(path, "write", folder.sync());
  } finally {
    await folder.close();
  }
}

/** Whether two names or handles are one file. */
function isSameFile(a: BigIntStats, b: BigIntStats): boolean {
  return a.dev === b.dev && a.ino === b.ino;
}

// ---------------------------------------------------------------- temporary files
/**
 * PLACE-PID in the name of a temporary file. A process number means something only within one boot and one PID
 * namespace (containers have their own), which PLACE identifies.
 */
const temporaryPattern = /^\.ctok-([0-9a-f]+)-(\d+)(?:-[0-9a-f]+)?\.tmp$/;
/** Milliseconds without a write, a day, after which a writer counts as dead where its process cannot be looked up. */
const abandonedMs = 86_400_000;
/** PLACE of this process; other processes with the same one can be looked up by their number. */
export const place = placeOf();
/** The folders that this process has looked through. */
const swept = new Set<string>();

/** This process among all that may write here, in hexadecimal digits and a hyphen; `isWriterGone` reads it. */
export const writerName = `${place}-${process.pid}`;

/**
 * Whether the process that a temporary file's name tells has ended for certain; false where that cannot be known, as
 * for one on another machine.
 */
export function isWriterGone(name: string): boolean {
  const [at, pid] = name.split("-");
  return at === place && isGone(Number(pid));
}

/**
 * Name of a temporary file in the target's folder. Note: it does not contain the target's name, which may be as long as
 * a name can be.
 */
function temporaryName(target: string): string {
  return join(dirname(target), `.ctok-${writerName}-${randomBytes(8).toString("hex")}.tmp`);
}

function placeOf(): string {
  try {
    const boot = readFileSync("/proc/sys/kernel/random/boot_id", "utf8"), space = readlinkSync("/proc/self/ns/pid");
    return createHash("sha256").update(boot + space).digest("hex").slice(0, 12);
  } catch { // not Linux, or not allowed to look: nobody else's
    return randomBytes(6).toString("hex");
  }
}

/**
 * Removes temporary files of dead processes from a folder, which is searched once in this process, as it may be large.
 */
async function removeAbandoned(folder: string): Promise<void> {
  if (swept.has(folder)) return;
  if (swept.size === 10_000) swept.clear();
  swept.add(folder);
  for (const name of await readdir(folder).catch(() => [])) {
    const [, at, pid] = temporaryPattern.exec(name) ?? [];
    if (at === undefined) continue;
    const path = join(folder, name), found = await lstat(path).catch(() => undefined);
    const isAbandoned = at === place ? isGone(Number(pid)) : false;
    const isOld = found !== undefined && Date.now() - found.mtimeMs > abandonedMs;
    if (found?.isFile() && (isAbandoned || isOld)) await rm(path, { force: true }).catch(() => {}); // another's folder
  }
}

/** Whether no process of this place has that number. */
export function isGone(pid: number): boolean {
  try {
    process.kill(pid, 0);
    return false;
  } catch (error) {
    return (error as { code?: string }).code === "ESRCH";
  }
}

/**
 * The file that a path finally leads to, through symbolic links, also where there is no file yet. Limit: regular files
 * only, as a rename onto /dev/stdout or a pipe would replace it.
 */
async function targetOf(path: string): Promise<string> {
  // The system would refuse a NUL only at the rename, after everything was written, and the runtimes replace a lone
  // surrogate by U+FFFD.
  if (/[\0\p{Surrogate}]/u.test(path)) {
    throw expected(path, "a name without NUL and lone surrogates", JSON.stringify(path), "FILE_IO");
  }
  const found = await stat(path).catch(() => undefined); // unreadable or not there: opening the temporary file tells
  if (!found) return await endOfLinks(path);
  if (!found.isFile()) {
    throw expected(
      path,
      "a regular file or nothing there yet",
      found.isDirectory() ? "a directory" : "a device or pipe",
      "FILE_IO",
    );
  }
  return await io(path, "write", realpath(path));
}

const mostLinks = 40; // as the system's own

async function endOfLinks(path: string): Promise<string> {
  let end = path;
  for (let n = 0; n < mostLinks; n++) {
    const to = await readlink(end).catch(() => undefined);
    if (to === undefined) return end;
    end = resolve(await io(path, "write", realpath(dirname(end))), to);
  }
  throw expected(path, `at most ${mostLinks} symbolic links, one after the other`, "more", "FILE_IO");
}

/** What `work` gives; what the system refuses becomes a TokenizerError that names the path. */
export async function io<T>(path: string, doing: "read" | "write", work: Promise<T>): Promise<T> {
  try {
    return await work;
  } catch (error) {
    throw error instanceof TokenizerError ? error : ioError(path, doing, error);
  }
}

/** Makes a TokenizerError, which names the path, of an error of the system. */
export function ioError(path: string, doing: "read" | "write", error: unknown): TokenizerError {
  const { code, errno } = error as { code?: string; errno?: number };
  const said = messageOf(error);
  // Deno has some error numbers only in the message.
  const detail = errno === undefined ? /\(os error (\d+)\)/.exec(said)?.[1] : Math.abs(errno);
  const isMissing = code === "ENOENT" || code === "ENOTDIR";
  const wanted = !isMissing ? `the system to ${doing} it` : doing === "read" ? "a file" : "its folder to exist";
  const message = `${path}: expected ${wanted}, found ${code === "ENOSPC" ? `a full disk (${said})` : said}`;
  const kind = isMissing && doing === "read" ? "FILE_MISSING" : "FILE_IO";
  return new TokenizerError(kind, message, { detail: detail === undefined ? undefined : Number(detail), cause: error });
}
