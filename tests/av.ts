/**
 * Clips that flash white and beep at whole seconds, and the seconds at which a file does: sound and picture of a result
 * are measured from what is seen and heard in it, within a millisecond.
 */
import { Buffer } from "node:buffer";
import { execFileSync, spawnSync } from "node:child_process";
import { findFfmpeg } from "../src/media/ffmpeg.ts";

export const ffmpeg = await findFfmpeg().catch(() => undefined);

/** Runs FFmpeg and returns its stdout. */
export function runFfmpeg(...args: string[]): Buffer {
  const general = ["-v", "error", "-nostdin", "-y"];
  return execFileSync(ffmpeg!.path, [...general, ...args], { maxBuffer: 1 << 30, stdio: ["ignore", "pipe", "pipe"] });
}

/** What FFmpeg prints of a file's header. */
export function header(path: string): string {
  return spawnSync(ffmpeg!.path, ["-hide_banner", "-i", path], { encoding: "utf8" }).stderr;
}

/** The earliest start of a file's streams, seconds: zero of its clock. */
export function zeroOf(path: string): number {
  return Number(/^ {2}Duration: .*, start: ([-\d.]+)/m.exec(header(path))![1]);
}

export interface Clip {
  /** What is kept of 4 seconds of 64 × 48 pixels at 50 frames/s, as an FFmpeg filter. Default: every second frame. */
  readonly picture?: string;
  /** What is kept of as many seconds of sound. Default: all. */
  readonly sound?: string;
  /** Codecs, and what else comes before the name of the result. */
  readonly output: readonly string[];
}

/** A clip that flashes and beeps for a tenth of a second from 1, 2 and 3 s on. */
export function makeClip(path: string, { picture = "select='not(mod(n,2))'", sound = "anull", output }: Clip): string {
  const lit = "gt(t,0.5)*lt(mod(t+0.000001,1),0.1)";
  runFfmpeg(
    ...["-f", "lavfi", "-i", "color=c=black:s=64x48:r=50:d=4"],
    ...["-f", "lavfi", "-i", `aevalsrc='sin(2*PI*1000*t)*${lit}':s=48000:d=4`],
    ...["-vf", `drawbox=c=white:t=fill:enable='${lit}',${picture}`, "-af", sound],
    ...[...ffmpeg!.passFrames, "-enc_time_base:v", "1/90000", ...output, path],
  );
  return path;
}

/**
 * Seconds of all frames, whether each is white, and the seconds of those that are while the one before is not. `zero`:
 * what counts as the beginning, for a clock that is hours ahead, of which FFmpeg prints six digits.
 */
export function seen(path: string, zero = 0): { times: number[]; lit: boolean[]; flashes: number[] } {
  const printed = runFfmpeg(
    ...["-copyts", "-i", path, "-map", "0:v:0", ...ffmpeg!.passFrames, "-enc_time_base", "-1"],
    ...["-vf", `setpts=PTS-${zero}/TB,signalstats,metadata=print:key=lavfi.signalstats.YAVG:file=-`, "-f", "null", "-"],
  ).toString();
  const frames = [...printed.matchAll(/pts_time:(\S+)\s+lavfi.signalstats.YAVG=(\S+)/g)];
  const lit = frames.map(([, , luma]) => Number(luma) > 125), times = frames.map(([, time]) => zero + Number(time));
  return { times, lit, flashes: times.filter((_, i) => lit[i] && !lit[i - 1]) };
}

/** What is later is not heard: were sound hours late by a mistake, the silence before it would be gigabytes. */
const mostSeconds = 60;

/**
 * Seconds at which a beep begins, and at which the sound ends; a gap in it is silence. `zero`: what counts as the
 * beginning, as above.
 */
export function heard(path: string, zero = 0): { beeps: number[]; end: number } {
  const rate = 8000, filter = `asetpts=PTS-${zero}/TB,atrim=end=${mostSeconds},aresample=${rate}:async=1:first_pts=0`;
  const bytes = runFfmpeg("-copyts", "-i", path, "-map", "0:a:0", "-af", filter, "-ac", "1", "-f", "f32le", "-");
  const samples = new Float32Array(new Uint8Array(bytes).buffer);
  const beeps: number[] = [];
  for (let i = 0, quietUntil = 0; i < samples.length; i++) {
    if (!(Math.abs(samples[i]!) > 0.3)) continue;
    if (i >= quietUntil) beeps.push(zero + i / rate);
    quietUntil = i + rate / 4;
  }
  return { beeps, end: zero + samples.length / rate };
}

/**
 * The number of an MP4's samples and how long each is shown, in seconds: its first track's time-to-sample box, run by
 * run.
 */
export function durationsOf(mp4: Uint8Array): { count: number; seconds: number }[] {
  const bytes = Buffer.from(mp4), clock = bytes.indexOf("mdhd") + 4, table = bytes.indexOf("stts") + 8;
  const scale = bytes.readUInt32BE(clock + (bytes[clock] === 0 ? 12 : 20));
  return Array.from({ length: bytes.readUInt32BE(table) }, (_, i) => ({
    count: bytes.readUInt32BE(table + 4 + 8 * i),
    seconds: bytes.readUInt32BE(table + 8 + 8 * i) / scale,
  }));
}
