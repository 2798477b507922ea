/**
 * NPY 1.0, NumPy's form of one array: magic, version, u16 header length, a Python dict padded with spaces to a multiple
 * of 64, the data. Read strictly: three keys, each once (Python takes the last of two), rows first, little-endian.
 * Ref: https://numpy.org/doc/stable/reference/generated/numpy.lib.format.html
 */
import { expected, TokenizerError } from "../../errors.ts";
import {
  isShape,
  namesIn,
  type StoredTensor,
  storedTensor,
  type StoredType,
  storedTypes,
  type TokenForm,
  typeNamed,
} from "../stored.ts";

const magic = [0x93, 0x4e, 0x55, 0x4d, 0x50, 0x59]; // \x93NUMPY

/** The .npy form, which holds the main array and nothing else. */
export const npy: TokenForm = {
  fits: (bytes) => magic.every((byte, i) => bytes[i] === byte),
  encode: ({ tensors: { indices, latent } }) => encodeNpy(indices ?? latent!),
  decode: (bytes) => ({ about: undefined, tensors: { array: decodeNpy(bytes) } }),
};

/** The header of a .npy file: all that comes before the array's data. */
export function npyHeader(dtype: StoredType, shape: readonly number[]): Uint8Array {
  const { npy: descr } = storedTypes[dtype];
  if (descr === undefined) throw expected("NPY dtype", `one of ${namesIn("npy").join(", ")}`, dtype, "UNSUPPORTED");
  const tuple = `(${shape.join(", ")}${shape.length === 1 ? "," : ""})`;
  const dict = `{'descr': '${descr}', 'fortran_order': False, 'shape': ${tuple}, }`;
  const headerBytes = Math.ceil((10 + dict.length + 1) / 64) * 64;
  const out = new Uint8Array(headerBytes);
  out.set([...magic, 1, 0, (headerBytes - 10) & 0xff, (headerBytes - 10) >> 8]);
  out.set(new TextEncoder().encode(dict.padEnd(headerBytes - 11) + "\n"), 10);
  return out;
}

/** Writes an array as a .npy file. Throws UNSUPPORTED for bfloat16, which NumPy does not know. */
export function encodeNpy({ dtype, shape, data }: StoredTensor): Uint8Array {
  const header = npyHeader(dtype, shape), out = new Uint8Array(header.length + data.byteLength);
  out.set(header);
  out.set(new Uint8Array(data.buffer, data.byteOffset, data.byteLength), header.length);
  return out;
}

/** Reads a .npy file as a tensor that shares memory with `bytes`. Throws TOKEN_FILE, which says what is wrong. */
export function decodeNpy(bytes: Uint8Array): StoredTensor {
  const bad = (what: string, wanted: string, found: unknown) => expected(what, wanted, found, "TOKEN_FILE");
  if (!npy.fits(bytes)) throw bad("NPY", "\\x93NUMPY in front", `${bytes.length} bytes that do not start so`);
  if (bytes[6] !== 1 || bytes[7] !== 0) throw bad("NPY", "version 1.0", `${bytes[6]}.${bytes[7]}`);
  const dataStart = 10 + (bytes[8] ?? 0) + 256 * (bytes[9] ?? 0);
  const header = new TextDecoder().decode(bytes.subarray(10, dataStart)).trim();
  const { descr, fortran_order, shape, ...others } = fieldsOf(header);
  if (bytes.length < dataStart || !descr || !fortran_order || !shape || Object.keys(others).length > 0) {
    throw bad("NPY header", "descr, fortran_order and shape", header);
  }
  if (fortran_order !== "False") throw bad("NPY array", "row-major order", "fortran_order: True");
  const type = typeNamed("npy", /^'(.*)'$/.exec(descr)?.[1]);
  if (!type) throw bad("NPY descr", `one of ${namesIn("npy").join(", ")}`, descr);
  const sizes = /^\(.*\)$/.exec(shape)
    ? shape.slice(1, -1).split(",").map((n) => n.trim()).filter(Boolean).map(Number)
    : [];
  if (!isShape(sizes) || sizes.length === 0) throw bad("NPY shape", "positive whole numbers", shape);
  return storedTensor(`${descr.slice(1, -1)} array`, type, sizes, bytes.subarray(dataStart));
}

/** The keys and values of a dict of plain texts, truths and tuples of numbers, as they are written. */
function fieldsOf(header: string): Record<string, string> {
  const item = /\s*'(\w+)'\s*:\s*('[^'\\]*'|True|False|\([\d,\s]*\))\s*(,|(?=\}$))/y;
  const fields = new Map<string, string>();
  item.lastIndex = 1;
  for (let at = 1; header[0] === "{" && !/^\s*\}$/.test(header.slice(at)); at = item.lastIndex) {
    const [, key, value] = item.exec(header) ?? [];
    if (key === undefined || value === undefined) {
      throw new TokenizerError("TOKEN_FILE", `NPY header: expected a dict, found ${JSON.stringify(header)}`);
    }
    if (fields.has(key)) throw expected("NPY header", "each key once", key, "TOKEN_FILE");
    fields.set(key, value);
  }
  return Object.fromEntries(fields);
}
