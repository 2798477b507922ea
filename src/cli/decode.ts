/** ctok decode: token files to pictures, with the model that each file names, or --model. */
import { join, parse } from "node:path";
import { type FallbackOrigin, loadTokens, type Tensor, type Tokenizer, TokenizerError, writeImage } from "../../mod.ts";
import { type Command, required } from "./args.ts";
import { expandInputs, type InOut, planOutputs } from "./paths.ts";
import { Failure } from "./report.ts";
import { eachFile, openModel, secondsSince } from "./run.ts";
import { version } from "./version.ts";

export const decodeCommand: Command = {
  name: "decode",
  usage: "TOKENS… --out FILE|DIR",
  about: "token files to pictures: PNG, or by FILE's extension; the model is the one that a file names",
  accepts: ["model", "out", "precision"],

  async run(args, report, signal) {
    const files = planOutputs(expandInputs(args.inputs), required(args.out, "out"), ".png");
    // The model in use, kept for the next file: a folder mostly holds one model's tokens, and two may not fit in memory.
    let current: { readonly source: string; readonly tokenizer: Tokenizer } | undefined;
    const modelOf = async (source: string) => {
      if (current?.source !== source) {
        await current?.tokenizer.close();
        current = undefined;
        current = { source, tokenizer: await openModel(source, args, { half: "decoder", signal }) };
      }
      return current.tokenizer;
    };
    const fallback = args.model === undefined ? undefined : fallbackOf(await modelOf(args.model));
    const taken = new Set(files.map(({ out }) => out));
    try {
      await eachFile(files, report, signal, async (io, job) => {
        const start = performance.now();
        const tokens = await loadTokens(io.file, fallback);
        const tokenizer = await modelOf(args.model ?? tokens.origin.source).catch((error: Failure) => {
          const message = `${io.file}: its model cannot be opened, --model can name another: ${error.message}`;
          throw new Failure(error.exitCode, error.code, message, error.cause);
        });
        const pictures = await tokenizer.decode(tokens, { ...job, dtype: "uint8" });
        const [, height, width] = pictures.shape, model = tokenizer.info.name;
        for (const { out, picture } of picturesOf(pictures, io, taken)) {
          await writeImage(out, picture);
          const seconds = secondsSince(start);
          const facts = { file: io.file, out, ok: true, model, height, width, seconds };
          report.result(facts, `${io.file} -> ${out}: ${height}x${width} pixels, ${seconds} s`);
        }
      });
    } finally {
      await current?.tokenizer.close();
    }
  },
};

/** What a bare array does not say. */
function fallbackOf({ info: { name: model, source, spatialFactor, levels } }: Tokenizer): FallbackOrigin {
  return { model, source, spatialFactor, levels, version: version() };
}

/** A picture keeps the planned name; those of a batch get a number before the extension, and must not meet other outputs. */
function picturesOf(
  pictures: Tensor<"uint8">,
  { file, out }: InOut,
  taken: Set<string>,
): { out: string; picture: Tensor<"uint8"> }[] {
  const batch = pictures.shape[0]!;
  if (batch === 1) return [{ out, picture: pictures }];
  const { dir, name, ext } = parse(out);
  return Array.from({ length: batch }, (_, n) => {
    const numbered = join(dir, `${name}-${String(n).padStart(String(batch - 1).length, "0")}${ext}`);
    if (taken.has(numbered)) {
      throw new TokenizerError(
        "ARGUMENT",
        `${file}: expected a free name for picture ${n}, found ${numbered} taken by another file`,
      );
    }
    taken.add(numbered);
    return { out: numbered, picture: pictures.at(n) };
  });
}
