/**
 * Tokenizer: an open model, from pixels to tokens and back. All work runs on a native thread: methods return promises
 * at once, and the jobs of one tokenizer run in the order called. Each method says its layouts and errors.
 */
import type { z } from "zod";
import * as layout from "../../ffi/layout.ts";
import { engineFor } from "../../ffi/load.ts";
import type { JobInfo, RequestValues } from "../../ffi/native.ts";
import { orAbort } from "../abort.ts";
import { parse } from "../checks.ts";
import { type Frames, inOrder, windowClips } from "./clips.ts";
import { expected, TokenizerError } from "../errors.ts";
import { describe, type ModelInfo } from "./info.ts";
import { pathOf } from "../inputs.ts";
import { type JobOptions, located, locatedSync, runJob } from "./job.ts";
import { framesOf, type VideoFrame } from "../media/frames.ts";
import { fetchModel } from "./fetch.ts";
import * as options from "./options.ts";
import { allocate, type ImageInput, type PixelReading, type Pixels, readPixels } from "./pixels.ts";
import { kindName, type OutputTensor, Runner } from "./runner.ts";
import { traceAsked } from "./trace.ts";
import { checkIterable, decodeClips, decodeStream, encodeClips, encodeStream, limitOf, streamHeld } from "./stream.ts";
import type { Parts } from "./stream.ts";
import { concatAxis, Tensor, type TensorLike, type TokenPart, Tokens } from "../tokens/tensor.ts";
import { checkOrigin, cropOf, ownTokens, tokenInput } from "./tokeninput.ts";
import { joinTokens, timeAxisOf } from "../tokens/windows.ts";

/** What a request needs, known before any work. Bytes, pixels and frames. */
export interface Plan {
  readonly paddedFrames: number;
  readonly paddedHeight: number;
  readonly paddedWidth: number;
  readonly before: number;
  readonly top: number;
  readonly left: number;
  readonly inputBytes: number;
  readonly resultBytes: number;
  /** Activations and scratch memory at their peak, in bytes, of as many images of a batch as are computed together. */
  readonly arenaBytes: number;
  /** Streams only: what is held between chunks at the end of the clip, the temporal attention's past included. */
  readonly stateBytes: number;
  /** The part of `stateBytes` that each frame of tokens adds. */
  readonly stateBytesPerTokenFrame: number;
  /** Packed weights, held since opening. */
  readonly weightBytes: number;
  /**
   * All at once, which is what `maxMemory` looks at: weights, activations, state, and inputs and results: of one job,
   * or of the three windows or chunks of a video that are in flight (one gathered, one queued, one running).
   */
  readonly totalBytes: number;
  readonly outputs: readonly { readonly kind: string; readonly shape: readonly number[]; readonly bytes: number }[];
}

/** The most indices of one request for codes. */
const mostCodesAtOnce = 1 << 20;

export class Tokenizer implements AsyncDisposable {
  readonly #runner: Runner;

  private constructor(runner: Runner) {
    this.#runner = runner;
  }

  /** What the checkpoint is and where each fact came from. */
  get info(): ModelInfo {
    return this.#runner.info;
  }

  /**
   * Opens an embedded model ("nano-DI8x8"), a folder of a checkpoint, one file (.jit, .safetensors, .pt, .pth, .ckpt),
   * a public model by its name ("DI8x8"), or another repository of the hub ("owner/name"), these with "@revision" as
   * wanted. A path that is there goes first. What is not here of a model of the hub is downloaded into the cache that
   * Python's huggingface_hub uses, by the same variables. Errors: FILE_MISSING, FILE_FORMAT, FILE_TENSOR, FILE_NETWORK,
   * FILE_IO, HUB, ARGUMENT, DEVICE, UNSUPPORTED, MEMORY, CANCELLED.
   */
  static open(model: string, openOptions: options.OpenOptions = {}): Promise<Tokenizer> {
    return located(async () => {
      const o = parse(options.openOptions, openOptions, "options");
      const { path, source, name = "" } = await fetchModel(model, o);
      const [device, deviceIndex = 0] = o.device.split(":") as [keyof typeof layout.device, number?];
      const trace = traceAsked(), at = { device: layout.device[device], deviceIndex: Number(deviceIndex) };
      const opening = engineFor({ keepsSteps: trace !== undefined, kernels: layout.kernels[o.kernels], ...at });
      const engine = await orAbort(opening, o.signal);
      const native = {
        precision: layout.precision[o.precision],
        halves: o.half ? layout.half[o.half] : 0,
        num_fsq_levels: o.fsqLevels?.length ?? 0,
        fsq_levels: o.fsqLevels ?? [],
        spatial_factor: o.spatialFactor ?? 0,
        temporal_factor: o.temporalFactor ?? 0,
        num_threads: o.threads ?? 0,
        max_memory_bytes: o.maxMemory ?? 0,
        name: o.name ?? name,
      };
      const open = () => engine.openModel(path, native);
      const close = (info: JobInfo) => engine.closeModel(info.model);
      const id = await runJob(engine, open, (info) => info.model, o, { undo: close });
      return new Tokenizer(new Runner(engine, id, describe(engine, engine.modelInfo(id), source), trace));
    });
  }

  /**
   * Pixels to tokens. Sizes that are no multiple of 16 are padded with black, half on each side; the tokens remember
   * it. An array is one batch of equally large pictures, computed together. A video is cut into windows that do not
   * see each other (see encodeStream for one seamless sequence), and their tokens are concatenated along time.
   * Discrete: `indices` int32 [B, (t,) h, w] and `codes` float32 [B, d, (t,) h, w]. Continuous: `latent` float32
   * [B, C, (t,) h, w].
   * Pixels and bytes are copied before the call returns: change their memory as you like afterwards.
   * Errors: FILE_MISSING, IMAGE, VIDEO, FFMPEG, SHAPE, VALUE (a pixel that is not finite, with its position), ARGUMENT,
   * UNSUPPORTED, MEMORY, CANCELLED, CLOSED.
   */
  encode(input: ImageInput | readonly ImageInput[], encodeOptions: options.EncodeOptions = {}): Promise<Tokens> {
    return this.#runner.track(async (site) => {
      const o = parse(options.encodeOptions, encodeOptions, "options");
      const window = o.window ?? options.defaultWindow,
        { limitPixels, preQuant, maxMemory, signal } = o,
        parts: TokenPart[] = [];
      this.#checkPreQuant(preQuant);
      if (this.info.isVideo && (typeof input === "string" || input instanceof URL)) {
        const { frames, fps, sampleAspect } = await framesOf(pathOf("input", input), { limitPixels, signal });
        const streamOptions = { preQuant, maxMemory, signal, window, fps, sampleAspect };
        for await (const part of encodeStream(this.#runner, frames, streamOptions, site)) parts.push(part);
        return joinTokens(parts);
      }
      const task = { task: layout.task.encode, outputs: this.#runner.tokenOutputs(preQuant) };
      const admit = this.#admission(task, window, o), taken = readPixels(input, this.#reading(o, admit));
      // Awaiting only a promise: after an `await` the caller could have changed the memory of a view.
      const pixels = taken instanceof Promise ? await taken : taken;
      if (!this.info.isVideo) {
        const request = { ...pixels.request, ...task, ...limitOf(o) };
        const { origin, parts } = await this.#runner.encode(pixels.bytes, request, o);
        return new Tokens(origin, parts);
      }
      admit(pixels.request);
      const clips = windowClips(pixels, window), jobs = { ...o, numJobs: clips.length, numHeld: clips.length, site };
      for await (const part of encodeClips(this.#runner, clips, jobs)) parts.push(part);
      return joinTokens(parts);
    });
  }

  /**
   * Tokens to pixels: what encode returned, or any tensor of indices (int32 or uint16 [(B,) (t,) h, w]), codes or
   * latents (float32 [(B,) C, (t,) h, w]). Gives float32 [B, 3, (T,) H, W], not clamped; or, by `dtype: "uint8"`, uint8
   * [B, (T,) H, W, 3]. Tokens that know their picture's size give that size (unless `crop: false`), and of a video its
   * frames. Errors: VALUE (an index out of range, with its position), SHAPE, UNSUPPORTED, ARGUMENT, MEMORY, CANCELLED,
   * CLOSED.
   */
  decode(
    tokens: Tokens | TensorLike,
    decodeOptions: options.DecodeOptions & { dtype: "uint8" },
  ): Promise<Tensor<"uint8">>;
  decode(
    tokens: Tokens | TensorLike,
    decodeOptions?: options.DecodeOptions & { dtype?: "float32" },
  ): Promise<Tensor<"float32">>;
  decode(
    tokens: Tokens | TensorLike,
    decodeOptions?: options.DecodeOptions,
  ): Promise<Tensor<"float32"> | Tensor<"uint8">>;
  decode(
    tokens: Tokens | TensorLike,
    decodeOptions: options.DecodeOptions = {},
  ): Promise<Tensor<"float32"> | Tensor<"uint8">> {
    return this.#runner.track(async (site) => {
      const o = parse(options.decodeOptions, decodeOptions, "options");
      const { batch, frames, origin } = tokenInput(this.info, tokens), { video } = origin ?? {};
      if (!video?.windows && !(batch === 1 && frames > 1)) {
        const tensor = tokens instanceof Tokens ? tokens.main : tokens;
        checkOrigin("tokens", tensor);
        const time = video ? { crop_before: 0, crop_frames: video.frames } : {};
        return asPixels(await this.#decodeOne(tensor, o, time)); // submitted in the caller's tick
      }
      // Windows; or chunks of a stream: the whole clip's result in bounded memory.
      const tensor = withBatch(ownTokens("tokens", tokens)), parts: Tensor[] = [], { temporalFactor } = this.info;
      const real = video ? Math.min(frames, Math.ceil((video.frames - 1) / temporalFactor) + 1) : frames;
      const numJobs = video?.windows?.length ?? Math.ceil(real / options.defaultChunkTokens);
      const jobs = { ...o, numJobs, numHeld: heldOf(numJobs), isBatch: true, site };
      for await (const clip of decodeClips(this.#runner, [tensor], jobs)) parts.push(clip);
      return asPixels(parts.length === 1 ? parts[0]! : concatAxis(parts, timeAxisOf(parts[0]!)));
    });
  }

  /**
   * Pixels to tokens and back in one job (one a window for a video): pad, encode, decode, crop. uint8 [B, (T,) H, W,
   * 3], as large as the input. Errors: as encode and decode.
   */
  autoencode(
    input: ImageInput | readonly ImageInput[],
    autoencodeOptions: options.AutoencodeOptions = {},
  ): Promise<Tensor<"uint8">> {
    return this.#runner.track(async (site) => {
      const o = parse(options.autoencodeOptions, autoencodeOptions, "options");
      const { isVideo } = this.info, window = o.window ?? options.defaultWindow;
      if (isVideo && (typeof input === "string" || input instanceof URL)) {
        const want =
          "frames as a tensor (for files see encodeStream and decodeStream, which hold few frames at a time)";
        throw expected("input", want, String(input));
      }
      const task = { task: layout.task.autoencode, outputs: layout.kind.pixelsU8 };
      const admit = this.#admission(task, window, o, heldOf), taken = readPixels(input, this.#reading(o, admit));
      const pixels = taken instanceof Promise ? await taken : taken; // as in encode
      admit(pixels.request);
      const clips = isVideo ? windowClips(pixels, window) : [pixels], parts: Tensor[] = [];
      const limits = { num_held: heldOf(clips.length), ...limitOf(o) };
      const work = async ({ bytes, request }: Pixels, options: JobOptions) => {
        return (await this.#runner.run(bytes, { ...request, ...task, ...limits }, options)).outputs[0]!;
      };
      if (!isVideo) return asPixels(await work(pixels, o)) as Tensor<"uint8">;
      for await (const part of inOrder(clips, { ...o, numJobs: clips.length, site }, work)) parts.push(part);
      return asPixels(concatAxis(parts, 1)) as Tensor<"uint8">;
    });
  }

  /**
   * A video of any length, frame by frame, to parts of tokens: one seamless sequence, equal to the whole clip at once;
   * or, with `window`, windows that do not see each other. `frames`: uint8 [H, W, 3] each. At the end of the clip the
   * last frame is repeated to fill the last chunk; each part says how many of its frames are real.
   * Errors: as encode; VIDEO without a frame; SHAPE where a frame is of another size.
   */
  encodeStream(frames: Frames, streamOptions: options.EncodeStreamOptions = {}): AsyncGenerator<TokenPart> {
    const site = new Error();
    return locatedSync(() => {
      const o = parse(options.encodeStreamOptions, streamOptions, "options");
      this.#checkVideo();
      this.#checkPreQuant(o.preQuant);
      checkIterable("frames", frames, "frames, uint8 [H, W, 3] each");
      return encodeStream(this.#runner, frames, o, site);
    });
  }

  /**
   * Parts of tokens, or whole tokens of a video, back to frames: uint8 [H, W, 3] each, with the times at which they are
   * shown where the tokens know them. Errors: as decode.
   */
  decodeStream(
    parts: Parts,
    streamOptions: options.DecodeStreamOptions = {},
  ): AsyncGenerator<VideoFrame | Tensor<"uint8">> {
    const site = new Error();
    return locatedSync(() => {
      const o = parse(options.decodeStreamOptions, streamOptions, "options");
      this.#checkVideo();
      checkIterable("parts", parts, "parts of tokens");
      return decodeStream(this.#runner, parts, o, site);
    });
  }

  /**
   * What a request will need and return, before any work. Height and width in pixels, or in tokens for `task:
   * "decode"`. Frames of a video: `mode: "window"` (the default) plans one window of it, "stream" its largest chunk and
   * the state at its end, "whole" the clip in one job.
   */
  plan(shape: options.PlanShape, planOptions: options.PlanOptions = {}): Plan {
    return locatedSync(() => {
      const s = parse(options.planShape, shape, "shape");
      const { task, mode, window, chunkFrames, attentionFrames } = parse(options.planOptions, planOptions, "options");
      const { isDiscrete, isVideo, temporalFactor: factor } = this.info;
      const input = task !== "decode" ? layout.kind.pixelsU8 : isDiscrete ? layout.kind.indices : layout.kind.latent;
      const request: RequestValues = { ...s, task: layout.task[task], input };
      const plan = (values: RequestValues) => toPlan(this.#runner.plan({ ...request, ...values }));
      if (!isVideo || mode === "whole") return plan({});
      if (mode === "window") return plan({ frames: Math.min(s.frames, window), num_held: streamHeld });
      const unit = task === "decode" ? 1 : factor, alone = task === "decode" ? 0 : 1;
      const tokens = task === "decode" ? s.frames : Math.ceil((s.frames - 1) / factor) + 1;
      const chunk = Math.min(Math.ceil(chunkFrames / factor) * unit, Math.ceil((s.frames - alone) / unit) * unit);
      // The past that a bound leaves, and a chunk; of an encoder's first one frame of tokens is the first frame alone.
      const past = attentionFrames === undefined ? tokens : Math.max(alone, attentionFrames - 1);
      const state_frames = Math.min(tokens, past + chunk / unit);
      const held = { num_held: streamHeld, state_frames };
      const first = plan({ ...held, frames: chunk + alone, chunk: layout.chunk.first });
      if (chunk + alone >= s.frames) return first;
      const later = plan({ ...held, frames: chunk, chunk: layout.chunk.later });
      return later.totalBytes > first.totalBytes ? later : first;
    });
  }

  /**
   * The codes of all indices: float32 [size, channels], row i the code of index i, as `encode` gives it and `decode`
   * takes it (FSQ: in [-1, 1]). What `codesFromIndices`, `edit` and others need for a learned codebook. Runs no
   * network, so either half will do. Errors: UNSUPPORTED for a continuous model, MEMORY, CLOSED.
   */
  codebook(): Promise<Tensor<"float32">> {
    return this.#runner.track(async () => {
      const { name, isDiscrete, codebookSize: size, latentChannels: channels } = this.info;
      if (!isDiscrete) {
        throw expected("codebook", "a discrete model", `${name}, whose latent is continuous`, "UNSUPPORTED");
      }
      const rows = new Float32Array(allocate("the codebook", size * channels * Float32Array.BYTES_PER_ELEMENT).buffer);
      const kinds = { input: layout.kind.indices, outputs: layout.kind.codes };
      for (let first = 0; first < size; first += mostCodesAtOnce) {
        const width = Math.min(mostCodesAtOnce, size - first), indices = new Int32Array(width).map((_, i) => first + i);
        const request = { task: layout.task.decode, ...kinds, height: 1, width };
        // [1, d, (1,) 1, width]
        const { data } = (await this.#runner.run(new Uint8Array(indices.buffer), request, {})).outputs[0]!;
        for (let i = 0; i < width; i++) {
          for (let c = 0; c < channels; c++) rows[(first + i) * channels + c] = data[c * width + i]!;
        }
      }
      return new Tensor("float32", [size, channels], rows);
    });
  }

  /** Ends pending work with CLOSED and frees the model. Closing twice is fine; using it afterwards throws CLOSED. */
  close(): Promise<void> {
    return this.#runner.close();
  }

  [Symbol.asyncDispose](): Promise<void> {
    return this.close();
  }

  // -------------------------------------------------------------- inside
  /** How a call reads the pixels that it is given. */
  #reading(o: z.output<typeof options.autoencodeOptions>, admit: PixelReading["admit"]): PixelReading {
    return { isVideo: this.info.isVideo, pictures: options.readOptionsOf(o), allowNonFinite: o.allowNonFinite, admit };
  }

  /** Refuses a request that is too large, or whose windows are, before memory is taken for its pixels. */
  #admission(
    task: RequestValues,
    window: number,
    o: { maxMemory?: number | undefined },
    heldOf = (windows: number) => windows,
  ): PixelReading["admit"] {
    return (size) => {
      const num_held = heldOf(Math.ceil(size.frames / window));
      this.#runner.plan({ ...size, ...task, frames: Math.min(size.frames, window), num_held, ...limitOf(o) });
    };
  }

  async #decodeOne(
    tensor: TensorLike,
    o: { dtype: "float32" | "uint8"; crop: boolean; maxMemory?: number | undefined } & JobOptions,
    time: RequestValues,
  ): Promise<OutputTensor> {
    const { bytes, origin, ...size } = tokenInput(this.info, tensor);
    const outputs = layout.kind[o.dtype === "uint8" ? "pixelsU8" : "pixelsF32"];
    const { spatialFactor: factor } = this.info;
    const whole = { crop_height: size.height * factor, crop_width: size.width * factor };
    const crop = o.crop ? cropOf(this.info, origin, size.height, size.width) : {};
    const request = { task: layout.task.decode, outputs, ...size, ...whole, ...crop, ...time, ...limitOf(o) };
    return (await this.#runner.run(bytes, request, o)).outputs[0]!;
  }

  #checkPreQuant(isAsked: boolean): void {
    const { name, isDiscrete } = this.info;
    if (!isAsked || isDiscrete) return;
    const message = `options.preQuant: expected a discrete model, found ${name}, whose latent is all there is`;
    throw new TokenizerError("UNSUPPORTED", message);
  }

  #checkVideo(): void {
    this.#runner.checkOpen();
    if (this.info.isVideo) return;
    const message = `${this.info.name}: expected a video tokenizer for a stream, found an image tokenizer`;
    throw new TokenizerError("UNSUPPORTED", message);
  }
}

/** The tokens of one video with a batch axis of 1. */
function withBatch(tokens: Tensor): Tensor {
  const { dtype, shape, data } = tokens;
  return shape.length === timeAxisOf(tokens) + 3 ? tokens : new Tensor(dtype, [1, ...shape], data, tokens);
}

function asPixels({ dtype, shape, data }: Tensor): Tensor<"float32"> | Tensor<"uint8"> {
  return new Tensor(dtype, shape, data, { kind: "pixels" }) as Tensor<"float32"> | Tensor<"uint8">;
}

/** How many results of one part are in memory at once, where those of all parts are gathered and then joined. */
function heldOf(parts: number): number {
  return parts > 1 ? 2 * parts : 1;
}

function toPlan(p: ReturnType<Runner["plan"]>): Plan {
  return {
    paddedFrames: p.padded_frames,
    paddedHeight: p.padded_height,
    paddedWidth: p.padded_width,
    before: p.pad_before,
    top: p.pad_top,
    left: p.pad_left,
    inputBytes: p.input_bytes,
    resultBytes: p.result_bytes,
    arenaBytes: p.arena_bytes,
    stateBytes: p.state_bytes,
    stateBytesPerTokenFrame: p.state_bytes_per_frame,
    weightBytes: p.weight_bytes,
    totalBytes: p.total_bytes,
    outputs: p.outputs.slice(0, p.num_outputs).map((out) => ({
      kind: kindName(out.kind),
      shape: out.shape.slice(0, out.rank),
      bytes: out.bytes,
    })),
  };
}
