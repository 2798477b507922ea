/**
 * What the values of options may be: from a text to the value, or undefined where it is none, and what was wanted.
 * Called by options.ts.
 */
import { type OpenOptions, optionFacts, parseRate, type Rate } from "../mod.ts";

export type Range = readonly [least: number, most: number];

export function oneOf<T extends string>(choices: readonly T[]) {
  const read = (text: string) => choices.find((choice) => choice === text);
  return { choices, read, wanted: `one of ${choices.join(", ")}` };
}

export function whole([least, most]: Range) {
  const read = (text: string) => inRange(/^\d+$/.test(text) ? Number(text) : NaN, [least, most]);
  return { read, wanted: `a whole number from ${least} to ${most}` };
}

/** A number, not only a whole one, in that range. */
export function decimal([least, most]: Range) {
  const read = (text: string) => inRange(/^\d+(\.\d+)?$/.test(text) ? Number(text) : NaN, [least, most]);
  return { read, wanted: `a number from ${least} to ${most}` };
}

function inRange(n: number, [least, most]: Range): number | undefined {
  return n >= least && n <= most ? n : undefined;
}

const powers = ["", "k", "m", "g", "t"];

/** "2GB" is 2e9 bytes, "512MiB" 512 * 2^20; a bare number is bytes, and the B may be left out. */
export function bytes(range: Range) {
  const read = (text: string) => {
    const [, number, power = "", isBinary] = /^(\d+(?:\.\d+)?) ?([kmgt]?)(i?)b?$/i.exec(text) ?? [];
    if (number === undefined || (isBinary && !power)) return undefined;
    return inRange(Math.round(Number(number) * (isBinary ? 1024 : 1000) ** powers.indexOf(power.toLowerCase())), range);
  };
  return { read, wanted: "bytes, such as 2GB, 512MiB or 1500000" };
}

/** "8192x8192" is as many pixels as such a picture has. */
export function pixels(range: Range) {
  const read = (text: string) => {
    const [, width, height = 1] = /^(\d+)(?:x(\d+))?$/i.exec(text) ?? [];
    return inRange(Number(width ?? NaN) * Number(height), range);
  };
  return { read, wanted: `pixels from ${range[0]} to ${range[1]}, as a number or such as 8192x8192` };
}

/** "25", "29.97" or "30000/1001" frames a second. */
export const rate = {
  read: (text: string): number | Rate | undefined => {
    const { num, den } = parseRate(text),
      isFraction = /^\d+\/\d+$/.test(text),
      fps = isFraction ? num / den : Number(text);
    if (!/^[\d./]+$/.test(text) || inRange(fps, [0.001, 1000]) === undefined) return undefined;
    return isFraction ? { num, den } : fps;
  },
  wanted: "frames a second from 0.001 to 1000, such as 25 or 30000/1001",
};

/** "3/10", and "10" or "/10" for one whose number the environment has. */
export function shareOf(range: Range) {
  const read = (text: string) => {
    const [, index, count] = /^(?:(\d*)\/)?(\d+)$/.exec(text) ?? [], of = inRange(Number(count ?? NaN), range);
    return of === undefined ? undefined : { index: index ? Number(index) : undefined, of };
  };
  return { read, wanted: "a worker and their number such as 3/10, or their number alone" };
}

export const device = {
  read: (text: string) =>
    optionFacts.device.pattern.test(text) ? text as NonNullable<OpenOptions["device"]> : undefined,
  wanted: "auto, cpu, cuda or cuda:1",
};
