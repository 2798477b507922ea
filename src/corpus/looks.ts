/**
 * How a picture is looked at: to which size it is scaled, which part of it is taken, whether mirrored. Pure arithmetic
 * on sizes and keys, the same on every machine; prepare.ts does it to pixels.
 *
 * `size`: the shorter side becomes so many pixels; of the result the middle square is taken, one at random, or all
 * ("none"). `bucket`: the sizes of one area, size × size at most, whose sides are multiples of a step; a picture goes
 * to the one whose shape is the nearest to its own, scaled to cover it, and what stands over is cut off. Ref: NovelAI's
 * aspect-ratio buckets, kohya's.
 */
import { createHash } from "node:crypto";
import { z } from "zod";
import type { Fields } from "../checks.ts";

export interface LookOptions {
  /**
   * Pixels of the shorter side, also where that means to enlarge; with `bucket` the square root of the area. Default:
   * as it is.
   */
  size?: number | undefined;
  /** Which part of the scaled picture. Default "center" where there is a size, else "none"; "random:7" has a seed. */
  crop?: "center" | "none" | `random:${number}` | undefined;
  /** Whether pictures are resized and cropped to aspect-ratio buckets. Default false. */
  bucket?: boolean | undefined;
  /** The sides of buckets are multiples of it, in pixels. Default 64. */
  bucketStep?: number | undefined;
  /** Largest ratio of a bucket's longer side to its shorter one. Default 2. */
  bucketRatio?: number | undefined;
  /** Pictures with a shorter side of fewer pixels are refused. Default 1. */
  minSize?: number | undefined;
  /** Whether each look is taken mirrored, too, left to right. Default false. */
  flip?: boolean | undefined;
  /** How many random crops of each picture. Default 1. */
  crops?: number | undefined;
}
export const lookFields = {
  size: z.int().min(1).max(16384).optional(),
  crop: z.custom<LookOptions["crop"] & string>(
    (v) => typeof v === "string" && /^(center|none|random:\d{1,15})$/.test(v),
    "expected center, none or random:SEED",
  ).optional(),
  bucket: z.boolean().default(false),
  bucketStep: z.int().min(1).max(1024).default(64),
  bucketRatio: z.number().min(1).max(16).default(2),
  minSize: z.int().min(1).default(1),
  flip: z.boolean().default(false),
  crops: z.int().min(1).max(1000).default(1),
} satisfies Fields<LookOptions>;
export type Looks = z.output<z.ZodObject<typeof lookFields>>;

/** Reports options that do not go together, for zod's `superRefine`: what was expected, under the option's name. */
export function checkLooks(o: Looks, context: z.RefinementCtx): void {
  const fail = (name: keyof LookOptions, message: string) => {
    context.addIssue({ code: "custom", path: [name], message: `expected ${message}` });
  };
  if (o.size === undefined && o.bucket) fail("bucket", "a size beside it");
  if (o.size === undefined && o.crop !== undefined && o.crop !== "none") fail("crop", "a size beside it, or none");
  if (o.bucket && o.crop === "none") fail("crop", "center or random:SEED with buckets, which cut off what stands over");
  if (o.crops > 1 && !o.crop?.startsWith("random:")) fail("crops", "crop random:SEED beside it");
  if (o.bucket && o.size !== undefined && bucketsOf(o.size, o.bucketStep, o.bucketRatio).length === 0) {
    fail("bucketStep", `one that fits into an area of ${o.size} by ${o.size} pixels`);
  }
}

/** How many samples are made of each picture or clip. */
export function numVariantsOf({ crops = 1, flip = false }: Pick<LookOptions, "crops" | "flip">): number {
  return crops * (flip ? 2 : 1);
}

export interface Look {
  /** Size of the whole picture after scaling, before it is cropped, in pixels. */
  readonly scaledHeight: number;
  readonly scaledWidth: number;
  /** The crop, in pixels of the scaled picture. */
  readonly top: number;
  readonly left: number;
  readonly height: number;
  readonly width: number;
  readonly isFlipped: boolean;
  readonly bucket: string | undefined;
}

/**
 * The look at a picture of that size. A random place depends on the seed, the key and the number of the crop alone, and
 * so is the same for the mirrored look.
 */
export function lookAt(height: number, width: number, o: Looks, key: string, variant?: number): Look {
  const numFlips = o.flip ? 2 : 1, number = variant ?? 0;
  const isFlipped = o.flip && number % 2 === 1;
  const { scaledHeight, scaledWidth, ...to } = sizesOf(height, width, o);
  const [down, right] = [scaledHeight - to.height, scaledWidth - to.width];
  let top = Math.floor(down / 2), left = Math.floor(right / 2);
  if (o.crop?.startsWith("random:")) {
    const own = variant === undefined ? key : key.slice(0, key.lastIndexOf("_"));
    const digest = createHash("sha256").update(`${o.crop} ${Math.floor(number / numFlips)} ${own}`).digest();
    const at = (offset: number, most: number) => Math.floor(digest.readUInt32BE(offset) / 2 ** 32 * (most + 1));
    top = at(0, down), left = at(4, right);
  }
  return { scaledHeight, scaledWidth, top, left, ...to, isFlipped };
}

type Sizes = Pick<Look, "scaledHeight" | "scaledWidth" | "height" | "width" | "bucket">;

function sizesOf(height: number, width: number, { size, crop, bucket, bucketStep, bucketRatio }: Looks): Sizes {
  if (size === undefined) return { scaledHeight: height, scaledWidth: width, height, width, bucket: undefined };
  if (bucket) {
    const to = nearestBucket(height, width, bucketsOf(size, bucketStep, bucketRatio));
    // Scaled so that one side fits the bucket and the other is at least as long.
    const isTall = height * to.width > width * to.height;
    const scaledHeight = isTall ? Math.max(to.height, Math.round(height * to.width / width)) : to.height;
    const scaledWidth = isTall ? to.width : Math.max(to.width, Math.round(width * to.height / height));
    return { scaledHeight, scaledWidth, ...to, bucket: `${to.width}x${to.height}` };
  }
  const isTall = height > width, long = Math.round(Math.max(height, width) * size / Math.min(height, width));
  const scaledHeight = isTall ? long : size, scaledWidth = isTall ? size : long;
  const isWhole = crop === "none";
  return {
    scaledHeight,
    scaledWidth,
    height: isWhole ? scaledHeight : size,
    width: isWhole ? scaledWidth : size,
    bucket: undefined,
  };
}

export interface Bucket {
  readonly height: number;
  readonly width: number;
}

/**
 * All buckets from the widest to the tallest: for each width the largest height that the area has room for, and the
 * other way.
 */
export function bucketsOf(size: number, step: number, ratio: number): Bucket[] {
  const found = new Map<string, Bucket>(), area = size * size;
  for (let short = step; short <= size; short += step) {
    const long = Math.floor(area / short / step) * step;
    if (long < short || long > short * ratio) continue;
    for (const [height, width] of [[short, long], [long, short]] as const) {
      found.set(`${width}x${height}`, { height, width });
    }
  }
  return [...found.values()].sort((a, b) => b.width / b.height - a.width / a.height || b.width - a.width);
}

/** The nearest by the ratio of ratios; of two as near, the one with more pixels, then the wider one. */
function nearestBucket(height: number, width: number, buckets: readonly Bucket[]): Bucket {
  let best = buckets[0]!, least = Infinity;
  for (const bucket of buckets) {
    // Note: ratios are compared without logarithms, whose last bit differs between machines.
    const a = bucket.width * height, b = bucket.height * width, distance = Math.max(a, b) / Math.min(a, b);
    const isLarger = distance === least && bucket.width * bucket.height > best.width * best.height;
    if (distance < least || isLarger) best = bucket, least = distance;
  }
  return best;
}
