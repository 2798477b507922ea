/**
 * What the commands do with videos. Frames go through as streams, a few in memory at a time; of an encoded video only
 * its tokens are kept. A video that is cut short, fails midway or is interrupted leaves nothing; with --keep-partial
 * what was done of it, and the failure says how much that is.
 */
import * as ctok from "../mod.ts";
import { type Args, usage } from "./args.ts";
import type { OptionName } from "./options.ts";
import { type InOut, standard } from "./paths.ts";
import { exitCodes, Failure, type Report } from "./report.ts";
import { deliver, type Job, limitsOf, secondsSince } from "./run.ts";
import { tellCount, tellSize } from "./tell.ts";

const ssimEvery = 8;

/** Options of one mode given with the other are refused, before any work. */
export function checkMode(args: Args): void {
  if (args.stream && args.window !== undefined) throw usage("--stream: expected no --window beside it, found one");
  const given = (["chunk", "attention-frames"] as const).find((name) => args[name] !== undefined);
  if (given && !args.stream) throw usage(`--${given}: expected --stream beside it, found none`);
}

/** Options for videos are refused where all inputs are images. `first` is the model of the first of them. */
export function checkVideoOptions(args: Args, files: readonly InOut[], first: ctok.Tokenizer): void {
  const names: readonly OptionName[] = ["window", "stream", "start", "frames", "fps", "audio", "limit-frames"];
  const given = names.find((name) => args[name] !== undefined);
  const isAnyVideo = args.model === undefined ? files.some(({ kind }) => kind === "video") : first.info.isVideo;
  if (given && !isAnyVideo) throw usage(`--${given}: expected a video among the inputs, found only images`);
}

/** Of a file the name says the container. */
export function checkContainer({ container, out }: Args): void {
  if (container && out !== standard) throw usage(`--container: expected --out - beside it, found --out ${out}`);
}

/** Extension of a video that the user does not name: the one to look at, or on standard output the exact one. */
export function videoExtension(args: Args): string {
  return args.out === standard ? `.${args.container ?? "mkv"}` : ".mp4";
}

export async function encodeVideo(
  tokenizer: ctok.Tokenizer,
  io: InOut,
  format: ctok.TokenFormat,
  args: Args,
  job: Job,
  report: Report,
): Promise<void> {
  const { file, path, out, target } = io, start = performance.now(), source = await openSource(file, path, args, job);
  const parts: ctok.Tokens[] = [];
  const options = { ...encodeOptions(args, source, job), preQuant: args["pre-quant"] ?? false };
  try {
    for await (const part of tokenizer.encodeStream(source.frames, options)) {
      parts.push(withoutCodes(part));
      showPace(job, start, part.firstFrame + part.numFrames, source.info.numFrames);
    }
    job.signal.throwIfAborted();
  } catch (error) {
    if (!args["keep-partial"] || parts.length === 0) throw error;
    source.damage = error;
  }
  const tokens = ctok.joinTokens(parts);
  await ctok.saveTokens(target, tokens, { format, storePath: args["store-path"] ?? false });
  const { main, origin: { model, height, width, video } } = tokens, frames = video!.frames;
  const facts = {
    ...{ file, out, ok: true, model, format, kind: main.kind, shape: main.shape, height, width },
    ...{ frames, fps: source.fps, ...modeOf(args), ...pace(frames, start) },
  };
  const windows = video!.windows?.length,
    mode = windows === undefined ? "seamless" : `in ${tellCount(windows, "window")}`;
  const text = `${tellClip(frames, height, width)}, ${tellTokens(main.shape)} ${mode}, ${tellPace(frames, start)}`;
  const left = source.info.hasAudio ? "; audio left out" : "";
  await finish(report, job, io, source.damage, facts, text + left, parts.length);
}

/** `tokens` are those of one video: a tensor that knows its origin. `more` goes into the facts. */
export async function decodeVideo(
  tokenizer: ctok.Tokenizer,
  tokens: ctok.Tensor,
  io: InOut,
  args: Args,
  job: Job,
  report: Report,
  more: object,
): Promise<void> {
  const { file, out, target } = io, start = performance.now(), { video } = tokens.origin!;
  const fps = args.fps ?? ctok.parseRate(video?.fps ?? "25");
  const decoded = tokenizer.decodeStream([tokens], decodeOptions(tokenizer, args, job));
  const onFrame = (done: number) => showPace(job, start, done, video?.frames);
  const sampleAspect = ctok.parseRate(video?.sampleAspect ?? "1:1");
  const options = { fps, sampleAspect }, isTimed = args.fps === undefined;
  const { frames, height, width, damage } = await writeVideo(target, decoded, options, args, job, onFrame, isTimed);
  const { name: model } = tokenizer.info, mode = video?.windows ? "window" : "stream";
  const size = { height, width, frames, fps: tellRate(fps), mode };
  const facts = { file, out, ok: true, model, ...size, ...more, ...pace(frames, start) };
  await finish(report, job, io, damage, facts, `${tellClip(frames, height, width)}, ${tellPace(frames, start)}`);
}

export async function autoencodeVideo(
  tokenizer: ctok.Tokenizer,
  io: InOut,
  args: Args,
  job: Job,
  report: Report,
): Promise<void> {
  const { file, path, out, target } = io, start = performance.now(), source = await openSource(file, path, args, job);
  const { info } = source;
  const originals: ctok.Tensor<"uint8">[] = []; // those on their way: as many as the streams read ahead
  const quality = new Quality();
  async function* remembered() {
    for await (const frame of source.frames) {
      originals.push(frame);
      yield frame;
    }
  }
  const parts = tokenizer.encodeStream(remembered(), encodeOptions(args, source, job));
  async function* compared() {
    for await (const frame of tokenizer.decodeStream(parts, decodeOptions(tokenizer, args, job))) {
      quality.add(originals.shift()!, frame);
      yield frame;
    }
  }
  const isAudioKept = args.audio === true && info.hasAudio;
  const { fps, sampleAspect } = info, options = { fps, sampleAspect, ...(isAudioKept && { audioFrom: path }) };
  const onFrame = (done: number) => showPace(job, start, done, info.numFrames);
  const { frames, height, width, damage } = await writeVideo(target, compared(), options, args, job, onFrame);
  const { psnr, ssim } = quality;
  const facts = {
    ...{ file, out, ok: true, model: tokenizer.info.name, height, width, frames, fps: source.fps, ...modeOf(args) },
    ...{ psnr, ssim, audio: isAudioKept, ...pace(frames, start) },
  };
  const similarity = `SSIM ${ssim?.toFixed(4) ?? "undefined under 7x7"} (every ${ssimEvery}th frame)`;
  const left = info.hasAudio ? "; audio left out (--audio takes it along)" : args.audio ? "; it has no audio" : "";
  const note = isAudioKept ? "; audio taken along" : left;
  const text = `${tellClip(frames, height, width)}, PSNR ${psnr.toFixed(2)} dB, ${similarity}`;
  await finish(report, job, io, source.damage ?? damage, facts, `${text}, ${tellPace(frames, start)}${note}`);
}

// ---------------------------------------------------------------- sources
interface Source {
  readonly file: string;
  readonly frames: AsyncIterable<ctok.Tensor<"uint8">>;
  readonly fps: string;
  readonly sampleAspect: string | undefined;
  readonly info: ctok.VideoInfo;
  /** Why the frames ended before the video did, once they have; what is there is to be kept. */
  damage: unknown;
}

/** Which frames of a video are wanted. */
export function framesWanted(args: Args, { signal }: Job): ctok.VideoOptions {
  const { start, frames, fps, "limit-frames": limitFrames } = args;
  return {
    ...limitsOf(args),
    signal,
    ...(limitFrames !== undefined && { limitFrames }),
    ...(start !== undefined && { start }),
    ...(frames !== undefined && { frames }),
    ...(fps !== undefined && { fps }),
  };
}

async function openSource(file: string, path: string, args: Args, job: Job): Promise<Source> {
  const { signal } = job, video = await ctok.framesOf(path, framesWanted(args, job));
  async function* frames() {
    let count = 0;
    try {
      for await (const frame of video.frames) {
        count++;
        yield frame;
      }
    } catch (error) { // the frames end here, so that the streams finish those before
      if (!args["keep-partial"] || count === 0 || signal.aborted) throw error;
      source.damage = error;
    }
  }
  const source: Source = { ...video, file, frames: frames(), damage: undefined };
  return source;
}

/** Delivers and reports the result; of what ended early, throws the failure that says what is kept of it. */
async function finish(
  report: Report,
  { signal }: Job,
  io: InOut,
  damage: unknown,
  facts: { file: string; out: string; frames: number },
  text: string,
  parts?: number,
): Promise<void> {
  await deliver(io);
  if (damage === undefined) return report.done(facts, text);
  const code = signal.aborted ? "CANCELLED" : damage instanceof ctok.TokenizerError ? damage.code : "INTERNAL";
  const said = signal.aborted ? "interrupted" : ctok.messageOf(damage);
  const kept = `${tellFrames(facts.frames)}${parts ? ` in ${tellCount(parts, "part")}` : ""}`;
  const message = `${said}; ${facts.out} keeps the ${kept} before that (--keep-partial)`;
  throw new Failure(exitCodes.failed, code, message, damage, { ...facts, isPartial: true, ...(parts && { parts }) });
}

// ---------------------------------------------------------------- streams
function encodeOptions(args: Args, { fps, sampleAspect }: Source, { signal }: Job): ctok.EncodeStreamOptions {
  const about = { fps, sampleAspect, signal };
  if (!args.stream) return { window: args.window ?? ctok.optionFacts.window.default, ...about };
  const { chunk: chunkFrames, "attention-frames": attentionFrames } = args;
  return { ...about, ...(chunkFrames && { chunkFrames }), ...(attentionFrames && { attentionFrames }) };
}

function decodeOptions({ info }: ctok.Tokenizer, args: Args, { signal }: Job): ctok.DecodeStreamOptions {
  const { chunk, "attention-frames": attentionFrames } = args;
  const chunkTokens = chunk && Math.ceil(chunk / info.temporalFactor);
  return { signal, ...(chunkTokens && { chunkTokens }), ...(attentionFrames && { attentionFrames }) };
}

/** What a token file stores: indices give the codes back, which take several times their memory. */
function withoutCodes(part: ctok.TokenPart): ctok.Tokens {
  const kept = part.parts.filter((kind) => kind !== "codes");
  return new ctok.Tokens(part.origin, Object.fromEntries(kept.map((kind) => [kind, part[kind]])));
}

/**
 * Writes frames as they come; the first one says how large they are. A video without sound begins with its first frame;
 * one with sound as its source does, with whichever comes first, or at --start. `damage`: why they ended early, and are
 * kept.
 */
async function writeVideo(
  out: string,
  frames: AsyncIterable<ctok.Tensor<"uint8">>,
  options: Omit<ctok.VideoSinkOptions, "height" | "width" | "signal">,
  { "keep-partial": isKept, start }: Args,
  { signal }: Job,
  onFrame: (done: number) => void,
  isTimed = true,
): Promise<{ frames: number; height: number; width: number; damage: unknown }> {
  let sink: ctok.VideoSink | undefined, height = 0, width = 0, zero = 0, damage: unknown;
  try {
    for await (const frame of frames) {
      [height = 0, width = 0] = frame.shape;
      const seconds = isTimed && frame instanceof ctok.VideoFrame ? frame.seconds : undefined;
      if (!sink) {
        const startSeconds = options.audioFrom !== undefined && start ? seconds ?? 0 : 0;
        if (options.audioFrom === undefined) zero = seconds ?? 0; // which a token file may say to be any time
        sink = await ctok.createVideo(out, { ...options, height, width, startSeconds, ...(!isKept && { signal }) });
      }
      await sink.write(frame.data, seconds === undefined ? undefined : seconds - zero);
      onFrame(sink.numFrames);
    }
  } catch (error) {
    if (!isKept || !sink?.numFrames) {
      await sink?.abort();
      throw error;
    }
    damage = error;
  }
  try {
    await sink!.close(); // a stream without a frame has thrown
    return { frames: sink!.numFrames, height, width, damage };
  } catch (error) {
    throw damage ?? error; // it was the writing that failed
  } finally {
    await sink!.abort();
  }
}

/** PSNR over all frames, by their mean squared error; SSIM as the mean over frames 0, 8, 16 and so on. */
class Quality {
  #frames = 0;
  #squares = 0; // mean squared errors of the frames, peak 1
  #similarity = 0;

  add(original: ctok.Tensor<"uint8">, again: ctok.Tensor<"uint8">): void {
    this.#squares += 10 ** (-ctok.psnr(original, again) / 10);
    const isLargeEnough = Math.min(...again.shape.slice(0, 2)) >= 7; // SSIM's window is 7x7
    if (this.#frames % ssimEvery === 0) this.#similarity += isLargeEnough ? ctok.ssim(original, again) : NaN;
    this.#frames++;
  }

  get psnr(): number {
    return -10 * Math.log10(this.#squares / this.#frames);
  }

  get ssim(): number | undefined {
    const mean = this.#similarity / Math.ceil(this.#frames / ssimEvery);
    return Number.isNaN(mean) ? undefined : mean;
  }
}

// ---------------------------------------------------------------- telling
export function modeOf(args: Args): { mode: string; window?: number } {
  return args.stream ? { mode: "stream" } : { mode: "window", window: args.window ?? ctok.optionFacts.window.default };
}

function pace(frames: number, start: number): { seconds: number; framesPerSecond: number } {
  const seconds = secondsSince(start);
  return { seconds, framesPerSecond: Number((frames / seconds).toPrecision(3)) };
}

const tellFrames = (frames: number) => tellCount(frames, "frame");

/** "17 frames of 768x432 pixels". */
export function tellClip(frames: number, height: number, width: number): string {
  return `${tellFrames(frames)} of ${tellSize(height, width)} pixels`;
}

/** "5 frames of 96x54 tokens", of a shape [B, …, t, h, w]. */
export function tellTokens(shape: readonly number[]): string {
  const [frames = 0, rows = 0, columns = 0] = shape.slice(-3);
  return `${tellFrames(frames)} of ${tellSize(rows, columns)} tokens`;
}

function tellPace(frames: number, start: number): string {
  const { seconds, framesPerSecond } = pace(frames, start);
  return `${seconds} s (${framesPerSecond} frames/s)`;
}

/** Note: a header's number of frames may be a little wrong. */
function showPace({ onProgress }: Job, start: number, done: number, total: number | undefined): void {
  const { framesPerSecond } = pace(done, start), count = total ? "" : `${tellFrames(done)}, `;
  onProgress?.(total && Math.min(1, done / total), `${count}${framesPerSecond} frames/s`);
}

function tellRate(fps: number | ctok.Rate): string {
  return typeof fps === "number" ? String(fps) : ctok.rateText(fps);
}
