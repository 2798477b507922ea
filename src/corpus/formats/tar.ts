/**
 * Tars as they are written here: for each member a ustar header of 512 bytes and its bytes, filled up to 512; two
 * blocks of zeros at the end. Equal members give equal bytes: owner 0, mode 0644, time 0. A name that is not ASCII or
 * longer than the header's 100 bytes stands in a pax header before it, as Python writes it. Read back strictly: nothing
 * but that. Tars of others are read by sources/. Ref: POSIX.1-2017, pax, "ustar Interchange Format".
 */
import { expected } from "../../errors.ts";
import type { Part } from "./part.ts";

export const blockBytes = 512;
/** Largest member of a tar, in bytes: its header has 11 octal digits for the size. */
const mostBytes = 8 ** 11 - 1;
const nameBytes = 100;
const encoder = new TextEncoder();

export interface Member {
  readonly name: string;
  /** Offset of its content in the archive, and its size, in bytes. */
  readonly offset: number;
  readonly bytes: number;
}

/** The two empty blocks that end a tar. */
export function tarEnd(): Uint8Array {
  return new Uint8Array(2 * blockBytes);
}

/** A member as the bytes of the archive, with its header and padding. Throws SHAPE for more than 8 GiB. */
export function tarMember(name: string, content: Uint8Array): Uint8Array {
  if (content.length > mostBytes) throw expected(name, `at most ${mostBytes} bytes`, content.length, "SHAPE");
  const utf8 = encoder.encode(name), isPlain = utf8.length === name.length && utf8.length <= nameBytes;
  const parts = isPlain
    ? [header(utf8, content.length, "0"), content]
    : [...paxParts(utf8), header(shortName(utf8), content.length, "0"), content];
  const out = new Uint8Array(parts.reduce((sum, part) => sum + filled(part.length), 0));
  let at = 0;
  for (const part of parts) {
    out.set(part, at);
    at += filled(part.length);
  }
  return out;
}

/** Rounds a size in bytes up to a whole number of tar blocks. */
function filled(bytes: number): number {
  return Math.ceil(bytes / blockBytes) * blockBytes;
}

/** The name in the old header, for readers without pax: the beginning of the full name, in ASCII. */
function shortName(utf8: Uint8Array): Uint8Array {
  return utf8.slice(0, nameBytes).map((byte) => byte < 128 ? byte : 0x5f);
}

function paxParts(name: Uint8Array): [Uint8Array, Uint8Array] {
  const record = paxRecord(name);
  return [header(encoder.encode("PaxHeader"), record.length, "x"), record];
}

/** A pax record, "LENGTH path=NAME\n". LENGTH counts the whole record, its own digits included. */
function paxRecord(name: Uint8Array): Uint8Array {
  const rest = " path=".length + name.length + 1;
  let length = rest + String(rest).length;
  if (String(length).length > String(rest).length) length++;
  const out = new Uint8Array(length), start = encoder.encode(`${length} path=`);
  out.set(start);
  out.set(name, start.length);
  out[length - 1] = 10;
  return out;
}

/** Fields by offset: name 0, mode 100, uid 108, gid 116, size 124, mtime 136, checksum 148, type 156, magic 257. */
function header(name: Uint8Array, bytes: number, type: "0" | "x"): Uint8Array {
  const out = new Uint8Array(blockBytes), put = (text: string, at: number) => out.set(encoder.encode(text), at);
  const octal = (value: number, digits: number) => `${value.toString(8).padStart(digits, "0")}\0`;
  out.set(name);
  put(octal(0o644, 7), 100);
  put(octal(0, 7), 108);
  put(octal(0, 7), 116);
  put(octal(bytes, 11), 124);
  put(octal(0, 11), 136);
  put("        ", 148);
  put(type, 156);
  put("ustar\x0000", 257);
  put(octal(0, 7), 329); // device numbers, as Python writes them
  put(octal(0, 7), 337);
  const sum = out.reduce((total, byte) => total + byte, 0);
  put(`${sum.toString(8).padStart(6, "0")}\0 `, 148);
  return out;
}

/**
 * The members of a tar, in order, each with its headers' offset. Throws TOKEN_FILE for any other bytes than
 * tarMember's.
 */
export async function* tarMembers(tar: Part): AsyncGenerator<Member & { readonly start: number }> {
  const bad = (at: number, wanted: string, found: unknown) =>
    expected(`${tar.name}: byte ${at}`, wanted, found, "TOKEN_FILE");
  let at = 0;
  for (;;) {
    const start = at;
    let block = await tar.read(at, blockBytes), long: Uint8Array | undefined;
    if (block.every((byte) => byte === 0)) break;
    if (block[156] === 0x78) { // x
      const bytes = sizeOf(block, () => bad(at, "a size in octal digits", "none"));
      long = await tar.read(at + blockBytes, bytes);
      const name = long.subarray(long.indexOf(0x3d) + 1, -1), [head, record] = paxParts(name);
      if (!isSame(block, head) || !isSame(long, record)) throw bad(at, "a pax header of one path", "another");
      at += blockBytes + filled(bytes);
      long = name;
      block = await tar.read(at, blockBytes);
    }
    const bytes = sizeOf(block, () => bad(at, "a member's header", "other bytes"));
    const short = block.subarray(0, nameBytes), end = short.indexOf(0);
    const utf8 = long ?? (end < 0 ? short : short.subarray(0, end));
    if (!isSame(block, header(long ? shortName(long) : utf8, bytes, "0"))) {
      throw bad(at, "a member's header as ctok writes it", "another, or a damaged one");
    }
    const offset = at + blockBytes, padding = filled(bytes) - bytes;
    const after = await tar.read(offset + bytes, padding);
    if (after.some((byte) => byte !== 0)) throw bad(offset + bytes, "zeros up to the next block", "others");
    yield { name: nameOf(utf8, () => bad(at, "a name in UTF-8", "another")), offset, bytes, start };
    at = offset + filled(bytes);
  }
  const end = await tar.read(at, 2 * blockBytes);
  if (end.some((byte) => byte !== 0) || at + 2 * blockBytes !== tar.bytes) {
    throw bad(at, "two blocks of zeros and the end", `${tar.bytes - at} bytes`);
  }
}

function sizeOf(header: Uint8Array, bad: () => Error): number {
  const digits = String.fromCharCode(...header.subarray(124, 135));
  if (!/^[0-7]{11}$/.test(digits)) throw bad();
  return parseInt(digits, 8);
}

function nameOf(utf8: Uint8Array, bad: () => Error): string {
  try {
    return new TextDecoder("utf-8", { fatal: true, ignoreBOM: true }).decode(utf8);
  } catch {
    throw bad();
  }
}

function isSame(a: Uint8Array, b: Uint8Array): boolean {
  return a.length === b.length && a.every((byte, i) => byte === b[i]);
}
