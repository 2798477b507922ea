/** ctok convert: checkpoints, in any form that ctok reads, to one safetensors file each. */
import { stat } from "node:fs/promises";
import { convert, TokenizerError } from "../../mod.ts";
import { type Command, required, usage } from "./args.ts";
import { expandInputs, planOutputs } from "./paths.ts";
import { eachFile, modelFailure, secondsSince } from "./run.ts";

export const convertCommand: Command = {
  name: "convert",
  usage: "M… --out FILE|DIR",
  about: "checkpoints, such as folders of .jit files, to one .safetensors file each",
  accepts: ["out", "name"],

  async run(args, report, signal) {
    const files = planOutputs(expandInputs(args.inputs), required(args.out, "out"), () => ".safetensors");
    if (args.name && files.length > 1) throw usage(`--name: expected one model, found ${files.length}`);
    await eachFile(files, report, signal, async ({ file, out }, job) => {
      const start = performance.now();
      try {
        await convert(file, out, { ...job, ...(args.name && { name: args.name }) });
      } catch (error) {
        throw error instanceof TokenizerError && error.code === "FILE_IO" ? error : modelFailure(error);
      }
      const { size: bytes } = await stat(out), seconds = secondsSince(start);
      report.result(
        { file, out, ok: true, bytes, seconds },
        `${file} -> ${out}: ${(bytes / 1e6).toFixed(1)} MB, ${seconds} s`,
      );
    });
  },
};
