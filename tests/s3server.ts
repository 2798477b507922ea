/**
 * A server that plays an S3 bucket for tests, in memory: signatures and hashes are checked, what is written "where
 * nothing is" is, parts and their end, copies, lists by pages, ranges. A test makes it misbehave by `fault` and the
 * switches. It keeps what it was asked. Signatures are computed here once more, by AWS's description of Signature
 * Version 4, not by what the client signs with.
 */
import { Buffer } from "node:buffer";
import { createHash, createHmac, randomBytes } from "node:crypto";
import { createServer, type IncomingMessage, type Server, type ServerResponse } from "node:http";
import type { AddressInfo } from "node:net";
import process from "node:process";
import { sequence } from "./support.ts";

export const bucket = "corpora", accessKeyId = "AKIDEXAMPLE", secretAccessKey = "secret/of+tests";
const region = "eu-test-1", skewMs = 15 * 60_000;

export interface StoredObject {
  readonly bytes: Uint8Array;
  /** In quotes. */
  readonly etag: string;
  /** Base64; of parts with their number behind. */
  readonly sha256: string;
  readonly meta: Readonly<Record<string, string>>;
  readonly modifiedMs: number;
}

interface Upload {
  readonly key: string;
  readonly meta: Readonly<Record<string, string>>;
  readonly begunMs: number;
  readonly parts: Map<number, StoredObject>;
}

export interface S3Request {
  readonly method: string;
  readonly key: string;
  readonly query: Readonly<Record<string, string>>;
  readonly headers: IncomingMessage["headers"];
  /** As GET, PutNew, Copy, UploadPart, List, …: what it is. */
  readonly what: string;
  /** That was answered; 0: nothing was. */
  status: number;
}

/** What goes wrong with a request; "after": the server has done it. */
export interface Fault {
  readonly status?: number;
  readonly code?: string;
  readonly reset?: "before" | "after";
  /** No answer ever comes. */
  readonly silent?: "before" | "after";
  readonly lateMs?: number;
}

interface Result {
  readonly status: number;
  readonly headers?: Record<string, string | number>;
  readonly body?: Uint8Array | string;
}

export class S3Server implements AsyncDisposable {
  readonly objects = new Map<string, StoredObject>();
  readonly uploads = new Map<string, Upload>();
  readonly requests: S3Request[] = [];
  fault: (request: S3Request) => Fault | undefined | Promise<Fault | undefined> = () => undefined;
  /** Keys of one page of a list. */
  pageSize = 1000;
  /** How far its clock is ahead of ours. */
  aheadMs = 0;
  ignoresIfNoneMatch = false;
  /** At the end of an upload in parts alone. */
  ignoresIfNoneMatchOfParts = false;
  ignoresHashes = false;
  tellsNoHashes = false;
  sessionToken: string | undefined;
  url = "";
  readonly #server: Server = createServer((request, response) => void this.#answer(request, response));

  static async start(): Promise<S3Server> {
    const server = new S3Server();
    await new Promise<void>((resolve) => server.#server.listen(0, "127.0.0.1", resolve));
    server.url = `http://127.0.0.1:${(server.#server.address() as AddressInfo).port}`;
    return server;
  }

  /** What the environment of a client says. */
  get environment(): Record<string, string> {
    return {
      AWS_ENDPOINT_URL: this.url,
      AWS_ACCESS_KEY_ID: accessKeyId,
      AWS_SECRET_ACCESS_KEY: secretAccessKey,
      AWS_REGION: region,
    };
  }

  get now(): Date {
    return new Date(Date.now() + this.aheadMs);
  }

  /** The keys that begin so. */
  keys(prefix = ""): string[] {
    return [...this.objects.keys()].filter((key) => key.startsWith(prefix)).sort();
  }

  put(key: string, content: Uint8Array | string): void {
    this.objects.set(key, this.#stored(Buffer.from(content), {}));
  }

  async [Symbol.asyncDispose](): Promise<void> {
    this.#server.closeAllConnections();
    await new Promise((resolve) => this.#server.close(resolve));
  }

  async #answer(message: IncomingMessage, response: ServerResponse): Promise<void> {
    response.on("error", () => {}), message.on("error", () => {}); // a client that left
    const url = new URL(message.url ?? "/", this.url), [, own, ...rest] = url.pathname.split("/");
    const request: S3Request = {
      method: message.method!,
      key: decodeURIComponent(rest.join("/")),
      query: Object.fromEntries(url.searchParams),
      headers: message.headers,
      what: whatOf(message, url.searchParams, rest.join("/") === ""),
      status: 0,
    };
    this.requests.push(request);
    const chunks: Uint8Array[] = [];
    try {
      for await (const chunk of message) chunks.push(chunk);
    } catch {
      return; // cut off while it sent
    }
    const body = Buffer.concat(chunks), fault = await this.fault(request) ?? {};
    if (fault.reset === "before") return void message.socket.destroy();
    if (fault.silent === "before") return;
    const result = fault.status
      ? refusal(fault.status, fault.code ?? "InternalError")
      : own !== bucket
      ? refusal(404, "NoSuchBucket")
      : this.#refusalOf(message, url, body) ?? this.#do(request, body);
    if (fault.lateMs) await new Promise((resolve) => setTimeout(resolve, fault.lateMs));
    if (fault.reset === "after") return void message.socket.destroy();
    if (fault.silent === "after") return;
    request.status = result.status;
    const content = Buffer.from(result.body ?? "");
    const length = { "content-length": content.length, date: this.now.toUTCString() };
    response.writeHead(result.status, { ...length, "x-amz-request-id": "1", ...result.headers });
    response.end(request.method === "HEAD" ? undefined : content);
  }

  /** Ref: AWS, "Signature Version 4 signing process", header form. */
  #refusalOf({ method, headers }: IncomingMessage, url: URL, body: Uint8Array): Result | undefined {
    const pattern = sequence(
      /^AWS4-HMAC-SHA256 Credential=([^/]+)\/(\d{8})\/([^/]+)\/s3\/aws4_request, /,
      /SignedHeaders=([^,]+), Signature=([0-9a-f]{64})$/,
    );
    const [, id, day, place, names, signature] = pattern.exec(headers.authorization ?? "") ?? [];
    if (!names || !signature) return refusal(403, "AccessDenied");
    if (id !== accessKeyId) return refusal(403, "InvalidAccessKeyId");
    if (this.sessionToken !== undefined && headers["x-amz-security-token"] !== this.sessionToken) {
      return refusal(400, "ExpiredToken");
    }
    if (place !== region) return refusal(400, "AuthorizationHeaderMalformed", `<Region>${region}</Region>`);
    const date = String(headers["x-amz-date"]),
      [, y, mo, d, h, mi, s] = /^(\d{4})(\d\d)(\d\d)T(\d\d)(\d\d)(\d\d)Z$/.exec(date) ?? [];
    const signedMs = Date.UTC(Number(y), Number(mo) - 1, Number(d), Number(h), Number(mi), Number(s));
    if (!(Math.abs(signedMs - Date.now()) < skewMs)) return refusal(403, "RequestTimeTooSkewed");
    const signed = names.split(";"),
      all = Object.keys(headers).filter((name) => name === "host" || name.startsWith("x-amz-"));
    if (all.some((name) => !signed.includes(name))) return refusal(403, "AccessDenied");
    const query = [...url.searchParams].map(([name, value]) => `${rfc3986(name)}=${rfc3986(value)}`).sort().join("&");
    const path = url.pathname.split("/").map((part) => rfc3986(decodeURIComponent(part))).join("/");
    const told = signed.map((name) => `${name}:${String(headers[name]).trim()}\n`).join("");
    const hash = String(headers["x-amz-content-sha256"]);
    const canonical = [method, path, query, told, names, hash].join("\n");
    const scope = `${day}/${region}/s3/aws4_request`;
    const text = ["AWS4-HMAC-SHA256", date, scope, createHash("sha256").update(canonical).digest("hex")].join("\n");
    const key = [day!, region, "s3", "aws4_request"].reduce(
      (key: string | Uint8Array, part) => hmac(key, part),
      `AWS4${secretAccessKey}`,
    );
    if (Buffer.from(hmac(key, text)).toString("hex") !== signature) {
      return refusal(403, "SignatureDoesNotMatch", `<StringToSign>${text}</StringToSign>`);
    }
    if (this.ignoresHashes) return undefined;
    const found = createHash("sha256").update(body).digest(), sum = headers["x-amz-checksum-sha256"];
    if (found.toString("hex") !== hash) return refusal(400, "XAmzContentSHA256Mismatch");
    return sum !== undefined && sum !== found.toString("base64") ? refusal(400, "BadDigest") : undefined;
  }

  #stored(bytes: Uint8Array, meta: Record<string, string>): StoredObject {
    const sha256 = createHash("sha256").update(bytes).digest("base64"), etag = `"${md5(bytes)}"`;
    return { bytes: Uint8Array.from(bytes), etag, sha256, meta, modifiedMs: this.now.getTime() };
  }

  #do(request: S3Request, body: Uint8Array): Result {
    const { what, key, query, headers } = request, found = this.objects.get(key);
    switch (what) {
      case "List":
        return this.#list(query);
      case "ListUploads":
        return this.#listUploads(query.prefix ?? "");
      case "Head":
      case "Get":
        return found ? this.#read(found, headers) : refusal(404, "NoSuchKey");
      case "Put":
      case "PutNew":
        if (what === "PutNew" && found && !this.ignoresIfNoneMatch) return refusal(412, "PreconditionFailed");
        this.objects.set(key, this.#stored(body, metaOf(headers)));
        return { status: 200, headers: { etag: this.objects.get(key)!.etag } };
      case "Copy": {
        const from = this.#sourceOf(headers);
        if (!from) return refusal(404, "NoSuchKey");
        const made = this.#stored(from.bytes, from.meta);
        this.objects.set(key, made);
        return { status: 200, body: `<CopyObjectResult><ETag>${made.etag}</ETag></CopyObjectResult>` };
      }
      case "Delete":
        this.objects.delete(key);
        return { status: 204 };
      case "Begin": {
        const id = randomBytes(8).toString("hex");
        this.uploads.set(id, { key, meta: metaOf(headers), begunMs: this.now.getTime(), parts: new Map() });
        return {
          status: 200,
          body: `<InitiateMultipartUploadResult><UploadId>${id}</UploadId></InitiateMultipartUploadResult>`,
        };
      }
      default:
        return this.#ofUpload(request, body);
    }
  }

  #ofUpload({ what, key, query, headers }: S3Request, body: Uint8Array): Result {
    const id = query.uploadId ?? "", upload = this.uploads.get(id);
    if (upload?.key !== key) return refusal(404, "NoSuchUpload");
    if (what === "Abort") {
      this.uploads.delete(id);
      return { status: 204 };
    }
    if (what === "UploadPart" || what === "CopyPart") {
      const from = what === "CopyPart" ? this.#sourceOf(headers) : undefined;
      if (what === "CopyPart" && !from) return refusal(404, "NoSuchKey");
      const [, first, last] = /^bytes=(\d+)-(\d+)$/.exec(String(headers["x-amz-copy-source-range"] ?? "")) ?? [];
      const part = this.#stored(from ? from.bytes.subarray(Number(first), Number(last) + 1) : body, {});
      upload.parts.set(Number(query.partNumber), part);
      const xml =
        `<CopyPartResult><ETag>${part.etag}</ETag><ChecksumSHA256>${part.sha256}</ChecksumSHA256></CopyPartResult>`;
      return { status: 200, headers: { etag: part.etag }, ...(from && { body: xml }) };
    }
    if (headers["if-none-match"] && this.objects.has(key) && !this.ignoresIfNoneMatchOfParts) {
      return refusal(412, "PreconditionFailed");
    }
    const parts = [
      ...body.toString().matchAll(
        /<PartNumber>(\d+)<\/PartNumber><ETag>(.*?)<\/ETag>(?:<ChecksumSHA256>(.*?)<\/ChecksumSHA256>)?/g,
      ),
    ];
    const all = parts.map(([, number, etag, sum]) => {
      const part = upload.parts.get(Number(number));
      return part && etag!.replaceAll("&#34;", '"') === part.etag && sum === part.sha256 ? part : undefined;
    });
    if (all.length === 0 || all.some((part) => !part)) return refusal(400, "InvalidPart");
    const bytes = Buffer.concat(all.map((part) => part!.bytes));
    const sums = createHash("sha256").update(Buffer.concat(all.map((part) => Buffer.from(part!.sha256, "base64"))));
    const made = { etag: `"${md5(bytes)}-${all.length}"`, sha256: `${sums.digest("base64")}-${all.length}` };
    this.objects.set(key, { ...this.#stored(bytes, upload.meta), ...made });
    this.uploads.delete(id);
    return {
      status: 200,
      body: `<CompleteMultipartUploadResult><ETag>${made.etag}</ETag></CompleteMultipartUploadResult>`,
    };
  }

  #sourceOf(headers: IncomingMessage["headers"]): StoredObject | undefined {
    const source = decodeURIComponent(String(headers["x-amz-copy-source"]));
    return source.startsWith(`${bucket}/`) ? this.objects.get(source.slice(bucket.length + 1)) : undefined;
  }

  #read({ bytes, etag, sha256, meta, modifiedMs }: StoredObject, headers: IncomingMessage["headers"]): Result {
    if (headers["if-match"] && headers["if-match"] !== etag) return refusal(412, "PreconditionFailed");
    const tells = headers["x-amz-checksum-mode"] === "ENABLED" && !this.tellsNoHashes;
    const common = {
      etag,
      "last-modified": new Date(modifiedMs).toUTCString(),
      ...meta,
      ...(tells && { "x-amz-checksum-sha256": sha256 }),
    };
    const [, first, last] = /^bytes=(\d+)-(\d+)$/.exec(headers.range ?? "") ?? [];
    if (first === undefined) {
      return { status: 200, headers: { ...common, "content-length": bytes.length }, body: bytes };
    }
    if (Number(first) >= bytes.length) return refusal(416, "InvalidRange");
    return { status: 206, headers: common, body: bytes.subarray(Number(first), Number(last) + 1) };
  }

  #list({ prefix = "", delimiter, "continuation-token": after = "" }: Readonly<Record<string, string>>): Result {
    const names = new Set<string>();
    for (const key of this.keys(prefix)) {
      const end = delimiter ? key.indexOf(delimiter, prefix.length) : -1;
      names.add(end < 0 ? key : key.slice(0, end + 1));
    }
    const left = [...names].filter((name) => name > after), page = left.slice(0, this.pageSize);
    const entries = page.map((name) => {
      const shown = encodeURIComponent(name).replaceAll("%20", "+"), object = this.objects.get(name);
      if (delimiter && name.endsWith(delimiter) && name !== prefix) {
        return `<CommonPrefixes><Prefix>${shown}</Prefix></CommonPrefixes>`;
      }
      const time = new Date(object!.modifiedMs).toISOString(), etag = object!.etag.replaceAll('"', "&quot;");
      return `<Contents><Key>${shown}</Key><LastModified>${time}</LastModified><ETag>${etag}</ETag><Size>${
        object!.bytes.length
      }</Size></Contents>`;
    });
    const next = left.length > page.length
      ? `<NextContinuationToken>${xmlText(page.at(-1)!)}</NextContinuationToken>`
      : "";
    const head = `<Prefix>${xmlText(prefix)}</Prefix><EncodingType>url</EncodingType><IsTruncated>${
      next !== ""
    }</IsTruncated>`;
    return { status: 200, body: `<ListBucketResult>${head}${next}${entries.join("")}</ListBucketResult>` };
  }

  #listUploads(prefix: string): Result {
    const all = [...this.uploads].filter(([, { key }]) => key.startsWith(prefix)).map(([id, { key, begunMs }]) => {
      const time = new Date(begunMs).toISOString();
      return `<Upload><Key>${xmlText(key)}</Key><UploadId>${id}</UploadId><Initiated>${time}</Initiated></Upload>`;
    });
    return {
      status: 200,
      body: `<ListMultipartUploadsResult><IsTruncated>false</IsTruncated>${all.join("")}</ListMultipartUploadsResult>`,
    };
  }
}

function whatOf({ method, headers }: IncomingMessage, query: URLSearchParams, isBucket: boolean): string {
  if (isBucket) return query.has("uploads") ? "ListUploads" : "List";
  const isCopy = headers["x-amz-copy-source"] !== undefined;
  if (method === "POST") return query.has("uploads") ? "Begin" : "Complete";
  if (method === "DELETE") return query.has("uploadId") ? "Abort" : "Delete";
  if (method !== "PUT") return method === "HEAD" ? "Head" : "Get";
  if (query.has("partNumber")) return isCopy ? "CopyPart" : "UploadPart";
  return isCopy ? "Copy" : headers["if-none-match"] === "*" ? "PutNew" : "Put";
}

function refusal(status: number, code: string, more = ""): Result {
  return { status, body: `<?xml version="1.0"?><Error><Code>${code}</Code><Message>refused</Message>${more}</Error>` };
}

function metaOf(headers: IncomingMessage["headers"]): Record<string, string> {
  const all = Object.entries(headers).filter(([name]) => name.startsWith("x-amz-meta-"));
  return Object.fromEntries(all.map(([name, value]) => [name, String(value)]));
}

const hmac = (key: string | Uint8Array, text: string) =>
  new Uint8Array(createHmac("sha256", key).update(text).digest());
const md5 = (bytes: Uint8Array) => createHash("md5").update(bytes).digest("hex");
const rfc3986 = (text: string) =>
  encodeURIComponent(text).replace(/[!'()*]/g, (c) => `%${c.charCodeAt(0).toString(16).toUpperCase()}`);
const xmlText = (text: string) => text.replaceAll("&", "&amp;").replaceAll("<", "&lt;").replaceAll(">", "&gt;");

/**
 * Runs with a server that the environment of this process and its children names, and a cache of its own in `folder`.
 */
export async function withS3(folder: string, use: (server: S3Server) => Promise<void>): Promise<void> {
  const before = { ...process.env };
  await using server = await S3Server.start();
  Object.assign(process.env, server.environment, { XDG_CACHE_HOME: `${folder}/cache`, CTOK_S3_TIMEOUT: "30" });
  try {
    await use(server);
  } finally {
    for (const name of Object.keys(process.env)) if (!(name in before)) delete process.env[name];
    Object.assign(process.env, before);
  }
}

/** Hashes of what lies below a prefix, but for what workers keep there, as contentOf has them of a folder. */
export function contentIn(server: S3Server, below: string): Map<string, string> {
  const keys = server.keys(below).filter((key) => !key.startsWith(`${below}.ctok/`));
  return new Map(keys.map((key) => {
    return [key.slice(below.length), createHash("sha256").update(server.objects.get(key)!.bytes).digest("hex")];
  }));
}
