/** ctok encode: images and videos to token files. */
import { extname } from "node:path";
import { readImage, saveTokens, tokenFormats, writtenExtensions } from "../mod.ts";
import { PicturesAhead } from "./ahead.ts";
import { type Command, required, usage } from "./args.ts";
import { planPixels } from "./dryrun.ts";
import { filesOfModel, findInputs, type InOut, Outputs, planOutputs } from "./paths.ts";
import { downloadsTo } from "./pull.ts";
import { checkImage, deliver, eachFile, kindsFor, modelFor, ModelInUse, pictureOptionsOf } from "./run.ts";
import { framesOptions, openingOptions } from "./options.ts";
import { Spool } from "./spool.ts";
import { tellSize } from "./tell.ts";
import { checkMode, checkVideoOptions, encodeVideo } from "./video.ts";

export const encodeCommand: Command = {
  name: "encode",
  usage: "FILE… --out FILE|DIR",
  about: "images and videos, or all in a folder, to token files",
  details:
    "Each file's tokens go to a file of its own. Without --model pictures take nano-DI8x8 and videos nano-DV4x8x8, " +
    "both built in. Of a folder the pictures and videos are taken, or with --model those that it takes, and the tree " +
    "is kept.",
  examples: [
    { line: "ctok encode photo.jpg -o photo.safetensors", about: "a picture" },
    { line: "ctok encode photos -o tokens", about: "all pictures and videos in a folder" },
    { line: "ctok encode clip.mp4 -o clip.msgpack --stream", about: "a video as one seamless sequence" },
    { line: "ctok encode photos clip.mp4 -o tokens --dry-run", about: "what that would do" },
  ],
  accepts: [
    ...["model", "out", "overwrite", "dry-run", "format", "pre-quant", "store-path", "svg"] as const,
    ...["keep-partial", "limit-pixels", ...framesOptions, ...openingOptions] as const,
  ],

  async run(args, report, signal) {
    const { format: asked, "pre-quant": preQuant = false } = args, out = required(args.out, "out");
    checkMode(args);
    await using spool = new Spool();
    await using models = new ModelInUse(args, { half: "encoder", signal, ...downloadsTo(report) });
    const model = args.model === undefined ? undefined : await models.of(args.model);
    const inputs = await findInputs(args, { kinds: kindsFor(model), spool, signal });
    const extensions = writtenExtensions.tokens, extensionOf = () => `.${asked ?? "safetensors"}`;
    const files = planOutputs(inputs, out, { extensionOf, extensions, spool });
    const named = tokenFormats.find((format) => extname(files[0]!.target).toLowerCase() === `.${format}`);
    if (asked && named && asked !== named) {
      throw usage(`--out: expected the extension .${asked}, as --format says, found .${named}`);
    }
    const format = asked ?? named ?? "safetensors";
    if (preQuant && format === "npy") {
      throw usage("--pre-quant: expected safetensors or msgpack, found npy, which holds one array");
    }
    const outputs = new Outputs(args, files, await filesOfModel(args.model), "tokens");
    checkVideoOptions(args, files, await models.of(modelFor(files[0]!, args)));
    const isPicture = (io: InOut) => model ? !model.info.isVideo && io.kind === "picture" : io.kind === "picture";
    const read = (path: string, limitPixels = Infinity) => {
      const limit = Math.min(limitPixels, args["limit-pixels"] ?? Infinity);
      return readImage(path, { ...pictureOptionsOf(args), ...(limit < Infinity && { limitPixels: limit }), signal });
    };
    const pictures = new PicturesAhead(files, isPicture, read);
    await eachFile(files, args, report, signal, async (io, job) => {
      const { file, out, target } = io;
      await outputs.admit(target, file);
      const tokenizer = await models.of(modelFor(io, args));
      if (!tokenizer.info.isVideo) checkImage(io, tokenizer.info.name);
      if (args["dry-run"]) return await planPixels(tokenizer, io, args, job, report, "encode");
      if (tokenizer.info.isVideo) return await encodeVideo(tokenizer, io, format, args, job, report);
      const { tokens, seconds } = await pictures.encode(io, tokenizer, { ...job, ...pictureOptionsOf(args), preQuant });
      await saveTokens(target, tokens, { format, storePath: args["store-path"] ?? false });
      await deliver(io);
      const { main, origin: { model, height, width } } = tokens;
      const [rows, columns] = main.shape.slice(-2);
      const facts = { file, out, ok: true, model, format, kind: main.kind, shape: main.shape, height, width, seconds };
      report.done(facts, `${tellSize(height, width)} pixels, ${tellSize(rows!, columns!)} tokens, ${seconds} s`);
    });
  },
};
