/**
 * A parquet file as rows whose cells are read by column: what is in it, and one cell's bytes. A column of one row group
 * is decoded at once and kept while its rows are asked for, as workers ask for them in order. Called by places.ts and
 * sources/parquet.ts; the format itself is hyparquet's. Limits: no encryption, no LZ4, no LZO; a column of a row group
 * has at most 2 GiB.
 */
import * as zlib from "node:zlib";
import type { AsyncBuffer, Compressors, FileMetaData, SchemaTree } from "hyparquet";
import { wholeFileBytes } from "../bytes.ts";
import { expected, messageOf, TokenizerError } from "../errors.ts";
import { type OpenFile, readExactly } from "./openfile.ts";

/** A top-level column of a parquet file. */
export interface Column {
  readonly name: string;
  /** Bytes; Hugging Face's struct of bytes and a path; a string; anything else, which JSON holds. */
  readonly kind: "bytes" | "file" | "text" | "value";
}

/** Columns of row groups that are kept decoded: a worker reads a few rows ahead, over the border of two groups. */
const mostChunks = 4;
/** A column of a row group with more is read a few rows at a time, where the file says where its pages are. */
const mostChunkBytes = 256 * 2 ** 20, rowsOfSlice = 16;

/** The most rows of a file: a false header could otherwise fill the plan with items. */
const mostRows = 2 ** 31;

/**
 * Note: node:zlib has it in Bun, Deno and from Node 22.15 on; a name that is imported and not there ends a program on
 * any other.
 */
function unzstd(input: Uint8Array, outputBytes: number): Uint8Array {
  if (zlib.zstdDecompressSync) return zlib.zstdDecompressSync(input, { maxOutputLength: outputBytes });
  throw expected("parquet file", "a runtime with Zstandard (Bun, Deno, Node 22.15 or later)", "none", "UNSUPPORTED");
}

const compressors: Compressors = {
  GZIP: (input, outputBytes) => zlib.gunzipSync(input, { maxOutputLength: outputBytes }),
  BROTLI: (input, outputBytes) => zlib.brotliDecompressSync(input, { maxOutputLength: outputBytes }),
  ZSTD: unzstd,
};

interface Chunk {
  readonly column: string;
  readonly rowStart: number;
  readonly rowEnd: number;
  readonly values: Promise<ArrayLike<unknown>>;
}

export class ParquetFile {
  readonly path: string;
  readonly columns: readonly Column[];
  readonly numRows: number;
  readonly #buffer: AsyncBuffer;
  readonly #metadata: FileMetaData;
  /** Decoded pieces of row groups; the most recently used is last. */
  readonly #chunks = new Map<string, Chunk>();

  private constructor(path: string, buffer: AsyncBuffer, metadata: FileMetaData, schema: SchemaTree) {
    this.path = path;
    this.#buffer = buffer;
    this.#metadata = metadata;
    this.columns = schema.children.map((child) => ({ name: child.element.name, kind: kindOf(child) }));
    this.numRows = metadata.row_groups.reduce((sum, { num_rows }) => sum + Number(num_rows), 0);
  }

  /** Reads the schema of an open file, which the caller closes. Throws FILE_FORMAT for what is no intact parquet. */
  static async open(file: OpenFile, bytes: number): Promise<ParquetFile> {
    const { parquetMetadataAsync, parquetSchema } = await import("hyparquet"), path = file.location;
    const buffer: AsyncBuffer = {
      byteLength: bytes,
      slice: async (start, end = bytes) => {
        if (!(start >= 0 && start <= end && end <= bytes)) throw new Error(`bytes ${start} to ${end} of ${bytes}`);
        return (await readExactly(file, start, end - start)).buffer;
      },
    };
    return await read(path, async () => {
      if (bytes < 12) throw new Error(`${bytes} bytes`);
      const metadata = await parquetMetadataAsync(buffer, { geoparquet: false });
      const file = new ParquetFile(path, buffer, metadata, parquetSchema(metadata));
      const isSane = metadata.row_groups.every(({ num_rows }) => num_rows >= 0) && file.numRows <= mostRows;
      if (!isSane) throw new Error(`${file.numRows} rows`);
      return file;
    });
  }

  /** The value of a cell. Throws FILE_FORMAT. */
  async cell(row: number, column: string): Promise<unknown> {
    const values = await this.#chunkOf(row, column);
    return values.list[row - values.rowStart];
  }

  async #chunkOf(row: number, column: string): Promise<{ rowStart: number; list: ArrayLike<unknown> }> {
    for (const [name, chunk] of this.#chunks) {
      if (chunk.column !== column || row < chunk.rowStart || row >= chunk.rowEnd) continue;
      this.#chunks.delete(name), this.#chunks.set(name, chunk);
      return { rowStart: chunk.rowStart, list: await chunk.values };
    }
    const { rowStart, rowEnd } = this.#rangeOf(row, column);
    const name = `${rowStart}:${column}`;
    const values = read(this.path, () => this.#decode(rowStart, rowEnd, column));
    this.#chunks.set(name, { column, rowStart, rowEnd, values });
    values.catch(() => this.#chunks.delete(name));
    for (const oldest of this.#chunks.keys()) if (this.#chunks.size > mostChunks) this.#chunks.delete(oldest);
    return { rowStart, list: await values };
  }

  /** The range of rows that are decoded together with this one. */
  #rangeOf(row: number, column: string): { rowStart: number; rowEnd: number } {
    let rowStart = 0;
    for (const { num_rows, columns } of this.#metadata.row_groups) {
      const rowEnd = rowStart + Number(num_rows);
      if (row >= rowEnd) {
        rowStart = rowEnd;
        continue;
      }
      const own = columns.filter(({ meta_data }) => meta_data?.path_in_schema[0] === column);
      const bytes = own.reduce((sum, { meta_data }) => sum + Number(meta_data!.total_uncompressed_size), 0);
      if (bytes > mostChunkBytes && own.every(({ offset_index_offset }) => offset_index_offset !== undefined)) {
        const from = rowStart + Math.floor((row - rowStart) / rowsOfSlice) * rowsOfSlice;
        return { rowStart: from, rowEnd: Math.min(from + rowsOfSlice, rowEnd) };
      }
      if (bytes > wholeFileBytes) {
        const wanted = `at most ${wholeFileBytes} bytes of column ${column} in a row group, or an index of its pages`;
        throw expected(this.path, wanted, bytes, "UNSUPPORTED");
      }
      return { rowStart, rowEnd };
    }
    throw expected(this.path, `a row ${row} (counted from 0)`, `${this.numRows} rows`, "FILE_FORMAT");
  }

  async #decode(rowStart: number, rowEnd: number, column: string): Promise<ArrayLike<unknown>> {
    const { parquetScan } = await import("hyparquet");
    const scan = await parquetScan({
      file: this.#buffer,
      metadata: this.#metadata,
      columns: [column],
      compressors,
      utf8: false, // bytes stay bytes; what the file calls a string is one
      geoparquet: false,
    });
    const list = await scan.readColumn({ column, rowStart, rowEnd });
    if (list.length !== rowEnd - rowStart) throw new Error(`${list.length} values in rows ${rowStart} to ${rowEnd}`);
    return list;
  }
}

function kindOf({ element, children }: SchemaTree): Column["kind"] {
  const names = children.map((child) => child.element.name);
  if (names.includes("bytes") && element.repetition_type !== "REPEATED") {
    return children[names.indexOf("bytes")]!.element.type === "BYTE_ARRAY" ? "file" : "value";
  }
  if (element.type !== "BYTE_ARRAY" || element.repetition_type === "REPEATED") return "value";
  const { converted_type: converted, logical_type: logical } = element;
  if (converted === "UTF8" || logical?.type === "STRING") return "text";
  return converted === undefined && logical === undefined ? "bytes" : "value";
}

/** Runs `work`; whatever hyparquet throws for a broken file becomes FILE_FORMAT. */
async function read<T>(path: string, work: () => Promise<T>): Promise<T> {
  try {
    return await work();
  } catch (cause) {
    if (cause instanceof TokenizerError) throw cause;
    throw new TokenizerError("FILE_FORMAT", `${path}: expected a parquet file, found: ${messageOf(cause)}`, { cause });
  }
}
