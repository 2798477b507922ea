/**
 * Raw RGB frames with their times, in the NUT container as FFmpeg reads it from a pipe: what rawvideo is to frames at a
 * constant rate. One stream of rgb24, a time base of choice, no index; the pipe's end is the stream's. Called by
 * videosink.ts.
 *
 * Ref: the NUT specification (https://ffmpeg.org/~michael/nut.txt), version 4, whose flag for pipes spares a syncpoint
 * at each frame (FFmpeg keeps those in memory); and FFmpeg's nutdec.c, which takes the rate from an info packet.
 */
import type { Rate } from "../tokens/rate.ts";

/** The eight bytes with which each kind of packet begins. */
const startcodes = {
  main: 0x4e4d7a561f5f04adn,
  stream: 0x4e5311405bf2f9dbn,
  info: 0x4e49ab68b596ba78n,
  syncpoint: 0x4e4be4adeeca4569n,
};
/** Flags of every frame: key frame, own time, own size, a checksum of this header. */
const frameFlags = 1 | 8 | 32 | 64;
const pipeFlag = 2;

export interface NutVideo {
  readonly height: number;
  readonly width: number;
  /** Ticks a second, below 2^31: the unit of the frames' times. */
  readonly ticks: number;
  /** The frame rate that the encoder and the file's header get; each frame is shown at its own time all the same. */
  readonly rate: Rate;
  /** A pixel's width to its height. */
  readonly sampleAspect: Rate;
}

/** The bytes that come before the first frame: the file's name and headers. */
export function nutHeader({ height, width, ticks, rate, sampleAspect }: NutVideo): Uint8Array {
  const main = [
    ...numbers(4, 0, 1, 65536), // version, one stream, the most that a syncpoint may be away
    ...numbers(1, 1, ticks), // one time base: 1 / ticks
    ...numbers(frameFlags, 6, 0, 1, 0, 0, 0, 255), // all 255 codes of frames are one: six fields, all by the flags
    ...numbers(0, pipeFlag), // nothing elided
  ];
  const stream = [
    ...numbers(0, 0), // number 0, video
    ...text("RGB\x18"),
    ...numbers(0, 0, 0, 0, 0, 0), // time base 0, times told whole, at any distance, no delay, no flags, no codec data
    ...numbers(width, height, sampleAspect.num, sampleAspect.den, 0),
  ];
  // Note: FFmpeg ignores a rate of 1000 and more.
  const { num, den } = rate.num < 1000 * rate.den ? rate : { num: 999, den: 1 };
  const utf8 = 2;
  const info = [...numbers(1, 0, 0, 0, 1), ...text("r_frame_rate"), ...numbers(utf8), ...text(`${num}/${den}`)];
  return Uint8Array.from([
    ...new TextEncoder().encode("nut/multimedia container\0"),
    ...packet(startcodes.main, main),
    ...packet(startcodes.stream, stream),
    ...packet(startcodes.info, info),
    ...packet(startcodes.syncpoint, numbers(0, 0)),
  ]);
}

/** What comes before the bytes of each frame. `tick`: when it is shown. */
export function nutFrameHeader(tick: number, frameBytes: number): Uint8Array {
  const header = numbers(0, 1 + tick, frameBytes); // a time below 1 would be one relative to the frame before
  return Uint8Array.from([...header, ...checksum(header)]);
}

function packet(startcode: bigint, content: readonly number[]): number[] {
  const code = Array.from({ length: 8 }, (_, i) => Number(startcode >> BigInt(56 - 8 * i) & 0xffn));
  return [...code, ...numbers(content.length + 4), ...content, ...checksum(content)];
}

/**
 * A number in NUT's variable length: seven bits a byte, the highest first; all but the last byte have the top bit set.
 */
function numbers(...values: readonly number[]): number[] {
  return values.flatMap((value) => {
    const bytes = [value % 128];
    for (let rest = Math.floor(value / 128); rest > 0; rest = Math.floor(rest / 128)) bytes.unshift(128 + rest % 128);
    return bytes;
  });
}

function text(value: string): number[] {
  return [...numbers(value.length), ...new TextEncoder().encode(value)];
}

/** CRC-32, polynomial 04C11DB7, highest bit first, from 0; four bytes, the highest first. */
function checksum(bytes: readonly number[]): number[] {
  let crc = 0;
  for (const byte of bytes) {
    crc ^= byte << 24;
    for (let bit = 0; bit < 8; bit++) crc = crc << 1 ^ (crc < 0 ? 0x04c11db7 : 0);
  }
  return [24, 16, 8, 0].map((shift) => crc >>> shift & 255);
}
