/**
 * Taking tokens apart: change a region, mix, add noise, look at neighbouring codes, count. Pure functions; each gives
 * new tokens that know their model, shape and origin, so that they decode. Discrete tokens stay discrete: what is
 * computed on codes is rounded to the nearest code. Tokens of a learned codebook need it as `codebook`, float32 [size,
 * channels]: without it all throw UNSUPPORTED. Ref: FSQ, Mentzer et al. 2023, arXiv 2309.15505.
 */
import { expected } from "../errors.ts";
import {
  checkIndices,
  type Codebook,
  codebookSize,
  codeOf,
  codesFromIndices,
  digitsOf,
  indicesOfNearest,
  tellQuantizer,
} from "../tokens/quantizer.ts";
import { codebookUse } from "./metrics.ts";
import { Tensor, type TensorLike, Tokens } from "../tokens/tensor.ts";

/**
 * A box of the token grid: `height` x `width` tokens from (`top`, `left`) on, of all frames or of `frames` from `first`
 * on. What is left out is whole.
 */
export interface Region {
  readonly top?: number;
  readonly left?: number;
  readonly height?: number;
  readonly width?: number;
  readonly first?: number;
  readonly frames?: number;
}

/** The size of a grid of tokens, in tokens. `frames` is 1 for pictures. */
interface Grid {
  readonly batch: number;
  readonly channels: number;
  readonly frames: number;
  readonly height: number;
  readonly width: number;
}

function gridOf(tokens: Tokens, codebook: Codebook | undefined): Grid {
  if (!(tokens instanceof Tokens)) throw expected("tokens", "what encode or loadTokens gave", typeof tokens);
  const { shape } = valuesOf(tokens, codebook), isVideo = tokens.origin.video !== undefined;
  const [batch = 0, channels = 0, ...rest] = shape;
  const [frames = 0, height = 0, width = 0] = isVideo ? rest : [1, ...rest];
  return { batch, channels, frames, height, width };
}

/**
 * The values that edits work on: the codes of discrete tokens, the latent of continuous ones; float32 [B, C, (t,) h,
 * w].
 */
function valuesOf(tokens: Tokens, codebook: Codebook | undefined): Tensor<"float32"> {
  const { quantizer } = tokens.origin;
  if (!quantizer) return tokens.latent;
  return tokens.parts.includes("codes") ? tokens.codes : codesFromIndices(tokens.indices, quantizer, codebook);
}

/** Tokens of the same origin around new values; discrete ones are rounded to codes. */
function withValues({ origin }: Tokens, values: Float32Array, shape: readonly number[], codebook?: Codebook): Tokens {
  const { quantizer } = origin;
  if (!quantizer) {
    return new Tokens(origin, { latent: new Tensor("float32", shape, values, { kind: "latent", origin }) });
  }
  const nearest = indicesOfNearest(new Tensor("float32", shape, values), quantizer, codebook);
  const codes = codesFromIndices(nearest, quantizer, codebook);
  return new Tokens(origin, {
    indices: new Tensor("int32", nearest.shape, nearest.data, { kind: "indices", origin }),
    codes: new Tensor("float32", codes.shape, codes.data, { kind: "codes", origin }),
  });
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
  const unknown = Object.keys(region).find((key) =>
    !["top", "left", "height", "width", "first", "frames"].includes(key)
  );
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
 * discrete tokens round to a code. Throws VALUE for an index outside the codebook, ARGUMENT for a region outside the
 * grid.
 */
export function edit(tokens: Tokens, region: Region, code: number | ArrayLike<number>, codebook?: Codebook): Tokens {
  const grid = gridOf(tokens, codebook), values = valuesOf(tokens, codebook), data = values.data.slice();
  let vector: ArrayLike<number>;
  if (typeof code !== "number") vector = code;
  else if (tokens.origin.quantizer) vector = codeOf(code, tokens.origin.quantizer, codebook);
  else throw expected("code", `the values of ${grid.channels} channels, as the latent is continuous`, code);
  if (vector?.length !== grid.channels || !Array.from(vector).every(Number.isFinite)) {
    throw expected("code", `an index, or ${grid.channels} numbers`, vector && Array.from(vector));
  }
  const positions = grid.frames * grid.height * grid.width;
  eachPosition(grid, region, (p) => {
    for (let c = 0; c < grid.batch * grid.channels; c++) data[c * positions + p] = vector[c % grid.channels]!;
  });
  return withValues(tokens, data, values.shape, codebook);
}

/**
 * Replaces a region of the tokens `a` by that of `b`. Both must be of one model (quantizer and factors) and of one
 * grid.
 */
export function swap(a: Tokens, b: Tokens, region: Region, codebook?: Codebook): Tokens {
  const grid = gridOf(a, codebook),
    values = valuesOf(a, codebook),
    other = likeFirst(a, b, codebook),
    data = values.data.slice();
  const positions = grid.frames * grid.height * grid.width;
  eachPosition(grid, region, (p) => {
    for (let at = p; at < data.length; at += positions) data[at] = other.data[at]!;
  });
  return withValues(a, data, values.shape, codebook);
}

/**
 * Mixes two tokens: (1 - t) a + t b between their latents, or between their codes, rounded to codes again. Any finite
 * t.
 */
export function mix(a: Tokens, b: Tokens, t: number, codebook?: Codebook): Tokens {
  gridOf(a, codebook);
  if (typeof t !== "number" || !Number.isFinite(t)) throw expected("t", "a number, 0 for a and 1 for b", t);
  const values = valuesOf(a, codebook), other = likeFirst(a, b, codebook);
  return withValues(a, values.data.map((v, i) => (1 - t) * v + t * other.data[i]!), values.shape, codebook);
}

/**
 * The tokens with Gaussian noise of deviation `sigma` on their latent, or on their codes, which are then rounded to
 * codes. The same seed gives the same noise.
 */
export function noise(tokens: Tokens, sigma: number, seed = 1, codebook?: Codebook): Tokens {
  gridOf(tokens, codebook);
  if (typeof sigma !== "number" || !(sigma >= 0) || !Number.isFinite(sigma)) {
    throw expected("sigma", "a number of at least 0", sigma);
  }
  if (!Number.isInteger(seed)) throw expected("seed", "a whole number", seed);
  const values = valuesOf(tokens, codebook), random = uniform(seed);
  // Ref: Box and Muller 1958.
  const gaussian = () => Math.sqrt(-2 * Math.log(1 - random())) * Math.cos(2 * Math.PI * random());
  return withValues(tokens, values.data.map((v) => v + sigma * gaussian()), values.shape, codebook);
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

function likeFirst(a: Tokens, b: Tokens, codebook: Codebook | undefined): Tensor<"float32"> {
  gridOf(b, codebook);
  const values = valuesOf(a, codebook), other = valuesOf(b, codebook);
  const about = (t: Tokens, v: Tensor) => `[${v.shape}] of ${tellQuantizer(t.origin.quantizer)}`;
  if (about(a, values) !== about(b, other)) throw expected("b", `${about(a, values)}, as a`, about(b, other), "SHAPE");
  return other;
}

export interface ChannelMoments {
  readonly mean: number;
  readonly deviation: number;
  readonly least: number;
  readonly greatest: number;
}

export interface TokenStats {
  readonly tokens: number;
  /**
   * Discrete tokens only: how many codes occur, and their entropy in bits for each token. `levels`, for FSQ and signs:
   * how often each digit of each level occurs.
   */
  readonly codebook?: { readonly size: number; readonly distinct: number; readonly entropyBits: number };
  readonly levels?: readonly (readonly number[])[];
  /** Moments of each channel of the latent, or of the codes where tokens are discrete. */
  readonly channels: readonly ChannelMoments[];
}

/** What tokens are like: use of the codebook, a histogram of each level's digits, moments of each channel. */
export function statsOf(tokens: Tokens, codebook?: Codebook): TokenStats {
  const { batch, channels, frames, height, width } = gridOf(tokens, codebook), values = valuesOf(tokens, codebook);
  const positions = frames * height * width;
  const moments = Array.from({ length: channels }, (_, c) => momentsOf(values, c, batch, channels, positions));
  const { quantizer } = tokens.origin;
  if (!quantizer) return { tokens: batch * positions, channels: moments };
  const size = codebookSize(quantizer), sizes = digitsOf(quantizer);
  const histograms = sizes?.map((size) => new Array<number>(size).fill(0));
  checkIndices("indices", tokens.indices, quantizer);
  for (const index of histograms ? tokens.indices.data : []) {
    let rest = index;
    for (const histogram of histograms!) {
      histogram[rest % histogram.length]!++;
      rest = Math.floor(rest / histogram.length);
    }
  }
  return {
    tokens: batch * positions,
    codebook: { size, ...codebookUse(tokens.indices, size) },
    ...(histograms && { levels: histograms }),
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
