/**
 * Clips of videos, one after the other, without starting over: the frame before a clip's first is where the reading of
 * the last one stopped, or among what is kept of it. A worker asks for a video's clips in order, so FFmpeg runs once
 * over it. Frames are scaled as they come; what is kept is what the latest clip has. Called by prepare.ts.
 *
 * Limit: a video is not read beyond the last clip that is asked for. Damage behind it is not seen; damage within is
 * where FFmpeg stops at it, which it tells at the end alone, not where its decoder patches a frame.
 */
import { orAbort } from "../abort.ts";
import { TokenizerError } from "../errors.ts";
import type { TimedFrame, VideoInfo, VideoOptions } from "../media/clip.ts";
import { openVideo } from "../media/video.ts";
import type { Spooled } from "./spool.ts";

/** A frame of a video, scaled to the size that the model gets. */
export interface ScaledFrame {
  readonly height: number;
  readonly width: number;
  readonly data: Uint8Array;
}
export type Scale = (frame: ScaledFrame) => Promise<ScaledFrame>;

export interface ReadClip {
  readonly info: VideoInfo;
  readonly frames: readonly ScaledFrame[];
}

interface Reading {
  readonly info: VideoInfo;
  readonly frames: AsyncGenerator<TimedFrame, void, undefined>;
  readonly stop: AbortController;
}

/** Reads the clips of one video. */
export class ClipReader implements AsyncDisposable {
  readonly #open: () => Promise<Spooled>;
  readonly #options: VideoOptions;
  readonly #scale: Scale;
  #file: Spooled | undefined;
  #reading: Reading | undefined;
  /** The next frame that comes, and those before it that are kept. */
  #position = 0;
  #kept: ScaledFrame[] = [];
  #last: Promise<unknown> = Promise.resolve();
  numPending = 0;

  constructor(open: () => Promise<Spooled>, options: VideoOptions, scale: Scale) {
    this.#open = open;
    this.#options = options;
    this.#scale = scale;
  }

  /**
   * Reads a clip, after the calls before it. Throws what openVideo throws, and VIDEO where the video ends before the
   * clip does.
   */
  async read(name: string, firstFrame: number, numFrames: number, signal?: AbortSignal): Promise<ReadClip> {
    this.numPending++;
    const work = this.#last.then(() => this.#read(name, firstFrame, numFrames)).finally(() => void this.numPending--);
    this.#last = work.catch(() => {});
    return await orAbort(work, signal);
  }

  async [Symbol.asyncDispose](): Promise<void> {
    this.#reading?.stop.abort(); // of a clip that nobody waits for
    await this.#last;
    await this.#end();
    await this.#file?.[Symbol.asyncDispose]();
    this.#file = undefined;
  }

  async #read(name: string, firstFrame: number, numFrames: number): Promise<ReadClip> {
    try {
      const file = this.#file ??= await this.#open();
      const reading = await file.named(() => this.#from(file.path, firstFrame)), end = firstFrame + numFrames;
      this.#kept = this.#kept.slice(Math.max(0, firstFrame - (this.#position - this.#kept.length)));
      while (this.#position < end) {
        const next = await file.named(() => reading.frames.next());
        if (next.done) {
          const found = `that it ends after ${this.#position}`;
          throw new TokenizerError("VIDEO", `${name}: expected frames ${firstFrame} to ${end - 1}, found ${found}`, {
            detail: this.#position,
          });
        }
        const { height, width } = reading.info;
        if (this.#position++ >= firstFrame) {
          this.#kept.push(await this.#scale({ height, width, data: next.value.data }));
        }
      }
      return { info: reading.info, frames: this.#kept.slice(0, numFrames) };
    } catch (error) {
      await this.#end();
      throw error;
    }
  }

  /** The decoder that is running, if it has not passed the frame; else a new one that starts before it. */
  async #from(path: string, firstFrame: number): Promise<Reading> {
    if (this.#reading && firstFrame >= this.#position - this.#kept.length) return this.#reading;
    await this.#end();
    const stop = new AbortController();
    const source = await openVideo(path, { ...this.#options, start: firstFrame, signal: stop.signal });
    this.#position = firstFrame;
    return this.#reading = { info: source.info, frames: source.frames(), stop };
  }

  async #end(): Promise<void> {
    const reading = this.#reading;
    this.#reading = undefined;
    this.#kept = [];
    reading?.stop.abort();
    await reading?.frames.return().catch(() => {});
  }
}
