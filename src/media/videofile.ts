/**
 * A video file as frames, by FFmpeg. Called by video.ts.
 *
 * Pixels are those of `ffmpeg -i FILE -f rawvideo -pix_fmt rgb24 -`, to the byte, which is how the reference answers
 * were made: FFmpeg's default conversion to 8-bit RGB, rotation applied. They come in a container (NUT), which has each
 * frame's own time. Frames are chosen and repeated here, by these times: FFmpeg's trim and fps filters start over where
 * the pixel format changes midway. Audio is left out. Limits: high dynamic range is not tone-mapped, interlaced fields
 * stay woven, pixels that are not square stay as stored (`sampleAspect` tells); of a Y4M file cut short FFmpeg drops
 * the last, partial frame and says nothing.
 */
import { throwIfAborted } from "../abort.ts";
import { TokenizerError } from "../errors.ts";
import { averageRate, steadyRate } from "../tokens/times.ts";
import type { Options, TimedFrame, VideoInfo, VideoSource } from "./clip.ts";
import { type Ending, type Ffmpeg, fileUrl, findFfmpeg, inputArgs, startFfmpeg, tellEnding } from "./ffmpeg.ts";
import { FfmpegLog } from "./ffmpeglog.ts";
import { findOtherSize, type MediaFacts, probeMedia, type VideoFacts } from "./ffprobe.ts";
import { type NutHeader, NutReader } from "./nutreader.ts";
import { tooLarge } from "./picture.ts";
import { parseRate, perSecond, type Rate, toRate } from "../tokens/rate.ts";
import { openImages } from "./stills.ts";

/** What is added to a file's timestamps, so that no frame's is negative; `aheadOf` says of which files. */
const offsetSeconds = 2;
/** The error, in seconds, of times that FFmpeg and ffprobe round to microseconds. */
const roundingSeconds = 1e-5;

/**
 * The first video stream that is not cover art, as raw frames with their times on stdout, each handed on as soon as it
 * is there. Note: without the offset, FFmpeg moves the zero of transport and program streams to the first frame of the
 * streams in use.
 */
function decodeArgs(path: string, ffmpeg: Ffmpeg, limitPixels: number, filters: string, frames: number): string[] {
  return [
    ...["-itsoffset", String(offsetSeconds), ...inputArgs(path, limitPixels)],
    ...["-map", "0:V:0", ...ffmpeg.passFrames, ...(filters ? ["-vf", filters] : [])],
    ...(Number.isFinite(frames) ? ["-frames:v", String(frames)] : []),
    ...["-c:v", "rawvideo", "-pix_fmt", "rgb24", "-f", "nut", "-flush_packets", "1", "pipe:1"],
  ];
}

/** What every run of FFmpeg on a file needs to know of the file. */
interface Opened {
  readonly path: string;
  readonly ffmpeg: Ffmpeg;
  readonly facts: MediaFacts & { readonly video: VideoFacts };
  readonly info: VideoInfo;
  /** Rate of the frames as they are stored, before resampling. */
  readonly ownRate: Rate;
  /** Before that, on the source's clock, the decoder can only make up frames: a recording joined midway. */
  readonly firstKey: number;
  /** By how many seconds the times that FFmpeg gives are ahead of the source's clock. */
  readonly ahead: number;
}

export async function openFile(path: string, options: Options): Promise<VideoSource> {
  const ffmpeg = await findFfmpeg(), { limitPixels, signal } = options;
  const [probed, looked] = await Promise.allSettled([ // at once: neither takes long, and each waits for the disk
    probeMedia(path, limitPixels, signal),
    lookAtFirst(path, ffmpeg, options),
  ]);
  throwIfAborted(signal);
  if (probed.status === "rejected") throw probed.reason;
  const facts = checkFacts(path, probed.value, limitPixels);
  if (looked.status === "rejected") throw looked.reason;
  const { height, width, sampleAspect } = looked.value.header, { video } = facts;
  if (facts.format === "gif" && video.packets.length === 1) return await openImages(path, [path], options);

  const zero = facts.startSeconds ?? 0, firstKey = firstKeyOf(facts);
  const { rate: own, isVariable } = ownRate(video, firstKey + zero);
  const fps = options.fps === undefined ? own : toRate(options.fps);
  const ahead = aheadOf(facts, looked.value.seconds, firstKey);
  const startSeconds = Math.max(0, firstKey, looked.value.seconds - ahead);
  const end = video.durationSeconds === undefined
    ? facts.durationSeconds
    : (video.startSeconds ?? zero) - zero + video.durationSeconds;
  const length = end === undefined ? undefined : Math.max(0, end - startSeconds);
  const isCounted = options.fps === undefined && video.numFrames !== undefined && firstKey === -Infinity;
  const total = isCounted ? video.numFrames : length && Math.round(length * fps.num / fps.den);
  const left = total === undefined ? undefined : Math.max(0, total - options.start);
  const info: VideoInfo = Object.freeze({
    height,
    width,
    fps,
    numFrames: left === undefined ? undefined : Math.min(left, options.frames ?? left),
    isVariableRate: isVariable && options.fps === undefined,
    startSeconds,
    sampleAspect,
    rotation: (Math.round(360 - video.rotation) % 360 + 360) % 360,
    codec: video.codec,
    audioCodec: facts.audioCodec,
    hasAudio: facts.audioCodec !== undefined,
  });
  const opened = { path, ffmpeg, facts, info, ownRate: own, firstKey, ahead };
  return Object.freeze({ path, info, frames: () => decode(opened, options) });
}

/**
 * By how much FFmpeg's times are ahead of the source's clock. An elementary stream without timestamps is not moved, and
 * a transport stream whose picture starts more than ten seconds after its sound is moved to its first frame.
 */
function aheadOf(
  { video: { packets }, startSeconds = 0 }: Opened["facts"],
  firstSeconds: number,
  firstKey: number,
): number {
  const shown = packets.filter(({ isDropped, seconds }) => !isDropped && seconds !== undefined);
  if (shown.length === 0) return packets.some(({ decodedSeconds }) => decodedSeconds !== undefined) ? offsetSeconds : 0;
  const wanted = shown.reduce((least, { seconds }) => Math.min(least, seconds!), Infinity) - startSeconds;
  const isMoved = firstKey === -Infinity && Math.abs(firstSeconds - offsetSeconds - wanted) > 1;
  return isMoved ? firstSeconds - wanted : offsetSeconds;
}

function checkFacts(path: string, { video, ...facts }: MediaFacts, limitPixels: number): Opened["facts"] {
  if (video === undefined) {
    const found = facts.audioCodec === undefined ? `none (${facts.format})` : `only audio (${facts.audioCodec})`;
    throw new TokenizerError("VIDEO", `${path}: expected a video stream, found ${found}`);
  }
  if (video.height * video.width > limitPixels) throw tooLarge("VIDEO", path, limitPixels, video.height, video.width);
  return { ...facts, video };
}

/** Decodes the first frame, for its size, pixel aspect and time. */
async function lookAtFirst(
  path: string,
  ffmpeg: Ffmpeg,
  { limitPixels, signal }: Options,
): Promise<{ header: NutHeader; seconds: number }> {
  const log = new FfmpegLog(fileUrl(path));
  const run = startFfmpeg(ffmpeg, decodeArgs(path, ffmpeg, limitPixels, "", 1), { signal, onLine: log.read });
  const reader = new NutReader(run.stdout);
  const header = await reader.header(), frame = await reader.frame();
  if (frame) { while (await reader.frame()); }
  const ending = await run.ended;
  throwIfAborted(signal);
  if (ending.signal) throw endedEarly(path, ending, 0);
  if (header && frame) return { header, seconds: frame.seconds };
  const size = log.excess(false);
  if (size && size.height * size.width > limitPixels) {
    throw tooLarge("VIDEO", path, limitPixels, size.height, size.width);
  }
  const why = log.reason ? `: ${log.reason}` : "";
  throw new TokenizerError("VIDEO", `${path}: expected at least one frame, found none${why}`, { detail: 0 });
}

/**
 * The time from which on frames are real and not made up by the decoder: -Infinity unless the first packet refers to
 * others that are missing.
 */
function firstKeyOf({ video: { packets }, startSeconds = 0 }: Opened["facts"]): number {
  if (packets.length === 0 || packets[0]!.isKey) return -Infinity;
  const key = packets.find(({ isKey }) => isKey)?.seconds;
  return key === undefined ? -Infinity : key - startSeconds;
}

/** The highest frame rate, per second, that a container is believed to have where no frames tell. */
const mostRate = 240;

/**
 * The rate of the first frames, on the container's clock from `first` on, and whether it varies. What the container
 * declares is tried first, and believed where it fits, and where not every packet has a time (MPEG program streams).
 */
function ownRate(
  { packets, tickRate, averageRate: average }: VideoFacts,
  first: number,
): { rate: Rate; isVariable: boolean } {
  const declared = [average, tickRate].filter((rate) => rate !== undefined);
  const shown = packets.filter(({ isDropped }) => !isDropped);
  if (declared[0] !== undefined && shown.some(({ seconds }) => seconds === undefined)) {
    return { rate: parseRate(declared[0]), isVariable: false };
  }
  const last = packets.at(-1)?.decodedSeconds ?? Infinity; // later frames may have one missing before them
  const seconds = shown.flatMap(({ seconds }) => seconds ?? [])
    .filter((time) => time > first - roundingSeconds && (time <= last || packets.length < 16)).sort((a, b) => a - b);
  const isPlain = (rate: string) => /\/(1|2|1001)$/.test(rate); // not one that a rounding clock made
  const steady = steadyRate(seconds, declared.filter(isPlain), declared.filter((rate) => !isPlain(rate)));
  if (seconds.length < 2) { // one frame, whose container may declare its clock's ticks
    return { rate: parseRate(declared.find((rate) => perSecond(rate) <= mostRate) ?? "25/1"), isVariable: false };
  }
  if (steady?.fps !== undefined) return { rate: parseRate(steady.fps), isVariable: false };
  return { rate: parseRate(averageRate(seconds) ?? average ?? "25/1"), isVariable: true };
}

async function* decode(opened: Opened, options: Options): AsyncGenerator<TimedFrame, void, undefined> {
  const { path, ffmpeg, info: { height, width }, ownRate: { num, den }, firstKey, ahead } = opened;
  const { start, frames = Infinity, fps, limitPixels, limitFrames, signal } = options;
  // FFmpeg would scale a frame of another size to the first one's. This crop does nothing, or fails when it is set up
  // anew.
  const filters = `format=rgb24,crop=if(eq(iw\\,${width})*eq(ih\\,${height})\\,iw\\,-1):ih:0:0`;
  const isCounted = fps === undefined && firstKey === -Infinity;
  const most = isCounted ? start + Math.min(frames, limitFrames + 1) : Infinity;
  const log = new FfmpegLog(fileUrl(path));
  const args = decodeArgs(path, ffmpeg, limitPixels, filters, most);
  const run = startFfmpeg(ffmpeg, args, { signal, onLine: log.read });
  // Note: the stream is read by hand, as Deno's own iterator, when it is left early, destroys the stream with an error
  // that nobody can catch.
  const reader = new NutReader(run.stdout.iterator({ destroyOnReturn: false }) as AsyncIterable<Uint8Array>, ahead);
  let numFrames = 0;
  /** Frames that are no decoder's invention, but for the first ones. */
  async function* real(numSkipped: number): AsyncGenerator<TimedFrame> {
    for (let frame, n = 0; (frame = await reader.frame());) {
      if (!(frame.seconds > firstKey - roundingSeconds) || n++ < numSkipped) continue;
      // Note: FFmpeg takes the earliest first packet for zero. A frame that is decoded later may be shown before it.
      yield frame.seconds >= 0 ? frame : { ...frame, seconds: 0 };
    }
  }
  try {
    const shown = fps === undefined ? real(start) : resampled(real(0), toRate(fps), start, den / num);
    for await (const frame of shown) {
      if (numFrames === limitFrames) {
        const message = `${path}: expected at most ${limitFrames} frames (limitFrames), found more`;
        throw new TokenizerError("VIDEO", message, { detail: numFrames });
      }
      numFrames++;
      run.hold(false); // whoever leaves the loop here, without a word, is not kept from ending
      yield frame;
      run.hold(true);
      throwIfAborted(signal);
      if (numFrames === frames && !isCounted) return;
    }
    await checkEnd(opened, await run.ended, log, options, numFrames, reader.isCut);
  } finally {
    await run.kill();
  }
}

/** A container's clock may round a frame's time up by a millisecond. */
const clockSeconds = 0.001;

/**
 * What is shown at the first frame's time and every 1 / fps seconds from there, from the moment `start` on: a frame is
 * shown until the next one's time, the last one for `lasting` seconds.
 */
async function* resampled(
  frames: AsyncGenerator<TimedFrame>,
  { num, den }: Rate,
  start: number,
  lasting: number,
): AsyncGenerator<TimedFrame> {
  let shown: TimedFrame | undefined, first = 0, n = start;
  const tolerance = Math.min(clockSeconds, den / num / 2);
  function* until(seconds: number): Generator<TimedFrame> {
    for (let at; (at = first + n * den / num) < seconds - tolerance; n++) {
      yield { data: shown!.data.slice(), seconds: at };
    }
  }
  for await (const frame of frames) {
    if (shown) yield* until(frame.seconds);
    else first = frame.seconds;
    shown = frame;
  }
  if (shown) yield* until(shown.seconds + lasting);
}

/** Throws unless a run of FFmpeg that gave `numFrames` frames ended without a failure. */
async function checkEnd(
  { path, facts, info: { height, width } }: Opened,
  ending: Ending,
  log: FfmpegLog,
  { start, limitPixels, allowDamage, signal }: Options,
  numFrames: number,
  isCut: boolean,
): Promise<void> {
  throwIfAborted(signal);
  const fail = (wanted: string, found: string) => {
    throw new TokenizerError("VIDEO", `${path}: expected ${wanted}, found ${found}`, { detail: numFrames });
  };
  if (ending.signal) throw endedEarly(path, ending, numFrames);
  const excess = log.excess(true);
  if (excess && excess.height * excess.width > limitPixels) {
    throw tooLarge("VIDEO", path, limitPixels, excess.height, excess.width);
  }
  const size = ending.code === 0 ? undefined : await findOtherSize(path, limitPixels, signal);
  if (size) {
    const isTurned = Math.round(facts.video.rotation / 90) % 2 !== 0;
    const found = isTurned ? `${size.height}x${size.width}` : `${size.width}x${size.height}`;
    fail(`every frame to be ${width}x${height} pixels`, `${found} after ${numFrames} frames`);
  }
  const damage = log.damage(facts.format);
  if (damage !== undefined && (ending.code !== 0 || !allowDamage)) {
    fail("a whole video", `it cut short or damaged; ${numFrames} frames were read; FFmpeg says: ${damage}`);
  }
  if (ending.code !== 0 || isCut) throw endedEarly(path, ending, numFrames, log.reason);
  if (numFrames === 0) fail(start > 0 ? `a frame ${start} (counted from 0)` : "at least one frame", "no frame there");
}

function endedEarly(path: string, ending: Ending, detail: number, reason = ""): TokenizerError {
  const found = `${tellEnding(ending)} after ${detail} frames${reason ? `: ${reason}` : ""}`;
  return new TokenizerError("FFMPEG", `${path}: expected FFmpeg to read it to the end, found ${found}`, { detail });
}
