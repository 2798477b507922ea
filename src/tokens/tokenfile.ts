/**
 * The bytes of a token file and back. One of three forms, told apart by content when read:
 *   safetensors  `indices` U16 [B, (t,) h, w] (I32 above 65536 codes) or `latent` F32 [B, C, (t,) h, w], `preQuant`
 *                F32 and, of frames at a varying rate, `times` F64 where present, and the origin as metadata strings.
 *                The default.
 *   msgpack      the same arrays and origin as one self-describing record, for queues and databases.
 *   npy          only the main array, for NumPy; the reader must say which model made it.
 * Codes are never stored: the indices give them back exactly. Arrays of NumPy and PyTorch are read too, of any type
 * that holds what is needed. Nothing is written that would not be read. docs/token_formats.md has every byte; files are
 * in store.ts.
 */
import { z } from "zod";
import { isBytes, wholeFileBytes } from "../bytes.ts";
import { expected, nameOf, TokenizerError } from "../errors.ts";
import { msgpack } from "./formats/msgpack.ts";
import { npy } from "./formats/npy.ts";
import { mostHeaderBytes, safetensors } from "./formats/safetensors.ts";
import { type Origin, parseWindows, sourceOf, tellWindows, type VideoOrigin } from "./origin.ts";
import { channelsOf, codebookSize, type Quantizer } from "./quantizer.ts";
import { isFloat, type StoredTensor, type TokenForm } from "./stored.ts";
import {
  finish,
  formatName,
  isContinued,
  olderFormat,
  quantizerOf,
  type Stored,
  storedParts,
  type TokenPart,
  type Tokens,
  tokensOf,
  unreadable,
} from "./tensor.ts";

/** All forms of token files; a file is read as the first that fits. */
const forms = { safetensors, npy, msgpack } satisfies Record<string, TokenForm>;
export type TokenFormat = keyof typeof forms;
export const tokenFormats: readonly TokenFormat[] = Object.freeze(Object.keys(forms) as TokenFormat[]);

/**
 * The origin of a bare array, which has none in its file. Without the picture's size and place, the picture is taken to
 * fill the whole token grid.
 */
export type FallbackOrigin = Omit<Origin, "height" | "width" | "top" | "left"> & Partial<Origin> & {
  temporalFactor?: number;
};

export interface StoreOptions {
  /** Keep the path that the model was opened from, which tells of folders here. Default: only the model's name. */
  storePath?: boolean;
}
/**
 * The bytes of a token file. Throws ARGUMENT for an unknown format, VALUE for an index outside the codebook, SHAPE when
 * the tensors and the origin contradict each other, UNSUPPORTED for what decodeTokens would refuse to read: over 2 GiB,
 * or windows so unlike each other that they fill the header.
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
  return forms[format].encode({ about: aboutOf(origin, storePath), tensors: stored });
}

/**
 * Tokens equal to those encoded, in memory of their own. `name` is for error texts; `fallback` says where an array came
 * from that does not say it itself (.npy, or safetensors without ctok's metadata: the tensor named `indices` or
 * `latent`, or the only one) and is ignored otherwise. Indices may be whole numbers of any type, latents floats of any
 * type.
 * Throws TOKEN_FILE when the bytes are no token file, or a damaged one.
 */
export function decodeTokens(bytes: Uint8Array | ArrayBuffer, name: string, fallback?: FallbackOrigin): Tokens {
  if (!isBytes(bytes)) {
    throw expected("bytes", "those of a token file (loadTokens takes paths and Blobs)", nameOf(bytes));
  }
  checkFallback(fallback);
  return finish(decoding(bytes instanceof Uint8Array ? bytes : new Uint8Array(bytes), name, fallback));
}

/** Options passed in its place are told as such. */
export function checkFallback(fallback: FallbackOrigin | undefined): void {
  if (fallback === undefined) return;
  const { model, source, spatialFactor, quantizer } = Object(fallback) as Partial<FallbackOrigin>;
  if (typeof model !== "string" || typeof source !== "string" || !Number.isInteger(spatialFactor)) {
    throw expected("fallback", "an origin { model, source, spatialFactor, quantizer, version, … }", nameOf(fallback));
  }
  if ("levels" in fallback) {
    throw expected("fallback.levels", "none: quantizer, as fsq(levels) gives it", fallback.levels);
  }
  if (quantizer !== undefined) codebookSize(quantizer);
}

/** Tokens of the bytes of a file, in slices; see decodeTokens. */
export function* decoding(
  bytes: Uint8Array,
  name: string,
  fallback: FallbackOrigin | undefined,
): Generator<void, Tokens> {
  const format = tokenFormats.find((format) => forms[format].fits(bytes));
  if (!format) {
    const start = Array.from(bytes.subarray(0, 9), (byte) => byte.toString(16).padStart(2, "0")).join(" ");
    const found = bytes.length === 0 ? "an empty file" : `${bytes.length} bytes that start with ${start}`;
    throw bad(`${name}: expected a token file (${tokenFormats.join(", ")}), found ${found}`);
  }
  try {
    const { about, tensors } = forms[format].decode(bytes);
    return yield* about ? describedTokens(about, tensors) : bareTokens(tensors, fallback, format);
  } catch (cause) {
    throw unreadable(name, cause);
  }
}

function bad(message: string): TokenizerError {
  return new TokenizerError("TOKEN_FILE", message);
}

// -------------------------------------------------------------- the origin as a file's keys

/** The origin as plain values: numbers, texts, and the levels as a list. */
export function aboutOf(origin: Origin, storePath: boolean): Record<string, unknown> {
  const { precision, sha256, quantizer, video } = origin;
  return {
    format: formatName,
    kind: quantizer ? "indices" : "latent",
    model: origin.model,
    source: sourceOf(origin, storePath),
    ...(precision && { precision }),
    ...(sha256 && { sha256 }),
    spatial_factor: origin.spatialFactor,
    quantizer: quantizer?.kind ?? "none",
    ...(quantizer?.kind === "fsq"
      ? { levels: quantizer.levels }
      : quantizer && { codebook_size: codebookSize(quantizer), code_channels: channelsOf(quantizer) }),
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

/** A zod message for a failed check: "expected WANTED, found FOUND". */
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
const aboutSchema = z.object({
  format: z.enum([formatName, olderFormat], { error: unless(`"${formatName}"`) }),
  kind: z.enum(["indices", "latent"], { error: unless('"indices" or "latent"') }),
  model: text,
  source: text,
  precision: z.enum(["f32", "bf16"], { error: unless("f32 or bf16") }).optional(),
  sha256: text.optional(),
  spatial_factor: positive,
  quantizer: z.enum(["none", "fsq", "lookup", "sign"], { error: unless('"none", "fsq", "lookup" or "sign"') })
    .optional(),
  levels: z.union([z.array(z.number()).max(31), numberList], { error: unless("the levels, such as 8,8,8,5,5,5") })
    .optional(),
  codebook_size: positive.optional(),
  code_channels: positive.optional(),
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
});
type About = z.infer<typeof aboutSchema>;

function parse(value: unknown): About {
  const result = aboutSchema.safeParse(value);
  if (result.success) return result.data;
  const [first] = result.error.issues;
  throw bad(`${first?.path.join(".") || "the record"}: ${first?.message}`);
}

/** The keys that stand beside each kind of quantizer. */
const quantizerKeys = {
  none: [],
  fsq: ["levels"],
  lookup: ["codebook_size", "code_channels"],
  sign: ["codebook_size", "code_channels"],
} as const;

/**
 * The quantizer that a file's keys tell of; its numbers are looked at with the tensors. An older file has levels alone.
 */
function quantizerIn(about: About): { readonly quantizer?: Quantizer } {
  const { format, levels, codebook_size: size, code_channels: channels } = about;
  const isOlder = format === olderFormat, kind = isOlder ? "fsq" : about.quantizer;
  if (kind === undefined) throw bad('quantizer: expected "none", "fsq", "lookup" or "sign", found nothing');
  for (const key of ["levels", "codebook_size", "code_channels"] as const) {
    const isWanted = (quantizerKeys[kind] as readonly string[]).includes(key),
      found = JSON.stringify(about[key]) ?? "nothing";
    if (isWanted === (about[key] !== undefined)) continue;
    throw bad(`${key}: expected ${isWanted ? "it" : "none"} beside quantizer ${kind}, found ${found}`);
  }
  if (isOlder) return quantizerOf(levels!);
  if (kind === "none") return {};
  const quantizer: Quantizer = kind === "fsq"
    ? { kind, levels: levels! }
    : kind === "lookup"
    ? { kind, size: size!, channels: channels! }
    : { kind, channels: channels! };
  if (kind === "sign" && size !== codebookSize(quantizer)) {
    throw expected("codebook_size", `${codebookSize(quantizer)}, as of ${channels} signs`, size, "TOKEN_FILE");
  }
  return { quantizer };
}
/**
 * Makes tokens from a file's keys and tensors. Tensors are named by the key `kind`, "preQuant" and "times". Throws
 * TOKEN_FILE for missing or wrong keys and where they do not fit the tensors; VALUE for an index outside the codebook.
 */
export function* describedTokens(
  keys: Readonly<Record<string, unknown>>,
  { times, ...stored }: Readonly<Record<string, StoredTensor>>,
): Generator<void, Tokens> {
  const about = parse(keys);
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
    ...quantizerIn(about),
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
  about: About,
  frames: number,
  { shape }: StoredTensor,
  times: StoredTensor | undefined,
): VideoOrigin {
  if (!about.temporal_factor) {
    throw bad("temporal_factor: expected a positive whole number beside frames, found nothing");
  }
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

const asks = "say which: --model, or decodeTokens' fallback";

/**
 * Takes the arrays of a file that does not name its model: one that has the name of the model's kind of tokens, or the
 * only one. A batch axis is added where there is none.
 */
function* bareTokens(
  tensors: Readonly<Record<string, StoredTensor>>,
  fallback: FallbackOrigin | undefined,
  format: TokenFormat,
): Generator<void, Tokens> {
  if (!fallback) {
    throw bad(
      `format: expected "${formatName}", of a file that names its model, found a bare ${format} array; ${asks}`,
    );
  }
  const { temporalFactor = 1, ...known } = fallback, all = Object.values(tensors);
  const wanted = known.quantizer ? "indices" : "latent";
  const array = Object.hasOwn(tensors, wanted) ? tensors[wanted] : all.length === 1 ? all[0] : undefined;
  if (!array) {
    throw bad(
      `expected a tensor named ${wanted}, or one tensor alone, found ${Object.keys(tensors).join(", ") || "none"}`,
    );
  }
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
