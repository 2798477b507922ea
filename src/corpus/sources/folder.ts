/**
 * Files of the disk, and objects of S3, as items: those of a folder and of all folders in it, or single ones. Names
 * that begin with a dot, links to folders, and the folder that the corpus is written to are left out. What is neither a
 * picture nor a video belongs to the one whose name it shares: "photo.v2.txt" goes with "photo.v2.jpg" as its field
 * "txt". Called by find.ts.
 */
import { stat } from "node:fs/promises";
import { basename, dirname, extname, join, relative } from "node:path";
import { throwIfAborted } from "../../abort.ts";
import { messageOf, TokenizerError } from "../../errors.ts";
import { fileKind, kindOfName } from "../../media/kinds.ts";
import type { Identity, Sidecar } from "../item.ts";
import { entriesOf, identityOf } from "../openfile.ts";
import { isS3, joinLocation, resolveLocation } from "../s3/address.ts";
import { isItemsFault } from "../source.ts";
import { byCodeUnits, count, type Search, type Seen, tellCounts } from "./candidate.ts";
import { keyOf } from "./keys.ts";

/** For how many files at once size and time are asked. */
const atOnce = 32;

/** What one folder contains, without hidden files. */
interface Listing {
  /** Items, subfolders and archives, sorted by name. */
  readonly entries: readonly { readonly name: string; readonly kind: "item" | "folder" | "archive" }[];
  /** Names of what belongs to an item, by its name without the extension. */
  readonly companions: ReadonlyMap<string, readonly string[]>;
  /** Names that are no UTF-8: the runtimes give another name for them, by which nothing is there. */
  readonly unreadable: readonly string[];
  /** What belongs to no item: how many names, by a word for their kind. */
  readonly others: ReadonlyMap<string, number>;
  /** Size, time and ETag of files, where the listing brought them. */
  readonly identities: ReadonlyMap<string, Identity>;
}

/** Control characters, which no sidecar's name may have: it becomes part of the name of a tar's member. */
const unnameable = /\p{Cc}/u;

/** Whether a file of that name contains items, as tars of samples and parquet files do. */
export function isArchive(name: string): boolean {
  return [".tar", ".parquet"].includes(extname(name).toLowerCase());
}

/**
 * All items in a folder, in the order of their paths by code units. Keys are made of the path below the folder, behind
 * `prefix` where there are several inputs. Archives are given to `archive`, where their turn comes.
 */
export async function* itemsInFolder(
  folder: string,
  prefix: string,
  search: Search,
  archive: (path: string) => AsyncGenerator<Seen>,
): AsyncGenerator<Seen> {
  const out = search.out === undefined ? undefined : resolveLocation(search.out), others = new Map<string, number>();
  async function* walk(at: string): AsyncGenerator<Seen> {
    throwIfAborted(search.signal);
    let listing: Listing;
    try {
      listing = await list(at, search);
    } catch (error) {
      if (isS3(at)) throw error; // a store that is not there is no folder that may not be read
      return yield { refused: { name: at, reason: `expected a folder to read, found ${messageOf(error)}` } };
    }
    for (const [what, n] of listing.others) others.set(what, (others.get(what) ?? 0) + n);
    for (const name of listing.unreadable) yield refuseName(joinLocation(at, name));
    let waiting: Promise<Seen>[] = [];
    for (const { name, kind } of listing.entries) {
      const path = joinLocation(at, name);
      if (kind === "item") {
        const key = join(prefix, relative(folder, at), name), names = listing.companions.get(stemOf(name)) ?? [];
        waiting.push(candidateOf(path, key, names, search, listing.identities));
        if (waiting.length < atOnce) continue;
      }
      for (const one of waiting) yield await one;
      waiting = [];
      if (kind === "archive") yield* archive(path);
      if (kind === "folder" && resolveLocation(path) !== out) yield* walk(path);
    }
    for (const one of waiting) yield await one;
  }
  yield* walk(folder);
  if (others.size > 0) search.note(`${folder}: left out ${tellCounts(others)}`);
}

/** Lists a folder. In S3 only names that start with `beginning` are asked for. */
async function list(folder: string, { kind, svg, signal }: Search, beginning = ""): Promise<Listing> {
  const found = (await entriesOf(folder, beginning, signal)).sort((a, b) => byCodeUnits(a.name, b.name));
  const identities = new Map<string, Identity>();
  const entries: { name: string; kind: "item" | "folder" | "archive" }[] = [], unreadable: string[] = [];
  const rest: string[] = [], others = new Map<string, number>(), stems = new Set<string>();
  let before = "";
  for (const entry of found) {
    const { name } = entry;
    if (name.startsWith(".")) continue;
    if (name === "") {
      count(others, "behind two slashes, which no path has");
      continue;
    }
    if (entry.identity) identities.set(name, entry.identity);
    // Note: names that are not UTF-8 contain U+FFFD here; but a name may contain that character itself.
    if (name.includes("\ufffd") && !isS3(folder) && (name === before || !await isThere(join(folder, name)))) {
      unreadable.push(name);
      continue;
    }
    before = name;
    if (entry.isFolder) entries.push({ name, kind: "folder" });
    else if (!await entry.isFile()) count(others, "links to folders, devices or nothing");
    else if (isArchive(name)) entries.push({ name, kind: "archive" });
    else if (kindOfName(name) === (kind === "image" ? "picture" : "video")) {
      if (extname(name).toLowerCase() === ".svg" && !svg) count(others, ".svg (drawn only when asked for)");
      else entries.push({ name, kind: "item" }), stems.add(stemOf(name));
    } else if (unnameable.test(name)) count(others, "with control characters in their names");
    else if (["picture", "video"].includes(kindOfName(name)!)) count(others, `${extname(name).toLowerCase()}`);
    else rest.push(name);
  }
  const companions = new Map<string, string[]>();
  for (const name of rest) {
    const stem = longestStem(name, stems);
    if (stem === undefined) count(others, extname(name).toLowerCase() || "without an extension");
    else companions.set(stem, [...companions.get(stem) ?? [], name]);
  }
  return { entries, companions, unreadable, others, identities };
}

function stemOf(name: string): string {
  return name.slice(0, name.length - extname(name).length);
}

/** The longest part of a name, up to a dot of it, that is an item's. */
function longestStem(name: string, stems: ReadonlySet<string>): string | undefined {
  for (let dot = name.lastIndexOf("."); dot > 0; dot = name.lastIndexOf(".", dot - 1)) {
    if (dot < name.length - 1 && stems.has(name.slice(0, dot))) return name.slice(0, dot);
  }
  return undefined;
}

async function isThere(path: string): Promise<boolean> {
  return await stat(path).then(() => true, () => false);
}

function refuseName(path: string): Seen {
  return { refused: { name: path, reason: "expected a name in UTF-8, found other bytes (shown as \ufffd)" } };
}

async function candidateOf(
  path: string,
  keyPath: string,
  companions: readonly string[],
  { kind, signal }: Search,
  known: Listing["identities"],
): Promise<Seen> {
  try {
    const identify = async (path: string) => known.get(basename(path)) ?? await identityOf(path, signal);
    const identity = await identify(path),
      folder = dirname(path),
      stem = stemOf(basename(path)),
      sidecars: Sidecar[] = [];
    for (const name of companions) {
      const place = { kind: "file", path: joinLocation(folder, name) } as const;
      sidecars.push({ field: name.slice(stem.length + 1), place, identity: await identify(place.path) });
    }
    if (identity.bytes === 0) {
      return { refused: { name: path, reason: "expected a file with something in it, found 0 bytes" } };
    }
    const keys = keysOf(keyPath), place = { kind: "file", path } as const;
    return { candidate: { name: path, keys, kind, place, identity, sidecars } };
  } catch (error) {
    if (isS3(path) && !isItemsFault(error)) throw error;
    return { refused: { name: path, reason: messageOf(error) } };
  }
}

/** The key for a path: "a/photo.jpg" is "a__photo", or "a__photo_jpg" where another file has that key. */
export function keysOf(path: string): string[] {
  return [keyOf(stemOf(path)), keyOf(path)];
}

function otherKind(wanted: string, is: string): string {
  return `expected a ${wanted}, found ${is === "tokens" ? is : `a ${is}`}`;
}

function isUnwantedSvg(path: string, { svg }: Search): boolean {
  return extname(path).toLowerCase() === ".svg" && !svg;
}
const noSvg = "expected pixels, found SVG, which is drawn only when asked for (svg: true, --svg)";

/**
 * The items of single files, in order. It keeps the listings of their folders, which tell what goes along with each.
 */
export class SingleFiles {
  readonly #search: Search;
  readonly #listings = new Map<string, Promise<Listing>>();

  constructor(search: Search) {
    this.#search = search;
  }

  async find(path: string, keyPath = basename(path)): Promise<Seen> {
    const { kind } = this.#search;
    const refuse = (reason: string): Seen => ({ refused: { name: path, reason } });
    if (isS3(path)) return await this.#findObject(path, keyPath, refuse);
    const found = await stat(path).catch(() => undefined);
    if (!found) return path.includes("\ufffd") ? refuseName(path) : refuse("expected a file, found none");
    if (!found.isFile()) {
      return refuse(`expected a file, found ${found.isDirectory() ? "a folder" : "a device or pipe"}`);
    }
    const wanted = kind === "image" ? "picture" : "video", is = await fileKind(path);
    // A file whose name does not tell its kind is taken as asked for; its reader finds out what it is.
    if (is !== undefined && is !== wanted) return refuse(otherKind(wanted, is));
    if (isUnwantedSvg(path, this.#search)) return refuse(noSvg);
    const { companions, identities } = await this.#listing(dirname(path));
    return await candidateOf(path, keyPath, companions.get(stemOf(basename(path))) ?? [], this.#search, identities);
  }

  /** Finds an object in S3, listing only the names that begin as its own does: what goes along with it does so. */
  async #findObject(path: string, keyPath: string, refuse: (reason: string) => Seen): Promise<Seen> {
    const name = basename(path), wanted = this.#search.kind === "image" ? "picture" : "video", is = kindOfName(path);
    if (is !== undefined && is !== wanted) return refuse(otherKind(wanted, is));
    if (isUnwantedSvg(path, this.#search)) return refuse(noSvg);
    try {
      const isNamed = extname(name) !== "", stem = stemOf(name);
      const listing = isNamed ? await list(dirname(path), this.#search, `${stem}.`) : undefined;
      if (isNamed && !listing!.identities.has(name)) return refuse("expected a file, found none");
      const companions = listing?.companions.get(stem) ?? [];
      return await candidateOf(path, keyPath, companions, this.#search, listing?.identities ?? new Map());
    } catch (error) {
      if (error instanceof TokenizerError && error.code === "ARGUMENT" && error.detail === undefined) {
        return refuse(messageOf(error)); // no location
      }
      throw error;
    }
  }

  async #listing(folder: string): Promise<Listing> {
    let listing = this.#listings.get(folder);
    if (listing) this.#listings.delete(folder);
    listing ??= list(folder, this.#search).catch((error) => {
      if (error instanceof TokenizerError) throw error;
      // A folder that may be entered but not listed.
      return { entries: [], companions: new Map(), unreadable: [], others: new Map(), identities: new Map() };
    });
    this.#listings.set(folder, listing);
    for (const oldest of this.#listings.keys()) if (this.#listings.size > 8) this.#listings.delete(oldest);
    return await listing;
  }
}
