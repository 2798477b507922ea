/**
 * All items that the inputs of a plan name, in one order, the same on every machine that has the same files: folders,
 * patterns, lists, webdataset tars, parquet files, single files. Each item has a key of its own; what cannot be taken
 * comes as a refusal with its reason, and what is left out is told. Nothing is decoded, but for how many frames a video
 * has. Called by the planner.
 *
 * Memory: the names in one folder at a time (and those above it), of a pattern its matches, and 16 to 32 bytes for each
 * key.
 */
import { createHash } from "node:crypto";
import { open, stat } from "node:fs/promises";
import { basename, resolve } from "node:path";
import picomatch from "picomatch";
import { z } from "zod";
import { throwIfAborted } from "../../abort.ts";
import { type Fields, limitPixels, parse, signal } from "../../checks.ts";
import { expected, messageOf, TokenizerError } from "../../errors.ts";
import { expandPatterns } from "../../patterns.ts";
import { type Rate, rateOption } from "../../tokens/rate.ts";
import type { Item, Place } from "../item.ts";
import { identityOf, isFolder, objectsBelow } from "../openfile.ts";
import { hashOfFile, Places } from "../places.ts";
import { isS3, joinLocation, liesIn, parseS3, resolveLocation } from "../s3/address.ts";
import { type Found, isItemsFault } from "../source.ts";
import { byCodeUnits, type Candidate, type Search, type Seen } from "./candidate.ts";
import { type Clips, clipsOf } from "./clips.ts";
import { isArchive, itemsInFolder, SingleFiles } from "./folder.ts";
import { KeyBook, keyOf } from "./keys.ts";
import { itemsOfList, standard } from "./list.ts";
import { itemsInParquet } from "./parquet.ts";
import { itemsInTar } from "./webdataset.ts";

export interface FindOptions {
  /** What the model tokenises: pictures or videos. */
  kind: Item["kind"];
  /** Whether each folder is one video, its pictures in natural order the frames. Default false: each file counts. */
  foldersAreVideos?: boolean | undefined;
  /** Where the corpus is written: nothing in there is an input. */
  out?: string | undefined;
  /** Whether SVG pictures are items. Default false. */
  svg?: boolean | undefined;
  /**
   * Tars only: the field of the members that are the items ("jpg", "left.png"). Default: the first picture or video of
   * a sample.
   */
  member?: string | undefined;
  /**
   * Parquet files only: the column of pictures or videos. Default: "image" and other usual names, or the only one of
   * bytes.
   */
  column?: string | undefined;
  /** Parquet files only: the columns that go along with each item. Default: all others. */
  columns?: readonly string[] | undefined;
  /**
   * Whether each item's bytes are read for their sha256, which is looked at again when it is tokenised. Default false.
   */
  hash?: boolean | undefined;
  /**
   * How many samples are made of each picture (crops and mirrored ones). Default 1; numVariantsOf (looks.ts) computes
   * it from the options.
   */
  numVariants?: number | undefined;
  /** Cuts videos into clips of so many frames. Default: a video is one item. */
  clipFrames?: number | undefined;
  /** Frames from one clip's first to the next one's. Default: `clipFrames`. */
  stride?: number | undefined;
  /** The most frames of a video that are cut into clips. Default: all. */
  frames?: number | undefined;
  /** The rate at which frames are counted. Default: the video's own. */
  fps?: number | Rate | undefined;
  limitPixels?: number | undefined;
  /** Hears what the user should know beside items and refusals: what was left out, which keys had to be changed. */
  onNote?: ((text: string) => void) | undefined;
  signal?: AbortSignal | undefined;
}
export const findOptions = z.strictObject(
  {
    kind: z.enum(["image", "video"]),
    foldersAreVideos: z.boolean().default(false),
    out: z.string().optional(),
    svg: z.boolean().default(false),
    member: z.string().min(1).optional(),
    column: z.string().min(1).optional(),
    columns: z.array(z.string().min(1)).readonly().optional(),
    hash: z.boolean().default(false),
    numVariants: z.int().min(1).default(1),
    clipFrames: z.int().min(1).optional(),
    stride: z.int().min(1).optional(),
    frames: z.int().min(1).optional(),
    fps: rateOption.optional(),
    limitPixels,
    onNote: z.custom<(text: string) => void>((v) => typeof v === "function", "expected a function").optional(),
    signal,
  } satisfies Fields<FindOptions>,
);
type Wanted = z.output<typeof findOptions>;

/** Candidates that are looked into at once: for their frames, or their hash. */
const atOnce = 4;

/**
 * Items of `inputs`, in their order: a folder (all in it, recursively), a pattern (`*`, `?`, `[]`, `{}`, `**`), a
 * webdataset tar, a parquet file, a picture or video; "@list.txt" is a list, "-" one on standard input. Throws ARGUMENT
 * for no input, for one list read twice from standard input, and for options that do not go together; CANCELLED. All
 * else that is wrong is refused, item by item.
 */
export async function* findItems(inputs: readonly string[], options: FindOptions): AsyncGenerator<Found> {
  const o = parse(findOptions, options, "options");
  checkTogether(inputs, o);
  const note = o.onNote ?? (() => {}), book = new KeyBook();
  await using places = new Places();
  const search: Search = { ...o, out: o.out, places, note, signal: o.signal } as Search;
  let numLeft = 0, numShort = 0;
  for await (const [seen, looked] of ahead(candidatesOf(inputs, search, o), (one) => lookInto(one, o, places))) {
    throwIfAborted(o.signal);
    const refused = "refused" in seen
      ? seen.refused
      : looked && "reason" in looked
      ? { name: seen.candidate.name, reason: looked.reason }
      : undefined;
    if (refused || !("candidate" in seen)) {
      if (refused) yield { refused };
      continue;
    }
    const { candidate } = seen, { clips, sha256 } = (looked ?? {}) as Looked;
    if (candidate.isKeyGiven && !book.takeExactly(candidate.keys[0]!)) {
      const reason = `expected a key of its own, found ${candidate.keys[0]}, which another item has`;
      yield { refused: { name: candidate.name, reason } };
      continue;
    }
    const key = candidate.isKeyGiven ? candidate.keys[0]! : book.take(candidate.keys, candidate.name);
    if (clips && clips.numLeft > 0) numLeft += clips.numLeft, numShort++;
    for (const item of itemsOf(candidate, key, clips, sha256, o)) yield { item };
  }
  if (book.numChanged > 0) {
    note(`${book.numChanged} items have a longer key than their path makes, which another item has`);
  }
  if (numLeft > 0) {
    note(`${numLeft} frames at the ends of ${numShort} videos are in no whole clip of ${o.clipFrames} frames`);
  }
}

function checkTogether(inputs: readonly string[], o: Wanted): void {
  if (inputs.length === 0) throw expected("inputs", "at least one", "none");
  if (inputs.filter((input) => input === standard || input === `@${standard}`).length > 1) {
    throw expected("inputs", "standard input once", "twice");
  }
  const ofVideos = (["foldersAreVideos", "clipFrames", "stride", "frames", "fps"] as const).find((name) => o[name]);
  if (o.kind === "image" && ofVideos) throw expected(ofVideos, "a video model", "one of images");
  if (o.stride !== undefined && o.clipFrames === undefined) throw expected("stride", "clipFrames beside it", "none");
}

async function* candidatesOf(inputs: readonly string[], search: Search, o: Wanted): AsyncGenerator<Seen> {
  const all = await expandAll(inputs, o.signal), folders: string[] = [];
  for (const input of all) if (!isList(input) && await isFolder(input, o.signal)) folders.push(resolveLocation(input));
  const files = new SingleFiles(search);
  let numWithin = 0;
  for (const input of all) {
    throwIfAborted(o.signal);
    const within = folders.find((folder) => liesIn(resolveLocation(input), folder));
    if (isList(input)) {
      const list = input === standard ? standard : input.slice(1);
      const other = (path: string) => isArchive(path) ? archive(path, search) : undefined;
      try {
        yield* itemsOfList(list, search, other);
      } catch (error) { // no list there: an input that is missing fails the plan, not one item
        throw error instanceof TokenizerError ? error : expected(list, "a list to read", messageOf(error), "FILE_IO");
      }
    } else if (within !== undefined && !o.foldersAreVideos) {
      numWithin++; // a pattern with ** gives folders and what is in them
    } else if (folders.includes(resolveLocation(input))) {
      yield* o.foldersAreVideos
        ? videoOfFolder(input)
        : itemsInFolder(input, all.length > 1 ? basename(resolveLocation(input)) : "", search, (path) =>
          archive(path, search));
    } else if (await kindOfArchive(input)) yield* archive(input, search);
    else yield await files.find(input);
  }
  if (numWithin > 0) search.note(`${numWithin} inputs lie in other inputs and are taken once`);
}

function isList(input: string): boolean {
  return input === standard || input.startsWith("@") && input.length > 1;
}

/** Expands the patterns among the inputs, in place, each match once; those of S3 to objects. */
async function expandAll(inputs: readonly string[], signal: AbortSignal | undefined): Promise<string[]> {
  const all: string[] = [];
  for (const input of inputs) all.push(...isS3(input) ? await expandS3(input, signal) : [input]);
  return expandPatterns(all, (text) => isList(text) || isS3(text));
}

async function expandS3(input: string, signal: AbortSignal | undefined): Promise<string[]> {
  const { bucket, key } = parseS3(input);
  if (!/[*?[{]/.test(key) || await isThere(input, signal)) return [input];
  const { base, glob } = picomatch.scan(key), matches = picomatch(glob), found: string[] = [];
  const folder = joinLocation(`s3://${bucket}`, base), beginning = /^[^*?[\]{}()!+@\\]*/.exec(glob)![0];
  for await (const location of objectsBelow(folder, beginning, signal)) {
    if (matches(location.slice(folder.length).replace(/^\//, ""))) found.push(location);
  }
  return found.length > 0 ? found.sort(byCodeUnits) : [input];
}

async function isThere(location: string, signal: AbortSignal | undefined): Promise<boolean> {
  return await identityOf(location, signal).then(() => true, (error) => {
    if (error instanceof TokenizerError && error.code === "FILE_MISSING") return false;
    throw error;
  });
}

/** A tar or parquet file, by its name, else by its first bytes. */
async function kindOfArchive(path: string): Promise<"tar" | "parquet" | undefined> {
  if (isArchive(path)) return path.toLowerCase().endsWith(".tar") ? "tar" : "parquet";
  if (/\.(tar\.(gz|bz2|xz|zst|lz4)|tgz)$/i.test(path)) return "tar"; // which says why it is not read
  if (isS3(path)) return undefined; // not looked into for that
  const found = await stat(path).catch(() => undefined);
  if (!found?.isFile()) return undefined;
  const head = new Uint8Array(264), file = await open(path).catch(() => undefined);
  try {
    await file?.read(head, 0, head.length, 0);
  } catch { // its reader will tell
    return undefined;
  } finally {
    await file?.close();
  }
  const text = String.fromCharCode(...head);
  return text.startsWith("PAR1") ? "parquet" : text.slice(257, 262) === "ustar" ? "tar" : undefined;
}

async function* archive(path: string, search: Search): AsyncGenerator<Seen> {
  yield* await kindOfArchive(path) === "parquet" ? itemsInParquet(path, search) : itemsInTar(path, search);
}

async function* videoOfFolder(folder: string): AsyncGenerator<Seen> {
  const name = folder, keys = [keyOf(basename(resolve(folder))), keyOf(folder)];
  if (isS3(folder)) {
    return yield {
      refused: { name, reason: "expected a folder of frames on a disk, where FFmpeg reads it, found one in S3" },
    };
  }
  try {
    const identity = await identityOf(folder), place = { kind: "file", path: folder } as const;
    yield { candidate: { name, keys, kind: "video", place, identity, sidecars: [] } };
  } catch (error) {
    yield { refused: { name, reason: messageOf(error) } };
  }
}

interface Looked {
  readonly clips?: Clips;
  readonly sha256?: string;
}

/** Looks into an item's file where an option needs its content, for clips or a hash; a failure refuses the item. */
async function lookInto(
  seen: Seen,
  o: Wanted,
  places: Places,
): Promise<Looked | { readonly reason: string } | undefined> {
  if (!("candidate" in seen)) return undefined;
  const { candidate } = seen, { place, identity } = candidate;
  const wish = candidate.kind === "video" && o.clipFrames !== undefined
    ? { ...o, clipFrames: o.clipFrames, stride: o.stride ?? o.clipFrames, frames: o.frames, fps: o.fps }
    : undefined;
  try {
    const clips = wish && await clipsOf(candidate, wish, places, o.signal);
    let sha256: string | undefined;
    if (o.hash && place.kind === "file") {
      sha256 = await isFolder(place.path) ? undefined : await hashOfFile(place.path, o.signal);
    } else if (o.hash) sha256 = createHash("sha256").update(await places.read(place, identity, o.signal)).digest("hex");
    return { ...(clips && { clips }), ...(sha256 !== undefined && { sha256 }) };
  } catch (error) {
    if (!isItemsFault(error)) throw error;
    return { reason: messageOf(error) };
  }
}

function* itemsOf(
  { kind, identity, ...found }: Candidate,
  key: string,
  clips: Clips | undefined,
  sha256: string | undefined,
  { numVariants }: Wanted,
): Generator<Item> {
  const own = { ...identity, ...(sha256 !== undefined && { sha256 }) }, all = clips?.clips ?? [undefined];
  const place = rooted(found.place), sidecars = found.sidecars.map((one) => ({ ...one, place: rooted(one.place) }));
  for (const [i, clip] of all.entries()) {
    for (let variant = 0; variant < numVariants; variant++) {
      yield {
        key: key + (clip ? `_${i}` : "") + (numVariants > 1 ? `_${variant}` : ""),
        kind,
        place,
        identity: own,
        sidecars,
        ...(numVariants > 1 && { variant }),
        ...(clip && { clip }),
      };
    }
  }
}

/** Makes a path absolute, as workers may run in another folder. */
function rooted(place: Place): Place {
  return place.kind === "text" ? place : { ...place, path: resolveLocation(place.path) };
}

/** Gives each item together with the result of `work` for it, in order; a few are in work at a time. */
async function* ahead<T, R>(source: AsyncGenerator<T>, work: (one: T) => Promise<R>): AsyncGenerator<[T, R]> {
  const waiting: [T, Promise<R>][] = [];
  try {
    for await (const one of source) {
      const working = work(one);
      working.catch(() => {}); // told when its turn comes
      waiting.push([one, working]);
      if (waiting.length < atOnce) continue;
      const [first, made] = waiting.shift()!;
      yield [first, await made];
    }
    for (let first; (first = waiting.shift());) yield [first[0], await first[1]];
  } finally {
    await Promise.allSettled(waiting.map(([, working]) => working));
  }
}
