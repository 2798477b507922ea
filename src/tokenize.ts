/** One-call forms over Tokenizer: tokenize a picture, get it back, convert a checkpoint. */
import * as layout from "../ffi/layout.ts";
import { engineFor } from "../ffi/load.ts";
import { expected, TokenizerError } from "./errors.ts";
import { type JobOptions, located, runJob } from "./job.ts";
import type { Image } from "./media/image.ts";
import { defaultModel, modelMissing, resolveModel } from "./models.ts";
import { type ConvertOptions, convertOptions, type EncodeOptions, type OpenOptions, parse } from "./options.ts";
import type { ImageInput } from "./pixels.ts";
import { type Tensor, Tokens } from "./tensor.ts";
import { decodeTokens, loadTokens } from "./tokenfile.ts";
import { Tokenizer } from "./tokenizer.ts";

const opened = new Map<string, Promise<Tokenizer>>();

/** The tokenizer of a model with default options; stays open for the life of the process. */
async function shared(model: string, options: OpenOptions = {}): Promise<Tokenizer> {
  const key = resolveModel(model).source;
  let tokenizer = opened.get(key);
  if (!tokenizer) {
    tokenizer = Tokenizer.open(model, options);
    opened.set(key, tokenizer);
    tokenizer.catch(() => opened.delete(key));
  }
  return await tokenizer;
}

/**
 * Pixels to tokens with an embedded model (nano-DI8x8 unless `model` says another) or any other.
 * The model stays open for the life of the process; use Tokenizer.open to decide that yourself.
 * Errors: as Tokenizer.open and encode.
 */
export function tokenize(
  input: ImageInput | readonly ImageInput[],
  options: EncodeOptions & { model?: string } = {},
): Promise<Tokens> {
  return located(async () => {
    const { model = defaultModel, ...encode } = options;
    return await (await shared(model)).encode(input, encode);
  });
}

/**
 * Tokens of one picture back to pixels, with the model that they name (or `model`). Takes what tokenize or encode returned,
 * the path of a token file, or its bytes. A file names its model and no path: unless it is an embedded one, or a file or folder of
 * that name is here, say where by `model`. Nothing checks that it is the model that made the tokens; its hash tells:
 * `tokens.origin.sha256` is `info.sha256` of that model.
 * Errors: as Tokenizer.open and decode; FILE_MISSING for the model; TOKEN_FILE; SHAPE for a batch.
 */
export function detokenize(
  tokens: Tokens | string | Uint8Array,
  options: JobOptions & { model?: string } = {},
): Promise<Image> {
  return located(async () => {
    const { model, ...decode } = options;
    const read = typeof tokens === "string"
      ? await loadTokens(tokens)
      : tokens instanceof Uint8Array
      ? decodeTokens(tokens, "tokens")
      : tokens;
    if (!(read instanceof Tokens)) throw expected("tokens", "what tokenize returned, or a token file's path or bytes", read);
    if (read.origin.video) {
      const message = "tokens: expected those of a picture, found a video's; see Tokenizer.decode and decodeStream";
      throw new TokenizerError("UNSUPPORTED", message);
    }
    const batch = read.main.shape[0]!;
    if (batch !== 1) {
      throw expected("tokens", "one picture (use at(n) or Tokenizer.decode for a batch)", `a batch of ${batch}`, "SHAPE");
    }
    const tokenizer = await shared(model ?? read.origin.source).catch((failure) => {
      throw model === undefined && failure.code === "FILE_MISSING" ? modelMissing(read.origin) : failure;
    });
    const { data, shape }: Tensor<"uint8"> = await tokenizer.decode(read, { ...decode, dtype: "uint8" });
    return { data, height: shape[1]!, width: shape[2]! };
  });
}

/**
 * Writes a checkpoint (a folder of .jit files, or one file) as one safetensors file with the public parameter names; what
 * names and shapes cannot tell goes into its metadata. The file appears whole or not at all, and replaces one of that name;
 * through a symbolic link, the file that it leads to. Aborted, it either rejects and has written nothing, or, where the new
 * file has its name by then, resolves. Errors: as Tokenizer.open; FILE_IO, also for a device, pipe or folder at `outPath`.
 */
export function convert(model: string, outPath: string, options: ConvertOptions = {}): Promise<void> {
  return located(async () => {
    const o = parse(convertOptions, options, "options");
    const found = resolveModel(model);
    const engine = await engineFor();
    const submit = () =>
      engine.convert(outPath, found.path, { name: o.name ?? found.name ?? "", precision: layout.precision.auto });
    let isWritten = false;
    await runJob(engine, submit, () => undefined, o, () => isWritten = true).catch((error) => {
      if (!isWritten) throw error;
    });
  });
}
