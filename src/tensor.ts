/**
 * Plain dense tensors, row-major, and what an encoder returns. Layouts (B batch, t h w token grid, d FSQ channels; T and t
 * for videos): indices int32 [B, (t,) h, w]; codes float32 [B, d, (t,) h, w]; latent float32 [B, C, (t,) h, w]; pixels uint8
 * [B, (T,) H, W, 3] or float32 [B, 3, (T,) H, W] in [-1, 1]. Nothing here calls native code.
 */
import { expected, TokenizerError } from "./errors.ts";

export interface Arrays {
  uint8: Uint8Array;
  uint16: Uint16Array;
  int32: Int32Array;
  float32: Float32Array;
}
export type DType = keyof Arrays;

const constructors = { uint8: Uint8Array, uint16: Uint16Array, int32: Int32Array, float32: Float32Array } as const;

/** What a function that takes a tensor accepts: any object of this shape. */
export interface TensorLike<D extends DType = DType> {
  readonly data: Arrays[D];
  readonly shape: readonly number[];
  readonly dtype: D;
}

/** Where tokens came from: enough to decode them to the picture's own size with the model found again. */
export interface Origin {
  /** Name of the model, such as "Cosmos-Tokenizer-DI8x8" or "nano-DI8x8". */
  readonly model: string;
  /** An embedded name, or the absolute path that the model was opened from. */
  readonly source: string;
  /** Pixels of one token, each way. */
  readonly spatialFactor: number;
  /** FSQ levels, level 0 least significant; empty for a continuous model. */
  readonly levels: readonly number[];
  /** The picture before padding, and where it lies in the padded one. All in pixels. */
  readonly height: number;
  readonly width: number;
  readonly top: number;
  readonly left: number;
  /** Of tokens of a video: their frames. */
  readonly video?: VideoOrigin;
  /** Version of ctok that made them. */
  readonly version: string;
}

/** The frames behind the tokens of a video. */
export interface VideoOrigin {
  /** Frames of one token after the first frame. */
  readonly temporalFactor: number;
  /** Real frames, without padding. */
  readonly frames: number;
  /** Frames a second as a fraction such as "30000/1001", where known. */
  readonly fps?: string;
  /** Windows that do not see each other, in order; absent when the tokens are one seamless sequence. */
  readonly windows?: readonly VideoWindow[];
}

/** One window: how many token frames it has, the real frames in it, and how many padding frames lie before them. */
export interface VideoWindow {
  readonly tokens: number;
  readonly frames: number;
  readonly before: number;
}

/** The method by which console.log and the REPL show a value, on Bun and Deno as on Node. */
const inspect = Symbol.for("nodejs.util.inspect.custom");

export type TokenKind = "indices" | "codes" | "latent" | "preQuant";

/** A tensor that remembers what it is: made by ctok, accepted wherever a TensorLike is. */
export class Tensor<D extends DType = DType> implements TensorLike<D> {
  readonly data: Arrays[D];
  readonly shape: readonly number[];
  readonly dtype: D;
  readonly kind: TokenKind | "pixels" | undefined;
  readonly origin: Origin | undefined;

  /** Throws ARGUMENT when data and shape disagree. */
  constructor(
    dtype: D,
    shape: readonly number[],
    data: Arrays[D],
    about: { kind?: TokenKind | "pixels"; origin?: Origin } = {},
  ) {
    checkTensor("tensor", { dtype, shape, data });
    this.dtype = dtype;
    this.shape = Object.freeze([...shape]);
    this.data = data;
    this.kind = about.kind;
    this.origin = about.origin;
  }

  /** What console.log prints: kind, dtype and shape, not a million numbers. */
  [inspect](): string {
    const from = this.origin ? ` of ${this.origin.model}` : "";
    return `Tensor { ${this.kind ?? "values"}${from}, ${this.dtype} [${this.shape.join(", ")}] }`;
  }

  /** Image `n` of the batch as a batch of one; shares memory. */
  at(n: number): Tensor<D> {
    const batch = this.shape[0] ?? 0;
    if (!Number.isInteger(n) || n < 0 || n >= batch) throw expected("at(n)", `a whole number from 0 to ${batch - 1}`, n);
    const size = this.data.length / batch;
    const data = this.data.subarray(n * size, (n + 1) * size) as Arrays[D];
    return new Tensor(this.dtype, [1, ...this.shape.slice(1)], data, this);
  }
}

/** What encode returns. A property that the model does not have throws UNSUPPORTED and says which it has. */
export class Tokens {
  readonly origin: Origin;
  readonly #parts: { [K in TokenKind]?: Tensor };

  constructor(origin: Origin, parts: { [K in TokenKind]?: Tensor }) {
    this.origin = origin;
    this.#parts = parts;
  }

  /** int32 [B, (t,) h, w], 0 .. codebook size - 1. Discrete models. */
  get indices(): Tensor<"int32"> {
    return this.#get("indices") as Tensor<"int32">;
  }
  /** float32 [B, d, (t,) h, w], the quantised values in [-1, 1]. Discrete models. */
  get codes(): Tensor<"float32"> {
    return this.#get("codes") as Tensor<"float32">;
  }
  /** float32 [B, C, (t,) h, w]. Continuous models. */
  get latent(): Tensor<"float32"> {
    return this.#get("latent") as Tensor<"float32">;
  }
  /** float32 [B, d, (t,) h, w], the vector before FSQ; only when encode was asked with `preQuant: true`. */
  get preQuant(): Tensor<"float32"> {
    return this.#get("preQuant") as Tensor<"float32">;
  }
  get isDiscrete(): boolean {
    return this.origin.levels.length > 0;
  }
  /** The names of what is here. */
  get parts(): TokenKind[] {
    return Object.keys(this.#parts) as TokenKind[];
  }
  /** What decode takes: indices (or codes) of a discrete model, the latent of a continuous one. */
  get main(): Tensor {
    return this.#parts.indices ?? this.#parts.codes ?? this.latent;
  }

  /** What console.log prints: the model, the parts and their shapes, and what the tokens are of. */
  [inspect](): string {
    const { model, height, width, video } = this.origin;
    const parts = Object.entries(this.#parts).map(([kind, t]) => `${kind} ${t.dtype} [${t.shape.join(", ")}]`);
    const frames = video ? `${video.frames} frames of ` : "";
    return `Tokens { ${model}: ${parts.join(", ")}; of ${frames}${height} x ${width} pixels }`;
  }

  #get(kind: TokenKind): Tensor {
    const part = this.#parts[kind];
    if (part) return part;
    const hint = kind === "preQuant" ? "; ask encode for it with { preQuant: true }" : "";
    throw new TokenizerError(
      "UNSUPPORTED",
      `${this.origin.model}: expected one of ${this.parts.join(", ")}, found a request for ${kind}${hint}`,
    );
  }
}

/** Tokens of a part of a video: of `numFrames` real frames from `firstFrame` on. */
export class TokenPart extends Tokens {
  readonly firstFrame: number;
  readonly numFrames: number;
  constructor(origin: Origin, parts: { [K in TokenKind]?: Tensor }, firstFrame: number, numFrames: number) {
    super(origin, parts);
    this.firstFrame = firstFrame;
    this.numFrames = numFrames;
  }
}

/** Elements `from` to `to` along `axis`, copied. */
export function sliceAxis<D extends DType>(t: TensorLike<D>, axis: number, from: number, to: number): Tensor<D> {
  const shape = t.shape.map((n, i) => i === axis ? to - from : n);
  const inner = elementsOf(t.shape.slice(axis + 1)), step = t.shape[axis]! * inner, size = (to - from) * inner;
  const data = new (t.data.constructor as new (n: number) => Arrays[D])(elementsOf(shape));
  for (let o = 0; o * size < data.length; o++) {
    data.set(t.data.subarray(o * step + from * inner, o * step + to * inner) as Arrays[D] & ArrayLike<number>, o * size);
  }
  return new Tensor(t.dtype, shape, data, t as Tensor<D>);
}

/** Tensors put one after the other along `axis`; all other sizes are equal. */
export function concatAxis<D extends DType>(all: readonly TensorLike<D>[], axis: number): Tensor<D> {
  const first = all[0]!;
  const shape = first.shape.map((n, i) => i === axis ? all.reduce((sum, t) => sum + t.shape[axis]!, 0) : n);
  const inner = elementsOf(shape.slice(axis + 1)), outer = elementsOf(shape.slice(0, axis));
  const data = new (first.data.constructor as new (n: number) => Arrays[D])(elementsOf(shape));
  let at = 0;
  for (let o = 0; o < outer; o++) {
    for (const t of all) {
      const size = t.shape[axis]! * inner;
      data.set(t.data.subarray(o * size, (o + 1) * size) as Arrays[D] & ArrayLike<number>, at);
      at += size;
    }
  }
  return new Tensor(first.dtype, shape, data, first as Tensor<D>);
}

export function elementsOf(shape: readonly number[]): number {
  return shape.reduce((product, n) => product * n, 1);
}

/** Throws unless dtype is known, data is its array type, and the shape holds positive whole numbers that multiply to data.length. */
export function checkTensor(name: string, t: TensorLike): void {
  const constructor = constructors[t.dtype];
  if (!constructor) throw expected(`${name}.dtype`, `one of ${Object.keys(constructors).join(", ")}`, t.dtype);
  if (!(t.data instanceof constructor)) {
    throw expected(`${name}.data`, `a ${constructor.name} for dtype ${t.dtype}`, nameOf(t.data));
  }
  if (!Array.isArray(t.shape) || !t.shape.every((n) => Number.isSafeInteger(n) && n > 0)) {
    throw expected(`${name}.shape`, "an array of positive whole numbers", t.shape, "SHAPE");
  }
  const elements = elementsOf(t.shape);
  if (elements !== t.data.length) {
    throw expected(`${name}.data`, `${elements} elements for shape [${t.shape.join(", ")}]`, t.data.length, "SHAPE");
  }
}

function nameOf(value: unknown): string {
  return value === null || typeof value !== "object" ? typeof value : value.constructor?.name ?? "object";
}

/** An array of `dtype` over bytes that start at `offset` (copied when the offset does not suit the type). */
export function viewAs<D extends DType>(
  dtype: D,
  bytes: Uint8Array,
  offset = 0,
  byteLength = bytes.byteLength - offset,
): Arrays[D] {
  const constructor = constructors[dtype];
  const start = bytes.byteOffset + offset;
  const count = byteLength / constructor.BYTES_PER_ELEMENT;
  if (start % constructor.BYTES_PER_ELEMENT === 0) {
    return new constructor(bytes.buffer as ArrayBuffer, start, count) as Arrays[D];
  }
  const copy = new Uint8Array(byteLength); // Note: not bytes.slice, which shares memory when bytes are a Buffer
  copy.set(bytes.subarray(offset, offset + byteLength));
  return new constructor(copy.buffer, 0, count) as Arrays[D];
}
