/**
 * Token files. One of three forms, told apart by content when read:
 *   safetensors  `indices` U16 [B, (t,) h, w] (I32 above 65536 codes) or `latent` F32 [B, C, (t,) h, w], `preQuant` F32 and, of
 *                frames at a varying rate, `times` F64 where present, and the origin as metadata strings. The default.
 *   msgpack      the same arrays and origin as one self-describing record, for queues and databases.
 *   npy          only the main array, for NumPy; the reader must say which model made it.
 * Codes are never stored: indices and levels give them back exactly. Arrays of NumPy and PyTorch are read too, of any type that
 * holds what is needed. Nothing is written that would not be read. docs/token_formats.md has every byte.
 */
import { extname } from "node:path";
import { setImmediate } from "node:timers/promises";
import { z } from "zod";
import { throwIfAborted } from "../abort.ts";
import { expected, nameOf, TokenizerError } from "../errors.ts";
import { wholeFileBytes, writeFileAtomic } from "../files.ts";
import { type BytesSource, isBytes, takeBytes } from "../inputs.ts";
import { decodeNpy, encodeNpy, isNpy } from "./formats/npy.ts";
import { type Origin, parseWindows, sourceOf, tellWindows, type VideoOrigin } from "./origin.ts";
import { decodeRecord, encodeRecord, isRecord } from "./formats/record.ts";
import { decodeSafetensors, encodeSafetensors, mostHeaderBytes, type Safetensors } from "./formats/safetensors.ts";
import { isFloat, type StoredTensor, storedTensor } from "./stored.ts";
import {
  finish,
  formatName,
  isContinued,
  type Stored,
  storedParts,
  type TokenPart,
  type Tokens,
  tokensOf,
  unreadable,
} from "./tensor.ts";

export const tokenFormats = ["safetensors", "npy", "msgpack"] as const;
export type TokenFormat = typeof tokenFormats[number];

/** What a bare array lacks. Without the picture's size and place, the picture fills the whole token grid. */
export type FallbackOrigin = Omit<Origin, "height" | "width" | "top" | "left"> & Partial<Origin> & {
  temporalFactor?: number;
};

export interface StoreOptions {
  /** Keep the path that the model was opened from, which tells of folders here. Default: only the model's name. */
  storePath?: boolean;
}
export interface SaveOptions extends StoreOptions {
  /** Default: what the extension says; safetensors for any other. */
  format?: TokenFormat;
}

export interface LoadOptions {
  /** Ends the reading with code CANCELLED, also while a pipe gives nothing. */
  signal?: AbortSignal | undefined;
}

/**
 * The bytes of a token file. Throws ARGUMENT for an unknown format, VALUE for an index outside the codebook, SHAPE when the
 * tensors and the origin contradict each other, UNSUPPORTED for what decodeTokens would refuse to read: over 2 GiB, or windows so
 * unlike each other that they fill the header.
 */
export function encodeTokens(tokens: Tokens, format: TokenFormat, options: StoreOptions = {}): Uint8Array {
  const { storePath = false } = Object(options) as StoreOptions;
  if (!tokenFormats.includes(format)) throw expected("format", `one of ${tokenFormats.join(", ")}`, format);
  if (isContinued(tokens)) {
    const found = `a part from frame ${(tokens as TokenPart).firstFrame} on`;
    throw expected("tokens", "a seamless sequence from its start on, as joinTokens makes of its parts", found, "SHAPE");
  }
  const parts = storedParts(tokens), { origin } = tokens, { video } = origin;
  const stored: Record<string, StoredTensor> = {
    ...(parts as Stored),
    ...(video?.times && { times: { dtype: "float64", shape: [video.frames], data: new Float64Array(video.times) } }),
  };
  const bytes = Object.values(stored).reduce((sum, { data }) => sum + data.byteLength, 2 * mostHeaderBytes);
  if (bytes > wholeFileBytes) {
    throw expected("tokens", `at most ${wholeFileBytes} bytes, which are read`, bytes, "UNSUPPORTED");
  }
  if (format === "npy") return encodeNpy(parts.indices ?? parts.latent!);
  const about = aboutOf(origin, storePath);
  if (format === "safetensors") {
    const strings = Object.entries(about).map(([key, value]) => [key, String(value)]); // levels become "8,8,8,5,5,5"
    return encodeSafetensors(stored, Object.fromEntries(strings));
  }
  const texts = JSON.stringify(about).length;
  if (texts > mostHeaderBytes) throw expected("msgpack", `texts of at most ${mostHeaderBytes}`, texts, "UNSUPPORTED");
  const tensors = Object.entries(stored).map(([key, { dtype, shape, data }]) => {
    return [key, { dtype, shape, data: new Uint8Array(data.buffer, data.byteOffset, data.byteLength) }];
  });
  return encodeRecord({ ...about, tensors: Object.fromEntries(tensors) });
}

/**
 * Tokens equal to those encoded, in memory of their own. `name` is for error texts; `fallback` says where an array came from that
 * does not say it itself (.npy, or safetensors without ctok's metadata: the tensor named `indices` or `latent`, or the only one)
 * and is ignored otherwise. Indices may be whole numbers of any type, latents floats of any type.
 * Throws TOKEN_FILE when the bytes are no token file, or a damaged one.
 */
export function decodeTokens(bytes: Uint8Array | ArrayBuffer, name: string, fallback?: FallbackOrigin): Tokens {
  if (!isBytes(bytes)) throw expected("bytes", "those of a token file (loadTokens takes paths and Blobs)", nameOf(bytes));
  checkFallback(fallback);
  return finish(decoding(bytes instanceof Uint8Array ? bytes : new Uint8Array(bytes), name, fallback));
}

/**
 * Writes a token file, whole or not at all; the tokens may change once it has returned its promise. Throws what encodeTokens
 * throws, and FILE_IO.
 */
export async function saveTokens(path: string, tokens: Tokens, options: SaveOptions = {}): Promise<void> {
  if (typeof path !== "string") throw expected("path", "a path", path);
  if (typeof options !== "object" || options === null) throw expected("options", "{ format, storePath }", options);
  const { format = formatOf(path), ...store } = options;
  await writeFileAtomic(path, encodeTokens(tokens, format, store));
}

/**
 * Reads a token file of any format: its path or that of a pipe that it comes through, its `file:` URL, bytes or Blob; see
 * decodeTokens. A large one in slices. Throws FILE_MISSING, FILE_IO, TOKEN_FILE, ARGUMENT; CANCELLED when `signal` fires.
 */
export async function loadTokens(
  source: BytesSource,
  fallback?: FallbackOrigin,
  { signal }: LoadOptions = {},
): Promise<Tokens> {
  const taken = takeBytes("tokens", source);
  checkFallback(fallback);
  const slices = decoding(await taken.read(signal), taken.name, fallback);
  for (;;) {
    const { done, value } = slices.next();
    if (done) return value;
    await setImmediate();
    throwIfAborted(signal);
  }
}

/** Options passed in its place are told as such. */
function checkFallback(fallback: FallbackOrigin | undefined): void {
  if (fallback === undefined) return;
  const { model, source, spatialFactor, levels } = Object(fallback) as Partial<FallbackOrigin>;
  const isOrigin = typeof model === "string" && typeof source === "string" && Number.isInteger(spatialFactor) &&
    Array.isArray(levels);
  if (isOrigin) return;
  throw expected("fallback", "an origin { model, source, spatialFactor, levels, version, … }", nameOf(fallback));
}

function formatOf(path: string): TokenFormat {
  const extension = extname(path).slice(1).toLowerCase();
  return tokenFormats.find((format) => format === extension) ?? "safetensors";
}

function* decoding(bytes: Uint8Array, name: string, fallback: FallbackOrigin | undefined): Generator<void, Tokens> {
  try {
    // Byte 8 of a safetensors file opens its JSON; in a ctok record it is a letter of "format", the first key.
    if (isNpy(bytes)) return yield* bareTokens(decodeNpy(bytes), fallback);
    if (bytes[8] === 0x7b) return yield* containerTokens(decodeSafetensors(bytes), fallback);
    if (isRecord(bytes[0])) return yield* recordTokens(decodeRecord(bytes));
  } catch (cause) {
    throw unreadable(name, cause);
  }
  const start = Array.from(bytes.subarray(0, 9), (byte) => byte.toString(16).padStart(2, "0")).join(" ");
  const found = bytes.length === 0 ? "an empty file" : `${bytes.length} bytes that start with ${start}`;
  throw bad(`${name}: expected a token file (${tokenFormats.join(", ")}), found ${found}`);
}

function bad(message: string): TokenizerError {
  return new TokenizerError("TOKEN_FILE", message);
}

// ------------------------------------------------------------------------------------------- the origin as a file's keys

/** Plain values: numbers, texts, and the levels as a list. */
function aboutOf(origin: Origin, storePath: boolean): Record<string, unknown> {
  const { precision, sha256, video } = origin;
  return {
    format: formatName,
    kind: origin.levels.length > 0 ? "indices" : "latent",
    model: origin.model,
    source: sourceOf(origin, storePath),
    ...(precision && { precision }),
    ...(sha256 && { sha256 }),
    spatial_factor: origin.spatialFactor,
    levels: origin.levels,
    height: origin.height,
    width: origin.width,
    top: origin.top,
    left: origin.left,
    ctok_version: origin.version,
    ...(video && {
      frames: video.frames,
      temporal_factor: video.temporalFactor,
      ...(video.fps !== undefined && { fps: video.fps }),
      ...(video.start !== undefined && { start: video.start }),
      ...(video.sampleAspect !== undefined && { sample_aspect: video.sampleAspect }),
      ...(video.windows && { windows: tellWindows(video.windows) }),
    }),
  };
}

/** A zod error text: "expected WANTED, found FOUND". */
function unless(wanted: string) {
  return (issue: { readonly input?: unknown }) => {
    return `expected ${wanted}, found ${(JSON.stringify(issue.input) ?? "nothing").slice(0, 80)}`;
  };
}

// Numbers as msgpack writes them, or as safetensors' metadata strings. Their ranges are looked at with the tensors.
const whole = (wanted: string) =>
  z.union([z.int(), z.string().regex(/^(0|[1-9]\d{0,9})$/).transform(Number)], { error: unless(wanted) });
const positive = whole("a positive whole number");
const offset = whole("a whole number");
const real = z.union([z.number(), z.string().regex(/^-?\d+(\.\d+)?(e[+-]?\d+)?$/).transform(Number)], {
  error: unless("seconds"),
});
const text = z.string({ error: unless("a text") });
const numberList = z.string().regex(/^(\d{1,10}(,\d{1,10}){0,30})?$/).transform((s) =>
  s === "" ? [] : s.split(",").map(Number)
);
const originFields = {
  format: z.literal(formatName, { error: unless(`"${formatName}"`) }),
  kind: z.enum(["indices", "latent"], { error: unless('"indices" or "latent"') }),
  model: text,
  source: text,
  precision: z.enum(["f32", "bf16"], { error: unless("f32 or bf16") }).optional(),
  sha256: text.optional(),
  spatial_factor: positive,
  levels: z.union([z.array(z.number()).max(31), numberList], { error: unless("the levels, such as 8,8,8,5,5,5") }),
  height: positive,
  width: positive,
  top: offset,
  left: offset,
  ctok_version: text,
  frames: positive.optional(),
  temporal_factor: positive.optional(),
  fps: text.optional(),
  start: real.optional(),
  sample_aspect: text.optional(),
  windows: text.optional(),
};
const originSchema = z.object(originFields);
const recordSchema = z.object({
  ...originFields,
  tensors: z.record(
    z.string(),
    z.object({
      dtype: z.unknown(),
      shape: z.unknown(),
      data: z.instanceof(Uint8Array, { error: unless("bytes") }),
    }),
  ),
});

function parse<T>(schema: z.ZodType<T>, value: unknown): T {
  const result = schema.safeParse(value);
  if (result.success) return result.data;
  const [first] = result.error.issues;
  throw bad(`${first?.path.join(".") || "the record"}: ${first?.message}`);
}

/** The tokens of a file's keys and tensors, which are called what they are in `about.kind`, "preQuant" and "times". */
function* describedTokens(
  about: z.infer<typeof originSchema>,
  { times, ...stored }: Readonly<Record<string, StoredTensor>>,
): Generator<void, Tokens> {
  if (!Object.hasOwn(stored, about.kind)) {
    throw bad(`expected a tensor named ${about.kind}, found ${Object.keys(stored).join(", ") || "none"}`);
  }
  const unknown = Object.keys(stored).find((key) => key !== about.kind && key !== "preQuant") ??
    (times && about.frames === undefined ? "times" : undefined);
  if (unknown !== undefined) throw bad(`expected no tensors beside ${about.kind} and preQuant, found "${unknown}"`);
  const origin: Origin = {
    model: about.model,
    source: about.source,
    ...(about.precision && { precision: about.precision }),
    ...(about.sha256 !== undefined && { sha256: about.sha256 }),
    spatialFactor: about.spatial_factor,
    levels: about.levels,
    height: about.height,
    width: about.width,
    top: about.top,
    left: about.left,
    version: about.ctok_version,
    ...(about.frames !== undefined && { video: videoOf(about, about.frames, stored[about.kind]!, times) }),
  };
  return yield* tokensOf(origin, stored as Stored, "TOKEN_FILE");
}

function videoOf(
  about: z.infer<typeof originSchema>,
  frames: number,
  { shape }: StoredTensor,
  times: StoredTensor | undefined,
): VideoOrigin {
  if (!about.temporal_factor) throw bad("temporal_factor: expected a positive whole number beside frames, found nothing");
  const windows = about.windows === undefined ? undefined : parseWindows(about.windows, shape.at(-3) ?? 0);
  if (times && times.dtype !== "float64") throw expected("times", "float64", times.dtype, "TOKEN_FILE");
  return {
    temporalFactor: about.temporal_factor,
    frames,
    ...(about.fps !== undefined && { fps: about.fps }),
    ...(about.start !== undefined && { start: about.start + 0 }), // Note: no -0, which has no text of its own
    ...(times && { times: Array.from(times.data as Float64Array) }),
    ...(about.sample_aspect !== undefined && { sampleAspect: about.sample_aspect }),
    ...(windows && { windows }),
  };
}

// ---------------------------------------------------------------------------------------------------------- the three forms

function* containerTokens({ tensors, metadata }: Safetensors, fallback?: FallbackOrigin): Generator<void, Tokens> {
  // PyTorch's own metadata is {"format": "pt"}, or none.
  if (metadata.format?.startsWith("ctok-")) {
    return yield* describedTokens(parse(originSchema, metadata), Object.fromEntries(tensors));
  }
  if (!fallback) {
    const found = JSON.stringify(metadata.format) ?? "nothing";
    throw bad(`format: expected "${formatName}", found ${found}, in a file that does not name its model; ${asks}`);
  }
  const wanted = fallback.levels.length > 0 ? "indices" : "latent";
  const main = tensors.get(wanted) ?? (tensors.size === 1 ? [...tensors.values()][0] : undefined);
  if (!main) {
    throw bad(`expected a tensor named ${wanted}, or one tensor alone, found ${[...tensors.keys()].join(", ") || "none"}`);
  }
  return yield* bareTokens(main, fallback);
}

function* recordTokens(value: unknown): Generator<void, Tokens> {
  const { tensors, ...about } = parse(recordSchema, value);
  const stored = Object.entries(tensors).map(([key, { dtype, shape, data }]) => {
    return [key, storedTensor(`tensors.${key}`, dtype, shape, data)];
  });
  return yield* describedTokens(about, Object.fromEntries(stored));
}

const asks = "say which: --model, or decodeTokens' fallback";

/** A missing batch is one. */
function* bareTokens(array: StoredTensor, fallback: FallbackOrigin | undefined): Generator<void, Tokens> {
  if (!fallback) throw bad(`expected a file that names its model, found a bare .npy array, which does not; ${asks}`);
  const { temporalFactor = 1, ...known } = fallback;
  const rank = (isFloat(array) ? 4 : 3) + (temporalFactor > 1 ? 1 : 0);
  const main: StoredTensor = array.shape.length === rank - 1 ? { ...array, shape: [1, ...array.shape] } : array;
  const isVideo = main.shape.length === (isFloat(main) ? 5 : 4);
  const [gridFrames = 0, gridHeight = 0, gridWidth = 0] = main.shape.slice(-3);
  const origin: Origin = {
    ...{ height: gridHeight * known.spatialFactor, width: gridWidth * known.spatialFactor, top: 0, left: 0 },
    ...(isVideo && { video: { temporalFactor, frames: (gridFrames - 1) * temporalFactor + 1 } }),
    ...known,
  };
  return yield* tokensOf(origin, isFloat(main) ? { latent: main } : { indices: main }, "TOKEN_FILE");
}
