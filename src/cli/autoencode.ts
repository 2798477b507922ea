/** ctok autoencode: images and videos to tokens and back, and how near the result is. */
import { psnr, readImage, ssim, writeImage } from "../../mod.ts";
import { type Command, required } from "./args.ts";
import { expandInputs, isVideoPath, planOutputs } from "./paths.ts";
import { checkImage, eachFile, limitsOf, modelFor, ModelInUse, secondsSince } from "./run.ts";
import { autoencodeVideo, checkMode, checkVideoOptions } from "./video.ts";

export const autoencodeCommand: Command = {
  name: "autoencode",
  usage: "FILE… --out FILE|DIR",
  about: "images and videos to tokens and back, with PSNR and SSIM",
  accepts: [
    ...["model", "out", "precision", "limit-pixels", "limit-frames"] as const,
    ...["window", "stream", "chunk", "attention-frames", "start", "frames", "fps", "audio"] as const,
  ],

  async run(args, report, signal) {
    const inputs = expandInputs(args.inputs), out = required(args.out, "out");
    checkMode(args);
    await using models = new ModelInUse(args, { signal });
    const asked = args.model === undefined ? undefined : await models.of(args.model);
    const files = planOutputs(inputs, out, (file) => (asked ? asked.info.isVideo : isVideoPath(file)) ? ".mp4" : ".png");
    checkVideoOptions(args, files, await models.of(modelFor(files[0]!.file, args)));
    await eachFile(files, report, signal, async (io, job) => {
      const { file, out } = io, tokenizer = await models.of(modelFor(file, args));
      if (tokenizer.info.isVideo) return await autoencodeVideo(tokenizer, io, args, job, report);
      checkImage(file, tokenizer.info.name);
      const start = performance.now();
      const picture = await readImage(file, limitsOf(args));
      const again = await tokenizer.autoencode(picture, job);
      await writeImage(out, again);
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
      report.result(facts, `${file} -> ${out}: ${height}x${width} pixels, ${quality}, ${seconds} s`);
    });
  },
};
