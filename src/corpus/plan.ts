/**
 * The plan of a corpus: which items, in which order and shards, by which model, arithmetic and options. DIR/plan.jsonl,
 * written once and never changed: its first line is the header, padded with spaces so that it can be filled in at the
 * end; then a line for each item, and one for each thing that was refused, as they were found. DIR/plan.idx has the
 * byte offset of each shard's first line as u64 little-endian, and the file's end; written behind the plan, it is made
 * of it where it is missing or wrong. Called by planner.ts, run.ts, status.ts and verification.
 */
import { createHash } from "node:crypto";
import { open, rm } from "node:fs/promises";
import { join } from "node:path";
import { expected, messageOf, TokenizerError } from "../errors.ts";
import { io, PendingFile, readChunks, readWholeFile, syncFolder, writeFileAtomic } from "../files.ts";
import type { Quantizer } from "../tokens/origin.ts";
import type { CorpusFacts, TokenDType } from "./format.ts";
import type { Item } from "./item.ts";
import type { Refused } from "./source.ts";

/** What decides the last bits of a token: two that differ in any of it may give other tokens for one picture. */
export interface Arithmetic {
  readonly precision: "f32" | "bf16";
  /** Name of the kernel set that computes, as in `info.kernels`. */
  readonly kernels: string;
  /** Versions of ctok and of what decodes and resizes pictures. */
  readonly versions: Readonly<Record<string, string>>;
}

export interface PlannedModel {
  readonly name: string;
  /** Name by which another machine can open the same model: never a path. */
  readonly source: string;
  /** Where the model was when it was planned: a name, or a path on that machine. */
  readonly at: string;
  readonly sha256: string;
  readonly isVideo: boolean;
  readonly spatialFactor: number;
  readonly temporalFactor: number;
  readonly quantizer?: Quantizer;
}

export interface PlanHeader {
  readonly format: "ctok-plan-1";
  readonly model: PlannedModel;
  readonly arithmetic: Arithmetic;
  /** Whether workers with another device, precision or kernel set may take part. */
  readonly allowOtherArithmetic: boolean;
  /** The inputs as the caller gave them. */
  readonly inputs: readonly string[];
  /** All options for finding and preparing items, as the caller gave them. */
  readonly options: Readonly<Record<string, unknown>>;
  /** Frames of a video model's windows; absent: each clip is one seamless sequence. */
  readonly window?: number;
  readonly shardFormat: string;
  readonly dtype: TokenDType;
  /** Items of each shard; the last one has what is left. */
  readonly shardSize: number;
  readonly numItems: number;
  readonly numRefused: number;
  /** Hash of all lines after the header. */
  readonly linesSha256: string;
}

/** What the header says before any item is found. */
export type PlanStart = Omit<PlanHeader, "format" | "numItems" | "numRefused" | "linesSha256">;

const format = "ctok-plan-1", planName = "plan.jsonl", indexName = "plan.idx";
const pieceBytes = 1 << 20, mostHeaderBytes = 1 << 24;
const encoder = new TextEncoder(), newline = 10;

export class Plan {
  readonly folder: string;
  readonly header: PlanHeader;
  /** SHA-256 of the header, which contains the hash of all other lines: it stands for the whole plan. */
  readonly id: string;
  readonly #headerBytes: number;
  #offsets: BigUint64Array | undefined;

  private constructor(folder: string, header: PlanHeader, id: string, headerBytes: number) {
    this.folder = folder;
    this.header = header;
    this.id = id;
    this.#headerBytes = headerBytes;
  }

  get path(): string {
    return join(this.folder, planName);
  }
  get numShards(): number {
    return Math.ceil(this.header.numItems / this.header.shardSize);
  }

  /** The shard's number as file names have it: "00017". */
  stemOf(index: number): string {
    return String(index).padStart(Math.max(5, String(this.numShards - 1).length), "0");
  }
  /** How many items a shard has. */
  sizeOf(index: number): number {
    return Math.min(this.header.shardSize, this.header.numItems - index * this.header.shardSize);
  }

  get facts(): CorpusFacts {
    const {
      model: { name: model, source, sha256, isVideo, quantizer, spatialFactor, temporalFactor },
      dtype,
      arithmetic,
    } = this.header;
    return {
      model,
      source,
      sha256,
      ...(!this.header.allowOtherArithmetic && { precision: arithmetic.precision }),
      isVideo,
      ...(quantizer && { quantizer }),
      spatialFactor,
      temporalFactor,
      dtype,
      numShards: this.numShards,
      version: arithmetic.versions.ctok!,
    };
  }

  /** The plan of a folder. Throws FILE_MISSING where there is none, FILE_FORMAT for another file. */
  static async open(folder: string): Promise<Plan> {
    const path = join(folder, planName), line = await firstLine(path);
    let header: Partial<PlanHeader> | null = null;
    try {
      header = JSON.parse(line);
    } catch {
      // No JSON: the check below says so.
    }
    if (header?.format !== format) {
      throw expected(path, `a plan of ctok dataset ("${format}" in its first line)`, line.slice(0, 64), "FILE_FORMAT");
    }
    const id = createHash("sha256").update(line.trimEnd()).digest("hex");
    return new Plan(folder, header as PlanHeader, id, encoder.encode(line).length + 1);
  }

  /** Writes a plan as items are found; it is there whole, or not at all. Throws what `found` throws, and FILE_IO. */
  static async write(folder: string, start: PlanStart, found: AsyncIterable<Item | Refused>): Promise<Plan> {
    const path = join(folder, planName),
      headerOf = (numItems: number, numRefused: number, linesSha256: string) => {
        return encoder.encode(
          JSON.stringify({ format, ...start, numItems, numRefused, linesSha256 } satisfies PlanHeader),
        );
      };
    const room = headerOf(Number.MAX_SAFE_INTEGER, Number.MAX_SAFE_INTEGER, "0".repeat(64)).length + 1;
    const pending = await PendingFile.create(path), lines = new Lines(pending, room), index = join(folder, indexName);
    const offsets: number[] = [];
    try {
      await pending.write(new Uint8Array(room).fill(32));
      let numItems = 0, numRefused = 0;
      for await (const one of found) {
        if (!("key" in one)) numRefused++;
        else if (numItems++ % start.shardSize === 0) offsets.push(numItems === 1 ? room : lines.offset);
        await lines.add("key" in one ? one : { refused: one });
      }
      const header = new Uint8Array(room).fill(32);
      header.set(headerOf(numItems, numRefused, await lines.end()));
      header[room - 1] = newline;
      await pending.overwrite(header, 0);
      await rm(index, { force: true });
      await pending.publish();
      await syncFolder(folder);
      await writeIndex(index, BigUint64Array.from([...offsets, lines.offset], BigInt));
    } finally {
      await pending.discard();
    }
    return await Plan.open(folder);
  }

  /** The items of a shard, in order. Throws FILE_FORMAT where the plan was changed. */
  async items(index: number): Promise<Item[]> {
    const offsets = await this.#index(), from = Number(offsets[index]), bytes = Number(offsets[index + 1]) - from;
    const file = await io(this.path, "read", open(this.path, "r"));
    try {
      const text = new Uint8Array(bytes);
      for (let at = 0; at < bytes;) {
        const { bytesRead } = await io(this.path, "read", file.read(text, at, bytes - at, from + at));
        if (bytesRead === 0) throw this.#changed(`${bytes} bytes of shard ${index}`, at);
        at += bytesRead;
      }
      const items = new TextDecoder().decode(text).split("\n").flatMap((line) => this.#item(line) ?? []);
      if (items.length !== this.sizeOf(index)) throw this.#changed(`${this.sizeOf(index)} items`, items.length);
      return items;
    } finally {
      await file.close();
    }
  }

  /** Checks all lines by their hash. Throws FILE_FORMAT unless they are those that were planned. */
  async checkLines(): Promise<void> {
    const hash = createHash("sha256");
    let at = 0;
    for await (const chunk of readChunks(this.path, { mostBytes: Number.MAX_SAFE_INTEGER })) {
      hash.update(chunk.subarray(Math.max(0, this.#headerBytes - at)));
      at += chunk.length;
    }
    const sha256 = hash.digest("hex");
    if (sha256 !== this.header.linesSha256) throw this.#changed(`lines with sha256 ${this.header.linesSha256}`, sha256);
  }

  /** The inputs that were refused when the plan was made, with the reasons. */
  async *refused(): AsyncGenerator<Refused> {
    if (this.header.numRefused === 0) return;
    for await (const { text } of linesOf(this.path)) {
      if (text.startsWith('{"refused":')) yield JSON.parse(text).refused;
    }
  }

  #item(line: string): Item | undefined {
    if (line === "" || line.startsWith('{"refused":')) return undefined;
    try {
      const item = JSON.parse(line);
      if (typeof item.key === "string" && typeof item.place.kind === "string") return item;
    } catch {
      // No JSON: the check below says so.
    }
    throw this.#changed("a line for each item", line.slice(0, 64));
  }

  #changed(wanted: string, found: unknown): TokenizerError {
    return expected(this.path, `${wanted}, as planned`, found, "FILE_FORMAT");
  }

  async #index(): Promise<BigUint64Array> {
    if (this.#offsets) return this.#offsets;
    const path = join(this.folder, indexName), bytes = await readWholeFile(path).catch(() => new Uint8Array(0));
    const file = await io(this.path, "read", open(this.path, "r"));
    const { size } = await file.stat().finally(() => file.close());
    const isWhole = bytes.length === 8 * (this.numShards + 1);
    let offsets = isWhole ? new BigUint64Array(bytes.slice().buffer) : undefined;
    if (offsets?.[this.numShards] !== BigInt(size) || offsets[0] !== BigInt(this.#headerBytes)) {
      offsets = await this.#scan(size);
      await writeIndex(path, offsets);
    }
    return this.#offsets = offsets;
  }

  async #scan(size: number): Promise<BigUint64Array<ArrayBuffer>> {
    const { shardSize, numItems } = this.header, offsets = new BigUint64Array(this.numShards + 1);
    let n = 0;
    for await (const { text, at } of linesOf(this.path)) {
      if (at === 0 || text.startsWith('{"refused":')) continue;
      if (n % shardSize === 0 && n < numItems) offsets[n / shardSize] = BigInt(n === 0 ? this.#headerBytes : at);
      n++;
    }
    if (n !== numItems) throw this.#changed(`${numItems} items`, n);
    offsets[this.numShards] = BigInt(size);
    return offsets;
  }
}

/** Writes JSON lines to a file in large pieces, and hashes them. */
class Lines {
  readonly #file: PendingFile;
  readonly #hash = createHash("sha256");
  #waiting = "";
  /** Where the next line begins, in bytes from the start of the file. */
  offset: number;

  constructor(file: PendingFile, offset: number) {
    this.#file = file;
    this.offset = offset;
  }

  async add(value: object): Promise<void> {
    const line = JSON.stringify(value) + "\n";
    this.#waiting += line;
    this.offset += Buffer.byteLength(line);
    if (this.#waiting.length > pieceBytes) await this.#flush();
  }

  async end(): Promise<string> {
    await this.#flush();
    return this.#hash.digest("hex");
  }

  async #flush(): Promise<void> {
    const bytes = encoder.encode(this.#waiting);
    this.#waiting = "";
    this.#hash.update(bytes);
    await this.#file.write(bytes);
  }
}

/** What is derived: a folder that is full or not ours goes without. */
async function writeIndex(path: string, offsets: BigUint64Array<ArrayBuffer>): Promise<void> {
  await writeFileAtomic(path, new Uint8Array(offsets.buffer)).catch(() => {});
}

async function firstLine(path: string): Promise<string> {
  const parts: Uint8Array[] = [];
  let length = 0;
  for await (const chunk of readChunks(path, { mostBytes: Number.MAX_SAFE_INTEGER })) {
    const end = chunk.indexOf(newline);
    parts.push(end < 0 ? chunk : chunk.subarray(0, end));
    length += chunk.length;
    if (end >= 0 || length > mostHeaderBytes) break;
  }
  const whole = new Uint8Array(parts.reduce((sum, { length }) => sum + length, 0));
  parts.reduce((at, part) => (whole.set(part, at), at + part.length), 0);
  return new TextDecoder().decode(whole);
}

/** The lines of a file, each with its offset in bytes. */
async function* linesOf(path: string): AsyncGenerator<{ readonly text: string; readonly at: number }> {
  const decoder = new TextDecoder();
  let rest: Uint8Array = new Uint8Array(0), at = 0;
  for await (const chunk of readChunks(path, { mostBytes: Number.MAX_SAFE_INTEGER })) {
    const bytes = new Uint8Array(rest.length + chunk.length);
    bytes.set(rest);
    bytes.set(chunk, rest.length);
    let from = 0;
    for (let end; (end = bytes.indexOf(newline, from)) >= 0; from = end + 1) {
      yield { text: decoder.decode(bytes.subarray(from, end)), at: at + from };
    }
    rest = bytes.slice(from);
    at += from;
  }
  if (rest.length > 0) yield { text: decoder.decode(rest), at };
}

/** The text of a failure as plans and manifests keep it, without what differs from machine to machine. */
export function textOf(error: unknown): { readonly code: string; readonly message: string } {
  return { code: error instanceof TokenizerError ? error.code : "INTERNAL", message: messageOf(error) };
}
