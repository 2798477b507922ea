/**
 * What a clip is to whoever reads one: the options, the facts, and frames with the times at which they are shown.
 * video.ts opens one; videofile.ts reads files by FFmpeg, stills.ts images.
 */
import { z } from "zod";
import { type Fields, limitPixels, signal } from "../checks.ts";
import { type Rate, rateOption } from "../tokens/rate.ts";

export interface VideoOptions {
  /**
   * The first frame wanted, counted from 0 (after `fps`, where that is given). Exact for every file, which has a price:
   * the frames before it are decoded and dropped.
   */
  start?: number | undefined;
  /** The most frames to read. Default: all. */
  frames?: number | undefined;
  /** Largest frame taken, height × width in pixels; a larger one is refused by its header. Default 16383². */
  limitPixels?: number | undefined;
  /**
   * Most frames that a video may have; one more is an error, after those. Default 1,048,576, 11 hours at 25 a second:
   * resampled, a file of a few bytes whose timestamps lie has no end.
   */
  limitFrames?: number | undefined;
  /**
   * Frames per second to resample to: a frame is repeated or left out so that each moment shows what the video shows
   * then. Default: each frame once. A folder of images has no rate: this is it, 25 when not given, and nothing is
   * resampled.
   */
  fps?: number | Rate | undefined;
  /** Whether a damaged video may end without an error, spoilt frames patched by FFmpeg's decoder. Default false. */
  allowDamage?: boolean | undefined;
  /** Aborting it ends the reading with code CANCELLED. */
  signal?: AbortSignal | undefined;
}
export const videoOptions = z.strictObject(
  {
    start: z.int().min(0).default(0),
    frames: z.int().min(1).optional(),
    limitPixels,
    limitFrames: z.int().min(1).default(1 << 20),
    fps: rateOption.optional(),
    allowDamage: z.boolean().default(false),
    signal,
  } satisfies Fields<VideoOptions>,
);
export type Options = z.output<typeof videoOptions>;

export interface VideoInfo {
  /** Size of every frame in pixels, after the rotation that the file asks for. */
  readonly height: number;
  readonly width: number;
  /**
   * Rate of the frames as they are given: the `fps` asked for, else the video's own, or its average when the rate
   * varies. It is estimated from the times of the file's first packets; the time that comes with each frame is exact.
   */
  readonly fps: Rate;
  /**
   * How many frames will come: exact for images, else what the header says or its duration makes; undefined when it
   * says nothing.
   */
  readonly numFrames: number | undefined;
  /** Whether the rate varies among the file's first frames. */
  readonly isVariableRate: boolean;
  /**
   * When the video's first frame is shown, in seconds, on the source's clock: 0 is the earliest start of any of its
   * streams.
   */
  readonly startSeconds: number;
  /** Width to height of a pixel of the upright frames; 1:1 when square or unknown. */
  readonly sampleAspect: Rate;
  /** Degrees clockwise by which the stored picture was turned to stand upright. */
  readonly rotation: number;
  /** FFmpeg's names, such as "h264" and "aac"; for a folder the first image's extension. */
  readonly codec: string;
  readonly audioCodec: string | undefined;
  readonly hasAudio: boolean;
}

export interface TimedFrame {
  /** uint8 [height, width, 3]; the frame shares its memory with no other. */
  readonly data: Uint8Array;
  /** When it is shown, on the source's clock (see `VideoInfo.startSeconds`). */
  readonly seconds: number;
}

export interface VideoSource {
  readonly path: string;
  readonly info: VideoInfo;
  /**
   * The frames in order. FFmpeg starts with the first frame asked for, waits while none is, and is gone when the loop
   * ends, early or not; one left alone does not keep the process from ending. Each call reads from the start.
   *
   * Errors come after every frame that could be read, with their number as `detail`: VIDEO when the file is cut short
   * or damaged, when the size changes (FFmpeg's decoder may lose a frame or two before that), when there is no frame
   * from `start` on; FFMPEG when FFmpeg failed or was killed; CANCELLED. Images: VIDEO for one of another size, and
   * readImage's.
   */
  frames(): AsyncGenerator<TimedFrame, void, undefined>;
}
