/**
 * Parquet, a row a sample, not compressed. Of latents the columns are FastVideo's (vae_latent_bytes, _shape, _dtype and
 * the facts), whose loader reads float32 whatever the dtype column says; of indices `indices` and `indices_shape`.
 * Behind them stand the sidecars, as fields and contents, and `ctok`, the record; what all samples share is the file's
 * metadata `ctok`. A sidecar text_embedding.npy fills the text embedding as well, `txt` is the caption. Ref:
 * hao-ai-lab/FastVideo, dataset/dataloader/schema.py.
 */
import { type AsyncBuffer, parquetMetadataAsync, parquetReadObjects } from "hyparquet";
import { ByteWriter, ParquetWriter, type SchemaElement } from "hyparquet-writer";
import { expected, messageOf, TokenizerError } from "../../errors.ts";
import { perSecond } from "../../tokens/rate.ts";
import { decodeNpy } from "../../tokens/formats/npy.ts";
import { floatsOf, isFloat, isShape, type StoredTensor, storedTensor } from "../../tokens/stored.ts";
import { finish } from "../../tokens/tensor.ts";
import type { CorpusFacts, TokenDType } from "../format.ts";
import { commonKeys, type RecordKeys, sampleOf, storedNames, type StoredSample, storedSample } from "../records.ts";
import { utf8Of } from "./companion.ts";
import { defineFormat } from "./define.ts";
import { parseJSON, type Part } from "./part.ts";

/** Largest row group, in bytes and in rows: all of it is in memory while it is written and while it is read. */
const groupBytes = 1 << 23, groupRows = 1000;
type Row = Readonly<Record<string, unknown>>;

export const parquet = defineFormat({
  name: "parquet",
  about: "a row a sample, latents in FastVideo's columns",
  dtypes: { discrete: ["uint16", "int32"], continuous: ["f32"] },
  async write(files, facts) {
    const file = await files.create(".parquet"), columns = columnsOf(facts.dtype);
    const bytes = new ByteWriter(), kvMetadata = [{ key: "ctok", value: JSON.stringify(commonKeys(facts)) }];
    const schema = [
      { name: "schema", num_children: columns.length },
      ...columns.flatMap(elementsOf),
    ] as SchemaElement[];
    const writer = new ParquetWriter({ writer: bytes, schema, codec: "UNCOMPRESSED", kvMetadata, createdBy: "ctok" });
    let rows: Row[] = [], size = 0;
    const flush = async () => {
      if (rows.length > 0) {
        const columnData = columns.map(({ name, type }) => {
          return { name, data: rows.map((row) => row[name]), ...(type !== "text" && { encoding: "PLAIN" as const }) };
        });
        await writer.write({ columnData, rowGroupSize: rows.length });
      }
      await file.write(bytes.getBytes().slice());
      bytes.index = 0; // what was written; its offset in the file stays
      [rows, size] = [[], 0];
    };
    return {
      async add(sample) {
        rows.push(rowOf(sample));
        size += sample.sidecars.reduce((sum, { bytes }) => sum + bytes.length, sample.tensor.data.byteLength);
        if (size >= groupBytes || rows.length === groupRows) await flush();
      },
      async finish() {
        await flush();
        await writer.finish();
        await flush();
      },
    };
  },
  async *read(open, _shard, facts) {
    await using part = await open(".parquet");
    const file = bufferOf(part), metadata = await parquetMetadataAsync(file), columns = columnsOf(facts.dtype);
    const told = metadata.key_value_metadata?.find(({ key }) => key === "ctok")?.value;
    const wanted = JSON.stringify(commonKeys(facts));
    if (told !== wanted) throw expected(`${part.name}: ctok`, wanted, told ?? "nothing", "TOKEN_FILE");
    const names = metadata.schema.slice(1).filter(({ name }) => name !== "list" && name !== "element").map((c) =>
      c.name
    );
    if (names.join() !== columns.map(({ name }) => name).join()) {
      throw expected(
        part.name,
        `the columns ${columns.map(({ name }) => name).join(", ")}`,
        names.join(", "),
        "TOKEN_FILE",
      );
    }
    let rowStart = 0;
    for (const { num_rows } of metadata.row_groups) {
      const rowEnd = rowStart + Number(num_rows);
      const rows = await parquetReadObjects({ file, metadata, rowStart, rowEnd, utf8: false });
      if (rows.length !== Number(num_rows)) throw expected(part.name, `${num_rows} rows`, rows.length, "TOKEN_FILE");
      for (const row of rows) yield sampleOfRow(part.name, row, facts);
      rowStart = rowEnd;
    }
  },
});

// ---------------------------------------------------------------- columns
interface Column {
  readonly name: string;
  readonly type: "text" | "bytes" | "int64" | "double" | "uint16" | "int32";
  readonly isList?: true;
  readonly isOptional?: true;
}

function columnsOf(dtype: TokenDType): Column[] {
  const tensor = (name: string): Column[] => [
    { name: `${name}_bytes`, type: "bytes" },
    { name: `${name}_shape`, type: "int64", isList: true },
    { name: `${name}_dtype`, type: "text" },
  ];
  const tokens: Column[] = dtype === "f32" ? [...tensor("vae_latent"), ...tensor("text_embedding")] : [
    { name: "indices", type: dtype as "uint16" | "int32", isList: true },
    { name: "indices_shape", type: "int64", isList: true },
  ];
  return [
    { name: "id", type: "text" },
    ...tokens,
    { name: "file_name", type: "text" },
    { name: "caption", type: "text" },
    { name: "media_type", type: "text" },
    { name: "width", type: "int64" },
    { name: "height", type: "int64" },
    { name: "num_frames", type: "int64" },
    { name: "duration_sec", type: "double", isOptional: true },
    { name: "fps", type: "double", isOptional: true },
    { name: "sidecar_fields", type: "text", isList: true },
    { name: "sidecar_contents", type: "bytes", isList: true },
    { name: "ctok", type: "text" },
  ];
}

/** A column as the entries of parquet's flat schema. */
function elementsOf({ name, type, isList, isOptional }: Column): SchemaElement[] {
  const physical = {
    text: { type: "BYTE_ARRAY", converted_type: "UTF8" },
    bytes: { type: "BYTE_ARRAY" },
    int64: { type: "INT64" },
    double: { type: "DOUBLE" },
    uint16: { type: "INT32", converted_type: "UINT_16" },
    int32: { type: "INT32" },
  } as const;
  if (!isList) return [{ name, repetition_type: isOptional ? "OPTIONAL" : "REQUIRED", ...physical[type] }];
  return [
    { name, repetition_type: "REQUIRED", converted_type: "LIST", num_children: 1 },
    { name: "list", repetition_type: "REPEATED", num_children: 1 },
    { name: "element", repetition_type: "REQUIRED", ...physical[type] },
  ];
}

function rowOf({ key, tensor, record, sidecars }: StoredSample): Row {
  const { data, shape } = tensor, fps = record.fps === undefined ? undefined : perSecond(String(record.fps));
  const frames = record.frames === undefined ? 1 : Number(record.frames), txt = sidecars.find((s) => s.field === "txt");
  return {
    id: key,
    ...(isFloat(tensor)
      ? { ...tensorCells("vae_latent", data, shape.slice(1)), ...embeddingCells(key, sidecars) }
      : { indices: Array.from(data as Int32Array), indices_shape: shape.slice(1).map(BigInt) }),
    file_name: record.file_name,
    caption: (txt && utf8Of(txt.bytes)) ?? "",
    media_type: record.frames === undefined ? "image" : "video",
    width: BigInt(record.width as number),
    height: BigInt(record.height as number),
    num_frames: BigInt(frames),
    duration_sec: fps === undefined ? null : frames / fps,
    fps: fps ?? null,
    sidecar_fields: sidecars.map(({ field }) => field),
    sidecar_contents: sidecars.map(({ bytes }) => bytes),
    ctok: JSON.stringify(record),
  };
}

function tensorCells(name: string, data: ArrayBufferView, shape: readonly number[]): Row {
  return {
    [`${name}_bytes`]: new Uint8Array(data.buffer, data.byteOffset, data.byteLength),
    [`${name}_shape`]: shape.map(BigInt),
    [`${name}_dtype`]: "float32",
  };
}

/**
 * The cells of a sample's text embedding; where it has none, no bytes and a shape of zeros, as FastVideo expects.
 * Throws SHAPE for a sidecar that is no float array.
 */
function embeddingCells(key: string, sidecars: StoredSample["sidecars"]): Row {
  const sidecar = sidecars.find(({ field }) => field === "text_embedding.npy");
  if (!sidecar) return tensorCells("text_embedding", new Float32Array(0), [0, 0]);
  try {
    const array = decodeNpy(sidecar.bytes);
    if (!isFloat(array)) throw expected("array", "floats", array.dtype);
    return tensorCells("text_embedding", finish(floatsOf(array)), array.shape);
  } catch (cause) {
    throw new TokenizerError("SHAPE", `${key}: text_embedding.npy: ${messageOf(cause)}`, { cause });
  }
}

// ---------------------------------------------------------------- reading
function bufferOf(part: Part): AsyncBuffer {
  return {
    byteLength: part.bytes,
    async slice(start, end = part.bytes) {
      const from = start < 0 ? part.bytes + start : start;
      return (await part.read(from, end - from)).slice().buffer;
    },
  };
}

function sampleOfRow(name: string, row: Row, facts: CorpusFacts) {
  const key = String(row.id),
    bad = (what: string, wanted: string | number, found: string | number) =>
      new TokenizerError("TOKEN_FILE", `${name}: ${key}: ${what}: expected ${wanted}, found ${found}`);
  const fields = row.sidecar_fields as string[], contents = row.sidecar_contents as Uint8Array[];
  if (fields.length !== contents.length) throw bad("sidecar_contents", fields.length, contents.length);
  const sidecars = fields.map((field, i) => ({ field, bytes: new Uint8Array(contents[i]!) }));
  const record = parseJSON(`${name}: ${key}: ctok`, new TextEncoder().encode(String(row.ctok)));
  const sample = sampleOf(record as RecordKeys, tensorOfRow(name, row, facts), sidecars, facts);
  const again = rowOf(storedSample(sample, facts)); // all other columns follow from these
  for (const [column, cell] of Object.entries(again)) {
    if (column === "indices" || column === "ctok" || /_(bytes|contents)$/.test(column)) continue;
    const [wanted, found] = [cell, row[column]].map(tell);
    if (wanted !== found) throw bad(column, wanted!, found!);
  }
  return sample;
}

function tell(cell: unknown): string {
  return JSON.stringify(cell ?? null, (_, value) => typeof value === "bigint" ? `${value}` : value);
}

function tensorOfRow(name: string, row: Row, { quantizer, dtype }: CorpusFacts): StoredTensor {
  const shape = (row[quantizer ? "indices_shape" : "vae_latent_shape"] as unknown[]).map(Number);
  if (!isShape(shape)) throw expected(`${name}: ${row.id}: shape`, "positive whole numbers", shape, "TOKEN_FILE");
  const stored = storedNames[dtype];
  const bytes = !quantizer
    ? row.vae_latent_bytes as Uint8Array
    : new Uint8Array(new (dtype === "uint16" ? Uint16Array : Int32Array)(row.indices as number[]).buffer);
  return storedTensor(`${name}: ${row.id}`, stored, shape, bytes);
}
