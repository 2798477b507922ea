/**
 * What the command line says and how it ends. Results go to stdout, as text or as JSON lines; failures to stderr, or to
 * stdout as JSON lines; a progress bar to stderr where that is a terminal. Keeps the exit code.
 */
import process from "node:process";
import { messageOf, TokenizerError } from "../../mod.ts";

export const exitCodes = { done: 0, failed: 1, usage: 2, model: 3, interrupted: 130 } as const;

/** A failure that ends with an exit code of its own. */
export class Failure extends Error {
  readonly exitCode: number;
  readonly code: string;
  /** What was done nevertheless, for machines. */
  readonly facts: object;

  constructor(exitCode: number, code: string, message: string, cause?: unknown, facts: object = {}) {
    super(message, { cause });
    this.exitCode = exitCode;
    this.code = code;
    this.facts = facts;
  }
}

/** How far a file is: the part that is done, 0 to 1, undefined where the whole is not known; and what else to show. */
export type Progress = (part: number | undefined, note?: string) => void;

export interface ReportOptions {
  readonly json?: boolean | undefined;
  readonly quiet?: boolean | undefined;
  readonly stack?: boolean | undefined;
}

const barWidth = 24;

export class Report {
  exitCode: number = exitCodes.done;
  readonly #options: ReportOptions;
  #isBarShown = false;

  constructor(options: ReportOptions) {
    this.#options = options;
  }

  /** A result: `facts` for machines, `text` for people. */
  result(facts: object, text: string): void {
    this.#clearBar();
    if (this.#options.json) this.print(JSON.stringify(facts) + "\n");
    else if (!this.#options.quiet) this.print(text + "\n");
  }

  /** A failure, of one file or (without `file`) of everything. The highest exit code stays. */
  failure(error: unknown, file?: string): void {
    this.#clearBar();
    const code = error instanceof Failure || error instanceof TokenizerError ? error.code : "INTERNAL";
    const said = messageOf(error), message = file === undefined || said.includes(file) ? said : `${file}: ${said}`;
    this.exitCode = Math.max(this.exitCode, error instanceof Failure ? error.exitCode : exitCodes.failed);
    const facts = error instanceof Failure ? error.facts : {};
    if (this.#options.json) this.print(JSON.stringify({ ...facts, file, ok: false, code, message }) + "\n");
    else process.stderr.write(`ctok: ${message}\n`);
    const origin = error instanceof Failure && error.cause ? error.cause : error;
    if (this.#options.stack && origin instanceof Error) process.stderr.write(`${origin.stack}\n`);
  }

  print(text: string): void {
    try {
      process.stdout.write(text);
    } catch (error) {
      this.unwritable(error); // Note: Deno throws for files, and sends an event for pipes; Bun sends events
    }
  }

  /** stdout takes no more, which can be told on stderr only. A reader that left (`| head`) is no failure: the work goes on. */
  unwritable(error: unknown): void {
    if ((error as { code?: string }).code === "EPIPE") return;
    process.stderr.write(`ctok: stdout: ${messageOf(error)}\n`);
    process.exitCode = this.exitCode = Math.max(this.exitCode, exitCodes.failed);
  }

  /** What was done in all, for people who watch. */
  summary(text: string): void {
    this.#clearBar();
    if (!this.#options.json && !this.#options.quiet) process.stderr.write(text + "\n");
  }

  /** A callback that draws the bar. Undefined when nobody watches. */
  progress(label: string): Progress | undefined {
    if (!process.stderr.isTTY || this.#options.quiet) return undefined;
    return (part, note) => {
      const full = Math.round((part ?? 0) * barWidth);
      const bar = `[${"#".repeat(full)}${".".repeat(barWidth - full)}] ${String(Math.round(part! * 100)).padStart(3)}%`;
      const line = [...(part === undefined ? [] : [bar]), ...(note ? [note] : []), label].join(" ");
      process.stderr.write(`\r\x1b[K${line.slice(0, (process.stderr.columns || 80) - 1)}`);
      this.#isBarShown = true;
    };
  }

  #clearBar(): void {
    if (this.#isBarShown) process.stderr.write("\r\x1b[K");
    this.#isBarShown = false;
  }
}
