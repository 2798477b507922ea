/**
 * The options of the command line, each declared once: its place in help, its short form, what its value must be and
 * becomes, and the environment variable that stands in for it. Commands name those that they take (a row's name in
 * `accepts`). What values may be is values.ts, parsing is args.ts, help is help.ts, completion is completions.ts: the
 * last three read this table alone.
 */
import {
  datasetFacts,
  defaultModel,
  defaultVideoModel,
  type ItemOptions,
  optionFacts,
  shardFormats,
  type TokenFormat,
  tokenFormats,
} from "../mod.ts";
import { bytes, decimal, device, oneOf, pixels, rate, shareOf, whole } from "./values.ts";

/** The sections of a command's help, in their order. */
export const groups = ["Input and output", "Datasets", "Videos", "Model", "Limits", "Everywhere"] as const;

export interface Option {
  readonly group: (typeof groups)[number];
  readonly short?: string;
  /** What stands for the value in help; an option without is a switch. */
  readonly value?: string;
  readonly about: string;
  /** The environment variable that counts where the option is not given. */
  readonly env?: string;
  /** What completion offers, where the values are few. */
  readonly choices?: readonly string[];
  /** What completion offers else; nothing unless given. */
  readonly completes?: "files" | "models";
  /**
   * The value of a text, undefined where it is none; `wanted` then says what was expected. A text as it is unless
   * given.
   */
  readonly read?: (text: string) => unknown;
  readonly wanted?: string;
}

/** Frames that --start and --frames count up to. */
const mostFrames = 1 << 20;
const { threads, window, chunkFrames, limitPixels, limitFrames } = optionFacts;

export const options = {
  out: {
    group: "Input and output",
    short: "o",
    value: "FILE|DIR",
    completes: "files",
    about: "where results go: a folder when it ends in /, is one, or there are many inputs; made as needed; - is " +
      "standard output, for one input",
  },
  format: {
    group: "Input and output",
    value: "F",
    about: "of token files: safetensors, npy or msgpack; unless given by FILE's extension, else safetensors",
    ...oneOf<TokenFormat>(tokenFormats),
  },
  "pre-quant": {
    group: "Input and output",
    about: "also store the vector before quantising (discrete models)",
  },
  "store-path": {
    group: "Input and output",
    about: "keep the path of the model in token files, which tells of folders here; unless given its name alone",
  },
  svg: {
    group: "Input and output",
    about: "draw SVG pictures, which are programs; within limits of time and memory",
  },
  name: {
    group: "Input and output",
    value: "N",
    about: "the model's name, such as Cosmos-Tokenizer-DI8x8",
  },
  overwrite: {
    group: "Input and output",
    about:
      "replace files that ctok cannot tell for its own: token files and checkpoints of its own it replaces unasked",
  },
  roof: {
    group: "Input and output",
    value: "GFLOPS",
    about:
      "what the machine can do at most, in 10^9 operations a second; unless given, as much as the fastest layer does",
    ...decimal([0.1, 1e7]),
  },
  "dry-run": {
    group: "Input and output",
    short: "n",
    about: "say what would be read, computed and written, and the memory for it; write nothing",
  },
  shards: {
    group: "Datasets",
    value: "F",
    about: `what shards are: ${[...shardFormats.keys()].join(", ")} (${[...shardFormats.keys()][0]} unless given)`,
    ...oneOf([...shardFormats.keys()]),
  },
  dtype: {
    group: "Datasets",
    value: "T",
    about:
      "of what is stored: uint16 or int32 for codes, bf16, f16 or f32 for latents (the first that the format holds)",
    ...oneOf(["uint16", "int32", "bf16", "f16", "f32"] as const),
  },
  "shard-size": {
    group: "Datasets",
    value: "N",
    about: `items of a shard, the unit of work (${datasetFacts.shardSize.default} unless given)`,
    ...whole(datasetFacts.shardSize.range),
  },
  size: {
    group: "Datasets",
    value: "N",
    about:
      "scale the shorter side to N pixels; with --bucket the square root of a bucket's area (as it is unless given)",
    ...whole([1, 16384]),
  },
  crop: {
    group: "Datasets",
    value: "C",
    about: "of what was scaled: center, none, or random:SEED (center where there is a size)",
    read: (text: string) =>
      /^(center|none|random:\d{1,15})$/.test(text) ? text as ItemOptions["crop"] & string : undefined,
    wanted: "center, none or random:SEED",
  },
  crops: { group: "Datasets", value: "N", about: "random crops of each picture (1 unless given)", ...whole([1, 1000]) },
  flip: { group: "Datasets", about: "take each look mirrored, too" },
  bucket: { group: "Datasets", about: "scale and crop each picture to the bucket of the nearest shape" },
  "bucket-step": {
    group: "Datasets",
    value: "N",
    about: "the sides of buckets are multiples of N pixels (64 unless given)",
    ...whole([1, 1024]),
  },
  "min-size": {
    group: "Datasets",
    value: "N",
    about: "set pictures aside whose shorter side has fewer pixels",
    ...whole([1, 1 << 20]),
  },
  member: {
    group: "Datasets",
    value: "F",
    about: "of tars: the field that is the item, such as jpg (the first picture or video)",
  },
  column: {
    group: "Datasets",
    value: "C",
    about: "of parquet files: the column of pictures or videos (image and usual names)",
  },
  columns: {
    group: "Datasets",
    value: "A,B",
    about: "of parquet files: the columns that go along (all others)",
    read: (text: string) => text.split(","),
  },
  hash: {
    group: "Datasets",
    about: "read each item for its hash when planning, and look at it again when it is tokenised",
  },
  "clip-frames": {
    group: "Datasets",
    value: "N",
    about: "cut videos into items of N frames (a video is one item unless given)",
    ...whole([1, mostFrames]),
  },
  stride: {
    group: "Datasets",
    value: "N",
    about: "frames from one clip's first to the next one's (--clip-frames unless given)",
    ...whole([1, mostFrames]),
  },
  batch: {
    group: "Datasets",
    value: "N",
    about: `pictures encoded at once at most; tokens do not depend on it (${datasetFacts.batch.default} unless given)`,
    ...whole(datasetFacts.batch.range),
  },
  readers: {
    group: "Datasets",
    value: "N",
    about: `items read and prepared at once (${datasetFacts.readers.default} unless given)`,
    ...whole(datasetFacts.readers.range),
  },
  shard: {
    group: "Datasets",
    value: "[I/]N",
    about:
      "of N workers be the one of number I, from 0, and make every N-th shard; without I as SLURM_ARRAY_TASK_ID or " +
      "JOB_COMPLETION_INDEX says",
    ...shareOf(datasetFacts.workers.range),
  },
  resplit: {
    group: "Datasets",
    about: "with --shard: split a corpus anew that was split among another number of workers",
  },
  samples: {
    group: "Datasets",
    value: "N",
    about: "of verify: samples of each shard that are decoded (1 unless given); of head: those that are shown (10 " +
      "unless given)",
    ...whole([0, 1 << 20]),
  },
  "allow-missing": {
    group: "Datasets",
    about: "go on where nothing of a shard is there any more; otherwise that is taken for a missing disk",
  },
  queue: {
    group: "Datasets",
    value: "URL",
    env: "CTOK_QUEUE",
    about: "share the work with other machines by a queue in Redis: redis://[USER:PASSWORD@]HOST[:PORT][/DATABASE]",
    read: (text: string) => /^rediss?:\/\/./.test(text) ? text : undefined,
    wanted: "redis://HOST:PORT, or rediss:// with TLS",
  },
  "allow-other-arithmetic": {
    group: "Datasets",
    about: "let workers with another precision, kernel set or versions take part: their tokens differ here and there",
  },
  video: {
    group: "Videos",
    about: "take a folder as one video, its pictures in natural order as the frames; otherwise each file in it counts",
  },
  window: {
    group: "Videos",
    value: "N",
    about: `cut a video into windows of N frames that do not see each other (${window.default} unless given)`,
    ...whole(window.range),
  },
  stream: {
    group: "Videos",
    about: "make a video one seamless sequence of tokens instead, however long",
  },
  chunk: {
    group: "Videos",
    value: "N",
    about: "frames computed at once in a seamless sequence: more is faster and takes more memory " +
      `(${chunkFrames.default} unless given)`,
    ...whole(chunkFrames.range),
  },
  "attention-frames": {
    group: "Videos",
    value: "N",
    about: "token frames that a frame of a seamless sequence looks back on, itself included (all unless given)",
    ...whole(optionFacts.attentionFrames.range),
  },
  start: {
    group: "Videos",
    value: "N",
    about: "the first frame of a video, counted from 0 (after --fps)",
    ...whole([0, mostFrames]),
  },
  frames: {
    group: "Videos",
    value: "N",
    about: "how many frames of a video at most",
    ...whole([1, mostFrames]),
  },
  fps: {
    group: "Videos",
    value: "R",
    about: "frames a second, such as 25, 29.97 or 30000/1001: what a video is resampled to, a folder or a result has",
    ...rate,
  },
  audio: {
    group: "Videos",
    about: "take the video's audio along",
  },
  container: {
    group: "Videos",
    value: "C",
    about: "of a video on standard output: mkv (lossless, and the one unless given), mp4, mov or y4m",
    ...oneOf(["mkv", "mp4", "mov", "y4m"]),
  },
  "keep-partial": {
    group: "Videos",
    about:
      "of a video that is cut short, fails midway or is interrupted, keep what was done of it under the result's name",
  },
  model: {
    group: "Model",
    short: "m",
    value: "M",
    env: "CTOK_MODEL",
    completes: "models",
    about:
      `a name (ctok models), owner/name of the hub, a folder or a file (unless given, ${defaultModel} for images ` +
      `and ${defaultVideoModel} for videos)`,
  },
  precision: {
    group: "Model",
    value: "P",
    env: "CTOK_PRECISION",
    about: "arithmetic: f32, bf16, or auto: bf16 where the processor has it (auto unless given)",
    ...oneOf(optionFacts.precision.choices),
  },
  device: {
    group: "Model",
    value: "D",
    env: "CTOK_DEVICE",
    about:
      "where to compute: cpu, cuda, or cuda:1 for the second GPU; auto takes a GPU that can be used, otherwise the " +
      "CPU (auto unless given)",
    choices: ["auto", "cpu", "cuda"],
    ...device,
  },
  devices: {
    group: "Model",
    about: "list the devices of this machine, and why one cannot be used",
  },
  threads: {
    group: "Model",
    value: "N",
    about: `threads of the CPU that compute, ${threads.range.join(" to ")} (one for each processor unless given)`,
    ...whole(threads.range),
  },
  "max-memory": {
    group: "Limits",
    value: "BYTES",
    about:
      "weights and one job or video's stream together, such as 2GB (2e9 bytes) or 2GiB (2^31); what needs more is " +
      "refused before any work (all there is)",
    ...bytes(optionFacts.maxMemory.range),
  },
  "limit-pixels": {
    group: "Limits",
    value: "N|WxH",
    about: "largest picture or frame read, in pixels or such as 8192x8192; a larger one is refused by its header " +
      `(${limitPixels.default} unless given)`,
    ...pixels(limitPixels.range),
  },
  "limit-frames": {
    group: "Limits",
    value: "N",
    about: `most frames a video may have; at one more it ends with a failure (${limitFrames.default} unless given)`,
    ...whole(limitFrames.range),
  },
  json: {
    group: "Everywhere",
    about: "one JSON object a line on stdout, for each file; nothing else there",
  },
  quiet: {
    group: "Everywhere",
    short: "q",
    about: "print failures only",
  },
  stack: {
    group: "Everywhere",
    about: "print the stack of a failure",
  },
  help: {
    group: "Everywhere",
    short: "h",
    about: "print this; after a command, that command's options",
  },
  version: {
    group: "Everywhere",
    short: "V",
    about: "print the version",
  },
} as const satisfies Record<string, Option>;

export type OptionName = keyof typeof options;

/** What every command takes. */
export const globalOptions = ["json", "quiet", "stack", "help", "version"] as const satisfies readonly OptionName[];
/** What a command takes that opens a model. */
export const openingOptions = ["precision", "device", "threads", "max-memory"] as const satisfies readonly OptionName[];
/** How the frames of a video are read and cut. */
export const framesOptions = [
  ...["video", "window", "stream", "chunk", "attention-frames", "start", "frames", "fps", "limit-frames"] as const,
] as const satisfies readonly OptionName[];

type ValueOf<O> = O extends { read: (text: string) => infer T } ? Exclude<T, undefined>
  : O extends { value: string } ? string
  : boolean;
/** The values of the options that were given, by their names. */
export type OptionValues = { readonly [K in OptionName]?: ValueOf<(typeof options)[K]> | undefined };
