/** ctok encode: images and videos to token files. */
import { extname } from "node:path";
import { saveTokens, tokenFormats } from "../../mod.ts";
import { type Command, required, usage } from "./args.ts";
import { expandInputs, planOutputs } from "./paths.ts";
import { checkImage, eachFile, limitsOf, modelFor, ModelInUse, secondsSince } from "./run.ts";
import { checkMode, checkVideoOptions, encodeVideo } from "./video.ts";

export const encodeCommand: Command = {
  name: "encode",
  usage: "FILE… --out FILE|DIR",
  about: "images and videos, or folders of frames, to token files",
  accepts: [
    ...["model", "out", "precision", "format", "pre-quant", "limit-pixels", "limit-frames"] as const,
    ...["window", "stream", "chunk", "attention-frames", "start", "frames", "fps"] as const,
  ],

  async run(args, report, signal) {
    const { format: asked, "pre-quant": preQuant = false } = args;
    const files = planOutputs(expandInputs(args.inputs), required(args.out, "out"), () => `.${asked ?? "safetensors"}`);
    const named = tokenFormats.find((format) => extname(files[0]!.out) === `.${format}`);
    if (asked && named && asked !== named) {
      throw usage(`--out: expected the extension .${asked}, as --format says, found .${named}`);
    }
    const format = asked ?? named ?? "safetensors";
    if (preQuant && format === "npy") {
      throw usage("--pre-quant: expected safetensors or msgpack, found npy, which holds one array");
    }
    checkMode(args);

    await using models = new ModelInUse(args, { half: "encoder", signal });
    checkVideoOptions(args, files, await models.of(modelFor(files[0]!.file, args)));
    await eachFile(files, report, signal, async (io, job) => {
      const { file, out } = io, tokenizer = await models.of(modelFor(file, args));
      if (tokenizer.info.isVideo) return await encodeVideo(tokenizer, io, format, args, job, report);
      checkImage(file, tokenizer.info.name);
      const start = performance.now();
      const tokens = await tokenizer.encode(file, { ...job, ...limitsOf(args), preQuant });
      await saveTokens(out, tokens, { format });
      const { main, origin: { model, height, width } } = tokens;
      const [rows, columns] = main.shape.slice(-2), seconds = secondsSince(start);
      const facts = { file, out, ok: true, model, format, kind: main.kind, shape: main.shape, height, width, seconds };
      report.result(facts, `${file} -> ${out}: ${height}x${width} pixels, ${rows}x${columns} tokens, ${seconds} s`);
    });
  },
};
