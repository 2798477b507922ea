/**
 * What a corpus is made of: an item (one thing to tokenise, as the plan freezes it), what becomes of it (a sample), and
 * where its bytes lie. Pure types; sources/ find items, formats/ write and read samples, the rest of this folder lies
 * between.
 */
import type { Tokens } from "../tokens/tensor.ts";

/**
 * Where bytes lie, by path or s3://BUCKET/KEY. All a worker needs to read them again, on any machine that sees the
 * same.
 */
export type Place =
  /** The item is a whole file. */
  | { readonly kind: "file"; readonly path: string }
  /** A member of a tar: `bytes` of it from `offset` (of its content, not of its header). */
  | {
    readonly kind: "tar";
    readonly path: string;
    readonly offset: number;
    readonly bytes: number;
    readonly member: string;
  }
  /** A cell of a parquet file: bytes, a string as UTF-8, or Hugging Face's { bytes, path }. */
  | { readonly kind: "parquet"; readonly path: string; readonly row: number; readonly column: string }
  /** Several cells of a row, as one JSON object. Only sidecars come from it. */
  | { readonly kind: "row"; readonly path: string; readonly row: number; readonly columns: readonly string[] }
  /** No place at all: what a list says stands in the plan itself. Of sidecars alone. */
  | { readonly kind: "text"; readonly text: string };

/**
 * What tells that an item is still the one that was planned. Of a file: its size and time of change in nanoseconds; of
 * a member or cell, those of the file that holds it; of a folder of frames, the sum of its pictures' sizes and the
 * latest change. `sha256` of the item's own bytes where the plan was asked to read them.
 */
export interface Identity {
  readonly bytes: number;
  /**
   * Time of the last change in nanoseconds, as decimal text, since a number cannot hold 64 bits exactly. Whole
   * milliseconds, which is all that Deno gives.
   */
  readonly mtimeNs: string;
  /** Only for an object in S3, whose `mtimeNs` is "0". */
  readonly etag?: string;
  readonly sha256?: string;
}

/**
 * A caption or other fact that goes into the shard untouched: `field` is what follows the key ("txt", "json",
 * "seg.png").
 */
export interface Sidecar {
  readonly field: string;
  readonly place: Place;
  readonly identity: Identity;
}

/** One picture, video or clip to tokenise: a line of the plan. */
export interface Item {
  /**
   * Unique in the plan: letters, digits and other characters of UTF-8, with neither a dot nor a slash nor a control
   * character.
   */
  readonly key: string;
  readonly kind: "image" | "video";
  readonly place: Place;
  readonly identity: Identity;
  readonly sidecars: readonly Sidecar[];
  /** Which of several looks at one picture this is (flips and crops), from 0; absent where there is one. */
  readonly variant?: number;
  /**
   * The frames of one clip of a video, counted after resampling to the wanted rate. Absent: the whole video.
   */
  readonly clip?: { readonly firstFrame: number; readonly numFrames: number };
}

/** An item once it is tokenised: what a format writes and reads back. */
export interface Sample {
  readonly key: string;
  /**
   * One picture's tokens ([1, h, w] indices or [1, C, h, w] latent), or one clip's ([1, t, h, w] or [1, C, t, h, w]).
   */
  readonly tokens: Tokens;
  readonly facts: SampleFacts;
  readonly sidecars: readonly { readonly field: string; readonly bytes: Uint8Array }[];
}

/** What is known of a sample beside its tokens. Sizes in pixels. */
export interface SampleFacts {
  /** The name of the file or member that it came from, without its folder. */
  readonly fileName: string;
  /** Size of the picture that was tokenised, and the size before it was resized or cropped. */
  readonly height: number;
  readonly width: number;
  readonly originalHeight: number;
  readonly originalWidth: number;
  /** Where the crop lies in the resized picture, in pixels; absent where nothing was cropped. */
  readonly cropTop?: number;
  readonly cropLeft?: number;
  readonly isFlipped?: boolean;
  /** The item's aspect-ratio bucket, as "WIDTHxHEIGHT". */
  readonly bucket?: string;
  /** Videos only: frames of the clip, its rate as a fraction ("30000/1001"), and its first frame in the video. */
  readonly numFrames?: number;
  readonly fps?: string;
  readonly firstFrame?: number;
}
