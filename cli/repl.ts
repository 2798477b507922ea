/** ctok repl: explore tokens line by line; ctok run: a script with the same names in scope. */
import process from "node:process";
import { extname } from "node:path";
import { pathToFileURL } from "node:url";
import { existsSync } from "node:fs";
import { type Command, usage } from "./args.ts";
import { exitCodes, Failure } from "./report.ts";

export const replCommand: Command = {
  name: "repl",
  usage: "[M]",
  about: "explore tokens line by line, with model M open if given; runs what is piped in where there is no terminal",
  accepts: [],

  async run(args, report) {
    const [model, ...more] = args.inputs;
    if (more.length > 0) throw usage(`expected at most one model, found ${args.inputs.length}`);
    const { runPiped, runRepl } = await import("../repl/repl.ts");
    for (const name of ["SIGINT", "SIGTERM", "SIGHUP"]) process.removeAllListeners(name); // Ctrl-C is the REPL's
    if (process.stdin.isTTY) return await runRepl(model);
    const opening = model === undefined ? [] : [`await open(${JSON.stringify(model)});\n`];
    async function* input() {
      yield* opening;
      yield* process.stdin;
    }
    if (!await runPiped(input())) report.exitCode = exitCodes.failed;
  },
};

export const runCommand: Command = {
  name: "run",
  usage: "SCRIPT",
  about: "run a script with the public API and the REPL's verbs in scope",
  accepts: [],

  async run(args, _report, signal) {
    const [script, ...more] = args.inputs;
    if (script === undefined || more.length > 0) throw usage(`expected one script, found ${args.inputs.length}`);
    if (!existsSync(script)) {
      throw new Failure(exitCodes.failed, "FILE_MISSING", `${script}: expected a script, found no such file`);
    }
    const [{ enterScope }, { Screen }, { Session }] = await Promise.all([
      import("../repl/repl.ts"),
      import("../repl/screen.ts"),
      import("../repl/session.ts"),
    ]);
    await using session = new Session(new Screen());
    signal.addEventListener("abort", () => session.interrupt());
    enterScope(session);
    await import(pathToFileURL(script).href).catch((error) => {
      if (error?.code !== "ERR_UNKNOWN_FILE_EXTENSION") throw error; // Node before 22.18 says so of TypeScript
      const found = `${script}: expected JavaScript, which is all that this Node runs, found ${extname(script)}`;
      throw new Failure(exitCodes.failed, "ARGUMENT", found, error);
    });
  },
};
