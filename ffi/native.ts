/**
 * What src/ may know of native code: an Engine that submits jobs and settles their promises, and failures as values of
 * one class. The runtime adapters (bun.ts, deno.ts, node.ts) only open the library; everything else is here, once.
 * No native thread calls into JavaScript: a Worker may be ended while its job runs, and a call into a realm that is
 * gone ends the process. JavaScript asks instead, now and then while jobs are pending.
 */
import { clearTimeout, setTimeout } from "node:timers"; // the global ones may be a test's
import * as layout from "./layout.ts";
import { NativeFailure, type Struct, type Values } from "./layout.ts";
import type { SymbolName, symbols } from "./symbols.ts";

type Argument<T> = T extends "buffer" ? Uint8Array | null
  : T extends "u64" ? bigint
  : T extends "callback" ? unknown
  : number;
type Arguments<P extends readonly unknown[]> = { -readonly [I in keyof P]: Argument<P[I]> };
type Result<R> = R extends "string" ? string : number;
export type Functions = {
  [K in SymbolName]: (...args: Arguments<(typeof symbols)[K]["parameters"]>) => Result<(typeof symbols)[K]["result"]>;
};

export { NativeFailure };
export type JobInfo = Values<typeof layout.JobInfo.fields>;
export type PlanInfo = Values<typeof layout.Plan.fields>;
export type NativeModelInfo = Values<typeof layout.ModelInfo.fields>;
export type StepInfo = Values<typeof layout.Step.fields>;
export type NativeDeviceInfo = Values<typeof layout.DeviceInfo.fields>;
export type NativeEngineInfo = Values<typeof layout.EngineInfo.fields>;
export type RequestValues = Partial<Values<typeof layout.Request.fields>>;
export type ModelOptionValues = Partial<Values<typeof layout.ModelOptions.fields>>;

/** Of an engine; 0 and what is not given mean the default. kernels, device: numbers of layout.ts. */
export interface EngineSettings {
  readonly threads?: number | undefined;
  readonly kernels?: number | undefined;
  readonly device?: number | undefined;
  readonly deviceIndex?: number | undefined;
  /** Whether `steps` tells of its jobs. A GPU is then slower. */
  readonly keepsSteps?: boolean | undefined;
}

/** NUL-terminated UTF-8. `name`: for the message, where C would read another text. */
function cString(name: string, text: string): Uint8Array {
  const bytes = layout.utf8(name, text), out = new Uint8Array(bytes.length + 1);
  out.set(bytes);
  return out;
}

const poolCapacity = 64;
/**
 * Between two looks for ended jobs: a 32nd of the time since the last one ended, so that a long job costs little to
 * wait for.
 */
const shortestMs = 1, longestMs = 10, part = 32;

/**
 * One native engine: a thread that runs jobs in order. Shared by all models opened with the same options. It keeps the
 * process alive while jobs are pending, and ends with the thread of this realm: a Worker's, however that comes to its
 * end.
 */
export class Engine {
  readonly #f: Functions;
  readonly #id: number;
  readonly #owners = new FinalizationRegistry<number>((model) => {
    if (!this.#isClosed) this.#f.ctok_model_close(model, null); // HANDLE where its owner closed it
  });
  #timer: ReturnType<typeof setTimeout> | undefined;
  #lastEnd = 0;
  #isClosed = false;
  /** Milliseconds since 1970: what `start_ns` of steps counts from. */
  readonly openedAt: number;
  readonly #waiting = new Map<number, { resolve(info: JobInfo): void; reject(error: unknown): void }>();
  readonly #ids = new Uint8Array(new ArrayBuffer(1024));
  readonly #count = new Uint8Array(new ArrayBuffer(1024));

  constructor(functions: Functions, options: EngineSettings = {}) {
    const f = this.#f = functions;
    if (f.ctok_abi_version() !== layout.ABI_VERSION) {
      throw new NativeFailure(
        layout.status.UNSUPPORTED,
        f.ctok_abi_version(),
        `native library ${f.ctok_version()}: expected ABI ${layout.ABI_VERSION}, found ${f.ctok_abi_version()}; ` +
          "build it again (bun build.ts)",
      );
    }
    const native = layout.EngineOptions.make({
      num_threads: options.threads ?? 0,
      kernels: options.kernels ?? 0,
      device: options.device ?? layout.device.auto,
      device_index: options.deviceIndex ?? 0,
      ends_with_thread: 1,
      keeps_steps: options.keepsSteps ? 1 : 0,
      opens_in_background: 1,
    });
    this.openedAt = performance.timeOrigin + performance.now();
    this.#id = this.#submit((id, error) => f.ctok_engine_open(native, null, id, error));
  }

  /** Settles once the device is open; rejects with the NativeFailure of why it cannot be. The engine is then closed. */
  async ready(): Promise<void> {
    for (let ms = shortestMs;; ms = Math.min(2 * ms, longestMs)) {
      try {
        this.#check((error) => this.#f.ctok_engine_ready(this.#id, 0, error));
        return;
      } catch (failure) {
        if ((failure as NativeFailure).status !== layout.status.NOT_READY) {
          this.close();
          throw failure;
        }
      }
      await new Promise((resolve) => setTimeout(resolve, ms));
    }
  }

  get version(): string {
    return this.#f.ctok_version();
  }

  info(): NativeEngineInfo {
    return this.#query(layout.EngineInfo, (out, error) => this.#f.ctok_engine_query(this.#id, out, error));
  }

  // -------------------------------------------------------------- jobs
  /** Each submits at once (throwing NativeFailure if refused) and gives the job's id; `ended` waits for it. */
  openModel(path: string, options: ModelOptionValues): number {
    const native = layout.ModelOptions.make(options), model = cString("model", path);
    return this.#submit((job, error) => this.#f.ctok_model_open(this.#id, model, native, job, error));
  }

  convert(outPath: string, path: string, options: ModelOptionValues): number {
    const native = layout.ModelOptions.make(options), out = cString("outPath", outPath), model = cString("model", path);
    return this.#submit((job, error) => this.#f.ctok_model_convert(this.#id, out, model, native, job, error));
  }

  listDevices(): number {
    return this.#submit((job, error) => this.#f.ctok_device_list(this.#id, job, error));
  }

  run(model: number, input: Uint8Array, request: RequestValues): number {
    const native = layout.Request.make(request);
    return this.#submit((job, error) =>
      this.#f.ctok_job_submit(model, input, BigInt(input.byteLength), native, job, error)
    );
  }

  /** Submits the next chunk of a stream; it knows the task and which chunk this is. */
  runChunk(stream: number, input: Uint8Array, request: RequestValues): number {
    const native = layout.Request.make(request);
    return this.#submit((job, error) =>
      this.#f.ctok_stream_submit(stream, input, BigInt(input.byteLength), native, job, error)
    );
  }

  /**
   * Settles when the job has ended; rejects with its NativeFailure. The caller then takes its results and releases it.
   */
  ended(job: number): Promise<JobInfo> {
    return new Promise((resolve, reject) => {
      if (this.#waiting.size === 0) this.#lastEnd = performance.now();
      this.#waiting.set(job, { resolve, reject });
      this.#keepLooking();
    });
  }

  query(job: number): JobInfo {
    return this.#query(layout.JobInfo, (out, error) => this.#f.ctok_job_query(job, out, error));
  }

  /** Copies output `index` into memory of its own. */
  take(job: number, index: number, bytes: number): Uint8Array {
    const out = new Uint8Array(new ArrayBuffer(Math.max(bytes, 1024))).subarray(0, bytes);
    this.#check((error) => this.#f.ctok_job_take(job, out, BigInt(bytes), index, error));
    return out;
  }

  /** When the steps of a job that has ended well ran; none unless the engine keeps them. */
  steps(job: number): StepInfo[] {
    return this.#list(layout.Step, (...to) => this.#f.ctok_job_steps(job, ...to));
  }

  /** Of a job of `listDevices` that has ended well. */
  devices(job: number): NativeDeviceInfo[] {
    return this.#list(layout.DeviceInfo, (...to) => this.#f.ctok_job_devices(job, ...to));
  }

  cancel(job: number): void {
    this.#check((error) => this.#f.ctok_job_cancel(job, error));
    this.#look(); // a job that had not started has ended without a wake-up
  }

  release(job: number): void {
    this.#check((error) => this.#f.ctok_job_release(job, error));
  }

  // -------------------------------------------------------------- models and streams
  modelInfo(model: number): NativeModelInfo {
    return this.#query(layout.ModelInfo, (out, error) => this.#f.ctok_model_query(model, out, error));
  }

  plan(model: number, request: RequestValues): PlanInfo {
    const native = layout.Request.make(request);
    return this.#query(layout.Plan, (out, error) => this.#f.ctok_plan_query(model, out, native, error));
  }

  /** An id for runChunk. attentionFrames: how many token frames a frame sees, itself included; 0: all of the past. */
  openStream(model: number, task: number, attentionFrames: number): number {
    const native = layout.StreamOptions.make({ task, attention_frames: attentionFrames });
    return this.#submit((stream, error) => this.#f.ctok_stream_open(model, native, stream, error));
  }

  closeStream(stream: number): void {
    this.#check((error) => this.#f.ctok_stream_close(stream, error));
  }

  /**
   * The model closes when `owner` is collected, if nobody closes it before: a reloaded module leaves such owners
   * behind.
   */
  own(owner: object, model: number): void {
    this.#owners.register(owner, model);
  }

  closeModel(model: number): void {
    this.#check((error) => this.#f.ctok_model_close(model, error));
    this.#look();
  }

  /** Ends everything that is pending with CLOSED and joins the native thread. */
  close(): void {
    if (this.#isClosed) return;
    this.#look();
    this.#check((error) => this.#f.ctok_engine_close(this.#id, error));
    this.#isClosed = true;
    clearTimeout(this.#timer);
    for (const { reject } of this.#waiting.values()) {
      reject(new NativeFailure(layout.status.CLOSED, 0, "the engine was closed"));
    }
    this.#waiting.clear();
  }

  // -------------------------------------------------------------- inside
  #check(call: (error: Uint8Array) => number): void {
    const error = layout.ErrorStruct.make();
    if (call(error) === layout.status.OK) return;
    const { status, detail, message } = layout.ErrorStruct.read(error);
    throw new NativeFailure(status, detail, message);
  }

  /** Gives the id that `call` writes. */
  #submit(call: (id: Uint8Array, error: Uint8Array) => number): number {
    const id = new Uint8Array(new ArrayBuffer(1024));
    this.#check((error) => call(id, error));
    return firstU32(id);
  }

  #query<F extends layout.Fields>(struct: Struct<F>, call: (out: Uint8Array, error: Uint8Array) => number): Values<F> {
    const out = struct.make();
    this.#check((error) => call(out, error));
    return struct.read(out);
  }

  /** All structs that `call` gives, which first says how many there are. */
  #list<F extends layout.Fields>(
    struct: Struct<F>,
    call: (out: Uint8Array | null, capacity: number, count: Uint8Array, error: Uint8Array) => number,
  ): Values<F>[] {
    const count = new Uint8Array(new ArrayBuffer(1024));
    this.#check((error) => call(null, 0, count, error));
    const length = firstU32(count), out = new Uint8Array(new ArrayBuffer(Math.max(length * struct.bytes, 1024)));
    this.#check((error) => call(out, length, count, error));
    return Array.from({ length }, (_, i) => struct.read(out, i * struct.bytes));
  }

  /** Collects ended jobs and settles their promises. */
  #look(): void {
    for (let count = poolCapacity; count === poolCapacity;) {
      this.#check((error) => this.#f.ctok_engine_wait(this.#id, this.#ids, poolCapacity, this.#count, 0, error));
      count = firstU32(this.#count);
      for (const job of new Uint32Array(this.#ids.buffer, 0, count)) this.#settle(job);
    }
  }

  #keepLooking(): void {
    const delay = (performance.now() - this.#lastEnd) / part;
    this.#timer ??= setTimeout(() => {
      this.#timer = undefined;
      this.#look();
      if (this.#waiting.size > 0) this.#keepLooking();
    }, Math.min(Math.max(shortestMs, delay), longestMs));
  }

  #settle(job: number): void {
    const waiting = this.#waiting.get(job);
    if (!waiting) return;
    this.#waiting.delete(job);
    this.#lastEnd = performance.now();
    try {
      this.#check((error) => this.#f.ctok_job_wait(job, 0, error));
      waiting.resolve(this.query(job));
    } catch (failure) {
      waiting.reject(failure);
    }
  }
}

function firstU32(memory: Uint8Array): number {
  return new DataView(memory.buffer, memory.byteOffset).getUint32(0, true);
}
