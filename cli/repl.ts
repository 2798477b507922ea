/** ctok repl: explore tokens line by line; ctok run: a script with the same names in scope. */
import { existsSync } from "node:fs";
import { extname, resolve } from "node:path";
import { pathToFileURL } from "node:url";
import type { OpenOptions } from "../mod.ts";
import { type Args, type Command, usage } from "./args.ts";
import { openingOptions } from "./options.ts";
import { exitCodes, Failure } from "./report.ts";

const { process } = globalThis;

export const replCommand: Command = {
  name: "repl",
  usage: "[M]",
  about: "explore tokens line by line, with model M open if given; runs what is piped in where there is no terminal",
  details: "The public API is in scope, and short verbs that .help lists; pictures are drawn in the terminal.",
  examples: [
    { line: "ctok repl nano-DI8x8", about: "with a model open" },
    { line: "echo 'await load(\"photo.jpg\")' | ctok repl", about: "what is piped in, line by line" },
  ],
  accepts: ["model", ...openingOptions],
  takes: "models",

  async run(args, report) {
    const [model = args.model, ...more] = args.inputs;
    if (more.length > 0) throw usage(`expected at most one model, found ${args.inputs.length}`);
    const { runPiped, runRepl } = await import("../repl/repl.ts");
    for (const name of ["SIGINT", "SIGTERM", "SIGHUP"]) process.removeAllListeners(name); // Ctrl-C is the REPL's
    const opening = optionsOf(args);
    if (process.stdin.isTTY) return await runRepl(model, opening);
    async function* input() {
      if (model !== undefined) yield `await open(${JSON.stringify(model)});\n`;
      yield* process.stdin;
    }
    if (!await runPiped(input(), opening)) report.exitCode = exitCodes.failed;
  },
};

export const runCommand: Command = {
  name: "run",
  usage: "SCRIPT [ARG…]",
  about: "run a script with the public API and the REPL's verbs in scope",
  details: "Options of ctok stand before the script; what follows it is the script's own, as process.argv.slice(2).",
  examples: [{ line: "ctok run script.ts photo.jpg", about: "a script that is given a picture" }],
  accepts: openingOptions,
  takesRest: true,

  async run(args, _report, signal) {
    const [script] = args.inputs;
    if (script === undefined) throw usage("expected a script, found none");
    if (!existsSync(script)) {
      throw new Failure(exitCodes.failed, "FILE_MISSING", `${script}: expected a script, found no such file`);
    }
    const [{ enterScope }, { Screen }, { Session }] = await Promise.all([
      import("../repl/repl.ts"),
      import("../repl/screen.ts"),
      import("../repl/session.ts"),
    ]);
    const path = resolve(script);
    process.argv.splice(1, Infinity, path, ...args.rest); // as if the runtime had been given it
    await using session = new Session(new Screen(), optionsOf(args));
    signal.addEventListener("abort", () => session.interrupt());
    enterScope(session);
    await import(pathToFileURL(path).href).catch((error) => {
      if (error?.code !== "ERR_UNKNOWN_FILE_EXTENSION") throw error; // Node before 22.18 says so of TypeScript
      const found = `${script}: expected JavaScript, which is all that this Node runs, found ${extname(script)}`;
      throw new Failure(exitCodes.failed, "ARGUMENT", found, error);
    });
  },
};

/** How the verbs open models. */
function optionsOf({ device, precision, threads, "max-memory": maxMemory }: Args): OpenOptions {
  return {
    ...(device !== undefined && { device }),
    ...(precision !== undefined && { precision }),
    ...(threads !== undefined && { threads }),
    ...(maxMemory !== undefined && { maxMemory }),
  };
}
