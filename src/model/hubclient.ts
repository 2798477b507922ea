/**
 * Requests to the hub: the token goes to the hub's own address alone, redirects are followed here for that, a server
 * that is busy is asked again, one that says nothing is given up, and every refusal says what to do. What is asked for
 * is in hub.ts and download.ts, which call this; @huggingface/hub gets `fetch` of here.
 */
import { setTimeout as wait } from "node:timers/promises";
import { throwIfAborted } from "../abort.ts";
import { cancelled, messageOf, TokenizerError } from "../errors.ts";
import type { HubSettings } from "./hubcache.ts";

/**
 * Tries of one request for a file, or of a download that brings nothing new; and of a question about the repository.
 */
export const mostTries = 5;
const mostQuestions = 3;
const firstPauseMs = 500, longestPauseMs = 60_000, mostRedirects = 5;
/** Largest answer, in bytes, that is no file but text, such as a list of files. */
const mostTextBytes = 16 << 20;

export interface Opened {
  readonly response: Response;
  readonly body: AsyncGenerator<Uint8Array>;
  readonly drop: () => Promise<void>;
}

/** The model that was asked for, as messages describe it. */
export interface Asked {
  readonly repository: string;
  readonly revision: string;
  /** What could be meant, where the repository is not known: " (did you mean …?)". */
  readonly hint: string;
}

export class HubClient {
  readonly #settings: HubSettings;
  readonly #asked: Asked;
  readonly #signal: AbortSignal | undefined;
  readonly #questions: number;

  /** `hasCopy`: there is a copy to go by where the hub does not answer at once. */
  constructor(settings: HubSettings, asked: Asked, signal: AbortSignal | undefined, hasCopy: boolean) {
    this.#settings = settings;
    this.#asked = asked;
    this.#signal = signal;
    this.#questions = hasCopy ? 1 : mostQuestions;
  }

  /** Address of the model's page, for people. */
  get page(): string {
    return `${this.#settings.endpoint}/${this.#asked.repository}`;
  }

  /** `fetch` for the library @huggingface/hub, which asks about repositories: each answer is short and read whole. */
  readonly fetch = (async (input: string | URL | Request, init: RequestInit = {}): Promise<Response> => {
    const url = input instanceof Request ? input.url : String(input);
    for (let tries = 1;; tries++) {
      const { response, body } = await this.open(url, new Headers(init.headers), this.#questions);
      const { status, headers } = response, link = headers.get("link"), chunks: Uint8Array[] = [];
      let bytes = 0;
      try {
        for await (const chunk of body) {
          chunks.push(chunk);
          bytes += chunk.length;
          if (bytes > mostTextBytes) throw this.#error(`a list of at most ${mostTextBytes} bytes`, "more");
        }
        const whole = new Blob(chunks as Uint8Array<ArrayBuffer>[]);
        return new Response(whole, { status, headers: { "content-type": "application/json", ...(link && { link }) } });
      } catch (error) {
        if (!(error instanceof Interrupted) || tries >= this.#questions) throw this.told(error);
        await this.pause(tries);
      }
    }
  }) as typeof fetch; // which the library calls, and no more

  /**
   * A file's answer, 200 or, where `headers` ask for a range, 206 or 416, and what comes: read `body`, or `drop` it.
   * Throws HUB for any other once it was asked for `most` times, where that can help. The body throws Interrupted where
   * it ends early.
   */
  async open(url: string, headers: Headers, most = mostTries): Promise<Opened> {
    for (let tries = 1;; tries++) {
      throwIfAborted(this.#signal);
      const watch = new Watch(this.#settings.timeoutMs, this.#signal);
      let pauseMs: number | undefined;
      try {
        const response = await this.#follow(url, headers, watch);
        const drop = () => watch.drop(response);
        if (response.ok || (response.status === 416 && headers.has("range"))) {
          return { response, body: watch.chunks(response), drop };
        }
        await drop();
        const after = retryAfter(response), isBusy = response.status === 429 || response.status >= 500;
        if (!isBusy || tries >= most || (after ?? 0) > longestPauseMs) throw this.#refusal(response, after);
        pauseMs = after;
      } catch (error) {
        watch.end();
        if (!(error instanceof Interrupted) || error.isDenied || tries >= most) throw this.told(error);
      }
      await this.pause(tries, pauseMs);
    }
  }

  /** Waits before the next try: longer each time, or as long as the server asks. */
  async pause(tries: number, ms = firstPauseMs * 2 ** (tries - 1)): Promise<void> {
    try {
      await wait(ms, undefined, { signal: this.#signal });
    } catch (error) {
      throwIfAborted(this.#signal);
      throw error;
    }
  }

  async #follow(url: string, headers: Headers, watch: Watch): Promise<Response> {
    const { endpoint, token } = this.#settings, home = new URL(endpoint);
    let at = new URL(url);
    for (let n = 0; n <= mostRedirects; n++) {
      const own = new Headers(headers);
      own.delete("authorization");
      own.set("accept-encoding", "identity"); // ranges and sizes are of the file itself
      own.set("user-agent", "ctok");
      if (token !== undefined && at.origin === home.origin) own.set("authorization", `Bearer ${token}`);
      const response = await watch.answer(at, own);
      if (![301, 302, 303, 307, 308].includes(response.status)) return response;
      const to = response.headers.get("location") ?? "";
      await response.body?.cancel().catch(() => {});
      if (!URL.canParse(to, at.href)) {
        throw this.#error("a redirect to an address", JSON.stringify(to), response.status);
      }
      const next = new URL(to, at.href);
      if (next.protocol !== "https:" && next.protocol !== home.protocol) {
        throw this.#error(`a redirect by ${home.protocol.slice(0, -1)}`, JSON.stringify(next.origin), response.status);
      }
      at = next;
    }
    throw this.#error(`at most ${mostRedirects} redirects`, "more");
  }

  /** Turns any failure of a request into a TokenizerError. */
  told(error: unknown): unknown {
    if (this.#signal?.aborted) return cancelled(this.#signal);
    if (!(error instanceof Interrupted)) return error;
    const { host } = new URL(this.#settings.endpoint), said = messageOf(error.cause);
    if (error.isDenied) {
      const denied = /"([^"]+)"/.exec(said)?.[1] ?? host;
      return this.#error(`permission to reach ${denied}`, `none: deno run --allow-net=${denied} gives it`);
    }
    return this.#error(
      `an answer of ${host}`,
      `${said}; is there a network? Without one only what is downloaded opens`,
    );
  }

  #refusal(response: Response, after: number | undefined): TokenizerError {
    const { status } = response, code = response.headers.get("x-error-code") ?? "", { page } = this;
    const { revision, hint } = this.#asked, isTokenSent = this.#settings.token !== undefined;
    const logIn = "log in (`hf auth login`, or set HF_TOKEN)";
    if (code === "GatedRepo" || status === 403) {
      const login = isTokenSent ? "" : ` and ${logIn}`;
      return this.#error(
        "access to it",
        `a gated or licensed model (${status}): accept its licence on ${page}${login}`,
        status,
      );
    }
    if (code === "RevisionNotFound") {
      return this.#error(`a revision ${revision}`, `none there (${status}): see ${page}`, status);
    }
    if (status === 404 && code !== "RepoNotFound" && code !== "") {
      return this.#error("its files", `one of them missing (${status}, ${code}): see ${page}`, status);
    }
    if (status === 401 && isTokenSent && code !== "RepoNotFound") {
      return this.#error("a token that the hub takes", `that it refuses yours (401): ${logIn} anew`, status);
    }
    if (status === 401 || status === 404) {
      const found = `none of that name, or a private one (${status})${hint}`;
      return this.#error(
        "a repository of the hub",
        isTokenSent ? found : `${found}: if it is private, ${logIn}`,
        status,
      );
    }
    if (status === 429) {
      const when = after === undefined ? "later" : `in ${Math.ceil(after / 1000)} s`;
      return this.#error("an answer", `too many requests (429): try again ${when}`, status);
    }
    return this.#error("an answer", `an error of the server (${status}): try again later`, status);
  }

  #error(wanted: string, found: string, detail?: number): TokenizerError {
    const message = `${this.#asked.repository}: expected ${wanted}, found ${found}`;
    return new TokenizerError("HUB", message, detail === undefined ? {} : { detail });
  }

  /** The error for a response that is not what the hub should send. */
  wrong(what: string, wanted: string, found: string): TokenizerError {
    return new TokenizerError("HUB", `${this.#asked.repository}/${what}: expected ${wanted}, found ${found}`);
  }
}

/** The error for a connection that failed or ended, where another try may succeed. Its cause is the system's error. */
export class Interrupted extends Error {
  constructor(cause: unknown) {
    super("interrupted", { cause });
  }

  /** Whether Deno's permissions forbade the connection. */
  get isDenied(): boolean {
    return /--allow-net/.test(messageOf(this.cause));
  }
}

/** How long the server asks to wait, in milliseconds; its header gives seconds or a date. */
function retryAfter(response: Response): number | undefined {
  const text = response.headers.get("retry-after") ?? "";
  if (/^\d+$/.test(text)) return Number(text) * 1000;
  const date = Date.parse(text);
  return Number.isNaN(date) ? undefined : Math.max(0, date - Date.now());
}

/** Aborts a request whose server is silent for too long, or when the caller's signal is aborted. */
class Watch {
  readonly #controller = new AbortController();
  readonly #timeoutMs: number;
  readonly #outer: AbortSignal | undefined;
  #timer: ReturnType<typeof setTimeout> | undefined;

  constructor(timeoutMs: number, outer: AbortSignal | undefined) {
    this.#timeoutMs = timeoutMs;
    this.#outer = outer;
    outer?.addEventListener("abort", this.#abort);
  }

  readonly #abort = () => this.#controller.abort();

  #begin(): void {
    clearTimeout(this.#timer);
    const why = new Error(`nothing for ${this.#timeoutMs / 1000} s (HF_HUB_DOWNLOAD_TIMEOUT)`);
    this.#timer = setTimeout(() => this.#controller.abort(why), this.#timeoutMs);
  }

  end(): void {
    clearTimeout(this.#timer);
    this.#outer?.removeEventListener("abort", this.#abort);
  }

  async answer(url: URL, headers: Headers): Promise<Response> {
    this.#begin();
    try {
      return await fetch(url.href, { headers, redirect: "manual", signal: this.#controller.signal });
    } catch (error) {
      throw this.#interrupted(error);
    }
  }

  #interrupted(error: unknown): Interrupted {
    const { signal } = this.#controller;
    const cause = (error as { cause?: unknown }).cause;
    return new Interrupted(signal.aborted && signal.reason instanceof Error ? signal.reason : cause ?? error);
  }

  async drop(response: Response): Promise<void> {
    this.end();
    await response.body?.cancel().catch(() => {});
  }

  async *chunks(response: Response): AsyncGenerator<Uint8Array> {
    const reader = response.body?.getReader();
    try {
      while (reader) {
        this.#begin();
        const { done, value } = await reader.read().catch((error) => {
          throw this.#interrupted(error);
        });
        clearTimeout(this.#timer); // the disk may take its time
        if (done) return;
        yield value;
      }
    } finally {
      this.end();
      await reader?.cancel().catch(() => {});
    }
  }
}
