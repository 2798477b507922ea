/**
 * Finite scalar quantisation, the part that is arithmetic on whole numbers: an index is a mixed-radix number whose digit k
 * counts in base levels[k], level 0 least significant, and code k = (digit − ⌊L/2⌋) / ⌊L/2⌋. For levels 8,8,8,5,5,5 the
 * indices are 0 .. 63999. Rounding a latent to digits happens in C. Ref: Mentzer et al. 2023, arXiv 2309.15505.
 */
import { expected, TokenizerError } from "../errors.ts";
import { checkTensor, elementsOf, Tensor, type TensorLike } from "./dense.ts";

/** Number of codes, the product of the levels. Throws VALUE unless each is a whole number ≥ 2 and indices fit int32. */
export function codebookSize(levels: readonly number[]): number {
  const areWhole = Array.isArray(levels) && levels.length > 0 && levels.every((n) => Number.isInteger(n) && n >= 2);
  const size = areWhole ? elementsOf(levels) : Infinity;
  if (size > 2 ** 31) {
    throw expected("levels", "whole numbers of at least 2 with a product of at most 2^31", levels, "VALUE");
  }
  return size;
}

/** Throws VALUE (detail: the position in the data) at the first index outside 0 .. codebook size − 1. */
export function checkIndices(name: string, indices: TensorLike<"int32" | "uint16">, levels: readonly number[]): void {
  const { data } = indices, size = codebookSize(levels);
  for (let i = 0; i < data.length; i++) {
    if (!(data[i]! >= 0 && data[i]! < size)) {
      throw atPosition(name, indices.shape, i, `an index from 0 to ${size - 1}`, data[i]!);
    }
  }
}

/** int32 or uint16 [B, ...] to float32 codes [B, d, ...] in [-1, 1]. Throws VALUE at an index outside the codebook. */
export function codesFromIndices(indices: TensorLike<"int32" | "uint16">, levels: readonly number[]): Tensor<"float32"> {
  checkTensor("indices", indices);
  checkIndices("indices", indices, levels);
  const [batch = 1, ...grid] = indices.shape, positions = elementsOf(grid);
  const codes = new Float32Array(batch * levels.length * positions);
  for (let b = 0; b < batch; b++) {
    for (let p = 0; p < positions; p++) {
      let rest = indices.data[b * positions + p]!;
      levels.forEach((level, k) => {
        const digit = rest % level, half = Math.floor(level / 2);
        codes[(b * levels.length + k) * positions + p] = (digit - half) / half;
        rest = (rest - digit) / level;
      });
    }
  }
  return new Tensor("float32", [batch, levels.length, ...grid], codes, { kind: "codes" });
}

/** float32 codes [B, d, ...] to int32 indices [B, ...]. Throws SHAPE for another d, VALUE beyond 1e-3 steps of a code. */
export function indicesFromCodes(codes: TensorLike<"float32">, levels: readonly number[]): Tensor<"int32"> {
  checkTensor("codes", codes);
  codebookSize(levels);
  const [batch = 1, channels, ...grid] = codes.shape, positions = elementsOf(grid);
  if (channels !== levels.length) throw expected("codes.shape", `[B, ${levels.length}, ...]`, codes.shape, "SHAPE");
  const indices = new Int32Array(batch * positions);
  for (let b = 0; b < batch; b++) {
    let basis = 1;
    levels.forEach((level, k) => {
      const half = Math.floor(level / 2);
      for (let p = 0; p < positions; p++) {
        const at = (b * levels.length + k) * positions + p;
        const exact = codes.data[at]! * half + half, digit = Math.round(exact);
        if (!(Math.abs(exact - digit) <= 1e-3 && digit >= 0 && digit < level)) {
          throw atPosition(
            "codes",
            codes.shape,
            at,
            `(digit - ${half}) / ${half} with a digit from 0 to ${level - 1}`,
            codes.data[at]!,
          );
        }
        indices[b * positions + p]! += digit * basis;
      }
      basis *= level;
    });
  }
  return new Tensor("int32", [batch, ...grid], indices, { kind: "indices" });
}

/** A VALUE failure at one element of a tensor, named by its place; detail: the position in the data. */
export function atPosition(
  name: string,
  shape: readonly number[],
  position: number,
  wanted: string,
  found: number | bigint,
): TokenizerError {
  let rest = position;
  const place = shape.toReversed().map((n) => {
    const digit = rest % n;
    rest = (rest - digit) / n;
    return digit;
  }).reverse();
  return new TokenizerError("VALUE", `${name}[${place.join(", ")}]: expected ${wanted}, found ${found}`, {
    detail: position,
  });
}
