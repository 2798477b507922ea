/**
 * Models of the Hugging Face hub: what a repository holds at a revision, which of its files are needed, and where they
 * lie on this machine once download.ts has brought those that the cache lacks. Questions about repositories go through
 * @huggingface/hub. A commit that is here whole is opened without a question; a branch is asked about, and where the
 * hub does not answer the copy of before is taken. Called by fetch.ts.
 */
import type { ListFileEntry } from "@huggingface/hub";
import { existsSync } from "node:fs";
import { join } from "node:path";
import { throwIfAborted } from "../abort.ts";
import { messageOf, TokenizerError } from "../errors.ts";
import { suggestion } from "../nearest.ts";
import { tellHubModel } from "../tokens/origin.ts";
import type { HubModelToFetch } from "./catalogue.ts";
import { download, type RemoteFile } from "./download.ts";
import {
  blobPath,
  factsOf,
  type Half,
  type HubSettings,
  hubSettings,
  isCommit,
  knownCommit,
  linkBlob,
  neededFiles,
  pathToOpen,
  rememberCommit,
  repositoryFolder,
  type SettingsOptions,
  snapshotFiles,
  snapshotFolder,
} from "./hubcache.ts";
import { HubClient } from "./hubclient.ts";
import { publicModels } from "./publicmodels.ts";

/** How far a download has come. */
export interface DownloadProgress {
  /** The repository, "owner/name". */
  readonly repository: string;
  /** The file that is being fetched. */
  readonly file: string;
  /** Bytes that are here, of all files that are needed and including earlier downloads; `totalBytes`: bytes in all. */
  readonly bytes: number;
  readonly totalBytes: number;
}

/** A model of the hub whose files are on this machine. */
export interface FetchedModel {
  /** The folder or file that `Tokenizer.open` takes. */
  readonly path: string;
  /** "hub:owner/name@commit", with "/file" where the repository holds several models: finds the same weights again. */
  readonly source: string;
  /** Name of the model, the same as `info.name` once it is open. */
  readonly name: string;
  readonly repository: string;
  /** The commit, 40 hexadecimal digits. */
  readonly commit: string;
  readonly files: readonly { readonly name: string; readonly bytes: number }[];
  /** Bytes that were downloaded for this call; 0 where all files were here. */
  readonly fetchedBytes: number;
  /**
   * Whether all files were checked against the hub's hashes in this call; false where the hub did not answer or was not
   * asked.
   */
  readonly isVerified: boolean;
}

export interface FetchOptions extends SettingsOptions {
  readonly half?: Half;
  readonly signal?: AbortSignal | undefined;
  readonly onDownload?: ((progress: DownloadProgress) => unknown) | undefined;
  /** Whether tokens, which may be a stranger's, named the model. */
  readonly isFromTokens?: boolean | undefined;
  /** Whether files that are here already are hashed once more. */
  readonly isVerified?: boolean | undefined;
}

/** Largest model, in bytes, that is fetched because tokens name it: a stranger's token file cannot ask for more. */
const mostBytesForTokens = 1 << 30;
const mostEntries = 10_000;
const progressEveryMs = 100;

/**
 * Brings what is needed of a model. Throws HUB, FILE_MISSING where the repository holds no model, FILE_IO, ARGUMENT,
 * CANCELLED.
 */
export async function fetchFromHub(model: HubModelToFetch, options: FetchOptions = {}): Promise<FetchedModel> {
  const settings = await hubSettings(options), copy = copyIn(settings, model, options.half);
  const { isFromTokens = false, isVerified = false, signal } = options;
  throwIfAborted(signal);
  const isPinned = isCommit(model.revision) || isFromTokens;
  if (copy && (settings.isOffline || (isPinned && !isVerified))) return copy;
  if (settings.isOffline) throw notHere(model, settings, "no network may be used (localFilesOnly or HF_HUB_OFFLINE)");
  if (isFromTokens && !model.known && !isListed(model.repository)) {
    throw notHere(
      model,
      settings,
      "tokens may be a stranger's, and only public models are downloaded for them unasked",
    );
  }
  const client = new HubClient(settings, { ...model, hint: hintFor(model) }, signal, copy !== undefined);
  let asked: Asked;
  try {
    asked = await ask(client, settings, model, options);
  } catch (error) {
    if (copy && error instanceof TokenizerError && error.code === "HUB" && error.detail !== 404) return copy;
    throw error;
  }
  return await bring(client, settings, model, asked, options);
}

/** What of a model is on this machine, without a question to anybody; undefined where a needed file is missing. */
export async function findOnDisk(
  model: HubModelToFetch,
  options: FetchOptions = {},
): Promise<FetchedModel | undefined> {
  return copyIn(await hubSettings({ token: false, ...options }), model, options.half);
}

const isListed = (repository: string) => publicModels.some((m) => m.repository === repository);

/** The repository's folders in the cache, one for each of its names. */
function foldersOf({ cacheDir }: HubSettings, { repository, known }: HubModelToFetch): string[] {
  const also = known ? [known.repository, ...known.otherRepositories] : [];
  return [...new Set([repository, ...also])].map((name) => repositoryFolder(cacheDir, name));
}

function copyIn(settings: HubSettings, model: HubModelToFetch, half: Half): FetchedModel | undefined {
  for (const folder of foldersOf(settings, model)) {
    const commit = knownCommit(folder, model.revision);
    if (commit === undefined) continue;
    const snapshot = snapshotFolder(folder, commit), held = snapshotFiles(snapshot);
    const needed = neededFiles(held.map(({ name }) => name), half, filesOf(model));
    if (needed) return fetched(model, commit, snapshot, held.filter(({ name }) => needed.includes(name)));
  }
  return undefined;
}

const filesOf = ({ file, known }: HubModelToFetch) => file === undefined ? known?.files : [file];

function fetched(
  model: HubModelToFetch,
  commit: string,
  snapshot: string,
  files: FetchedModel["files"],
  fetchedBytes = 0,
  isVerified = false,
): FetchedModel {
  const path = pathToOpen(snapshot, files.map(({ name }) => name)), { repository, name } = model;
  const file = path === snapshot ? {} : { file: files[0]!.name };
  const source = tellHubModel({ repository, revision: commit, ...file });
  return { path, source, name, repository, commit, files, fetchedBytes, isVerified };
}

interface Asked {
  readonly commit: string;
  readonly files: readonly RemoteFile[];
}

/**
 * Asks the hub about the repository. The answers are not trusted: names and hashes become paths only in their known
 * forms.
 */
async function ask(
  client: HubClient,
  { endpoint: hubUrl }: HubSettings,
  model: HubModelToFetch,
  { half, isFromTokens }: FetchOptions,
): Promise<Asked> {
  const { repository, revision } = model, { fetch } = client;
  const { listFiles, modelInfo } = await import("@huggingface/hub"); // here, as it takes a tenth of a second
  const commit = isCommit(revision) ? revision : await answered(client, async () => {
    return (await modelInfo({ name: repository, revision, hubUrl, fetch, additionalFields: ["sha"] })).sha;
  });
  if (typeof commit !== "string" || !isCommit(commit)) {
    throw client.wrong(revision, "a commit of 40 hexadecimal digits", shown(commit));
  }
  const held = await answered(client, async () => {
    const files: ListFileEntry[] = [];
    let count = 0; // page may follow page for ever
    for await (
      const entry of listFiles({ repo: { type: "model", name: repository }, revision: commit, hubUrl, fetch })
    ) {
      if (++count > mostEntries) {
        throw client.wrong(commit, `at most ${mostEntries} files and folders at its top`, "more");
      }
      if (entry?.type === "file" && typeof entry.path === "string") {
        files.push(entry);
      }
    }
    return files;
  });
  const names = held.map(({ path }) => path), needed = neededFiles(names, half, filesOf(model));
  if (!needed) throw noModel(model, names, half);
  const files = needed.map((name): RemoteFile => {
    const { size, lfs, oid } = held.find(({ path }) => path === name)!;
    const bytes = lfs?.size ?? size, hash = lfs?.oid ?? oid, pattern = lfs ? /^[0-9a-f]{64}$/ : /^[0-9a-f]{40}$/;
    if (!Number.isSafeInteger(bytes) || bytes < 1) throw client.wrong(name, "a size in bytes", shown(bytes));
    if (!pattern.test(hash ?? "")) {
      throw client.wrong(name, `a hash of ${lfs ? 64 : 40} hexadecimal digits`, shown(hash));
    }
    return { name, bytes, hash: hash!, url: `${hubUrl}/${repository}/resolve/${commit}/${encodeURIComponent(name)}` };
  });
  const bytes = files.reduce((sum, file) => sum + file.bytes, 0);
  if (isFromTokens && bytes > mostBytesForTokens) {
    throw client.wrong(
      commit,
      `at most ${mostBytesForTokens} bytes for tokens that name it (\`model\` or --model takes more)`,
      `${bytes}`,
    );
  }
  return { commit, files };
}

/** The library's work; what it makes of an answer that is none of the hub becomes HUB. */
async function answered<T>(client: HubClient, work: () => Promise<T>): Promise<T> {
  try {
    return await work();
  } catch (error) {
    throw error instanceof TokenizerError ? error : client.wrong("api", "an answer of a hub", messageOf(error));
  }
}

async function bring(
  client: HubClient,
  settings: HubSettings,
  model: HubModelToFetch,
  { commit, files }: Asked,
  { signal, onDownload, isVerified = false }: FetchOptions,
): Promise<FetchedModel> {
  const { repository, revision } = model, folders = foldersOf(settings, model);
  // A model that was downloaded under another name is not downloaded again.
  const folder = folders.find((path) => existsSync(path)) ?? folders[0]!;
  const snapshot = snapshotFolder(folder, commit), tell = new Teller(repository, files, onDownload);
  let bytes = 0;
  for (const file of files) {
    const blob = blobPath(folder, file.hash), held = heldAs(snapshot, file, blob);
    if (!held || (isVerified && held === "linked")) {
      bytes += await download(file, blob, client, { signal, isVerified, onBytes: (n) => tell.bytes(file, n) });
      if (heldAs(snapshot, file, blob) !== "linked") await linkBlob(snapshot, file.name, blob);
    }
    tell.bytes(file, file.bytes);
  }
  tell.end();
  await rememberCommit(folder, revision, commit);
  return fetched(model, commit, snapshot, files.map(({ name, bytes }) => ({ name, bytes })), bytes, isVerified);
}

/** How a snapshot has the whole file: as a link to its blob or, where there are no links, itself. */
function heldAs(snapshot: string, { name, bytes }: RemoteFile, blob: string): "linked" | "itself" | undefined {
  const [held, whole] = [factsOf(join(snapshot, name)), factsOf(blob)];
  if (held?.size !== bytes) return undefined;
  if (!whole) return "itself";
  return whole.ino === held.ino && whole.dev === held.dev ? "linked" : undefined;
}

/** Tells the caller's callback of all files together, now and then. */
class Teller {
  readonly #repository: string;
  readonly #here = new Map<RemoteFile, number>();
  readonly #totalBytes: number;
  readonly #callback: FetchOptions["onDownload"];
  #last: DownloadProgress | undefined;
  #nextMs = 0;

  constructor(repository: string, files: readonly RemoteFile[], callback: FetchOptions["onDownload"]) {
    this.#repository = repository;
    this.#totalBytes = files.reduce((sum, { bytes }) => sum + bytes, 0);
    this.#callback = callback;
  }

  bytes(file: RemoteFile, here: number): void {
    this.#here.set(file, here);
    const bytes = [...this.#here.values()].reduce((sum, n) => sum + n, 0);
    this.#last = { repository: this.#repository, file: file.name, bytes, totalBytes: this.#totalBytes };
    if (performance.now() >= this.#nextMs) this.#tell();
  }

  end(): void {
    if (this.#last) this.#tell();
  }

  #tell(): void {
    this.#nextMs = performance.now() + progressEveryMs;
    try {
      this.#callback?.(this.#last!);
    } catch (cause) {
      const message = `options.onDownload: expected a function that does not throw, found ${messageOf(cause)}`;
      throw new TokenizerError("ARGUMENT", message, { cause });
    }
  }
}

// ---------------------------------------------------------------- what is told
const shown = (value: unknown) => typeof value === "string" ? JSON.stringify(value.slice(0, 100)) : typeof value;

function hintFor({ repository, known }: HubModelToFetch): string {
  return known ? "" : suggestion(repository, publicModels.map((m) => m.repository));
}

function notHere(
  { repository, revision, name }: HubModelToFetch,
  { cacheDir }: HubSettings,
  why: string,
): TokenizerError {
  const how = `\`ctok pull ${repository}@${revision}\` downloads it, or \`model\` or --model names another`;
  const message = `${name}: expected ${repository} at ${revision} in ${cacheDir}, found none, and ${why}: ${how}`;
  return new TokenizerError("HUB", message);
}

function noModel(model: HubModelToFetch, names: readonly string[], half: Half): TokenizerError {
  const wanted = filesOf(model)?.join(" and ") ??
    `${half ?? "encoder"}.jit${
      half ? "" : " and decoder.jit"
    } (or .safetensors), or one .safetensors, .pt, .pth or .ckpt`;
  const rows = publicModels.filter((m) => m.repository === model.repository).map((m) => m.name);
  const hint = rows.length > 0 && !model.known ? `; ${rows.join(" and ")} name models of it` : "";
  const some = names.slice(0, 8).join(", "),
    found = names.length === 0 ? "no file" : names.length > 8 ? `${some}, …` : some;
  return new TokenizerError(
    "FILE_MISSING",
    `${model.repository} at ${model.revision}: expected ${wanted}, found ${found}${hint}`,
  );
}
