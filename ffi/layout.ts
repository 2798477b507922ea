/**
 * The structs of ctok.h as tables of fields in order, with C's alignment on every supported machine (natural). Each
 * struct reads and writes its own Uint8Array; tests/abi compares sizes and offsets with the C compiler's.
 */

type Scalar = "u32" | "i32" | "i64" | "u64";
type Text = { readonly text: number }; // char[n], NUL-terminated UTF-8
type Row = { readonly row: Scalar; readonly count: number };
type Nested = { readonly struct: Struct; readonly count: number };
type Field = Scalar | Text | Row | Nested;
export type Fields = Readonly<Record<string, Field>>;

/** What a field reads as. 64-bit numbers are plain numbers: none here passes 2^53. */
type Value<F> = F extends Scalar ? number
  : F extends Text ? string
  : F extends Row ? number[]
  : F extends { struct: Struct<infer G> } ? Values<G>[]
  : never;
export type Values<F extends Fields = Fields> = { -readonly [K in keyof F]: Value<F[K]> };

const bytesOf = { u32: 4, i32: 4, i64: 8, u64: 8 } as const;
const decoder = new TextDecoder();
const encoder = new TextEncoder();

const isFailure = Symbol.for("ctok.NativeFailure");

/**
 * A ctok_error as a value. src/model/job.ts turns it into a TokenizerError. An engine outlives the module that made it:
 * see load.ts.
 */
export class NativeFailure extends Error {
  static override [Symbol.hasInstance](value: unknown): boolean {
    return value instanceof Error && isFailure in value;
  }

  readonly [isFailure] = true;
  readonly status: number;
  readonly detail: number;
  constructor(status: number, detail: number, message: string) {
    super(message);
    this.status = status;
    this.detail = detail;
  }
}

/**
 * The UTF-8 of a text that C reads up to its NUL. What C would read as another text is refused: a NUL inside ends it
 * there, a lone surrogate has no UTF-8, and a longer one would be cut. Throws NativeFailure that names it.
 */
export function utf8(name: string, text: unknown, mostBytes = Infinity): Uint8Array {
  const refuse = (wanted: string, found: unknown) =>
    new NativeFailure(status.ARGUMENT, 0, `${name}: expected ${wanted}, found ${found}`);
  if (typeof text !== "string") throw refuse("a string", text);
  if (/[\0\p{Surrogate}]/u.test(text)) throw refuse("text without NUL and lone surrogates", JSON.stringify(text));
  const bytes = encoder.encode(text);
  if (bytes.length > mostBytes) throw refuse(`at most ${mostBytes} bytes of UTF-8`, bytes.length);
  return bytes;
}

export class Struct<F extends Fields = Fields> {
  readonly fields: F;
  readonly offsets: Readonly<Record<keyof F, number>>;
  readonly bytes: number;
  readonly alignment: number;

  constructor(fields: F) {
    let offset = 0, alignment = 1;
    const offsets = {} as Record<keyof F, number>;
    for (const [name, field] of Object.entries(fields)) {
      const [size, unit] = extent(field);
      offset = Math.ceil(offset / unit) * unit;
      offsets[name as keyof F] = offset;
      offset += size;
      alignment = Math.max(alignment, unit);
    }
    this.fields = fields;
    this.offsets = offsets;
    this.alignment = alignment;
    this.bytes = Math.ceil(offset / alignment) * alignment;
  }

  /** Memory for one, its struct_size set and `values` written. Never under 1000 bytes: Bun moves smaller arrays. */
  make(values: Partial<Values<F>> = {}): Uint8Array {
    const memory = new Uint8Array(new ArrayBuffer(Math.max(this.bytes, 1024))).subarray(0, this.bytes);
    const view = viewOf(memory);
    for (const [name, value] of Object.entries({ struct_size: this.bytes, ...values })) {
      write(view, this.offsets[name]!, this.fields[name]!, value, name);
    }
    return memory;
  }

  read(memory: Uint8Array, at = 0): Values<F> {
    const view = viewOf(memory);
    const out = {} as Record<string, unknown>;
    for (const [name, field] of Object.entries(this.fields)) out[name] = read(view, at + this.offsets[name]!, field);
    return out as Values<F>;
  }
}

function viewOf(memory: Uint8Array): DataView {
  return new DataView(memory.buffer, memory.byteOffset, memory.byteLength);
}

function extent(field: Field): [size: number, alignment: number] {
  if (typeof field === "string") return [bytesOf[field], bytesOf[field]];
  if ("text" in field) return [field.text, 1];
  if ("row" in field) return [bytesOf[field.row] * field.count, bytesOf[field.row]];
  return [field.struct.bytes * field.count, field.struct.alignment];
}

function readScalar(view: DataView, at: number, type: Scalar): number {
  if (type === "u32") return view.getUint32(at, true);
  if (type === "i32") return view.getInt32(at, true);
  return Number(type === "u64" ? view.getBigUint64(at, true) : view.getBigInt64(at, true));
}

function read(view: DataView, at: number, field: Field): unknown {
  if (typeof field === "string") return readScalar(view, at, field);
  if ("text" in field) {
    const bytes = new Uint8Array(view.buffer, view.byteOffset + at, field.text);
    const end = bytes.indexOf(0);
    return decoder.decode(bytes.slice(0, end < 0 ? field.text : end));
  }
  if ("row" in field) {
    return Array.from({ length: field.count }, (_, i) => readScalar(view, at + i * bytesOf[field.row], field.row));
  }
  const memory = new Uint8Array(view.buffer, view.byteOffset, view.byteLength);
  return Array.from({ length: field.count }, (_, i) => field.struct.read(memory, at + i * field.struct.bytes));
}

function writeScalar(view: DataView, at: number, type: Scalar, value: number): void {
  if (type === "u32") view.setUint32(at, value, true);
  else if (type === "i32") view.setInt32(at, value, true);
  else view.setBigInt64(at, BigInt(value), true);
}

function write(view: DataView, at: number, field: Field, value: unknown, name: string): void {
  if (typeof field === "string") return writeScalar(view, at, field, value as number);
  if ("text" in field) {
    new Uint8Array(view.buffer, view.byteOffset + at, field.text - 1).set(utf8(name, value, field.text - 1));
  } else if ("row" in field) {
    (value as number[]).forEach((v, i) => writeScalar(view, at + i * bytesOf[field.row], field.row, v));
  }
}

// ---------------------------------------------------------------- the structs of ctok.h
export const ErrorStruct = new Struct({ struct_size: "u32", status: "i32", detail: "i64", message: { text: 1008 } });

export const EngineOptions = new Struct({
  struct_size: "u32",
  num_threads: "u32",
  kernels: "u32",
  device: "u32",
  device_index: "u32",
  ends_with_thread: "u32",
  keeps_steps: "u32",
  opens_in_background: "u32",
});

export const EngineInfo = new Struct({
  struct_size: "u32",
  num_threads: "u32",
  arena_bytes: "u64",
  num_models: "u32",
  num_jobs: "u32",
  kernels: { text: 16 },
  state_bytes: "u64",
  device_bytes: "u64",
  device: { text: 16 },
  device_name: { text: 64 },
  why_cpu: { text: 256 },
  num_starts: "u64",
  num_graph_launches: "u64",
  num_captures: "u64",
  num_refused_captures: "u64",
  num_waits: "u64",
});

export const DeviceInfo = new Struct({
  device: { text: 16 },
  name: { text: 64 },
  kernels: { text: 16 },
  reason: { text: 256 },
  is_usable: "u32",
  has_bf16: "u32",
  num_threads: "u32",
  capability: "u32",
  driver_version: "u32",
  runtime_version: "u32",
  total_bytes: "u64",
  free_bytes: "u64",
});

export const ModelOptions = new Struct({
  struct_size: "u32",
  precision: "u32",
  halves: "u32",
  num_fsq_levels: "u32",
  fsq_levels: { row: "u32", count: 8 },
  spatial_factor: "u32",
  temporal_factor: "u32",
  num_threads: "u32",
  name: { text: 64 },
  reserved: "u32",
  max_memory_bytes: "u64",
});

export const Fact = new Struct({ name: { text: 32 }, value: { text: 92 }, from: "u32" });

export const ModelInfo = new Struct({
  struct_size: "u32",
  halves: "u32",
  is_video: "u32",
  spatial_factor: "u32",
  temporal_factor: "u32",
  latent_channels: "u32",
  quantizer: "u32",
  codebook_size: "u32",
  num_levels: "u32",
  levels: { row: "u32", count: 8 },
  precision: "u32",
  stored_dtype: "i32",
  num_nonfinite_tensors: "u32",
  num_threads: "u32",
  num_facts: "u32",
  encoder_parameters: "i64",
  decoder_parameters: "i64",
  codebook_parameters: "i64",
  num_nonfinite: "i64",
  weight_bytes: "u64",
  first_nonfinite: { text: 160 },
  name: { text: 64 },
  family: { text: 16 },
  sha256: { text: 72 },
  facts: { struct: Fact, count: 16 },
});

export const Request = new Struct({
  struct_size: "u32",
  task: "u32",
  input: "u32",
  outputs: "u32",
  chunk: "u32",
  num_held: "u32",
  batch: "i64",
  frames: "i64",
  height: "i64",
  width: "i64",
  crop_before: "i64",
  crop_top: "i64",
  crop_left: "i64",
  crop_frames: "i64",
  crop_height: "i64",
  crop_width: "i64",
  state_frames: "i64",
  max_memory_bytes: "u64",
});

export const Output = new Struct({
  kind: "u32",
  dtype: "i32",
  rank: "u32",
  reserved: "u32",
  shape: { row: "i64", count: 5 },
  bytes: "u64",
});

export const Plan = new Struct({
  struct_size: "u32",
  num_outputs: "u32",
  input_bytes: "u64",
  result_bytes: "u64",
  arena_bytes: "u64",
  weight_bytes: "u64",
  num_steps: "u32",
  reserved: "u32",
  state_bytes: "u64",
  state_bytes_per_frame: "u64",
  total_bytes: "u64",
  padded_frames: "i64",
  padded_height: "i64",
  padded_width: "i64",
  pad_before: "i64",
  pad_top: "i64",
  pad_left: "i64",
  outputs: { struct: Output, count: 4 },
});

export const StreamOptions = new Struct({ struct_size: "u32", task: "u32", attention_frames: "u32", reserved: "u32" });

export const JobInfo = new Struct({
  struct_size: "u32",
  state: "u32",
  status: "i32",
  model: "u32",
  steps_done: "u32",
  num_steps: "u32",
  num_outputs: "u32",
  reserved: "u32",
  run_us: "u64",
  pad_before: "i64",
  pad_top: "i64",
  pad_left: "i64",
  outputs: { struct: Output, count: 4 },
});

export const Step = new Struct({
  kind: { text: 16 },
  layer: { text: 96 },
  shape: { row: "i64", count: 5 },
  start_ns: "u64",
  duration_ns: "u64",
  flops: "u64",
});

// ---------------------------------------------------------------- the constants of ctok.h that TypeScript uses
export const ABI_VERSION = 7;
export const chunk = { none: 0, first: 1, later: 2 } as const;
export const task = { encode: 1, decode: 2, autoencode: 3 } as const;
export const kind = { pixelsU8: 1, pixelsF32: 2, indices: 4, codes: 8, latent: 16, preQuant: 32 } as const;
export const quantizer = { none: 0, fsq: 1, lookup: 2, sign: 3 } as const;
export const half = { encoder: 1, decoder: 2 } as const;
export const kernels = {
  auto: 0,
  reference: 1,
  generic: 2,
  avx2: 3,
  avx512: 4,
  avx512_bf16: 5,
  neon: 6,
  neon_bf16: 7,
} as const;
export const device = { auto: 0, cpu: 1, cuda: 2 } as const;
export const precision = { auto: 0, f32: 1, bf16: 2 } as const;
export const dtypes = ["", "U8", "I8", "BOOL", "U16", "I16", "I32", "I64", "F16", "BF16", "F32", "F64"] as const;
export const sources = ["", "keys", "buffers", "metadata", "name", "option", "default"] as const;
export const status = {
  OK: 0,
  ARGUMENT: 101,
  STRUCT_SIZE: 102,
  HANDLE: 103,
  SHAPE: 104,
  VALUE: 105,
  CAPACITY: 106,
  UNSUPPORTED: 107,
  FILE_MISSING: 201,
  FILE_IO: 202,
  FILE_FORMAT: 203,
  FILE_TENSOR: 204,
  FILE_NETWORK: 205,
  MEMORY: 301,
  DEVICE: 302,
  THREAD: 303,
  CANCELLED: 401,
  CLOSED: 402,
  NOT_READY: 403,
  INTERNAL: 501,
} as const;
