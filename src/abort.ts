/**
 * AbortSignals: the ways in which work listens to one. Each answers an abort at once with code CANCELLED and takes its
 * listener off again. Called by all that waits; native jobs have more to end, see job.ts.
 */
import { cancelled, type TokenizerError } from "./errors.ts";

export function throwIfAborted(signal: AbortSignal | undefined): void {
  if (signal?.aborted) throw cancelled(signal);
}

/**
 * Runs `work` and gives its result as a promise; an exception becomes a rejection. It is Promise.try, which Node has
 * from version 24 on.
 */
export async function attempt<T>(work: () => T): Promise<Awaited<T>> {
  return await work();
}

/** What `work` gives, or CANCELLED as soon as the signal fires; `work` then goes on unheard. */
export function orAbort<T>(work: Promise<T>, signal: AbortSignal | undefined): Promise<T> {
  if (!signal) return work;
  return new Promise((resolve, reject) => {
    const abort = () => reject(cancelled(signal));
    if (signal.aborted) abort();
    signal.addEventListener("abort", abort, { once: true });
    work.then(resolve, reject).finally(() => signal.removeEventListener("abort", abort));
  });
}

/** What comes from `source`, while an abort is answered at once: also where the next item never comes. */
export async function* abortable<T>(source: AsyncIterable<T> | Iterable<T>, signal?: AbortSignal): AsyncGenerator<T> {
  if (!signal) return yield* source;
  const iterator = Symbol.asyncIterator in source ? source[Symbol.asyncIterator]() : source[Symbol.iterator]();
  let refuse: ((why: TokenizerError) => void) | undefined; // of the item that is waited for
  const abort = () => refuse?.(cancelled(signal));
  signal.addEventListener("abort", abort);
  let isDone = false;
  try {
    while (true) {
      throwIfAborted(signal);
      // Note: not Promise.race with one promise for the signal: that promise would keep every item alive until it
      // settles.
      const next = await new Promise<IteratorResult<T>>((resolve, reject) => {
        refuse = reject;
        attempt(() => iterator.next()).then(resolve, reject);
      });
      isDone = next.done === true;
      if (isDone) return;
      yield next.value;
    }
  } catch (error) {
    isDone = !signal.aborted; // a source that threw has ended
    throw error;
  } finally {
    signal.removeEventListener("abort", abort);
    const closing = isDone ? undefined : attempt(() => iterator.return?.());
    if (signal.aborted) closing?.catch(() => {}); // may wait for what never comes
    else await closing;
  }
}
