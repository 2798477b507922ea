/**
 * The short verbs of the REPL and of `ctok run`, around models that stay open: each returns a value to script with. A
 * verb checks what it is given, and a wrong call answers with the verb's signature and what it received.
 */
import { extname } from "node:path";
import * as ctok from "../mod.ts";
import type { Screen } from "./screen.ts";
import {
  described,
  type Difference,
  framesIn,
  isDifference,
  isPixels,
  isTensor,
  isTokens,
  isVideo,
  type Picture,
  pictureOf,
  type Seen,
  type Video,
} from "./values.ts";

/** Frames of a video that load keeps unless told otherwise. */
const defaultFrames = 33;

export interface Verb {
  readonly name: string;
  readonly signature: string;
  readonly about: string;
  // deno-lint-ignore no-explicit-any
  readonly run: (...args: any[]) => unknown;
  readonly accepts: readonly Check[];
}

/** What an argument must be, and how to say so. `isOptional`: may be left out. */
interface Check {
  readonly wanted: string;
  readonly isOptional?: boolean;
  readonly fits: (value: unknown) => boolean;
}

const path: Check = { wanted: "a path", fits: (x) => typeof x === "string" && x !== "" };
const tokens: Check = { wanted: "tokens, as encode gives", fits: isTokens };
const picture: Check = { wanted: "a picture, as load and decode give", fits: (x) => isPixels(x) && !isVideo(x) };
const pixels: Check = {
  wanted: "a path or a picture or video, as load gives",
  fits: (x) => path.fits(x) || isPixels(x),
};
const number: Check = { wanted: "a number", fits: (x) => typeof x === "number" };
const region: Check = {
  wanted: "a region { top, left, height, width }",
  fits: (x) => typeof x === "object" && x !== null,
};
const code: Check = {
  wanted: "a code's index, or the values of its channels",
  fits: (x) => typeof x === "number" || Array.isArray(x) || ArrayBuffer.isView(x),
};
const anything: Check = { wanted: "something to show", fits: (x) => x !== undefined };
const optional = (check: Check): Check => ({ ...check, isOptional: true });
const codebook = optional({ wanted: "a codebook, float32 [size, channels]", fits: isTensor });
const settings = optional({ wanted: "options", fits: (x) => typeof x === "object" && x !== null });

export class Session implements AsyncDisposable {
  readonly verbs: readonly Verb[];
  readonly #screen: Screen;
  readonly #opening: ctok.OpenOptions;
  readonly #open = new Map<string, ctok.Tokenizer>();
  /** Of models with a learned codebook, by their sha256, so that verbs on their tokens find it at once. */
  readonly #codebooks = new Map<string, ctok.Codebook>();
  #current: ctok.Tokenizer | undefined;
  #abort = new AbortController();

  /** `opening`: how models are opened where a call does not say. */
  constructor(screen: Screen, opening: ctok.OpenOptions = {}) {
    this.#screen = screen;
    this.#opening = opening;
    const verb = (signature: string, about: string, accepts: readonly Check[], run: Verb["run"]): Verb => {
      return { name: signature.slice(0, signature.indexOf("(")), signature, about, accepts, run };
    };
    this.verbs = [
      verb("open(model, options?)", "open a model and use it from now on", [path, settings], this.#openModel),
      verb(
        "load(path, { frames, limitPixels }?)",
        "a picture, a video's frames, or a token file",
        [path, settings],
        this.#load,
      ),
      verb("encode(x, options?)", "a path, picture or video to tokens", [pixels, settings], this.#encode),
      verb("decode(tokens, options?)", "tokens to a picture or video", [tokens, settings], this.#decode),
      verb("show(x)", "draw a picture, video, tokens, latent, diff or neighbours here", [anything], this.#show),
      verb("diff(a, b)", "PSNR, SSIM and an error map of two pictures", [picture, picture], diff),
      verb(
        "stats(tokens, codebook?)",
        "codebook use, entropy, digits of each level, channel moments",
        [tokens, codebook],
        ctok.statsOf,
      ),
      verb("edit(tokens, region, code, codebook?)", "tokens with one code all over a region", [
        tokens,
        region,
        code,
        codebook,
      ], ctok.edit),
      verb(
        "swap(a, b, region, codebook?)",
        "a with the region taken from b",
        [tokens, tokens, region, codebook],
        ctok.swap,
      ),
      verb("mix(a, b, t, codebook?)", "between a (t = 0) and b (t = 1)", [tokens, tokens, number, codebook], ctok.mix),
      verb("noise(tokens, sigma, seed?, codebook?)", "tokens with Gaussian noise", [
        tokens,
        number,
        optional(number),
        codebook,
      ], ctok.noise),
      verb(
        "neighbours(code, codebook?)",
        "the codes next to it and what they decode to",
        [number, codebook],
        this.#neighbours,
      ),
      verb(
        "save(path, x)",
        "write tokens, a picture or a video, by the path's extension",
        [path, anything],
        this.#save,
      ),
      verb("play(video, fps?)", "a video's frames in the terminal, one after the other", [{
        wanted: "a video, as load and decode give",
        fits: isVideo,
      }, optional(number)], this.#play),
    ];
  }

  /** Everything that is in scope: the public API, and over it the verbs. */
  scope(): Record<string, unknown> {
    return { ...ctok, ctok, ...Object.fromEntries(this.verbs.map((v) => [v.name, this.#checked(v)])) };
  }

  /** The model in use, once one is open. */
  get model(): ctok.Tokenizer | undefined {
    return this.#current;
  }

  /** Ends what verbs are doing; later calls run again. */
  interrupt(): void {
    this.#abort.abort();
    this.#abort = new AbortController();
  }

  async [Symbol.asyncDispose](): Promise<void> {
    this.interrupt();
    await Promise.all(Array.from(this.#open.values(), (model) => model.close()));
    this.#open.clear();
  }

  #checked({ signature, accepts, run }: Verb) {
    return (...args: unknown[]) => {
      const place = accepts.findIndex(({ fits, isOptional }, i) =>
        !(isOptional && args[i] === undefined) && !fits(args[i])
      );
      const wrong = place >= 0 ? `expected ${accepts[place]!.wanted}, found ${described(args[place])}` : undefined;
      const extra = `expected at most ${accepts.length} arguments, found ${args.length}`;
      if (wrong || args.length > accepts.length) {
        throw new ctok.TokenizerError("ARGUMENT", `${signature}: ${wrong ?? extra}`);
      }
      const last = accepts.indexOf(codebook);
      if (last >= 0 && isTokens(args[0])) args[last] ??= this.#codebookOf(args[0].origin);
      return run(...args);
    };
  }

  /** The codebook of an open model; undefined for models without a learned one. */
  #codebookOf({ sha256 = "" }: { readonly sha256?: string | undefined }): ctok.Codebook | undefined {
    return this.#codebooks.get(sha256);
  }

  // ---------------------------------------------------------------- models
  readonly #openModel = async (model: string, options: ctok.OpenOptions = {}): Promise<ctok.Tokenizer> => {
    const { signal } = this.#abort;
    const opened = await this.#screen.during(`opening ${model}`, signal, (onProgress) => {
      const onDownload = ({ bytes, totalBytes }: ctok.DownloadProgress) => onProgress(bytes / totalBytes);
      return ctok.Tokenizer.open(model, { ...this.#opening, signal, onProgress, onDownload, ...options });
    });
    const { source, sha256, quantizer } = opened.info;
    await this.#open.get(source)?.close();
    this.#open.set(source, opened);
    if (quantizer?.kind === "lookup" && !this.#codebooks.has(sha256)) {
      this.#codebooks.set(sha256, await opened.codebook());
    }
    return this.#current = opened;
  };

  /** The model in use where it takes such input, else the embedded one for it. */
  async #modelFor(isVideoInput: boolean): Promise<ctok.Tokenizer> {
    if (this.#current?.info.isVideo === isVideoInput) return this.#current;
    return await this.#opened(isVideoInput ? ctok.defaultVideoModel : ctok.defaultModel);
  }

  /** A model that is open already, or is now opened beside the one in use. */
  async #opened(source: string): Promise<ctok.Tokenizer> {
    const found = this.#open.get(source), before = this.#current;
    if (found) return found;
    const opened = await this.#openModel(source, { isFromTokens: true });
    this.#current = before ?? opened;
    return opened;
  }

  // ---------------------------------------------------------------- in and out
  readonly #load = async (
    path: string,
    { frames = defaultFrames, ...limits }: { frames?: number; limitPixels?: number } = {},
  ) => {
    const kind = extname(path).toLowerCase() === ".gif" ? "video" : await ctok.fileKind(path);
    if (kind === "tokens") return await ctok.loadTokens(path);
    if (kind !== "video") return await ctok.readImage(path, limits);
    const source = await ctok.framesOf(path, { frames, signal: this.#abort.signal, ...limits });
    const all: ctok.VideoFrame[] = [];
    for await (const frame of source.frames) all.push(frame);
    return stackFrames(all);
  };

  readonly #encode = async (x: string | ctok.Tensor<"uint8">, options: ctok.EncodeOptions = {}) => {
    const { signal } = this.#abort, { limitPixels } = options;
    const input = typeof x === "string" ? await this.#load(x, limitPixels === undefined ? {} : { limitPixels }) : x;
    if (isTokens(input)) throw new ctok.TokenizerError("ARGUMENT", `encode(x): expected pixels, found tokens in ${x}`);
    const model = await this.#modelFor(isVideo(input));
    return await this.#screen.during("encoding", signal, (onProgress) => {
      return model.encode(input, { signal, onProgress, ...options });
    });
  };

  readonly #decode = async (tokens: ctok.Tokens, options: ctok.DecodeOptions = {}) => {
    const { signal } = this.#abort, model = await this.#opened(tokens.origin.source);
    return await this.#screen.during("decoding", signal, (onProgress) => {
      return model.decode(tokens, { signal, onProgress, dtype: "uint8", ...options });
    });
  };

  readonly #save = async (path: string, x: unknown): Promise<string> => {
    const shown = isDifference(x) ? x.map : x;
    if (isTokens(shown)) await ctok.saveTokens(path, shown);
    else if (isVideo(shown)) await this.#saveVideo(path, shown);
    else await ctok.writeImage(path, isPixels(shown) ? shown : pictureOf(shown));
    return path;
  };

  async #saveVideo(path: string, video: Video): Promise<void> {
    const [, , height = 0, width = 0] = video.shape;
    const fps = ctok.parseRate(video.origin?.video?.fps ?? "25");
    await using sink = await ctok.createVideo(path, { height, width, fps });
    for (const frame of framesIn(video)) await sink.write(frame.data);
    await sink.close();
  }

  // ---------------------------------------------------------------- seeing
  readonly #show = async (x: unknown): Promise<ctok.Tensor<"uint8">> => {
    const drawn = pictureOf(typeof x === "string" ? await this.#load(x) : x);
    await this.#screen.draw(drawn);
    return drawn;
  };

  readonly #play = async (video: Video, fps = 12): Promise<void> => {
    await this.#screen.play(framesIn(video), fps, this.#abort.signal);
  };

  readonly #neighbours = async (code: number, codebook?: ctok.Codebook): Promise<Seen[]> => {
    const model = await this.#modelFor(false), { quantizer, name, source, spatialFactor } = model.info;
    codebook ??= this.#codebookOf(model.info);
    if (!quantizer) {
      throw new ctok.TokenizerError("UNSUPPORTED", `neighbours(code): ${name} has no codes: its latent is continuous`);
    }
    const side = 4, pixels = side * spatialFactor;
    const origin = {
      model: name,
      source,
      spatialFactor,
      quantizer,
      height: pixels,
      width: pixels,
      top: 0,
      left: 0,
      version: "",
    };
    const seen: Seen[] = [];
    for (const neighbour of ctok.neighboursOf(code, quantizer, codebook)) {
      const indices = new ctok.Tensor("int32", [1, side, side], new Int32Array(side * side).fill(neighbour.index));
      seen.push({
        ...neighbour,
        picture: await model.decode(new ctok.Tokens(origin, { indices }), { dtype: "uint8" }),
      });
    }
    return seen;
  };
}

function stackFrames(frames: readonly ctok.TensorLike<"uint8">[]): Video {
  const first = frames[0];
  if (!first) throw new ctok.TokenizerError("VIDEO", "load(path): expected at least one frame, found none");
  const data = new Uint8Array(frames.length * first.data.length);
  for (const [t, frame] of frames.entries()) data.set(frame.data, t * first.data.length);
  return new ctok.Tensor("uint8", [1, frames.length, ...first.shape.slice(-3)], data, { kind: "pixels" });
}

function diff(a: Picture, b: Picture): Difference {
  const quality = ctok.psnr(a, b), [height = 0, width = 0] = a.shape.slice(-3);
  const map = new Uint8Array(a.data.length).map((_, i) => Math.min(255, 4 * Math.abs(a.data[i]! - b.data[i]!)));
  const similar = Math.min(height, width) >= 7 ? ctok.ssim(a, b) : undefined; // whose windows are 7 x 7
  return {
    psnr: quality,
    ssim: similar,
    map: new ctok.Tensor("uint8", [1, height, width, 3], map, { kind: "pixels" }),
  };
}
