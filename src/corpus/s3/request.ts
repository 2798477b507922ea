/**
 * One request to a bucket: signed (Signature Version 4, by aws4fetch), with a time limit, tried again where that can
 * help, for four times the time that a store may say nothing and no longer; and every refusal says what to do. What is
 * asked for is in client.ts.
 *
 * A failure is FILE_IO with the HTTP status, or 110 (ETIMEDOUT) where there was no answer: another run may succeed. It
 * is ARGUMENT where the store understood and refuses: wrong credentials, no such bucket. Neither holds anything that is
 * secret.
 */
import { createHash } from "node:crypto";
import { setTimeout as wait } from "node:timers/promises";
import { AwsV4Signer } from "aws4fetch";
import { throwIfAborted } from "../../abort.ts";
import { cancelled, messageOf, TokenizerError } from "../../errors.ts";
import { type Credentials, s3Credentials, type S3Settings } from "./settings.ts";
import { textOf } from "./xml.ts";

export interface Ask {
  readonly method: "GET" | "HEAD" | "PUT" | "POST" | "DELETE";
  readonly key: string;
  readonly query?: Readonly<Record<string, string>>;
  readonly headers?: Readonly<Record<string, string>>;
  readonly body?: Uint8Array;
  /** SHA-256 of the body in hexadecimal, which the store checks; made of the body unless given. */
  readonly sha256?: string;
  /** Bytes that the store moves beside those of the body: of what it sends, or copies. */
  readonly bytes?: number;
  /** Statuses beside 2xx that are answers and not failures. */
  readonly answers?: readonly number[];
}

export interface Answer {
  readonly status: number;
  readonly headers: Headers;
  readonly body: Uint8Array;
}

/** ETIMEDOUT, by its number in Linux. */
const noAnswer = 110;

/** Whether a store did not answer, or said for all of our patience that it cannot: it need not be asked to tidy up. */
export function isStoreGone(error: unknown): boolean {
  if (!(error instanceof TokenizerError) || error.code !== "FILE_IO") return false;
  return error.detail === noAnswer || busy.includes(error.detail ?? 0);
}

const firstPauseMs = 200, longestPauseMs = 10_000;
/** Slowest connection that is waited for, in bytes a millisecond. */
const leastBytesPerMs = 50;
const busy: readonly number[] = [408, 409, 429, 500, 502, 503, 504];
/** Error codes worth another try, although the status is a 4xx, or a 200 that was sent before the work failed. */
const busyCodes = [
  "RequestTimeout",
  "IncompleteBody",
  "BadDigest",
  "InternalError",
  "SlowDown",
  "ServiceUnavailable",
  "OperationAborted",
];
const staleCodes = ["ExpiredToken", "InvalidToken", "InvalidAccessKeyId", "TokenRefreshRequired"];

/** Why a try failed, and whether another try would fail as well (`isLasting`). */
interface Failure {
  readonly found: string;
  readonly status: number;
  readonly isLasting: boolean;
  readonly code?: string;
  readonly region?: string | undefined;
}

export class S3Requests {
  readonly bucket: string;
  readonly #settings: S3Settings;
  readonly #signingKeys = new Map<string, ArrayBuffer>();
  #credentials: Credentials;

  constructor(bucket: string, settings: S3Settings) {
    this.bucket = bucket;
    this.#settings = settings;
    this.#credentials = settings.credentials;
  }

  /** The host of the bucket, for messages. */
  get host(): string {
    return new URL(this.#address("")).host;
  }

  /**
   * Sends a request, and again while another try may succeed. Throws FILE_IO, ARGUMENT, CANCELLED, as the head of this
   * file says.
   */
  async ask(ask: Ask, signal?: AbortSignal): Promise<Answer> {
    const began = performance.now(), patienceMs = 4 * this.#settings.timeoutMs;
    for (let tries = 1;; tries++) {
      throwIfAborted(signal);
      const answer = await this.#tryAndLearn(ask, signal);
      if (!("found" in answer)) return answer;
      if (answer.code && staleCodes.includes(answer.code) && tries === 1 && this.#renewCredentials()) continue;
      if (answer.isLasting) throw this.#refusal(ask, answer);
      const pauseMs = Math.min(firstPauseMs * 2 ** (tries - 1), longestPauseMs) * (0.5 + Math.random() / 2);
      if (performance.now() - began + pauseMs > patienceMs) throw this.#gone(ask, answer, tries);
      await wait(pauseMs, undefined, signal ? { signal } : {}).catch(() => throwIfAborted(signal));
    }
  }

  /** A refused HEAD has no body that says why, so a GET asks for the reason. */
  async #tryAndLearn(ask: Ask, signal: AbortSignal | undefined): Promise<Answer | Failure> {
    const answer = await this.#try(ask, signal);
    if (ask.method !== "HEAD" || !("found" in answer) || !answer.isLasting) return answer;
    const told = await this.#try({ ...ask, method: "GET", headers: { range: "bytes=0-0" } }, signal);
    return "found" in told ? told : answer;
  }

  async #try(ask: Ask, signal: AbortSignal | undefined): Promise<Answer | Failure> {
    const limit = new AbortController(), bytes = (ask.bytes ?? 0) + (ask.body?.length ?? 0);
    const limitMs = this.#settings.timeoutMs + bytes / leastBytesPerMs;
    const timer = setTimeout(() => limit.abort(), limitMs), abort = () => limit.abort();
    signal?.addEventListener("abort", abort);
    try {
      const { url, method, headers } = await this.#signed(ask);
      const init = { method, headers, redirect: "manual", signal: limit.signal } as const;
      const response = await fetch(url, ask.body ? { ...init, body: ask.body as Uint8Array<ArrayBuffer> } : init);
      const body = new Uint8Array(await response.arrayBuffer());
      return this.#judge(ask, { status: response.status, headers: response.headers, body });
    } catch (error) {
      if (signal?.aborted) throw cancelled(signal);
      const said = messageOf((error as { cause?: unknown }).cause ?? error), isDenied = /--allow-net/.test(said);
      const found = limit.signal.aborted ? `none for ${Math.round(limitMs / 1000)} s (CTOK_S3_TIMEOUT)` : said;
      return { found, status: noAnswer, isLasting: isDenied };
    } finally {
      clearTimeout(timer);
      signal?.removeEventListener("abort", abort);
    }
  }

  #judge({ method, answers = [] }: Ask, answer: Answer): Answer | Failure {
    const { status, headers, body } = answer, isGood = status >= 200 && status < 300;
    // Copies and the end of an upload may report a failure after a status of 200.
    const text = isGood && (body.length === 0 || method === "GET")
      ? ""
      : new TextDecoder().decode(body.subarray(0, 65_536));
    const isError = /<Error[\s>]/.test(text), code = isError ? textOf(text, "Code") ?? "" : "";
    const isBusy = busy.includes(status) || busyCodes.includes(code);
    if (isGood && !isError) return answer;
    if (answers.includes(status) && code !== "NoSuchBucket") return answer;
    const found = `${status}${code ? `, ${code}` : ""}`,
      region = headers.get("x-amz-bucket-region") ?? textOf(text, "Region");
    return { found, status, isLasting: !isBusy && !isGood, code, region };
  }

  async #signed({ method, key, query = {}, headers = {}, body, sha256 }: Ask) {
    const hash = sha256 ?? createHash("sha256").update(body ?? "").digest("hex");
    const signer = new AwsV4Signer({
      method,
      url: `${this.#address(key)}${queryOf(query)}`,
      headers: { ...headers, "x-amz-content-sha256": hash },
      ...(body && { body: body as Uint8Array<ArrayBuffer> }),
      ...this.#credentials,
      service: "s3",
      region: this.#settings.region,
      cache: this.#signingKeys,
    });
    const signed = await signer.sign();
    // Sizes and ranges must be those of the object itself, so no compressed transfer. The header is not signed, as
    // proxies may change it.
    signed.headers.set("accept-encoding", "identity");
    return { url: signed.url.href, method: signed.method, headers: signed.headers };
  }

  #address(key: string): string {
    const { endpoint, region } = this.#settings, path = key.split("/").map(encoded).join("/");
    if (endpoint !== undefined) return `${endpoint}/${this.bucket}/${path}`;
    const domain = `s3.${region}.amazonaws.com${region.startsWith("cn-") ? ".cn" : ""}`;
    // A bucket with a dot in its name goes into the path: AWS's certificate does not cover it as a host.
    return this.bucket.includes(".")
      ? `https://${domain}/${this.bucket}/${path}`
      : `https://${this.bucket}.${domain}/${path}`;
  }

  /** Reads credentials again: those in a file may have been replaced meanwhile. */
  #renewCredentials(): boolean {
    const before = this.#credentials;
    this.#credentials = s3Credentials();
    return before.accessKeyId !== this.#credentials.accessKeyId ||
      before.sessionToken !== this.#credentials.sessionToken;
  }

  #tell({ method, key }: Ask): string {
    return `s3://${this.bucket}/${key}: expected ${this.host} to answer ${method}`;
  }

  #gone(ask: Ask, { found, status }: Failure, tries: number): TokenizerError {
    return new TokenizerError("FILE_IO", `${this.#tell(ask)}, found ${found}, in ${tries} tries`, { detail: status });
  }

  #refusal(ask: Ask, { found, status, code = "", region }: Failure): TokenizerError {
    const advice = this.#adviceFor(status, code, region);
    return new TokenizerError("ARGUMENT", `${this.#tell(ask)}, found ${found}${advice && `: ${advice}`}`, {
      detail: status,
    });
  }

  #adviceFor(status: number, code: string, region: string | undefined): string {
    if (code === "NoSuchBucket") return "there is no such bucket, or it is elsewhere (AWS_REGION, AWS_ENDPOINT_URL)";
    if (status === 301 || code === "AuthorizationHeaderMalformed") {
      return `the bucket is in ${region ?? "another region"} (AWS_REGION says ${this.#settings.region})`;
    }
    if (code === "RequestTimeTooSkewed") return "the clocks of this machine and the store differ";
    if (code === "SignatureDoesNotMatch") return "the secret key is not that of the access key";
    if (staleCodes.includes(code)) return "the credentials have run out, or are those of another store";
    if (status === 401 || status === 403) {
      return "the credentials do not allow it (docs/dataset_s3.md has what is needed)";
    }
    if (status === noAnswer) return `deno run --allow-net=${this.host} gives permission`;
    return "";
  }
}

function queryOf(query: Readonly<Record<string, string>>): string {
  const parts = Object.entries(query).map(([name, value]) => `${encoded(name)}=${encoded(value)}`);
  return parts.length > 0 ? `?${parts.join("&")}` : "";
}

/** Percent-encodes a text as signatures need it: encodeURIComponent leaves five more characters as they are. */
function encoded(text: string): string {
  return encodeURIComponent(text).replace(/[!'()*]/g, (c) => `%${c.charCodeAt(0).toString(16).toUpperCase()}`);
}
