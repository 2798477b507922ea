/**
 * The short verbs of the REPL and of `ctok run`, around models that stay open: each returns a value to script with. A verb
 * checks what it is given, and a wrong call answers with the verb's signature and what it received.
 */
import { extname } from "node:path";
import * as ctok from "../../mod.ts";
import type { Screen } from "./screen.ts";

type Video = ctok.Tensor<"uint8">; // [1, T, H, W, 3]
type Picture = ctok.Tensor<"uint8">; // [1, H, W, 3]

/** Frames of a video that load keeps unless told otherwise. */
const defaultFrames = 33;

/** What diff gives. */
export interface Difference {
  readonly psnr: number;
  readonly ssim: number | undefined;
  /** |a - b| of each pixel's channels, four times as bright. */
  readonly map: ctok.Tensor<"uint8">;
}

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

const isTensor = (x: unknown): x is ctok.Tensor => x instanceof ctok.Tensor;
const isTokens = (x: unknown): x is ctok.Tokens => x instanceof ctok.Tokens;
const isPixels = (x: unknown): x is ctok.Tensor<"uint8"> => isTensor(x) && x.dtype === "uint8" && x.shape.at(-1) === 3;
const isVideo = (x: unknown): x is Video => isPixels(x) && x.shape.length === 5;
const isDifference = (x: unknown): x is Difference => typeof x === "object" && x !== null && "map" in x && "psnr" in x;
const isNeighbours = (x: unknown): x is Seen[] => Array.isArray(x) && x.length > 0 && x.every((n) => isPixels(n?.picture));

const path: Check = { wanted: "a path", fits: (x) => typeof x === "string" && x !== "" };
const tokens: Check = { wanted: "tokens, as encode gives", fits: isTokens };
const picture: Check = { wanted: "a picture, as load and decode give", fits: (x) => isPixels(x) && !isVideo(x) };
const pixels: Check = { wanted: "a path or a picture or video, as load gives", fits: (x) => path.fits(x) || isPixels(x) };
const number: Check = { wanted: "a number", fits: (x) => typeof x === "number" };
const region: Check = { wanted: "a region { top, left, height, width }", fits: (x) => typeof x === "object" && x !== null };
const code: Check = {
  wanted: "a code's index, or the values of its channels",
  fits: (x) => typeof x === "number" || Array.isArray(x) || ArrayBuffer.isView(x),
};
const anything: Check = { wanted: "something to show", fits: (x) => x !== undefined };
const optional = (check: Check): Check => ({ ...check, isOptional: true });
const settings = optional({ wanted: "options", fits: (x) => typeof x === "object" && x !== null });

/** A neighbouring code and what the current model makes of a patch of it. */
interface Seen extends ctok.Neighbour {
  readonly picture: Picture;
}

export class Session implements AsyncDisposable {
  readonly verbs: readonly Verb[];
  readonly #screen: Screen;
  readonly #open = new Map<string, ctok.Tokenizer>();
  #current: ctok.Tokenizer | undefined;
  #abort = new AbortController();

  constructor(screen: Screen) {
    this.#screen = screen;
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
      verb("stats(tokens)", "codebook use, entropy, digits of each level, channel moments", [tokens], ctok.statsOf),
      verb("edit(tokens, region, code)", "tokens with one code all over a region", [tokens, region, code], ctok.edit),
      verb("swap(a, b, region)", "a with the region taken from b", [tokens, tokens, region], ctok.swap),
      verb("mix(a, b, t)", "between a (t = 0) and b (t = 1)", [tokens, tokens, number], ctok.mix),
      verb("noise(tokens, sigma, seed?)", "tokens with Gaussian noise", [tokens, number, optional(number)], ctok.noise),
      verb("neighbours(code)", "the codes one FSQ step away and what they decode to", [number], this.#neighbours),
      verb("save(path, x)", "write tokens, a picture or a video, by the path's extension", [path, anything], this.#save),
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
      const place = accepts.findIndex(({ fits, isOptional }, i) => !(isOptional && args[i] === undefined) && !fits(args[i]));
      const wrong = place >= 0 ? `expected ${accepts[place]!.wanted}, found ${described(args[place])}` : undefined;
      const extra = `expected at most ${accepts.length} arguments, found ${args.length}`;
      if (wrong || args.length > accepts.length) {
        throw new ctok.TokenizerError("ARGUMENT", `${signature}: ${wrong ?? extra}`);
      }
      return run(...args);
    };
  }

  // ---------------------------------------------------------------- models
  readonly #openModel = async (model: string, options: ctok.OpenOptions = {}): Promise<ctok.Tokenizer> => {
    const { signal } = this.#abort;
    const opened = await this.#screen.during(`opening ${model}`, signal, (onProgress) => {
      return ctok.Tokenizer.open(model, { signal, onProgress, ...options });
    });
    const { source } = opened.info;
    await this.#open.get(source)?.close();
    this.#open.set(source, opened);
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
    const opened = await this.#openModel(source);
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
    const source = await ctok.framesOf(path, this.#abort.signal, { frames, ...limits });
    return stackFrames(await Array.fromAsync(source.frames));
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
    const fps = video.origin?.video?.fps ?? 25;
    await using sink = await ctok.createVideo(path, { height, width, fps: typeof fps === "string" ? rateOf(fps) : fps });
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

  readonly #neighbours = async (code: number): Promise<Seen[]> => {
    const model = await this.#modelFor(false), { levels, name, source, spatialFactor } = model.info;
    if (!model.info.isDiscrete) {
      throw new ctok.TokenizerError("UNSUPPORTED", `neighbours(code): ${name} has no codes: its latent is continuous`);
    }
    const side = 4, { neighbouringCodes } = ctok, pixels = side * spatialFactor;
    const origin = {
      model: name,
      source,
      spatialFactor,
      levels,
      height: pixels,
      width: pixels,
      top: 0,
      left: 0,
      version: "",
    };
    const seen: Seen[] = [];
    for (const neighbour of neighbouringCodes(code, levels)) {
      const indices = new ctok.Tensor("int32", [1, side, side], new Int32Array(side * side).fill(neighbour.index));
      seen.push({ ...neighbour, picture: await model.decode(new ctok.Tokens(origin, { indices }), { dtype: "uint8" }) });
    }
    return seen;
  };
}

// ---------------------------------------------------------------- pictures of values
/** What show draws of a value. Throws ARGUMENT for what has no picture. */
export function pictureOf(x: unknown): ctok.Tensor<"uint8"> {
  if (isDifference(x)) return x.map;
  if (isNeighbours(x)) return ctok.contactSheet(rowsOf(x.map((n) => n.picture), 6));
  if (isTokens(x)) return pictureOf(x.isDiscrete ? x.indices : x.latent);
  if (!isTensor(x)) {
    throw new ctok.TokenizerError(
      "ARGUMENT",
      `show(x): expected a picture, video, tokens, latent, diff or neighbours, found ${described(x)}`,
    );
  }
  if (isVideo(x)) return sheetOf(framesIn(x));
  if (isPixels(x)) return x;
  if (x.kind === "indices") {
    const map = (t: ctok.Tensor) => ctok.tokenMap(t as ctok.Tensor<"int32">, 8);
    return x.shape.length === 4 ? sheetOf(timeSlices(x, 1).map(map)) : map(x.at(0));
  }
  const tiles = (t: ctok.Tensor) => ctok.latentTiles(t as ctok.Tensor<"float32">, 4);
  return x.shape.length === 5 ? sheetOf(timeSlices(x, 2).map(tiles)) : tiles(x.at(0));
}

function rowsOf<T>(all: readonly T[], columns: number): T[][] {
  return Array.from({ length: Math.ceil(all.length / columns) }, (_, r) => all.slice(r * columns, (r + 1) * columns));
}

/** At most eight of the pictures, evenly apart. */
function sheetOf(all: readonly ctok.Tensor<"uint8">[]): ctok.Tensor<"uint8"> {
  const count = Math.min(8, all.length);
  const some = Array.from(
    { length: count },
    (_, i) => all[count === 1 ? 0 : Math.round(i * (all.length - 1) / (count - 1))]!,
  );
  return ctok.contactSheet(rowsOf(some, 4));
}

function framesIn(video: Video): Picture[] {
  const [, frames = 0, height = 0, width = 0] = video.shape, size = height * width * 3;
  return Array.from({ length: frames }, (_, t) => {
    return new ctok.Tensor("uint8", [1, height, width, 3], video.data.subarray(t * size, (t + 1) * size), {
      kind: "pixels",
    });
  });
}

function stackFrames(frames: readonly ctok.TensorLike<"uint8">[]): Video {
  const first = frames[0];
  if (!first) throw new ctok.TokenizerError("VIDEO", "load(path): expected at least one frame, found none");
  const data = new Uint8Array(frames.length * first.data.length);
  for (const [t, frame] of frames.entries()) data.set(frame.data, t * first.data.length);
  return new ctok.Tensor("uint8", [1, frames.length, ...first.shape.slice(-3)], data, { kind: "pixels" });
}

/** The frames of a tensor whose time is `axis`, each without it. */
function timeSlices(x: ctok.Tensor, axis: 1 | 2): ctok.Tensor[] {
  const [outer, frames = 0, ...rest] = axis === 1 ? [1, ...x.shape.slice(1)] : x.shape.slice(1);
  const size = rest.reduce((a, b) => a * b, 1);
  return Array.from({ length: frames }, (_, t) => {
    const data = x.data.slice(0, outer! * size) as typeof x.data;
    for (let o = 0; o < outer!; o++) {
      const from = (o * frames + t) * size;
      (data as Float32Array).set(x.data.subarray(from, from + size) as Float32Array, o * size);
    }
    return new ctok.Tensor(x.dtype, axis === 1 ? [1, ...rest] : [1, outer!, ...rest], data, x.kind ? { kind: x.kind } : {});
  });
}

function diff(a: Picture, b: Picture): Difference {
  const quality = ctok.psnr(a, b), [height = 0, width = 0] = a.shape.slice(-3);
  const map = new Uint8Array(a.data.length).map((_, i) => Math.min(255, 4 * Math.abs(a.data[i]! - b.data[i]!)));
  const similar = Math.min(height, width) >= 7 ? ctok.ssim(a, b) : undefined; // whose windows are 7 x 7
  return { psnr: quality, ssim: similar, map: new ctok.Tensor("uint8", [1, height, width, 3], map, { kind: "pixels" }) };
}

function rateOf(fps: string): ctok.Rate {
  const [num = 25, den = 1] = fps.split("/").map(Number);
  return { num, den };
}

/** A value in few words, for a wrong call's answer. */
function described(x: unknown): string {
  if (x === undefined) return "nothing";
  if (isTokens(x)) return `tokens of ${x.origin.model}`;
  if (isTensor(x)) return `${x.kind ?? "a tensor"} ${x.dtype} [${x.shape.join(", ")}]`;
  if (x instanceof Promise) return "a promise: put await before it";
  if (typeof x === "string") return JSON.stringify(x);
  return typeof x === "object" && x !== null ? `an object ${x.constructor?.name ?? ""}`.trim() : String(x);
}
