/**
 * From a submitted native job to a promise: abort signals, progress, and errors with the caller's stack. Every public
 * asynchronous function runs inside `located`, so a failure points at the line that called it.
 */
import { status } from "../ffi/layout.ts";
import { LibraryMissing } from "../ffi/load.ts";
import { type Engine, type JobInfo, NativeFailure } from "../ffi/native.ts";
import { cancelled, type ErrorCode, TokenizerError } from "./errors.ts";

export { cancelled };

export interface JobOptions {
  /** Ends the work soon after it fires, with code CANCELLED; the error's cause is the signal's reason. */
  signal?: AbortSignal | undefined;
  /** Called now and then with the part of the work that is done, 0 to 1. */
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

/** The same for work that is done at once. */
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
    /^\s+at |@/.test(line) && !/[/\\]src[/\\]job\.ts/.test(line)
  );
  error.stack = [`${error.name} [${error.code}]: ${error.message}`, ...frames].join("\n");
  return error;
}

/**
 * Submits, waits, and gives what `finish` makes of the ended job; the native job is released on every path.
 * A job that ended before the signal could stop it still counts as cancelled, and `finish` may then undo it.
 */
export async function runJob<T>(
  engine: Engine,
  submit: () => number,
  finish: (info: JobInfo, job: number) => T,
  options: JobOptions = {},
  undo: (info: JobInfo) => void = () => {},
): Promise<T> {
  const { signal, onProgress } = options;
  if (signal?.aborted) throw cancelled(signal);
  const job = submit();
  const ended = engine.ended(job);
  const abort = () => engine.cancel(job);
  signal?.addEventListener("abort", abort, { once: true });
  const ticker = onProgress && setInterval(() => {
    const { steps_done, num_steps } = engine.query(job);
    onProgress(num_steps ? steps_done / num_steps : 0);
  }, progressEveryMs);
  try {
    const info = await ended;
    if (signal?.aborted) {
      undo(info);
      throw cancelled(signal);
    }
    const result = finish(info, job);
    onProgress?.(1);
    return result;
  } catch (error) {
    throw signal?.aborted ? cancelled(signal) : error;
  } finally {
    clearInterval(ticker);
    signal?.removeEventListener("abort", abort);
    engine.release(job);
  }
}
