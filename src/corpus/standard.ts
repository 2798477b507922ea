/** The sources, formats and preparing that there are, as parts; and their options as one flat list. Used by dataset.ts. */
import { z } from "zod";
import { type Fields, parse } from "../checks.ts";
import { expected } from "../errors.ts";
import { shardFormats } from "./formats/table.ts";
import { checkLooks, numVariantsOf } from "./looks.ts";
import type { Parts } from "./parts.ts";
import { Places } from "./places.ts";
import { decoderVersions, type PrepareOptions, prepareOptions, Preparer } from "./prepare.ts";
import { findItems, type FindOptions, findOptions } from "./sources/find.ts";

/** How items are found and prepared. */
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
/** Those that say nothing of pictures. */
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

  openPreparer(options, places) {
    const names = Object.keys(prepareOptions.shape);
    return new Preparer(
      Object.fromEntries(Object.entries(options).filter(([name]) => names.includes(name))),
      places as Places,
    );
  },

  versions: decoderVersions,
  formats: shardFormats,
};
