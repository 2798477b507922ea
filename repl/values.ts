/**
 * The values of the REPL: what each is, in code and in words, and the picture that shows it.
 */
import * as ctok from "../mod.ts";

export type Video = ctok.Tensor<"uint8">; // [1, T, H, W, 3]
export type Picture = ctok.Tensor<"uint8">; // [1, H, W, 3]

/** What diff gives. */
export interface Difference {
  readonly psnr: number;
  readonly ssim: number | undefined;
  /** |a - b| of each pixel's channels, four times as bright. */
  readonly map: ctok.Tensor<"uint8">;
}

/** A neighbouring code and what the current model makes of a patch of it. */
export interface Seen extends ctok.Neighbour {
  readonly picture: Picture;
}

export const isTensor = (x: unknown): x is ctok.Tensor => x instanceof ctok.Tensor;
export const isTokens = (x: unknown): x is ctok.Tokens => x instanceof ctok.Tokens;
export const isPixels = (x: unknown): x is ctok.Tensor<"uint8"> =>
  isTensor(x) && x.dtype === "uint8" && x.shape.at(-1) === 3;
export const isVideo = (x: unknown): x is Video => isPixels(x) && x.shape.length === 5;
export const isDifference = (x: unknown): x is Difference =>
  typeof x === "object" && x !== null && "map" in x && "psnr" in x;
export const isNeighbours = (x: unknown): x is Seen[] =>
  Array.isArray(x) && x.length > 0 && x.every((n) => isPixels(n?.picture));

/** A value in few words, for a wrong call's answer. */
export function described(x: unknown): string {
  if (x === undefined) return "nothing";
  if (isTokens(x)) return `tokens of ${x.origin.model}`;
  if (isTensor(x)) return `${x.kind ?? "a tensor"} ${x.dtype} [${x.shape.join(", ")}]`;
  if (x instanceof Promise) return "a promise: put await before it";
  if (typeof x === "string") return JSON.stringify(x);
  return typeof x === "object" && x !== null ? `an object ${x.constructor?.name ?? ""}`.trim() : String(x);
}

/** What show draws of a value. Throws ARGUMENT for what has no picture. */
export function pictureOf(x: unknown): ctok.Tensor<"uint8"> {
  if (isDifference(x)) return x.map;
  if (isNeighbours(x)) return ctok.contactSheet(rowsOf(x.map((n) => n.picture), 6));
  if (isTokens(x)) return pictureOf(x.isDiscrete ? x.indices : x.latent);
  if (!isTensor(x)) {
    throw new ctok.TokenizerError(
      "ARGUMENT",
      `show(x): expected a picture, video, tokens, latent, diff or neighbours, found ${described(x)}`,
    );
  }
  if (isVideo(x)) return sheetOf(framesIn(x));
  if (isPixels(x)) return x;
  if (x.kind === "indices") {
    const map = (t: ctok.Tensor) => ctok.tokenMap(t as ctok.Tensor<"int32">, 8);
    return x.shape.length === 4 ? sheetOf(timeSlices(x, 1).map(map)) : map(x.at(0));
  }
  const tiles = (t: ctok.Tensor) => ctok.latentTiles(t as ctok.Tensor<"float32">, 4);
  return x.shape.length === 5 ? sheetOf(timeSlices(x, 2).map(tiles)) : tiles(x.at(0));
}

function rowsOf<T>(all: readonly T[], columns: number): T[][] {
  return Array.from({ length: Math.ceil(all.length / columns) }, (_, r) => all.slice(r * columns, (r + 1) * columns));
}

/** At most eight of the pictures, evenly apart. */
function sheetOf(all: readonly ctok.Tensor<"uint8">[]): ctok.Tensor<"uint8"> {
  const count = Math.min(8, all.length);
  const some = Array.from(
    { length: count },
    (_, i) => all[count === 1 ? 0 : Math.round(i * (all.length - 1) / (count - 1))]!,
  );
  return ctok.contactSheet(rowsOf(some, 4));
}

export function framesIn(video: Video): Picture[] {
  const [, frames = 0, height = 0, width = 0] = video.shape, size = height * width * 3;
  return Array.from({ length: frames }, (_, t) => {
    return new ctok.Tensor("uint8", [1, height, width, 3], video.data.subarray(t * size, (t + 1) * size), {
      kind: "pixels",
    });
  });
}

/** The frames of a tensor whose time is `axis`, each without it. */
function timeSlices(x: ctok.Tensor, axis: 1 | 2): ctok.Tensor[] {
  const [outer, frames = 0, ...rest] = axis === 1 ? [1, ...x.shape.slice(1)] : x.shape.slice(1);
  const size = rest.reduce((a, b) => a * b, 1);
  return Array.from({ length: frames }, (_, t) => {
    const data = x.data.slice(0, outer! * size) as typeof x.data;
    for (let o = 0; o < outer!; o++) {
      const from = (o * frames + t) * size;
      (data as Float32Array).set(x.data.subarray(from, from + size) as Float32Array, o * size);
    }
    return new ctok.Tensor(
      x.dtype,
      axis === 1 ? [1, ...rest] : [1, outer!, ...rest],
      data,
      x.kind ? { kind: x.kind } : {},
    );
  });
}
