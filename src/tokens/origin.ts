/**
 * Where tokens came from: what travels with them, and its windows as text and back. Nothing here knows of a form of
 * file; whether an origin and tensors fit is checked in checktokens.ts.
 */
import { expected } from "../errors.ts";

/** How indices stand for codes; quantizer.ts computes with it. */
export type Quantizer =
  /** Finite scalar quantization: a digit for each channel, that of level 0 the least significant. */
  | { readonly kind: "fsq"; readonly levels: readonly number[] }
  /** A learned codebook: `size` codes of `channels` values each. */
  | { readonly kind: "lookup"; readonly size: number; readonly channels: number }
  /** Lookup-free quantization: the signs of the channels, 2^channels codes. */
  | { readonly kind: "sign"; readonly channels: number };

/** Where tokens came from: enough to decode them to the picture's own size with the model found again. */
export interface Origin {
  /** Name of the model, such as "Cosmos-Tokenizer-DI8x8" or "nano-DI8x8". */
  readonly model: string;
  /**
   * What finds the model again: an embedded name, "hub:owner/name@commit" (with "/file" where the repository holds
   * several models), or the absolute path that it was opened from. Token files keep a path only when asked to; of
   * others it is the model's name.
   */
  readonly source: string;
  /** Arithmetic that made the tokens; absent in files of older versions. */
  readonly precision?: "f32" | "bf16";
  /**
   * Hash of the model's tensors, 64 hexadecimal digits, as `info.sha256` of an open model; absent in files of older
   * versions.
   */
  readonly sha256?: string;
  /** Pixels of one token, each way. */
  readonly spatialFactor: number;
  /** How the indices stand for codes; absent for a continuous model. */
  readonly quantizer?: Quantizer;
  /** The picture before padding, and where it lies in the padded one. All in pixels. */
  readonly height: number;
  readonly width: number;
  readonly top: number;
  readonly left: number;
  /** Only for a video's tokens: which of its frames they are, and when. */
  readonly video?: VideoOrigin;
  /** Version of ctok that made them. */
  readonly version: string;
}

/**
 * The frames behind the tokens of a video. Frame i is shown at `times[i]`, or where there are no times at start + i /
 * fps seconds on the source's clock, whose zero is the earliest start of any of its streams.
 */
export interface VideoOrigin {
  /** Frames of one token after the first frame. */
  readonly temporalFactor: number;
  /** Real frames, without padding. */
  readonly frames: number;
  /** Frames a second as a fraction such as "30000/1001", where known; the average where `times` is there. */
  readonly fps?: string;
  /** When the first frame is shown, in seconds; absent: 0, or in `times`. */
  readonly start?: number;
  /** When each real frame is shown, in seconds: only where the rate varies. */
  readonly times?: readonly number[];
  /** Width to height of one pixel, such as "16:11"; absent: square. */
  readonly sampleAspect?: string;
  /** Windows that do not see each other, in order; absent when the tokens are one seamless sequence. */
  readonly windows?: readonly VideoWindow[];
}

/** One window: how many token frames it has, the real frames in it, and how many padding frames lie before them. */
export interface VideoWindow {
  readonly tokens: number;
  readonly frames: number;
  readonly before: number;
}

/** Largest numerator and denominator of a rate: FFmpeg's numbers have 31 bits. */
const mostTerm = 2 ** 31 - 1;

function isRatio(text: unknown, pattern: RegExp): boolean {
  const terms = typeof text === "string" ? pattern.exec(text)?.slice(1) : undefined;
  return terms !== undefined && terms.every((term) => term === undefined || Number(term) <= mostTerm);
}

/** Whether a text is a rate: a whole number or a fraction of two, each from 1 to 2^31 - 1. */
export function isFraction(text: unknown): boolean {
  return isRatio(text, /^([1-9]\d{0,9})(?:\/([1-9]\d{0,9}))?$/);
}

/** Whether a text is a ratio of width to height: two whole numbers from 1 to 2^31 - 1. */
export function isAspect(text: unknown): boolean {
  return isRatio(text, /^([1-9]\d{0,9}):([1-9]\d{0,9})$/);
}

/**
 * Windows as text: "tokens/frames/before" for each, and for one that comes n times in a row "tokens/frames/before*n",
 * so that the windows of any video are a few bytes: "5/17/0*61680 3/8/0".
 */
export function tellWindows(windows: readonly VideoWindow[]): string {
  const runs: { window: VideoWindow; count: number }[] = [];
  for (const window of windows) {
    const last = runs.at(-1), { tokens, frames, before } = window;
    const isLast = last?.window.tokens === tokens && last.window.frames === frames && last.window.before === before;
    if (isLast) last.count++;
    else runs.push({ window, count: 1 });
  }
  return runs.map(({ window: { tokens, frames, before }, count }) => {
    return `${tokens}/${frames}/${before}${count === 1 ? "" : `*${count}`}`;
  }).join(" ");
}

/**
 * Parses the text that stands for windows. Throws TOKEN_FILE where it is none, and where windows have more than
 * `gridFrames` token frames.
 */
export function parseWindows(text: string, gridFrames: number): VideoWindow[] {
  let total = 0;
  const runs = text.split(" ").map((run) => {
    const terms = /^(\d{1,10})\/(\d{1,10})\/(\d{1,10})(?:\*([1-9]\d{0,9}))?$/.exec(run);
    if (!terms) throw expected("windows", '"tokens/frames/before" for each window', run, "TOKEN_FILE");
    const [tokens = 0, frames = 0, before = 0, count = 1] = terms.slice(1).map((n) => n === undefined ? 1 : Number(n));
    if (tokens === 0) throw expected("windows", "token frames in each", run, "TOKEN_FILE");
    total += tokens * count;
    return { count, window: Object.freeze({ tokens, frames, before }) };
  });
  if (total > gridFrames) {
    throw expected("windows", `${gridFrames} token frames in all, as the tensor has`, total, "TOKEN_FILE");
  }
  return runs.flatMap(({ count, window }) => new Array<VideoWindow>(count).fill(window));
}

/**
 * A model of the hub: its repository, a branch, tag or commit there, and the file where the repository holds several
 * models.
 */
export interface HubModel {
  readonly repository: string;
  readonly revision: string;
  readonly file?: string;
}

const hubPattern = /^hub:([A-Za-z0-9][\w.-]*\/[A-Za-z0-9][\w.-]*)@([A-Za-z0-9][\w.-]*)(?:\/([A-Za-z0-9][\w.-]*))?$/;

/**
 * The hub model that a text "hub:owner/name@revision" or "hub:owner/name@revision/file" names; undefined for any other
 * text.
 */
export function hubModelOf(source: string): HubModel | undefined {
  const [, repository, revision, file] = hubPattern.exec(source) ?? [];
  return repository && revision ? { repository, revision, ...(file !== undefined && { file }) } : undefined;
}

/** Writes the name of a model of the hub as "hub:owner/name@revision" or with "/file". */
export function tellHubModel({ repository, revision, file }: HubModel): string {
  return `hub:${repository}@${revision}${file === undefined ? "" : `/${file}`}`;
}

/**
 * Which of three kinds a source is. "name" is an embedded model, or the model's own name where its path was not kept.
 */
export function kindOfSource(source: string): "name" | "hub" | "path" {
  if (hubModelOf(source)) return "hub";
  return source.includes("/") ? "path" : "name";
}

/** The model's source as token files store it: not a path of this machine, unless asked for. */
export function sourceOf({ source, model }: Origin, storePath: boolean): string {
  return kindOfSource(source) === "path" && !storePath ? model : source;
}
