/**
 * Videos in: any container that FFmpeg reads (Y4M too), a still image, or a folder of numbered images, as a sequence of
 * RGB frames, each with the time at which it is shown, that is never in memory as a whole. Called by the streams and
 * the command line; videos out are videosink.ts.
 */
import { access, constants, stat } from "node:fs/promises";
import { throwIfAborted } from "../abort.ts";
import { expected } from "../errors.ts";
import { ioError } from "../files.ts";
import { parse } from "../checks.ts";
import { type VideoOptions, videoOptions, type VideoSource } from "./clip.ts";
import { isStill, openFolder, openImages } from "./stills.ts";
import { openFile } from "./videofile.ts";

export type { VideoInfo, VideoOptions, VideoSource } from "./clip.ts";
export { createVideo, type VideoSink, type VideoSinkOptions } from "./videosink.ts";

/**
 * Opens a video file, a still image (a clip of one frame, upright as readImage gives it), or a folder whose images
 * (PNG, JPEG, WebP, AVIF, TIFF, GIF) in natural order (2 before 10) are its frames. Reads no more than the beginning.
 *
 * Where the rate varies, each stored frame comes once, because frames are what is tokenised: the constant rate that
 * FFmpeg would make by itself repeats and drops frames to fit a clock, sometimes a thousandfold. Ask for `fps` to have
 * that.
 *
 * Only what holds its own frames is read: a playlist or script, which names other files or addresses, is refused under
 * any extension.
 *
 * Errors: FILE_MISSING, FILE_IO, ARGUMENT, CANCELLED; VIDEO when it is no video, has no video stream or no frames, or
 * one larger than `limitPixels` (`detail`: its pixels); FFMPEG when FFmpeg is not found.
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
  if (await isStill(path)) return await openImages(path, [path], wanted);
  return await openFile(path, wanted);
}
