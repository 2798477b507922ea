/** ctok encode: pictures to token files. */
import { extname } from "node:path";
import { defaultModel, saveTokens, tokenFormats } from "../../mod.ts";
import { type Command, required, usage } from "./args.ts";
import { expandInputs, planOutputs } from "./paths.ts";
import { eachFile, openModel, secondsSince } from "./run.ts";

export const encodeCommand: Command = {
  name: "encode",
  usage: "IMAGE… --out FILE|DIR",
  about: "pictures to token files",
  accepts: ["model", "out", "precision", "format", "pre-quant"],

  async run(args, report, signal) {
    const { format: asked, "pre-quant": preQuant = false } = args;
    const files = planOutputs(expandInputs(args.inputs), required(args.out, "out"), `.${asked ?? "safetensors"}`);
    const named = tokenFormats.find((format) => extname(files[0]!.out) === `.${format}`);
    if (asked && named && asked !== named) {
      throw usage(`--out: expected the extension .${asked}, as --format says, found .${named}`);
    }
    const format = asked ?? named ?? "safetensors";
    if (preQuant && format === "npy") {
      throw usage("--pre-quant: expected safetensors or msgpack, found npy, which holds one array");
    }

    await using tokenizer = await openModel(args.model ?? defaultModel, args, { half: "encoder", signal });
    await eachFile(files, report, signal, async ({ file, out }, job) => {
      const start = performance.now();
      const tokens = await tokenizer.encode(file, { ...job, preQuant });
      await saveTokens(out, tokens, format);
      const { main, origin: { model, height, width } } = tokens;
      const [rows, columns] = main.shape.slice(-2), seconds = secondsSince(start);
      const facts = { file, out, ok: true, model, format, kind: main.kind, shape: main.shape, height, width, seconds };
      report.result(facts, `${file} -> ${out}: ${height}x${width} pixels, ${rows}x${columns} tokens, ${seconds} s`);
    });
  },
};
