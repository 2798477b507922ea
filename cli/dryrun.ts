/**
 * --dry-run: what a command would do with a file, as far as headers tell: sizes, tokens, memory, what it replaces.
 * Models are opened, pictures and videos are not decoded, nothing is computed or written. What is known to fail fails
 * here as it would there; damage further on in a file is not seen. Called by encode, decode and autoencode in the place
 * of their work.
 */
import { existsSync } from "node:fs";
import * as ctok from "../mod.ts";
import type { Args } from "./args.ts";
import type { InOut } from "./paths.ts";
import type { Report } from "./report.ts";
import { type Job, pictureOptionsOf } from "./run.ts";
import { tellBytes, tellCount, tellSize } from "./tell.ts";
import { framesWanted, modeOf, tellClip, tellTokens } from "./video.ts";

type Task = "encode" | "autoencode";

/** A picture or video to tokens, and back. */
export async function planPixels(
  tokenizer: ctok.Tokenizer,
  io: InOut,
  args: Args,
  job: Job,
  report: Report,
  task: Task,
): Promise<void> {
  const plan = tokenizer.info.isVideo ? planVideo : planPicture;
  say(io, report, tokenizer, await plan(tokenizer, io, args, job, task));
}

interface Planned {
  /** For machines. */
  readonly facts: object;
  readonly text: string;
  readonly memoryBytes: number;
}

async function planPicture(
  tokenizer: ctok.Tokenizer,
  { path }: InOut,
  args: Args,
  { signal }: Job,
  task: Task,
): Promise<Planned> {
  const size = await ctok.readImageSize(path, { ...pictureOptionsOf(args), signal });
  const { shape } = tokensOf(tokenizer.plan(size)), { totalBytes: memoryBytes } = tokenizer.plan(size, { task });
  const [rows = 0, columns = 0] = shape.slice(-2);
  const text = `${tellSize(size.height, size.width)} pixels, ${tellSize(rows, columns)} tokens`;
  return { facts: { ...size, shape }, text, memoryBytes };
}

async function planVideo(
  tokenizer: ctok.Tokenizer,
  { path }: InOut,
  args: Args,
  job: Job,
  task: Task,
): Promise<Planned> {
  const { info: { height, width, numFrames }, fps } = await ctok.framesOf(path, framesWanted(args, job));
  const { limitFrames, window: windows, chunkFrames: chunks, chunkTokens } = ctok.optionFacts;
  const limit = args["limit-frames"] ?? limitFrames.default, { temporalFactor: factor, name } = tokenizer.info;
  if (numFrames === 0) throw new ctok.TokenizerError("VIDEO", `${path}: expected at least one frame, found none`);
  if (numFrames !== undefined && numFrames > limit) {
    throw new ctok.TokenizerError(
      "VIDEO",
      `${path}: expected at most ${limit} frames (limitFrames), found ${numFrames}`,
    );
  }
  const { stream = false, window = windows.default, "attention-frames": attentionFrames } = args;
  const chunkFrames = args.chunk ?? Math.max(chunks.default, factor),
    frames = numFrames ?? (stream ? 1 + chunkFrames : window);
  if (stream && chunkFrames % factor !== 0) {
    const wanted = `a multiple of ${factor}, the temporal factor of ${name}`;
    throw new ctok.TokenizerError("ARGUMENT", `--chunk: expected ${wanted}, found ${chunkFrames}`);
  }
  const cut = {
    ...(stream ? { mode: "stream", chunkFrames } : { mode: "window", window }) as ctok.PlanOptions,
    ...(stream && attentionFrames && { attentionFrames }),
  };
  const first = tokenizer.plan({ frames, height, width }, cut);
  const grid = tokensOf(first).shape,
    [t, rows, columns] = [-3, -2, -1].map((axis) => grid.at(axis)!) as [number, number, number];
  let memoryBytes = first.totalBytes;
  if (task === "autoencode") { // both halves are at work at once, on weights that are there once
    const decoding = { ...cut, task: "decode", window: t, chunkFrames: chunkTokens.default * factor } as const;
    const back = tokenizer.plan({ frames: t, height: rows, width: columns }, decoding);
    memoryBytes += back.totalBytes - back.weightBytes;
  }
  const facts = { height, width, ...(numFrames !== undefined && { frames: numFrames }), fps, ...modeOf(args) };
  if (numFrames === undefined) {
    const text = `frames of ${tellSize(height, width)} pixels, how many is not known, to frames of ${
      tellSize(rows, columns)
    } tokens`;
    return { facts, text, memoryBytes };
  }
  const parts = stream ? [] : ctok.windowsOf(numFrames, window, factor);
  const times = stream ? Math.ceil((numFrames - 1) / factor) + 1 : parts.reduce((sum, { tokens }) => sum + tokens, 0);
  const shape = grid.with(-3, times), mode = stream ? "seamless" : `in ${tellCount(parts.length, "window")}`;
  const text = `${tellClip(numFrames, height, width)}, ${tellTokens(shape)} ${mode}`;
  return { facts: { ...facts, shape }, text, memoryBytes };
}

/** The tokens that a request gives, without what stands beside them. */
function tokensOf({ outputs }: ctok.Plan): ctok.Plan["outputs"][number] {
  return outputs.find(({ kind }) => kind === "indices" || kind === "latent")!;
}

/** Tokens to their results; `more` goes into the facts. */
export function planTokens(
  tokenizer: ctok.Tokenizer,
  { main, origin }: ctok.Tokens,
  results: readonly InOut[],
  args: Args,
  report: Report,
  more: object,
): void {
  const { height, width, video } = origin, { shape } = main, [frames = 1, rows = 0, columns = 0] = shape.slice(-3);
  const { temporalFactor: factor } = tokenizer.info, { "attention-frames": attentionFrames } = args;
  const chunkTokens = args.chunk ? Math.ceil(args.chunk / factor) : ctok.optionFacts.chunkTokens.default;
  const window = video?.windows?.reduce((most, { tokens }) => Math.max(most, tokens), 1);
  const cut: ctok.PlanOptions = window === undefined
    ? { mode: "stream", chunkFrames: chunkTokens * factor, ...(attentionFrames && { attentionFrames }) }
    : { mode: "window", window };
  const grid = { batch: video ? 1 : shape[0]!, frames: video ? frames : 1, height: rows, width: columns };
  const { totalBytes: memoryBytes } = tokenizer.plan(grid, { task: "decode", ...cut });
  const facts = { height, width, ...(video && { frames: video.frames }), shape, ...more };
  const text = video ? tellClip(video.frames, height, width) : `${tellSize(height, width)} pixels`;
  for (const io of results) say(io, report, tokenizer, { facts, text, memoryBytes });
}

function say(
  { file, out, target }: InOut,
  report: Report,
  { info: { name: model } }: ctok.Tokenizer,
  { facts, text, memoryBytes }: Planned,
): void {
  const isReplacing = existsSync(target), replaced = isReplacing ? "; replaces what is there" : "";
  const all = {
    file,
    out,
    ok: true,
    isDryRun: true,
    model,
    ...facts,
    memoryBytes,
    ...(isReplacing && { isReplacing }),
  };
  report.done(all, `${text}, ${model}, ${tellBytes(memoryBytes)} of memory${replaced}`);
}
