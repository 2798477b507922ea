#!/usr/bin/env bun
/**
 * ctok, the command line: finds the command, prints help, turns Ctrl-C into an AbortSignal and failures into exit codes.
 * Runs on Bun as it is, on Deno by `deno run -A cli/main.ts`, and packed on Node. Nothing opens the native library before a model is needed.
 */
import { readFileSync } from "node:fs";
import { constants } from "node:os";
import process from "node:process";
import {
  type Command,
  commandName,
  globalOptions,
  type OptionName,
  options,
  parseArguments,
  suggestion,
  usage,
} from "./args.ts";
import { autoencodeCommand } from "./autoencode.ts";
import { convertCommand } from "./convert.ts";
import { decodeCommand } from "./decode.ts";
import { encodeCommand } from "./encode.ts";
import { infoCommand } from "./info.ts";
import { replCommand, runCommand } from "./repl.ts";
import { Failure, Report } from "./report.ts";
import { version } from "./version.ts";

const commands: readonly Command[] = [
  encodeCommand,
  decodeCommand,
  autoencodeCommand,
  infoCommand,
  convertCommand,
  replCommand,
  runCommand,
];

async function main(argv: readonly string[]): Promise<number> {
  let report = new Report({ json: argv.includes("--json"), stack: argv.includes("--stack") }); // until the arguments are known
  const abort = new AbortController();
  let interruption = 0;
  const isIgnored = isHangupIgnored(); // Note: before the first handler, with which Deno takes SIGHUP, too
  for (const name of ["SIGINT", "SIGTERM", "SIGHUP"] as const) {
    const interrupt = () => {
      if (name === "SIGHUP" && isIgnored) return;
      process.removeListener(name, interrupt); // a second one ends the process at once
      interruption ||= 128 + constants.signals[name];
      abort.abort();
    };
    process.on(name, interrupt);
  }
  process.stdout.on("error", (error) => report.unwritable(error));
  try {
    const name = commandName(argv), command = commands.find((c) => c.name === name);
    if (name !== undefined && !command) {
      throw usage(`unknown command ${name}${suggestion(name, commands.map((c) => c.name))}`);
    }
    const args = parseArguments(argv, command?.accepts ?? []);
    report = new Report(args);
    if (args.version) report.print(version() + "\n");
    else if (args.help) report.print(command ? commandHelp(command) : help());
    else if (command) await command.run(args, report, abort.signal);
    else throw usage("expected a command, found none");
  } catch (error) {
    // With --keep-partial the error says what was kept.
    const kept = error instanceof Failure && "isPartial" in error.facts ? error : undefined;
    const interrupted = new Failure(interruption, "CANCELLED", kept?.message ?? "interrupted", kept?.cause, kept?.facts);
    report.failure(abort.signal.aborted ? interrupted : error);
  }
  return report.exitCode;
}

/** nohup starts a program so, and a handler would undo it. */
function isHangupIgnored(): boolean {
  try {
    const mask = /^SigIgn:\s*([0-9a-f]+)/m.exec(readFileSync("/proc/self/status", "utf8"))![1]!;
    return (BigInt(`0x${mask}`) >> BigInt(constants.signals.SIGHUP - 1)) % 2n === 1n;
  } catch { // not Linux, or not allowed to look
    return false;
  }
}

function help(): string {
  const width = Math.max(...commands.map((c) => `${c.name} ${c.usage}`.length));
  return `ctok ${version()}: images and videos to Cosmos tokens and back

${commands.map((c) => `  ctok ${`${c.name} ${c.usage}`.padEnd(width)}  ${c.about}`).join("\n")}

Options of the commands (ctok COMMAND --help lists those of one)
${optionLines((Object.keys(options) as OptionName[]).filter((name) => !(globalOptions as readonly string[]).includes(name)))}

Options everywhere
${optionLines(globalOptions)}

A bad file is reported and the others are still done. Files appear whole or not at all.

Exit codes
  0    all done
  1    some files failed
  2    wrong usage; nothing was done
  3    a model or the native library could not be opened
  129, 130, 143
       interrupted by SIGHUP, Ctrl-C or SIGTERM; what was finished stays
`;
}

function commandHelp({ name, usage, about, accepts }: Command): string {
  return `ctok ${name} ${usage}: ${about}\n\n${optionLines([...accepts, ...globalOptions])}\n`;
}

function optionLines(names: readonly OptionName[]): string {
  const rows = names.map((name) => {
    const option: { value?: string; about: string; choices?: readonly string[] } = options[name];
    const choices = option.choices ? ` (${option.choices.join(", ")})` : "";
    return [`--${name}${option.value ? ` ${option.value}` : ""}`, option.about + choices] as const;
  });
  const width = Math.max(...rows.map(([option]) => option.length));
  return rows.map(([option, about]) => `  ${option.padEnd(width)}  ${about}`).join("\n");
}

const code = process.exitCode = await main(process.argv.slice(2));
// Interrupted while standard input says nothing, Deno would wait for it.
if (code > 128) process.stdout.write("", () => process.stderr.write("", () => process.exit(code)));
