/**
 * Help: the short one of all commands, and a command's own, from the tables of commands and options, in the width of
 * the terminal (80 columns where there is none). `ctok help`, `ctok help COMMAND` and --help print it to stdout, `ctok`
 * alone to stderr.
 */
import { suggestion } from "../mod.ts";
import { type Command, usage } from "./args.ts";
import { globalOptions, groups, type Option, type OptionName, options } from "./options.ts";
import { columnsOf, type Stream, styled, wrap } from "./screen.ts";
import { version } from "./version.ts";

export function helpCommand(commands: () => readonly Command[]): Command {
  return {
    name: "help",
    usage: "[COMMAND]",
    about: "print this, or what a command takes",
    examples: [{ line: "ctok help encode", about: "the options of encode" }],
    accepts: [],
    get takes() {
      return commands().map(({ name }) => name);
    },
    run({ inputs: [name, ...more] }, report) {
      const command = commands().find((c) => c.name === name), names = commands().map((c) => c.name);
      if (more.length > 0) throw usage(`expected at most one command, found ${more.length + 1}`);
      if (name !== undefined && !command) throw usage(`unknown command ${name}${suggestion(name, names)}`);
      report.print(command ? commandHelp(command, "stdout") : help(commands(), "stdout"));
      return Promise.resolve();
    },
  };
}

export function help(commands: readonly Command[], stream: Stream): string {
  const page = new Page(stream);
  page.text(`ctok ${version()}: images and videos to visual tokens and back`);
  page.gap();
  page.text("ctok COMMAND [OPTIONS] FILE…");
  page.heading("Commands");
  page.rows(commands.map(({ name, about }) => [name, about]));
  page.heading("Options everywhere");
  page.rows(globalOptions.map(optionRow));
  page.heading("Environment");
  page.rows([
    ...Object.entries(options).flatMap(([name, { env }]: [string, Option]): Row[] => {
      return env === undefined ? [] : [[env, `as --${name}, where that is not given`]];
    }),
    ["NO_COLOR", "no colours; FORCE_COLOR: colours also where no terminal is"],
    ["CTOK_TRACE", "a file that takes a trace of every step of every job, for ui.perfetto.dev and ctok trace"],
    ["CTOK_FFMPEG", "the FFmpeg for videos, CTOK_FFPROBE its ffprobe; else those on the PATH"],
  ]);
  page.heading("Exit codes");
  page.rows([
    ["0", "all done"],
    ["1", "some files failed; the others are done"],
    ["2", "wrong usage; nothing was done"],
    ["3", "a model or the native library could not be opened"],
    ["129, 130, 143", "interrupted by SIGHUP, Ctrl-C or SIGTERM; what was finished stays"],
  ]);
  page.gap();
  page.text("Files appear whole or not at all. Sizes are told as width x height, of pictures and of grids of tokens.");
  page.text("ctok help COMMAND has a command's options and examples; docs/cli.md all of it on one page.");
  return page.print();
}

export function commandHelp(command: Command, stream: Stream): string {
  const { name, usage, about, details, examples, exits, accepts, takesRest } = command;
  const page = new Page(stream);
  page.text(takesRest ? `ctok ${name} [OPTIONS] ${usage}` : `ctok ${name} ${usage} [OPTIONS]`);
  page.gap();
  page.text(`${about[0]!.toUpperCase()}${about.slice(1)}.${details ? ` ${details}` : ""}`);
  page.heading("Examples");
  for (const example of examples) page.example(example.line, example.about);
  const names = Object.keys(options).filter((name) =>
    [...accepts, ...globalOptions].includes(name as OptionName)
  ) as OptionName[];
  const width = widthOf(names.map(optionRow)); // of all groups, so that their columns are one
  for (const group of groups) {
    const rows = names.filter((name) => options[name].group === group).map(optionRow);
    if (rows.length === 0) continue;
    page.heading(group);
    page.rows(rows, width);
  }
  if (exits) {
    page.heading("Exit codes");
    page.rows(exits);
  }
  return page.print();
}

type Row = readonly [term: string, about: string];

function optionRow(name: OptionName): Row {
  const { short, value, about, choices, env }: Option = options[name];
  const term = `${short ? `-${short}, ` : "    "}--${name}${value ? ` ${value}` : ""}`;
  const isTold = choices?.every((choice) => about.includes(choice)) ?? true;
  return [
    term,
    [about, !isTold && `one of ${choices!.join(", ")}`, env && `or set ${env}`].filter(Boolean).join("; "),
  ];
}

const widthOf = (rows: readonly Row[]) => Math.min(Math.max(...rows.map(([term]) => term.length)), mostTerm);

const mostTerm = 24;
/** Wider, lines are hard to read. */
const mostColumns = 100;
/** The least width of the right column; a narrower one goes below the left. */
const leastColumn = 36;

class Page {
  readonly #stream: Stream;
  readonly #columns: number;
  readonly #lines: string[] = [];

  constructor(stream: Stream) {
    this.#stream = stream;
    this.#columns = Math.min(columnsOf(stream), mostColumns);
  }

  gap(): void {
    this.#lines.push("");
  }

  text(text: string): void {
    this.#lines.push(...wrap(text, this.#columns));
  }

  heading(text: string): void {
    this.#lines.push("", styled("bold", text, this.#stream));
  }

  /** A command line as it is, so that it can be copied, and what it does below it. */
  example(line: string, about: string): void {
    this.#lines.push(`  ${line}`, ...this.#below(about).map((text) => styled("dim", text, this.#stream)));
  }

  /** Two columns, or one above the other where there is no room for both; a long term has a line of its own. */
  rows(rows: readonly Row[], width = widthOf(rows)): void {
    const indent = 2 + width + 2;
    for (const [term, about] of rows) {
      if (this.#columns - indent < leastColumn) {
        this.#lines.push(`  ${term}`, ...this.#below(about));
        continue;
      }
      const lines = wrap(about, this.#columns - indent).map((line) => " ".repeat(indent) + line);
      if (term.length > width) this.#lines.push(`  ${term}`, ...lines);
      else this.#lines.push(`  ${term.padEnd(width)}  ${lines[0]!.trimStart()}`, ...lines.slice(1));
    }
  }

  #below(about: string): string[] {
    return wrap(about, this.#columns - 8).map((line) => " ".repeat(8) + line);
  }

  print(): string {
    return this.#lines.join("\n") + "\n";
  }
}
