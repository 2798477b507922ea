/**
 * Pictures decoded apart: in helper processes, which can be killed in the middle of what libvips cannot stop. For what
 * can cost more than its size says (SVG, AVIF, TIFF, what has several frames) and for what is large; image.ts chooses.
 * A helper (helper.ts) is started for the first such picture, decodes one at a time, stays for the next ones, and
 * leaves by itself when idle or when this process is gone. It never keeps this process alive: only a picture that is
 * being decoded does.
 *
 * Both ways go messages: 4 bytes with the length of a JSON text (little-endian), that text, and as many bytes as its
 * `bytes` says.
 */
import { type ChildProcess, spawn } from "node:child_process";
import { existsSync } from "node:fs";
import { availableParallelism } from "node:os";
import { basename, dirname } from "node:path";
import { fileURLToPath } from "node:url";
import { throwIfAborted } from "../abort.ts";
import { cancelled, type ErrorCode, messageOf, TokenizerError } from "../errors.ts";
import type { Decoded } from "./picture.ts";

const { process } = globalThis;

/** What a helper process is asked to do; the bytes of the picture follow it. */
export interface Order {
  /** The picture's name in messages. */
  readonly name: string;
  readonly limitPixels: number;
  /** Seconds of processor time, and bytes of memory beyond what the helper has before; helper.ts has the defaults. */
  readonly limitSeconds?: number | undefined;
  readonly limitMemory?: number | undefined;
  /** Whether only the picture's size is wanted, and no pixels. */
  readonly isSizeOnly?: boolean | undefined;
}

/** What a helper says: that it is ready, a picture, or why there is none. */
export interface Answer {
  readonly isReady?: boolean;
  readonly height?: number;
  readonly width?: number;
  readonly error?: { readonly code: ErrorCode; readonly message: string; readonly detail?: number | undefined };
  /** Whether the helper must not get another picture: it holds too much memory, or is about to end. */
  readonly isFull?: boolean;
}

/** A message to or from a helper process, in the pieces that are written one after the other. */
export function message(about: Order | Answer, body: Uint8Array = new Uint8Array()): Uint8Array[] {
  const text = new TextEncoder().encode(JSON.stringify({ ...about, bytes: body.length }));
  const length = new Uint8Array(4);
  new DataView(length.buffer).setUint32(0, text.length, true);
  return [length, text, body];
}

/** Thrown when no helper process can be started: the caller decides what to do without one. */
export class NoHelper extends Error {}

const mostHelpers = Math.min(availableParallelism(), 4);
/**
 * Patience with a silent helper: for its start, and for decoding beyond ten times its limit of processor time. After
 * that it counts as lost.
 */
const patienceMs = 60_000;
const mostTextBytes = 1 << 16;

const idle: Helper[] = [];
/** Calls that wait for one of the helper processes, in order. */
const waiting: (() => void)[] = [];
let numBusy = 0;

/**
 * Decodes in a helper. An abort is answered at once, and what was under way ends with the helper. Throws what the
 * helper says (IMAGE), CANCELLED, and NoHelper.
 */
export async function decodeApart(bytes: Uint8Array, order: Order, signal?: AbortSignal): Promise<Decoded> {
  await turn(signal);
  try {
    for (;;) {
      const known = idle.pop(), helper = known ?? await Helper.start(signal);
      const answer = await helper.ask(bytes, order, signal);
      if (answer) return answer;
      if (!known) throw lost(order.name, helper.ending); // an idle one may have left just then: once more
    }
  } finally {
    numBusy--;
    waiting.shift()?.();
  }
}

/** Waits until fewer than `mostHelpers` are busy, and counts as one of them. */
async function turn(signal: AbortSignal | undefined): Promise<void> {
  throwIfAborted(signal);
  while (numBusy >= mostHelpers) {
    await new Promise<void>((resolve, reject) => {
      const go = () => {
        signal?.removeEventListener("abort", abort);
        resolve();
      };
      const abort = () => {
        waiting.splice(waiting.indexOf(go), 1);
        reject(cancelled(signal!));
      };
      waiting.push(go);
      signal?.addEventListener("abort", abort, { once: true });
    });
  }
  numBusy++;
}

function lost(name: string, ending: string): TokenizerError {
  return new TokenizerError(
    "IMAGE",
    `${name}: expected an image that sharp can read, found: its process ended (${ending})`,
  );
}

class Helper {
  readonly #child: ChildProcess;
  /** The message that is being read: first its length and JSON (`#head`, then `#answer`), then its bytes (`#body`). */
  #head: Uint8Array = new Uint8Array();
  #answer: Answer | undefined;
  #body: Uint8Array<ArrayBuffer> | undefined;
  #filled = 0;
  /** Takes whole answers, and undefined when the process is gone. */
  #take: (answer?: Answer, body?: Uint8Array<ArrayBuffer>) => void = () => {};
  #mostBytes = 0;
  #hasEnded = false;
  ending = "";

  private constructor() {
    const { command, args, folder } = program();
    // The helper runs in a folder of its own, so that no .env, bunfig.toml or deno.json of the caller's folder counts.
    this.#child = spawn(command, args, { cwd: folder, stdio: ["pipe", "pipe", "ignore"], windowsHide: true });
    const end = (how: string) => {
      this.#hasEnded = true;
      this.ending ||= how;
      if (idle.includes(this)) idle.splice(idle.indexOf(this), 1);
      this.#take();
    };
    this.#child.once("error", (error) => end(messageOf(error)));
    this.#child.once("close", (code, signal) => end(signal ?? `code ${code}`));
    if (this.#child.pid === undefined) return; // it did not start: "error" tells
    this.#child.stdin!.on("error", () => {}); // it is gone: "close" tells
    this.#child.stdout!.on("data", (chunk: Uint8Array) => this.#read(chunk));
    this.#child.unref();
    // Note: the pipes are never ref'd again, which Bun does not count; a timer keeps the process alive while there is
    // work.
    for (const pipe of [this.#child.stdin, this.#child.stdout]) (pipe as { unref?: () => void } | null)?.unref?.();
  }

  static async start(signal?: AbortSignal): Promise<Helper> {
    let helper: Helper;
    try {
      helper = new Helper();
    } catch (error) {
      throw error instanceof NoHelper ? error : new NoHelper(messageOf(error), { cause: error });
    }
    const { answer } = await helper.#wait(patienceMs, signal);
    if (!answer?.isReady) throw new NoHelper(`it ended (${helper.ending})`);
    return helper;
  }

  /** Decodes a picture in the helper; undefined when the helper is gone without having been ended here. */
  async ask(bytes: Uint8Array, order: Order, signal: AbortSignal | undefined): Promise<Decoded | undefined> {
    if (this.#hasEnded) return undefined;
    this.#mostBytes = 3 * order.limitPixels;
    for (const part of message(order, bytes)) this.#child.stdin!.write(part);
    const seconds = order.limitSeconds ?? 1 + order.limitPixels / 2 ** 22; // as helper.ts has it at most
    const { answer, body } = await this.#wait(patienceMs + Math.min(10_000 * seconds, 2 ** 30), signal);
    if (!answer) return undefined;
    if (answer.isFull) this.#kill();
    else idle.push(this);
    if (answer.error) {
      const { code, message, detail } = answer.error;
      throw new TokenizerError(code, message, detail === undefined ? {} : { detail });
    }
    const { height, width } = answer;
    if (!height || !width || body?.length !== (order.isSizeOnly ? 0 : height * width * 3)) {
      this.#kill();
      throw lost(order.name, "its answer makes no sense");
    }
    return { height, width, data: body };
  }

  /** The next answer. An abort, and `ms` without one, kill the helper. */
  async #wait(ms: number, signal?: AbortSignal): Promise<{ answer?: Answer; body?: Uint8Array<ArrayBuffer> }> {
    return await new Promise((resolve, reject) => {
      const timer = setTimeout(() => this.#kill(`no answer in ${ms} ms`), ms); // holds this process, too
      const settle = () => {
        clearTimeout(timer);
        signal?.removeEventListener("abort", abort);
        this.#take = () => {};
      };
      const abort = () => {
        settle();
        this.#kill();
        reject(cancelled(signal!));
      };
      this.#take = (answer, body) => {
        settle();
        resolve({ ...(answer && { answer }), ...(body && { body }) });
      };
      if (signal?.aborted) return abort();
      signal?.addEventListener("abort", abort, { once: true });
      if (this.#hasEnded) this.#take();
    });
  }

  #kill(why = ""): void {
    this.ending ||= why;
    this.#child.kill("SIGKILL");
  }

  /** Takes bytes from the helper, which is not trusted: it may send no more than its picture can have. */
  #read(chunk: Uint8Array): void {
    while (chunk.length > 0) {
      if (this.#body) {
        const part = chunk.subarray(0, this.#body.length - this.#filled);
        this.#body.set(part, this.#filled);
        this.#filled += part.length;
        chunk = chunk.subarray(part.length);
      } else {
        const head = new Uint8Array(this.#head.length + chunk.length);
        head.set(this.#head), head.set(chunk, this.#head.length);
        const length = head.length < 4 ? 0 : new DataView(head.buffer).getUint32(0, true);
        if (length > mostTextBytes) return this.#kill("its answer makes no sense");
        this.#head = head;
        if (head.length < 4 || head.length < 4 + length) return;
        const { bytes, ...answer } = parseText(head.subarray(4, 4 + length));
        if (!(bytes <= this.#mostBytes)) return this.#kill("its answer makes no sense");
        [this.#answer, this.#body, this.#filled, this.#head] = [answer, new Uint8Array(bytes), 0, new Uint8Array()];
        chunk = head.subarray(4 + length);
      }
      if (this.#filled < this.#body.length) continue;
      const [answer, body] = [this.#answer, this.#body];
      this.#answer = this.#body = undefined;
      this.#take(answer, body);
    }
  }
}

function parseText(text: Uint8Array): Answer & { bytes: number } {
  try {
    const value = JSON.parse(new TextDecoder().decode(text));
    return { ...value, bytes: Number(value.bytes ?? 0) };
  } catch {
    return { bytes: NaN };
  }
}

/**
 * The runtime that runs us, on helper.ts beside this file. Limit: not in compiled and bundled programs, which have no
 * such file.
 */
function program(): { command: string; args: string[]; folder: string } {
  const url = new URL(import.meta.url.endsWith(".ts") ? "./helper.ts" : "./helper.js", import.meta.url);
  const command = process.execPath, runtime = /^(bun|deno|node)(-\w+)?(\.exe)?$/.exec(basename(command))?.[1];
  const path = url.protocol === "file:" ? fileURLToPath(url) : undefined;
  // Note: in a compiled program, execPath is the program itself, which would do all its work again if run.
  if (!runtime || !path || !existsSync(path)) throw new NoHelper(`no Bun, Deno or Node, or no ${url.href}`);
  const rights = [
    "--no-prompt",
    "--no-lock",
    "--cached-only",
    "--allow-read",
    "--allow-env",
    "--allow-ffi",
    "--allow-sys",
  ];
  const before = { bun: [], deno: ["run", ...rights], node: path.endsWith(".ts") ? ["--import", "tsx"] : [] }[runtime]!;
  return { command, args: [...before, path], folder: dirname(path) };
}
