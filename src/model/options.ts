/**
 * What callers may pass to a tokenizer: each options type as an interface, whose comments are what editors and
 * declarations show, and beside it the zod schema that checks it (see checks.ts).
 */
import { z } from "zod";
import { kernels } from "../../ffi/layout.ts";
import { type Fields, mostPixels, type PictureLimits, pictureLimits, signal } from "../checks.ts";
import { type HubOptions, hubOptions } from "./fetch.ts";
import type { JobOptions } from "./job.ts";
import { videoOptions } from "../media/clip.ts";
import { isAspect, isFraction } from "../tokens/origin.ts";

const onProgress = z.custom<(part: number) => void>((v) => typeof v === "function", "expected a function").optional();

const maxMemory = z.int().min(1).optional();

/** What readImage takes of the options of a call that reads pictures. */
export function readOptionsOf(
  { limitPixels, limitSeconds, limitMemory, svg, signal }: z.output<typeof autoencodeOptions>,
): z.output<z.ZodObject<typeof pictureLimits>> & { signal: AbortSignal | undefined } {
  return { limitPixels, limitSeconds, limitMemory, svg, signal };
}

/**
 * Defaults: frames of a window, as in the public tokenizer; frames that a stream encodes at once; token frames that it
 * decodes at once.
 */
export const defaultWindow = 17, defaultChunkFrames = 8, defaultChunkTokens = 2;

export type Device = "auto" | "cpu" | "cuda" | `cuda:${number}`;
const devicePattern = /^(auto|cpu|cuda(:\d{1,3})?)$/, expectedDevice = 'expected "auto", "cpu", "cuda" or "cuda:1"';

export interface OpenOptions extends JobOptions, HubOptions {
  /**
   * Where to compute. "cuda" is the first GPU and "cuda:1" the second; "auto", the default, takes the first GPU that
   * can be used, otherwise the CPU (also where `kernels` names some of the CPU's).
   */
  device?: Device | undefined;
  /**
   * Arithmetic. "bf16": bfloat16 weights and activations, summed in float32; norms' statistics, softmax, latents and
   * FSQ stay float32. "auto", the default, is bf16 where the device multiplies it (AVX-512 BF16, BF16 of arm64, a GPU
   * of compute capability 8.0 or more), otherwise f32.
   */
  precision?: "auto" | "f32" | "bf16" | undefined;
  /** Opens one half alone, which takes half of the memory. Default: every half that the checkpoint holds. */
  half?: "encoder" | "decoder" | undefined;
  /**
   * The model's name, 1 to 63 characters, checked against its tensors. Default: the last part of the path, or of the
   * repository.
   */
  name?: string | undefined;
  /**
   * FSQ levels, for a checkpoint that does not say them: 1 to 8 numbers, each 2 to 65535, the least significant level
   * first.
   */
  fsqLevels?: number[] | undefined;
  /**
   * Pixels of one token each way, 2 to 256. It is needed for a video checkpoint that carries unused convolutions and
   * whose name does not tell; for others it is only checked.
   */
  spatialFactor?: number | undefined;
  /** Frames of one token after the first, 1 to 256, of such a checkpoint. */
  temporalFactor?: number | undefined;
  /**
   * Threads that compute for this model on the CPU, 1 to 256, of the one pool that all models share: at most one for
   * each processor, the default.
   */
  threads?: number | undefined;
  /**
   * Bytes that the weights and one request may take together: `totalBytes` in `plan`. More is refused with MEMORY,
   * which names both numbers, before anything is allocated; of a stream, the chunk that would pass it. Default: what
   * the device has.
   */
  maxMemory?: number | undefined;
  /** Kernels of the CPU to use; "auto", the default, takes the best that the processor has. */
  kernels?: "auto" | "reference" | "generic" | "avx2" | "avx512" | "avx512_bf16" | "neon" | "neon_bf16" | undefined;
  /**
   * Whether tokens, which may be a stranger's, named the model, and not you. Then of the hub only what is here already
   * is opened, and the public models are downloaded, of at most 1 GiB. Default false.
   */
  isFromTokens?: boolean | undefined;
}
export const openOptions = z.strictObject(
  {
    device: z.custom<Device>((v) => devicePattern.test(v as string), expectedDevice).default("auto"),
    precision: z.enum(["auto", "f32", "bf16"]).default("auto"),
    half: z.enum(["encoder", "decoder"]).optional(),
    name: z.string().min(1).max(63).optional(),
    fsqLevels: z.array(z.int().min(2).max(65535)).min(1).max(8).optional(),
    spatialFactor: z.int().min(2).max(256).optional(),
    temporalFactor: z.int().min(1).max(256).optional(),
    threads: z.int().min(1).max(256).optional(),
    maxMemory,
    kernels: z.enum(Object.keys(kernels) as (keyof typeof kernels)[]).default("auto"),
    isFromTokens: z.boolean().default(false),
    ...hubOptions,
    signal,
    onProgress,
  } satisfies Fields<OpenOptions>,
);

export interface AutoencodeOptions extends JobOptions, PictureLimits {
  /** Frames of a window of a video, 1 to 2^20; default 17, as the public tokenizer. */
  window?: number | undefined;
  /** As for `Tokenizer.open`, for this call; the smaller one counts. */
  maxMemory?: number | undefined;
  /**
   * Whether float32 pixels may be NaN or infinite. Default false: the first one is an error, VALUE with its position as
   * `detail`. Such pixels spoil the codes of all tokens that they reach, while the indices look like any others.
   */
  allowNonFinite?: boolean | undefined;
}
const window = z.int().min(1).max(1 << 20).optional();
const allowNonFinite = z.boolean().default(false);
export const autoencodeOptions = z.strictObject(
  { window, ...pictureLimits, maxMemory, allowNonFinite, signal, onProgress } satisfies Fields<AutoencodeOptions>,
);

export interface EncodeOptions extends AutoencodeOptions {
  /** Whether to return also the continuous vector before FSQ. Discrete models. Default false. */
  preQuant?: boolean | undefined;
}
export const encodeOptions = z.strictObject(
  { ...autoencodeOptions.shape, preQuant: z.boolean().default(false) } satisfies Fields<EncodeOptions>,
);

export interface DecodeOptions extends JobOptions {
  /** "float32", the default: [B, 3, H, W], not clamped. "uint8": [B, H, W, 3], clamped and rounded. */
  dtype?: "float32" | "uint8" | undefined;
  /** Whether tokens that know their picture's size decode to that size, without the padding. Default true. */
  crop?: boolean | undefined;
  /**
   * As for `Tokenizer.open`, for this call; of a video all decoded frames count, twice (they are gathered and joined).
   */
  maxMemory?: number | undefined;
}
export const decodeOptions = z.strictObject(
  {
    dtype: z.enum(["float32", "uint8"]).default("float32"),
    crop: z.boolean().default(true),
    maxMemory,
    signal,
    onProgress,
  } satisfies Fields<DecodeOptions>,
);

export interface ConvertOptions extends JobOptions {
  /** The model's name in the new file. Default: as Tokenizer.open finds it. */
  name?: string | undefined;
}
export const convertOptions = z.strictObject(
  { name: openOptions.shape.name, signal, onProgress } satisfies Fields<ConvertOptions>,
);

export interface EncodeStreamOptions {
  /** Cut into windows of so many frames, 1 to 2^20, that do not see each other, instead of one seamless sequence. */
  window?: number | undefined;
  /** Frames computed at once: a multiple of the temporal factor; default 8. More is faster and takes more memory. */
  chunkFrames?: number | undefined;
  /** Token frames that the temporal attention of a frame sees, itself included. Default: all of the past. */
  attentionFrames?: number | undefined;
  /** Whether the latent before quantization is given as well, as for `encode`. */
  preQuant?: boolean | undefined;
  /** As for `Tokenizer.open`, for this stream; the smaller one counts. */
  maxMemory?: number | undefined;
  /**
   * Frames a second, such as "30000/1001": recorded with the tokens. Frames that know their times (those of framesOf)
   * have theirs recorded: a start and this rate where it fits all of them, else another one or every time.
   */
  fps?: string | undefined;
  /** Width to height of a pixel, such as "16:11": recorded with the tokens. Default: square. */
  sampleAspect?: string | undefined;
  /** Ends the stream with code CANCELLED, also while it waits for a frame. */
  signal?: AbortSignal | undefined;
}
const attentionFrames = z.int().min(1).max(1 << 20).optional();
export const encodeStreamOptions = z.strictObject(
  {
    window,
    chunkFrames: z.int().min(1).max(1 << 20).optional(),
    attentionFrames,
    preQuant: z.boolean().default(false),
    maxMemory,
    fps: z.string().refine(isFraction, "expected a fraction such as 30000/1001").optional(),
    sampleAspect: z.string().refine(isAspect, "expected a ratio such as 16:11").optional(),
    signal,
  } satisfies Fields<EncodeStreamOptions>,
);

export interface DecodeStreamOptions {
  /** Token frames decoded at once; default 2. */
  chunkTokens?: number | undefined;
  /** Token frames that the temporal attention of a frame sees, itself included. Default: all of the past. */
  attentionFrames?: number | undefined;
  /** Whether padding is cut off, as for `decode`. */
  crop?: boolean | undefined;
  /** As for `Tokenizer.open`, for this stream; the smaller one counts. */
  maxMemory?: number | undefined;
  /** Ends the stream with code CANCELLED, also while it waits for a part. */
  signal?: AbortSignal | undefined;
}
export const decodeStreamOptions = z.strictObject(
  {
    chunkTokens: z.int().min(1).max(1 << 20).optional(),
    attentionFrames,
    crop: z.boolean().default(true),
    maxMemory,
    signal,
  } satisfies Fields<DecodeStreamOptions>,
);

export interface PlanShape {
  /** How many pictures or clips; default 1. */
  batch?: number | undefined;
  /** Video models only: frames, or token frames when the task is decode. Default 1. */
  frames?: number | undefined;
  /** Height in pixels, or in tokens when the task is decode. */
  height: number;
  /** Width in pixels, or in tokens when the task is decode. */
  width: number;
}
const size = z.int().min(1);
export const planShape = z.strictObject(
  { batch: size.default(1), frames: size.default(1), height: size, width: size } satisfies Fields<PlanShape>,
);

export interface PlanOptions {
  /** What is to be done; default "encode". */
  task?: "encode" | "decode" | "autoencode" | undefined;
  /** Video models only: one window (the default), the largest chunk of a stream, or the whole clip in one job. */
  mode?: "window" | "stream" | "whole" | undefined;
  /** Frames of a window; default 17. */
  window?: number | undefined;
  /** Frames of a stream's chunk; default 8. */
  chunkFrames?: number | undefined;
  /** How many past frames temporal attention sees, as for `encodeStream`. */
  attentionFrames?: number | undefined;
}
export const planOptions = z.strictObject(
  {
    task: z.enum(["encode", "decode", "autoencode"]).default("encode"),
    mode: z.enum(["window", "stream", "whole"]).default("window"),
    window: size.default(defaultWindow),
    chunkFrames: size.default(defaultChunkFrames),
    attentionFrames,
  } satisfies Fields<PlanOptions>,
);

/** Least and largest number that an option may be, as its schema says. */
function rangeOf(schema: { unwrap(): z.ZodNumber }): readonly [least: number, most: number] {
  const { minValue, maxValue } = schema.unwrap();
  return [minValue!, maxValue!];
}

/**
 * What the schemas above say, for those who ask people: ranges of whole numbers, choices, and what is taken unless
 * given.
 */
export const optionFacts = {
  device: { pattern: devicePattern },
  precision: { choices: openOptions.shape.precision.unwrap().options },
  kernels: { choices: openOptions.shape.kernels.unwrap().options },
  threads: { range: rangeOf(openOptions.shape.threads) },
  maxMemory: { range: rangeOf(maxMemory) },
  window: { range: rangeOf(window), default: defaultWindow },
  chunkFrames: { range: rangeOf(encodeStreamOptions.shape.chunkFrames), default: defaultChunkFrames },
  chunkTokens: { range: rangeOf(decodeStreamOptions.shape.chunkTokens), default: defaultChunkTokens },
  attentionFrames: { range: rangeOf(attentionFrames) },
  limitPixels: { range: rangeOf(pictureLimits.limitPixels), default: mostPixels },
  limitFrames: {
    range: rangeOf(videoOptions.shape.limitFrames),
    default: videoOptions.shape.limitFrames.def.defaultValue,
  },
} as const;
