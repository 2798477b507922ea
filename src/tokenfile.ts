/**
 * Token files. One of three forms, told apart by content when read:
 *   safetensors  `indices` U16 [B, (t,) h, w] (I32 above 65536 codes) or `latent` F32 [B, C, (t,) h, w], `preQuant` F32 where
 *                present, and the origin as metadata strings; of a video also its frames and windows. The default: it names its model, and other tools open it.
 *   msgpack      the same arrays and origin as one self-describing record, for queues and databases.
 *   npy          only the main array, for NumPy; the reader must say which model made it.
 * Codes are never stored: indices and levels give them back exactly.
 */
import { extname } from "node:path";
import { Packr } from "msgpackr/pack"; // the main entry also loads a native addon, about a sixth of the time of importing ctok
import { z } from "zod";
import { expected, messageOf, TokenizerError } from "./errors.ts";
import { readWholeFile, writeFileAtomic } from "./files.ts";
import { checkIndices, codebookSize, codesFromIndices, indicesFromCodes } from "./fsq.ts";
import { decodeSafetensors, encodeSafetensors } from "./safetensors.ts";
import { type DType, elementsOf, type Origin, Tensor, type TensorLike, Tokens, type VideoOrigin, viewAs } from "./tensor.ts";

export const tokenFormats = ["safetensors", "npy", "msgpack"] as const;
export type TokenFormat = typeof tokenFormats[number];

/** What a bare .npy lacks. Without the picture's size and place, the picture fills the whole token grid. */
export type FallbackOrigin = Omit<Origin, "height" | "width" | "top" | "left"> & Partial<Origin> & {
  temporalFactor?: number;
};

const formatName = "ctok-tokens-1";

/** The arrays that a file holds: `indices` or `latent`, perhaps `preQuant`. */
type Stored = Partial<Record<"indices" | "latent" | "preQuant", TensorLike>>;

/**
 * The bytes of a token file. Throws ARGUMENT for an unknown format, VALUE for an index outside the codebook, SHAPE when the
 * tensors and the origin contradict each other.
 */
export function encodeTokens(tokens: Tokens, format: TokenFormat): Uint8Array {
  if (!tokenFormats.includes(format)) throw expected("format", `one of ${tokenFormats.join(", ")}`, format);
  const { origin } = tokens;
  const stored = storedParts(tokens);
  checkParts(origin, stored, "SHAPE");
  if (format === "npy") return encodeNpy(stored.indices ?? stored.latent!);
  const about = {
    format: formatName,
    kind: origin.levels.length > 0 ? "indices" : "latent",
    model: origin.model,
    source: origin.source,
    spatial_factor: origin.spatialFactor,
    levels: origin.levels,
    height: origin.height,
    width: origin.width,
    top: origin.top,
    left: origin.left,
    ctok_version: origin.version,
    ...(origin.video && describeVideo(origin.video)),
  };
  if (format === "safetensors") {
    const strings = Object.entries(about).map(([key, value]) => [key, String(value)]); // levels become "8,8,8,5,5,5"
    return encodeSafetensors(stored, Object.fromEntries(strings));
  }
  const tensors = Object.entries(stored).map(([key, { dtype, shape, data }]) => {
    return [key, { dtype, shape, data: new Uint8Array(data.buffer, data.byteOffset, data.byteLength) }];
  });
  return new Uint8Array(packr.pack({ ...about, tensors: Object.fromEntries(tensors) }));
}

/**
 * Tokens equal to those encoded, with codes recomputed. `name` is for error texts; `fallback` says where a bare .npy came
 * from and is ignored otherwise. Throws TOKEN_FILE when the bytes are no token file, or a damaged one.
 */
export function decodeTokens(bytes: Uint8Array, name: string, fallback?: FallbackOrigin): Tokens {
  try {
    // Byte 8 of a safetensors file opens its JSON; in a ctok record it is a letter of "format", the first key.
    if (startsWith(bytes, npyMagic)) return decodeBare(decodeNpy(bytes), fallback);
    if (bytes[8] === 0x7b) return decodeContainer(bytes);
    if (isMap(bytes[0])) return decodeRecord(bytes);
  } catch (cause) {
    const detail = cause instanceof TokenizerError ? cause.detail : undefined;
    throw new TokenizerError("TOKEN_FILE", `${name}: ${messageOf(cause)}`, { detail, cause });
  }
  const start = Array.from(bytes.subarray(0, 9), (byte) => byte.toString(16).padStart(2, "0")).join(" ");
  const found = bytes.length === 0 ? "an empty file" : `${bytes.length} bytes that start with ${start}`;
  throw bad(`${name}: expected a token file (${tokenFormats.join(", ")}), found ${found}`);
}

/**
 * Writes a token file, whole or not at all. The format, unless given, follows the extension; safetensors for any other.
 * Throws what encodeTokens throws, and FILE_IO.
 */
export async function saveTokens(path: string, tokens: Tokens, format: TokenFormat = formatOf(path)): Promise<void> {
  await writeFileAtomic(path, encodeTokens(tokens, format));
}

/** Reads a token file of any format; see decodeTokens. Throws FILE_MISSING, FILE_IO, TOKEN_FILE. */
export async function loadTokens(path: string, fallback?: FallbackOrigin): Promise<Tokens> {
  return decodeTokens(await readWholeFile(path), path, fallback);
}

/** A video's frames in plain values; windows as "tokens/frames/before" each. */
function describeVideo(v: VideoOrigin): Record<string, string | number> {
  return {
    frames: v.frames,
    temporal_factor: v.temporalFactor,
    ...(v.fps && { fps: v.fps }),
    ...(v.windows && { windows: v.windows.map((w) => `${w.tokens}/${w.frames}/${w.before}`).join(" ") }),
  };
}

function formatOf(path: string): TokenFormat {
  const extension = extname(path).slice(1).toLowerCase();
  return tokenFormats.find((format) => format === extension) ?? "safetensors";
}

// ------------------------------------------------------------------------------------------- what all three forms share

function storedParts(tokens: Tokens): Stored {
  const { levels } = tokens.origin;
  if (levels.length === 0) return { latent: tokens.latent };
  const indices = tokens.parts.includes("indices") ? tokens.indices : indicesFromCodes(tokens.codes, levels);
  checkIndices("indices", indices, levels);
  const main: TensorLike = codebookSize(levels) <= 65536
    ? { dtype: "uint16", shape: indices.shape, data: Uint16Array.from(indices.data) }
    : indices;
  return tokens.parts.includes("preQuant") ? { indices: main, preQuant: tokens.preQuant } : { indices: main };
}

function tokensFrom(origin: Origin, stored: Stored): Tokens {
  checkParts(origin, stored, "TOKEN_FILE");
  const part = <D extends DType>(kind: keyof Stored, { dtype, shape, data }: TensorLike<D>) =>
    new Tensor(dtype, shape, data, { kind, origin });
  if (stored.latent) return new Tokens(origin, { latent: part("latent", stored.latent) });
  const { shape, data } = stored.indices!;
  const indices = part("indices", { dtype: "int32", shape, data: Int32Array.from(data) });
  const codes = codesFromIndices(indices, origin.levels);
  return new Tokens(origin, {
    indices,
    codes: new Tensor("float32", codes.shape, codes.data, { kind: "codes", origin }),
    ...(stored.preQuant && { preQuant: part("preQuant", stored.preQuant) }),
  });
}

/** The tensors fit the origin: which there are, types, ranks, channels, and the picture inside the grid. */
function checkParts(origin: Origin, stored: Stored, code: "SHAPE" | "TOKEN_FILE"): void {
  const { levels, spatialFactor, height, width, top, left, video } = origin;
  const { indices, latent, preQuant } = stored;
  const fail = (what: string, wanted: string, found: unknown) => expected(what, wanted, found, code);
  const about = (t: TensorLike | undefined) => t ? `${t.dtype} [${t.shape.join(", ")}]` : "none";
  if (levels.length === 0) {
    if (indices || preQuant) throw fail("levels", "those of the codebook that the indices count in", "none");
    if (latent?.dtype !== "float32" || latent.shape.length !== (video ? 5 : 4)) {
      throw fail("latent", `float32 [B, C, ${video ? "t, " : ""}h, w]`, about(latent));
    }
  } else {
    if (latent) throw fail("levels", "none, as the tokens are a continuous latent", levels);
    const isIndices = (indices?.dtype === "uint16" || indices?.dtype === "int32") &&
      indices.shape.length === (video ? 4 : 3);
    if (!isIndices) throw fail("indices", `uint16 or int32 [B, ${video ? "t, " : ""}h, w]`, about(indices));
    const [batch, ...grid] = indices.shape;
    const wanted = `float32 [${[batch, levels.length, ...grid].join(", ")}]`;
    if (preQuant && about(preQuant) !== wanted) throw fail("preQuant", wanted, about(preQuant));
  }
  const [gridFrames = 0, gridHeight = 0, gridWidth = 0] = (indices ?? latent!).shape.slice(-3);
  if (video) checkVideo(video, gridFrames, fail);
  const isInside = top >= 0 && left >= 0 && top + height <= gridHeight * spatialFactor &&
    left + width <= gridWidth * spatialFactor;
  if (!isInside) {
    const found = `${height} by ${width} at ${top}, ${left}`;
    throw fail("picture", `to lie inside ${gridHeight * spatialFactor} by ${gridWidth * spatialFactor} pixels`, found);
  }
}

/** Windows (or one seamless sequence) add up to the token frames, and the real frames lie inside them: none is missing or doubled. */
function checkVideo(
  v: VideoOrigin,
  gridFrames: number,
  fail: (what: string, wanted: string, found: unknown) => TokenizerError,
): void {
  const windows = v.windows ?? [{ tokens: gridFrames, frames: v.frames, before: 0 }];
  const sum = (key: "tokens" | "frames") => windows.reduce((total, w) => total + w[key], 0);
  if (sum("tokens") !== gridFrames) {
    throw fail("windows", `${gridFrames} token frames in all, as the tensor has`, sum("tokens"));
  }
  if (sum("frames") !== v.frames) throw fail("windows", `${v.frames} frames in all`, sum("frames"));
  const wrong = windows.find((w) => w.frames < 1 || w.before + w.frames > (w.tokens - 1) * v.temporalFactor + 1);
  if (wrong) throw fail("windows", `frames that ${wrong.tokens} token frames hold`, `${wrong.before} + ${wrong.frames}`);
}

function bad(message: string): TokenizerError {
  return new TokenizerError("TOKEN_FILE", message);
}

function startsWith(bytes: Uint8Array, prefix: readonly number[]): boolean {
  return prefix.every((byte, i) => bytes[i] === byte);
}

// ---------------------------------------------------------------------------------------------- the origin, checked by zod

/** A zod error text: "expected WANTED, found FOUND". */
function unless(wanted: string) {
  return (issue: { readonly input?: unknown }) => {
    return `expected ${wanted}, found ${(JSON.stringify(issue.input) ?? "nothing").slice(0, 80)}`;
  };
}

// Numbers as msgpack writes them, or as safetensors' metadata strings.
const number = (wanted: string, least: number) =>
  z.union([z.number(), z.string().regex(/^\d{1,10}$/).transform(Number)], { error: unless(wanted) })
    .refine((n) => Number.isInteger(n) && n >= least && n <= 0xffff_ffff, { error: unless(wanted) });
const positive = number("a positive whole number", 1);
const offset = number("a whole number", 0);
const text = z.string({ error: unless("a text") });
const numberList = z.string().regex(/^(\d{1,10}(,\d{1,10})*)?$/).transform((s) => s === "" ? [] : s.split(",").map(Number));
const originFields = {
  format: z.literal(formatName, { error: unless(`"${formatName}"`) }),
  kind: z.enum(["indices", "latent"], { error: unless('"indices" or "latent"') }),
  model: text,
  source: text,
  spatial_factor: positive,
  levels: z.union([z.array(z.number()), numberList], { error: unless("the levels, such as 8,8,8,5,5,5") }),
  height: positive,
  width: positive,
  top: offset,
  left: offset,
  ctok_version: text,
  frames: positive.optional(),
  temporal_factor: positive.optional(),
  fps: text.optional(),
  windows: z.string().regex(/^(\d+\/\d+\/\d+)( \d+\/\d+\/\d+)*$/, {
    error: unless('"tokens/frames/before" for each window'),
  }).optional(),
};
const originSchema = z.object(originFields);
const recordSchema = z.object({
  ...originFields,
  tensors: z.record(
    z.string(),
    z.object({
      dtype: z.enum(["uint16", "int32", "float32"], { error: unless("uint16, int32 or float32") }),
      shape: z.array(z.int().positive(), { error: unless("a list of positive whole numbers") }),
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

function originOf(about: z.infer<typeof originSchema>, stored: Stored): Origin {
  const { model, source, levels, height, width, top, left } = about;
  if (!(about.kind in stored)) {
    throw bad(`expected a tensor named ${about.kind}, found ${Object.keys(stored).join(", ") || "none"}`);
  }
  const unknown = Object.keys(stored).find((key) => key !== about.kind && key !== "preQuant");
  if (unknown !== undefined) throw bad(`expected no tensors beside ${about.kind} and preQuant, found "${unknown}"`);
  if (levels.length > 0) codebookSize(levels);
  return {
    model,
    source,
    spatialFactor: about.spatial_factor,
    levels,
    height,
    width,
    top,
    left,
    version: about.ctok_version,
    ...(about.frames !== undefined && { video: videoOf(about, about.frames) }),
  };
}

function videoOf(about: z.infer<typeof originSchema>, frames: number): VideoOrigin {
  if (!about.temporal_factor) throw bad("temporal_factor: expected a positive whole number beside frames, found nothing");
  const windows = about.windows?.split(" ").map((w) => {
    const [tokens, real, before] = w.split("/").map(Number) as [number, number, number];
    return { tokens, frames: real, before };
  });
  return {
    temporalFactor: about.temporal_factor,
    frames,
    ...(about.fps && { fps: about.fps }),
    ...(windows && { windows }),
  };
}

// ------------------------------------------------------------------------------------------------ safetensors and msgpack

function decodeContainer(bytes: Uint8Array): Tokens {
  const { tensors, metadata } = decodeSafetensors(bytes);
  const stored: Stored = Object.fromEntries(tensors);
  return tokensFrom(originOf(parse(originSchema, metadata), stored), stored);
}

// Plain maps and byte strings: what any msgpack reader knows. No record or typed-array extension.
const packr = new Packr({ useRecords: false });

function isMap(byte = 0): boolean {
  return (byte & 0xf0) === 0x80 || byte === 0xde || byte === 0xdf;
}

function decodeRecord(bytes: Uint8Array): Tokens {
  const { tensors, ...about } = parse(recordSchema, packr.unpack(bytes));
  const stored: Stored = {};
  for (const [key, { dtype, shape, data }] of Object.entries(tensors)) {
    const wanted = elementsOf(shape) * (dtype === "uint16" ? 2 : 4);
    if (data.byteLength !== wanted) {
      throw bad(`tensors.${key}: expected ${wanted} bytes for ${dtype} [${shape}], found ${data.byteLength}`);
    }
    stored[key as keyof Stored] = { dtype, shape, data: viewAs(dtype, data) };
  }
  return tokensFrom(originOf(about, stored), stored);
}

// --------------------------------------------------------------------------------------------------------------------- npy

const npyMagic = [0x93, 0x4e, 0x55, 0x4d, 0x50, 0x59]; // \x93NUMPY
const npyTypes = { "<u2": "uint16", "<i4": "int32", "<f4": "float32" } as const;

/** NPY 1.0: magic, version, u16 header length, a Python dict padded with spaces to a multiple of 64, the data. */
function encodeNpy({ dtype, shape, data }: TensorLike): Uint8Array {
  const descr = Object.entries(npyTypes).find(([, type]) => type === dtype)![0];
  const dict = `{'descr': '${descr}', 'fortran_order': False, 'shape': (${shape.join(", ")}), }`;
  const headerBytes = Math.ceil((10 + dict.length + 1) / 64) * 64;
  const out = new Uint8Array(headerBytes + data.byteLength);
  out.set([...npyMagic, 1, 0, (headerBytes - 10) & 0xff, (headerBytes - 10) >> 8]);
  out.set(new TextEncoder().encode(dict.padEnd(headerBytes - 11) + "\n"), 10);
  out.set(new Uint8Array(data.buffer, data.byteOffset, data.byteLength), headerBytes);
  return out;
}

function decodeNpy(bytes: Uint8Array): TensorLike {
  if (bytes[6] !== 1 || bytes[7] !== 0) throw bad(`expected NPY version 1.0, found ${bytes[6]}.${bytes[7]}`);
  const dataStart = 10 + (bytes[8] ?? 0) + 256 * (bytes[9] ?? 0);
  const header = new TextDecoder().decode(bytes.subarray(10, dataStart)).trim();
  const field = (pattern: RegExp) => pattern.exec(header)?.[1];
  const descr = field(/'descr':\s*'([^']*)'/);
  const shape = field(/'shape':\s*\(([\d,\s]*)\)/)?.split(",").map((n) => n.trim()).filter(Boolean).map(Number);
  const isRowMajor = /'fortran_order':\s*False/.test(header);
  if (bytes.length < dataStart || !descr || !Object.hasOwn(npyTypes, descr) || !shape || !isRowMajor) {
    throw bad(
      `expected a row-major NPY array of ${Object.keys(npyTypes).join(", ")}, found header ${JSON.stringify(header)}`,
    );
  }
  const dtype = npyTypes[descr as keyof typeof npyTypes];
  const wanted = elementsOf(shape) * (dtype === "uint16" ? 2 : 4), found = bytes.length - dataStart;
  if (wanted !== found || wanted === 0) throw bad(`expected ${wanted} bytes of ${descr} [${shape}], found ${found}`);
  return { dtype, shape, data: viewAs(dtype, bytes, dataStart) };
}

function decodeBare(main: TensorLike, fallback: FallbackOrigin | undefined): Tokens {
  if (!fallback) {
    throw bad(
      "expected a file that names its model, found a bare .npy array, which does not; say which: --model, or decodeTokens' fallback",
    );
  }
  const rank = main.shape.length - (main.dtype === "float32" ? 1 : 0),
    [gridFrames = 0, gridHeight = 0, gridWidth = 0] = main.shape.slice(-3);
  const { spatialFactor, temporalFactor = 1 } = fallback;
  const video = rank === 4 ? { temporalFactor, frames: (gridFrames - 1) * temporalFactor + 1 } : undefined;
  const whole = { height: gridHeight * spatialFactor, width: gridWidth * spatialFactor, top: 0, left: 0 };
  return tokensFrom(
    { ...whole, ...(video && { video }), ...fallback },
    main.dtype === "float32" ? { latent: main } : { indices: main },
  );
}
