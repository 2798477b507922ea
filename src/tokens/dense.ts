/**
 * Plain dense tensors, row-major, and what is done to their axes. Nothing here calls native code or knows of models: an
 * origin is carried along unseen. Layouts of what ctok's tensors hold are in tensor.ts.
 */
import { expected, nameOf, printable } from "../errors.ts";
import type { Origin } from "./origin.ts";

export interface Arrays {
  uint8: Uint8Array;
  uint16: Uint16Array;
  int32: Int32Array;
  float32: Float32Array;
}
export type DType = keyof Arrays;

/** The constructor of a typed array. */
export interface ArrayType<A> {
  readonly name: string;
  readonly BYTES_PER_ELEMENT: number;
  new (length: number): A;
  new (buffer: ArrayBuffer, byteOffset: number, length: number): A;
}

const constructors: { readonly [D in DType]: ArrayType<Arrays[D]> } = {
  uint8: Uint8Array,
  uint16: Uint16Array,
  int32: Int32Array,
  float32: Float32Array,
};

/** What a function that takes a tensor accepts: any object of this shape. */
export interface TensorLike<D extends DType = DType> {
  readonly data: Arrays[D];
  readonly shape: readonly number[];
  readonly dtype: D;
}

/** The method by which console.log and the REPL show a value, on Bun and Deno as on Node. */
export const inspect = Symbol.for("nodejs.util.inspect.custom");

export type TokenKind = "indices" | "codes" | "latent" | "preQuant";

/** A tensor that remembers what it is: made by ctok, accepted wherever a TensorLike is. */
export class Tensor<D extends DType = DType> implements TensorLike<D> {
  readonly data: Arrays[D];
  readonly shape: readonly number[];
  readonly dtype: D;
  readonly kind: TokenKind | "pixels" | undefined;
  readonly origin: Origin | undefined;

  /** Makes a tensor over `data`, which is not copied. Throws ARGUMENT when data and shape disagree. */
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
    const from = this.origin ? ` of ${printable(this.origin.model)}` : "";
    return `Tensor { ${this.kind ?? "values"}${from}, ${this.dtype} [${this.shape.join(", ")}] }`;
  }

  /** Image `n` of the batch as a batch of one; shares memory. */
  at(n: number): Tensor<D> {
    const batch = this.shape[0] ?? 0;
    if (!Number.isInteger(n) || n < 0 || n >= batch) {
      throw expected("at(n)", `a whole number from 0 to ${batch - 1}`, n);
    }
    const size = this.data.length / batch;
    const data = this.data.subarray(n * size, (n + 1) * size) as Arrays[D];
    return new Tensor(this.dtype, [1, ...this.shape.slice(1)], data, this);
  }
}

/** Elements `from` to `to` along `axis`, copied. */
export function sliceAxis<D extends DType>(t: TensorLike<D>, axis: number, from: number, to: number): Tensor<D> {
  const shape = t.shape.map((n, i) => i === axis ? to - from : n);
  const inner = elementsOf(t.shape.slice(axis + 1)), step = t.shape[axis]! * inner, size = (to - from) * inner;
  const data = new (t.data.constructor as new (n: number) => Arrays[D])(elementsOf(shape));
  for (let o = 0; o * size < data.length; o++) {
    data.set(
      t.data.subarray(o * step + from * inner, o * step + to * inner) as Arrays[D] & ArrayLike<number>,
      o * size,
    );
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

/**
 * Throws unless it is an object whose dtype is known, data is its array type, and the shape holds positive whole
 * numbers that multiply to data.length.
 */
export function checkTensor(name: string, t: TensorLike): void {
  if (typeof t !== "object" || t === null) throw expected(name, "a tensor { data, shape, dtype }", t);
  const constructor = typeof t.dtype === "string" && Object.hasOwn(constructors, t.dtype) && constructors[t.dtype];
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

/**
 * Reads each field of what a caller passes as a tensor once, then checks them, so that no getter can give another value
 * later. Throws ARGUMENT, SHAPE.
 */
export function tensorOf(name: string, value: TensorLike): TensorLike & Pick<Tensor, "kind" | "origin"> {
  if (value === null || typeof value !== "object") {
    throw expected(name, "a tensor { dtype, shape, data }", nameOf(value));
  }
  const { dtype, shape, data, kind, origin } = value as Tensor;
  const tensor = { dtype, shape: Array.isArray(shape) ? [...shape] : shape, data, kind, origin };
  checkTensor(name, tensor);
  return tensor;
}

/** Height and width of one uint8 picture [H, W, 3] or [1, H, W, 3]. Throws SHAPE for any other. */
export function pictureSize(name: string, picture: TensorLike<"uint8">): { height: number; width: number } {
  checkTensor(name, picture);
  const { shape, dtype } = picture;
  const [height, width, channels] = shape.length === 4 && shape[0] === 1
    ? shape.slice(1)
    : shape.length === 3
    ? shape
    : [];
  if (dtype !== "uint8" || height === undefined || width === undefined || channels !== 3) {
    throw expected(name, "uint8 [H, W, 3] or [1, H, W, 3]", `${dtype} [${shape.join(", ")}]`, "SHAPE");
  }
  return { height, width };
}

/** An array of `dtype` over bytes that start at `offset` (copied when the offset does not suit the type). */
export function viewAs<D extends DType>(dtype: D, bytes: Uint8Array, offset?: number, byteLength?: number): Arrays[D] {
  return viewOf(constructors[dtype], bytes, offset, byteLength);
}

/** A typed array of any type over bytes that start at `offset` (copied when the offset does not suit the type). */
export function viewOf<A>(
  constructor: ArrayType<A>,
  bytes: Uint8Array,
  offset = 0,
  byteLength = bytes.byteLength - offset,
): A {
  const start = bytes.byteOffset + offset;
  const count = byteLength / constructor.BYTES_PER_ELEMENT;
  if (start % constructor.BYTES_PER_ELEMENT === 0) return new constructor(bytes.buffer as ArrayBuffer, start, count);
  const copy = new Uint8Array(byteLength); // Note: not bytes.slice, which shares memory when bytes are a Buffer
  copy.set(bytes.subarray(offset, offset + byteLength));
  return new constructor(copy.buffer, 0, count);
}
