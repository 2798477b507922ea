/** ctok decode: token files to images and videos, with the model that each file names, or --model. */
import { join, parse } from "node:path";
import {
  type FallbackOrigin,
  loadTokens,
  type Tokenizer,
  TokenizerError,
  type Tokens,
  writeImage,
  writtenExtensions,
} from "../mod.ts";
import { type Args, type Command, required } from "./args.ts";
import { planTokens } from "./dryrun.ts";
import { filesOfModel, findInputs, type InOut, Outputs, planOutputs, standard } from "./paths.ts";
import { downloadsTo } from "./pull.ts";
import { Failure } from "./report.ts";
import { deliver, eachFile, ModelInUse, secondsSince } from "./run.ts";
import { openingOptions } from "./options.ts";
import { Spool } from "./spool.ts";
import { tellSize } from "./tell.ts";
import { version } from "./version.ts";
import { checkContainer, decodeVideo, videoExtension } from "./video.ts";

export const decodeCommand: Command = {
  name: "decode",
  usage: "TOKENS… --out FILE|DIR",
  about: "token files, or all in a folder, to images and videos",
  details:
    "A token file names its model, which is opened; --model names another, and has to be there for bare arrays " +
    "(.npy). Pictures become PNG and videos MP4, or what FILE's extension says; a batch becomes numbered pictures.",
  examples: [
    { line: "ctok decode photo.safetensors -o photo.png", about: "a picture" },
    { line: "ctok decode tokens -o pictures", about: "all token files in a folder" },
    { line: "ctok decode clip.safetensors -o clip_again.mp4", about: "a video" },
  ],
  accepts: [
    ...[
      "model",
      "out",
      "overwrite",
      "dry-run",
      "keep-partial",
      "container",
      "chunk",
      "attention-frames",
      "fps",
    ] as const,
    ...openingOptions,
  ],

  async run(args, report, signal) {
    const out = required(args.out, "out");
    checkContainer(args);
    await using spool = new Spool();
    const inputs = await findInputs(args, { kinds: ["tokens"], spool, signal });
    const extensions = [...writtenExtensions.picture, ...writtenExtensions.video];
    const files = planOutputs(inputs, out, { extensionOf: () => ".png", extensions, spool });
    await using models = new ModelInUse(args, { half: "decoder", signal, ...downloadsTo(report) });
    const fallback = args.model === undefined ? undefined : fallbackOf(await models.of(args.model));
    const outputs = new Outputs(args, files, await filesOfModel(args.model));
    for (const io of files) if (!io.isNamed) outputs.reserve(withExtension(io.target, ".mp4"), io.file);
    await eachFile(files, args, report, signal, async (io, job) => {
      const start = performance.now();
      const tokens = await loadTokens(io.path, fallback, { signal });
      const tokenizer = await models.of(args.model ?? tokens.origin.source).catch((error: Failure) => {
        const { model, sha256 } = tokens.origin, its = `${model}${sha256 ? ` (sha256 ${sha256})` : ""}`;
        const message = `${io.file}: its model ${its} cannot be opened, --model can name another: ${error.message}`;
        throw new Failure(error.exitCode, error.code, message, error.cause);
      });
      checkKind(io.file, tokens, tokenizer);
      const results = resultsOf(tokens, io, args), model = tokenizer.info.name;
      const { sha256 } = tokens.origin, isOtherModel = sha256 !== undefined && sha256 !== tokenizer.info.sha256;
      if (isOtherModel) report.warning(`${io.file}: ${tellOther(tokens, tokenizer)}`);
      const more = isOtherModel ? { isOtherModel } : {};
      for (const { target } of results) await outputs.admit(target, io.file);
      if (args["dry-run"]) return planTokens(tokenizer, tokens, results, args, report, more);
      if (tokens.origin.video) {
        for (const [n, result] of results.entries()) {
          await decodeVideo(tokenizer, tokens.main.at(n), result, args, job, report, more);
        }
        return;
      }
      const pictures = await tokenizer.decode(tokens, { ...job, dtype: "uint8" });
      const [, height, width] = pictures.shape;
      for (const [n, result] of results.entries()) {
        const { file, out, target } = result;
        await writeImage(target, pictures.at(n));
        await deliver(result);
        const seconds = secondsSince(start);
        const facts = { file, out, ok: true, model, height, width, ...more, seconds };
        report.done(facts, `${tellSize(height!, width!)} pixels, ${seconds} s`);
      }
    });
  },
};

/** Of tokens that another model of that name made: they decode to something else. */
function tellOther({ origin }: Tokens, { info }: Tokenizer): string {
  const wanted = `tokens of ${info.name} with the weights ${info.sha256.slice(0, 12)}… (sha256)`;
  const found = `those of ${origin.model} with ${origin.sha256!.slice(0, 12)}…`;
  return `expected ${wanted}, found ${found}: the result may be another picture`;
}

/** What a bare array does not say. */
export function fallbackOf(
  { info: { name: model, source, spatialFactor, temporalFactor, quantizer } }: Tokenizer,
): FallbackOrigin {
  return { model, source, spatialFactor, temporalFactor, ...(quantizer && { quantizer }), version: version() };
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

/** Where the results go. One keeps the planned name, but for its extension; those of a batch get a number. */
function resultsOf({ origin, main }: Tokens, io: InOut, args: Args): InOut[] {
  const batch = main.shape[0]!, isSent = io.out === standard;
  if (batch !== 1 && isSent) {
    throw new TokenizerError(
      "UNSUPPORTED",
      `${io.file}: expected one result for standard output, found a batch of ${batch}`,
    );
  }
  const extension = !origin.video ? undefined : isSent ? videoExtension(args) : io.isNamed ? undefined : ".mp4";
  const planned = extension ? withExtension(io.target, extension) : io.target;
  if (batch === 1) return [{ ...io, out: isSent ? io.out : planned, target: planned }];
  const { dir, name, ext } = parse(planned);
  return Array.from({ length: batch }, (_, n) => {
    const target = join(dir, `${name}-${String(n).padStart(String(batch - 1).length, "0")}${ext}`);
    return { ...io, out: target, target };
  });
}

function withExtension(path: string, extension: string): string {
  const { dir, name } = parse(path);
  return join(dir, name + extension);
}
