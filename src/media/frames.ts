/** A video's frames as tensors that know when they are shown, for encodeStream. */
import { rateText } from "../tokens/rate.ts";
import { Tensor } from "../tokens/tensor.ts";
import { openVideo, type VideoInfo, type VideoOptions } from "./video.ts";

/** A frame of a video, uint8 [H, W, 3], with the time at which it is shown. */
export class VideoFrame extends Tensor<"uint8"> {
  /** On the source's clock, whose zero is the earliest start of any of its streams. */
  readonly seconds: number;

  constructor(height: number, width: number, data: Uint8Array, seconds: number) {
    super("uint8", [height, width, 3], data, { kind: "pixels" });
    this.seconds = seconds;
  }
}

export interface VideoFrames {
  readonly frames: AsyncIterable<VideoFrame>;
  /** Frames a second as a fraction such as "30000/1001"; the average where the rate varies. */
  readonly fps: string;
  /** Width to height of a pixel as a ratio such as "16:11"; undefined when square or unknown. */
  readonly sampleAspect: string | undefined;
  readonly info: VideoInfo;
}

/**
 * Opens a video file, a still image or a folder of images; frames are uint8 [H, W, 3], read as they are asked for.
 * Errors: as openVideo.
 */
export async function framesOf(path: string, options: VideoOptions = {}): Promise<VideoFrames> {
  const source = await openVideo(path, options);
  const { height, width, fps, sampleAspect: { num, den } } = source.info;
  async function* frames(): AsyncGenerator<VideoFrame> {
    for await (const { data, seconds } of source.frames()) yield new VideoFrame(height, width, data, seconds);
  }
  const sampleAspect = num === den ? undefined : `${num}:${den}`;
  return { frames: frames(), fps: rateText(fps), sampleAspect, info: source.info };
}
