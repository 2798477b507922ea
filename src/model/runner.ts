/**
 * An open native model as Tokenizer and its streams use it: submits requests, gives tensors, and knows whether it is
 * closed. Not part of the public API.
 */
import * as layout from "../../ffi/layout.ts";
import type { Engine, JobInfo, PlanInfo, RequestValues } from "../../ffi/native.ts";
import { TokenizerError } from "../errors.ts";
import type { ModelInfo } from "./info.ts";
import { type JobOptions, located, runJob } from "./job.ts";
import type { Trace } from "./trace.ts";
import { type Origin, Tensor, type TokenKind, type VideoOrigin, viewAs } from "../tokens/tensor.ts";

export type OutputTensor = Tensor & { readonly kind: TokenKind | "pixels" };

/** What a job gave, and how many pixels of padding lie above and left of the picture. */
export interface Results {
  readonly outputs: readonly OutputTensor[];
  readonly top: number;
  readonly left: number;
}

export class Runner {
  readonly info: ModelInfo;
  readonly #engine: Engine;
  readonly #model: number;
  readonly #pending = new Set<Promise<unknown>>();
  readonly #jobs = new Set<Promise<unknown>>(); // which may end after the call that an abort has answered
  readonly #trace: Trace | undefined;
  #isClosed = false;

  constructor(engine: Engine, model: number, info: ModelInfo, trace?: Trace) {
    this.#trace = trace;
    this.#engine = engine;
    this.#model = model;
    this.info = info;
    engine.own(this, model);
  }

  checkOpen(): void {
    if (this.#isClosed) {
      throw new TokenizerError("CLOSED", `${this.info.name}: expected an open tokenizer, found one that was closed`);
    }
  }

  /** Runs work that close() waits for; its errors carry the caller's stack, which is that of `site`. */
  track<T>(work: (site: Error) => Promise<T>): Promise<T> {
    const site = new Error();
    const promise = located(async () => {
      this.checkOpen();
      return await work(site);
    }, site);
    hold(this.#pending, promise);
    return promise;
  }

  /** Runs a request as one job: alone, or as the next chunk of `stream`. */
  run(input: Uint8Array, request: RequestValues, options: JobOptions, stream?: number): Promise<Results> {
    this.checkOpen();
    const submit = () => {
      if (stream === undefined) return this.#engine.run(this.#model, input, request);
      return this.#engine.runChunk(stream, input, request);
    };
    const take = (info: JobInfo, job: number) => {
      this.#trace?.add(this.#engine, job, info, this.info.name, request, stream !== undefined);
      return {
        outputs: info.outputs.slice(0, info.num_outputs).map((out, i) =>
          toTensor(out, this.#engine.take(job, i, out.bytes))
        ),
        top: info.pad_top,
        left: info.pad_left,
      };
    };
    return runJob(this.#engine, submit, take, options, { hold: (ended) => hold(this.#jobs, ended) });
  }

  /** Runs a request from pixels to tokens, which carry their origin. */
  async encode(input: Uint8Array, request: RequestValues, options: JobOptions, video?: VideoOrigin, stream?: number) {
    const { outputs, top, left } = await this.run(input, request, options, stream);
    const origin = this.#origin(request.height!, request.width!, top, left, video);
    const parts = outputs.map((t) => [t.kind, new Tensor(t.dtype, t.shape, t.data, { kind: t.kind, origin })]);
    return { origin, parts: Object.fromEntries(parts) as { [K in TokenKind]?: Tensor } };
  }

  openStream(task: number, attentionFrames: number): number {
    this.checkOpen();
    return this.#engine.openStream(this.#model, task, attentionFrames);
  }

  /** Closes a stream. It does nothing after close(), which closes all streams. */
  closeStream(stream: number): void {
    if (!this.#isClosed) this.#engine.closeStream(stream);
  }

  plan(request: RequestValues): PlanInfo {
    this.checkOpen();
    return this.#engine.plan(this.#model, request);
  }

  /** The origin of tokens that are made of pixels of this size. */
  #origin(height: number, width: number, top: number, left: number, video?: VideoOrigin): Origin {
    const { name: model, source, precision, sha256, spatialFactor, quantizer } = this.info;
    const version = this.#engine.version;
    return Object.freeze({
      model,
      source,
      precision,
      sha256,
      spatialFactor,
      ...(quantizer && { quantizer }),
      height,
      width,
      top,
      left,
      ...(video && { video }),
      version,
    });
  }

  /** The bits that name the outputs of encoding in a request. */
  tokenOutputs(preQuant: boolean): number {
    const parts = this.info.isDiscrete ? layout.kind.indices | layout.kind.codes : layout.kind.latent;
    return parts | (preQuant ? layout.kind.preQuant : 0);
  }

  async close(): Promise<void> {
    if (!this.#isClosed) {
      this.#isClosed = true;
      this.#engine.closeModel(this.#model);
    }
    await Promise.allSettled([...this.#pending, ...this.#jobs]);
    this.#trace?.write();
  }
}

/** Keeps a promise in `all` until it settles. */
function hold(all: Set<Promise<unknown>>, promise: Promise<unknown>): void {
  all.add(promise);
  promise.catch(() => {}).finally(() => all.delete(promise));
}

function toTensor(out: JobInfo["outputs"][number], bytes: Uint8Array): OutputTensor {
  const dtype = out.kind === layout.kind.pixelsU8 ? "uint8" : out.kind === layout.kind.indices ? "int32" : "float32";
  return new Tensor(dtype, out.shape.slice(0, out.rank), viewAs(dtype, bytes), {
    kind: kindName(out.kind),
  }) as OutputTensor;
}

export function kindName(kind: number): TokenKind | "pixels" {
  if (kind === layout.kind.indices) return "indices";
  if (kind === layout.kind.codes) return "codes";
  if (kind === layout.kind.latent) return "latent";
  return kind === layout.kind.preQuant ? "preQuant" : "pixels";
}
