/** ctok decode: token files to images and videos, with the model that each file names, or --model. */
import { join, parse } from "node:path";
import { type FallbackOrigin, loadTokens, type Tokenizer, TokenizerError, type Tokens, writeImage } from "../../mod.ts";
import { type Command, required } from "./args.ts";
import { expandInputs, type InOut, planOutputs } from "./paths.ts";
import { Failure } from "./report.ts";
import { eachFile, ModelInUse, secondsSince } from "./run.ts";
import { version } from "./version.ts";
import { decodeVideo } from "./video.ts";

export const decodeCommand: Command = {
  name: "decode",
  usage: "TOKENS… --out FILE|DIR",
  about: "token files to images (PNG) and videos (MP4), or by FILE's extension; the model is the one that a file names",
  accepts: ["model", "out", "precision", "chunk", "attention-frames", "fps"],

  async run(args, report, signal) {
    const files = planOutputs(expandInputs(args.inputs), required(args.out, "out"), () => ".png");
    await using models = new ModelInUse(args, { half: "decoder", signal });
    const fallback = args.model === undefined ? undefined : fallbackOf(await models.of(args.model));
    const taken = new Set(files.map(({ out }) => out));
    await eachFile(files, report, signal, async (io, job) => {
      const start = performance.now();
      const tokens = await loadTokens(io.file, fallback);
      const tokenizer = await models.of(args.model ?? tokens.origin.source).catch((error: Failure) => {
        const { model, sha256 } = tokens.origin, its = `${model}${sha256 ? ` (sha256 ${sha256})` : ""}`;
        const message = `${io.file}: its model ${its} cannot be opened, --model can name another: ${error.message}`;
        throw new Failure(error.exitCode, error.code, message, error.cause);
      });
      checkKind(io.file, tokens, tokenizer);
      const outs = outsOf(tokens, io, taken), model = tokenizer.info.name;
      if (tokens.origin.video) {
        for (const [n, out] of outs.entries()) {
          await decodeVideo(tokenizer, tokens.main.at(n), { ...io, out }, args, job, report);
        }
        return;
      }
      const pictures = await tokenizer.decode(tokens, { ...job, dtype: "uint8" });
      const [, height, width] = pictures.shape;
      for (const [n, out] of outs.entries()) {
        await writeImage(out, pictures.at(n));
        const seconds = secondsSince(start);
        const facts = { file: io.file, out, ok: true, model, height, width, seconds };
        report.result(facts, `${io.file} -> ${out}: ${height}x${width} pixels, ${seconds} s`);
      }
    });
  },
};

/** What a bare array does not say. */
function fallbackOf({ info: { name: model, source, spatialFactor, temporalFactor, levels } }: Tokenizer): FallbackOrigin {
  return { model, source, spatialFactor, temporalFactor, levels, version: version() };
}

function checkKind(file: string, { origin, main }: Tokens, { info }: Tokenizer): void {
  const kind = (isVideo: boolean) => isVideo ? "a video" : "an image";
  const isVideo = origin.video !== undefined;
  if (isVideo === info.isVideo) return;
  const found = `those of ${kind(isVideo)}, ${main.dtype} [${main.shape.join(", ")}]`;
  throw new TokenizerError(
    "UNSUPPORTED",
    `${file}: expected tokens of ${kind(info.isVideo)}, for ${info.name}, found ${found}`,
  );
}

/** Where the results go. One keeps the planned name; those of a batch get a number, and must not meet other outputs. */
function outsOf({ origin, main }: Tokens, { file, out, isNamed }: InOut, taken: Set<string>): string[] {
  const batch = main.shape[0]!, { dir, name, ext } = parse(out);
  const extension = origin.video && !isNamed ? ".mp4" : ext;
  if (batch === 1) return [join(dir, name + extension)];
  return Array.from({ length: batch }, (_, n) => {
    const numbered = join(dir, `${name}-${String(n).padStart(String(batch - 1).length, "0")}${extension}`);
    if (taken.has(numbered)) {
      throw new TokenizerError(
        "ARGUMENT",
        `${file}: expected a free name for picture ${n}, found ${numbered} taken by another file`,
      );
    }
    taken.add(numbered);
    return numbered;
  });
}
