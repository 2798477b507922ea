/**
 * Arrays as files hold them: the types that NumPy and PyTorch write, what each form of token file calls them, and the
 * way from them to what ctok works with: int32 indices, checked against the codebook, and float32 values. Always new
 * memory, so that nothing hangs on the file's bytes; in slices, between which the caller may let others work.
 */
import { type ArrayType, elementsOf, viewOf } from "./dense.ts";
import { expected } from "../errors.ts";
import { atPosition } from "./quantizer.ts";

/** What a file says and holds. `about`: its keys, undefined where it does not say what its arrays are. */
export interface Contents {
  readonly about: Readonly<Record<string, unknown>> | undefined;
  readonly tensors: Readonly<Record<string, StoredTensor>>;
}

/** One form of token file: a file of formats/ and a row of the table in tokenfile.ts. */
export interface TokenForm {
  /** Whether a file that begins with these bytes is of this form. */
  readonly fits: (bytes: Uint8Array) => boolean;
  /** Writes a token file. Throws UNSUPPORTED for what could not be read back. */
  readonly encode: (contents: Required<Contents>) => Uint8Array;
  /** Reads a token file as arrays that share memory with its bytes. Throws TOKEN_FILE, which says what is wrong. */
  readonly decode: (bytes: Uint8Array) => Contents;
}

/** The array type in memory of each stored type. For float16 and bfloat16 it holds their bits. */
export interface StoredArrays {
  uint8: Uint8Array;
  int8: Int8Array;
  uint16: Uint16Array;
  int16: Int16Array;
  uint32: Uint32Array;
  int32: Int32Array;
  uint64: BigUint64Array;
  int64: BigInt64Array;
  float16: Uint16Array;
  bfloat16: Uint16Array;
  float32: Float32Array;
  float64: Float64Array;
}
export type StoredType = keyof StoredArrays;

export type StoredTensor = {
  [T in StoredType]: { readonly dtype: T; readonly shape: readonly number[]; readonly data: StoredArrays[T] };
}[StoredType];

/** What the forms call each type; msgpack records have its name here. NumPy knows no bfloat16. */
export const storedTypes: {
  readonly [T in StoredType]: {
    readonly array: ArrayType<StoredArrays[T]>;
    readonly safetensors: string;
    readonly npy: string | undefined;
  };
} = {
  uint8: { array: Uint8Array, safetensors: "U8", npy: "|u1" },
  int8: { array: Int8Array, safetensors: "I8", npy: "|i1" },
  uint16: { array: Uint16Array, safetensors: "U16", npy: "<u2" },
  int16: { array: Int16Array, safetensors: "I16", npy: "<i2" },
  uint32: { array: Uint32Array, safetensors: "U32", npy: "<u4" },
  int32: { array: Int32Array, safetensors: "I32", npy: "<i4" },
  uint64: { array: BigUint64Array, safetensors: "U64", npy: "<u8" },
  int64: { array: BigInt64Array, safetensors: "I64", npy: "<i8" },
  float16: { array: Uint16Array, safetensors: "F16", npy: "<f2" },
  bfloat16: { array: Uint16Array, safetensors: "BF16", npy: undefined },
  float32: { array: Float32Array, safetensors: "F32", npy: "<f4" },
  float64: { array: Float64Array, safetensors: "F64", npy: "<f8" },
};
const names = Object.keys(storedTypes) as StoredType[];

/** The types that one form of token file has, for error messages. */
export function namesIn(form: "safetensors" | "npy"): string[] {
  return names.flatMap((type) => storedTypes[type][form] ?? []);
}

/** The tensor type that a form calls `name`. */
export function typeNamed(form: "safetensors" | "npy", name: unknown): StoredType | undefined {
  return names.find((type) => storedTypes[type][form] === name && name !== undefined);
}

export function isFloat(t: StoredTensor): boolean {
  return /float/.test(t.dtype);
}

/** Bytes of an array. Note: a number past 2^53 is not exact, and larger than any file. */
export function bytesFor(dtype: StoredType, shape: readonly number[]): number {
  return elementsOf(shape) * storedTypes[dtype].array.BYTES_PER_ELEMENT;
}

/**
 * Whether a shape may be in a file. Note: the number of sizes is checked first, as a hostile file may have millions.
 */
export function isShape(shape: unknown): shape is number[] {
  return Array.isArray(shape) && shape.length <= 8 && shape.every((n) => Number.isSafeInteger(n) && n > 0);
}

/**
 * Makes a tensor that shares memory with its bytes. Throws TOKEN_FILE unless the type is known and there are as many
 * bytes as the shape needs.
 */
export function storedTensor(name: string, dtype: unknown, shape: unknown, bytes: Uint8Array): StoredTensor {
  const bad = (what: string, wanted: string, found: unknown) => expected(`${name}${what}`, wanted, found, "TOKEN_FILE");
  const type = names.find((type) => type === dtype);
  if (!type) throw bad(".dtype", `one of ${names.join(", ")}`, dtype);
  if (!isShape(shape)) throw bad(".shape", "at most 8 positive whole numbers", shape);
  const wanted = bytesFor(type, shape);
  if (bytes.byteLength !== wanted) throw bad("", `${wanted} bytes for ${type} [${shape}]`, bytes.byteLength);
  const array: ArrayType<StoredArrays[StoredType]> = storedTypes[type].array;
  return { dtype: type, shape, data: viewOf(array, bytes) } as StoredTensor;
}

/** How many elements are converted before other work may run: a few milliseconds' worth. */
const sliceElements = 1 << 20;

/** Whole numbers of any type as int32. Throws VALUE (detail: the position) at the first outside 0 .. size - 1. */
export function* indicesOf(name: string, { data, shape }: StoredTensor, size: number): Generator<void, Int32Array> {
  const out = new Int32Array(data.length);
  for (let from = 0; from < data.length; from += sliceElements) {
    const to = Math.min(from + sliceElements, data.length);
    for (let i = from; i < to; i++) {
      const index = Number(data[i]); // Note: a bigint that is rounded here is far outside
      if (!(index >= 0 && index < size)) {
        throw atPosition(name, shape, i, `an index from 0 to ${size - 1}`, data[i]!);
      }
      out[i] = index;
    }
    yield;
  }
  return out;
}

/** Converts values of any floating type to float32; float64 is rounded. */
export function* floatsOf({ dtype, data }: StoredTensor): Generator<void, Float32Array> {
  const out = new Float32Array(data.length), bits = new Uint32Array(out.buffer);
  for (let from = 0; from < data.length; from += sliceElements) {
    const to = Math.min(from + sliceElements, data.length);
    if (dtype === "bfloat16") { for (let i = from; i < to; i++) bits[i] = data[i]! << 16; }
    else if (dtype === "float16") { for (let i = from; i < to; i++) out[i] = fromHalf(data[i]!); }
    else out.set((data as Float32Array).subarray(from, to), from);
    yield;
  }
  return out;
}

/** Reads IEEE 754 binary16: a sign bit, 5 bits of exponent, 10 of fraction. */
function fromHalf(bits: number): number {
  const sign = bits & 0x8000 ? -1 : 1, exponent = bits >> 10 & 31, fraction = bits & 1023;
  if (exponent === 31) return fraction === 0 ? sign * Infinity : NaN;
  return exponent === 0 ? sign * fraction * 2 ** -24 : sign * (1024 + fraction) * 2 ** (exponent - 25);
}
