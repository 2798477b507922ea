/**
 * What the REPL writes: pictures in the way that the terminal has, progress of long work, values in few lines. Progress
 * goes to stderr, and only where that is a terminal; everything else to stdout.
 */
import { inspect } from "node:util";
import * as ctok from "../mod.ts";
import { detectGraphics, drawPicture, type Graphics, printable } from "../mod.ts";
import { pictureOf } from "./values.ts";

const { process } = globalThis;

type Progress = (part: number) => void;

export class Screen {
  readonly graphics: Graphics;
  readonly #drawn = new WeakSet<object>();

  constructor(graphics: Graphics = detectGraphics(process.env, process.stdout.isTTY === true)) {
    this.graphics = graphics;
  }

  get columns(): number {
    return Math.min(process.stdout.columns || 80, 120);
  }

  print(text: string): void {
    process.stdout.write(text.endsWith("\n") ? text : text + "\n");
  }

  async draw(picture: ctok.Tensor<"uint8">): Promise<void> {
    this.#drawn.add(picture);
    process.stdout.write(await drawPicture(picture, this.graphics, this.columns));
  }

  /**
   * Runs `work`; after half a second, and where stderr is a terminal, shows how far it is, until it ends or `signal`
   * fires: the prompt that follows an interruption comes before the work has ended.
   */
  async during<T>(what: string, signal: AbortSignal, work: (onProgress: Progress) => Promise<T>): Promise<T> {
    const start = performance.now();
    let isShown = false;
    const clear = () => {
      if (isShown) process.stderr.write("\r\x1b[K");
      isShown = false;
    };
    signal.addEventListener("abort", clear);
    try {
      return await work((part) => {
        if (signal.aborted || !process.stderr.isTTY || performance.now() - start < 500) return;
        isShown = true;
        process.stderr.write(`\r\x1b[K${what} ${Math.round(part * 100)} %`);
      });
    } finally {
      signal.removeEventListener("abort", clear);
      clear();
    }
  }

  /** Draws frames over each other at `fps`; without a terminal that could, draws their contact sheet. */
  async play(frames: readonly ctok.Tensor<"uint8">[], fps: number, signal: AbortSignal): Promise<void> {
    if (this.graphics === "none" || !process.stdout.isTTY) {
      return await this.draw(ctok.contactSheet([frames.slice(0, 4)]));
    }
    for (const frame of frames) {
      const next = performance.now() + 1000 / fps, text = await drawPicture(frame, this.graphics, this.columns);
      // Back to where the frame before began: half-blocks are lines to count, the others leave the cursor to be
      // restored.
      const isLast = frame === frames.at(-1), lines = text.split("\n").length - 1;
      process.stdout.write(this.graphics === "blocks" ? text : `\x1b7${text}`);
      await new Promise((resolve) => setTimeout(resolve, Math.max(0, next - performance.now())));
      if (signal.aborted || isLast) return;
      process.stdout.write(this.graphics === "blocks" ? `\x1b[${lines}A` : "\x1b8");
    }
  }

  /** A result: what it is, and of tokens and tensors a small picture (not twice of what show has just drawn). */
  async value(value: unknown): Promise<void> {
    if (value === undefined) return;
    this.print(textOf(value, process.stdout.isTTY === true));
    const isSeen = value instanceof ctok.Tokens || value instanceof ctok.Tensor;
    if (!isSeen || this.#drawn.has(value) || this.graphics === "none") return;
    const picture = pictureOf(value), [height = 0, width = 0] = picture.shape.slice(-3);
    const small = Math.max(1, Math.ceil(Math.max(height, width) / 160));
    const preview = small === 1 ? picture : ctok.contactSheet([[picture]], { shrink: small });
    process.stdout.write(await drawPicture(preview, this.graphics, Math.min(40, this.columns)));
  }
}

/** A value as text. Where it holds what a terminal would obey, that is shown escaped and the colours are left out. */
function textOf(value: unknown, colors: boolean): string {
  if (value instanceof Error && printable(value.message) !== value.message) return sayFailure(value);
  const options = { maxArrayLength: 8, depth: 3 }, plain = inspect(value, options), safe = printableLines(plain);
  return safe === plain ? inspect(value, { ...options, colors }) : safe;
}

/** What was thrown, in text that a terminal may show. */
export function sayFailure(error: unknown): string {
  if (error instanceof ctok.TokenizerError) return printable(`${error.code}: ${error.message}`);
  if (error instanceof SyntaxError) return printable(`SyntaxError: ${error.message}`);
  if (!(error instanceof Error)) return printableLines(`thrown: ${inspect(error)}`);
  // The message's own lines would look like others.
  const frames = (error.stack ?? "").replace(error.message, "").split("\n").filter((line) => /^\s+at /.test(line));
  return [`${error.name}: ${error.message}`, ...frames].map(printable).join("\n");
}

function printableLines(text: string): string {
  return text.split("\n").map(printable).join("\n");
}
