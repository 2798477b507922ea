/**
 * What an encoder returns, and the plain forms in which it travels: structuredClone, JSON. Layouts (B batch, t h w
 * token grid, d channels of a code; T and t for videos): indices int32 [B, (t,) h, w]; codes float32 [B, d, (t,) h, w];
 * latent float32 [B, C, (t,) h, w]; pixels uint8 [B, (T,) H, W, 3] or float32 [B, 3, (T,) H, W] in [-1, 1]. Nothing
 * here calls native code. What dense.ts and origin.ts have is given on, so that users of tensors look here alone.
 */
import { type Arrays, checkTensor, type DType, inspect, Tensor, type TensorLike, type TokenKind } from "./dense.ts";
import { fromBase64, toBase64 } from "../base64.ts";
import { expected, messageOf, nameOf, printable, TokenizerError } from "../errors.ts";
import { checkTokens } from "./checktokens.ts";
import { type Origin, sourceOf } from "./origin.ts";
import { checkIndices, codebookSize, codesFromIndices, fsq, indicesFromCodes, type Quantizer } from "./quantizer.ts";
import { floatsOf, indicesOf, type StoredTensor, storedTensor } from "./stored.ts";

export {
  type Arrays,
  checkTensor,
  concatAxis,
  type DType,
  elementsOf,
  sliceAxis,
  Tensor,
  type TensorLike,
  type TokenKind,
  viewAs,
} from "./dense.ts";
export type { Origin, VideoOrigin, VideoWindow } from "./origin.ts";

/** A tensor whose memory postMessage can transfer. */
export interface TransferableTensor {
  readonly dtype: DType;
  readonly shape: readonly number[];
  readonly data: Arrays[DType] & { readonly buffer: ArrayBuffer };
}

/** Tokens as plain objects and typed arrays: what structuredClone and postMessage carry. */
export interface TransferableTokens {
  readonly origin: Origin;
  /** `indices` uint16 (int32 above 65,536 codes) or `latent` float32, and `preQuant` float32 where present. */
  readonly tensors: { readonly [K in TokenKind]?: TransferableTensor };
  /** Only for a TokenPart: its place in the video, in frames. */
  readonly firstFrame?: number;
  readonly numFrames?: number;
}

/** Tokens as JSON.stringify writes them. */
export interface TokensJSON {
  readonly format: typeof formatName;
  readonly origin: Origin;
  /** The tensors with names and types as in a token file; `data` is base64 of the little-endian bytes. */
  readonly tensors: {
    readonly [K in TokenKind]?: { readonly dtype: DType; readonly shape: readonly number[]; readonly data: string };
  };
  readonly firstFrame?: number;
  readonly numFrames?: number;
}

/** The tensors that tokens hold, as they are: for what else is made of them in this file. */
let tensorsOf: (tokens: Tokens) => { [K in TokenKind]?: Tensor };

/** What encode returns. A property that the model does not have throws UNSUPPORTED and says which it has. */
export class Tokens {
  readonly origin: Origin;
  readonly #parts: { [K in TokenKind]?: Tensor };
  static {
    tensorsOf = (tokens) => tokens.#parts;
  }

  constructor(origin: Origin, parts: { [K in TokenKind]?: Tensor }) {
    if (typeof origin !== "object" || origin === null) throw expected("origin", "where the tokens came from", origin);
    this.origin = origin;
    this.#parts = { ...parts };
  }

  /** int32 [B, (t,) h, w], 0 .. codebook size - 1. Discrete models. */
  get indices(): Tensor<"int32"> {
    return this.#get("indices") as Tensor<"int32">;
  }
  /**
   * float32 [B, d, (t,) h, w], the quantised values. Discrete models. Made of the indices when first asked for, where
   * the tokens came from a file or another place that has indices alone: 2 d times their bytes there. Those of a
   * learned codebook have no codes there: `codesFromIndices(tokens.indices, tokens.origin.quantizer, await
   * tokenizer.codebook())` gives them.
   */
  get codes(): Tensor<"float32"> {
    const { quantizer } = this.origin;
    if (this.#parts.indices && !this.#parts.codes && quantizer) {
      const { shape, data } = codesFromIndices(this.indices, quantizer);
      this.#parts.codes = new Tensor("float32", shape, data, { kind: "codes", origin: this.origin });
    }
    return this.#get("codes") as Tensor<"float32">;
  }
  /** The latent, float32 [B, C, (t,) h, w]. Continuous models only. */
  get latent(): Tensor<"float32"> {
    return this.#get("latent") as Tensor<"float32">;
  }
  /** float32 [B, d, (t,) h, w], the vector before it is quantised; only when encode was asked with `preQuant: true`. */
  get preQuant(): Tensor<"float32"> {
    return this.#get("preQuant") as Tensor<"float32">;
  }
  get isDiscrete(): boolean {
    return this.origin.quantizer !== undefined;
  }
  /**
   * Names of the tensors that these tokens have. Codes are among them wherever indices are, as those give the codes;
   * not so for a learned codebook whose tokens came from a file.
   */
  get parts(): TokenKind[] {
    const { indices, codes, latent, preQuant } = this.#parts;
    const made = this.origin.quantizer?.kind === "lookup" ? undefined : indices;
    return kinds.filter((kind) => ({ indices, codes: codes ?? made, latent, preQuant })[kind] !== undefined);
  }
  /** What decode takes: indices (or codes) of a discrete model, the latent of a continuous one. */
  get main(): Tensor {
    return this.#parts.indices ?? this.#parts.codes ?? this.latent;
  }

  /** The tokens of picture or clip `n` of a batch, as a batch of one; they share its memory. Throws ARGUMENT. */
  at(n: number): Tokens {
    return new Tokens(
      this.origin,
      Object.fromEntries(Object.entries(this.#parts).map(([kind, tensor]) => [kind, tensor.at(n)])),
    );
  }

  /**
   * Plain objects and typed arrays for postMessage and structuredClone, which lose what a class has;
   * Tokens.fromTransferable makes tokens of it again. Its memory is its own, so its buffers may be transferred:
   * `postMessage(message, Object.values(message.tensors).map((t) => t.data.buffer))`. Codes are left out, as the
   * indices give them.
   */
  toTransferable(): TransferableTokens {
    const tensors = Object.entries(storedParts(this, isContinued(this))).map(([kind, { dtype, shape, data }]) => {
      return [kind, { dtype, shape: [...shape], data: data.slice() }];
    });
    return { origin: { ...this.origin }, tensors: Object.fromEntries(tensors) };
  }

  /**
   * Makes tokens again of what toTransferable gave, in new memory. Throws ARGUMENT, SHAPE or VALUE for anything else.
   */
  static fromTransferable(value: TransferableTokens): Tokens {
    const { origin, tensors, part } = recordOf("value", value, "ARGUMENT");
    for (const [kind, tensor] of Object.entries(tensors)) checkTensor(`tensors.${kind}`, tensor as TensorLike);
    return finish(tokensOf(origin, tensors as Stored, "SHAPE", part));
  }

  /**
   * What JSON.stringify writes: the origin, without the path of the model, and the tensors in base64. See
   * Tokens.fromJSON.
   */
  toJSON(): TokensJSON {
    const tensors = Object.entries(storedParts(this, isContinued(this))).map(([kind, { dtype, shape, data }]) => {
      return [kind, { dtype, shape, data: toBase64(new Uint8Array(data.buffer, data.byteOffset, data.byteLength)) }];
    });
    const origin = { ...this.origin, source: sourceOf(this.origin, false) };
    return { format: formatName, origin, tensors: Object.fromEntries(tensors) };
  }

  /** Makes tokens of what JSON.parse gives for the text of `toJSON`. Throws TOKEN_FILE for anything else. */
  static fromJSON(value: unknown): Tokens {
    try {
      const { format, origin: its, tensors, part } = recordOf("value", value, "TOKEN_FILE");
      if (format !== formatName && format !== olderFormat) throw expected("format", formatName, format, "TOKEN_FILE");
      const origin = format === olderFormat ? ofLevels(its) : its;
      const stored = Object.entries(tensors).map(([kind, tensor]) => {
        const { dtype, shape, data } = Object(tensor), name = `tensors.${kind}`;
        return [kind, storedTensor(name, dtype, shape, fromBase64(`${name}.data`, data))];
      });
      return finish(tokensOf(origin, Object.fromEntries(stored), "TOKEN_FILE", part));
    } catch (cause) {
      throw unreadable("tokens", cause);
    }
  }

  /** What console.log prints: the model, the parts and their shapes, and what the tokens are of. */
  [inspect](): string {
    const { model, height, width, video } = this.origin;
    const parts = Object.entries(this.#parts).map(([kind, t]) => `${kind} ${t.dtype} [${t.shape.join(", ")}]`);
    const frames = video ? `${video.frames} frames of ` : "";
    return `Tokens { ${printable(model)}: ${parts.join(", ")}; of ${frames}${width}x${height} pixels }`;
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

  /** The same part of clip `n` alone: its place in the video is that of all. Throws ARGUMENT. */
  override at(n: number): TokenPart {
    return new TokenPart(this.origin, tensorsOf(super.at(n)), this.firstFrame, this.numFrames);
  }

  override toTransferable(): TransferableTokens {
    return { ...super.toTransferable(), firstFrame: this.firstFrame, numFrames: this.numFrames };
  }

  override toJSON(): TokensJSON {
    return { ...super.toJSON(), firstFrame: this.firstFrame, numFrames: this.numFrames };
  }
}

/** Whether tokens are a part of a seamless sequence that begins behind its start, which nothing can decode alone. */
export function isContinued(tokens: Tokens): boolean {
  return tokens instanceof TokenPart && tokens.firstFrame > 0 && tokens.origin.video?.windows === undefined;
}

// -------------------------------------------------------------- what is stored and sent

/** Name and version of the format, as token files and JSON state it. */
export const formatName = "ctok-tokens-2";
/** An older format, which is read as well. It knew FSQ alone, by `levels`, which were empty for a continuous latent. */
export const olderFormat = "ctok-tokens-1";

/** The quantizer of an older file's levels. Throws VALUE. */
export function quantizerOf(levels: readonly number[]): { readonly quantizer?: Quantizer } {
  return Array.isArray(levels) && levels.length === 0 ? {} : { quantizer: fsq(levels) };
}

/** The origin in the JSON of an older version, brought into today's form. */
function ofLevels(older: Origin): Origin {
  const { levels, ...origin } = older as Origin & { readonly levels: readonly number[] };
  return Object.freeze({ ...origin, ...quantizerOf(levels) });
}

/**
 * The tensors of tokens that are stored: `indices` or `latent`, and `preQuant` if there is one. Codes are never stored,
 * as the indices give them back exactly.
 */
export type Stored = { readonly [K in "indices" | "latent" | "preQuant"]?: StoredTensor };

/**
 * The tensors to store. Throws VALUE for an index outside the codebook, SHAPE when the tensors and the origin
 * contradict each other.
 */
export function storedParts(tokens: Tokens, continued = false): { [K in keyof Stored]?: TensorLike } {
  if (!(tokens instanceof Tokens)) throw expected("tokens", "what encode or loadTokens gave", nameOf(tokens));
  const { origin, parts } = tokens, { quantizer } = origin;
  const preQuant = parts.includes("preQuant") && { preQuant: tokens.preQuant };
  if (quantizer === undefined) {
    const stored = { ...(parts.includes("latent") && { latent: tokens.latent }), ...preQuant };
    checkTokens(origin, stored, "SHAPE", continued);
    return stored;
  }
  const indices = parts.includes("indices") ? tokens.indices : indicesFromCodes(tokens.codes, quantizer);
  checkTokens(origin, { indices, ...preQuant }, "SHAPE", continued);
  checkIndices("indices", indices, quantizer);
  const main: TensorLike = codebookSize(quantizer) <= 65536
    ? { dtype: "uint16", shape: indices.shape, data: new Uint16Array(indices.data) }
    : indices;
  return { indices: main, ...preQuant };
}

/**
 * Makes tokens of what was stored, in new memory. Work pauses between slices, so that the caller may let other work
 * run. Throws `code`, and VALUE.
 */
export function* tokensOf(
  origin: Origin,
  stored: Stored,
  code: "SHAPE" | "TOKEN_FILE",
  part?: Pick<TokenPart, "firstFrame" | "numFrames">,
): Generator<void, Tokens> {
  checkTokens(origin, stored, code, part && part.firstFrame > 0 && origin.video?.windows === undefined);
  const parts: { [K in TokenKind]?: Tensor } = {};
  for (const kind of ["indices", "latent", "preQuant"] as const) {
    const tensor = stored[kind];
    if (!tensor) continue;
    parts[kind] = kind === "indices"
      ? new Tensor("int32", tensor.shape, yield* indicesOf(kind, tensor, codebookSize(origin.quantizer!)), {
        kind,
        origin,
      })
      : new Tensor("float32", tensor.shape, yield* floatsOf(tensor), { kind, origin });
  }
  return part ? new TokenPart(origin, parts, part.firstFrame, part.numFrames) : new Tokens(origin, parts);
}

/** Runs a conversion that pauses between slices to its end, without the pauses. */
export function finish<T>(slices: Generator<void, T>): T {
  for (;;) {
    const { done, value } = slices.next();
    if (done) return value;
  }
}

/** The TOKEN_FILE failure of reading something that a caller calls `name`. */
export function unreadable(name: string, cause: unknown): TokenizerError {
  const detail = cause instanceof TokenizerError ? cause.detail : undefined;
  return new TokenizerError("TOKEN_FILE", `${name}: ${messageOf(cause)}`, { detail, cause });
}

const kinds: readonly TokenKind[] = ["indices", "codes", "latent", "preQuant"];

/**
 * Reads the fields of tokens in plain form. Tensors must be of the kinds that are stored; `part` is what a TokenPart
 * has besides.
 */
function recordOf(name: string, value: unknown, code: "ARGUMENT" | "TOKEN_FILE") {
  const { format, origin, tensors, firstFrame, numFrames } = Object(value);
  const isRecord = (x: unknown): x is Record<string, unknown> => typeof x === "object" && x !== null;
  if (!isRecord(origin) || !isRecord(tensors)) throw expected(name, "{ origin, tensors }", nameOf(value), code);
  const unknown = Object.keys(tensors).find((kind) => !["indices", "latent", "preQuant"].includes(kind));
  if (unknown !== undefined) throw expected("tensors", "indices, latent or preQuant", unknown, code);
  const own = Object.freeze({ ...origin }) as unknown as Origin;
  if (firstFrame === undefined) return { format, origin: own, tensors, part: undefined };
  if (!Number.isSafeInteger(firstFrame) || firstFrame < 0 || numFrames !== own.video?.frames) {
    throw expected("firstFrame, numFrames", "those of a part of a video", `${firstFrame}, ${numFrames}`, code);
  }
  return { format, origin: own, tensors, part: { firstFrame: firstFrame as number, numFrames: numFrames as number } };
}
