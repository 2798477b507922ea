/**
 * Videos in: any container that FFmpeg reads (Y4M too), or a folder of numbered images, as a sequence of RGB frames that is
 * never in memory as a whole. Called by the streams and the command line; videos out are videosink.ts.
 *
 * Pixels are those of `ffmpeg -i FILE -f rawvideo -pix_fmt rgb24 -`, to the byte, which is how the reference answers were
 * made: FFmpeg's default conversion to 8-bit RGB, rotation applied. Audio is left out. Limits: high dynamic range is not
 * tone-mapped, interlaced fields stay woven, pixels that are not square stay as stored; of a Y4M file cut short FFmpeg drops
 * the last, partial frame and says nothing.
 */
import { access, constants, readdir, stat } from "node:fs/promises";
import { extname, join } from "node:path";
import { z } from "zod";
import { expected, TokenizerError } from "../errors.ts";
import { ioError } from "../files.ts";
import { limitPixels, parse } from "../options.ts";
import { type Ending, type Ffmpeg, findFfmpeg, inputArgs, startFfmpeg, tellEnding, throwIfAborted } from "./ffmpeg.ts";
import { FfmpegLog } from "./ffmpeglog.ts";
import { readImage } from "./image.ts";
import { tooLarge } from "./picture.ts";
import { type Rate, rateOption, toRate } from "./rate.ts";

export type { Rate } from "./rate.ts";
export { createVideo, type VideoSink, type VideoSinkOptions } from "./videosink.ts";

const videoOptions = z.strictObject({
  /**
   * The first frame wanted, counted from 0 (after `fps`, where that is given). Exact for every file, which has a price: the
   * frames before it are decoded and dropped.
   */
  start: z.int().min(0).default(0),
  /** How many frames at most. Default: all. */
  frames: z.int().min(1).optional(),
  /** Largest frame taken, height × width in pixels; a larger one is refused by its header. Default 16383². */
  limitPixels,
  /**
   * Most frames that a video may have; one more is an error, after those. Default 1,048,576, 11 hours at 25 a second: resampled,
   * a file of a few bytes whose timestamps lie has no end.
   */
  limitFrames: z.int().min(1).default(1 << 20),
  /**
   * Frames per second to resample to: a frame is repeated or left out so that each moment shows what the video shows then.
   * Default: each frame once. A folder of images has no rate: this is it, 25 when not given, and nothing is resampled.
   */
  fps: rateOption.optional(),
  /** Whether a damaged video may end without an error, spoilt frames patched by FFmpeg's decoder. */
  allowDamage: z.boolean().default(false),
  /** Ends the reading with code CANCELLED. */
  signal: z.custom<AbortSignal>((v) => v instanceof AbortSignal, "expected an AbortSignal").optional(),
});
export type VideoOptions = z.input<typeof videoOptions>;
type Options = z.output<typeof videoOptions>;

export interface VideoInfo {
  /** Of every frame, in pixels, upright. */
  readonly height: number;
  readonly width: number;
  /** Of the frames as they come: the `fps` asked for, else the video's own; its average when the rate varies. */
  readonly fps: Rate;
  /** How many frames will come: exact for a folder, else the header's duration times the rate; undefined when it has none. */
  readonly numFrames: number | undefined;
  /** Whether the rate is known to vary. Not every container tells. */
  readonly isVariableRate: boolean;
  /** Degrees clockwise by which the stored picture was turned to stand upright. */
  readonly rotation: number;
  /** FFmpeg's names, such as "h264" and "aac"; for a folder the first image's extension. */
  readonly codec: string;
  readonly audioCodec: string | undefined;
  readonly hasAudio: boolean;
}

export interface VideoSource {
  readonly path: string;
  readonly info: VideoInfo;
  /**
   * The frames in order, each uint8 [height, width, 3] in memory of its own. FFmpeg starts with the first frame asked for,
   * waits while none is, and is gone when the loop ends, early or not. Each call reads from the start.
   *
   * Errors come after every frame that could be read, with their number as `detail`: VIDEO when the file is cut short or
   * damaged, when the size changes (FFmpeg may lose a frame or two before that), when there is no frame from `start` on;
   * FFMPEG when FFmpeg failed or was killed; CANCELLED. A folder: VIDEO for an image of another size, and readImage's.
   */
  frames(): AsyncGenerator<Uint8Array, void, undefined>;
}

/**
 * Opens a video file, or a folder whose images (PNG, JPEG, WebP, AVIF, TIFF, GIF) in natural order (2 before 10) are its
 * frames. Reads no more than the header and the first frame.
 *
 * Where the rate varies, each stored frame comes once, because frames are what is tokenised: the constant rate that FFmpeg
 * would make by itself repeats and drops frames to fit a clock, sometimes a thousandfold. Ask for `fps` to have that.
 *
 * Only what holds its own frames is read: a playlist or script, which names other files or addresses, is refused under any
 * extension.
 *
 * Errors: FILE_MISSING, FILE_IO, ARGUMENT, CANCELLED; VIDEO when it is no video, has no video stream or no frames, or one
 * larger than `limitPixels` (`detail`: its pixels); FFMPEG when FFmpeg is not found.
 */
export async function openVideo(path: string, options: VideoOptions = {}): Promise<VideoSource> {
  const wanted = parse(videoOptions, options, "options");
  if (typeof path !== "string") throw expected("path", "a video file or a folder of images", typeof path);
  throwIfAborted(wanted.signal);
  const found = await stat(path).catch((error) => {
    throw ioError(path, "read", error);
  });
  if (found.isDirectory()) return await openFolder(path, wanted);
  if (!found.isFile()) throw expected(path, "a video file or a folder of images", "a device or pipe", "FILE_IO");
  await access(path, constants.R_OK).catch((error) => {
    throw ioError(path, "read", error);
  });
  return await openFile(path, wanted);
}

// ---------------------------------------------------------------- files
/** The first video stream that is not cover art, as raw frames on stdout, each handed on as soon as it is there. */
function decodeArgs(
  path: string,
  ffmpeg: Ffmpeg,
  limitPixels: number,
  filters: readonly string[],
  frames: number,
): string[] {
  return [
    ...inputArgs(path, limitPixels),
    ...["-map", "0:V:0", ...ffmpeg.passFrames],
    ...(filters.length > 0 ? ["-vf", filters.join(",")] : []),
    ...["-frames:v", String(frames)],
    ...["-f", "rawvideo", "-pix_fmt", "rgb24", "-flush_packets", "1", "pipe:1"],
  ];
}

async function openFile(path: string, options: Options): Promise<VideoSource> {
  const ffmpeg = await findFfmpeg();
  const log = await probe(path, ffmpeg, options);
  const { height, width } = log.output!;
  const [average, tick] = [log.averageRate, log.tickRate];
  const isVariable = isVaried(average, tick);
  const own = isVariable && average !== undefined ? toRate(average) : log.guessedRate ?? toRate(average ?? 25);
  const fps = options.fps === undefined ? own : toRate(options.fps);
  const total = log.durationSeconds === undefined ? undefined : Math.round(log.durationSeconds * fps.num / fps.den);
  const left = total === undefined ? undefined : Math.max(0, total - options.start);
  const info: VideoInfo = {
    height,
    width,
    fps,
    numFrames: left === undefined ? undefined : Math.min(left, options.frames ?? left),
    isVariableRate: isVariable && options.fps === undefined,
    rotation: (Math.round(360 - log.rotation) % 360 + 360) % 360,
    codec: log.videoCodec ?? "unknown",
    audioCodec: log.audioCodec,
    hasAudio: log.audioCodec !== undefined,
  };
  return Object.freeze({ path, info: Object.freeze(info), frames: () => decode(path, ffmpeg, info, options) });
}

/** Whether the clock ticks at another rate than frames come, other than the two fields of an interlaced frame. */
function isVaried(average: number | undefined, tick: number | undefined): boolean {
  if (tick === undefined) return false;
  if (average === undefined) return tick > 240; // a recording without a rate has its clock's, 1000 and more
  return [tick, tick / 2].every((rate) => Math.abs(average - rate) > 0.01 * rate);
}

/** What FFmpeg says of a file while it decodes the first frame. */
async function probe(path: string, ffmpeg: Ffmpeg, { limitPixels, signal }: Options): Promise<FfmpegLog> {
  const log = new FfmpegLog();
  const run = startFfmpeg(ffmpeg, decodeArgs(path, ffmpeg, limitPixels, [], 1), { signal, onLine: log.read });
  let bytes = 0;
  for await (const chunk of run.stdout) bytes += (chunk as Uint8Array).length;
  const ending = await run.ended;
  throwIfAborted(signal);
  if (ending.signal) throw endedEarly(path, ending, 0);
  const size = bytes === 0 ? log.excess(false) : undefined;
  if (size && size.height * size.width > limitPixels) {
    throw tooLarge("VIDEO", path, limitPixels, size.height, size.width);
  }
  if (log.format === undefined) {
    const { refusedFormat } = log;
    let found = log.reason || ending.stderr.trim();
    if (refusedFormat === "tty") found = "text"; // FFmpeg would draw it as a terminal does, and call that a video
    else if (refusedFormat) found = `${refusedFormat}, which is not on the list of formats that hold their own frames`;
    throw new TokenizerError("VIDEO", `${path}: expected a video that FFmpeg can read, found: ${found}`);
  }
  if (log.videoCodec === undefined) {
    const found = log.audioCodec === undefined ? `none (${log.format})` : `only audio (${log.audioCodec})`;
    throw new TokenizerError("VIDEO", `${path}: expected a video stream, found ${found}`);
  }
  if (bytes === 0 || !log.output) {
    const why = log.reason ? `: ${log.reason}` : "";
    throw new TokenizerError("VIDEO", `${path}: expected at least one frame, found none${why}`, { detail: 0 });
  }
  if (bytes !== log.output.height * log.output.width * 3) {
    const { height, width } = log.output;
    throw new TokenizerError("INTERNAL", `${path}: expected ${height} by ${width} pixels of RGB, found ${bytes} bytes`);
  }
  return log;
}

async function* decode(
  path: string,
  ffmpeg: Ffmpeg,
  { height, width }: VideoInfo,
  { start, frames, fps, limitPixels, limitFrames, allowDamage, signal }: Options,
): AsyncGenerator<Uint8Array, void, undefined> {
  const filters = ["format=rgb24"];
  // FFmpeg would scale a frame of another size to the first one's. This crop does nothing, or fails when it is set up anew.
  filters.push(`crop=if(eq(iw\\,${width})*eq(ih\\,${height})\\,iw\\,-1):ih:0:0`);
  if (start > 0) filters.unshift(`trim=start_frame=${start}`);
  if (fps !== undefined) filters.unshift(`fps=${toRate(fps).num}/${toRate(fps).den}`);

  const frameBytes = height * width * 3;
  const log = new FfmpegLog();
  const args = decodeArgs(path, ffmpeg, limitPixels, filters, Math.min(frames ?? Infinity, limitFrames + 1));
  const run = startFfmpeg(ffmpeg, args, { signal, onLine: log.read });
  let frame: Uint8Array | undefined, filled = 0, numFrames = 0;
  try {
    // Note: left early, Deno's own iterator would destroy the stream with an error that nobody can catch.
    const chunks = run.stdout.iterator({ destroyOnReturn: false }) as AsyncIterable<Uint8Array>;
    for await (const chunk of chunks) {
      for (let at = 0; at < chunk.length;) {
        frame ??= new Uint8Array(frameBytes);
        const bytes = Math.min(frameBytes - filled, chunk.length - at);
        frame.set(bytes === chunk.length ? chunk : chunk.subarray(at, at + bytes), filled);
        at += bytes;
        filled += bytes;
        if (filled === frameBytes) {
          const whole = frame;
          frame = undefined, filled = 0;
          if (numFrames === limitFrames) {
            const message = `${path}: expected at most ${limitFrames} frames (limitFrames), found more`;
            throw new TokenizerError("VIDEO", message, { detail: numFrames });
          }
          numFrames++;
          yield whole;
          throwIfAborted(signal);
        }
      }
    }
    checkEnd(path, await run.ended, log, { height, width, start, numFrames, limitPixels, allowDamage, signal });
  } finally {
    await run.kill();
  }
}

/** Throws unless a run that gave `numFrames` frames has come to a good end. */
function checkEnd(
  path: string,
  ending: Ending,
  log: FfmpegLog,
  about: Pick<Options, "start" | "limitPixels" | "allowDamage" | "signal"> & {
    height: number;
    width: number;
    numFrames: number;
  },
): void {
  const { height, width, start, numFrames, limitPixels, allowDamage, signal } = about;
  throwIfAborted(signal);
  const fail = (wanted: string, found: string) => {
    throw new TokenizerError("VIDEO", `${path}: expected ${wanted}, found ${found}`, { detail: numFrames });
  };
  if (ending.signal) throw endedEarly(path, ending, numFrames);
  const excess = log.excess(true);
  if (excess && excess.height * excess.width > limitPixels) {
    throw tooLarge("VIDEO", path, limitPixels, excess.height, excess.width);
  }
  const size = log.sizes[1];
  if (size && ending.code !== 0) {
    const isTurned = Math.round(log.rotation / 90) % 2 !== 0;
    const found = isTurned ? `${size.width} by ${size.height}` : `${size.height} by ${size.width}`;
    fail(`every frame to be ${height} by ${width} pixels`, `${found} after ${numFrames} frames`);
  }
  if (log.damage !== undefined && (ending.code !== 0 || !allowDamage)) {
    fail("a whole video", `it cut short or damaged; ${numFrames} frames were read; FFmpeg says: ${log.damage}`);
  }
  if (ending.code !== 0) throw endedEarly(path, ending, numFrames, log.reason);
  if (numFrames === 0) fail(start > 0 ? `a frame ${start} (counted from 0)` : "at least one frame", "no frame there");
}

function endedEarly(path: string, ending: Ending, detail: number, reason = ""): TokenizerError {
  const found = `${tellEnding(ending)} after ${detail} frames${reason ? `: ${reason}` : ""}`;
  return new TokenizerError("FFMPEG", `${path}: expected FFmpeg to read it to the end, found ${found}`, { detail });
}

// ---------------------------------------------------------------- folders
const imageExtensions = [".png", ".jpg", ".jpeg", ".webp", ".avif", ".tif", ".tiff", ".gif"];

async function openFolder(path: string, { start, frames, fps, limitPixels, signal }: Options): Promise<VideoSource> {
  const entries = await readdir(path).catch((error) => {
    throw ioError(path, "read", error);
  });
  const { compare } = new Intl.Collator("en", { numeric: true });
  const images = entries.filter((name) => imageExtensions.includes(extname(name).toLowerCase()) && !name.startsWith("."))
    .sort((a, b) => compare(a, b) || (a < b ? -1 : 1));
  if (images.length === 0) {
    const message = `${path}: expected a folder with images (${imageExtensions.join(", ")}), found none of them`;
    throw new TokenizerError("VIDEO", message, { detail: 0 });
  }
  const wanted = images.slice(start, frames === undefined ? undefined : start + frames);
  if (wanted.length === 0) {
    const message = `${path}: expected an image ${start} (counted from 0), found ${images.length} images`;
    throw new TokenizerError("VIDEO", message, { detail: 0 });
  }
  const [, height, width] = (await readImage(join(path, wanted[0]!), { limitPixels, ...(signal && { signal }) })).shape as [
    number,
    number,
    number,
  ];
  const info: VideoInfo = {
    height,
    width,
    fps: toRate(fps ?? 25),
    numFrames: wanted.length,
    isVariableRate: false,
    rotation: 0,
    codec: extname(wanted[0]!).slice(1).toLowerCase(),
    audioCodec: undefined,
    hasAudio: false,
  };
  return Object.freeze({
    path,
    info: Object.freeze(info),
    async *frames() {
      for (const [detail, name] of wanted.entries()) {
        throwIfAborted(signal);
        const image = await readImage(join(path, name), { limitPixels, ...(signal && { signal }) });
        if (image.shape[1] !== height || image.shape[2] !== width) {
          const found = `${image.shape[1]} by ${image.shape[2]} in ${name}`;
          const message = `${path}: expected every image to be ${height} by ${width} pixels, as ${
            wanted[0]
          } is, found ${found}`;
          throw new TokenizerError("VIDEO", message, { detail });
        }
        yield image.data;
      }
    },
  });
}
