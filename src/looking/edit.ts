/**
 * Taking tokens apart: change a region, mix, add noise, look at neighbouring codes, count. Pure functions; each gives new
 * tokens that know their model, shape and origin, so that they decode. Discrete tokens stay discrete: what is computed on
 * codes is rounded to the nearest code of each level. Ref: FSQ, Mentzer et al. 2023, arXiv 2309.15505.
 */
import { expected } from "../errors.ts";
import { checkIndices, codebookSize, codesFromIndices, indicesFromCodes } from "../tokens/fsq.ts";
import { codebookUse } from "./metrics.ts";
import { elementsOf, Tensor, type TensorLike, Tokens } from "../tokens/tensor.ts";

/**
 * A box of the token grid: `height` x `width` tokens from (`top`, `left`) on, of all frames or of `frames` from `first` on.
 * What is left out is whole.
 */
export interface Region {
  readonly top?: number;
  readonly left?: number;
  readonly height?: number;
  readonly width?: number;
  readonly first?: number;
  readonly frames?: number;
}

/** The sizes of a grid of tokens. `frames` is 1 for pictures. */
interface Grid {
  readonly batch: number;
  readonly channels: number;
  readonly frames: number;
  readonly height: number;
  readonly width: number;
}

function gridOf(tokens: Tokens): Grid {
  if (!(tokens instanceof Tokens)) throw expected("tokens", "what encode or loadTokens gave", typeof tokens);
  const { shape } = valuesOf(tokens), isVideo = tokens.origin.video !== undefined;
  const [batch = 0, channels = 0, ...rest] = shape;
  const [frames = 0, height = 0, width = 0] = isVideo ? rest : [1, ...rest];
  return { batch, channels, frames, height, width };
}

/** What is computed on: codes of discrete tokens, the latent of continuous ones; float32 [B, C, (t,) h, w]. */
function valuesOf(tokens: Tokens): Tensor<"float32"> {
  return tokens.isDiscrete ? tokens.codes : tokens.latent;
}

/** Tokens of the same origin around new values; discrete ones are rounded to codes. */
function withValues(origin: Tokens, values: Float32Array, shape: readonly number[]): Tokens {
  const about = { origin: origin.origin };
  if (!origin.isDiscrete) {
    return new Tokens(origin.origin, { latent: new Tensor("float32", shape, values, { kind: "latent", ...about }) });
  }
  const { levels } = origin.origin, positions = elementsOf(shape.slice(2));
  for (let i = 0; i < values.length; i++) {
    const level = levels[Math.floor(i / positions) % levels.length]!, half = Math.floor(level / 2);
    const digit = Math.min(Math.max(Math.round(values[i]! * half) + half, 0), level - 1);
    values[i] = (digit - half) / half;
  }
  const codes = new Tensor("float32", shape, values, { kind: "codes", ...about });
  const indices = new Tensor("int32", [shape[0]!, ...shape.slice(2)], indicesFromCodes(codes, levels).data, {
    kind: "indices",
    ...about,
  });
  return new Tokens(origin.origin, { indices, codes });
}

/** Calls `visit` with each position of the region, as an offset into one channel of one image. */
function eachPosition(grid: Grid, region: Region, visit: (position: number) => void): void {
  const within = (name: "top" | "left" | "first", length: "height" | "width" | "frames") => {
    const from = region[name] ?? 0, count = region[length] ?? grid[length] - from, end = grid[length];
    if (!Number.isInteger(from) || from < 0 || from >= end) {
      throw expected(`region.${name}`, `a whole number from 0 to ${end - 1}`, from);
    }
    if (!Number.isInteger(count) || count < 1 || from + count > end) {
      throw expected(`region.${length}`, `a whole number from 1 to ${end - from} (from ${name} ${from} on)`, count);
    }
    return [from, from + count] as const;
  };
  if (typeof region !== "object" || region === null) {
    throw expected("region", "{ top, left, height, width } in tokens (videos: first, frames)", region);
  }
  const unknown = Object.keys(region).find((key) => !["top", "left", "height", "width", "first", "frames"].includes(key));
  if (unknown) throw expected("region", "top, left, height, width, first or frames", unknown);
  const [y0, y1] = within("top", "height"), [x0, x1] = within("left", "width"), [t0, t1] = within("first", "frames");
  for (let t = t0; t < t1; t++) {
    for (let y = y0; y < y1; y++) {
      for (let x = x0; x < x1; x++) visit((t * grid.height + y) * grid.width + x);
    }
  }
}

/**
 * The tokens with one code all over a region. `code`: an index of discrete tokens; or the values of all channels, which
 * discrete tokens round to their levels. Throws VALUE for an index outside the codebook, ARGUMENT for a region outside the grid.
 */
export function edit(tokens: Tokens, region: Region, code: number | ArrayLike<number>): Tokens {
  const grid = gridOf(tokens), values = valuesOf(tokens), data = values.data.slice();
  let vector: ArrayLike<number>;
  if (typeof code !== "number") vector = code;
  else if (tokens.isDiscrete) vector = codeOf(code, tokens.origin.levels);
  else throw expected("code", `the values of ${grid.channels} channels, as the latent is continuous`, code);
  if (vector?.length !== grid.channels || !Array.from(vector).every(Number.isFinite)) {
    throw expected("code", `an index, or ${grid.channels} numbers`, vector && Array.from(vector));
  }
  const positions = grid.frames * grid.height * grid.width;
  eachPosition(grid, region, (p) => {
    for (let c = 0; c < grid.batch * grid.channels; c++) data[c * positions + p] = vector[c % grid.channels]!;
  });
  return withValues(tokens, data, values.shape);
}

/** The tokens of `a` with those of `b` in a region. Both of one model (levels and factors) and one grid. */
export function swap(a: Tokens, b: Tokens, region: Region): Tokens {
  const grid = gridOf(a), values = valuesOf(a), other = likeFirst(a, b), data = values.data.slice();
  const positions = grid.frames * grid.height * grid.width;
  eachPosition(grid, region, (p) => {
    for (let at = p; at < data.length; at += positions) data[at] = other.data[at]!;
  });
  return withValues(a, data, values.shape);
}

/** (1 - t) a + t b: between two latents, or between two tokens' codes, rounded to codes. Any finite t. */
export function mix(a: Tokens, b: Tokens, t: number): Tokens {
  gridOf(a);
  if (typeof t !== "number" || !Number.isFinite(t)) throw expected("t", "a number, 0 for a and 1 for b", t);
  const values = valuesOf(a), other = likeFirst(a, b);
  return withValues(a, values.data.map((v, i) => (1 - t) * v + t * other.data[i]!), values.shape);
}

/**
 * The tokens with Gaussian noise of deviation `sigma` on their latent, or on their codes, which are then rounded to codes.
 * The same seed gives the same noise.
 */
export function noise(tokens: Tokens, sigma: number, seed = 1): Tokens {
  gridOf(tokens);
  if (typeof sigma !== "number" || !(sigma >= 0) || !Number.isFinite(sigma)) {
    throw expected("sigma", "a number of at least 0", sigma);
  }
  if (!Number.isInteger(seed)) throw expected("seed", "a whole number", seed);
  const values = valuesOf(tokens), random = uniform(seed);
  const gaussian = () => Math.sqrt(-2 * Math.log(1 - random())) * Math.cos(2 * Math.PI * random()); // Ref: Box and Muller 1958
  return withValues(tokens, values.data.map((v) => v + sigma * gaussian()), values.shape);
}

/** Numbers in [0, 1) that a seed fixes. Ref: mulberry32, T. Ettinger (public domain). */
function uniform(seed: number): () => number {
  let state = seed | 0;
  return () => {
    state = state + 0x6d2b79f5 | 0;
    let z = Math.imul(state ^ state >>> 15, 1 | state);
    z = z + Math.imul(z ^ z >>> 7, 61 | z) ^ z;
    return ((z ^ z >>> 14) >>> 0) / 2 ** 32;
  };
}

function likeFirst(a: Tokens, b: Tokens): Tensor<"float32"> {
  gridOf(b);
  const values = valuesOf(a), other = valuesOf(b);
  const about = (t: Tokens, v: Tensor) => `[${v.shape}] of ${t.isDiscrete ? `FSQ levels ${t.origin.levels}` : "a latent"}`;
  if (about(a, values) !== about(b, other)) throw expected("b", `${about(a, values)}, as a`, about(b, other), "SHAPE");
  return other;
}

/** The code of an index: one value in [-1, 1] for each level. Throws VALUE outside 0 .. codebook size - 1. */
export function codeOf(index: number, levels: readonly number[]): number[] {
  const size = codebookSize(levels);
  if (!Number.isInteger(index) || index < 0 || index >= size) {
    throw expected("code", `a whole number from 0 to ${size - 1}`, index, "VALUE");
  }
  return Array.from(codesFromIndices(new Tensor("int32", [1, 1, 1], Int32Array.of(index)), levels).data);
}

/** A code one step of one level away from another. */
export interface Neighbour {
  readonly index: number;
  /** Which level differs, and by how much. */
  readonly level: number;
  readonly step: -1 | 1;
}

/** The codes one FSQ step away from `index`: two for each level, one at a level's end. Throws VALUE outside the codebook. */
export function neighbouringCodes(index: number, levels: readonly number[]): Neighbour[] {
  codeOf(index, levels);
  let basis = 1;
  return levels.flatMap((size, level) => {
    const digit = Math.floor(index / basis) % size, at = basis;
    basis *= size;
    return ([-1, 1] as const).filter((step) => digit + step >= 0 && digit + step < size)
      .map((step) => ({ index: index + step * at, level, step }));
  });
}

export interface ChannelMoments {
  readonly mean: number;
  readonly deviation: number;
  readonly least: number;
  readonly greatest: number;
}

export interface TokenStats {
  readonly tokens: number;
  /** Of discrete tokens: how many codes occur, entropy in bits a token, and how often each digit of each level occurs. */
  readonly codebook?: { readonly size: number; readonly distinct: number; readonly entropyBits: number };
  readonly levels?: readonly (readonly number[])[];
  /** Of the latent or of the codes. */
  readonly channels: readonly ChannelMoments[];
}

/** What tokens are like: use of the codebook, a histogram of each level's digits, moments of each channel. */
export function statsOf(tokens: Tokens): TokenStats {
  const { batch, channels, frames, height, width } = gridOf(tokens), values = valuesOf(tokens);
  const positions = frames * height * width;
  const moments = Array.from({ length: channels }, (_, c) => momentsOf(values, c, batch, channels, positions));
  if (!tokens.isDiscrete) return { tokens: batch * positions, channels: moments };
  const { levels } = tokens.origin, size = codebookSize(levels);
  const histograms = levels.map((level) => new Array<number>(level).fill(0));
  checkIndices("indices", tokens.indices, levels);
  for (const index of tokens.indices.data) {
    let rest = index;
    for (const histogram of histograms) {
      histogram[rest % histogram.length]!++;
      rest = Math.floor(rest / histogram.length);
    }
  }
  return {
    tokens: batch * positions,
    codebook: { size, ...codebookUse(tokens.indices, size) },
    levels: histograms,
    channels: moments,
  };
}

function momentsOf(values: TensorLike<"float32">, channel: number, batch: number, channels: number, positions: number) {
  let sum = 0, squares = 0, least = Infinity, greatest = -Infinity;
  const each = (visit: (v: number) => void) => {
    for (let b = 0; b < batch; b++) {
      const first = (b * channels + channel) * positions;
      for (let i = first; i < first + positions; i++) visit(values.data[i]!);
    }
  };
  each((v) => {
    sum += v;
    least = Math.min(least, v);
    greatest = Math.max(greatest, v);
  });
  const mean = sum / (batch * positions);
  each((v) => squares += (v - mean) ** 2);
  return { mean, deviation: Math.sqrt(squares / (batch * positions)), least, greatest };
}
