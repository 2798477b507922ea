/**
 * Token files on the disk: the only part of tokens that reads or writes one. What is in them is in tokenfile.ts, which
 * a page in a browser has as well.
 */
import { extname } from "node:path";
import { setImmediate } from "node:timers/promises";
import { throwIfAborted } from "../abort.ts";
import { expected } from "../errors.ts";
import { writeFileAtomic } from "../files.ts";
import { type BytesSource, takeBytes } from "../inputs.ts";
import type { Tokens } from "./tensor.ts";
import {
  checkFallback,
  decoding,
  encodeTokens,
  type FallbackOrigin,
  type StoreOptions,
  type TokenFormat,
  tokenFormats,
} from "./tokenfile.ts";

export interface SaveOptions extends StoreOptions {
  /** Default: what the extension says; safetensors for any other. */
  format?: TokenFormat;
}

export interface LoadOptions {
  /** Aborting it ends the reading with code CANCELLED, also while a pipe gives nothing. */
  signal?: AbortSignal | undefined;
}

/**
 * Writes a token file, whole or not at all; the tokens may change once it has returned its promise. Throws what
 * encodeTokens throws, and FILE_IO.
 */
export async function saveTokens(path: string, tokens: Tokens, options: SaveOptions = {}): Promise<void> {
  if (typeof path !== "string") throw expected("path", "a path", path);
  if (typeof options !== "object" || options === null) throw expected("options", "{ format, storePath }", options);
  const { format = formatOf(path), ...store } = options;
  await writeFileAtomic(path, encodeTokens(tokens, format, store));
}

/**
 * Reads a token file of any format: its path or that of a pipe that it comes through, its `file:` URL, bytes or Blob;
 * see decodeTokens. A large one in slices. Throws FILE_MISSING, FILE_IO, TOKEN_FILE, ARGUMENT; CANCELLED when `signal`
 * fires.
 */
export async function loadTokens(
  source: BytesSource,
  fallback?: FallbackOrigin,
  { signal }: LoadOptions = {},
): Promise<Tokens> {
  const taken = takeBytes("tokens", source);
  checkFallback(fallback);
  const slices = decoding(await taken.read(signal), taken.name, fallback);
  for (;;) {
    const { done, value } = slices.next();
    if (done) return value;
    await setImmediate();
    throwIfAborted(signal);
  }
}

function formatOf(path: string): TokenFormat {
  const extension = extname(path).slice(1).toLowerCase();
  return tokenFormats.find((format) => format === extension) ?? "safetensors";
}
