/**
 * A server that plays the Hugging Face hub for tests: what it is asked for a model, a tree and files, with ranges, and
 * a second address that files are redirected to, as the hub's are. A test makes it misbehave by `onRequest`. It keeps
 * what it was asked.
 */
import { createHash } from "node:crypto";
import { createServer, type IncomingMessage, type Server, type ServerResponse } from "node:http";
import type { AddressInfo } from "node:net";

export interface Request {
  readonly what: "info" | "tree" | "file" | "content" | "other";
  readonly path: string;
  /** The file's name, of a file and its content. */
  readonly file: string;
  readonly range: string | undefined;
  readonly authorization: string | undefined;
  /** First byte that was asked for, and bytes that were sent, of content. */
  start: number;
  sent: number;
}

export const sha256 = (bytes: Uint8Array) => createHash("sha256").update(bytes).digest("hex");
export const gitHash = (bytes: Uint8Array) =>
  createHash("sha1").update(`blob ${bytes.length}\0`).update(bytes).digest("hex");
export const commitOf = (n: number) => n.toString(16).padStart(40, "c");
/** Bytes that do not repeat. */
export const noise = (length: number, seed = 1) =>
  Uint8Array.from({ length }, (_, i) => Math.imul(i + seed, 2654435761) >>> (8 + i % 13));

export interface Repository {
  files: Record<string, Uint8Array>;
  commit: string;
  /** What the tree says instead of the truth, by file. */
  tree?: Record<string, object>;
}

export class HubServer implements AsyncDisposable {
  readonly requests: Request[] = [];
  readonly repositories = new Map<string, Repository>();
  /** Old names and new ones. */
  readonly renamed = new Map<string, string>();
  /** Answers itself and gives true, or leaves it to the server. */
  onRequest: (request: Request, response: ServerResponse, bytes: Uint8Array) => boolean | Promise<boolean> = () =>
    false;
  #servers: Server[] = [];
  url = "";
  /** Where files' content is. */
  contentUrl = "";

  static async start(repositories: Record<string, Repository> = {}): Promise<HubServer> {
    const hub = new HubServer();
    for (const [name, repository] of Object.entries(repositories)) hub.repositories.set(name, repository);
    [hub.url, hub.contentUrl] = [await hub.#listen(false), await hub.#listen(true)];
    return hub;
  }

  async #listen(isContent: boolean): Promise<string> {
    const server = createServer((request, response) => void this.#answer(request, response, isContent));
    this.#servers.push(server);
    await new Promise<void>((resolve) => server.listen(0, "127.0.0.1", resolve));
    return `http://127.0.0.1:${(server.address() as AddressInfo).port}`;
  }

  /** Content requests of a file, or of all. */
  content(file?: string): Request[] {
    return this.requests.filter((r) => r.what === "content" && (file === undefined || r.file === file));
  }

  get sentBytes(): number {
    return this.content().reduce((sum, { sent }) => sum + sent, 0);
  }

  async #answer(message: IncomingMessage, response: ServerResponse, isContent: boolean): Promise<void> {
    response.on("error", () => {}); // a client that left
    const path = decodeURIComponent(new URL(message.url ?? "/", "http://hub").pathname);
    const [, info] = /^\/api\/models\/([^/]+\/[^/]+)\/revision\/(.+)$/.exec(path) ?? [];
    const [, tree] = /^\/api\/models\/([^/]+\/[^/]+)\/tree\/([0-9a-f]{40})$/.exec(path) ?? [];
    const [, resolved, file = ""] = /^\/([^/]+\/[^/]+)\/resolve\/[0-9a-f]{40}\/(.+)$/.exec(path) ?? [];
    const name = info ?? tree ?? resolved, repository = this.repositories.get(name ?? "");
    const request: Request = {
      what: info ? "info" : tree ? "tree" : resolved ? (isContent ? "content" : "file") : "other",
      path,
      file,
      range: message.headers.range,
      authorization: message.headers.authorization,
      start: Number(/^bytes=(\d+)-/.exec(message.headers.range ?? "")?.[1] ?? 0),
      sent: 0,
    };
    this.requests.push(request);
    const bytes = repository?.files[file] ?? new Uint8Array();
    if (await this.onRequest(request, response, bytes)) return;
    const now = this.renamed.get(name ?? "");
    if (now) redirect(response, 307, message.url!.replace(name!, now));
    else if (!repository) refuse(response, 404, "RepoNotFound");
    else if (request.what === "info") json(response, infoOf(name!, repository));
    else if (request.what === "tree") json(response, treeOf(repository));
    else if (!Object.hasOwn(repository.files, file)) refuse(response, 404, "EntryNotFound");
    else if (request.what === "file") redirect(response, 302, this.contentUrl + message.url);
    else send(request, response, bytes);
  }

  async [Symbol.asyncDispose](): Promise<void> {
    for (const server of this.#servers) {
      server.closeAllConnections();
      await new Promise((resolve) => server.close(resolve));
    }
  }
}

/** The content from where it was asked for, or up to `end`. */
export function send(request: Request, response: ServerResponse, bytes: Uint8Array, end = bytes.length): void {
  const { start, range } = request;
  if (range !== undefined && start >= bytes.length) {
    response.writeHead(416, { "content-range": `bytes */${bytes.length}` }).end();
    return;
  }
  const headers = { "content-length": bytes.length - start, "accept-ranges": "bytes" };
  const ranged = { ...headers, "content-range": `bytes ${start}-${bytes.length - 1}/${bytes.length}` };
  response.writeHead(range === undefined ? 200 : 206, range === undefined ? headers : ranged);
  request.sent = Math.max(0, end - start);
  const part = bytes.subarray(start, end);
  if (end === bytes.length) response.end(part);
  else response.write(part);
}

export function refuse(
  response: ServerResponse,
  status: number,
  code?: string,
  headers: Record<string, string> = {},
): true {
  response.writeHead(status, { ...headers, ...(code !== undefined && { "x-error-code": code }) }).end(
    `refused: ${status}`,
  );
  return true;
}

export function redirect(response: ServerResponse, status: number, location: string): true {
  response.writeHead(status, { location }).end();
  return true;
}

export function json(response: ServerResponse, value: unknown): true {
  response.writeHead(200, { "content-type": "application/json" }).end(JSON.stringify(value));
  return true;
}

function infoOf(id: string, { commit }: Repository): object {
  const facts = { private: false, gated: false, downloads: 1, likes: 1, lastModified: "2024-11-01T00:00:00.000Z" };
  return { _id: "1", id, sha: commit, ...facts };
}

/** Files of 1000 bytes and more are large, as those of Git LFS. */
function treeOf({ files, tree = {} }: Repository): object[] {
  return Object.entries(files).map(([path, bytes]) => ({
    type: "file",
    path,
    size: bytes.length,
    oid: gitHash(bytes),
    ...(bytes.length >= 1000 && { lfs: { oid: sha256(bytes), size: bytes.length, pointerSize: 130 } }),
    ...tree[path],
  }));
}
