/** Reads and rewrites zip archives and safetensors files in tests, to damage them in one precise way. */
import { crc32, deflateRawSync } from "node:zlib";

export interface Entry {
  name: string;
  data: Uint8Array;
  isDeflated?: boolean;
}

/** The entries of an archive whose records are stored (not deflated), in order. */
export function readZip(bytes: Uint8Array): Entry[] {
  const view = new DataView(bytes.buffer, bytes.byteOffset, bytes.byteLength);
  const end = bytes.byteLength - 22; // no comment
  const entries: Entry[] = [];
  let at = view.getUint32(end + 16, true);
  for (let i = view.getUint16(end + 10, true); i > 0; i--) {
    const [method, size, nameBytes, extraBytes, commentBytes, local] = [
      view.getUint16(at + 10, true),
      view.getUint32(at + 20, true),
      view.getUint16(at + 28, true),
      view.getUint16(at + 30, true),
      view.getUint16(at + 32, true),
      view.getUint32(at + 42, true),
    ];
    const start = local + 30 + view.getUint16(local + 26, true) + view.getUint16(local + 28, true);
    const name = new TextDecoder().decode(bytes.subarray(at + 46, at + 46 + nameBytes));
    // Deflated ones (code/) serve nothing here.
    if (method === 0) entries.push({ name, data: bytes.slice(start, start + size) });
    at += 46 + nameBytes + extraBytes + commentBytes;
  }
  return entries;
}

export function writeZip(entries: readonly Entry[]): Uint8Array {
  const parts: Uint8Array[] = [], directory: Uint8Array[] = [];
  let offset = 0;
  type Field = [at: number, size: 2 | 4, value: number];
  const header = (bytes: number, fields: Field[], name: Uint8Array, data: Uint8Array = new Uint8Array()) => {
    const out = new Uint8Array(bytes + name.length + data.length), view = new DataView(out.buffer);
    for (const [at, size, value] of fields) {
      size === 2 ? view.setUint16(at, value, true) : view.setUint32(at, value, true);
    }
    out.set(name, bytes);
    out.set(data, bytes + name.length);
    return out;
  };
  for (const entry of entries) {
    const name = new TextEncoder().encode(entry.name);
    const data = entry.isDeflated ? new Uint8Array(deflateRawSync(entry.data)) : entry.data;
    const common = (at: number): Field[] => [
      [at, 2, entry.isDeflated ? 8 : 0], // method
      [at + 6, 4, crc32(entry.data)],
      [at + 10, 4, data.length],
      [at + 14, 4, entry.data.length],
      [at + 18, 2, name.length],
    ];
    const local = header(30, [[0, 4, 0x04034b50], ...common(8)], name, data);
    directory.push(header(46, [[0, 4, 0x02014b50], ...common(10), [42, 4, offset]], name));
    parts.push(local);
    offset += local.length;
  }
  const size = directory.reduce((sum, d) => sum + d.length, 0);
  const end = header(22, [[0, 4, 0x06054b50], [8, 2, entries.length], [10, 2, entries.length], [12, 4, size], [
    16,
    4,
    offset,
  ]], new Uint8Array());
  return concat([...parts, ...directory, end]);
}

/** Replaces the first occurrence of `from`, which must be there, by `to`. */
export function replaceBytes(bytes: Uint8Array, from: Uint8Array, to: Uint8Array): Uint8Array {
  for (let at = 0; at + from.length <= bytes.length; at++) {
    if (from.every((b, i) => bytes[at + i] === b)) {
      return concat([bytes.subarray(0, at), to, bytes.subarray(at + from.length)]);
    }
  }
  throw new Error("the bytes to replace are not there");
}

export function concat(parts: readonly Uint8Array[]): Uint8Array {
  const out = new Uint8Array(parts.reduce((sum, p) => sum + p.length, 0));
  let at = 0;
  for (const part of parts) {
    out.set(part, at);
    at += part.length;
  }
  return out;
}

type Header = Record<string, { dtype: string; shape: number[]; data_offsets: [number, number] }>;

function readHeader(bytes: Uint8Array): { header: Header; start: number } {
  const start = 8 + Number(new DataView(bytes.buffer, bytes.byteOffset).getBigUint64(0, true));
  return { header: JSON.parse(new TextDecoder().decode(bytes.subarray(8, start))), start };
}

/** Where a tensor's bytes lie in a safetensors file. */
export function tensorRange(bytes: Uint8Array, name: string): [start: number, end: number] {
  const { header, start } = readHeader(bytes);
  const [from, to] = header[name]!.data_offsets;
  return [start + from, start + to];
}

/** A safetensors file with its header edited. */
export function editSafetensors(bytes: Uint8Array, edit: (header: Header) => void): Uint8Array {
  const { header, start } = readHeader(bytes);
  edit(header);
  const text = new TextEncoder().encode(JSON.stringify(header));
  const size = new Uint8Array(8);
  new DataView(size.buffer).setBigUint64(0, BigInt(text.length), true);
  return concat([size, text, bytes.subarray(start)]);
}

/** A safetensors file with tensors added behind its own. */
export function addTensors(
  bytes: Uint8Array,
  added: Record<string, { dtype: string; shape: number[]; data: Uint8Array }>,
): Uint8Array {
  let end = bytes.length - readHeader(bytes).start;
  const grown = editSafetensors(bytes, (header) => {
    for (const [name, { dtype, shape, data }] of Object.entries(added)) {
      header[name] = { dtype, shape, data_offsets: [end, end += data.length] };
    }
  });
  return concat([grown, ...Object.values(added).map(({ data }) => data)]);
}

/** The tensors of a safetensors file, sorted by name. */
export function tensorsOf(bytes: Uint8Array): [name: string, Header[string]][] {
  const entries = Object.entries(readHeader(bytes).header).filter(([name]) => name !== "__metadata__");
  return entries.sort(([a], [b]) => a < b ? -1 : 1); // ASCII all
}

/** A safetensors file of those tensors alone whose names match, in order or the other way round. */
export function keepTensors(bytes: Uint8Array, names: RegExp, isReversed = false): Uint8Array {
  const { start } = readHeader(bytes), kept: Uint8Array[] = [], out: Header = {};
  const entries = tensorsOf(bytes).filter(([name]) => names.test(name));
  let end = 0;
  for (const [name, { dtype, shape, data_offsets: [from, to] }] of isReversed ? entries.reverse() : entries) {
    out[name] = { dtype, shape, data_offsets: [end, end += to - from] };
    kept.push(bytes.subarray(start + from, start + to));
  }
  const text = new TextEncoder().encode(JSON.stringify(out)), size = new Uint8Array(8);
  new DataView(size.buffer).setBigUint64(0, BigInt(text.length), true);
  return concat([size, text, ...kept]);
}
