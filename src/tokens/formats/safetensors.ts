/**
 * The safetensors container for token files: u64 header length, JSON header {name: {dtype, shape, data_offsets}} with a
 * "__metadata__" of strings, then the data. Little-endian, as is every machine that ctok runs on. Checkpoints are read
 * by the C core. Reading is strict: the tensors must cover the data exactly, in any order, and no key may stand twice.
 * Ref: https://huggingface.co/docs/safetensors, "Format".
 */
import { z } from "zod";
import type { TensorLike } from "../dense.ts";
import { expected, messageOf, TokenizerError } from "../../errors.ts";
import {
  bytesFor,
  isShape,
  namesIn,
  type StoredTensor,
  storedTensor,
  type StoredType,
  storedTypes,
  type TokenForm,
  typeNamed,
} from "../stored.ts";

export interface Safetensors {
  readonly tensors: ReadonlyMap<string, StoredTensor>;
  readonly metadata: Readonly<Record<string, string>>;
}

/**
 * The safetensors form of token files. The origin is its metadata, whose values must be strings: a list becomes
 * "8,8,8,5,5,5".
 */
export const safetensors: TokenForm = {
  // 0x7b opens its JSON. Note: an NPY header, filled up to 16 or 64, is never 123 bytes.
  fits: (bytes) => bytes[8] === 0x7b,
  encode: ({ about, tensors }) => {
    return encodeSafetensors(
      tensors,
      Object.fromEntries(Object.entries(about!).map(([key, value]) => [key, String(value)])),
    );
  },
  decode: (bytes) => {
    const { tensors, metadata } = decodeSafetensors(bytes);
    const isOurs = metadata.format?.startsWith("ctok-"); // PyTorch's own is {"format": "pt"}, or none
    return { about: isOurs ? metadata : undefined, tensors: Object.fromEntries(tensors) };
  },
};

/**
 * The largest header that is written or read, in bytes: once parsed it takes many times its size. The windows of any
 * video take a few bytes of it.
 */
export const mostHeaderBytes = 1 << 20;
/** How deep the header's lists and objects may nest: {name: {data_offsets: []}}. */
const mostDepth = 3;

const whole = z.int().nonnegative();
const shapeSchema = z.custom<number[]>(isShape, "expected at most 8 positive whole numbers");
const entrySchema = z.object({ dtype: z.string(), shape: shapeSchema, data_offsets: z.tuple([whole, whole]) });
const metadataSchema = z.record(z.string(), z.string());

/** A tensor's place in the data, which begins behind the header. */
export interface Entry {
  readonly dtype: StoredType;
  readonly shape: readonly number[];
  readonly begin: number;
  readonly end: number;
}

/**
 * The length and the header of a file whose tensors' data follows in this order; data starts at a multiple of 8. Throws
 * UNSUPPORTED for a header of more than `most` bytes.
 */
export function safetensorsHeader(
  tensors: readonly (readonly [name: string, tensor: Pick<Entry, "dtype" | "shape">])[],
  metadata: Readonly<Record<string, string>>,
  most = mostHeaderBytes,
): Uint8Array {
  let end = 0;
  const entries = tensors.map(([name, { dtype, shape }]) => {
    return [name, { dtype: storedTypes[dtype].safetensors, shape, data_offsets: [end, end += bytesFor(dtype, shape)] }];
  });
  const json = new TextEncoder().encode(JSON.stringify({ __metadata__: metadata, ...Object.fromEntries(entries) }));
  const headerBytes = Math.ceil(json.length / 8) * 8;
  if (headerBytes > most) throw expected("safetensors header", `at most ${most} bytes`, headerBytes, "UNSUPPORTED");
  const out = new Uint8Array(8 + headerBytes).fill(0x20, 8);
  new DataView(out.buffer).setBigUint64(0, BigInt(headerBytes), true);
  out.set(json, 8);
  return out;
}

/** The bytes of a file, wider types first, so that every tensor is aligned. Throws as safetensorsHeader. */
export function encodeSafetensors(
  tensors: Readonly<Record<string, TensorLike | StoredTensor>>,
  metadata: Record<string, string>,
): Uint8Array {
  const sorted = Object.entries(tensors).sort((a, b) => b[1].data.BYTES_PER_ELEMENT - a[1].data.BYTES_PER_ELEMENT);
  const header = safetensorsHeader(sorted, metadata);
  const out = new Uint8Array(sorted.reduce((sum, [, { data }]) => sum + data.byteLength, header.length));
  out.set(header);
  let at = header.length;
  for (const [, { data }] of sorted) {
    out.set(new Uint8Array(data.buffer, data.byteOffset, data.byteLength), at);
    at += data.byteLength;
  }
  return out;
}

const bad = (what: string, wanted: string, found: string, cause?: unknown) =>
  new TokenizerError("TOKEN_FILE", `${what}: expected ${wanted}, found ${found}`, { cause });

/** Bytes of the header, said by the first 8 of a file of `fileBytes`. Throws TOKEN_FILE for more than `most`. */
export function headerLength(start: Uint8Array, fileBytes: number, most = mostHeaderBytes): number {
  if (fileBytes < 8) throw bad("safetensors header", "8 bytes that give its length", `${fileBytes} bytes in all`);
  const headerBytes = new DataView(start.buffer, start.byteOffset, 8).getBigUint64(0, true);
  const rest = fileBytes - 8;
  if (headerBytes > BigInt(rest)) {
    throw bad("safetensors header length", `at most the ${rest} bytes that follow`, `${headerBytes}`);
  }
  if (headerBytes > most) throw bad("safetensors header length", `at most ${most} bytes`, `${headerBytes}`);
  return Number(headerBytes);
}

/**
 * Reads a header that has `dataBytes` bytes of data behind it. Throws TOKEN_FILE unless its tensors cover exactly
 * those.
 */
export function parseHeader(
  bytes: Uint8Array,
  dataBytes: number,
): { readonly entries: ReadonlyMap<string, Entry>; readonly metadata: Readonly<Record<string, string>> } {
  let header: unknown;
  try {
    const json = new TextDecoder("utf-8", { fatal: true, ignoreBOM: true }).decode(bytes);
    checkKeys(json);
    header = JSON.parse(json);
  } catch (cause) {
    if (cause instanceof TokenizerError) throw cause;
    throw bad("safetensors header", "JSON", messageOf(cause), cause);
  }
  if (typeof header !== "object" || header === null || Array.isArray(header)) {
    throw bad("safetensors header", "a JSON object", Array.isArray(header) ? "an array" : String(header));
  }
  const { __metadata__ = {}, ...tensors } = header as Record<string, unknown>;
  const metadata = metadataSchema.safeParse(__metadata__);
  if (!metadata.success) throw bad("__metadata__", "strings only", explain(metadata.error));

  const entries = new Map<string, Entry>();
  for (const [key, value] of Object.entries(tensors)) {
    const entry = entrySchema.safeParse(value);
    if (!entry.success) throw bad(`tensor "${key}"`, "{dtype, shape, data_offsets}", explain(entry.error));
    const { dtype: stored, shape, data_offsets: [begin, end] } = entry.data;
    const type = typeNamed("safetensors", stored);
    if (!type) throw bad(`dtype of "${key}"`, `one of ${namesIn("safetensors").join(", ")}`, stored);
    if (begin > end || end > dataBytes) {
      throw bad(`offsets of "${key}"`, `a range in 0 .. ${dataBytes}`, `${begin} .. ${end}`);
    }
    const wanted = bytesFor(type, shape);
    if (end - begin !== wanted) {
      throw bad(`size of "${key}"`, `${wanted} bytes for ${stored} [${shape}]`, `${end - begin}`);
    }
    entries.set(key, { dtype: type, shape, begin, end });
  }

  let covered = 0;
  for (const [key, { begin, end }] of [...entries].sort((a, b) => a[1].begin - b[1].begin)) {
    if (begin !== covered) {
      throw bad(`offsets of "${key}"`, `to start at ${covered}, where the tensor before ends`, `${begin}`);
    }
    covered = end;
  }
  if (covered !== dataBytes) throw bad("data", `${covered} bytes, as the header says`, `${dataBytes}`);
  return { entries, metadata: metadata.data };
}

/**
 * Reads a safetensors file: tensors that share memory with `bytes`, and the metadata. Throws TOKEN_FILE, which says
 * what is wrong.
 */
export function decodeSafetensors(bytes: Uint8Array): Safetensors {
  const dataStart = 8 + headerLength(bytes, bytes.length);
  const { entries, metadata } = parseHeader(bytes.subarray(8, dataStart), bytes.length - dataStart);
  const tensors = [...entries].map(([key, { dtype, shape, begin, end }]) => {
    return [key, storedTensor(key, dtype, shape, bytes.subarray(dataStart + begin, dataStart + end))] as const;
  });
  return { tensors: new Map(tensors), metadata };
}

/**
 * Throws where an object of JSON text has a key twice, of which JSON.parse would take the last and other readers the
 * first, or where lists and objects lie deeper than a header needs. What is no JSON is left to JSON.parse.
 */
function checkKeys(json: string): void {
  const keys: Set<string>[] = []; // of the open objects; of lists none
  for (let at = 0; at < json.length; at++) {
    const character = json[at]!;
    if (character === "}" || character === "]") keys.pop();
    if (character === "{" || character === "[") {
      keys.push(new Set());
      if (keys.length > mostDepth) {
        throw expected("safetensors header", `at most ${mostDepth} levels`, "more", "TOKEN_FILE");
      }
    }
    if (character !== '"') continue;
    const start = at;
    for (at++; at < json.length && json[at] !== '"'; at++) if (json[at] === "\\") at++;
    const text = json.slice(start, at + 1);
    for (; /\s/.test(json[at + 1] ?? ""); at++);
    if (json[at + 1] !== ":") continue;
    const key: string = JSON.parse(text);
    if (keys.at(-1)?.has(key)) throw expected("safetensors header", "each key once", key, "TOKEN_FILE");
    keys.at(-1)?.add(key);
  }
}

function explain({ issues: [first] }: z.ZodError): string {
  return `${first?.path.join(".") || "it"}: ${first?.message}`;
}
