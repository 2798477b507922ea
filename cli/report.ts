/**
 * What the command line says and how it ends. Results go to stdout, as text or as JSON lines, but to stderr where
 * stdout takes the result itself; failures to stderr, or as JSON lines with the results; a progress bar to stderr where
 * that is a terminal. All of it is made safe for a terminal here, once: texts hold names and words from files. Keeps
 * the exit code.
 */
import { messageOf, printable, TokenizerError } from "../mod.ts";
import { Bar, type Counted } from "./progress.ts";
import { columnsOf, styled } from "./screen.ts";

const { process } = globalThis;

/**
 * An interruption ends with 128 and the signal's number: 129 SIGHUP, 130 SIGINT, 143 SIGTERM; but for a command's own
 * code after SIGTERM. 75 is EX_TEMPFAIL of sysexits.h.
 */
export const exitCodes = { done: 0, failed: 1, usage: 2, model: 3, tryAgain: 75 } as const;

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

export interface ReportOptions {
  readonly json?: boolean | undefined;
  readonly quiet?: boolean | undefined;
  readonly stack?: boolean | undefined;
  /** Where the result goes; "-": stdout is taken. */
  readonly out?: string | undefined;
}

export class Report {
  exitCode: number = exitCodes.done;
  readonly #options: ReportOptions;
  /** Of the run, and of a download within it. */
  readonly #bars = new Set<Bar>();

  constructor(options: ReportOptions) {
    this.#options = options;
  }

  /** A file that is done, or would be: `facts` for machines; for people its names, and `details` of it. */
  done(
    facts: { readonly file: string; readonly out: string; readonly [fact: string]: unknown },
    details: string,
  ): void {
    const { file, out } = facts, stream = this.#options.out === "-" ? "stderr" : "stdout";
    this.#result(facts, [`${printable(`${file} -> ${out}:`)} ${styled("dim", printable(details), stream)}`]);
  }

  /** Another result: `facts` for machines, `text` for people, of one line or more. */
  result(facts: object, ...text: string[]): void {
    this.#result(facts, text.map(printable));
  }

  #result(facts: object, safe: readonly string[]): void {
    this.#clearBars();
    if (this.#options.json) this.#line(jsonOf(facts));
    else if (!this.#options.quiet) { for (const line of safe) this.#line(line); }
  }

  /** A failure, of one file or (without one) of everything. The highest exit code stays. */
  failure(error: unknown, io?: { file: string; path: string; out: string; target: string }): void {
    this.#clearBars();
    const code = error instanceof Failure || error instanceof TokenizerError ? error.code : "INTERNAL";
    // What came through a pipe was read, and what goes to one was made, elsewhere.
    const called = (text: string) =>
      io ? text.replaceAll(io.path, () => io.file).replaceAll(io.target, () => io.out) : text;
    const said = called(messageOf(error)), file = io?.file;
    const message = file === undefined || said.includes(file) ? said : `${file}: ${said}`;
    this.exitCode = Math.max(this.exitCode, error instanceof Failure ? error.exitCode : exitCodes.failed);
    const facts = error instanceof Failure ? error.facts : {};
    if (this.#options.json) {
      this.#line(jsonOf({ ...facts, ...(file !== undefined && { file }), ok: false, code, message }));
    } else this.#say(message, "red");
    const origin = error instanceof Failure && error.cause ? error.cause : error;
    if (!this.#options.stack || !(origin instanceof Error)) return;
    const stack = (origin.stack ?? "").replace(origin.message, () => printable(origin.message));
    const coded = origin instanceof TokenizerError ? stack.replace(/^\w+(?=:)/, `$& [${origin.code}]`) : stack;
    for (const line of coded.split("\n")) {
      process.stderr.write(printable(line) + "\n");
    }
  }

  /** What people should know of a file that is done. */
  warning(text: string): void {
    this.#clearBars();
    if (!this.#options.json && !this.#options.quiet) this.#say(text, "yellow");
  }

  #say(text: string, colour: "red" | "yellow"): void {
    process.stderr.write(`${styled(colour, "ctok:", "stderr")} ${printable(text)}\n`);
  }

  #line(safe: string): void {
    if (this.#options.out === "-") process.stderr.write(safe + "\n");
    else this.print(safe + "\n");
  }

  /** Text of ours, as it is. */
  print(text: string): void {
    try {
      process.stdout.write(text);
    } catch (error) {
      this.unwritable(error); // Note: Deno throws for files, and sends an event for pipes; Bun sends events
    }
  }

  /**
   * stdout takes no more, which can be told on stderr only. A reader that left (`| head`) is no failure: the work goes
   * on.
   */
  unwritable(error: unknown): void {
    if ((error as { code?: string }).code === "EPIPE") return;
    this.#say(`stdout: ${messageOf(error)}`, "red");
    process.exitCode = this.exitCode = Math.max(this.exitCode, exitCodes.failed);
  }

  /** What was done in all, for people who watch. */
  summary(text: string): void {
    this.#clearBars();
    if (!this.#options.json && !this.#options.quiet) process.stderr.write(text + "\n");
  }

  /** The bar of what is counted, to be told how far it is and disposed of at the end. Undefined when nobody watches. */
  progress(counted: Counted): Bar | undefined {
    if (!process.stderr.isTTY || this.#options.quiet) return undefined;
    const bar = new Bar(counted, (text) => process.stderr.write(text), () => columnsOf("stderr"));
    this.#bars.add(bar);
    return bar;
  }

  #clearBars(): void {
    for (const bar of this.#bars) bar.clear();
  }
}

/** JSON on one line, what could move a terminal's cursor escaped as JSON does. */
function jsonOf(facts: object): string {
  return JSON.stringify(facts).replace(/[\p{Cc}\p{Cs}\p{Cf}\u2028\u2029]/gu, (c) => {
    return Array.from(c, (_, i) => `\\u${c.charCodeAt(i).toString(16).padStart(4, "0")}`).join("");
  });
}
