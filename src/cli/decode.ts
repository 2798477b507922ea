/** ctok decode: token files to pictures, with the model that each file names, or --model. */
import { join, parse } from "node:path";
import { type FallbackOrigin, loadTokens, type Tensor, Tokenizer, TokenizerError, writeImage } from "../../mod.ts";
import { type Command, required } from "./args.ts";
import { expandInputs, type InOut, planOutputs } from "./paths.ts";
import { eachFile, openModel, secondsSince } from "./run.ts";
import { version } from "./version.ts";

export const decodeCommand: Command = {
  name: "decode",
  usage: "TOKENS… --out FILE|DIR",
  about: "token files to pictures: PNG, or by FILE's extension; the model is the one that a file names",
  accepts: ["model", "out", "precision"],

  async run(args, report, signal) {
    const files = planOutputs(expandInputs(args.inputs), required(args.out, "out"), ".png");
    const open = (model: string) => openModel(model, args, { half: "decoder", signal });
    const fixed = args.model === undefined ? undefined : await open(args.model);
    // The model of the last file, kept for the next: most folders hold one model's tokens, and two may not fit in memory.
    let last: { readonly source: string; readonly tokenizer: Tokenizer } | undefined;
    const modelOf = async (source: string) => {
      if (last?.source !== source) {
        await last?.tokenizer.close();
        last = undefined;
        last = { source, tokenizer: await open(source) };
      }
      return last.tokenizer;
    };
    const taken = new Set(files.map(({ out }) => out));
    try {
      await eachFile(files, report, signal, async (io, job) => {
        const start = performance.now();
        const tokens = await loadTokens(io.file, fixed && fallbackOf(fixed));
        const tokenizer = fixed ?? await modelOf(tokens.origin.source);
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
      await fixed?.close();
      await last?.tokenizer.close();
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
        `${file}: expected a free name for picture ${n} of ${batch}, found that ${numbered} is another file's`,
      );
    }
    taken.add(numbered);
    return { out: numbered, picture: pictures.at(n) };
  });
}
