/**
 * The MessagePack form of token files: one map, written by msgpackr and read here. Reading knows the types that such
 * records have and no others: maps with text keys, lists, texts, bytes, numbers. A library would take the last of two
 * equal keys, which other readers may not, and types of extensions, which run code of their own.
 * Ref: https://github.com/msgpack/msgpack/blob/master/spec.md
 */
// Not msgpackr's main entry, which also loads a native addon: a sixth of the time of importing ctok.
import { Packr } from "msgpackr/pack";
import { expected, TokenizerError } from "../../errors.ts";
import { storedTensor, type TokenForm } from "../stored.ts";

type Value = number | string | Uint8Array | Value[] | { [key: string]: Value };

/** The most entries of all maps and lists together; a token file has some fifty. */
const mostValues = 1 << 12;
const mostDepth = 4;
/** The largest text, in bytes: as large as a safetensors header may be. */
const mostTextBytes = 1 << 20;

// Plain maps and byte strings: what any msgpack reader knows. No record or typed-array extension.
const packr = new Packr({ useRecords: false });

/** The msgpack form of token files: a map of the origin's keys, and `tensors`, a map of { dtype, shape, data }. */
export const msgpack: TokenForm = {
  // Whether the first byte begins a map; byte 8 is a letter of "format".
  fits: ([first = 0]) => (first & 0xf0) === 0x80 || first === 0xde || first === 0xdf,
  encode: ({ about, tensors }) => {
    const texts = JSON.stringify(about).length;
    if (texts > mostTextBytes) throw expected("msgpack", `texts of at most ${mostTextBytes}`, texts, "UNSUPPORTED");
    const records = Object.entries(tensors).map(([key, { dtype, shape, data }]) => {
      return [key, { dtype, shape, data: new Uint8Array(data.buffer, data.byteOffset, data.byteLength) }];
    });
    return new Uint8Array(packr.pack({ ...about, tensors: Object.fromEntries(records) }));
  },
  decode: (bytes) => {
    const { tensors = {}, ...about } = decodeRecord(bytes) as Record<string, Value>;
    if (!isMap(tensors)) throw expected("tensors", "a map", typeof tensors, "TOKEN_FILE");
    const stored = Object.entries(tensors).map(([key, tensor]) => {
      const { dtype, shape, data } = (isMap(tensor) ? tensor : {}) as Record<string, Value | undefined>,
        name = `tensors.${key}`;
      if (!(data instanceof Uint8Array)) throw expected(`${name}.data`, "bytes", typeof data, "TOKEN_FILE");
      return [key, storedTensor(name, dtype, shape, data)];
    });
    return { about, tensors: Object.fromEntries(stored) };
  },
};

function isMap(value: Value): boolean {
  return typeof value === "object" && !Array.isArray(value) && !(value instanceof Uint8Array);
}

/**
 * The map, whose byte strings share memory with `bytes`. Throws TOKEN_FILE for anything else, and for bytes after it.
 */
function decodeRecord(bytes: Uint8Array): Value {
  const reader = new Reader(bytes);
  const value = reader.value(0);
  if (reader.at !== bytes.length) {
    throw expected("msgpack", `one map of ${reader.at} bytes`, bytes.length, "TOKEN_FILE");
  }
  return value;
}

class Reader {
  at = 0;
  readonly #bytes: Uint8Array;
  readonly #view: DataView;
  readonly #text = new TextDecoder("utf-8", { fatal: true, ignoreBOM: true });
  #values = 0;

  constructor(bytes: Uint8Array) {
    this.#bytes = bytes;
    this.#view = new DataView(bytes.buffer, bytes.byteOffset, bytes.byteLength);
  }

  value(depth: number): Value {
    if (++this.#values > mostValues || depth > mostDepth) {
      throw this.#bad(this.at, `at most ${mostValues} values, ${mostDepth} deep`, "more");
    }
    const start = this.at, type = this.#view.getUint8(this.#take(1));
    if (type < 0x80) return type;
    if (type < 0x90) return this.#map(type & 15, depth);
    if (type < 0xa0) return this.#list(type & 15, depth);
    if (type < 0xc0) return this.#string(type & 31);
    if (type >= 0xe0) return type - 256;
    switch (type) {
      case 0xc4:
      case 0xc5:
      case 0xc6:
        return this.#raw(this.#unsigned(1 << (type - 0xc4)));
      case 0xca:
        return this.#view.getFloat32(this.#take(4));
      case 0xcb:
        return this.#view.getFloat64(this.#take(8));
      case 0xcc:
      case 0xcd:
      case 0xce:
        return this.#unsigned(1 << (type - 0xcc));
      case 0xcf:
        return Number(this.#view.getBigUint64(this.#take(8)));
      case 0xd0:
        return this.#view.getInt8(this.#take(1));
      case 0xd1:
        return this.#view.getInt16(this.#take(2));
      case 0xd2:
        return this.#view.getInt32(this.#take(4));
      case 0xd3:
        return Number(this.#view.getBigInt64(this.#take(8)));
      case 0xd9:
      case 0xda:
      case 0xdb:
        return this.#string(this.#unsigned(1 << (type - 0xd9)));
      case 0xdc:
      case 0xdd:
        return this.#list(this.#unsigned(2 << (type - 0xdc)), depth);
      case 0xde:
      case 0xdf:
        return this.#map(this.#unsigned(2 << (type - 0xde)), depth);
    }
    throw this.#bad(start, "a map, list, text, bytes or number", `type 0x${type.toString(16)}`);
  }

  #map(count: number, depth: number): Value {
    const map = new Map<string, Value>();
    for (let n = 0; n < count; n++) {
      const start = this.at, key = this.value(depth + 1);
      if (typeof key !== "string") throw this.#bad(start, "a text as key", typeof key);
      if (map.has(key)) throw this.#bad(start, "each key once", key);
      map.set(key, this.value(depth + 1));
    }
    return Object.fromEntries(map);
  }

  #list(count: number, depth: number): Value {
    const list: Value[] = [];
    for (let n = 0; n < count; n++) list.push(this.value(depth + 1));
    return list;
  }

  #string(length: number): string {
    const start = this.at;
    if (length > mostTextBytes) throw this.#bad(start, `texts of at most ${mostTextBytes} bytes`, length);
    try {
      return this.#text.decode(this.#raw(length));
    } catch (error) {
      throw error instanceof TokenizerError ? error : this.#bad(start, "UTF-8", "other bytes");
    }
  }

  #unsigned(size: number): number {
    const at = this.#take(size);
    return size === 1 ? this.#view.getUint8(at) : size === 2 ? this.#view.getUint16(at) : this.#view.getUint32(at);
  }

  #raw(length: number): Uint8Array {
    const at = this.#take(length);
    return this.#bytes.subarray(at, at + length);
  }

  /** Moves past the next `count` bytes, which are there, and gives their position. */
  #take(count: number): number {
    const at = this.at;
    if (at + count > this.#bytes.length) throw this.#bad(at, `${count} more bytes`, this.#bytes.length - at);
    this.at += count;
    return at;
  }

  #bad(at: number, wanted: string, found: unknown): TokenizerError {
    return expected(`msgpack byte ${at}`, wanted, found, "TOKEN_FILE");
  }
}
