/**
 * Tokenizer: an open model, from pixels to tokens and back. All work runs on a native thread; a method returns a promise at
 * once, and the jobs of one tokenizer run in the order called. Pixels in and out, layouts, and errors: see each method.
 */
import * as layout from "../ffi/layout.ts";
import { engineFor } from "../ffi/load.ts";
import type { Engine, JobInfo, RequestValues } from "../ffi/native.ts";
import { expected, TokenizerError } from "./errors.ts";
import { type JobOptions, located, locatedSync, runJob } from "./job.ts";
import { describe, type ModelInfo } from "./info.ts";
import { resolveModel } from "./models.ts";
import {
  type DecodeOptions,
  decodeOptions,
  type EncodeOptions,
  encodeOptions,
  jobOptions,
  type OpenOptions,
  openOptions,
  parse,
  planOptions,
  planShape,
} from "./options.ts";
import { bytesOf, type ImageInput, readPixels } from "./pixels.ts";
import { checkTensor, type Origin, Tensor, type TensorLike, type TokenKind, Tokens, viewAs } from "./tensor.ts";

/** What a request needs, known before any work. Bytes and pixels. */
export interface Plan {
  readonly paddedHeight: number;
  readonly paddedWidth: number;
  readonly top: number;
  readonly left: number;
  readonly inputBytes: number;
  readonly resultBytes: number;
  /** Activations and scratch at the peak. */
  readonly arenaBytes: number;
  /** Packed weights, held since opening. */
  readonly weightBytes: number;
  readonly totalBytes: number;
  readonly outputs: readonly { readonly kind: string; readonly shape: readonly number[]; readonly bytes: number }[];
}

export class Tokenizer implements AsyncDisposable {
  /** What the checkpoint is and where each fact came from. */
  readonly info: ModelInfo;
  readonly #engine: Engine;
  readonly #model: number;
  readonly #pending = new Set<Promise<unknown>>();
  #isClosed = false;

  private constructor(engine: Engine, model: number, info: ModelInfo) {
    this.#engine = engine;
    this.#model = model;
    this.info = info;
  }

  /**
   * Opens an embedded model ("nano-DI8x8"), a folder of a public checkpoint, or one file (.jit, .safetensors).
   * Errors: FILE_MISSING, FILE_FORMAT, FILE_TENSOR, FILE_NETWORK, ARGUMENT, DEVICE, UNSUPPORTED, MEMORY, CANCELLED.
   */
  static open(model: string, options: OpenOptions = {}): Promise<Tokenizer> {
    return located(async () => {
      if (typeof model !== "string") throw expected("model", "an embedded name or a path", model);
      const o = parse(openOptions, options, "options");
      if (o.device === "cuda") {
        throw new TokenizerError(
          "DEVICE",
          'options.device: expected "auto" or "cpu" (this build has no CUDA backend), found "cuda"',
        );
      }
      if (o.precision === "bf16") {
        throw new TokenizerError(
          "UNSUPPORTED",
          'options.precision: expected "auto" or "f32" (this build computes in float32), found "bf16"',
        );
      }
      const { path, source, name } = resolveModel(model);
      const engine = await engineFor({ threads: o.threads, kernels: layout.kernels[o.kernels] });
      const native = {
        precision: layout.precision[o.precision],
        halves: o.half ? layout.half[o.half] : 0,
        num_fsq_levels: o.fsqLevels?.length ?? 0,
        fsq_levels: o.fsqLevels ?? [],
        name: o.name ?? name ?? "",
      };
      const open = () => engine.openModel(path, native);
      const close = (info: JobInfo) => engine.closeModel(info.model);
      const id = await runJob(engine, open, (info) => info.model, o, close);
      return new Tokenizer(engine, id, describe(engine, engine.modelInfo(id), source));
    });
  }

  /**
   * Pixels to tokens. Sizes that are no multiple of 16 are padded with black, half on each side; the tokens remember it.
   * An array of inputs is one batch; its pictures must be equally large.
   * Discrete: `indices` int32 [B, h, w] and `codes` float32 [B, d, h, w]. Continuous: `latent` float32 [B, C, h, w].
   * Errors: FILE_MISSING, IMAGE, SHAPE, ARGUMENT, UNSUPPORTED, MEMORY, CANCELLED, CLOSED.
   */
  encode(input: ImageInput | readonly ImageInput[], options: EncodeOptions = {}): Promise<Tokens> {
    return this.#track(async () => {
      const o = parse(encodeOptions, options, "options");
      const pixels = await readPixels(input);
      if (o.preQuant && !this.info.isDiscrete) {
        throw new TokenizerError(
          "UNSUPPORTED",
          `options.preQuant: expected a discrete model, found ${this.info.name}, whose latent is all there is`,
        );
      }
      const parts = this.info.isDiscrete ? layout.kind.indices | layout.kind.codes : layout.kind.latent;
      const request = {
        ...pixels.request,
        task: layout.task.encode,
        outputs: parts | (o.preQuant ? layout.kind.preQuant : 0),
      };
      const plan = this.#engine.plan(this.#open(), request);
      const { height, width } = pixels.request;
      const origin = this.#origin(height, width, plan.pad_top, plan.pad_left);
      const outputs = await this.#run(pixels.bytes, request, o);
      return new Tokens(
        origin,
        Object.fromEntries(outputs.map((t) => [t.kind, new Tensor(t.dtype, t.shape, t.data, { kind: t.kind, origin })])),
      );
    });
  }

  /**
   * Tokens to pixels: what encode returned, or any tensor of indices (int32 or uint16 [(B,) h, w]), codes or latents
   * (float32 [(B,) C, h, w]). Gives float32 [B, 3, H, W], not clamped; or, by `dtype: "uint8"`, uint8 [B, H, W, 3].
   * Tokens that know their picture's size give that size (unless `crop: false`).
   * Errors: VALUE (an index out of range, with its position), SHAPE, UNSUPPORTED, ARGUMENT, MEMORY, CANCELLED, CLOSED.
   */
  decode(tokens: Tokens | TensorLike, options: DecodeOptions & { dtype: "uint8" }): Promise<Tensor<"uint8">>;
  decode(tokens: Tokens | TensorLike, options?: DecodeOptions & { dtype?: "float32" }): Promise<Tensor<"float32">>;
  decode(tokens: Tokens | TensorLike, options?: DecodeOptions): Promise<Tensor<"float32"> | Tensor<"uint8">>;
  decode(tokens: Tokens | TensorLike, options: DecodeOptions = {}): Promise<Tensor<"float32"> | Tensor<"uint8">> {
    return this.#track(async () => {
      const o = parse(decodeOptions, options, "options");
      const { tensor, input, batch, height, width } = this.#tokenInput(tokens);
      const request = {
        task: layout.task.decode,
        input,
        outputs: o.dtype === "uint8" ? layout.kind.pixelsU8 : layout.kind.pixelsF32,
        batch,
        height,
        width,
        ...(o.crop ? this.#crop(tensor, height, width) : {}),
      };
      const [pixels] = await this.#run(bytesOf(tensor), request, o);
      return new Tensor(pixels!.dtype, pixels!.shape, pixels!.data, { kind: "pixels" }) as
        | Tensor<"float32">
        | Tensor<"uint8">;
    });
  }

  /**
   * Pixels to tokens and back in one job: pad, encode, decode, crop. uint8 [B, H, W, 3], as large as the input.
   * Errors: as encode and decode.
   */
  autoencode(input: ImageInput | readonly ImageInput[], options: JobOptions = {}): Promise<Tensor<"uint8">> {
    return this.#track(async () => {
      const o = parse(jobOptions, options, "options");
      const pixels = await readPixels(input);
      const request = { ...pixels.request, task: layout.task.autoencode, outputs: layout.kind.pixelsU8 };
      const [image] = await this.#run(pixels.bytes, request, o);
      return new Tensor("uint8", image!.shape, image!.data as Uint8Array, { kind: "pixels" });
    });
  }

  /** What a request will need and return, before any work. Height and width in pixels, or in tokens for `task: "decode"`. */
  plan(
    shape: { batch?: number; height: number; width: number },
    options: { task?: "encode" | "decode" | "autoencode" } = {},
  ): Plan {
    return locatedSync(() => {
      const s = parse(planShape, shape, "shape");
      const { task } = parse(planOptions, options, "options");
      const input = task !== "decode"
        ? layout.kind.pixelsU8
        : this.info.isDiscrete
        ? layout.kind.indices
        : layout.kind.latent;
      const p = this.#engine.plan(this.#open(), { ...s, task: layout.task[task], input });
      return {
        paddedHeight: p.padded_height,
        paddedWidth: p.padded_width,
        top: p.pad_top,
        left: p.pad_left,
        inputBytes: p.input_bytes,
        resultBytes: p.result_bytes,
        arenaBytes: p.arena_bytes,
        weightBytes: p.weight_bytes,
        totalBytes: p.input_bytes + p.result_bytes + p.arena_bytes + p.weight_bytes,
        outputs: p.outputs.slice(0, p.num_outputs).map((out) => ({
          kind: kindName(out.kind),
          shape: out.shape.slice(0, out.rank),
          bytes: out.bytes,
        })),
      };
    });
  }

  /** Ends pending work with CLOSED and frees the model. Closing twice is fine; using it afterwards throws CLOSED. */
  async close(): Promise<void> {
    if (!this.#isClosed) {
      this.#isClosed = true;
      this.#engine.closeModel(this.#model);
    }
    await Promise.allSettled(this.#pending);
  }

  [Symbol.asyncDispose](): Promise<void> {
    return this.close();
  }

  // -------------------------------------------------------------- inside
  #open(): number {
    if (this.#isClosed) {
      throw new TokenizerError("CLOSED", `${this.info.name}: expected an open tokenizer, found one that was closed`);
    }
    return this.#model;
  }

  #track<T>(work: () => Promise<T>): Promise<T> {
    const promise = located(async () => {
      this.#open();
      return await work();
    });
    this.#pending.add(promise);
    promise.catch(() => {}).finally(() => this.#pending.delete(promise));
    return promise;
  }

  #run(input: Uint8Array, request: RequestValues, options: JobOptions): Promise<OutputTensor[]> {
    const model = this.#open();
    const take = (info: JobInfo, job: number) =>
      info.outputs.slice(0, info.num_outputs).map((out, i) => toTensor(out, this.#engine.take(job, i, out.bytes)));
    return runJob(this.#engine, () => this.#engine.run(model, input, request), take, options);
  }

  #origin(height: number, width: number, top: number, left: number): Origin {
    const { name: model, source, spatialFactor, levels } = this.info;
    return Object.freeze({ model, source, spatialFactor, levels, height, width, top, left, version: this.#engine.version });
  }

  #tokenInput(tokens: Tokens | TensorLike) {
    let tensor: TensorLike = tokens instanceof Tokens ? tokens.main : tokens;
    if (tensor === null || typeof tensor !== "object") throw expected("tokens", "what encode returned, or a tensor", tensor);
    checkTensor("tokens", tensor);
    const { name, isDiscrete, latentChannels } = this.info;
    const wanted = isDiscrete
      ? `indices int32 or uint16 [B, h, w], or codes float32 [B, ${latentChannels}, h, w]`
      : `a latent float32 [B, ${latentChannels}, h, w]`;
    if ((tensor as Tensor).kind === "preQuant") {
      throw expected(`${name} decodes`, wanted, "preQuant, which is not quantised", "UNSUPPORTED");
    }
    const isIndices = tensor.dtype === "int32" || tensor.dtype === "uint16";
    if (tensor.dtype === "uint8" || (isIndices && !isDiscrete)) {
      throw expected(`${name} decodes`, wanted, tensor.dtype, "UNSUPPORTED");
    }
    const rank = isIndices ? 3 : 4;
    const shape = tensor.shape.length === rank - 1 ? [1, ...tensor.shape] : [...tensor.shape];
    if (shape.length !== rank || (!isIndices && shape[1] !== latentChannels)) {
      throw expected(`${name} decodes`, wanted, tensor.shape, "SHAPE");
    }
    if (tensor.dtype === "uint16") {
      tensor = {
        ...tensor,
        origin: (tensor as Tensor).origin,
        dtype: "int32",
        data: Int32Array.from(tensor.data),
      } as TensorLike;
    }
    const input = isIndices ? layout.kind.indices : isDiscrete ? layout.kind.codes : layout.kind.latent;
    const [batch, height, width] = isIndices ? shape : [shape[0], shape[2], shape[3]];
    return { tensor, input, batch: batch!, height: height!, width: width! };
  }

  /** The picture inside its padding, where the tokens remember one. Tokens cut to another size are decoded whole. */
  #crop(tensor: TensorLike, height: number, width: number): RequestValues {
    const origin = (tensor as Tensor).origin;
    if (!origin) return {};
    const { name, spatialFactor, levels } = this.info;
    if (origin.spatialFactor !== spatialFactor || origin.levels.join() !== levels.join()) {
      const describeFactor = (factor: number, l: readonly number[]) =>
        `factor ${factor}${l.length ? `, FSQ levels ${l.join(" ")}` : ", continuous"}`;
      const wanted = `tokens of ${describeFactor(spatialFactor, levels)}`;
      const found = `tokens of ${origin.model} (${describeFactor(origin.spatialFactor, origin.levels)})`;
      throw new TokenizerError("UNSUPPORTED", `${name}: expected ${wanted}, found ${found}`);
    }
    const fits = (tokens: number, pixels: number, before: number) => {
      const missing = tokens * spatialFactor - pixels;
      return missing >= 0 && before === Math.floor(missing / 2);
    };
    if (!fits(height, origin.height, origin.top) || !fits(width, origin.width, origin.left)) return {};
    return { crop_top: origin.top, crop_left: origin.left, crop_height: origin.height, crop_width: origin.width };
  }
}

// ---------------------------------------------------------------- results out
type OutputTensor = Tensor & { kind: TokenKind };

function toTensor(out: JobInfo["outputs"][number], bytes: Uint8Array): OutputTensor {
  const dtype = out.kind === layout.kind.pixelsU8 ? "uint8" : out.kind === layout.kind.indices ? "int32" : "float32";
  return new Tensor(dtype, out.shape.slice(0, out.rank), viewAs(dtype, bytes), { kind: kindName(out.kind) }) as OutputTensor;
}

function kindName(kind: number): TokenKind | "pixels" {
  if (kind === layout.kind.indices) return "indices";
  if (kind === layout.kind.codes) return "codes";
  if (kind === layout.kind.latent) return "latent";
  return kind === layout.kind.preQuant ? "preQuant" : "pixels";
}
