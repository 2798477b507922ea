/**
 * Arguments. Every option is declared once, in `options`; a command names those it accepts. Parsing, help and the texts of
 * usage errors all come from that table.
 */
import { parseArgs } from "node:util";
import {
  defaultModel,
  defaultVideoModel,
  type OpenOptions,
  optionFacts,
  parseRate,
  type Rate,
  type TokenFormat,
  tokenFormats,
} from "../mod.ts";
import { exitCodes, Failure, type Report } from "./report.ts";

interface Option {
  readonly type: "string" | "boolean";
  readonly short?: string;
  /** What stands for the value in help. */
  readonly value?: string;
  readonly about: string;
  readonly choices?: readonly string[];
  /** What the value must match, and what a wrong one is told. */
  readonly pattern?: RegExp;
  readonly wanted?: string;
  /** A whole number from the first to the second. */
  readonly range?: readonly [least: number, most: number];
}

/** Frames that --start and --frames count up to. */
const mostFrames = 1 << 20;
const { threads, window, chunkFrames, limitPixels, limitFrames } = optionFacts;

export const options = {
  model: {
    type: "string",
    value: "M",
    about:
      `an embedded name, a folder or a file (unless given, ${defaultModel} for images and ${defaultVideoModel} for videos)`,
  },
  out: {
    type: "string",
    value: "FILE|DIR",
    about:
      "DIR when it ends in /, is a folder, or there are many inputs; made as needed; - is standard output, for one input",
  },
  overwrite: {
    type: "boolean",
    about: "replace files that ctok cannot tell for its own: token files and checkpoints of its own it replaces unasked",
  },
  video: {
    type: "boolean",
    about: "take a folder as one video, its pictures in natural order as the frames; otherwise each file in it counts",
  },
  svg: {
    type: "boolean",
    about: "draw SVG pictures, which are programs; within limits of time and memory",
  },
  "store-path": {
    type: "boolean",
    about: "keep the path of the model in token files, which tells of folders here; unless given its name alone",
  },
  "keep-partial": {
    type: "boolean",
    about: "of a video that is cut short, fails midway or is interrupted, keep what was done of it under the result's name",
  },
  container: {
    type: "string",
    value: "C",
    about: "of a video on standard output (mkv, lossless, unless given)",
    choices: ["mkv", "mp4", "mov", "y4m"],
  },
  precision: {
    type: "string",
    value: "P",
    about: "arithmetic: bf16 where the processor has it, otherwise f32 (auto)",
    ...optionFacts.precision,
  },
  format: {
    type: "string",
    value: "F",
    about: "of token files; else by FILE's extension, or safetensors",
    choices: tokenFormats,
  },
  "pre-quant": { type: "boolean", about: "also store the vector before quantising (discrete models)" },
  window: {
    type: "string",
    value: "N",
    about: `cut a video into windows of N frames that do not see each other (${window.default} unless given)`,
    range: window.range,
  },
  stream: { type: "boolean", about: "make a video one seamless sequence of tokens instead, however long" },
  chunk: {
    type: "string",
    value: "N",
    about:
      `frames computed at once in a seamless sequence: more is faster and takes more memory (${chunkFrames.default} unless given)`,
    range: chunkFrames.range,
  },
  "attention-frames": {
    type: "string",
    value: "N",
    about: "token frames that a frame of a seamless sequence looks back on, itself included (all unless given)",
    range: optionFacts.attentionFrames.range,
  },
  start: {
    type: "string",
    value: "N",
    about: "the first frame of a video, counted from 0 (after --fps)",
    range: [0, mostFrames],
  },
  frames: { type: "string", value: "N", about: "how many frames of a video at most", range: [1, mostFrames] },
  "limit-pixels": {
    type: "string",
    value: "N",
    about:
      `largest picture or frame read, height times width; a larger one is refused by its header (${limitPixels.default} unless given)`,
    range: limitPixels.range,
  },
  fps: {
    type: "string",
    value: "R",
    about: "frames a second, such as 25, 29.97 or 30000/1001: what a video is resampled to, a folder or a result has",
  },
  audio: { type: "boolean", about: "take the video's audio along" },
  "limit-frames": {
    type: "string",
    value: "N",
    about: `most frames a video may have; at one more it ends with a failure (${limitFrames.default} unless given)`,
    range: limitFrames.range,
  },
  name: { type: "string", value: "N", about: "the model's name, such as Cosmos-Tokenizer-DI8x8" },
  device: {
    type: "string",
    value: "D",
    about:
      "where to compute: cpu, cuda, or cuda:1 for the second GPU; auto takes a GPU that can be used, otherwise the CPU (auto)",
    pattern: optionFacts.device.pattern,
    wanted: "auto, cpu, cuda or cuda:1",
  },
  threads: {
    type: "string",
    value: "N",
    about: `threads of the CPU that compute, ${threads.range.join(" to ")} (one for each processor unless given)`,
    range: threads.range,
  },
  "max-memory": {
    type: "string",
    value: "BYTES",
    about: "weights and one job or video's stream together; what needs more is refused before any work (all there is)",
    range: optionFacts.maxMemory.range,
  },
  json: { type: "boolean", about: "one JSON object a line on stdout, for each file; nothing else there" },
  quiet: { type: "boolean", about: "print failures only" },
  stack: { type: "boolean", about: "print the stack of a failure" },
  help: { type: "boolean", short: "h", about: "print this; after a command, that command's options" },
  version: { type: "boolean", about: "print the version" },
} as const satisfies Record<string, Option>;

export type OptionName = keyof typeof options;
export const globalOptions = [
  "device",
  "threads",
  "max-memory",
  "json",
  "quiet",
  "stack",
  "help",
  "version",
] as const satisfies readonly OptionName[];

type Values = ReturnType<typeof parseArgs<{ options: typeof options; strict: true }>>["values"];
type WholeName = { [K in OptionName]: (typeof options)[K] extends { range: readonly number[] } ? K : never }[OptionName];
/** The options, checked, and what followed the command's name. */
export interface Args
  extends Omit<Values, "device" | "precision" | "format" | "fps" | WholeName>, Partial<Record<WholeName, number>> {
  readonly inputs: readonly string[];
  readonly device: OpenOptions["device"];
  readonly precision: "auto" | "f32" | "bf16" | undefined;
  readonly format: TokenFormat | undefined;
  readonly fps: number | Rate | undefined;
}

export interface Command {
  readonly name: string;
  /** What follows the name, as help shows it. */
  readonly usage: string;
  readonly about: string;
  readonly accepts: readonly OptionName[];
  run(args: Args, report: Report, signal: AbortSignal): Promise<void>;
}

/** The first argument that is no option: what should be a command. */
export function commandName(argv: readonly string[]): string | undefined {
  return parseArgs({ args: [...argv], options, strict: false }).positionals[0];
}

/** Throws a usage failure at an option that is unknown, not the command's, given twice, without its value, or outside its choices. */
export function parseArguments(argv: readonly string[], accepts: readonly OptionName[]): Args {
  const known = [...accepts, ...globalOptions];
  const { tokens } = parseArgs({ args: [...argv], options, strict: false, tokens: true });
  const seen = new Set<string>();
  for (const token of tokens) {
    if (token.kind !== "option") continue;
    const { name, rawName, value, inlineValue } = token;
    const option: Option | undefined = known.includes(name as OptionName) ? options[name as OptionName] : undefined;
    const isOthers = Object.hasOwn(options, name);
    if (!option) {
      throw usage(`unknown option ${rawName}${isOthers ? ", which other commands have" : suggestion(name, known, "--")}`);
    }
    // Note: a file named --out=x among those that the shell's * gives is an option, too.
    if (seen.has(name)) throw usage(`${rawName}: expected it once, found it twice`);
    seen.add(name);
    if (option.type === "boolean" && value !== undefined) throw usage(`${rawName}: expected no value, found "${value}"`);
    if (option.type !== "string") continue;
    const wanted = wantedOf(option);
    if (!value) throw usage(`${rawName}: expected ${wanted}, found none`);
    if (!inlineValue && value.startsWith("-") && value !== "-") {
      throw usage(`${rawName}: expected ${wanted}, found ${value} (${rawName}=${value} forces it)`);
    }
    const [least, most] = option.range ?? [];
    const isWrong = (option.choices && !option.choices.includes(value)) || (option.pattern && !option.pattern.test(value)) ||
      (least !== undefined && !(/^\d+$/.test(value) && Number(value) >= least && Number(value) <= most!));
    if (isWrong) throw usage(`${rawName}: expected ${wanted}, found ${value}`);
  }
  const { values, positionals } = parseArgs({ args: [...argv], options, allowPositionals: true });
  const numbers = Object.entries(values).filter(([name]) => (options[name as OptionName] as Option).range)
    .map(([name, value]) => [name, Number(value)]);
  const fps = values.fps === undefined ? undefined : fpsOf(values.fps);
  return { ...values, ...Object.fromEntries(numbers), fps, inputs: positionals.slice(1) } as Args; // all checked above
}

function wantedOf({ choices, range, wanted }: Option): string {
  if (wanted) return wanted;
  if (choices) return `one of ${choices.join(", ")}`;
  return range ? `a whole number from ${range[0]} to ${range[1]}` : "a value";
}

/** A rate as it is written: "25", "29.97" or "30000/1001". */
function fpsOf(text: string): number | Rate {
  const { num, den } = parseRate(text), isFraction = /^\d+\/\d+$/.test(text), fps = isFraction ? num / den : Number(text);
  if (/^[\d./]+$/.test(text) && fps >= 0.001 && fps <= 1000) return isFraction ? { num, den } : fps;
  throw usage(`--fps: expected frames a second from 0.001 to 1000, such as 25 or 30000/1001, found ${text}`);
}

export function required(value: string | undefined, option: OptionName): string {
  if (value === undefined) throw usage(`expected --${option} ${(options[option] as Option).value}, found none`);
  return value;
}

export function usage(message: string): Failure {
  return new Failure(exitCodes.usage, "USAGE", `${message}; see ctok --help`);
}

/** " (did you mean NAME?)" for a name that is two edits away, or a third of its letters; else nothing. */
export function suggestion(name: string, known: readonly string[], prefix = ""): string {
  const ranked = known.map((to) => ({ to, edits: editDistance(name, to) })).sort((a, b) => a.edits - b.edits);
  const best = ranked[0];
  return best && best.edits <= Math.max(2, best.to.length / 3) ? ` (did you mean ${prefix}${best.to}?)` : "";
}

/** Levenshtein's distance, one row of the table at a time. */
function editDistance(a: string, b: string): number {
  let row = Array.from({ length: b.length + 1 }, (_, j) => j);
  for (let i = 1; i <= a.length; i++) {
    const next = [i];
    for (let j = 1; j <= b.length; j++) {
      next[j] = Math.min(row[j]! + 1, next[j - 1]! + 1, row[j - 1]! + (a[i - 1] === b[j - 1] ? 0 : 1));
    }
    row = next;
  }
  return row[b.length]!;
}
