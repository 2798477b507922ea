/**
 * The safetensors container for token files: u64 header length, JSON header {name: {dtype, shape, data_offsets}} with a
 * "__metadata__" of strings, then the data. Little-endian, as is every machine that ctok runs on. Only the four types that
 * token files hold; checkpoints are read by the C core. Reading is strict: the tensors must cover the data exactly, in any
 * order.
 * Ref: https://huggingface.co/docs/safetensors, "Format".
 */
import { z } from "zod";
import { messageOf, TokenizerError } from "./errors.ts";
import { type DType, elementsOf, type TensorLike, viewAs } from "./tensor.ts";

export interface Safetensors {
  readonly tensors: ReadonlyMap<string, TensorLike>;
  readonly metadata: Readonly<Record<string, string>>;
}

const dtypes = {
  U8: { dtype: "uint8", bytes: 1 },
  U16: { dtype: "uint16", bytes: 2 },
  I32: { dtype: "int32", bytes: 4 },
  F32: { dtype: "float32", bytes: 4 },
} as const satisfies Record<string, { dtype: DType; bytes: number }>;
type StoredType = keyof typeof dtypes;
const storedTypes = Object.keys(dtypes) as StoredType[];

/** Of a header: parsed, nested lists take 35 times their text. The windows of ten million frames are shorter. */
const mostHeaderBytes = 4 << 20;

const whole = z.int().nonnegative();
/** Not a z.array, which would look at millions of sizes before it counts them. */
const shapeSchema = z.custom<number[]>(
  (v) => Array.isArray(v) && v.length <= 8 && v.every((n) => Number.isSafeInteger(n) && n > 0),
  "expected at most 8 positive whole numbers",
);
const entrySchema = z.object({ dtype: z.string(), shape: shapeSchema, data_offsets: z.tuple([whole, whole]) });
const metadataSchema = z.record(z.string(), z.string());

/** The bytes of a file. Data starts at a multiple of 8, wider types first, so that every tensor is aligned. */
export function encodeSafetensors(
  tensors: Readonly<Record<string, TensorLike>>,
  metadata: Record<string, string>,
): Uint8Array {
  const sorted = Object.entries(tensors).sort((a, b) => b[1].data.BYTES_PER_ELEMENT - a[1].data.BYTES_PER_ELEMENT);
  let end = 0;
  const entries = sorted.map(([name, { dtype, shape, data }]) => {
    const stored = storedTypes.find((type) => dtypes[type].dtype === dtype);
    return [name, { dtype: stored, shape, data_offsets: [end, end += data.byteLength] }];
  });
  const json = new TextEncoder().encode(JSON.stringify({ __metadata__: metadata, ...Object.fromEntries(entries) }));
  const headerBytes = Math.ceil(json.length / 8) * 8;
  const out = new Uint8Array(8 + headerBytes + end).fill(0x20, 8, 8 + headerBytes);
  new DataView(out.buffer).setBigUint64(0, BigInt(headerBytes), true);
  out.set(json, 8);
  let at = 8 + headerBytes;
  for (const [, { data }] of sorted) {
    out.set(new Uint8Array(data.buffer, data.byteOffset, data.byteLength), at);
    at += data.byteLength;
  }
  return out;
}

/** Tensors that share memory with `bytes`, and the metadata. Throws TOKEN_FILE saying what is wrong. */
export function decodeSafetensors(bytes: Uint8Array): Safetensors {
  const bad = (what: string, wanted: string, found: string, cause?: unknown) =>
    new TokenizerError("TOKEN_FILE", `${what}: expected ${wanted}, found ${found}`, { cause });
  if (bytes.length < 8) throw bad("safetensors header", "8 bytes that give its length", `${bytes.length} bytes in all`);
  const headerBytes = new DataView(bytes.buffer, bytes.byteOffset, 8).getBigUint64(0, true);
  const rest = bytes.length - 8;
  if (headerBytes > BigInt(rest)) {
    throw bad("safetensors header length", `at most the ${rest} bytes that follow`, `${headerBytes}`);
  }
  if (headerBytes > mostHeaderBytes) {
    throw bad("safetensors header length", `at most ${mostHeaderBytes} bytes`, `${headerBytes}`);
  }

  const dataStart = 8 + Number(headerBytes);
  let header: unknown;
  try {
    header = JSON.parse(new TextDecoder("utf-8", { fatal: true }).decode(bytes.subarray(8, dataStart)));
  } catch (cause) {
    throw bad("safetensors header", "JSON", messageOf(cause), cause);
  }
  if (typeof header !== "object" || header === null || Array.isArray(header)) {
    throw bad("safetensors header", "a JSON object", Array.isArray(header) ? "an array" : String(header));
  }
  const { __metadata__ = {}, ...entries } = header as Record<string, unknown>;
  const metadata = metadataSchema.safeParse(__metadata__);
  if (!metadata.success) throw bad("__metadata__", "strings only", explain(metadata.error));

  const dataBytes = bytes.length - dataStart;
  const tensors = new Map<string, TensorLike>(), ranges: [number, number, string][] = [];
  for (const [key, value] of Object.entries(entries)) {
    const entry = entrySchema.safeParse(value);
    if (!entry.success) throw bad(`tensor "${key}"`, "{dtype, shape, data_offsets}", explain(entry.error));
    const { dtype: stored, shape, data_offsets: [begin, end] } = entry.data;
    if (!Object.hasOwn(dtypes, stored)) throw bad(`dtype of "${key}"`, `one of ${storedTypes.join(", ")}`, stored);
    const { dtype, bytes: elementBytes } = dtypes[stored as StoredType];
    if (begin > end || end > dataBytes) {
      throw bad(`offsets of "${key}"`, `a range in 0 .. ${dataBytes}`, `${begin} .. ${end}`);
    }
    const wanted = elementsOf(shape) * elementBytes;
    if (end - begin !== wanted) throw bad(`size of "${key}"`, `${wanted} bytes for ${stored} [${shape}]`, `${end - begin}`);
    ranges.push([begin, end, key]);
    tensors.set(key, { dtype, shape, data: viewAs(dtype, bytes, dataStart + begin, wanted) });
  }

  let covered = 0;
  for (const [begin, end, key] of ranges.sort((a, b) => a[0] - b[0])) {
    if (begin !== covered) {
      throw bad(`offsets of "${key}"`, `to start at ${covered}, where the tensor before ends`, `${begin}`);
    }
    covered = end;
  }
  if (covered !== dataBytes) throw bad("data", `${covered} bytes, as the header says`, `${dataBytes}`);
  return { tensors, metadata: metadata.data };
}

function explain({ issues: [first] }: z.ZodError): string {
  return `${first?.path.join(".") || "it"}: ${first?.message}`;
}
