/**
 * Arguments: what a command is, and from the words of a command line to its values. Every option is declared once, in
 * options.ts; a command names those it accepts. A wrong option fails before any work, with exit code 2 and what was
 * expected. Where an option is not given its environment variable counts. Called by main.ts.
 */
import { parseArgs } from "node:util";
import { suggestion } from "../mod.ts";
import { globalOptions, type Option, type OptionName, options, type OptionValues } from "./options.ts";
import { exitCodes, Failure, type Report } from "./report.ts";

const { process } = globalThis;

/** The options, checked, and what followed the command's name. */
export interface Args extends OptionValues {
  readonly inputs: readonly string[];
  /** Of a command that `takesRest`: what followed its first argument, as it is. */
  readonly rest: readonly string[];
  /** Options whose values come from the environment, with the variable's name. */
  readonly fromEnvironment: Readonly<Partial<Record<OptionName, string>>>;
}

export interface Example {
  /**
   * As it is typed; it runs as it stands where the files are, which a test holds (tests/cli/help.test.ts has the
   * files).
   */
  readonly line: string;
  readonly about: string;
}

export interface Command {
  readonly name: string;
  /** What follows the name, as help shows it. */
  readonly usage: string;
  /** One line, for the list of commands. */
  readonly about: string;
  /** More to know, for the command's own help. */
  readonly details?: string;
  readonly examples: readonly Example[];
  /**
   * Its own exit codes and what they mean, where they are not those of all commands; that of SIGTERM, where it is not
   * 143.
   */
  readonly exits?: readonly (readonly [code: string, about: string])[];
  readonly terminated?: number;
  readonly accepts: readonly OptionName[];
  /** What its arguments are, for completion: files unless given. */
  readonly takes?: "files" | "models" | "nothing" | readonly string[];
  /** Whether what follows the first argument is that one's own, as of a script. */
  readonly takesRest?: boolean;
  run(args: Args, report: Report, signal: AbortSignal): Promise<void>;
}

const table = Object.fromEntries(
  Object.entries(options).map(([name, option]: [string, Option]) => {
    const type = option.value === undefined ? "boolean" : "string";
    return [name, { type, ...(option.short && { short: option.short }) }] as const;
  }),
);

const tokensOf = (argv: readonly string[]) => {
  return parseArgs({ args: [...argv], options: table, strict: false, tokens: true }).tokens;
};

export interface Words {
  /** The first argument that is no option: what should be a command. */
  readonly name: string | undefined;
  /** The command line, but for `rest`. */
  readonly own: readonly string[];
  readonly rest: readonly string[];
}

export function splitWords(argv: readonly string[], commands: readonly Command[]): Words {
  const [name, first] = tokensOf(argv).filter((token) => token.kind === "positional");
  const isCut = commands.some((command) => command.takesRest && command.name === name?.value);
  const end = isCut && first ? first.index + 1 : argv.length;
  return { name: name?.value, own: argv.slice(0, end), rest: argv.slice(end) };
}

/**
 * The values of a command line. Throws a usage failure at an option that is unknown, not the command's, given twice,
 * without its value, or with a wrong one, in the environment too.
 */
export function parseArguments(
  { own, rest }: Words,
  accepts: readonly OptionName[],
  env: Readonly<Record<string, string | undefined>> = process.env,
): Args {
  const known = [...accepts, ...globalOptions], values: Record<string, unknown> = {}, inputs: string[] = [];
  for (const token of tokensOf(own)) {
    if (token.kind === "positional") inputs.push(token.value);
    if (token.kind !== "option") continue;
    const { name, rawName, value, inlineValue } = token;
    const option: Option | undefined = known.includes(name as OptionName) ? options[name as OptionName] : undefined;
    const isOthers = Object.hasOwn(options, name);
    if (!option) {
      throw usage(
        `unknown option ${rawName}${isOthers ? ", which other commands have" : suggestion(name, known, "--")}`,
      );
    }
    // Note: a file named --out=x among those that the shell's * gives is an option, too.
    if (Object.hasOwn(values, name)) throw usage(`${rawName}: expected it once, found it twice`);
    if (option.value === undefined) {
      if (value !== undefined) throw usage(`${rawName}: expected no value, found "${value}"`);
      values[name] = true;
      continue;
    }
    const isShort = !rawName.startsWith("--"), { wanted = "a value" } = option;
    if (!value) throw usage(`${rawName}: expected ${wanted}, found none`);
    if (isShort && inlineValue && value.startsWith("=")) {
      throw usage(`${rawName}: expected ${wanted} after a space, or --${name}${value}, found ${rawName}${value}`);
    }
    if (!inlineValue && value.startsWith("-") && value !== "-") {
      throw usage(`${rawName}: expected ${wanted}, found ${value} (--${name}=${value} forces it)`);
    }
    values[name] = read(rawName, option, value);
  }
  const isRun = !values.help && !values.version, fromEnvironment: Partial<Record<OptionName, string>> = {};
  for (const name of isRun ? known : []) {
    const option: Option = options[name], text = option.env && env[option.env];
    if (!text || Object.hasOwn(values, name)) continue;
    values[name] = read(option.env, option, text);
    fromEnvironment[name] = option.env;
  }
  return { ...values, inputs: inputs.slice(1), rest, fromEnvironment }; // all checked by the table
}

function read(called: string, { read, wanted }: Option, text: string): unknown {
  const value = read ? read(text) : text;
  if (value === undefined) throw usage(`${called}: expected ${wanted}, found ${text}`);
  return value;
}

export function required(value: string | undefined, option: OptionName): string {
  if (value === undefined) throw usage(`expected --${option} ${(options[option] as Option).value}, found none`);
  return value;
}

export function usage(message: string): Failure {
  return new Failure(exitCodes.usage, "USAGE", `${message}; see ctok --help`);
}
