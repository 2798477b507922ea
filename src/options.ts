/** What callers may pass, as zod schemas, and the one way in which a wrong option is reported. */
import { z } from "zod";
import { TokenizerError } from "./errors.ts";
import { isAspect, isFraction } from "./origin.ts";

export const signal = z.custom<AbortSignal>((v) => v instanceof AbortSignal, "expected an AbortSignal").optional();
const onProgress = z.custom<(part: number) => void>((v) => typeof v === "function", "expected a function").optional();

const maxMemory = z.int().min(1).optional();

/** What `limitPixels` is unless given. */
export const mostPixels = 16383 ** 2;
/**
 * Largest picture, or frame of a video, that is taken: height × width in pixels. A larger one is refused by what its header
 * says, before memory is taken. Default 16383², as sharp's own.
 */
export const limitPixels = z.int().min(1).default(mostPixels);

/** Of a picture that is read. All that keep a stranger's picture from costing more than it should; signal aside. */
export const pictureLimits = {
  /** Largest picture taken, height × width in pixels; a larger one is refused by its header. Default 16383², as sharp's own. */
  limitPixels,
  /**
   * Seconds of processor time that decoding may take, in the helper process that decodes SVG, AVIF, TIFF and what is large
   * (docs/limits.md). Default: 1, and for what is no SVG one more for each 2^22 pixels of the picture.
   */
  limitSeconds: z.number().positive().optional(),
  /** Bytes of memory that decoding may take there. Default: 96 MiB, and for each pixel 2.5 times its samples and 8 more. */
  limitMemory: z.int().min(1).optional(),
  /** Whether SVG is drawn. It is a program: it costs what it wants, up to these limits. Default false: refused. */
  svg: z.boolean().default(false),
};

/** What readImage takes of the options of a call that reads pictures. */
export function readOptionsOf<O extends z.input<z.ZodObject<typeof pictureLimits>> & { signal?: AbortSignal | undefined }>(
  { limitPixels, limitSeconds, limitMemory, svg, signal }: O,
) {
  return { limitPixels, limitSeconds, limitMemory, svg, signal };
}

export type Device = "auto" | "cpu" | "cuda" | `cuda:${number}`;
const expectedDevice = 'expected "auto", "cpu", "cuda" or "cuda:1"';

export const openOptions = z.strictObject({
  /**
   * Where to compute. "cuda" is the first GPU and "cuda:1" the second; "auto" takes the first GPU that can be used, otherwise
   * the CPU (also where `kernels` names some of the CPU's).
   */
  device: z.custom<Device>((v) => /^(auto|cpu|cuda(:\d{1,3})?)$/.test(v as string), expectedDevice).default("auto"),
  /**
   * Arithmetic. "bf16": bfloat16 weights and activations, summed in float32; norms' statistics, softmax, latents and FSQ stay
   * float32. "auto" is bf16 where the device multiplies it (AVX-512 BF16, a GPU of compute capability 8.0 or more), otherwise f32.
   */
  precision: z.enum(["auto", "f32", "bf16"]).default("auto"),
  /** Opens one half alone, which takes half of the memory. Default: every half that the checkpoint holds. */
  half: z.enum(["encoder", "decoder"]).optional(),
  /** The model's name, checked against its tensors. Default: the last part of the path. */
  name: z.string().min(1).max(63).optional(),
  /** FSQ levels, level 0 least significant, where a checkpoint does not say. */
  fsqLevels: z.array(z.int().min(2).max(65535)).min(1).max(8).optional(),
  /** Compression factors of a video checkpoint that carries unused convolutions under a name that does not tell; otherwise checked. */
  spatialFactor: z.int().min(2).max(256).optional(),
  temporalFactor: z.int().min(1).max(256).optional(),
  /** Threads that compute for this model on the CPU, of the one pool that all models share: at most one for each processor, the default. */
  threads: z.int().min(1).max(256).optional(),
  /**
   * Bytes that the weights and one request may take together: `totalBytes` in `plan`. More is refused with MEMORY, which names
   * both numbers, before anything is allocated; of a stream, the chunk that would pass it. Default: what the device has.
   */
  maxMemory,
  /** Kernels of the CPU to use; the default takes the best that the processor has. */
  kernels: z.enum(["auto", "reference", "generic", "avx2", "avx512", "avx512_bf16"]).default("auto"),
  signal,
  onProgress,
});
export type OpenOptions = z.input<typeof openOptions>;

export const encodeOptions = z.strictObject({
  /** Also return the continuous vector before FSQ. Discrete models. */
  preQuant: z.boolean().default(false),
  /** Frames of a window of a video; default 17, as the public tokenizer. */
  window: z.int().min(1).max(1 << 20).optional(),
  /** Of pictures and frames read from files: see readImage. */
  ...pictureLimits,
  /** As for `Tokenizer.open`, for this call; the smaller one counts. */
  maxMemory,
  signal,
  onProgress,
});
export type EncodeOptions = z.input<typeof encodeOptions>;

export const decodeOptions = z.strictObject({
  /** "float32": [B, 3, H, W], not clamped. "uint8": [B, H, W, 3], clamped and rounded. */
  dtype: z.enum(["float32", "uint8"]).default("float32"),
  /** Whether tokens that know their picture's size decode to that size, without the padding. */
  crop: z.boolean().default(true),
  /** As for `Tokenizer.open`, for this call; of a video all decoded frames count, twice (they are gathered and joined). */
  maxMemory,
  signal,
  onProgress,
});
export type DecodeOptions = z.input<typeof decodeOptions>;

export const jobOptions = z.strictObject({ signal, onProgress });
export const convertOptions = z.strictObject({
  /** The model's name in the new file. Default: as Tokenizer.open finds it. */
  name: openOptions.shape.name,
  signal,
  onProgress,
});
export type ConvertOptions = z.input<typeof convertOptions>;
export const autoencodeOptions = z.strictObject({
  window: encodeOptions.shape.window,
  ...pictureLimits,
  maxMemory,
  signal,
  onProgress,
});
export type AutoencodeOptions = z.input<typeof autoencodeOptions>;

const attentionFrames = z.int().min(1).max(1 << 20).optional();
export const encodeStreamOptions = z.strictObject({
  /** Cut into windows of so many frames that do not see each other, instead of one seamless sequence. */
  window: encodeOptions.shape.window,
  /** Frames computed at once: a multiple of the temporal factor; default 8. More is faster and takes more memory. */
  chunkFrames: z.int().min(1).max(1 << 20).optional(),
  /** Token frames that the temporal attention of a frame sees, itself included. Default: all of the past. */
  attentionFrames,
  preQuant: z.boolean().default(false),
  /** As for `Tokenizer.open`, for this stream; the smaller one counts. */
  maxMemory,
  /**
   * Frames a second, such as "30000/1001": recorded with the tokens. Frames that know their times (those of framesOf) have theirs
   * recorded: a start and this rate where it fits all of them, else another one or every time.
   */
  fps: z.string().refine(isFraction, "expected a fraction such as 30000/1001").optional(),
  /** Width to height of a pixel, such as "16:11": recorded with the tokens. Default: square. */
  sampleAspect: z.string().refine(isAspect, "expected a ratio such as 16:11").optional(),
  signal,
});
export type EncodeStreamOptions = z.input<typeof encodeStreamOptions>;

export const decodeStreamOptions = z.strictObject({
  /** Token frames decoded at once; default 2. */
  chunkTokens: z.int().min(1).max(1 << 20).optional(),
  attentionFrames,
  /** As for decode. */
  crop: z.boolean().default(true),
  /** As for `Tokenizer.open`, for this stream; the smaller one counts. */
  maxMemory,
  signal,
});
export type DecodeStreamOptions = z.input<typeof decodeStreamOptions>;

export const planShape = z.strictObject({
  batch: z.int().min(1).default(1),
  /** Pixels, or tokens when the task is decode. */
  /** Of a video: frames, or token frames when the task is decode. */
  frames: z.int().min(1).default(1),
  height: z.int().min(1),
  width: z.int().min(1),
});
export type PlanShape = z.input<typeof planShape>;
export const planOptions = z.strictObject({
  task: z.enum(["encode", "decode", "autoencode"]).default("encode"),
  mode: z.enum(["window", "stream", "whole"]).default("window"),
  window: z.int().min(1).default(17),
  chunkFrames: z.int().min(1).default(8),
  attentionFrames,
});
export type PlanOptions = z.input<typeof planOptions>;

/** Parses; a failure is one TokenizerError ARGUMENT that names every wrong option, what was expected and what was found. */
export function parse<S extends z.ZodType>(schema: S, value: unknown, name: string): z.output<S> {
  const result = schema.safeParse(value ?? {});
  if (result.success) return result.data;
  const problems = result.error.issues.map((issue) => {
    const path = [name, ...issue.path.map(String)].join(".");
    const found = issue.path.reduce<unknown>((at, key) => (at as Record<PropertyKey, unknown> | undefined)?.[key], value);
    const shown = typeof found === "object"
      ? JSON.stringify(found)
      : typeof found === "string"
      ? `"${found}"`
      : String(found);
    return `${path}: ${issue.message.replace(/^Invalid \w+: /, "")}, found ${shown}`;
  });
  throw new TokenizerError("ARGUMENT", problems.join("; "));
}
