/**
 * From what ctok works with, int32 indices and float32 values, to the narrower types that files for training hold.
 * Nothing is changed silently: an index that does not fit and a value that would become infinite are refused, all else
 * is rounded to the nearest value, of two equally near to the one whose last bit is 0, as NumPy and PyTorch round. The
 * way back is in stored.ts.
 */
import type { TensorLike } from "./dense.ts";
import { expected } from "../errors.ts";
import { atPosition } from "./quantizer.ts";
import type { StoredTensor } from "./stored.ts";

/** What tokens are narrowed to: the first two for indices, the others for latents. */
export type NarrowType = "uint16" | "int32" | "bfloat16" | "float16" | "float32";

/**
 * A tensor of the same shape in memory of its own. Infinities and NaN stay what they are. Throws VALUE (detail: the
 * position) at the first element that does not fit, ARGUMENT for floats as indices and the reverse.
 */
export function narrowed(name: string, tensor: TensorLike, to: NarrowType): StoredTensor {
  const { dtype, shape, data } = tensor, isFloat = dtype === "float32";
  if (isFloat !== /float/.test(to)) throw expected(`${name}.dtype`, isFloat ? "a float type" : "uint16 or int32", to);
  if (to === "uint16") return { dtype: to, shape, data: toUint16(name, tensor) };
  if (to === "int32") return { dtype: to, shape, data: new Int32Array(data) };
  const values = data as Float32Array;
  if (to === "float32") return { dtype: to, shape, data: values.slice() };
  const bits = to === "bfloat16" ? toBfloat16(values) : toFloat16(values);
  const infinity = to === "bfloat16" ? 0x7f80 : 0x7c00;
  for (let i = 0; i < bits.length; i++) {
    if ((bits[i]! & 0x7fff) === infinity && Number.isFinite(values[i])) {
      throw atPosition(name, shape, i, `a value that ${to} holds`, values[i]!);
    }
  }
  return { dtype: to, shape, data: bits };
}

function toUint16(name: string, { data, shape }: TensorLike): Uint16Array {
  for (let i = 0; i < data.length; i++) {
    if (!(data[i]! >= 0 && data[i]! < 65536)) throw atPosition(name, shape, i, "an index from 0 to 65535", data[i]!);
  }
  return new Uint16Array(data);
}

/** Rounds float32 to bfloat16, to nearest with ties to even. */
function toBfloat16(values: Float32Array): Uint16Array {
  const bits = new Uint32Array(values.buffer, values.byteOffset, values.length), out = new Uint16Array(values.length);
  for (let i = 0; i < out.length; i++) {
    const wide = bits[i]!, isNaN = (wide & 0x7fff_ffff) > 0x7f80_0000;
    // A NaN gets its quiet bit set: its payload may lie in the lower half alone, and would be infinity without.
    out[i] = isNaN ? wide >>> 16 | 0x40 : (wide + 0x7fff + (wide >>> 16 & 1)) >>> 16;
  }
  return out;
}

/**
 * Rounds float32 to float16. Note: by hand, as Node before 24 has no Float16Array. The least normal value is 2^-14, the
 * step below it 2^-24.
 */
function toFloat16(values: Float32Array): Uint16Array {
  const bits = new Uint32Array(values.buffer, values.byteOffset, values.length), out = new Uint16Array(values.length);
  for (let i = 0; i < out.length; i++) {
    const sign = bits[i]! >>> 16 & 0x8000, size = bits[i]! & 0x7fff_ffff;
    if (size > 0x7f80_0000) out[i] = sign | 0x7e00; // NaN
    else if (size >= 0x4780_0000) out[i] = sign | 0x7c00; // 65536 and more, and infinity
    else if (size < 0x3880_0000) out[i] = sign | roundToEven(Math.abs(values[i]!) * 2 ** 24);
    else {
      const rebased = size - 0x3800_0000; // exponents count from -15 instead of -127
      out[i] = sign | (rebased + 0xfff + (rebased >>> 13 & 1)) >>> 13;
    }
  }
  return out;
}

function roundToEven(n: number): number {
  const down = Math.floor(n), rest = n - down;
  return rest > 0.5 || (rest === 0.5 && down % 2 === 1) ? down + 1 : down;
}
