/**
 * The members of a tar, by its headers alone: names, sizes and where their bytes lie, so that a worker reads one
 * without the others. POSIX ustar with pax headers, GNU long names and sizes, and the old form. Content is stepped
 * over, not read. Sparse files, links and devices are told for what they are; nothing is unpacked. Called by
 * webdataset.ts.
 *
 * By hand, as libraries read tars as streams: all the bytes of an archive to learn where one member is.
 */
import { throwIfAborted } from "../../abort.ts";
import { TokenizerError } from "../../errors.ts";
import { type OpenFile, openFile, readExactly } from "../openfile.ts";

export interface TarMember {
  readonly name: string;
  /** Whether the name was UTF-8; if not, `name` has escapes for what was not. */
  readonly isUtf8: boolean;
  readonly kind: "file" | "folder" | "link" | "sparse" | "other";
  /** Offset of its content in the archive, and its size, in bytes. */
  readonly offset: number;
  readonly bytes: number;
}

const blockBytes = 512;
/** Most bytes of the extra headers that describe the next member: its long name, sizes and times. */
const mostExtraBytes = 1 << 20;

/**
 * All members in order. Throws FILE_FORMAT after those that are whole, where the archive is cut, damaged or none;
 * FILE_MISSING, FILE_IO, CANCELLED.
 */
export async function* tarMembers(path: string, signal?: AbortSignal): AsyncGenerator<TarMember> {
  const file = await openFile(path, signal);
  try {
    yield* membersOf(path, file, signal);
  } finally {
    await file.close();
  }
}

async function* membersOf(path: string, file: OpenFile, signal?: AbortSignal): AsyncGenerator<TarMember> {
  const reader = new BlockReader(file, (await file.identity()).bytes);
  let global: Extra = {}, extra: Extra = {}, at = 0;
  const fail = (wanted: string, found: string) =>
    new TokenizerError("FILE_FORMAT", `${path}: expected ${wanted}, found ${found}`, { detail: at });
  for (;;) {
    throwIfAborted(signal);
    if (reader.size - at < blockBytes) {
      const rest = reader.size - at;
      throw at === 0
        ? fail("a tar", `${rest} bytes`)
        : fail("a whole tar", `it cut at byte ${reader.size}, ${rest ? "in a header" : "before its end mark"}`);
    }
    const block = await reader.read(at, blockBytes);
    if (block.every((byte) => byte === 0)) return;
    if (!hasSum(block)) {
      const isGzip = at === 0 && block[0] === 0x1f && block[1] === 0x8b;
      const found = isGzip ? "gzip, in which no member can be found without all before it (gunzip it first)" : "none";
      throw at === 0 ? fail("a tar", found) : fail("a whole tar", `no header at byte ${at}`);
    }
    const type = String.fromCharCode(block[156]!), header = at;
    const isMeta = "xgLK".includes(type), declared = { ...global, ...(isMeta ? {} : extra) };
    const bytes = declared.size !== undefined && !isMeta ? declared.size : numberOf(block.subarray(124, 136));
    if (bytes === undefined || !Number.isSafeInteger(bytes)) {
      throw fail("a whole tar", `no size in the header at byte ${at}`);
    }
    const kind = kindOf(type, declared), content = header + blockBytes;
    // A link's header may state the size of its target; the archive has no bytes of it.
    const stored = kind === "file" || kind === "sparse" || kind === "other" || isMeta ? bytes : 0;
    if (content + stored > reader.size) {
      throw fail("a whole tar", `it cut at byte ${reader.size}, in a member of ${bytes} bytes from byte ${content}`);
    }
    at = content + Math.ceil(stored / blockBytes) * blockBytes;
    if (isMeta) {
      if (bytes > mostExtraBytes) {
        throw fail(`at most ${mostExtraBytes} bytes about a member`, `${bytes} at byte ${header}`);
      }
      const data = await reader.read(content, bytes);
      if (type === "g") global = { ...global, ...paxOf(data) };
      else if (type === "x") extra = { ...extra, ...paxOf(data) };
      else if (type === "L") extra = { ...extra, name: untilNul(data) };
      continue;
    }
    const { name, isUtf8 } = textOf(declared.name ?? nameOf(block));
    extra = {};
    const isFolder = kind === "folder" || kind === "file" && name.endsWith("/");
    yield { name, isUtf8, kind: isFolder ? "folder" : kind, offset: content, bytes: stored };
  }
}

/** What extra headers say of the member that follows them: its path and its size. */
interface Extra {
  readonly name?: Uint8Array;
  readonly size?: number;
  readonly isSparse?: boolean;
}

function kindOf(type: string, { isSparse }: Extra): TarMember["kind"] {
  if (isSparse || type === "S") return "sparse";
  if (type === "0" || type === "\0" || type === "7") return "file";
  if (type === "5" || type === "D") return "folder";
  return type === "1" || type === "2" ? "link" : "other";
}

/** Ref: POSIX.1-2017, pax, ustar: the name, behind its prefix where the archive is POSIX's and not GNU's. */
function nameOf(block: Uint8Array): Uint8Array {
  const name = untilNul(block.subarray(0, 100)), prefix = untilNul(block.subarray(345, 500));
  const isPosix = String.fromCharCode(...block.subarray(257, 263)) === "ustar\0";
  return isPosix && prefix.length > 0 ? Uint8Array.of(...prefix, 0x2f, ...name) : name;
}

function untilNul(bytes: Uint8Array): Uint8Array {
  const end = bytes.indexOf(0);
  return end < 0 ? bytes : bytes.subarray(0, end);
}

function textOf(bytes: Uint8Array): { name: string; isUtf8: boolean } {
  try {
    return { name: new TextDecoder("utf-8", { fatal: true, ignoreBOM: true }).decode(bytes), isUtf8: true };
  } catch {
    const name = Array.from(bytes, (b) => b < 0x80 ? String.fromCharCode(b) : `\\x${b.toString(16)}`).join("");
    return { name, isUtf8: false };
  }
}

/**
 * Reads a number of a header: octal digits or, in GNU's form, its bytes after a set high bit. Undefined where it is
 * neither.
 */
function numberOf(field: Uint8Array): number | undefined {
  if (field[0]! & 0x80) {
    if (field[0] !== 0x80) return undefined; // negative, or beyond 2^88
    return field.subarray(1).reduce((sum, byte) => sum * 256 + byte, 0);
  }
  const text = String.fromCharCode(...field).replace(/^[ \0]+|[ \0]+$/g, "");
  return /^[0-7]*$/.test(text) ? parseInt(text || "0", 8) : undefined;
}

/** Whether a header's checksum is right, with bytes taken as unsigned or, in old archives, as signed. */
function hasSum(block: Uint8Array): boolean {
  let unsigned = 0, signed = 0;
  for (let i = 0; i < block.length; i++) {
    const value = i >= 148 && i < 156 ? 0x20 : block[i]!;
    unsigned += value, signed += value < 128 ? value : value - 256;
  }
  const sum = numberOf(block.subarray(148, 156));
  return sum === unsigned || sum === signed;
}

/** Reads the records "LENGTH KEY=VALUE\n" of a pax header, up to the first bytes that are no record. */
function paxOf(data: Uint8Array): Extra {
  const extra: { -readonly [K in keyof Extra]: Extra[K] } = {};
  for (let at = 0; at < data.length;) {
    const space = data.indexOf(0x20, at), equals = data.indexOf(0x3d, space);
    const length = Number(String.fromCharCode(...data.subarray(at, Math.min(space, at + 12))));
    const end = at + length;
    if (space < 0 || equals < 0 || !(length > 0) || end > data.length || equals >= end || data[end - 1] !== 0x0a) break;
    const key = String.fromCharCode(...data.subarray(space + 1, equals)), value = data.subarray(equals + 1, end - 1);
    if (key === "path") extra.name = value;
    else if (key === "size") extra.size = Number(String.fromCharCode(...value.subarray(0, 24)));
    else if (key.startsWith("GNU.sparse.")) extra.isSparse = true;
    at = end;
  }
  return extra;
}

/** Reads some blocks at a time: a header, and in the same read the headers that lie just behind it. */
class BlockReader {
  readonly size: number;
  readonly #file: OpenFile;
  #from = 0;
  #window: Uint8Array = new Uint8Array(0);

  constructor(file: OpenFile, size: number) {
    this.#file = file;
    this.size = size;
  }

  async read(at: number, length: number): Promise<Uint8Array> {
    if (at < this.#from || at + length > this.#from + this.#window.length) {
      const bytes = Math.min(Math.max(length, this.#file.windowBytes), this.size - at);
      this.#window = await readExactly(this.#file, at, bytes);
      this.#from = at;
    }
    return this.#window.subarray(at - this.#from, at - this.#from + length);
  }
}
