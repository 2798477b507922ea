#!/usr/bin/env bun
/**
 * ctok, the command line: finds the command, turns Ctrl-C into an AbortSignal and failures into exit codes. Runs on Bun
 * as it is, on Deno by `deno run -A cli/main.ts`, and packed on Node. Nothing opens the native library before a model
 * is needed.
 */
import { readFileSync } from "node:fs";
import { constants } from "node:os";
import { suggestion } from "../mod.ts";
import { parseArguments, splitWords, usage } from "./args.ts";
import { commands } from "./commands.ts";
import { commandHelp, help } from "./help.ts";
import { exitCodes, Failure, Report } from "./report.ts";
import { version } from "./version.ts";

const { process } = globalThis;

async function main(argv: readonly string[]): Promise<number> {
  const words = splitWords(argv, commands), { own, name } = words, command = commands.find((c) => c.name === name);
  // What reports until the arguments are known.
  let report = new Report({ json: own.includes("--json"), stack: own.includes("--stack") });
  const abort = new AbortController();
  let interruption = 0;
  const isIgnored = isHangupIgnored(); // Note: before the first handler, with which Deno takes SIGHUP, too
  for (const signal of ["SIGINT", "SIGTERM", "SIGHUP"] as const) {
    const interrupt = () => {
      if (signal === "SIGHUP" && isIgnored) return;
      process.removeListener(signal, interrupt); // a second one ends the process at once
      interruption ||= signal === "SIGTERM" && command?.terminated || 128 + constants.signals[signal];
      abort.abort();
    };
    process.on(signal, interrupt);
  }
  process.stdout.on("error", (error) => report.unwritable(error));
  try {
    if (name !== undefined && !command) {
      throw usage(`unknown command ${name}${suggestion(name, commands.map((c) => c.name))}`);
    }
    const args = parseArguments(words, command?.accepts ?? []);
    report = new Report(args);
    if (args.version) report.print(version() + "\n");
    else if (args.help) report.print(command ? commandHelp(command, "stdout") : help(commands, "stdout"));
    else if (command) await command.run(args, report, abort.signal);
    else {
      if (!args.json) process.stderr.write(`${help(commands, "stderr")}\n`);
      throw usage("expected a command, found none");
    }
  } catch (error) {
    // With --keep-partial the error says what was kept.
    const kept = error instanceof Failure && "isPartial" in error.facts ? error : undefined;
    const interrupted = new Failure(
      interruption,
      "CANCELLED",
      kept?.message ?? "interrupted",
      kept?.cause,
      kept?.facts,
    );
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

// Note: not set, by its own rule (no-color.org); Node takes it for set.
if (process.env.NO_COLOR === "") delete process.env.NO_COLOR;
const code = process.exitCode = await main(process.argv.slice(2));
// Interrupted while standard input says nothing, Deno would wait for it.
if (code > 128 || code === exitCodes.tryAgain) {
  process.stdout.write("", () => process.stderr.write("", () => process.exit(code)));
}
