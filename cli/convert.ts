/** ctok convert: checkpoints, in any form that ctok reads, to one safetensors file each. */
import { statSync } from "node:fs";
import { stat } from "node:fs/promises";
import { basename, parse, resolve } from "node:path";
import { convert, expandPatterns, TokenizerError } from "../mod.ts";
import { type Command, required, usage } from "./args.ts";
import { filesOfModel, Outputs, planOutputs, standard } from "./paths.ts";
import { eachFile, modelFailure, secondsSince } from "./run.ts";
import { Spool } from "./spool.ts";
import { tellBytes } from "./tell.ts";

export const convertCommand: Command = {
  name: "convert",
  usage: "M… --out FILE|DIR",
  about: "checkpoints, such as folders of .jit files, to one .safetensors file each",
  details:
    "A file is smaller and opens faster than a folder of .jit files, and gives the same tokens; its name is kept " +
    "in it.",
  examples: [
    { line: "ctok convert path/to/Cosmos-Tokenizer-DI8x8 -o DI8x8.safetensors", about: "a folder of .jit files" },
    { line: "ctok convert nano-DI8x8 -o mine.safetensors --name mine-DI8x8", about: "under another name" },
  ],
  accepts: ["out", "overwrite", "name"],
  takes: "models",

  async run(args, report, signal) {
    const out = required(args.out, "out"), models = expandPatterns(args.inputs);
    if (models.length === 0) throw usage("expected at least one model, found none");
    if (out === standard) {
      throw usage("--out: expected a file or folder, found standard output, which takes no checkpoint");
    }
    await using spool = new Spool();
    const inputs = models.map((file) => {
      // A folder's or repository's whole name: "Cosmos-0.1-Tokenizer-DI8x8" has no extension.
      const found = statSync(file, { throwIfNoEntry: false }), isFolder = found?.isDirectory();
      const isHub = !found && !/\.(jit|safetensors|pt|pth|ckpt)$/i.test(file);
      const stem = isFolder ? basename(resolve(file)) : isHub ? basename(file.replace(/@.*$/, "")) : parse(file).name;
      return { file, path: file, kind: undefined, stem, isFound: false };
    });
    const files = planOutputs(inputs, out, { extensionOf: () => ".safetensors", extensions: [".safetensors"], spool });
    if (args.name && files.length > 1) throw usage(`--name: expected one model, found ${files.length}`);
    const sources = await Promise.all(models.map(filesOfModel));
    const outputs = new Outputs(args, files, sources.flat(), "checkpoint");
    await eachFile(files, args, report, signal, async ({ file, out }, job) => {
      await outputs.admit(out, file);
      const start = performance.now();
      try {
        await convert(file, out, { ...job, ...(args.name && { name: args.name }) });
      } catch (error) {
        throw error instanceof TokenizerError && error.code === "FILE_IO" ? error : modelFailure(error);
      }
      const { size: bytes } = await stat(out), seconds = secondsSince(start);
      report.done({ file, out, ok: true, bytes, seconds }, `${tellBytes(bytes)}, ${seconds} s`);
    });
  },
};
