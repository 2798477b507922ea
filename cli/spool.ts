/**
 * Standard input and output, and pipes, as files: what comes through a pipe is kept in a folder of its own while a
 * command works, because FFmpeg looks at a video more than once; what goes to standard output is made there first,
 * whole or not at all. The folder is made on first use, for this user alone, and gone at the end.
 */
import { mkdtempSync } from "node:fs";
import { open, rm, stat } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { messageOf, readChunks, TokenizerError } from "../mod.ts";
import { usage } from "./args.ts";

const { process } = globalThis;

/** Of what comes through a pipe. */
const mostBytes = 2 ** 34;

export class Spool implements AsyncDisposable {
  #folder: string | undefined;
  #count = 0;

  /** A place for a file of that name. */
  place(name: string): string {
    this.#folder ??= mkdtempSync(join(tmpdir(), "ctok-"));
    return join(this.#folder, `${this.#count++}-${name}`);
  }

  /**
   * Keeps all that comes through a pipe ("-": standard input) at `path`. Throws FILE_IO for more than 16 GiB,
   * CANCELLED.
   */
  async fill(path: string, file: string, signal: AbortSignal): Promise<void> {
    if (file === "-" && process.stdin.isTTY) {
      throw usage("-: expected a pipe or file as standard input, found a terminal");
    }
    const into = await open(path, "wx");
    try {
      for await (const chunk of await source(file, signal)) {
        for (let at = 0; at < chunk.length;) at += (await into.write(chunk, at)).bytesWritten;
      }
    } catch (error) {
      if (error instanceof TokenizerError) throw error;
      throw new TokenizerError("FILE_IO", `${file}: expected to keep it in ${path}, found ${messageOf(error)}`, {
        cause: error,
      });
    } finally {
      await into.close();
    }
  }

  async [Symbol.asyncDispose](): Promise<void> {
    if (this.#folder !== undefined) await rm(this.#folder, { recursive: true, force: true });
  }
}

const ownInput = ["-", "/dev/stdin", "/dev/fd/0", "/proc/self/fd/0"];

async function source(file: string, signal: AbortSignal): Promise<AsyncIterable<Uint8Array>> {
  const path = file === "-" ? "/dev/stdin" : file, found = await stat(path).catch(() => undefined);
  const isOpened = found && !found.isSocket(); // a socket has no name to open it by
  return isOpened || !ownInput.includes(file)
    ? readChunks(path, { signal, mostBytes })
    : bounded(process.stdin, signal);
}

/** Note: on Deno, destroying the stream leaves a read of it pending, which is abandoned here. */
async function* bounded(input: typeof process.stdin, signal: AbortSignal): AsyncGenerator<Uint8Array> {
  let refuse = (_why: unknown) => {}; // of the chunk that is waited for
  const stop = () => refuse(signal.reason);
  signal.addEventListener("abort", stop, { once: true });
  const chunks = input[Symbol.asyncIterator]() as AsyncIterator<Uint8Array>;
  try {
    for (let length = 0;;) {
      signal.throwIfAborted();
      // Note: not Promise.race with one promise of the signal, which would keep every chunk until it settles.
      const { value, done } = await new Promise<IteratorResult<Uint8Array>>((resolve, reject) => {
        refuse = reject;
        chunks.next().then(resolve, reject);
      });
      if (done) return;
      length += value.length;
      if (length > mostBytes) throw new TokenizerError("FILE_IO", `-: expected at most ${mostBytes} bytes, found more`);
      yield value;
    }
  } finally {
    signal.removeEventListener("abort", stop);
    input.destroy();
  }
}

/** Sends a file to standard output. A reader that leaves early is no failure. */
export async function sendOut(path: string): Promise<void> {
  for await (const chunk of readChunks(path, { mostBytes: Infinity })) {
    const error = await new Promise<unknown>((resolve) => process.stdout.write(chunk, resolve)).catch((error) => error);
    if ((error as { code?: string } | undefined)?.code === "EPIPE") return;
    if (error) throw new TokenizerError("FILE_IO", `-: expected to write standard output, found ${messageOf(error)}`);
  }
}
