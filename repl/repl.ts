/**
 * The REPL: node:repl with its own eval (await and import at the top, Ctrl-C that stops the work and not the REPL),
 * completion of commands, names, members and paths, and a history in the user's state folder. Without a terminal it
 * runs what it is piped, statement by statement, and ends at the first failure. Alike on both runtimes.
 */
import { randomUUID } from "node:crypto";
import { mkdirSync, readFileSync, renameSync, rmSync, statSync, writeFileSync } from "node:fs";
import { homedir } from "node:os";
import { dirname, join } from "node:path";
import repl from "node:repl";
import { pathToFileURL } from "node:url";
import { type OpenOptions, printable, TokenizerError } from "../mod.ts";
import { complete } from "./complete.ts";
import { importName, Incomplete, rewrite } from "./rewrite.ts";
import { sayFailure, Screen } from "./screen.ts";
import { Session } from "./session.ts";

const { process } = globalThis;

const globals = globalThis as unknown as Record<string, unknown>;
const maxHistory = 1000;

/** Puts the API and the verbs in scope of this process. */
export function enterScope(session: Session): void {
  Object.assign(globals, session.scope());
  globals[importName] = (name: string) => import(/^\.{0,2}\//.test(name) ? pathToFileURL(name).href : name);
}

/** The value of the last expression of `source`, or undefined. Throws Incomplete where the source is to go on. */
async function evaluate(source: string): Promise<unknown> {
  const { code, names } = rewrite(source);
  for (const name of names) if (!(name in globals)) globals[name] = undefined;
  const result = await ((0, eval)(code) as Promise<{ value: unknown } | undefined>);
  return await result?.value;
}

// ---------------------------------------------------------------- without a terminal
/** Runs what is piped in; gives whether all of it went well. `opening`: how models are opened unless told. */
export async function runPiped(input: AsyncIterable<Uint8Array | string>, opening: OpenOptions = {}): Promise<boolean> {
  const screen = new Screen();
  await using session = new Session(screen, opening);
  enterScope(session);
  const interrupt = () => session.interrupt();
  process.on("SIGINT", interrupt);
  let source = "", pending = "";
  const decoder = new TextDecoder();
  try {
    for await (const chunk of input) {
      source += typeof chunk === "string" ? chunk : decoder.decode(chunk, { stream: true });
    }
    for (const line of source.split("\n")) {
      pending += line + "\n";
      try {
        await screen.value(await evaluate(pending));
        pending = "";
      } catch (error) {
        if (!(error instanceof Incomplete)) throw error;
      }
    }
    if (pending.trim()) throw new SyntaxError("expected the statement to end, found the end of the input");
    return true;
  } catch (error) {
    process.stderr.write(`ctok: ${sayFailure(error)}\n`);
    return false;
  } finally {
    process.off("SIGINT", interrupt);
  }
}

// ---------------------------------------------------------------- history
function historyPath(): string {
  const { CTOK_HISTORY, XDG_STATE_HOME } = process.env;
  return CTOK_HISTORY ?? join(XDG_STATE_HOME || join(homedir(), ".local/state"), "ctok/history");
}

/** Newest first, as node:repl keeps it. A history that cannot be read is an empty one. */
function readHistory(): string[] {
  try {
    if (!statSync(historyPath()).isFile()) return []; // a pipe would keep us waiting
    return readFileSync(historyPath(), "utf8").split("\n").filter(Boolean);
  } catch {
    return [];
  }
}

/**
 * Whole or not at all, and only for the user to read; a state folder that cannot be written costs the history and
 * nothing else. The folder may be others' too: a name that cannot be guessed, made here or nowhere ("wx" follows no
 * link).
 */
function writeHistory(lines: readonly string[]): void {
  const path = historyPath(), temporary = join(dirname(path), `.ctok-history-${randomUUID()}.tmp`);
  try {
    mkdirSync(dirname(path), { recursive: true });
    writeFileSync(temporary, lines.slice(0, maxHistory).join("\n") + "\n", { mode: 0o600, flag: "wx" });
    renameSync(temporary, path);
  } catch (error) {
    rmSync(temporary, { force: true });
    process.stderr.write(
      `ctok: history not kept: ${printable(error instanceof Error ? error.message : String(error))}\n`,
    );
  }
}

// ---------------------------------------------------------------- in a terminal
type Server = repl.REPLServer & { history: string[] };

/** Runs until .exit or the end of input. `opening` as for runPiped. */
export async function runRepl(model: string | undefined, opening: OpenOptions = {}): Promise<void> {
  const screen = new Screen();
  await using session = new Session(screen, opening);
  enterScope(session);
  let stop: ((reason: Error) => void) | undefined; // while a line runs

  const evaluateLine = async (line: string): Promise<void> => {
    const stopped = new Promise<never>((_, reject) => stop = reject);
    try {
      const value = await Promise.race([evaluate(line), stopped]);
      globals._ = value;
      await screen.value(value);
    } catch (error) {
      if (error instanceof Incomplete) throw error;
      globals._error = error;
      screen.print(sayFailure(error));
    } finally {
      stop = undefined;
    }
  };

  if (model !== undefined) await evaluateLine(`await open(${JSON.stringify(model)}); undefined`);
  screen.print("ctok: .help lists what there is; Ctrl-C stops the work, .exit ends");
  const server = repl.start({
    prompt: "ctok> ",
    ignoreUndefined: true,
    preview: false,
    completer: (line: string) => complete(line, Object.keys(server.commands)),
    eval: (line: string, _context: unknown, _file: string, done: (error: Error | null) => void) => {
      evaluateLine(line).then(() => done(null), (error) => done(new repl.Recoverable(error as Error)));
    },
  } as unknown as repl.ReplOptions) as Server;
  // They are of node:repl's session.
  for (const name of ["save", "load", "editor"]) delete (server.commands as Record<string, unknown>)[name];
  server.history.push(...readHistory());
  server.defineCommand("help", {
    help: "list the verbs and commands",
    action() {
      this.clearBufferedCommand();
      screen.print(helpText(session));
      this.displayPrompt();
    },
  });
  server.removeAllListeners("SIGINT"); // node:repl's own, which knows nothing of work that runs
  server.on("SIGINT", () => {
    if (stop) {
      session.interrupt();
      stop(new TokenizerError("CANCELLED", "interrupted"));
      return;
    }
    Object.assign(server, { line: "", cursor: 0 });
    server.clearBufferedCommand();
    screen.print("\n(.exit or Ctrl-D ends)");
    server.displayPrompt();
  });
  await new Promise<void>((resolve) => server.on("exit", resolve));
  session.interrupt();
  writeHistory(server.history);
}

function helpText(session: Session): string {
  const width = Math.max(...session.verbs.map((v) => v.signature.length));
  const verbs = session.verbs.map((v) => `  ${v.signature.padEnd(width)}  ${v.about}`).join("\n");
  return `${verbs}

  All of the public API is in scope, and as ctok; await and import work; _ is the last value, _error the last failure.
  Verbs that compute or read give promises: put await before them.
  .help  .break (drop an unfinished line)  .clear  .exit
`;
}
