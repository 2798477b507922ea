/** ctok autoencode: pictures to tokens and back, and how near the result is. */
import { defaultModel, psnr, readImage, ssim, writeImage } from "../../mod.ts";
import { type Command, required } from "./args.ts";
import { expandInputs, planOutputs } from "./paths.ts";
import { eachFile, openModel, secondsSince } from "./run.ts";

export const autoencodeCommand: Command = {
  name: "autoencode",
  usage: "IMAGE… --out FILE|DIR",
  about: "pictures to tokens and back, with PSNR and SSIM",
  accepts: ["model", "out", "precision"],

  async run(args, report, signal) {
    const files = planOutputs(expandInputs(args.inputs), required(args.out, "out"), ".png");
    await using tokenizer = await openModel(args.model ?? defaultModel, args, { signal });
    await eachFile(files, report, signal, async ({ file, out }, job) => {
      const start = performance.now();
      const picture = await readImage(file);
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
