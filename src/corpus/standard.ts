/**
 * The sources, formats and ways of preparing items that ctok has, as the parts of a run, and their options in one flat
 * list. Used by dataset.ts.
 */
import { z } from "zod";
import { type Fields, parse } from "../checks.ts";
import { expected } from "../errors.ts";
import { loadSharp } from "../media/picture.ts";
import { shardFormats } from "./formats/table.ts";
import { checkLooks, numVariantsOf } from "./looks.ts";
import type { Parts } from "./parts.ts";
import { Places } from "./places.ts";
import { decoderVersions, type PrepareOptions, prepareOptions, Preparer } from "./prepare.ts";
import { findItems, type FindOptions, findOptions } from "./sources/find.ts";

/** Options for finding and preparing items. */
export interface ItemOptions
  extends
    PrepareOptions,
    Pick<FindOptions, "foldersAreVideos" | "member" | "column" | "columns" | "hash" | "clipFrames" | "stride"> {}

const { foldersAreVideos, member, column, columns, hash, clipFrames, stride } = findOptions.shape;
export const itemFields = {
  ...prepareOptions.shape,
  foldersAreVideos,
  member,
  column,
  columns,
  hash,
  clipFrames,
  stride,
} satisfies Fields<ItemOptions>;
const itemOptions = z.strictObject(itemFields).superRefine(checkLooks);
/** Options that matter for videos alone. */
const ofVideos = ["foldersAreVideos", "fps", "frames", "clipFrames", "stride"] as const;

export const standard: Parts = {
  checkOptions(given, isVideo) {
    const options = parse(itemOptions, given as ItemOptions, "options");
    const wrong = ofVideos.find((name) => options[name]);
    if (!isVideo && wrong) throw expected(`options.${wrong}`, "a video model", "one of images");
    if (options.stride !== undefined && options.clipFrames === undefined) {
      throw expected("options.stride", "clipFrames beside it", "none");
    }
    return JSON.parse(JSON.stringify(options)); // as the plan keeps them
  },

  find(inputs, options, { isVideo, out, note, signal }) {
    const o = options as ItemOptions, { svg, limitPixels, fps, frames } = o;
    return findItems(inputs, {
      kind: isVideo ? "video" : "image",
      out,
      svg,
      limitPixels,
      fps,
      frames,
      foldersAreVideos: o.foldersAreVideos,
      member: o.member,
      column: o.column,
      columns: o.columns,
      hash: o.hash,
      clipFrames: o.clipFrames,
      stride: o.stride,
      numVariants: numVariantsOf(o),
      onNote: note,
      signal,
    });
  },

  openPlaces: () => new Places(),

  async openPreparer(options, places) {
    const names = Object.keys(prepareOptions.shape),
      own = Object.entries(options).filter(([name]) => names.includes(name));
    const preparer = new Preparer(Object.fromEntries(own), places as Places), restore = await decodeSmall();
    return {
      prepare: (item, signal) => preparer.prepare(item, signal),
      async [Symbol.asyncDispose]() {
        restore();
        await preparer[Symbol.asyncDispose]();
      },
    };
  },

  versions: decoderVersions,
  formats: shardFormats,
};

/**
 * libvips with a thread a picture and nothing kept: several pictures are decoded at once, none of them twice. A third
 * less time of the processor for a JPEG of 256 x 256 pixels, which the encoder then has. Gives what puts it back.
 */
async function decodeSmall(): Promise<() => void> {
  const sharp = await loadSharp(), threads = sharp.concurrency(), { memory, files, items } = sharp.cache();
  sharp.concurrency(1);
  sharp.cache(false);
  return () => {
    sharp.concurrency(threads);
    sharp.cache({ memory: memory.max, files: files.max, items: items.max });
  };
}
