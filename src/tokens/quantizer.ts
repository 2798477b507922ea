/**
 * What the indices of discrete tokens count in, as plain data that JSON and structuredClone carry, and the way between
 * indices and codes (int32 [B, ...] and float32 [B, d, ...]). Three kinds:
 *   fsq     an index is a mixed-radix number whose digit k counts in base levels[k], level 0 least significant, and
 *           code k is (digit − ⌊L/2⌋) / ⌊L/2⌋. Ref: Mentzer et al. 2023, arXiv 2309.15505.
 *   lookup  code i is row i of a learned codebook [size, channels], which the model holds: it is passed where codes
 *           are needed.
 *   sign    code k is 1 where bit k of the index is set and −1 where it is not. Ref: Yu et al. 2023, arXiv 2310.05737.
 * Quantising a latent happens in C.
 */
import { expected, nameOf, TokenizerError } from "../errors.ts";
import { checkTensor, elementsOf, Tensor, type TensorLike } from "./dense.ts";
import type { Quantizer } from "./origin.ts";

export type { Quantizer } from "./origin.ts";

/** A codebook: float32 [size, channels], row i the code of index i. */
export type Codebook = TensorLike<"float32">;
type Indices = TensorLike<"int32" | "uint16">;

/**
 * The quantizer of FSQ levels, such as 8, 8, 8, 5, 5, 5. Throws VALUE unless each is a whole number ≥ 2 and indices fit
 * int32.
 */
export function fsq(levels: readonly number[]): Quantizer {
  const quantizer = { kind: "fsq", levels: Array.isArray(levels) ? Object.freeze([...levels]) : levels } as const;
  codebookSize(quantizer);
  return Object.freeze(quantizer);
}

/**
 * Number of codes. Throws ARGUMENT for what is no quantizer, VALUE where its numbers are not possible or indices exceed
 * int32.
 */
export function codebookSize(quantizer: Quantizer): number {
  const { kind, levels, size, channels } = Object(quantizer) as Partial<
    Record<"kind" | "levels" | "size" | "channels", unknown>
  >;
  const isWhole = (n: unknown, least: number, most: number) =>
    Number.isInteger(n) && n as number >= least && n as number <= most;
  if (kind === "fsq") {
    const areWhole = Array.isArray(levels) && levels.length > 0 && levels.every((n) => isWhole(n, 2, mostCodes));
    const product = areWhole ? elementsOf(levels) : Infinity;
    if (product <= mostCodes) return product;
    throw expected("levels", "whole numbers of at least 2 with a product of at most 2^31", levels, "VALUE");
  }
  if (kind === "lookup") {
    if (!isWhole(size, 2, mostCodes)) throw expected("quantizer.size", "a whole number from 2 to 2^31", size, "VALUE");
    if (isWhole(channels, 1, mostChannels)) return size as number;
    throw expected("quantizer.channels", `a whole number from 1 to ${mostChannels}`, channels, "VALUE");
  }
  if (kind === "sign") {
    if (isWhole(channels, 1, 31)) return 2 ** (channels as number);
    throw expected("quantizer.channels", "a whole number from 1 to 31", channels, "VALUE");
  }
  const isLevels = Array.isArray(quantizer) && quantizer.every((n) => typeof n === "number");
  const found = isLevels ? `a list; fsq([${quantizer.slice(0, 8)}]) makes one of levels` : nameOf(quantizer);
  throw expected("quantizer", "an object whose kind is fsq, lookup or sign", kind === undefined ? found : kind);
}
const mostCodes = 2 ** 31, mostChannels = 65535;

/** How many values a code has. Throws as codebookSize. */
export function channelsOf(quantizer: Quantizer): number {
  codebookSize(quantizer);
  return quantizer.kind === "fsq" ? quantizer.levels.length : quantizer.channels;
}

/**
 * How many values each channel takes, channel 0 the least significant digit of an index; undefined for a learned
 * codebook.
 */
export function digitsOf(quantizer: Quantizer): readonly number[] | undefined {
  if (quantizer.kind === "lookup") return undefined;
  return quantizer.kind === "fsq" ? quantizer.levels : new Array<number>(quantizer.channels).fill(2);
}

/** Whether both give every index the same code, as far as their numbers tell; undefined is a continuous latent. */
export function sameQuantizer(a: Quantizer | undefined, b: Quantizer | undefined): boolean {
  return tellQuantizer(a) === tellQuantizer(b);
}

/** A quantizer in words, for messages. */
export function tellQuantizer(quantizer: Quantizer | undefined): string {
  if (quantizer === undefined) return "a continuous latent";
  const size = codebookSize(quantizer);
  if (quantizer.kind === "fsq") return `FSQ levels ${quantizer.levels.join(" ")}`;
  return quantizer.kind === "lookup"
    ? `a codebook of ${size}, ${quantizer.channels} values each`
    : `${quantizer.channels} signs`;
}

/** Checks indices. Throws VALUE (detail: the position in the data) at the first one outside 0 .. codebook size − 1. */
export function checkIndices(name: string, indices: Indices, quantizer: Quantizer): void {
  const { data } = indices, size = codebookSize(quantizer);
  for (let i = 0; i < data.length; i++) {
    if (!(data[i]! >= 0 && data[i]! < size)) {
      throw atPosition(name, indices.shape, i, `an index from 0 to ${size - 1}`, data[i]!);
    }
  }
}

/**
 * int32 or uint16 [B, ...] to float32 codes [B, d, ...], those of FSQ in [-1, 1]. Throws VALUE at an index outside the
 * codebook, UNSUPPORTED for a lookup quantizer without its `codebook`, SHAPE for one of another shape.
 */
export function codesFromIndices(indices: Indices, quantizer: Quantizer, codebook?: Codebook): Tensor<"float32"> {
  checkTensor("indices", indices);
  checkIndices("indices", indices, quantizer);
  const [batch = 1, ...grid] = indices.shape, positions = elementsOf(grid), channels = channelsOf(quantizer);
  const codes = new Float32Array(batch * channels * positions), code = codeMaker(quantizer, codebook);
  for (let b = 0; b < batch; b++) {
    for (let p = 0; p < positions; p++) {
      code(indices.data[b * positions + p]!, codes, b * channels * positions + p, positions);
    }
  }
  return new Tensor("float32", [batch, channels, ...grid], codes, { kind: "codes" });
}

/**
 * float32 codes [B, d, ...] to int32 indices [B, ...]. Throws SHAPE for another d, VALUE for what is no code: a value
 * that is more than 1e-3 off, of FSQ and signs more than 1e-3 steps; UNSUPPORTED as codesFromIndices.
 */
export function indicesFromCodes(
  codes: TensorLike<"float32">,
  quantizer: Quantizer,
  codebook?: Codebook,
): Tensor<"int32"> {
  return nearestIndices("codes", codes, quantizer, codebook, mostOff);
}
const mostOff = 1e-3;

/**
 * float32 values [B, d, ...] to the nearest codes, of the same shape. Throws as indicesFromCodes, but for values
 * between codes.
 */
export function roundToCodes(
  values: TensorLike<"float32">,
  quantizer: Quantizer,
  codebook?: Codebook,
): Tensor<"float32"> {
  return codesFromIndices(indicesOfNearest(values, quantizer, codebook), quantizer, codebook);
}

/** The indices of those codes, int32 [B, ...]. Throws as roundToCodes. */
export function indicesOfNearest(
  values: TensorLike<"float32">,
  quantizer: Quantizer,
  codebook?: Codebook,
): Tensor<"int32"> {
  return nearestIndices("values", values, quantizer, codebook, Infinity);
}

/**
 * The index [B, ...] of the code nearest to each vector of [B, d, ...]: each FSQ digit rounded and kept inside its
 * level, the row with the least squared distance (of equal ones the first), each sign (of 0: −1). Throws VALUE at the
 * first value that is more than `most` steps off; NaN passes only where `most` is infinite.
 */
function nearestIndices(
  name: string,
  values: TensorLike<"float32">,
  quantizer: Quantizer,
  codebook: Codebook | undefined,
  most: number,
): Tensor<"int32"> {
  checkTensor(name, values);
  const { data, shape } = values, [batch = 1, channels = 1, ...grid] = shape, positions = elementsOf(grid);
  const wanted = channelsOf(quantizer), indices = new Int32Array(batch * positions);
  if (shape.length < 2 || channels !== wanted) throw expected(`${name}.shape`, `[B, ${wanted}, ...]`, shape, "SHAPE");
  for (let b = 0; b < batch; b++) {
    const from = b * channels * positions, own = indices.subarray(b * positions, (b + 1) * positions);
    const off = quantizer.kind === "lookup"
      ? nearestRows(data, from, own, rowsOf(quantizer, codebook), quantizer, most)
      : nearestDigits(data, from, own, quantizer, most);
    if (off) throw atPosition(name, shape, off.at, off.wanted, data[off.at]!);
  }
  return new Tensor("int32", [batch, ...grid], indices, { kind: "indices" });
}

/** A value that is too far from its code. */
interface Off {
  readonly at: number;
  readonly wanted: string;
}

/**
 * Adds the digits nearest to a batch entry's values, which begin at `from`, to its `indices`. Returns the first value
 * that is farther than `most` from its digit.
 */
function nearestDigits(
  data: Float32Array,
  from: number,
  indices: Int32Array,
  quantizer: Quantizer & { kind: "fsq" | "sign" },
  most: number,
): Off | undefined {
  const isSign = quantizer.kind === "sign";
  let basis = 1, at = from;
  for (const { size, offset, half } of scalesOf(quantizer)) {
    for (let p = 0; p < indices.length; p++, at++) {
      const exact = data[at]! * half + offset,
        near = isSign ? Number(data[at]! > 0) : Math.round(data[at]! * half) + offset;
      const digit = near > 0 ? Math.min(near, size - 1) : 0;
      if (most < Infinity && !(Math.abs(exact - digit) <= most)) {
        return { at, wanted: `(digit - ${offset}) / ${half} with a digit from 0 to ${size - 1}` };
      }
      indices[p]! += digit * basis;
    }
    basis *= size;
  }
  return undefined;
}

/** `nearestDigits` for a learned codebook: the nearest row for each vector. */
function nearestRows(
  data: Float32Array,
  from: number,
  indices: Int32Array,
  rows: Float32Array,
  { size, channels }: Quantizer & { kind: "lookup" },
  most: number,
): Off | undefined {
  const vector = new Float64Array(channels), positions = indices.length;
  for (let p = 0; p < positions; p++) {
    for (let k = 0; k < channels; k++) vector[k] = data[from + k * positions + p]!;
    const index = indices[p] = nearestRow(rows, size, vector);
    for (let k = 0; k < channels && most < Infinity; k++) {
      const code = rows[index * channels + k]!;
      if (!(Math.abs(code - vector[k]!) <= most)) {
        return { at: from + k * positions + p, wanted: `${code}, as of the nearest code` };
      }
    }
  }
  return undefined;
}

/** What a channel of FSQ or of signs counts: `size` digits, of which each stands for (digit − offset) / half. */
interface Scale {
  readonly size: number;
  readonly offset: number;
  readonly half: number;
}

/** Size, offset and scale of each channel's digit; channel 0, the least significant, is first. */
function scalesOf(quantizer: Quantizer & { kind: "fsq" | "sign" }): Scale[] {
  if (quantizer.kind === "sign") {
    return Array.from({ length: quantizer.channels }, () => ({ size: 2, offset: 0.5, half: 0.5 }));
  }
  return quantizer.levels.map((size) => ({ size, offset: Math.floor(size / 2), half: Math.floor(size / 2) }));
}

/** Writes the code of an index into `codes`, channel k at `at + k * step`. */
function codeMaker(quantizer: Quantizer, codebook: Codebook | undefined) {
  if (quantizer.kind === "lookup") {
    const rows = rowsOf(quantizer, codebook), { channels } = quantizer;
    return (index: number, codes: Float32Array, at: number, step: number): void => {
      for (let k = 0; k < channels; k++) codes[at + k * step] = rows[index * channels + k]!;
    };
  }
  const scales = scalesOf(quantizer);
  return (index: number, codes: Float32Array, at: number, step: number): void => {
    let rest = index;
    for (let k = 0; k < scales.length; k++) {
      const { size, offset, half } = scales[k]!, digit = rest % size;
      codes[at + k * step] = (digit - offset) / half;
      rest = (rest - digit) / size;
    }
  };
}

function nearestRow(rows: Float32Array, size: number, vector: Float64Array): number {
  let best = 0, least = Infinity;
  for (let i = 0; i < size; i++) {
    const distance = distanceTo(rows, i, vector);
    if (distance < least) [best, least] = [i, distance];
  }
  return best;
}

/** Squared Euclidean distance of a vector to a row of the codebook. */
function distanceTo(rows: Float32Array, row: number, vector: Float64Array): number {
  let sum = 0;
  for (let k = 0, at = row * vector.length; k < vector.length; k++, at++) sum += (rows[at]! - vector[k]!) ** 2;
  return sum;
}

/** The rows of a codebook, after checking that type and shape are those of the quantizer. */
function rowsOf({ size, channels }: Quantizer & { kind: "lookup" }, codebook: Codebook | undefined): Float32Array {
  if (codebook === undefined) {
    const message = "codebook: expected the codes of a learned codebook, which tokens do not hold, found none; " +
      "tokenizer.codebook() gives them";
    throw new TokenizerError("UNSUPPORTED", message);
  }
  checkTensor("codebook", codebook);
  const { dtype, shape, data } = codebook,
    found = `${dtype} [${shape.join(", ")}]`,
    wanted = `float32 [${size}, ${channels}]`;
  if (found !== wanted) throw expected("codebook", wanted, found, "SHAPE");
  return data;
}

/** A code that is near another one. */
export interface Neighbour {
  readonly index: number;
  /** FSQ and signs only: which channel differs, and by how many steps. */
  readonly level?: number;
  readonly step?: -1 | 1;
  /** Learned codebooks only: the Euclidean distance between the two codes. */
  readonly distance?: number;
}

/** How many neighbours a code of a learned codebook has. */
const mostNeighbours = 12;

/**
 * The codes nearest to that of `index`: of FSQ one step away, two for each level and one at a level's end; of signs one
 * sign changed; of a learned codebook the 12 nearest others, the nearest first. Throws VALUE outside the codebook,
 * UNSUPPORTED for a learned one that is not passed.
 */
export function neighboursOf(index: number, quantizer: Quantizer, codebook?: Codebook): Neighbour[] {
  const code = codeOf(index, quantizer, codebook);
  if (quantizer.kind === "lookup") {
    const rows = rowsOf(quantizer, codebook), vector = Float64Array.from(code);
    const all = Array.from(
      { length: quantizer.size },
      (_, i) => ({ index: i, distance: Math.sqrt(distanceTo(rows, i, vector)) }),
    );
    return all.filter((n) => n.index !== index).sort((a, b) => a.distance - b.distance).slice(0, mostNeighbours);
  }
  let basis = 1;
  return scalesOf(quantizer).flatMap(({ size }, level) => {
    const digit = Math.floor(index / basis) % size, at = basis;
    basis *= size;
    return ([-1, 1] as const).filter((step) => digit + step >= 0 && digit + step < size)
      .map((step) => ({ index: index + step * at, level, step }));
  });
}

/**
 * The code of an index: one value for each channel. Throws VALUE outside 0 .. codebook size - 1, UNSUPPORTED as
 * codesFromIndices.
 */
export function codeOf(index: number, quantizer: Quantizer, codebook?: Codebook): number[] {
  const size = codebookSize(quantizer);
  if (!Number.isInteger(index) || index < 0 || index >= size) {
    throw expected("code", `a whole number from 0 to ${size - 1}`, index, "VALUE");
  }
  return Array.from(codesFromIndices(new Tensor("int32", [1, 1, 1], Int32Array.of(index)), quantizer, codebook).data);
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
