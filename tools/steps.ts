/**
 * The steps of a build: a command that makes one file of others. A step is done again when its file is gone, its
 * command is another, or something that it read has changed since it began. What it read the compiler tells (-MMD), so
 * a comment in one header compiles again what includes it and nothing else. Beside the objects lies a record of each
 * step: its command, its beginning, what it read. Steps run as soon as what they need is made, JOBS at a time. Called
 * by build.ts, library.ts, cuda.ts and programs.ts. Paths are from the root, where commands run. Limit: a compiler that
 * changed under the same name is not noticed.
 */
import { spawn } from "node:child_process";
import { existsSync, mkdirSync, readFileSync, renameSync, rmSync, statSync, writeFileSync } from "node:fs";
import { availableParallelism } from "node:os";
import { dirname, join, normalize, resolve } from "node:path";
import process from "node:process";
import { out, root } from "./settings.ts";

export interface Step {
  /** The file that it makes. */
  readonly output: string;
  /** The program and its arguments, but for the file that it makes. */
  readonly command: readonly string[];
  /** Files that it is known to read. */
  readonly inputs: readonly string[];
  /** The one file that it compiles, whose headers the compiler tells; undefined where it links. */
  readonly source?: string;
  /**
   * Looks at what the command printed, and throws where that is bad. What is printed is shown where there is no such
   * look.
   */
  readonly check?: (log: string) => void;
}

interface StepRecord {
  readonly command: readonly string[];
  /** Milliseconds since 1970. */
  readonly began: number;
  readonly inputs: readonly string[];
}

/** Compiles one file. */
export const compileStep = (output: string, source: string, command: readonly string[]): Step => ({
  output,
  command: [...command, "-c", source],
  inputs: [source],
  source,
});

/** Links objects, which are among the arguments. */
export const linkStep = (output: string, command: readonly string[]): Step => ({
  output,
  command,
  inputs: command.slice(1).filter((argument) => /\.(o|a)$/.test(argument)),
});

// ---------------------------------------------------------------- what is stale
const recordOf = ({ output }: Step) =>
  join(out, "objects", `${output.slice(out.length + 1).replaceAll("/", "-")}.json`);

function readRecord(step: Step): StepRecord | undefined {
  try {
    return JSON.parse(readFileSync(resolve(root, recordOf(step)), "utf8"));
  } catch {
    return undefined; // never made, or cut off
  }
}

/** Why the step is to be done, or undefined. `made`: files that steps before it make, in a build that only tells. */
export function reasonFor(step: Step, made: ReadonlySet<string> = new Set()): string | undefined {
  const record = readRecord(step);
  if (!existsSync(resolve(root, step.output))) return "it is not there";
  if (!record) return "there is no record of how it was made";
  if (record.command.join("\0") !== step.command.join("\0")) return "its command is another";
  for (const input of record.inputs) {
    const found = statSync(resolve(root, input), { throwIfNoEntry: false });
    if (!found) return `${input} is gone`;
    if (made.has(input) || found.mtimeMs > record.began) return `${input} changed`;
  }
  return undefined;
}

/** What `steps`, in an order in which they could be done, would make, and why: a line each. */
export function tellSteps(steps: readonly Step[]): string[] {
  const made = new Set<string>();
  return steps.flatMap((step) => {
    const reason = reasonFor(step, made);
    if (reason === undefined) return [];
    made.add(step.output);
    return [`${step.output}: ${reason}`];
  });
}

/** The files of a rule "target: file file \", as -MMD writes them. */
export function filesOfRule(rule: string): string[] {
  const list = rule.replace(/\\\n/g, " ").replace(/^(\\ |\S)+?\s*:\s/, ""); // nvcc writes "target : file"
  return (list.match(/(\\ |\S)+/g) ?? []).map((name) => normalize(name.replaceAll("\\ ", " ")));
}

// ---------------------------------------------------------------- doing them
const jobs = Math.max(1, Number(process.env.JOBS ?? availableParallelism()));
const waiting: (() => void)[] = [];
let numFree = jobs;

async function inTurn<T>(work: () => Promise<T>): Promise<T> {
  if (numFree > 0) numFree--;
  else await new Promise<void>((resolve) => waiting.push(resolve));
  try {
    return await work();
  } finally {
    const next = waiting.shift();
    if (next) next();
    else numFree++;
  }
}

/** What a command printed, once it has ended well. */
function capture([program, ...args]: readonly string[]): Promise<string> {
  return new Promise((resolve, reject) => {
    let log = "";
    const child = spawn(program!, args, { cwd: root, stdio: ["ignore", "pipe", "pipe"] });
    for (const stream of [child.stdout, child.stderr]) stream.setEncoding("utf8").on("data", (part) => log += part);
    child.on(
      "error",
      (error) => reject(new Error(`${program}: ${error.message}. A C compiler is needed (apt-get install gcc)`)),
    );
    child.on("close", (code, signal) => {
      if (code === 0) resolve(log);
      else reject(new Error(`${program} ${args.join(" ")}\n${log}ended with ${signal ?? code}`));
    });
  });
}

/** Makes the file under another name and renames it, so that a killed build leaves no half-written one. */
async function perform(step: Step): Promise<void> {
  const temporary = `${step.output}.${process.pid}.tmp`, rule = `${temporary}.d`;
  mkdirSync(resolve(root, dirname(step.output)), { recursive: true });
  const began = Date.now();
  try {
    const log = await capture([...step.command, ...(step.source ? ["-MMD", "-MF", rule] : []), "-o", temporary]);
    if (step.check) step.check(log);
    else if (log) console.error(log.trimEnd());
    const read = step.source ? filesOfRule(readFileSync(resolve(root, rule), "utf8")) : [];
    renameSync(resolve(root, temporary), resolve(root, step.output));
    const record: StepRecord = { command: step.command, began, inputs: [...new Set([...step.inputs, ...read])] };
    writeFileSync(resolve(root, recordOf(step)), JSON.stringify(record));
  } finally {
    for (const file of [temporary, rule]) rmSync(resolve(root, file), { force: true });
  }
}

/**
 * Does what is stale of `steps`, which stand after those whose files they need. After a failure none begins any more,
 * and the first is thrown once the others have ended.
 */
export async function makeSteps(steps: readonly Step[]): Promise<void> {
  mkdirSync(resolve(root, out, "objects"), { recursive: true });
  const made = new Map<string, Promise<void>>(), failures: unknown[] = [];
  for (const step of steps) {
    const before = Promise.all(step.inputs.map((input) => made.get(input)));
    made.set(
      step.output,
      before.then(() =>
        inTurn(async () => {
          if (failures.length > 0 || reasonFor(step) === undefined) return;
          await perform(step).catch((failure) => failures.push(failure));
        })
      ),
    );
  }
  await Promise.all(made.values());
  if (failures.length > 0) throw failures[0];
}

/** build/compile_commands.json, by which an editor's clangd finds headers and flags. */
export function writeCompileCommands(steps: readonly Step[]): void {
  const commands = steps.filter(({ source }) => source !== undefined).map((step) => ({
    directory: resolve(root),
    file: step.source,
    arguments: [...step.command, "-o", step.output],
    output: step.output,
  }));
  mkdirSync(resolve(root, out), { recursive: true });
  writeFileSync(resolve(root, out, "compile_commands.json"), JSON.stringify(commands, null, 1) + "\n");
}
