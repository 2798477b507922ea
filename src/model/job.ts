/**
 * From a submitted native job to a promise: abort signals, progress, and errors with the caller's stack. Every public
 * asynchronous function runs inside `located`, so a failure points at the line that called it.
 */
import { status } from "../../ffi/layout.ts";
import { LibraryMissing } from "../../ffi/load.ts";
import { type Engine, type JobInfo, NativeFailure } from "../../ffi/native.ts";
import { throwIfAborted } from "../abort.ts";
import { cancelled, type ErrorCode, messageOf, TokenizerError } from "../errors.ts";

export interface JobOptions {
  /**
   * Option of calls: when it is aborted, the call ends at once with code CANCELLED, and its cause is the signal's
   * reason.
   */
  signal?: AbortSignal | undefined;
  /**
   * Called now and then with the part of the work that is done, 0 to 1. What it throws, or rejects with where it is
   * async, ends the call with code ARGUMENT and that as the cause.
   */
  onProgress?: ((part: number) => void) | undefined;
}

const progressEveryMs = 50;
const codes = new Map(Object.entries(status).map(([name, number]) => [number as number, name as ErrorCode]));

function toTokenizerError(error: unknown): TokenizerError {
  if (error instanceof TokenizerError) return error;
  if (error instanceof NativeFailure) {
    return new TokenizerError(codes.get(error.status) ?? "INTERNAL", error.message, { detail: error.detail });
  }
  if (error instanceof LibraryMissing) return new TokenizerError("LIBRARY", error.message, { cause: error });
  const text = error instanceof Error ? error.message : String(error);
  return new TokenizerError("INTERNAL", text, { cause: error });
}

/** Runs `work`; what it throws becomes a TokenizerError whose stack is that of the caller of `located`'s caller. */
export async function located<T>(work: () => Promise<T>, site = new Error()): Promise<T> {
  try {
    return await work();
  } catch (thrown) {
    throw relocate(thrown, site);
  }
}

/** `located` for work that is done at once. */
export function locatedSync<T>(work: () => T, site = new Error()): T {
  try {
    return work();
  } catch (thrown) {
    throw relocate(thrown, site);
  }
}

function relocate(thrown: unknown, site: Error): TokenizerError {
  const error = toTokenizerError(thrown);
  const frames = (site.stack ?? "").split("\n").filter((line) =>
    /^\s+at |@/.test(line) && !/[/\\]src[/\\]model[/\\]job\.ts/.test(line)
  );
  error.stack = [`${error.name} [${error.code}]: ${error.message}`, ...frames].join("\n");
  return error;
}

/** What a job needs besides its input. */
export interface JobEnds {
  /** Takes back what the job did when it succeeded although the caller had already stopped it. */
  readonly undo?: (info: JobInfo) => void;
  /**
   * What the job does stays, so the answer waits for its end and tells which it was: done is done, also after an abort.
   */
  readonly isLasting?: boolean;
  /**
   * Given a promise that settles when the native job has ended and is released. The caller may have its answer before
   * that.
   */
  readonly hold?: (ended: Promise<unknown>) => void;
}

/**
 * Submits, waits, and gives what `finish` makes of the ended job; the native job is released on every path. An abort is
 * answered at once, while the native thread finishes the step that it is at; so is a callback that throws. A job that
 * ended before the signal could stop it still counts as cancelled, unless it is lasting.
 */
export async function runJob<T>(
  engine: Engine,
  submit: () => number,
  finish: (info: JobInfo, job: number) => T,
  options: JobOptions = {},
  ends: JobEnds = {},
): Promise<T> {
  const { signal, onProgress } = options;
  throwIfAborted(signal);
  const job = submit();
  let refuse: (why: TokenizerError) => void;
  const stopped = new Promise<never>((_, reject) => refuse = reject);
  stopped.catch(() => {}); // not every way on waits for it
  let isStopped = false;
  const stop = (why: TokenizerError) => {
    if (isStopped) return;
    isStopped = true;
    refuse(why);
    if (isHeld) engine.cancel(job);
  };
  const abort = () => stop(cancelled(signal!));
  signal?.addEventListener("abort", abort, { once: true });
  const progress = onProgress && new Progress(onProgress, stop);
  const ticker = progress && setInterval(() => {
    const { steps_done, num_steps } = engine.query(job);
    progress.tell(num_steps ? steps_done / num_steps : 0);
  }, progressEveryMs);
  const isKept = () => ends.isLasting === true && signal?.aborted === true; // and so not taken back
  let isHeld = true;
  const ended = engine.ended(job).then(async (info) => {
    clearInterval(ticker);
    try {
      if (isStopped && !isKept()) await stopped;
      const result = finish(info, job);
      await Promise.race([stopped, progress?.end()]).catch((why) => isKept() || Promise.reject(why));
      return result;
    } catch (error) {
      if (isStopped) ends.undo?.(info);
      throw error;
    }
  }).finally(() => {
    isHeld = false;
    engine.release(job);
  });
  ends.hold?.(ended);
  try {
    return await (ends.isLasting ? ended : Promise.race([ended, stopped]));
  } catch (error) {
    throw isStopped ? await stopped : error;
  } finally {
    clearInterval(ticker);
    signal?.removeEventListener("abort", abort);
  }
}

/**
 * Reports progress to a caller's callback. What the callback throws or rejects with goes to `fail`, and it is not
 * called again.
 */
class Progress {
  readonly #callback: (part: number) => unknown;
  readonly #fail: (why: TokenizerError) => void;
  readonly #pending = new Set<Promise<void>>();
  #hasFailed = false;

  constructor(callback: (part: number) => unknown, fail: (why: TokenizerError) => void) {
    this.#callback = callback;
    this.#fail = (why) => {
      this.#hasFailed = true;
      fail(why);
    };
  }

  tell(part: number): void {
    if (this.#hasFailed) return;
    const refuse = (cause: unknown) => {
      const message = `options.onProgress: expected a function that does not throw, found ${messageOf(cause)}`;
      this.#fail(new TokenizerError("ARGUMENT", message, { cause }));
    };
    try {
      const answer = this.#callback(part);
      if (typeof (answer as PromiseLike<unknown> | undefined)?.then !== "function") return;
      const pending: Promise<void> = Promise.resolve(answer).then(() => {}, refuse).finally(() =>
        this.#pending.delete(pending)
      );
      this.#pending.add(pending);
    } catch (cause) {
      refuse(cause);
    }
  }

  /** Tells that all is done, and waits for async callbacks, whose failure is the call's too. */
  async end(): Promise<void> {
    this.tell(1);
    await Promise.all(this.#pending);
  }
}
