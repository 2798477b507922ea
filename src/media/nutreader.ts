/**
 * The one video stream of a NUT container as FFmpeg writes it to a pipe: raw frames with the exact time of each. Called
 * by videofile.ts. NUT is the container that every FFmpeg writes with a frame's own time base, size and sample aspect
 * ahead of the pixels. Left out: other streams, the index, side data and what stable versions of FFmpeg do not write;
 * all that is told.
 *
 *   file id   main header (time bases, 256 frame codes)   stream header (size, aspect)   { sync point }  frame …  index
 *
 * Ref: nut.txt of the FFmpeg project; libavformat/nutenc.c.
 */
import { TokenizerError } from "../errors.ts";

export interface NutHeader {
  readonly height: number;
  readonly width: number;
  /** A pixel's width to its height; 1:1 when square or unknown. */
  readonly sampleAspect: { readonly num: number; readonly den: number };
}

export interface NutFrame {
  /** The frame's bytes, in memory of their own. */
  readonly data: Uint8Array;
  readonly seconds: number;
}

const fileId = "nut/multimedia container\0";
// Startcodes: each packet but a frame begins with 'N' and one of these, a letter and six more bytes. No frame's code is
// 'N'.
const packets = {
  main: "M\x7a\x56\x1f\x5f\x04\xad",
  stream: "S\x11\x40\x5b\xf2\xf9\xdb",
  sync: "K\xe4\xad\xee\xca\x45\x69",
  index: "X\xdd\x67\x2f\x23\xe6\x4e",
  info: "I\xab\x68\xb5\x96\xba\x78",
} as const;
const flag = {
  codedTime: 8,
  streamId: 16,
  size: 32,
  checksum: 64,
  reserved: 128,
  sideData: 256,
  headerIndex: 1024,
  matchTime: 2048,
  coded: 4096,
  invalid: 8192,
} as const;

interface FrameCode {
  readonly flags: number;
  readonly timeDelta: number;
  readonly stream: number;
  readonly sizeFactor: number;
  readonly size: number;
  readonly reserved: number;
  readonly headerIndex: number;
}

/** Limit: of a header, index or information, none of which grows with the frames but the index, which is not read. */
const mostPacketBytes = 1 << 20;

/** Reads a NUT stream that comes in chunks. Throws INTERNAL for anything that FFmpeg would not write. */
export class NutReader {
  readonly #bytes: Bytes;
  readonly #aheadSeconds: number;
  #codes: FrameCode[] = [];
  #timeBases: { readonly num: number; readonly den: number }[] = [];
  #elided: Uint8Array[] = [];
  #timeBase = 0;
  #lowBits = 0;
  #last = 0; // time of the last frame, in ticks
  #header: NutHeader | undefined;

  /**
   * Reads NUT from `chunks`. `aheadSeconds`: by how much the stream's clock is ahead of the times that are wanted;
   * exact where it is a whole number.
   */
  constructor(chunks: AsyncIterable<Uint8Array>, aheadSeconds = 0) {
    this.#aheadSeconds = aheadSeconds;
    this.#bytes = new Bytes(chunks[Symbol.asyncIterator]());
  }

  /** The stream's header; undefined when the stream ends before one. */
  async header(): Promise<NutHeader | undefined> {
    if (this.#header) return this.#header;
    const id = await this.#bytes.take(fileId.length);
    if (id === undefined) return undefined;
    if (String.fromCharCode(...id) !== fileId) throw strange("a NUT file", "other bytes");
    while (!this.#header) {
      const first = await this.#bytes.next();
      if (first === undefined) return undefined;
      if (first !== 0x4e) throw strange("a header", `a frame of code ${first}`);
      if (!await this.#readPacket()) return undefined;
    }
    return this.#header;
  }

  /** The next frame; undefined at the end, and at a frame that is cut short, which `isCut` then tells. */
  async frame(): Promise<NutFrame | undefined> {
    if (!await this.header()) return undefined;
    for (;;) {
      const code = await this.#bytes.next();
      if (code === undefined) return undefined;
      if (code === 0x4e) {
        if (!await this.#readPacket()) return undefined;
        continue;
      }
      const frame = await this.#readFrame(this.#codes[code]!);
      if (frame === undefined || frame.data.length > 0) return frame; // an empty one says that a stream ended
    }
  }

  /** Whether the stream ended inside a frame or a header. */
  get isCut(): boolean {
    return this.#bytes.isCut;
  }

  async #readFrame(code: FrameCode): Promise<NutFrame | undefined> {
    const bytes = this.#bytes;
    let { flags, size, reserved, headerIndex } = code;
    if (flags & flag.coded) flags ^= await bytes.value();
    if (flags & (flag.invalid | flag.sideData)) throw strange("a frame", `flags ${flags}`);
    const stream = flags & flag.streamId ? await bytes.value() : code.stream;
    if (stream !== 0) throw strange("one stream", `stream ${stream}`);
    if (flags & flag.codedTime) {
      const coded = await bytes.value(), range = 2 ** this.#lowBits;
      const lowest = this.#last - Math.floor((range - 1) / 2);
      this.#last = coded >= range ? coded - range : lowest + ((coded - lowest) % range + range) % range;
    } else this.#last += code.timeDelta;
    if (flags & flag.size) size += code.sizeFactor * await bytes.value();
    if (flags & flag.matchTime) await bytes.value();
    if (flags & flag.headerIndex) headerIndex = await bytes.value();
    if (flags & flag.reserved) reserved = await bytes.value();
    for (; reserved > 0; reserved--) await bytes.value();
    if (flags & flag.checksum) await bytes.take(4);
    if (bytes.isCut) return undefined;
    const { height, width } = this.#header!, frameBytes = height * width * 3;
    if (size !== 0 && size !== frameBytes) throw strange(`${frameBytes} bytes a frame`, `${size}`);
    const elided = size === 0 ? new Uint8Array(0) : this.#elided[headerIndex] ?? new Uint8Array(0);
    const data = new Uint8Array(size);
    data.set(elided);
    if (!await bytes.fill(data, elided.length)) return undefined;
    const { num, den } = this.#timeBases[this.#timeBase]!;
    return { data, seconds: (this.#last * num - this.#aheadSeconds * den) / den };
  }

  /** A packet behind its 'N'; false when it is cut short, and at the index, which is the end. */
  async #readPacket(): Promise<boolean> {
    const rest = await this.#bytes.take(7);
    if (rest === undefined) return false;
    const kind = String.fromCharCode(...rest);
    if (kind === packets.index) {
      await this.#bytes.drain();
      return false;
    }
    const length = await this.#bytes.value();
    if (length > 4096) await this.#bytes.take(4); // a checksum of the packet's own header
    if (this.#bytes.isCut) return false;
    if (length > mostPacketBytes) throw strange("a short header", `${length} bytes`);
    const content = await this.#bytes.take(length);
    if (content === undefined) return false;
    const packet = new Bytes([].values(), content.subarray(0, -4));
    if (kind === packets.main) await this.#readMain(packet);
    else if (kind === packets.stream) await this.#readStream(packet);
    else if (kind === packets.sync) await this.#readSync(packet);
    else if (kind !== packets.info) throw strange("a packet of NUT", JSON.stringify(kind));
    if (packet.isCut) throw strange("a whole header", "one that is short");
    return true;
  }

  async #readMain(bytes: Bytes): Promise<void> {
    const version = await bytes.value();
    // Note: version 4 of NUT is not stable, and FFmpeg writes it only on request.
    if (version !== 3) throw strange("version 3 of NUT", `${version}`);
    const streams = await bytes.value();
    if (streams !== 1) throw strange("one stream", `${streams}`);
    await bytes.value(); // how far sync points are apart
    this.#timeBases = [];
    for (let left = await bytes.value(); left > 0 && !bytes.isCut; left--) {
      const num = await bytes.value(), den = await bytes.value();
      if (num === 0 || den === 0) throw strange("a time base", `${num}/${den}`);
      this.#timeBases.push({ num, den });
    }
    this.#codes = [];
    let timeDelta = 0, sizeFactor = 1, stream = 0, headerIndex = 0;
    while (this.#codes.length < 256 && !bytes.isCut) {
      const flags = await bytes.value(), fields = await bytes.value();
      if (fields > 0) timeDelta = signed(await bytes.value());
      if (fields > 1) sizeFactor = await bytes.value();
      if (fields > 2) stream = await bytes.value();
      const size = fields > 3 ? await bytes.value() : 0;
      const reserved = fields > 4 ? await bytes.value() : 0;
      let count = fields > 5 ? await bytes.value() : sizeFactor - size;
      if (fields > 6) await bytes.value();
      if (fields > 7) headerIndex = await bytes.value();
      for (let n = 8; n < fields; n++) await bytes.value();
      for (let n = 0; count > 0 && this.#codes.length < 256; count--) {
        const isN = this.#codes.length === 0x4e; // begins a packet, so it is no frame's
        const about = { timeDelta, stream, sizeFactor, reserved, headerIndex };
        if (isN) count++;
        this.#codes.push({ ...about, flags: isN ? flag.invalid : flags, size: isN ? 0 : size + n++ });
      }
    }
    this.#elided = [new Uint8Array(0)];
    for (let left = await bytes.value(); left > 0 && !bytes.isCut; left--) {
      this.#elided.push(await bytes.take(await bytes.value()) ?? new Uint8Array(0));
    }
  }

  async #readStream(bytes: Bytes): Promise<void> {
    const id = await bytes.value(), kind = await bytes.value();
    if (id !== 0 || kind !== 0) throw strange("a stream of video", `stream ${id} of kind ${kind}`);
    await bytes.take(await bytes.value()); // RGB with 24 bits, as asked for
    this.#timeBase = await bytes.value();
    this.#lowBits = await bytes.value();
    for (let n = 0; n < 3; n++) await bytes.value(); // greatest gap, decoding delay, flags
    await bytes.take(await bytes.value());
    const width = await bytes.value(), height = await bytes.value();
    const num = await bytes.value(), den = await bytes.value();
    if (!this.#timeBases[this.#timeBase] || width * height === 0) throw strange("a frame's size and time", "none");
    this.#header = { height, width, sampleAspect: num > 0 && den > 0 ? { num, den } : { num: 1, den: 1 } };
  }

  /** Reads a sync point, which says where the stream's clock stands, in ticks of one of the time bases. */
  async #readSync(bytes: Bytes): Promise<void> {
    const coded = await bytes.value(), count = this.#timeBases.length, from = this.#timeBases[coded % count];
    await bytes.value(); // how far back the last one is
    const to = this.#timeBases[this.#timeBase];
    if (!from || !to) throw strange("headers before a sync point", "none");
    const ticks = BigInt(Math.floor(coded / count)) * BigInt(from.num) * BigInt(to.den);
    this.#last = Number(ticks / (BigInt(from.den) * BigInt(to.num)));
  }
}

function strange(wanted: string, found: string): TokenizerError {
  return new TokenizerError("INTERNAL", `FFmpeg's frames: expected ${wanted}, found ${found}`);
}

function signed(value: number): number {
  return value % 2 === 1 ? (value + 1) / 2 : -value / 2;
}

/** Reads the bytes of a stream in order. */
class Bytes {
  readonly #chunks: AsyncIterator<Uint8Array> | Iterator<Uint8Array>;
  #chunk: Uint8Array;
  #at = 0;
  /** Whether the stream ended before all the bytes that were asked for. */
  isCut = false;

  /** `first` comes before the other chunks. */
  constructor(chunks: AsyncIterator<Uint8Array> | Iterator<Uint8Array>, first: Uint8Array = new Uint8Array(0)) {
    this.#chunks = chunks;
    this.#chunk = first;
  }

  async #laterByte(): Promise<number | undefined> {
    while (this.#at === this.#chunk.length) {
      const { value, done } = await this.#chunks.next();
      if (done) return undefined;
      this.#chunk = value;
      this.#at = 0;
    }
    return this.#chunk[this.#at++];
  }

  /** The next byte; undefined at the end of the stream, which does not count as cut here. */
  next(): number | Promise<number | undefined> {
    return this.#at < this.#chunk.length ? this.#chunk[this.#at++]! : this.#laterByte();
  }

  /**
   * A whole number: seven bits a byte, the last one below 128. Limit: to 2^53, which no frame's time of FFmpeg's
   * passes. At once where all of it is there, as it mostly is: a promise for each would cost more than all else here.
   */
  value(): number | Promise<number> {
    const chunk = this.#chunk;
    for (let at = this.#at, value = 0; at < chunk.length;) {
      const byte = chunk[at++]!;
      value = value * 128 + byte % 128;
      if (byte >= 128) continue;
      this.#at = at;
      return value;
    }
    return this.#laterValue();
  }

  async #laterValue(): Promise<number> {
    for (let value = 0;;) {
      const byte = await this.next();
      if (byte === undefined) {
        this.isCut = true;
        return 0;
      }
      value = value * 128 + byte % 128;
      if (byte < 128) return value;
    }
  }

  take(count: number): Uint8Array | Promise<Uint8Array | undefined> {
    if (this.#at + count <= this.#chunk.length) return this.#chunk.subarray(this.#at, this.#at += count);
    const bytes = new Uint8Array(count);
    return this.fill(bytes, 0).then((isWhole) => isWhole ? bytes : undefined);
  }

  /** Fills `target` from `from` on; false when the stream ends before. */
  async fill(target: Uint8Array, from: number): Promise<boolean> {
    for (let at = from; at < target.length;) {
      if (this.#at === this.#chunk.length) {
        const { value, done } = await this.#chunks.next();
        if (done) {
          this.isCut = true;
          return false;
        }
        this.#chunk = value;
        this.#at = 0;
      }
      const part = this.#chunk.subarray(this.#at, this.#at + target.length - at);
      target.set(part, at);
      at += part.length;
      this.#at += part.length;
    }
    return true;
  }

  async drain(): Promise<void> {
    while (!(await this.#chunks.next()).done);
  }
}
