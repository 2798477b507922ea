/**
 * A file of a committed shard, opened to be read as if a stranger had written it: what is asked for is there in full,
 * or the failure says which file lacks what. Reads in windows, so that small reads cost no system call each. Called by
 * formats that read.
 */
import { expected, messageOf, TokenizerError } from "../../errors.ts";
import type { CommittedShard } from "../format.ts";
import { type OpenFile, openFile, readExactly } from "../openfile.ts";
import { joinLocation } from "../s3/address.ts";

const windowBytes = 1 << 20;

export class Part implements AsyncDisposable {
  readonly name: string;
  readonly bytes: number;
  readonly #file: OpenFile;
  #window: Uint8Array = new Uint8Array(0);
  #start = 0;

  private constructor(name: string, bytes: number, file: OpenFile) {
    this.name = name;
    this.bytes = bytes;
    this.#file = file;
  }

  /**
   * Opens a file of a committed shard. Throws TOKEN_FILE unless the manifest lists it, and with this size;
   * FILE_MISSING, FILE_IO.
   */
  static async open(folder: string, shard: CommittedShard, name: string): Promise<Part> {
    const committed = shard.files.find((file) => file.name === name);
    if (!committed) {
      const found = shard.files.map((file) => file.name).join(", ") || "none";
      throw expected(`shard ${shard.stem}`, `a file ${name}`, found, "TOKEN_FILE");
    }
    const file = await openFile(joinLocation(folder, name));
    try {
      const { bytes } = await file.identity();
      if (bytes !== committed.bytes) {
        throw expected(name, `${committed.bytes} bytes, as were committed`, bytes, "TOKEN_FILE");
      }
      return new Part(name, bytes, file);
    } catch (error) {
      await file.close();
      throw error;
    }
  }

  /** These bytes, all of them; they stay what they are. Throws TOKEN_FILE where the file ends before. */
  async read(offset: number, length: number): Promise<Uint8Array> {
    if (offset + length > this.bytes) {
      throw expected(this.name, `${length} bytes at ${offset}`, `its end at ${this.bytes}`, "TOKEN_FILE");
    }
    if (offset < this.#start || offset + length > this.#start + this.#window.length) {
      const least = Math.max(windowBytes, 4 * this.#file.windowBytes);
      const window = await readExactly(this.#file, offset, Math.min(Math.max(length, least), this.bytes - offset));
      this.#window = window;
      this.#start = offset;
    }
    const from = offset - this.#start;
    return this.#window.subarray(from, from + length);
  }

  /** The values of a file of JSON lines, each ended by a newline. */
  async *lines(): AsyncGenerator<unknown> {
    let rest = new Uint8Array(0);
    for (let at = 0, count = 0; at < this.bytes;) {
      const piece = await this.read(at, Math.min(windowBytes, this.bytes - at));
      at += piece.length;
      const text = new Uint8Array(rest.length + piece.length);
      text.set(rest);
      text.set(piece, rest.length);
      let from = 0;
      for (let end = text.indexOf(newline, rest.length); end >= 0; end = text.indexOf(newline, from)) {
        yield this.#parse(text.subarray(from, end), ++count);
        from = end + 1;
      }
      rest = text.subarray(from);
    }
    if (rest.length > 0) throw expected(this.name, "a newline at its end", "none", "TOKEN_FILE");
  }

  #parse(line: Uint8Array, number: number): unknown {
    return parseJSON(`${this.name}: line ${number}`, line);
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await this.#file.close();
  }
}

const newline = 10;

/** Parses UTF-8 bytes as JSON. Throws TOKEN_FILE for anything else. */
export function parseJSON(name: string, bytes: Uint8Array): unknown {
  try {
    return JSON.parse(new TextDecoder("utf-8", { fatal: true, ignoreBOM: true }).decode(bytes));
  } catch (cause) {
    throw new TokenizerError("TOKEN_FILE", `${name}: expected JSON, found ${messageOf(cause)}`, { cause });
  }
}
