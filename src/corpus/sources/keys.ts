/**
 * Keys of samples: readable, legal wherever a sample is named (the members of a webdataset tar above all), each given
 * once in a plan. A key is made of an item's path; where two paths make one key, the later item gets another, by rules
 * that depend on its own path alone as far as that goes. Called by find.ts.
 */
import { createHash } from "node:crypto";
import { expected } from "../../errors.ts";

/**
 * Longest key, in bytes of UTF-8: in file names of 255 bytes that leaves room for what follows a key, the number of a
 * clip or variant and a field.
 */
const mostKeyBytes = 160;

/**
 * Characters that keys do not have: the dot, which ends a key in webdataset, and what nobody can read: controls, lone
 * surrogates, marks of direction.
 */
const illegal = /[.\\\p{Cc}\p{Cs}\u2028\u2029\u061c\u200e\u200f\u202a-\u202e\u2066-\u2069\ufffd]/gu;

/** A path without its extension as a key: "a/b.c/photo.v2" is "a__b_c__photo_v2". Several paths may give one key. */
export function keyOf(path: string): string {
  const key = path.replace(/^(\.{0,2}\/)+/, "").replaceAll("/", "__").replace(illegal, "_") || "_";
  if (Buffer.byteLength(key) <= mostKeyBytes) return key;
  const tail = `-${hashOf(path).slice(0, 16)}`;
  let head = "", bytes = tail.length;
  for (const character of key) {
    bytes += Buffer.byteLength(character);
    if (bytes > mostKeyBytes) break;
    head += character;
  }
  return head + tail;
}

/** Checks a key that a caller gave to an item. Throws ARGUMENT. */
export function checkKey(key: unknown): string {
  if (typeof key !== "string" || key === "") throw expected("key", "a text", key === "" ? "none" : typeof key);
  if (key.includes("/") || key.search(illegal) >= 0) {
    throw expected("key", "neither a dot nor a slash nor a control character in it", key);
  }
  const bytes = Buffer.byteLength(key);
  if (bytes > mostKeyBytes) throw expected("key", `at most ${mostKeyBytes} bytes`, bytes);
  return key;
}

/** The keys that are taken; gives each item one of its own. */
export class KeyBook {
  readonly #known = new HashSet();
  /** How many items could not have the key that their path gives. */
  numChanged = 0;

  /**
   * The first of the wished keys that is free; else the first one with a hash of `path`, which tells the item from all
   * others that wish the same.
   */
  take(wished: readonly string[], path: string): string {
    const hash = hashOf(path);
    const tries = [...wished, `${wished[0]}-${hash.slice(0, 8)}`, `${wished[0]}-${hash.slice(0, 32)}`];
    let i = tries.findIndex((key) => this.#known.add(key));
    for (; i < 0 && !this.#known.add(`${wished[0]}-${hash.slice(0, 32)}-${-i}`); i--); // the same path once more
    if (i !== 0) this.numChanged++;
    return i >= 0 ? tries[i]! : `${wished[0]}-${hash.slice(0, 32)}-${-i}`;
  }

  /** Takes a key that a caller gave to an item; false where another item has it. */
  takeExactly(key: string): boolean {
    return this.#known.add(key);
  }
}

export function hashOf(text: string): string {
  return createHash("sha256").update(text).digest("hex");
}

/**
 * A set of texts by 52 bits of their hash, 8 bytes a place and half of the places free: 16 to 32 MB a million, a third
 * of what a Set takes. Two texts of one hash (one chance in 90 among ten million) look like one: a key is changed
 * without need.
 */
class HashSet {
  #places = new Float64Array(1 << 12);
  #count = 0;

  /** Adds a text; false where it was there already. */
  add(text: string): boolean {
    const digest = createHash("sha256").update(text).digest();
    const hash = digest.readUIntBE(0, 6) * 16 + (digest[6]! >> 4) + 1; // never 0, which is a free place
    if (!put(this.#places, hash)) return false;
    if (++this.#count * 2 > this.#places.length) {
      const larger = new Float64Array(this.#places.length * 2);
      for (const value of this.#places) if (value) put(larger, value);
      this.#places = larger;
    }
    return true;
  }
}

function put(places: Float64Array, hash: number): boolean {
  let at = hash % places.length;
  for (; places[at]; at = (at + 1) % places.length) if (places[at] === hash) return false;
  places[at] = hash;
  return true;
}
