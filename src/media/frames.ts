/** A video's frames as tensors, for encodeStream. */
import { Tensor } from "../tensor.ts";
import { openVideo, type VideoInfo, type VideoOptions } from "./video.ts";

export interface VideoFrames {
  readonly frames: AsyncIterable<Tensor<"uint8">>;
  /** Frames a second as a fraction such as "30000/1001". */
  readonly fps: string;
  readonly info: VideoInfo;
}

/** Opens a video file or a folder of images; frames are uint8 [H, W, 3], read as they are asked for. Errors: as openVideo. */
export async function framesOf(path: string, signal?: AbortSignal, options: VideoOptions = {}): Promise<VideoFrames> {
  const source = await openVideo(path, { ...options, ...(signal && { signal }) });
  const { height, width, fps } = source.info;
  async function* frames(): AsyncGenerator<Tensor<"uint8">> {
    for await (const data of source.frames()) yield new Tensor("uint8", [height, width, 3], data, { kind: "pixels" });
  }
  return { frames: frames(), fps: `${fps.num}/${fps.den}`, info: source.info };
}
