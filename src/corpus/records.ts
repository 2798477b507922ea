/**
 * What a shard says of each sample beside its tokens, as a plain record for JSON: where it came from and where the
 * picture lies in the token grid. The names are those of token files (docs/token_formats.md) and read by the same code;
 * those that all samples of a corpus share come from its facts, so that whoever makes a shard writes the same. Checks
 * on the way in and on the way out are the same ones. Called by all formats/.
 */
import { z } from "zod";
import { expected, messageOf, TokenizerError } from "../errors.ts";
import { narrowed, type NarrowType } from "../tokens/narrow.ts";
import type { Origin } from "../tokens/origin.ts";
import { tellQuantizer } from "../tokens/quantizer.ts";
import type { StoredTensor } from "../tokens/stored.ts";
import { finish, storedParts, type Tokens } from "../tokens/tensor.ts";
import { aboutOf, describedTokens } from "../tokens/tokenfile.ts";
import type { CorpusFacts, TokenDType } from "./format.ts";
import type { Sample, SampleFacts } from "./item.ts";

/** Plain values for JSON and tables: numbers, texts, booleans and lists. */
export type RecordKeys = Readonly<Record<string, unknown>>;

/** A sample in the form in which formats store it. */
export interface StoredSample {
  readonly key: string;
  /** The tokens in the corpus's dtype, with a batch axis of 1. */
  readonly tensor: StoredTensor;
  readonly record: RecordKeys;
  readonly sidecars: Sample["sidecars"];
}

/** Name of each dtype in the formats that store arrays. */
export const storedNames: Readonly<Record<TokenDType, NarrowType>> = {
  uint16: "uint16",
  int32: "int32",
  bf16: "bfloat16",
  f16: "float16",
  f32: "float32",
};

/** Keys of a token file that differ from sample to sample; all others are the corpus's. */
const ownKeys = ["height", "width", "top", "left", "frames", "fps", "start", "sample_aspect", "windows"];

const whole = z.int().nonnegative();
const own = Object.fromEntries(ownKeys.map((key) => [key, z.unknown().optional()]));
const recordSchema = z.strictObject({
  key: z.string(),
  file_name: z.string(),
  original_height: whole.min(1),
  original_width: whole.min(1),
  crop_top: whole.optional(),
  crop_left: whole.optional(),
  flipped: z.boolean().optional(),
  bucket: z.string().optional(),
  first_frame: whole.optional(),
  times: z.array(z.number()).optional(),
  ...own, // looked at with the tensor
});

/** Keys and values that all samples of a corpus have in common. */
export function commonKeys(facts: CorpusFacts): RecordKeys {
  const { model, source, sha256, precision, spatialFactor, quantizer, version } = facts;
  const video = facts.isVideo ? { temporalFactor: facts.temporalFactor, frames: 1 } : undefined;
  const anywhere = { height: 1, width: 1, top: 0, left: 0 };
  const about = aboutOf({
    ...{ model, source, sha256, spatialFactor, version, ...anywhere },
    ...(precision && { precision }),
    ...(quantizer && { quantizer }),
    ...(video && { video }),
  }, false);
  return Object.fromEntries(Object.entries(about).filter(([key]) => !ownKeys.includes(key)));
}

/**
 * Converts a sample to the corpus's dtype and makes its record. Throws SHAPE where tokens, facts and corpus contradict
 * each other or a name cannot be used in a shard, VALUE for an element that the dtype cannot hold.
 */
export function storedSample(sample: Sample, facts: CorpusFacts): StoredSample {
  const { key, tokens, sidecars } = sample;
  checkNames(sample);
  checkOrigin(key, tokens.origin, facts);
  const { indices, latent } = checkedParts(key, tokens), main = indices ?? latent!;
  if (main.shape[0] !== 1) throw expected(`${key}: tokens`, "one picture or clip, [1, ...]", main.shape, "SHAPE");
  const about = Object.entries(aboutOf(tokens.origin, false)).filter(([name]) => ownKeys.includes(name));
  const { times } = tokens.origin.video ?? {};
  const record = { ...factKeys(key, sample.facts), ...Object.fromEntries(about), ...(times && { times }) };
  checkFacts(sample);
  return { key, tensor: narrowed(`${key}: tokens`, main, storedNames[facts.dtype]), record, sidecars };
}

/** Checks a record as the readers of token files do, so that nothing is written that could not be read. */
function checkedParts(key: string, tokens: Tokens): ReturnType<typeof storedParts> {
  try {
    return storedParts(tokens);
  } catch (cause) {
    throw cause instanceof TokenizerError
      ? new TokenizerError(cause.code, `${key}: ${cause.message}`, { cause })
      : cause;
  }
}

/** The sample of a record and a tensor that may lack the batch axis. Throws TOKEN_FILE and VALUE, naming the key. */
export function sampleOf(
  record: unknown,
  tensor: StoredTensor,
  sidecars: Sample["sidecars"],
  facts: CorpusFacts,
): Sample {
  const { key, times, ...told } = parseRecord(record);
  try {
    const wanted = storedNames[facts.dtype];
    if (tensor.dtype !== wanted) throw expected("tokens", `${wanted}, as of the corpus`, tensor.dtype, "TOKEN_FILE");
    const kind = facts.quantizer ? "indices" : "latent", rank = (facts.quantizer ? 3 : 4) + (facts.isVideo ? 1 : 0);
    const main = { ...tensor, shape: tensor.shape.length === rank - 1 ? [1, ...tensor.shape] : tensor.shape };
    if (main.shape.length !== rank || main.shape[0] !== 1) {
      throw expected("tokens", `${rank - 1} axes, or 1 and these`, tensor.shape, "TOKEN_FILE");
    }
    const keys = Object.fromEntries(Object.entries(told).filter(([name]) => ownKeys.includes(name)));
    if (facts.isVideo !== (keys.frames !== undefined)) {
      throw expected("frames", facts.isVideo ? "those of a clip" : "none beside a picture", keys.frames, "TOKEN_FILE");
    }
    const at = times && { dtype: "float64", shape: [times.length], data: Float64Array.from(times) } as const;
    const tokens = finish(
      describedTokens({ ...commonKeys(facts), ...keys }, { [kind]: main, ...(at && { times: at }) }),
    );
    const sample = { key, tokens, facts: toldFacts(told, tokens.origin), sidecars };
    checkNames(sample);
    return sample;
  } catch (cause) {
    const code = cause instanceof TokenizerError && cause.code === "VALUE" ? "VALUE" : "TOKEN_FILE";
    throw new TokenizerError(code, `${key}: ${messageOf(cause)}`, { cause });
  }
}

/**
 * The record of a whole one, which has the corpus's keys as well, and other keys that only readers elsewhere want.
 * Throws TOKEN_FILE where one of the corpus's keys is another.
 */
export function ownRecord(whole: RecordKeys, facts: CorpusFacts, others: readonly string[] = []): RecordKeys {
  const common = commonKeys(facts), name = String(whole.key);
  for (const [key, wanted] of Object.entries(common)) {
    const [want, found] = [wanted, whole[key]].map((value) => JSON.stringify(value) ?? "nothing");
    if (want !== found) throw new TokenizerError("TOKEN_FILE", `${name}: ${key}: expected ${want}, found ${found}`);
  }
  return Object.fromEntries(
    Object.entries(whole).filter(([key]) => !Object.hasOwn(common, key) && !others.includes(key)),
  );
}

function parseRecord(value: unknown) {
  const result = recordSchema.safeParse(value);
  if (result.success) return result.data;
  const [issue] = result.error.issues, key = (Object(value) as { key?: unknown }).key;
  const place = [...(key === undefined ? [] : [String(key)]), ...issue!.path].join(".") || "record";
  throw new TokenizerError("TOKEN_FILE", `${place}: ${issue!.message.replace(/^Invalid \w+: /, "")}`);
}

function factKeys(key: string, facts: SampleFacts): RecordKeys {
  return {
    key,
    file_name: facts.fileName,
    original_height: facts.originalHeight,
    original_width: facts.originalWidth,
    ...(facts.cropTop !== undefined && { crop_top: facts.cropTop }),
    ...(facts.cropLeft !== undefined && { crop_left: facts.cropLeft }),
    ...(facts.isFlipped !== undefined && { flipped: facts.isFlipped }),
    ...(facts.bucket !== undefined && { bucket: facts.bucket }),
    ...(facts.firstFrame !== undefined && { first_frame: facts.firstFrame }),
  };
}

function toldFacts(told: Omit<z.infer<typeof recordSchema>, "key">, { height, width, video }: Origin): SampleFacts {
  return {
    fileName: told.file_name,
    height,
    width,
    originalHeight: told.original_height,
    originalWidth: told.original_width,
    ...(told.crop_top !== undefined && { cropTop: told.crop_top }),
    ...(told.crop_left !== undefined && { cropLeft: told.crop_left }),
    ...(told.flipped !== undefined && { isFlipped: told.flipped }),
    ...(told.bucket !== undefined && { bucket: told.bucket }),
    ...(video && { numFrames: video.frames }),
    ...(video?.fps !== undefined && { fps: video.fps }),
    ...(told.first_frame !== undefined && { firstFrame: told.first_frame }),
  };
}

/** Keys and fields: names that can stand in a tar, in a table and as a file, so without a path. */
const keyPattern = /^[^./\\\p{Cc}\p{Surrogate}][^./\\\p{Cc}\p{Surrogate}]*$/u;
const fieldPattern = /^[^./\\\p{Cc}\p{Surrogate}][^/\\\p{Cc}\p{Surrogate}]*$/u;

function checkNames({ key, sidecars }: Pick<Sample, "key" | "sidecars">): void {
  if (!keyPattern.test(key)) {
    throw expected("key", "characters with neither a dot, a slash nor a control character", key, "SHAPE");
  }
  const fields = sidecars.map(({ field }) => field);
  const odd = fields.find((field, i) => !fieldPattern.test(field) || fields.indexOf(field) !== i);
  if (odd !== undefined) {
    throw expected(`${key}: sidecars`, "fields such as txt, each once, without a slash", odd, "SHAPE");
  }
}

/**
 * Facts that stand in the origin too are written once, from there; the rate, which its frames' times tell better,
 * unasked.
 */
function checkFacts({ key, tokens, facts }: Sample): void {
  const { height, width, video } = tokens.origin;
  const pairs: [string, unknown, unknown][] = [["height", height, facts.height], ["width", width, facts.width]];
  if (facts.numFrames !== undefined) pairs.push(["numFrames", video?.frames, facts.numFrames]);
  for (const [name, wanted, found] of pairs) {
    if (wanted !== found) throw expected(`${key}: ${name}`, `${wanted}, as of its tokens`, found, "SHAPE");
  }
  const result = recordSchema.safeParse(factKeys(key, facts));
  if (result.success) return;
  const [issue] = result.error.issues;
  throw new TokenizerError(
    "SHAPE",
    `${key}: ${issue!.path.join(".")}: ${issue!.message.replace(/^Invalid \w+: /, "")}`,
  );
}

/** Throws SHAPE unless the tokens are of the corpus's model, and of a picture or a clip as all its tokens are. */
function checkOrigin(key: string, origin: Tokens["origin"], facts: CorpusFacts): void {
  const pairs: [string, unknown, unknown][] = [
    ["model", facts.model, origin.model],
    ["sha256", facts.sha256, origin.sha256],
    ["precision", facts.precision ?? origin.precision, origin.precision],
    ["quantizer", tellQuantizer(facts.quantizer), tellQuantizer(origin.quantizer)],
    ["spatialFactor", facts.spatialFactor, origin.spatialFactor],
    ["temporalFactor", facts.isVideo ? facts.temporalFactor : undefined, origin.video?.temporalFactor],
  ];
  for (const [name, wanted, found] of pairs) {
    if (wanted !== found) throw expected(`${key}: ${name}`, `${wanted}, as of the corpus`, found, "SHAPE");
  }
}
