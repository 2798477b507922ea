/**
 * Objects of a bucket: looked at, read, written, copied, listed, removed. Whatever is sent carries its SHA-256, which
 * the store checks as part of the signature and keeps as a checksum where it can; what is written "new" is written
 * once, whoever else tries. Large objects go in parts (upload.ts). Called by s3storage.ts, and by sources through
 * object.ts. Errors are those of request.ts.
 */
import { Buffer } from "node:buffer";
import { createHash, randomBytes } from "node:crypto";
import { expected } from "../../errors.ts";
import { type Answer, type Ask, S3Requests } from "./request.ts";
import { environmentOfS3, s3Settings } from "./settings.ts";
import { elementsOf, textOf } from "./xml.ts";

/** What the store tells of an object without sending its bytes. */
export interface ObjectInfo {
  readonly key: string;
  readonly bytes: number;
  /** Identifies the object's content: it changes whenever the object does. Without quotes. */
  readonly etag: string;
  /** When the object was written, in milliseconds by the store's clock. */
  readonly modifiedMs: number;
}

export interface Listed {
  readonly objects: readonly ObjectInfo[];
  /** Common prefixes up to a slash: the listing does not go into them. */
  readonly folders: readonly string[];
  /** The store's time when it answered, in milliseconds. */
  readonly nowMs: number;
}

/**
 * Header of objects that must be written only once: the id of the try, so that a writer whose answer was lost knows its
 * own object.
 */
const tryHeader = "x-amz-meta-ctok-try";
/** Statuses of conditional writes: 412 says that the object exists already, 404 that there is none. */
const isThere = 412, none = 404;

export class S3Client {
  readonly bucket: string;
  readonly #requests: S3Requests;
  readonly #signal: AbortSignal | undefined;

  private constructor(requests: S3Requests, signal?: AbortSignal) {
    this.bucket = requests.bucket;
    this.#requests = requests;
    this.#signal = signal;
  }

  /** The client for a bucket, made by the environment, and made anew when that has changed. Throws ARGUMENT. */
  static of(bucket: string): S3Client {
    const name = `${bucket} ${environmentOfS3()}`;
    let client = clients.get(name);
    if (!client) clients.set(name, client = new S3Client(new S3Requests(bucket, s3Settings())));
    return client;
  }

  /** The same client, whose requests end when the signal is aborted. */
  with(signal: AbortSignal | undefined): S3Client {
    return new S3Client(this.#requests, signal);
  }

  get host(): string {
    return this.#requests.host;
  }

  /** Sends any request; upload.ts and probe.ts use it. */
  ask(ask: Ask): Promise<Answer> {
    return this.#requests.ask(ask, this.#signal);
  }

  /**
   * Asks about an object; undefined where there is none. `sha256` is that of the whole object, if the store knows it.
   */
  async head(
    key: string,
  ): Promise<ObjectInfo & { readonly sha256: string | undefined; readonly try: string } | undefined> {
    const { status, headers } = await this.ask({
      method: "HEAD",
      key,
      headers: { "x-amz-checksum-mode": "ENABLED" },
      answers: [none],
    });
    if (status === none) return undefined;
    const sum = headers.get("x-amz-checksum-sha256"), modifiedMs = Date.parse(headers.get("last-modified") ?? "");
    return {
      key,
      bytes: Number(headers.get("content-length")),
      etag: etagOf(headers.get("etag")),
      modifiedMs,
      // A checksum that ends in "-3" is one of three parts' checksums, and not that of the whole object.
      sha256: sum && /^[A-Za-z0-9+/]{43}=$/.test(sum) ? Buffer.from(sum, "base64").toString("hex") : undefined,
      try: headers.get(tryHeader) ?? "",
    };
  }

  /** Reads all bytes of a small object; undefined where there is none. */
  async get(key: string): Promise<Uint8Array | undefined> {
    const { status, body } = await this.ask({ method: "GET", key, answers: [none] });
    return status === none ? undefined : body;
  }

  /** Reads a range of bytes of an object. Undefined where the object is gone, or no longer has this ETag. */
  async range(key: string, etag: string, offset: number, length: number): Promise<Uint8Array | undefined> {
    if (length === 0) return new Uint8Array();
    const headers = { range: `bytes=${offset}-${offset + length - 1}`, "if-match": `"${etag}"` };
    const { status, body } = await this.ask({
      method: "GET",
      key,
      headers,
      bytes: length,
      answers: [none, isThere, 416],
    });
    if (status === none || status === isThere || status === 416) return undefined;
    const part = status === 206 ? body : body.subarray(offset, offset + length);
    if (part.length !== length) throw expected(this.name(key), `${length} bytes at ${offset}`, part.length, "FILE_IO");
    return part;
  }

  /** Writes an object, and replaces one that is there. */
  async put(key: string, body: Uint8Array): Promise<void> {
    await this.ask({ method: "PUT", key, body, ...checked(body) });
  }

  /**
   * Writes where nothing is; false where something is. True as well where that came from a try of this call whose
   * answer was lost.
   */
  async putNew(key: string, body: Uint8Array): Promise<boolean> {
    const { sha256, headers } = checked(body), made = randomBytes(16).toString("hex");
    const ask = { method: "PUT", key, body, sha256, answers: [isThere] } as const;
    const { status } = await this.ask({ ...ask, headers: { ...headers, "if-none-match": "*", [tryHeader]: made } });
    return status !== isThere || (await this.head(key))?.try === made;
  }

  /** Copies within the bucket, without the bytes passing here, up to 5 GiB. False where there is nothing to copy. */
  async copy(from: string, to: string, bytes: number): Promise<boolean> {
    const headers = { "x-amz-copy-source": this.sourceOf(from), "x-amz-checksum-algorithm": "SHA256" };
    return (await this.ask({ method: "PUT", key: to, headers, bytes, answers: [none] })).status !== none;
  }

  /** Bucket and key as the header of a copy names its source. */
  sourceOf(key: string): string {
    return [this.bucket, ...key.split("/")].map(encodeURIComponent).join("/");
  }

  async remove(key: string): Promise<void> {
    await this.ask({ method: "DELETE", key, answers: [none] });
  }

  /** Objects whose keys begin so, a page of a thousand at a time. `delimiter` "/": of those below, only the folders. */
  async *list(prefix: string, delimiter: "" | "/" = ""): AsyncGenerator<Listed> {
    let after: string | undefined;
    do {
      const query = {
        "list-type": "2",
        "encoding-type": "url",
        prefix,
        ...(delimiter && { delimiter }),
        ...(after && { "continuation-token": after }),
      };
      const { body, headers } = await this.ask({ method: "GET", key: "", query }), xml = new TextDecoder().decode(body);
      const isEncoded = textOf(xml, "EncodingType") === "url";
      const plain = (text = "") => isEncoded ? decodeURIComponent(text.replaceAll("+", " ")) : text;
      yield {
        objects: elementsOf(xml, "Contents").map((one) => ({
          key: plain(textOf(one, "Key")),
          bytes: Number(textOf(one, "Size")),
          etag: etagOf(textOf(one, "ETag")),
          modifiedMs: Date.parse(textOf(one, "LastModified") ?? ""),
        })),
        folders: elementsOf(xml, "CommonPrefixes").map((one) => plain(textOf(one, "Prefix"))),
        nowMs: Date.parse(headers.get("date") ?? ""),
      };
      after = textOf(xml, "IsTruncated") === "true" ? textOf(xml, "NextContinuationToken") : undefined;
    } while (after);
  }

  /** The name of an object in messages. */
  name(key: string): string {
    return `s3://${this.bucket}/${key}`;
  }
}

const clients = new Map<string, S3Client>();

function etagOf(text: string | null | undefined): string {
  return (text ?? "").replace(/^W\//, "").replace(/^"|"$/g, "");
}

/** The hash of a body, for the signature and as a checksum that the store keeps. */
export function checked(body: Uint8Array): { readonly sha256: string; readonly headers: Record<string, string> } {
  const hash = createHash("sha256").update(body).digest();
  return { sha256: hash.toString("hex"), headers: { "x-amz-checksum-sha256": hash.toString("base64") } };
}
