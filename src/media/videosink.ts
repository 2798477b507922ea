/**
 * Videos out: RGB frames to H.264 or lossless FFV1 through FFmpeg, audio copied from another file on request. The file is
 * there complete or not at all, as everything that ctok writes (files.ts): FFmpeg writes to a temporary name in the same
 * folder, which takes the real one in `close`. Called by the command line.
 */
import { stat } from "node:fs/promises";
import { constants } from "node:os";
import { extname } from "node:path";
import { z } from "zod";
import { expected, TokenizerError } from "../errors.ts";
import { ioError, PendingFile } from "../files.ts";
import { mostPixels, parse } from "../options.ts";
import type { Ending, Ffmpeg, FfmpegRun } from "./ffmpeg.ts";
import { fileUrl, findFfmpeg, inputArgs, startFfmpeg, tellEnding, throwIfAborted } from "./ffmpeg.ts";
import { FfmpegLog } from "./ffmpeglog.ts";
import { probeMedia } from "./ffprobe.ts";
import { rateOption, toRate } from "./rate.ts";

const containers = {
  ".mp4": { muxer: "mp4", codec: "h264", flags: ["-movflags", "+faststart"] },
  ".mov": { muxer: "mov", codec: "h264", flags: ["-movflags", "+faststart"] },
  ".mkv": { muxer: "matroska", codec: "ffv1", flags: [] },
} as const;

/** Audio that MP4 and QuickTime hold with either FFmpeg; other audio becomes AAC there. Matroska takes all. */
const mp4Audio: readonly (string | undefined)[] = ["aac", "mp3", "ac3", "eac3", "alac"];

const sinkOptions = z.strictObject({
  /** Of every frame, in pixels. */
  height: z.int().min(1).max(16384),
  width: z.int().min(1).max(16384),
  /** Frames per second. */
  fps: rateOption,
  /** "h264": to look at. "ffv1": every pixel exact; .mkv alone. Default: by the extension. */
  codec: z.enum(["h264", "ffv1"]).optional(),
  /** A file whose first audio stream goes along, as it is where the container takes it, else as AAC. None there: none here. */
  audioFrom: z.string().min(1).optional(),
  /** Where in that audio the video begins, in seconds. */
  audioStartSeconds: z.number().min(0).default(0),
  /** Abandons the video: as `abort`, and the work under way fails with code CANCELLED. */
  signal: z.custom<AbortSignal>((v) => v instanceof AbortSignal, "expected an AbortSignal").optional(),
});
export type VideoSinkOptions = z.input<typeof sinkOptions>;
type Options = z.output<typeof sinkOptions>;

/**
 * Starts a video file: .mp4 and .mov hold H.264, .mkv lossless FFV1 unless `codec` says h264. The file replaces one of
 * that name, through a symbolic link the file that it points to.
 *
 * H.264 is x264's veryfast at CRF 16, BT.709, 4:2:0 where height and width are even. Where one is odd it is 4:4:4, because
 * 4:2:0 H.264 has no odd sizes: the frame keeps its size, at the price that some browsers and phones cannot play it.
 *
 * Errors: ARGUMENT; FILE_MISSING for audioFrom; FILE_IO for a path that is a folder or device, or in no folder; FFMPEG when
 * FFmpeg is not found; CANCELLED.
 */
export async function createVideo(path: string, options: VideoSinkOptions): Promise<VideoSink> {
  const wanted = parse(sinkOptions, options, "options");
  const extension = extname(path).toLowerCase();
  if (!Object.hasOwn(containers, extension)) throw expected(path, `one of ${Object.keys(containers).join(", ")}`, extension);
  const container = containers[extension as keyof typeof containers];
  const codec = wanted.codec ?? container.codec;
  if (codec === "ffv1" && container.muxer !== "matroska") throw expected(path, ".mkv, which holds FFV1", extension);
  throwIfAborted(wanted.signal);

  const ffmpeg = await findFfmpeg();
  const from = wanted.audioFrom;
  const audio = from === undefined ? undefined : await findAudio(from, container.muxer, wanted);
  const finish = ["-f", container.muxer, ...container.flags];
  const { height, width } = wanted, { num, den } = toRate(wanted.fps);
  const video = await PendingFile.create(path);
  try {
    const run = startFfmpeg(ffmpeg, [
      ...["-f", "rawvideo", "-pix_fmt", "rgb24", "-s", `${width}x${height}`, "-framerate", `${num}/${den}`, "-i", "pipe:0"],
      ...(codec === "ffv1" ? ffv1Args(height, width) : h264Args(height, width)),
      // With audio to come, this file is read once more: no need to bring its index to the front.
      ...(audio ? ["-f", container.muxer] : finish),
      ...["-y", fileUrl(video.temporary)],
    ], { stdin: "pipe", signal: wanted.signal });
    return new VideoSink({ path, ffmpeg, options: wanted, video, audio, finish }, run);
  } catch (error) {
    await video.discard();
    throw error;
  }
}

/**
 * FFV1 has no rgb24; bgr0 is the same bytes in another order. Level 3 cuts a frame into slices, for speed; where a frame is
 * smaller than its slices FFmpeg writes what it cannot read (seen up to 16 × 3 with FFmpeg 4.1 and 5.1), so level 1 there.
 */
function ffv1Args(height: number, width: number): string[] {
  return ["-c:v", "ffv1", "-level", Math.min(height, width) < 16 ? "1" : "3", "-pix_fmt", "bgr0"];
}

function h264Args(height: number, width: number): string[] {
  const pixels = height % 2 === 0 && width % 2 === 0 ? "yuv420p" : "yuv444p";
  return [
    ...["-vf", `scale=out_color_matrix=bt709:out_range=tv,format=${pixels}`],
    ...["-c:v", "libx264", "-preset", "veryfast", "-crf", "16", "-pix_fmt", pixels],
    ...["-colorspace", "bt709", "-color_primaries", "bt709", "-color_trc", "bt709", "-color_range", "tv"],
  ];
}

interface Audio {
  readonly inputs: readonly string[];
  readonly outputs: readonly string[];
}

/** Options of the second pass, undefined when there is no audio to take along. */
async function findAudio(from: string, muxer: string, options: Options): Promise<Audio | undefined> {
  await stat(from).catch((error) => {
    throw ioError(from, "read", error);
  });
  const { audioCodec } = await probeMedia(from, mostPixels, options.signal, "a file with audio that FFmpeg can read");
  if (audioCodec === undefined) return undefined;
  const codec = muxer === "matroska" || mp4Audio.includes(audioCodec) ? ["copy"] : ["aac", "-b:a", "192k"];
  const start = options.audioStartSeconds > 0 ? ["-ss", String(options.audioStartSeconds)] : [];
  // A copy would begin with the packets since the last key frame of the video beside it.
  const drop = start.length > 0 ? ["-copypriorss", "0"] : [];
  return { inputs: [...start, ...inputArgs(from, mostPixels)], outputs: ["-c:a", ...codec, ...drop] };
}

interface Plan {
  readonly path: string;
  readonly ffmpeg: Ffmpeg;
  readonly options: Options;
  /** Without audio. */
  readonly video: PendingFile;
  readonly audio: Audio | undefined;
  readonly finish: readonly string[];
}

/** A video being written; made by createVideo. `await using` abandons what was not closed. */
export class VideoSink {
  readonly path: string;
  readonly #plan: Plan;
  readonly #run: FfmpegRun;
  /** Of the frames that FFmpeg has not taken yet: once it is gone, their callbacks may never come. */
  readonly #refusals = new Set<() => void>();
  #hasEnded = false;
  #numFrames = 0;
  #state: "open" | "closing" | "aborted" = "open";
  #closed: Promise<void> | undefined;

  /** @internal */
  constructor(plan: Plan, run: FfmpegRun) {
    this.path = plan.path;
    this.#plan = plan;
    this.#run = run;
    run.stdout.resume();
    void run.ended.then(async () => {
      this.#hasEnded = true;
      for (const refuse of this.#refusals) refuse();
      if (plan.options.signal?.aborted) await this.abort();
    });
  }

  /** Frames written so far. */
  get numFrames(): number {
    return this.#numFrames;
  }

  /**
   * Adds a frame, uint8 [height, width, 3]. Resolves when FFmpeg has taken it, so that a loop that awaits keeps no frames;
   * the memory is then the caller's again. Throws SHAPE, CLOSED, CANCELLED; FFMPEG with its words when it failed,
   * FILE_IO when the disk is full: the sink is then abandoned.
   */
  async write(frame: Uint8Array): Promise<void> {
    const { height, width, signal } = this.#plan.options;
    throwIfAborted(signal);
    if (this.#state !== "open") throw expected(this.path, "a video that is open", this.#state, "CLOSED");
    if (!(frame instanceof Uint8Array)) throw expected("frame", "a Uint8Array of RGB pixels", typeof frame);
    if (frame.length !== height * width * 3) {
      throw expected("frame", `${height * width * 3} bytes (${height} by ${width} pixels)`, frame.length, "SHAPE");
    }
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
  }

  /**
   * Ends the video and gives it its name; resolves when it is on the disk. Called again, it is the same promise. Throws
   * VIDEO when no frame was written, CLOSED after abort, CANCELLED, FFMPEG, FILE_IO (a full disk, too); nothing is then left
   * behind.
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
    this.#run.stdin.end();
    await this.#check(await this.#run.ended);
    try {
      throwIfAborted(signal);
      if (this.#numFrames === 0) throw expected(path, "at least one frame", "none", "VIDEO");
      const { audio, video } = this.#plan;
      if (audio) await this.#publishWithAudio(audio);
      else await video.publish();
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

  /** A second pass, because the audio's length is the video's, which nobody knew before. */
  async #publishWithAudio({ inputs, outputs }: Audio): Promise<void> {
    const { path, ffmpeg, options, video, finish } = this.#plan;
    const { num, den } = toRate(options.fps);
    const both = await PendingFile.create(path);
    try {
      const run = startFfmpeg(ffmpeg, [
        ...["-i", fileUrl(video.temporary), "-t", String(this.#numFrames * den / num), ...inputs],
        ...["-map", "0:v:0", "-map", "1:a:0?", "-c:v", "copy", ...outputs, ...finish, "-y", fileUrl(both.temporary)],
      ], { signal: options.signal });
      run.stdout.resume();
      await this.#check(await run.ended);
      await both.publish();
    } finally {
      await both.discard();
    }
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
    throw new TokenizerError("FFMPEG", `${path}: expected FFmpeg to write it, found ${found}`, { detail: this.#numFrames });
  }
}
