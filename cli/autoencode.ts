/** ctok autoencode: images and videos to tokens and back, and how near the result is. */
import { psnr, readImage, ssim, writeImage, writtenExtensions } from "../mod.ts";
import { type Command, required } from "./args.ts";
import { planPixels } from "./dryrun.ts";
import { filesOfModel, findInputs, type Input, Outputs, planOutputs } from "./paths.ts";
import { downloadsTo } from "./pull.ts";
import {
  checkImage,
  deliver,
  eachFile,
  kindsFor,
  modelFor,
  ModelInUse,
  pictureOptionsOf,
  secondsSince,
} from "./run.ts";
import { framesOptions, openingOptions } from "./options.ts";
import { Spool } from "./spool.ts";
import { tellSize } from "./tell.ts";
import { autoencodeVideo, checkContainer, checkMode, checkVideoOptions, videoExtension } from "./video.ts";

export const autoencodeCommand: Command = {
  name: "autoencode",
  usage: "FILE… --out FILE|DIR",
  about: "images and videos to tokens and back, with PSNR and SSIM",
  details: "Tokens are not kept: this is to see what a model makes of a picture or a video.",
  examples: [
    { line: "ctok autoencode photo.jpg -o again.png", about: "a picture, with PSNR and SSIM" },
    { line: "ctok autoencode photos -o again/", about: "all in a folder" },
    { line: "ctok autoencode clip.mp4 -o again.mp4 --frames 17", about: "the first 17 frames of a video" },
  ],
  accepts: [
    ...["model", "out", "overwrite", "dry-run", "svg", "keep-partial", "container", "audio", "limit-pixels"] as const,
    ...[...framesOptions, ...openingOptions],
  ],

  async run(args, report, signal) {
    const out = required(args.out, "out");
    checkMode(args);
    checkContainer(args);
    await using spool = new Spool();
    await using models = new ModelInUse(args, { signal, ...downloadsTo(report) });
    const asked = args.model === undefined ? undefined : await models.of(args.model);
    const inputs = await findInputs(args, { kinds: kindsFor(asked), spool, signal });
    const isVideo = ({ kind }: Input) => asked ? asked.info.isVideo : kind === "video";
    const extensions = writtenExtensions[isVideo(inputs[0]!) ? "video" : "picture"];
    const extensionOf = (input: Input) => isVideo(input) ? videoExtension(args) : ".png";
    const files = planOutputs(inputs, out, { extensionOf, extensions, spool });
    const outputs = new Outputs(args, files, await filesOfModel(args.model));
    checkVideoOptions(args, files, await models.of(modelFor(files[0]!, args)));
    await eachFile(files, args, report, signal, async (io, job) => {
      const { file, path, out, target } = io;
      await outputs.admit(target, file);
      const tokenizer = await models.of(modelFor(io, args));
      if (!tokenizer.info.isVideo) checkImage(io, tokenizer.info.name);
      if (args["dry-run"]) return await planPixels(tokenizer, io, args, job, report, "autoencode");
      if (tokenizer.info.isVideo) return await autoencodeVideo(tokenizer, io, args, job, report);
      const start = performance.now();
      const picture = await readImage(path, { ...pictureOptionsOf(args), signal });
      const again = await tokenizer.autoencode(picture, job);
      await writeImage(target, again);
      await deliver(io);
      const [, height = 0, width = 0] = picture.shape, seconds = secondsSince(start);
      const decibels = psnr(picture, again);
      const similarity = Math.min(height, width) < 7 ? undefined : ssim(picture, again); // SSIM's window is 7x7
      const facts = {
        file,
        out,
        ok: true,
        model: tokenizer.info.name,
        height,
        width,
        psnr: decibels,
        ssim: similarity,
        seconds,
      };
      const quality = `PSNR ${decibels.toFixed(2)} dB, SSIM ${similarity?.toFixed(4) ?? "undefined under 7x7"}`;
      report.done(facts, `${tellSize(height, width)} pixels, ${quality}, ${seconds} s`);
    });
  },
};
