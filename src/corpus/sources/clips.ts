/**
 * Which clips a video is cut into: [k stride, k stride + clipFrames) for all k for which the whole clip is there. What
 * is left at the end is in none. How many frames there are is what the container says or its duration makes, and only
 * where it says nothing are they counted by decoding; a clip that turns out short is found when it is read. Called by
 * find.ts.
 */
import { TokenizerError } from "../../errors.ts";
import { openVideo } from "../../media/video.ts";
import type { Rate } from "../../tokens/rate.ts";
import type { Places } from "../places.ts";
import { spool } from "../spool.ts";
import type { Candidate } from "./candidate.ts";

export interface ClipWish {
  readonly clipFrames: number;
  readonly stride: number;
  /** The most frames that are taken of a video. */
  readonly frames: number | undefined;
  readonly fps: number | Rate | undefined;
  readonly limitPixels: number;
}

export interface Clips {
  readonly clips: readonly { readonly firstFrame: number; readonly numFrames: number }[];
  /** How many frames belong to no clip. */
  readonly numLeft: number;
}

/** Cuts a video into clips. Throws what openVideo throws, and VIDEO where there is not one whole clip. */
export async function clipsOf(
  { name, place, identity }: Candidate,
  { clipFrames, stride, frames: most = Infinity, fps, limitPixels }: ClipWish,
  places: Places,
  signal: AbortSignal | undefined,
): Promise<Clips> {
  await using file = await spool(place, identity, places, signal);
  const numFrames = await file.named(async () => {
    const { info, frames } = await openVideo(file.path, { fps, limitPixels, signal });
    if (info.numFrames !== undefined) return Math.min(info.numFrames, most);
    let counted = 0;
    for await (const _ of frames()) if (++counted >= most) break;
    return counted;
  });
  if (numFrames < clipFrames) {
    throw new TokenizerError("VIDEO", `${name}: expected at least ${clipFrames} frames, found ${numFrames}`, {
      detail: numFrames,
    });
  }
  const count = Math.floor((numFrames - clipFrames) / stride) + 1;
  const clips = Array.from({ length: count }, (_, k) => ({ firstFrame: k * stride, numFrames: clipFrames }));
  const covered = stride >= clipFrames ? count * clipFrames : (count - 1) * stride + clipFrames;
  return { clips, numLeft: numFrames - covered };
}
