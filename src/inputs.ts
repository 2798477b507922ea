/**
 * From where the bytes of a picture or a token file may come: one answer for encode, tokenize, readImage, detokenize
 * and loadTokens. Memory that the caller can still touch (bytes) is copied when it is passed, before the call returns
 * its promise; files and Blobs are read later.
 */
import { fileURLToPath } from "node:url";
import { attempt, throwIfAborted } from "./abort.ts";
import { isBytes, wholeFileBytes } from "./bytes.ts";
import { expected, nameOf, TokenizerError } from "./errors.ts";
import { ioError, readWholeFile } from "./files.ts";

/**
 * A path, a `file:` URL, the bytes themselves, or a Blob: a File, what `response.blob()` and Bun's `file(path)` give.
 * Addresses of the network are not fetched.
 */
export type BytesSource = string | URL | Uint8Array | ArrayBuffer | Blob;

/** What inputs are accepted, for error messages, after the word for what the bytes contain. */
export const acceptedSources = "a path, a file: URL, bytes (Uint8Array, ArrayBuffer) or a Blob";

export interface Taken {
  /** The input's name in error messages: its path, or what was passed. */
  readonly name: string;
  /** Reads all bytes. Throws FILE_MISSING, FILE_IO, CANCELLED. */
  read(signal?: AbortSignal): Promise<Uint8Array>;
}

export function isBytesSource(value: unknown): value is BytesSource {
  return typeof value === "string" || value instanceof URL || isBytes(value) || value instanceof Blob;
}

/** Copies what may change, and says how to read the rest. `name` stands for it in error texts. Throws ARGUMENT. */
export function takeBytes(name: string, source: BytesSource): Taken {
  if (typeof source === "string" || source instanceof URL) {
    const path = pathOf(name, source);
    return { name: path, read: (signal) => readWholeFile(path, { signal }) };
  }
  if (isBytes(source)) {
    const copy = copyOf(source);
    return { name: `${name} of ${copy.length} bytes`, read: () => Promise.resolve(copy) };
  }
  if (source instanceof Blob) {
    const path = (source as File).name;
    return {
      name: path || `${name} of ${source.size} bytes`,
      read: (signal) => readBlob(path || name, source, signal),
    };
  }
  const hint = typeof Response !== "undefined" && (source as unknown) instanceof Response
    ? "a Response; pass await response.blob()"
    : nameOf(source);
  throw expected(name, acceptedSources, hint);
}

/** The path that a string or a file: URL names. Throws ARGUMENT for another URL, and for one that no file can have. */
export function pathOf(name: string, source: string | URL): string {
  if (typeof source === "string") return source;
  if (source.protocol !== "file:") {
    throw expected(name, "a file: URL (ctok fetches nothing: pass the bytes or the Blob of a response)", source.href);
  }
  try {
    return fileURLToPath(source);
  } catch {
    throw expected(name, "a file: URL that names a file of this machine", source.href);
  }
}

/** Memory of our own. Detached memory has no bytes. */
export function copyOf(source: Uint8Array | ArrayBuffer): Uint8Array {
  const copy = new Uint8Array(source.byteLength); // Note: not slice, which keeps a Buffer's shared pool
  if (source.byteLength > 0) copy.set(source instanceof Uint8Array ? source : new Uint8Array(source));
  return copy;
}

/** Reads a Blob. Limit: as many bytes as of a file, since the Blob of a device would have no end. */
async function readBlob(name: string, blob: Blob, signal: AbortSignal | undefined): Promise<Uint8Array> {
  const reader = await attempt(() => blob.stream().getReader()).catch((error) => {
    throw ioError(name, "read", error);
  });
  const stop = () => void reader.cancel().catch(() => {});
  signal?.addEventListener("abort", stop, { once: true });
  const chunks: Uint8Array[] = [];
  let length = 0;
  try {
    for (let next; !(next = await reader.read()).done;) {
      chunks.push(next.value);
      length += next.value.length;
      if (length > wholeFileBytes) {
        throw expected(name, `at most ${wholeFileBytes} bytes`, `${length} and more`, "FILE_IO");
      }
    }
  } catch (error) {
    stop();
    throw error instanceof TokenizerError ? error : ioError(name, "read", error);
  } finally {
    signal?.removeEventListener("abort", stop);
  }
  throwIfAborted(signal);
  const bytes = new Uint8Array(length);
  let at = 0;
  for (const chunk of chunks) {
    bytes.set(chunk, at);
    at += chunk.length;
  }
  return bytes;
}
