/**
 * The bar: one line at the end of standard error for the whole of a run, with the rate and the time left. What is
 * counted is files, where a part of one is a fraction, or bytes: see `Counted`. Where the bar goes and when it makes
 * way is report.ts.
 *
 *     using bar = report.progress({ unit: "bytes", total: 158_000_000 }); // undefined when nobody watches
 *     bar?.update(bytesSoFar, "model.safetensors");
 */
import { printable } from "../mod.ts";
import { tail } from "./screen.ts";
import { tellBytes, tellDuration } from "./tell.ts";

export interface Counted {
  readonly unit: "files" | "bytes";
  /** In that unit; undefined where nobody knows. */
  readonly total: number | undefined;
}

export interface Moment {
  /** What is done, in the unit; undefined where that cannot be said. */
  readonly done: number | undefined;
  /** What is under way: a file's name. */
  readonly label: string;
  /** The rate, where it is another one than that of the unit. */
  readonly note?: string | undefined;
  /** Since the bar was first shown, and what was done then: of a download that goes on, what lay there. */
  readonly seconds: number;
  readonly first: number;
}

/** Before that nothing can be said of rates. */
const leastSeconds = 1;
const leastLabel = 8;

/** The line of a moment, in fewer columns than there are, so that the cursor stays on it. */
export function barLine({ unit, total }: Counted, moment: Moment, columns: number): string {
  const { done, label, note, seconds, first } = moment, most = columns - 1;
  const part = done === undefined || !total ? undefined : Math.min(1, done / total);
  const speed = done === undefined || seconds < leastSeconds ? 0 : (done - first) / seconds;
  const facts = [
    part !== undefined && bar(part, Math.max(8, Math.min(24, columns - 70))),
    part !== undefined && `${Math.floor(part * 100)}%`.padStart(4),
    done !== undefined && tellDone(unit, done, total),
    note ?? (speed > 0 && tellSpeed(unit, speed, total)),
    speed > 0 && part !== undefined && `${tellDuration((total! - done!) / speed)} left`,
  ].filter((fact) => typeof fact === "string" && fact !== "") as string[];
  while (facts.length > 0 && facts.join("  ").length > most) facts.shift(); // the bar says the least
  const line = facts.join("  "), room = most - line.length - (line ? 2 : 0);
  const name = room >= leastLabel ? tail(printable(label), room) : "";
  return [line, name].filter(Boolean).join("  ");
}

function bar(part: number, width: number): string {
  const full = Math.round(part * width);
  return `[${"#".repeat(full)}${".".repeat(width - full)}]`;
}

function tellDone(unit: Counted["unit"], done: number, total: number | undefined): string {
  if (unit === "bytes") return total === undefined ? tellBytes(done) : `${tellBytes(done)} of ${tellBytes(total)}`;
  return total === undefined || total === 1 ? "" : `${Math.min(total, Math.floor(done) + 1)}/${total}`;
}

function tellSpeed(unit: Counted["unit"], speed: number, total: number | undefined): string {
  if (unit === "bytes") return `${tellBytes(speed)}/s`;
  if (total === 1) return "";
  return speed < 1 ? `${(1 / speed).toPrecision(2)} s/file` : `${Number(speed.toPrecision(2))} files/s`;
}

/** Ten times a second: each line is shown long enough to be read, and a terminal far away keeps up. */
const leastPauseMs = 100;

export class Bar implements Disposable {
  readonly #counted: Counted;
  readonly #write: (text: string) => void;
  readonly #columns: () => number;
  readonly #now: () => number;
  #isShown = false;
  #drawnAt = -Infinity;
  #start: { readonly at: number; readonly done: number } | undefined;

  constructor(
    counted: Counted,
    write: (text: string) => void,
    columns: () => number,
    now: () => number = () => performance.now(),
  ) {
    this.#counted = counted;
    this.#write = write;
    this.#columns = columns;
    this.#now = now;
  }

  /** `done` in the bar's unit; undefined where that cannot be said. */
  update(done: number | undefined, label: string, note?: string): void {
    const now = this.#now();
    this.#start ??= { at: now, done: done ?? 0 };
    if (now - this.#drawnAt < leastPauseMs) return;
    const { at, done: first } = this.#start;
    const line = barLine(this.#counted, { done, label, note, seconds: (now - at) / 1000, first }, this.#columns());
    this.#write(`\r${line}\x1b[K`); // over the line before, which would flicker if it went first
    this.#drawnAt = now;
    this.#isShown = true;
  }

  /** Makes way for other lines; the next update shows it again. */
  clear(): void {
    if (this.#isShown) this.#write("\r\x1b[K");
    this.#isShown = false;
    this.#drawnAt = -Infinity;
  }

  [Symbol.dispose](): void {
    this.clear();
  }
}
