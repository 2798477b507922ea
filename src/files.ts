/**
 * Whole files in, whole files out. A file that ctok writes is there complete or not at all: the bytes go to a temporary file
 * in the same folder, reach the disk, and only then take the name. The system's refusals become TokenizerErrors here.
 */
import { randomUUID } from "node:crypto";
import { open, readFile, realpath, rename, rm, stat } from "node:fs/promises";
import { dirname, join } from "node:path";
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
  const target = await targetOf(path);
  const temporary = join(dirname(target), `.ctok-${randomUUID()}.tmp`);
  const file = await io(path, "write", open(temporary, "wx"));
  try {
    try {
      for await (const chunk of content instanceof Uint8Array ? [content] : content) {
        for (let at = 0; at < chunk.length;) {
          at += (await io(path, "write", file.write(chunk, at, Math.min(chunk.length - at, 1 << 30)))).bytesWritten;
        }
      }
      await io(path, "write", file.sync());
    } finally {
      await io(path, "write", file.close());
    }
    await io(path, "write", rename(temporary, target));
  } catch (error) {
    await rm(temporary, { force: true }).catch(() => {}); // the first failure is the one to report
    throw error;
  }
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
