/**
 * How people are told numbers: sizes of pictures, bytes, times. A picture's size is its width, then its height, as
 * everybody writes it, and so is a grid of tokens; tensors' shapes are as the API has them. Called by all that reports.
 */

/** "600x400": pixels or tokens, width by height. */
export function tellSize(height: number, width: number): string {
  return `${width}x${height}`;
}

const units = ["bytes", "kB", "MB", "GB", "TB"];

/** "7.7 kB", "158 MB": powers of 1000, three digits. */
export function tellBytes(bytes: number): string {
  let power = 0;
  while (power < units.length - 1 && bytes / 1000 ** power >= 999.5) power++;
  const n = bytes / 1000 ** power;
  return `${power === 0 ? Math.round(n) : n.toFixed(n < 9.995 ? 2 : n < 99.95 ? 1 : 0)} ${units[power]}`;
}

/** "0:08", "1:02:03". */
export function tellDuration(seconds: number): string {
  const whole = Math.round(seconds), [h, m, s] = [Math.floor(whole / 3600), Math.floor(whole / 60) % 60, whole % 60];
  return h > 0 ? `${h}:${two(m)}:${two(s)}` : `${m}:${two(s)}`;
}

const two = (n: number) => String(n).padStart(2, "0");

/** "3 frames", "1 frame". */
export function tellCount(n: number, what: string): string {
  return `${n} ${what}${n === 1 ? "" : "s"}`;
}
