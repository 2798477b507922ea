/**
 * Whole files in, whole files out. A file that ctok writes is there complete or not at all: the bytes go to a temporary file
 * in the same folder, reach the disk, and only then take the name. The system's refusals become TokenizerErrors here.
 */
import { createHash } from "node:crypto";
import { type FileHandle, open, readFile, realpath, rename, rm, stat } from "node:fs/promises";
import { basename, dirname, join } from "node:path";
import { expected, messageOf, TokenizerError } from "./errors.ts";

/** Of a file that is read whole: no picture within `limitPixels` and no token file needs as much. */
const mostBytes = 2 ** 31;

/**
 * All bytes of a file. Throws FILE_MISSING when nothing is there; FILE_IO for a device, which may never end, for more than
 * 2 GiB, for a folder and what else the system refuses.
 */
export async function readWholeFile(path: string): Promise<Uint8Array> {
  const found = await io(path, "read", stat(path));
  if (found.isCharacterDevice() || found.isBlockDevice()) throw expected(path, "a file", "a device", "FILE_IO");
  if (found.size > mostBytes) throw expected(path, `at most ${mostBytes} bytes`, found.size, "FILE_IO");
  return await io(path, "read", readFile(path));
}

/**
 * Writes a file whole, replacing one of that name; through a symbolic link, the file that it points to. On any failure, one
 * thrown by `content` included, neither the file nor the temporary one is left behind, and an older file is untouched.
 * Throws FILE_IO (detail: errno) naming the path; what `content` throws passes unchanged.
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

/** The temporary files that this process is writing. */
const held = new Set<string>();
const mostNames = 100;

/**
 * A file that is being written, under a temporary name beside its target: `.ctok-HASH-N.tmp`, of the target's name and the
 * first number that is free. A process that is killed leaves such a file; whoever next finishes the same target removes it.
 * Note: of two processes that write one target at once, the first to finish may so take the other's, which is then told.
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
    held.add(temporary);
  }

  /** Throws FILE_IO for a folder or device, and where no file can be made. */
  static async create(path: string): Promise<PendingFile> {
    const target = await targetOf(path);
    for (let n = 0;; n++) {
      const temporary = nameOf(target, n);
      try {
        return new PendingFile(path, target, temporary, await open(temporary, "wx"));
      } catch (error) {
        if ((error as { code?: string }).code !== "EEXIST" || n === mostNames) throw ioError(path, "write", error);
      }
    }
  }

  async write(bytes: Uint8Array): Promise<void> {
    for (let at = 0; at < bytes.length;) {
      const part = this.#file.write(bytes, at, Math.min(bytes.length - at, 1 << 30));
      at += (await io(this.#path, "write", part)).bytesWritten;
    }
  }

  /** Gives the file its name once it is on the disk, and removes what earlier writers of the same target left. */
  async publish(): Promise<void> {
    await io(this.#path, "write", this.#file.sync());
    await io(this.#path, "write", this.#close());
    await rename(this.temporary, this.#target).catch((error) => {
      if (error.code !== "ENOENT") throw ioError(this.#path, "write", error);
      throw expected(this.#path, "no other process to write it", "one that has finished it meanwhile", "FILE_IO");
    });
    this.#isPublished = true;
    for (let n = 0, abandoned; (abandoned = nameOf(this.#target, n)) !== this.temporary; n++) {
      if (!held.has(abandoned)) await rm(abandoned, { force: true }).catch(() => {}); // the file itself is there
    }
  }

  /** Removes the file unless it was published; never throws. */
  async discard(): Promise<void> {
    await this.#close().catch(() => {}); // the first failure is the one to report
    if (!this.#isPublished) await rm(this.temporary, { force: true }).catch(() => {});
    held.delete(this.temporary);
  }

  async #close(): Promise<void> {
    if (!this.#isOpen) return;
    this.#isOpen = false;
    await this.#file.close();
  }
}

/** Note: a hash, because the target's own name may be as long as a name can be. */
function nameOf(target: string, n: number): string {
  const hash = createHash("sha256").update(basename(target)).digest("hex").slice(0, 16);
  return join(dirname(target), `.ctok-${hash}-${n}.tmp`);
}

/** Where the bytes finally go. Limit: regular files only; a rename onto /dev/stdout or a pipe would replace it. */
async function targetOf(path: string): Promise<string> {
  const found = await stat(path).catch(() => undefined); // unreadable or not there: opening the temporary file tells
  if (!found) return path;
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

async function io<T>(path: string, doing: "read" | "write", work: Promise<T>): Promise<T> {
  try {
    return await work;
  } catch (error) {
    throw ioError(path, doing, error);
  }
}

/** What the system said, as a TokenizerError that names the path. */
export function ioError(path: string, doing: "read" | "write", error: unknown): TokenizerError {
  const { code, errno } = error as { code?: string; errno?: number };
  const said = messageOf(error);
  // Deno gives some numbers only as text.
  const detail = errno === undefined ? /\(os error (\d+)\)/.exec(said)?.[1] : Math.abs(errno);
  const isMissing = code === "ENOENT" || code === "ENOTDIR";
  const wanted = !isMissing ? `the system to ${doing} it` : doing === "read" ? "a file" : "its folder to exist";
  const message = `${path}: expected ${wanted}, found ${code === "ENOSPC" ? `a full disk (${said})` : said}`;
  const kind = isMissing && doing === "read" ? "FILE_MISSING" : "FILE_IO";
  return new TokenizerError(kind, message, { detail: detail === undefined ? undefined : Number(detail), cause: error });
}
