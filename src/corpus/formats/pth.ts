/**
 * One tensor as torch.save leaves it and torch.load(weights_only=True) takes it, with nothing newer than PyTorch 1.13:
 * a zip of archive/data.pkl (a pickle, protocol 2, that names the storage, offset, shape and strides), archive/data/0
 * (the elements, at a multiple of 64 bytes), archive/byteorder and archive/version, nothing of it compressed. int32 and
 * not uint16, which old PyTorch does not know. What is read back is compared with what would be written: nothing of a
 * pickle is ever executed.
 */
import { crc32 } from "node:zlib";
import { expected } from "../../errors.ts";
import { elementsOf } from "../../tokens/dense.ts";
import { type StoredTensor, storedTensor } from "../../tokens/stored.ts";

const storages = {
  int32: "IntStorage",
  bfloat16: "BFloat16Storage",
  float16: "HalfStorage",
  float32: "FloatStorage",
} as const;
type TorchType = keyof typeof storages;

const alignment = 64;
/** Most bytes of a tensor: half of the 4 GiB that a zip without its 64-bit extension can hold. */
const mostBytes = 2 ** 31;
const encoder = new TextEncoder();
const pickleStart = 30 + "archive/data.pkl".length; // behind the first local header

/**
 * Writes a tensor as torch.save does. Throws ARGUMENT for a dtype that PyTorch 1.13 lacks, SHAPE for more than 2 GiB.
 */
export function encodePth({ dtype, shape, data }: StoredTensor): Uint8Array {
  if (!(dtype in storages)) throw expected("dtype of a .pth", Object.keys(storages).join(", "), dtype);
  if (data.byteLength > mostBytes) {
    throw expected("elements of a .pth", `at most ${mostBytes} bytes`, data.byteLength, "SHAPE");
  }
  const elements = new Uint8Array(data.buffer, data.byteOffset, data.byteLength);
  return zip([
    ["archive/data.pkl", pickleOf(dtype as TorchType, shape)],
    ["archive/byteorder", encoder.encode("little")],
    ["archive/data/0", elements],
    ["archive/version", encoder.encode("3\n")],
  ]);
}

/** A tensor that shares memory with `bytes`. Throws TOKEN_FILE for any bytes that encodePth does not give. */
export function decodePth(bytes: Uint8Array): StoredTensor {
  const bad = (wanted: string, found: string) => expected(".pth", wanted, found, "TOKEN_FILE");
  const length = bytes.length < 22 ? 0 : new DataView(bytes.buffer, bytes.byteOffset).getUint32(18, true);
  const pickle = bytes.subarray(pickleStart, pickleStart + length),
    text = String.fromCharCode(...pickle.subarray(0, 4096));
  const dtype = (Object.keys(storages) as TorchType[]).find((type) => text.includes(`ctorch\n${storages[type]}\n`));
  const shape = shapeIn(pickle);
  if (!dtype || !shape) throw bad("a pickle of one tensor", "another");
  const start = dataStart(pickle.length),
    size = shape.reduce((product, n) => product * n, dtype === "int32" || dtype === "float32" ? 4 : 2);
  if (start + size > bytes.length) throw bad(`${size} bytes of elements`, `${bytes.length} in all`);
  const tensor = storedTensor("archive/data/0", dtype, shape, bytes.subarray(start, start + size));
  const again = encodePth(tensor);
  if (again.length !== bytes.length || again.some((byte, i) => byte !== bytes[i])) {
    throw bad("one tensor as ctok writes it", "another file, or a damaged one");
  }
  return tensor;
}

// ---------------------------------------------------------------- the pickle
/**
 * Opcodes by their letters in Python's pickletools: PROTO, GLOBAL, MARK, BINUNICODE, BINPERSID, TUPLE, REDUCE, STOP.
 */
function pickleOf(dtype: TorchType, shape: readonly number[]): Uint8Array {
  const elements = elementsOf(shape);
  const strides = shape.map((_, axis) => elementsOf(shape.slice(axis + 1)));
  const unicode = (text: string) => [0x58, ...int32Bytes(text.length), ...encoder.encode(text)];
  const global = (module: string, name: string) => [0x63, ...encoder.encode(`${module}\n${name}\n`)];
  return Uint8Array.from([
    ...[0x80, 2, ...global("torch._utils", "_rebuild_tensor_v2"), 0x28, 0x28],
    ...[...unicode("storage"), ...global("torch", storages[dtype]), ...unicode("0"), ...unicode("cpu")],
    ...[...integer(elements), 0x74, 0x51, ...integer(0), ...tuple(shape), ...tuple(strides)],
    ...[0x89, ...global("collections", "OrderedDict"), 0x29, 0x52, 0x74, 0x52, 0x2e], // no gradient, no hooks
  ]);
}

function tuple(values: readonly number[]): number[] {
  return [0x28, ...values.flatMap(integer), 0x74];
}

/** BININT1, BININT2, BININT, or LONG1 of 8 bytes, as the value needs. */
function integer(value: number): number[] {
  if (value < 0x100) return [0x4b, value];
  if (value < 0x1_0000) return [0x4d, value & 0xff, value >> 8];
  if (value < 0x8000_0000) return [0x4a, ...int32Bytes(value)];
  const long = new Uint8Array(8);
  new DataView(long.buffer).setBigInt64(0, BigInt(value), true);
  return [0x8a, 8, ...long];
}

function int32Bytes(value: number): number[] {
  return [value & 0xff, value >> 8 & 0xff, value >> 16 & 0xff, value >> 24 & 0xff];
}

/**
 * Reads the tensor's shape from the pickle, where it follows the storage's BINPERSID and the offset. The whole pickle
 * is compared afterwards.
 */
function shapeIn(pickle: Uint8Array): number[] | undefined {
  const start = pickle.findIndex((byte, i) => byte === 0x51 && pickle[i - 1] === 0x74 && pickle[i + 3] === 0x28);
  const shape: number[] = [], view = new DataView(pickle.buffer, pickle.byteOffset, pickle.length);
  for (let at = start + 4; start >= 0 && at < pickle.length - 5; at++) {
    const op = pickle[at];
    if (op === 0x74) return shape;
    const bytes = op === 0x4b ? 1 : op === 0x4d ? 2 : op === 0x4a ? 4 : 0;
    if (bytes === 0 || shape.length === 8) return undefined;
    shape.push(
      bytes === 1 ? view.getUint8(at + 1) : bytes === 2 ? view.getUint16(at + 1, true) : view.getInt32(at + 1, true),
    );
    at += bytes;
  }
  return undefined;
}

// ---------------------------------------------------------------- the zip
/**
 * Where the elements begin in the archive: after the pickle, the record of the byte order, and their own header with
 * its padding.
 */
function dataStart(pickleBytes: number): number {
  const before = pickleStart + pickleBytes + 30 + "archive/byteorder".length + "little".length;
  return Math.ceil((before + 30 + "archive/data/0".length + 4) / alignment) * alignment;
}

/**
 * Writes a zip archive without compression. As in PyTorch's, an extra field "FB" fills each header up to where the
 * elements begin. Time: 1980-01-01.
 */
function zip(entries: readonly (readonly [name: string, content: Uint8Array])[]): Uint8Array {
  const parts: Uint8Array[] = [], directory: Uint8Array[] = [];
  let at = 0;
  const push = (part: Uint8Array) => {
    parts.push(part);
    at += part.length;
  };
  for (const [name, content] of entries) {
    const offset = at, checksum = crc32(content);
    const fill = name.endsWith("data/0") ? dataStart(entries[0]![1].length) - at - 30 - name.length - 4 : undefined;
    const extra = fill === undefined ? [] : [0x46, 0x42, fill & 0xff, fill >> 8, ...new Array<number>(fill).fill(0x5a)];
    const size = content.length;
    const fields = (extraBytes: number) => [
      ...short(10),
      ...short(0x800),
      ...short(0),
      ...short(0),
      ...short(0x21),
      ...int32Bytes(checksum),
      ...int32Bytes(size),
      ...int32Bytes(size),
      ...short(name.length),
      ...short(extraBytes),
    ];
    push(Uint8Array.from([0x50, 0x4b, 3, 4, ...fields(extra.length), ...encoder.encode(name), ...extra]));
    push(content);
    directory.push(
      Uint8Array.from([
        ...[0x50, 0x4b, 1, 2, ...short(10), ...fields(0), ...short(0), ...short(0), ...short(0)],
        ...[...int32Bytes(0), ...int32Bytes(offset), ...encoder.encode(name)],
      ]),
    );
  }
  const start = at;
  directory.forEach(push);
  const count = short(entries.length);
  const end = [
    ...short(0),
    ...short(0),
    ...count,
    ...count,
    ...int32Bytes(at - start),
    ...int32Bytes(start),
    ...short(0),
  ];
  push(Uint8Array.from([0x50, 0x4b, 5, 6, ...end]));
  const out = new Uint8Array(at);
  for (let i = 0, to = 0; i < parts.length; to += parts[i++]!.length) out.set(parts[i]!, to);
  return out;
}

function short(value: number): [number, number] {
  return [value & 0xff, value >> 8];
}
