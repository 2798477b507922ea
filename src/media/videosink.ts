/**
 * Videos out: RGB frames with their times to H.264 or lossless FFV1 through FFmpeg, audio from another file on request.
 * The file is there complete or not at all, as everything that ctok writes (files.ts): FFmpeg writes to a temporary
 * file in the same folder, which takes the real name in `close`. Called by the command line.
 *
 * Frames go to FFmpeg as NUT (nutwriter.ts), so that each keeps its time. Matroska without audio is written at once;
 * all else is encoded into a NUT file, which a second run copies into its container: how long the audio goes on is
 * known only at the end, and FFmpeg of 2018 gives the last frame of an MP4 no duration otherwise.
 */
import { stat } from "node:fs/promises";
import { constants } from "node:os";
import { extname } from "node:path";
import { z } from "zod";
import { throwIfAborted } from "../abort.ts";
import { expected, TokenizerError } from "../errors.ts";
import { ioError, PendingFile } from "../files.ts";
import { type Fields, mostPixels, parse, signal } from "../checks.ts";
import { coarsestTick } from "../tokens/times.ts";
import type { Ending, Ffmpeg, FfmpegRun } from "./ffmpeg.ts";
import { fileUrl, findFfmpeg, inputArgs, startFfmpeg, tellEnding } from "./ffmpeg.ts";
import { FfmpegLog } from "./ffmpeglog.ts";
import { probeMedia } from "./ffprobe.ts";
import { nutFrameHeader, nutHeader } from "./nutwriter.ts";
import { type Rate, rateOption, toRate } from "../tokens/rate.ts";

const containers = {
  ".mp4": { muxer: "mp4", codec: "h264" },
  ".mov": { muxer: "mov", codec: "h264" },
  ".mkv": { muxer: "matroska", codec: "ffv1" },
  ".y4m": { muxer: "yuv4mpegpipe", codec: "y4m" },
} as const;
/** Extensions of the videos that createVideo writes. */
export const videoExtensions: readonly string[] = Object.keys(containers);

/** Audio that MP4 and QuickTime hold with either FFmpeg; other audio becomes AAC there. Matroska takes all. */
const mp4Audio: readonly (string | undefined)[] = ["aac", "mp3", "ac3", "eac3", "alac"];

const aspectPart = z.int().min(1).max(2 ** 31 - 1);
/** Latest time of a frame, in seconds: 68 years. */
const maxSeconds = 2 ** 31;

export interface VideoSinkOptions {
  /** Height of every frame, in pixels, 1 to 16384. */
  height: number;
  /** Width of every frame, in pixels, 1 to 16384. */
  width: number;
  /** Frames per second, where the rate is constant; the average, where frames are written with times of their own. */
  fps: number | Rate;
  /**
   * A pixel's width to its height. Default: square. Note: Matroska keeps it as a size in whole pixels, so a little
   * rounded.
   */
  sampleAspect?: { num: number; den: number } | undefined;
  /** Codec: "h264" for viewing, or "ffv1", lossless and for .mkv only. Default: by the extension. */
  codec?: "h264" | "ffv1" | undefined;
  /**
   * A file whose first audio stream goes along, as it is where the container takes it, else as AAC. None there: none
   * here.
   */
  audioFrom?: string | undefined;
  /**
   * The time, in seconds on the clock of the frames and the audio, that becomes the video's zero: what sounds before it
   * is cut off, and no frame may be earlier. Zero of a file's clock is the earliest start of its streams.
   */
  startSeconds?: number | undefined;
  /** Abandons the video: as `abort`, and the work under way fails with code CANCELLED. */
  signal?: AbortSignal | undefined;
}
const sinkOptions = z.strictObject(
  {
    height: z.int().min(1).max(16384),
    width: z.int().min(1).max(16384),
    fps: rateOption,
    sampleAspect: z.strictObject({ num: aspectPart, den: aspectPart }).default({ num: 1, den: 1 }),
    codec: z.enum(["h264", "ffv1"]).optional(),
    audioFrom: z.string().min(1).optional(),
    startSeconds: z.number().min(0).max(maxSeconds).default(0),
    signal,
  } satisfies Fields<VideoSinkOptions>,
);
type Options = z.output<typeof sinkOptions>;

/**
 * Starts a video file: .mp4 and .mov hold H.264, .mkv lossless FFV1 unless `codec` says h264, .y4m uncompressed YUV for
 * other programs. The file replaces one of that name, through a symbolic link the file that it points to.
 *
 * H.264 is x264's veryfast at CRF 16, BT.709, 4:2:0 where height and width are even. Where one is odd it is 4:4:4,
 * because 4:2:0 H.264 has no odd sizes: the frame keeps its size, at the price that some browsers and phones cannot
 * play it.
 *
 * Y4M holds neither sound nor times: frames are repeated and left out to keep a constant rate. Its YUV is BT.601 in
 * 4:4:4, as FFmpeg takes it back: the format has no field for the matrix.
 *
 * Errors: ARGUMENT; FILE_MISSING for audioFrom; FILE_IO for a path that is a folder or device, or in no folder; FFMPEG
 * when FFmpeg is not found; CANCELLED.
 */
export async function createVideo(path: string, options: VideoSinkOptions): Promise<VideoSink> {
  const wanted = parse(sinkOptions, options, "options");
  const extension = extname(path).toLowerCase();
  if (!Object.hasOwn(containers, extension)) throw expected(path, `one of ${videoExtensions.join(", ")}`, extension);
  const container = containers[extension as keyof typeof containers];
  const codec = wanted.codec ?? container.codec;
  if (codec === "ffv1" && container.muxer !== "matroska") throw expected(path, ".mkv, which holds FFV1", extension);
  if (codec === "h264" && container.codec === "y4m") {
    throw expected(path, ".mp4, .mov or .mkv, which hold H.264", extension);
  }
  throwIfAborted(wanted.signal);

  const ffmpeg = await findFfmpeg();
  const from = wanted.audioFrom;
  if (from !== undefined && codec === "y4m") {
    throw expected("options.audioFrom", "none with .y4m, which holds no sound", from);
  }
  const audioCodec = from === undefined ? undefined : await findAudio(from, wanted.signal);
  const { muxer } = container,
    clock = clockOf(toRate(wanted.fps)),
    isDirect = (muxer === "matroska" || codec === "y4m") && audioCodec === undefined;
  const video = await PendingFile.create(path);
  try {
    const run = startFfmpeg(ffmpeg, [
      ...["-copyts", "-f", "nut", "-probesize", "32", "-analyzeduration", "0", "-i", "pipe:0"],
      ...(codec === "y4m" ? [] : ffmpeg.passFrames),
      ...codecArgs(codec, wanted, ffmpeg),
      // Else FFmpeg would shift the frames until the first one is decoded at zero, which is before it is shown.
      ...(isDirect ? ["-f", muxer] : ["-avoid_negative_ts", "disabled", "-f", "nut"]),
      ...["-y", fileUrl(await video.pathForChild())],
    ], { stdin: "pipe", signal: wanted.signal });
    return new VideoSink({ path, ffmpeg, options: wanted, clock, video, muxer, audioCodec, isDirect }, run);
  } catch (error) {
    await video.discard();
    throw error;
  }
}

/** How the times of frames are counted in the result. */
interface Clock {
  readonly rate: Rate;
  /** Ticks in a second, and in a frame of the constant rate: whole numbers. A tick is at most 11 microseconds. */
  readonly ticks: number;
  readonly frameTicks: number;
}

function clockOf(rate: Rate): Clock {
  const factor = Math.ceil(90_000 / rate.num);
  return { rate, ticks: rate.num * factor, frameTicks: rate.den * factor };
}

interface Size {
  readonly height: number;
  readonly width: number;
}

function codecArgs(codec: "ffv1" | "h264" | "y4m", wanted: Options, ffmpeg: Ffmpeg): string[] {
  if (codec === "ffv1") return ffv1Args(wanted);
  if (codec === "h264") return [...h264Args(wanted), ...ffmpeg.h264Options];
  const { num, den } = toRate(wanted.fps), [howFramesPass] = ffmpeg.passFrames as [string];
  const picture = ["-vf", "scale=out_color_matrix=bt601:out_range=tv,format=yuv444p", "-pix_fmt", "yuv444p"];
  return [howFramesPass, "cfr", "-r", `${num}/${den}`, ...picture];
}

/**
 * FFV1 has no rgb24; bgr0 is the same bytes in another order. Level 3 cuts a frame into slices, for speed; where a
 * frame is smaller than its slices FFmpeg writes what it cannot read (seen up to 16 × 3 with FFmpeg 4.1 and 5.1), so
 * level 1 there.
 */
function ffv1Args({ height, width }: Size): string[] {
  return ["-c:v", "ffv1", "-level", Math.min(height, width) < 16 ? "1" : "3", "-pix_fmt", "bgr0"];
}

function h264Args({ height, width }: Size): string[] {
  const pixels = height % 2 === 0 && width % 2 === 0 ? "yuv420p" : "yuv444p";
  return [
    ...["-vf", `scale=out_color_matrix=bt709:out_range=tv,format=${pixels}`],
    ...["-c:v", "libx264", "-preset", "veryfast", "-crf", "16", "-pix_fmt", pixels],
    ...["-colorspace", "bt709", "-color_primaries", "bt709", "-color_trc", "bt709", "-color_range", "tv"],
  ];
}

/** FFmpeg's name of the first audio stream's codec; undefined when there is none to take along. */
async function findAudio(from: string, signal: AbortSignal | undefined): Promise<string | undefined> {
  await stat(from).catch((error) => {
    throw ioError(from, "read", error);
  });
  return (await probeMedia(from, mostPixels, signal, "a file with audio that FFmpeg can read")).audioCodec;
}

interface Plan {
  readonly path: string;
  readonly ffmpeg: Ffmpeg;
  readonly options: Options;
  readonly clock: Clock;
  readonly muxer: "mp4" | "mov" | "matroska" | "yuv4mpegpipe";
  readonly audioCodec: string | undefined;
  /**
   * The file that the first run of FFmpeg writes: the result where `isDirect`, else a temporary NUT file of the frames.
   */
  readonly video: PendingFile;
  readonly isDirect: boolean;
}

/** A video being written; made by createVideo. `await using` abandons what was not closed. */
export class VideoSink {
  readonly path: string;
  readonly #plan: Plan;
  readonly #run: FfmpegRun;
  /** Reject the frames that FFmpeg has not taken yet: once it is gone, the callbacks of their writes may never come. */
  readonly #refusals = new Set<() => void>();
  #hasEnded = false;
  #numFrames = 0;
  /** When the first and the last frame are shown, in ticks of the result's clock. */
  #first: number | undefined;
  #last = -1;
  /** The earliest time that the next frame may have, in seconds. */
  #lastSeconds: number;
  /** How many frames were passed in, and whether all of them so far keep the constant rate. */
  #numGiven = 0;
  #isConstant = true;
  #state: "open" | "closing" | "aborted" = "open";
  #closed: Promise<void> | undefined;

  /** @internal */
  constructor(plan: Plan, run: FfmpegRun) {
    this.path = plan.path;
    this.#plan = plan;
    this.#run = run;
    this.#lastSeconds = plan.options.startSeconds;
    run.stdout.resume();
    run.hold(false); // but while it is waited for: a sink that is left alone does not keep the process from ending
    void run.ended.then(async () => {
      this.#hasEnded = true;
      for (const refuse of this.#refusals) refuse();
      if (plan.options.signal?.aborted) await this.abort();
    });
  }

  /** How many frames were written so far. */
  get numFrames(): number {
    return this.#numFrames;
  }

  /**
   * Adds a frame, uint8 [height, width, 3], shown from `seconds` on (of the clock that `startSeconds` is about) until
   * the next one is, the last one for 1/fps. Default: at the constant rate from `startSeconds` on. Times may not go
   * back by more than a tick of a coarse clock, 1/600 s. As long as they are within one of a constant rate they are
   * that rate's, exactly.
   *
   * Resolves when FFmpeg has taken it, so that a loop that awaits keeps no frames; the memory is then the caller's
   * again. Throws SHAPE, ARGUMENT, CLOSED, CANCELLED; FFMPEG with its words when it failed, FILE_IO when the disk is
   * full: the sink is then abandoned.
   */
  async write(frame: Uint8Array, seconds?: number): Promise<void> {
    const { options: { height, width, signal, sampleAspect }, clock } = this.#plan;
    throwIfAborted(signal);
    if (this.#state !== "open") throw expected(this.path, "a video that is open", this.#state, "CLOSED");
    if (!(frame instanceof Uint8Array)) throw expected("frame", "a Uint8Array of RGB pixels", typeof frame);
    if (frame.length !== height * width * 3) {
      throw expected("frame", `${height * width * 3} bytes (${width}x${height} pixels)`, frame.length, "SHAPE");
    }
    const tick = this.#place(seconds), isFirst = this.#numGiven++ === 0;
    if (isFirst) this.#run.stdin.write(nutHeader({ height, width, ...clock, sampleAspect }));
    this.#run.stdin.write(nutFrameHeader(tick, frame.length));
    this.#run.hold(true);
    const isTaken = !this.#hasEnded && await new Promise<boolean>((settle) => {
      const refuse = () => settle(false);
      this.#refusals.add(refuse);
      this.#run.stdin.write(frame, (error) => {
        this.#refusals.delete(refuse);
        settle(!error);
      });
    });
    if (!isTaken) return await this.#fail(await this.#run.ended);
    this.#numFrames++;
    if (this.#refusals.size === 0) this.#run.hold(false);
  }

  /** The tick of the result's clock at which the next frame is shown. */
  #place(seconds: number | undefined): number {
    const { options: { startSeconds }, clock: { ticks, frameTicks } } = this.#plan;
    const given = seconds ?? startSeconds + this.#numGiven * frameTicks / ticks;
    if (typeof given !== "number" || !(given >= this.#lastSeconds - coarsestTick && given < maxSeconds)) {
      throw expected("seconds", `from ${this.#lastSeconds} to ${maxSeconds}`, given);
    }
    const asked = (given - startSeconds) * ticks;
    this.#first ??= Math.max(0, Math.round(asked));
    const regular = this.#first + Math.round((asked - this.#first) / frameTicks) * frameTicks;
    const tolerance = Math.min(coarsestTick * ticks + 1, frameTicks / 4);
    this.#isConstant &&= Math.abs(asked - regular) <= tolerance && regular > this.#last;
    this.#lastSeconds = given;
    return this.#last = Math.max(this.#isConstant ? regular : Math.round(asked), this.#last + 1);
  }

  /**
   * Ends the video and gives it its name; resolves when it is on the disk. Called again, it is the same promise. Throws
   * VIDEO when no frame was written, CLOSED after abort, CANCELLED, FFMPEG, FILE_IO (a full disk, too); nothing is then
   * left behind.
   */
  close(): Promise<void> {
    return this.#closed ??= this.#close();
  }

  async #close(): Promise<void> {
    const { path, options: { signal } } = this.#plan;
    if (this.#state === "aborted") {
      throwIfAborted(signal);
      throw expected(path, "a video that is open", "aborted", "CLOSED");
    }
    this.#state = "closing";
    this.#run.hold(true);
    try {
      const isEmpty = this.#numGiven === 0;
      if (isEmpty) await this.#run.kill();
      else this.#run.stdin.end();
      const ending = await this.#run.ended;
      throwIfAborted(signal);
      if (isEmpty) throw expected(path, "at least one frame", "none", "VIDEO");
      await this.#check(ending);
      if (this.#plan.isDirect) await this.#plan.video.publish();
      else await this.#publishCopy();
    } finally {
      await this.#plan.video.discard();
    }
  }

  /** Abandons the video: FFmpeg ends and nothing of the file is left. After close it does nothing. */
  async abort(): Promise<void> {
    if (this.#state === "closing") return void await this.#closed!.catch(() => {});
    this.#state = "aborted";
    await this.#run.kill();
    await this.#plan.video.discard();
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await this.abort();
  }

  /** The second run: the frames into their container, with the audio from the video's zero to its last frame's end. */
  async #publishCopy(): Promise<void> {
    const { path, ffmpeg, options: { signal }, clock: { ticks, frameTicks }, video, muxer } = this.#plan;
    const end = ((this.#last + frameTicks) / ticks).toFixed(6);
    const both = await PendingFile.create(path);
    try {
      const run = startFfmpeg(ffmpeg, [
        ...["-itsoffset", (this.#first! / ticks).toFixed(6), "-f", "nut", "-i", fileUrl(await video.pathForChild())],
        ...this.#audioInput(),
        ...["-map_chapters", "-1", "-map", "0:v:0", "-c:v", "copy", ...this.#audioOutput(end), "-t", end],
        ...(muxer === "matroska" ? [] : ["-video_track_timescale", String(ticks), "-movflags", "+faststart"]),
        ...["-f", muxer, "-y", fileUrl(await both.pathForChild())],
      ], { signal });
      run.stdout.resume();
      await this.#check(await run.ended);
      await both.publish();
    } finally {
      await both.discard();
    }
  }

  /** Note: the audio is read from its beginning, like the frames, as not every container finds a time to start from. */
  #audioInput(): string[] {
    const { audioCodec, options: { audioFrom, startSeconds } } = this.#plan;
    if (audioFrom === undefined || audioCodec === undefined) return [];
    // The microsecond keeps FFmpeg from moving the zero of transport and program streams to where the audio starts.
    return ["-itsoffset", (0.000001 - startSeconds).toFixed(6), ...inputArgs(audioFrom, mostPixels)];
  }

  #audioOutput(end: string): string[] {
    const { audioCodec: codec, muxer, options: { startSeconds } } = this.#plan;
    if (codec === undefined) return [];
    const isCopied = muxer === "matroska" || mp4Audio.includes(codec);
    if (!isCopied) return ["-map", "1:a:0", "-c:a", "aac", "-b:a", "192k", "-af", `atrim=start=0:end=${end}`];
    // Copied audio is cut at zero, packet by packet. MP4 keeps earlier packets that only prepare the decoder, hidden by
    // an edit list; Matroska would move everything to a later time to keep them.
    const isCut = startSeconds > 0 || muxer === "matroska";
    return ["-map", "1:a:0", "-c:a", "copy", ...(isCut ? ["-copypriorss", "0"] : [])];
  }

  async #check(ending: Ending): Promise<void> {
    if (ending.code !== 0 || FfmpegLog.of(ending).isUnwritten) await this.#fail(ending);
  }

  async #fail(ending: Ending): Promise<never> {
    this.#state = "aborted";
    await this.#plan.video.discard();
    const { path, options: { signal } } = this.#plan;
    throwIfAborted(signal);
    const reason = FfmpegLog.of(ending).reason || (ending.signal ? "no word of it" : ending.stderr.trim());
    if (reason.includes("No space left on device")) {
      const message = `${path}: expected the system to write it, found a full disk (${reason})`;
      throw new TokenizerError("FILE_IO", message, { detail: constants.errno.ENOSPC });
    }
    const found = `${tellEnding(ending)} after ${this.#numFrames} frames: ${reason}`;
    throw new TokenizerError("FFMPEG", `${path}: expected FFmpeg to write it, found ${found}`, {
      detail: this.#numFrames,
    });
  }
}
