/**
 * When the frames of a clip are shown, in seconds on the source's clock, and how a token file keeps that: a start and a
 * rate where one fits all frames, else every time. Called by the streams, by what joins tokens, and where a video is
 * opened. Nothing here reads a file.
 */
import { perSecond, rateText, toRate } from "./rate.ts";

/** The times of a clip's frames: frame i is shown at `times[i] ?? (start ?? 0) + i / fps`. */
export interface FrameTimes {
  readonly fps?: string;
  readonly start?: number;
  readonly times?: readonly number[];
}

/** The coarsest clock that phones and cameras use, QuickTime's 600 ticks a second; Matroska's and Flash's have 1000. */
export const coarsestTick = 1 / 600;

/**
 * Seconds of frames in order, as `start` and `fps`, or `times` with their average as `fps` where no constant rate puts
 * each within a tick of a coarse clock: 29.97 frames a second in whole milliseconds are constant. `hint`, a fraction
 * such as "30000/1001", is tried first and kept where a single frame tells no rate. Times are rounded to microseconds
 * and increase.
 */
export function timesOf(seconds: readonly number[], hint?: string): FrameTimes {
  if (seconds.length === 0) return hint === undefined ? {} : { fps: hint };
  const steady = steadyRate(seconds, hint === undefined ? [] : [hint]);
  if (steady) return steady;
  const average = averageRate(seconds) ?? hint;
  const times: number[] = [];
  for (const time of seconds) {
    times.push(Math.max(toMicroseconds(time), toMicroseconds((times.at(-1) ?? -Infinity) + 1e-6)));
  }
  return { ...(average !== undefined && { fps: average }), times };
}

/** When frame `n` is shown; undefined where no time is known. */
export function secondsOf({ fps, start, times }: FrameTimes, n: number): number | undefined {
  const rate = fps === undefined ? undefined : perSecond(fps);
  return times?.[n] ?? (rate === undefined ? n === 0 ? start : undefined : (start ?? 0) + n / rate);
}

/**
 * The rate that puts each frame within a tick of a coarse clock: one of `hints`, or what the frames' average stands
 * for, or one of `others`.
 */
export function steadyRate(
  seconds: readonly number[],
  hints: readonly string[],
  others: readonly string[] = [],
): { start?: number; fps?: string } | undefined {
  if (seconds.length < 2) {
    return { ...(hints[0] !== undefined && { fps: hints[0] }), ...startAt(seconds[0] ?? 0) };
  }
  const span = seconds.at(-1)! - seconds[0]!, intervals = seconds.length - 1;
  if (!(span > 0)) return undefined;
  const average = intervals / span;
  const round = [Math.round(average), Math.round(average * 1.001) * 1000 / 1001, Math.round(average * 2) / 2];
  const likely = round.map((rate) => rateText(toRate(rate)));
  const near = simplest(intervals / (span + coarsestTick), intervals / Math.max(span - coarsestTick, span / 2));
  for (const fps of [...hints, ...likely, ...others, ...(near === undefined ? [] : [near])]) {
    const rate = perSecond(fps);
    if (!(rate > 0)) continue;
    let least = Infinity, most = -Infinity;
    for (const [n, time] of seconds.entries()) {
      least = Math.min(least, time - n / rate);
      most = Math.max(most, time - n / rate);
      if (most - least > coarsestTick + 1e-6) break;
    }
    if (most - least <= coarsestTick + 1e-6) return { fps, ...startAt((least + most) / 2) };
  }
  return undefined;
}

/** Average frame rate from the first to the last time, as a fraction; undefined for one frame. */
export function averageRate(seconds: readonly number[]): string | undefined {
  const span = (seconds.at(-1) ?? 0) - (seconds[0] ?? 0);
  return span > 0
    ? simplest((seconds.length - 1) / span * (1 - 1e-4), (seconds.length - 1) / span * (1 + 1e-4))
    : undefined;
}

/** The fraction of the smallest denominator between two numbers. Ref: the Stern-Brocot tree, by continued fractions. */
function simplest(low: number, high: number): string | undefined {
  if (!(low > 0 && high >= low && Number.isFinite(high))) return undefined;
  const find = (a: number, b: number, depth: number): [num: number, den: number] => {
    const whole = Math.ceil(a);
    if (whole <= b || depth === 0) return [Math.max(whole, 1), 1];
    const [num, den] = find(1 / (b - Math.floor(a)), 1 / (a - Math.floor(a)), depth - 1);
    return [Math.floor(a) * num + den, num];
  };
  const [num, den] = find(low, high, 24);
  return Number.isSafeInteger(num) && Number.isSafeInteger(den) ? `${num}/${den}` : undefined;
}

function startAt(seconds: number): { start?: number } {
  const start = toMicroseconds(seconds);
  return start === 0 ? {} : { start };
}

function toMicroseconds(seconds: number): number {
  return Math.round(seconds * 1e6) / 1e6;
}
