/**
 * Functions that do all in one call, over Tokenizer: tokenize a picture, get it back, convert a checkpoint. The first
 * two keep the models of the last calls open.
 */
import * as layout from "../../ffi/layout.ts";
import { parse } from "../checks.ts";
import { tensorOf } from "../tokens/dense.ts";
import { engineFor } from "../../ffi/load.ts";
import { orAbort } from "../abort.ts";
import { type ErrorCode, expected, nameOf, TokenizerError } from "../errors.ts";
import { isBytes } from "../bytes.ts";
import { acceptedSources, type BytesSource, copyOf, isBytesSource, pathOf } from "../inputs.ts";
import { type JobOptions, located, runJob } from "./job.ts";
import { defaultModel, modelMissing, resolveModel } from "./catalogue.ts";
import { fetchModel } from "./fetch.ts";
import { type ConvertOptions, convertOptions, type EncodeOptions } from "./options.ts";
import type { ImageInput } from "./pixels.ts";
import { type Origin, type Tensor, Tokens } from "../tokens/tensor.ts";
import { loadTokens } from "../tokens/store.ts";
import { Tokenizer } from "./tokenizer.ts";
import { ownTokens } from "./tokeninput.ts";

/** Models that tokenize and detokenize keep open at most. Token files of strangers may name many. */
const mostModels = 4;

interface Shared {
  readonly key: string;
  readonly tokenizer: Promise<Tokenizer>;
  /** The tokenizer, once it is open. */
  now: Tokenizer | undefined;
  users: number;
}
/** Tokenizers that are open, by the model's source; the one used last is at the end. */
const opened = new Map<string, Shared>();
let wake: (() => void)[] = []; // calls that wait until a model is idle

/**
 * Runs `work` with the tokenizer of a model with default options, at once where it is open already. `from` is the
 * origin of tokens that name the model: then a failure to open it does not say what its path contains.
 */
async function withModel<T>(
  model: string,
  signal: AbortSignal | undefined,
  work: (tokenizer: Tokenizer) => Promise<T>,
  from?: Origin,
): Promise<T> {
  // Anything but an AbortSignal is refused later, where all options are checked.
  const ends = signal instanceof AbortSignal ? signal : undefined;
  let shared: Shared | undefined;
  try {
    let tokenizer: Tokenizer;
    try {
      const { source } = resolveModel(model);
      while (!opened.has(source) && !openedFrom(source) && opened.size >= mostModels && !closeIdle()) {
        await orAbort(new Promise<void>((resolve) => wake.push(resolve)), ends);
      }
      shared = opened.get(source) ?? openedFrom(source) ?? open(model, source, from !== undefined);
      opened.delete(shared.key);
      opened.set(shared.key, shared);
      shared.users++;
      tokenizer = shared.now ?? await orAbort(shared.tokenizer, ends);
    } catch (failure) {
      throw from ? hidden(failure, from) : failure;
    }
    return await work(tokenizer);
  } finally {
    if (shared) shared.users--;
    const waiting = wake;
    wake = [];
    for (const resolve of waiting) resolve();
  }
}

function isOpen(model: string): boolean {
  return opened.get(resolveModel(model).source)?.now !== undefined;
}

/** The open model that tokens name by this source: they name a commit of the hub, where the caller named a branch. */
function openedFrom(source: string): Shared | undefined {
  return [...opened.values()].find(({ now }) => now?.info.source === source);
}

function open(model: string, source: string, isFromTokens: boolean): Shared {
  const tokenizer = Tokenizer.open(model, { isFromTokens });
  const shared: Shared = { key: source, tokenizer, now: undefined, users: 0 };
  tokenizer.then((now) => shared.now = now, () => opened.get(source) === shared && opened.delete(source));
  return shared;
}

/** Closes the model that was used longest ago of those that nobody uses; false where all are in use. */
function closeIdle(): boolean {
  for (const [source, { users, tokenizer }] of opened) {
    if (users > 0) continue;
    opened.delete(source);
    tokenizer.then((idle) => idle.close(), () => {});
    return true;
  }
  return false;
}

export interface TokenizeOptions extends EncodeOptions {
  /** An embedded or public model's name, a path, or "owner/name" of the hub. Default: nano-DI8x8. */
  model?: string | undefined;
}

/**
 * Pixels to tokens with an embedded model (nano-DI8x8 unless `model` says another) or any other.
 * The four models used last stay open; use Tokenizer.open to decide that yourself. Pixels and bytes are copied before
 * the call returns. Errors: as Tokenizer.open and encode.
 */
export function tokenize(
  input: ImageInput | readonly ImageInput[],
  options: TokenizeOptions = {},
): Promise<Tokens> {
  return located(async () => {
    const { model = defaultModel, ...encode } = Object(options) as typeof options;
    const own = isOpen(model) ? input : ownInput(input); // an open one takes it in this tick
    return await withModel(model, encode.signal, (tokenizer) => tokenizer.encode(own, encode));
  });
}

/** Copies the input, so that the caller may change its memory. */
function ownInput(input: ImageInput | readonly ImageInput[]): ImageInput | ImageInput[] {
  const own = (one: ImageInput, name: string): ImageInput => {
    if (isBytes(one)) return copyOf(one);
    if (one instanceof URL) return pathOf(name, one);
    if (isBytesSource(one)) return one;
    const tensor = tensorOf(name, one) as Tensor<"uint8">;
    return { ...tensor, data: tensor.data.slice() };
  };
  return Array.isArray(input) ? input.map((one, i) => own(one, `input[${i}]`)) : own(input as ImageInput, "input");
}

/** A picture: a tensor uint8 [1, height, width, 3], 3 bytes a pixel (R, G, B), row after row. */
export interface Image extends Tensor<"uint8"> {
  readonly height: number;
  readonly width: number;
}

export interface DetokenizeOptions extends JobOptions {
  /**
   * An embedded or public model's name, a path, or "owner/name" of the hub. Default: the model that the tokens name.
   */
  model?: string | undefined;
}

/**
 * Tokens of one picture back to pixels, with the model that they name (or `model`). Takes what tokenize or encode
 * returned, or a token file: its path, `file:` URL, bytes or Blob. What it gives writeImage, psnr and encode take.
 * A file names its model and no path: unless it is an embedded one, one of the hub, or a file or folder of that name is
 * here, say where by `model`. Of the hub a public model is downloaded; another, as a stranger's tokens may name any, is
 * opened if it is here already. Nothing checks that it is the model that made the tokens; its hash tells:
 * `tokens.origin.sha256` is `info.sha256` of that model. Errors: as Tokenizer.open and decode; TOKEN_FILE; SHAPE for a
 * batch. Where the tokens name a model that cannot be opened the error is FILE_MISSING whatever the reason, as a
 * stranger's file may name any path of this machine: pass `model` to be told.
 */
export function detokenize(
  tokens: Tokens | BytesSource,
  options: DetokenizeOptions = {},
): Promise<Image> {
  return located(async () => {
    const { model, ...decode } = Object(options) as typeof options;
    const read = isBytesSource(tokens) ? await loadTokens(tokens, undefined, decode) : tokens;
    if (!(read instanceof Tokens)) {
      throw expected("tokens", `what tokenize returned, or a token file: ${acceptedSources}`, nameOf(read));
    }
    if (read.origin.video) {
      const message = "tokens: expected those of a picture, found a video's; see Tokenizer.decode and decodeStream";
      throw new TokenizerError("UNSUPPORTED", message);
    }
    const batch = read.main.shape[0]!;
    if (batch !== 1) {
      throw expected(
        "tokens",
        "one picture (use at(n) or Tokenizer.decode for a batch)",
        `a batch of ${batch}`,
        "SHAPE",
      );
    }
    const own = ownTokens("tokens", read);
    const work = (tokenizer: Tokenizer) => tokenizer.decode(own, { ...decode, dtype: "uint8" });
    const pixels = model === undefined
      ? await withModel(read.origin.source, decode.signal, work, read.origin)
      : await withModel(model, decode.signal, work);
    const [, height = 0, width = 0] = pixels.shape;
    return Object.assign(pixels, { height, width });
  });
}

/** Codes of failures that have nothing to do with the file at a path. */
const ofTheMachine: readonly ErrorCode[] = [
  "HUB",
  "LIBRARY",
  "MEMORY",
  "DEVICE",
  "THREAD",
  "CANCELLED",
  "CLOSED",
  "INTERNAL",
];

/**
 * The error for a model that tokens name and that could not be opened. It does not say what is at the model's path, as
 * the tokens may come from a stranger.
 */
function hidden(failure: unknown, origin: Origin): unknown {
  return failure instanceof TokenizerError && ofTheMachine.includes(failure.code) ? failure : modelMissing(origin);
}

/**
 * Writes a checkpoint (a folder of .jit files, or one file) as one safetensors file with the public parameter names;
 * what names and shapes cannot tell goes into its metadata. The file appears whole or not at all, and replaces one of
 * that name; through a symbolic link, the file that it leads to. Aborted, it either rejects and has written nothing,
 * or, where the new file has its name by then, resolves. Errors: as Tokenizer.open; FILE_IO, also for a device, pipe or
 * folder at `outPath`.
 */
export function convert(model: string, outPath: string, options: ConvertOptions = {}): Promise<void> {
  return located(async () => {
    const o = parse(convertOptions, options, "options");
    const { path, name = "" } = await fetchModel(model, o);
    const engine = await orAbort(engineFor(), o.signal);
    const submit = () => engine.convert(outPath, path, { name: o.name ?? name, precision: layout.precision.auto });
    await runJob(engine, submit, () => undefined, o, { isLasting: true });
  });
}
