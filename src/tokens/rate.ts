/**
 * Frames per second, and the shapes of pixels, as exact fractions: what videos are read and written at, and the texts
 * of fractions that token files and FFmpeg have. Called by all that handles a rate, the command line and the REPL too.
 */
import { z } from "zod";

export interface Rate {
  readonly num: number;
  readonly den: number;
}

/** Schema of a frame rate as callers may give it. */
export const rateOption = z.union([
  z.number().min(0.001).max(1000),
  z.strictObject({ num: z.int().min(1), den: z.int().min(1) }),
], "expected frames per second: a number from 0.001 to 1000, or { num, den }");

function greatestDivisor(a: number, b: number): number {
  return b === 0 ? a : greatestDivisor(b, a % b);
}

/**
 * The fraction that a text is: "30000/1001" or "25" frames a second, or the shape of pixels "16:11". Checks nothing.
 */
export function parseRate(text: string): Rate {
  const [num = NaN, den = 1] = text.split(/[/:]/).map(Number);
  return { num, den };
}

/** A frame rate as text, such as "30000/1001". */
export function rateText({ num, den }: Rate): string {
  return `${num}/${den}`;
}

/** The number of frames per second of a rate that is given as text. */
export function perSecond(fps: string): number {
  const { num, den } = parseRate(fps);
  return num / den;
}

/** A rate as a fraction: whole numbers, the television rates n · 1000/1001 (29.97, 23.976), else thousandths. */
export function toRate(fps: number | Rate): Rate {
  if (typeof fps !== "number") return fps;
  if (Number.isInteger(fps)) return { num: fps, den: 1 };
  const whole = Math.round(fps * 1.001);
  if (whole > 0 && Math.abs(fps * 1.001 - whole) < 0.006) return { num: whole * 1000, den: 1001 };
  const num = Math.round(fps * 1000), divisor = greatestDivisor(num, 1000);
  return { num: num / divisor, den: 1000 / divisor };
}
