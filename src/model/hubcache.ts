/**
 * The cache of the hub on this machine, laid out as Python's huggingface_hub does, so that either finds what the other
 * downloaded: models--OWNER--NAME/{blobs/HASH, refs/REVISION, snapshots/COMMIT/FILE -> ../../blobs/HASH}. Where it is
 * and what else the environment says, read by the same variables; which files of a repository make a model. Nothing
 * here reaches the network. Called by catalogue.ts and hub.ts. Ref: https://huggingface.co/docs/hub/local-cache
 */
import { readdirSync, readFileSync, type Stats, statSync } from "node:fs";
import { mkdir, readFile, rename, rm, symlink } from "node:fs/promises";
import { homedir } from "node:os";
import { basename, dirname, join, relative, resolve } from "node:path";
import { cachesFolder, variable } from "../environment.ts";
import { expected, TokenizerError } from "../errors.ts";
import { ioError, writeFileAtomic } from "../files.ts";

const { process } = globalThis;

export interface HubSettings {
  /** Address of the hub: "https://huggingface.co", or a mirror. */
  readonly endpoint: string;
  readonly cacheDir: string;
  readonly token: string | undefined;
  readonly isOffline: boolean;
  /** How long to wait for a silent server, in milliseconds. */
  readonly timeoutMs: number;
}

export interface SettingsOptions {
  readonly cacheDir?: string | undefined;
  readonly token?: string | false | undefined;
  readonly localFilesOnly?: boolean | undefined;
}

const isOn = (name: string): boolean => /^(1|on|yes|true)$/i.test(process.env[name] ?? "");

/** Where the cache is: HF_HUB_CACHE, HUGGINGFACE_HUB_CACHE, "hub" in HF_HOME, in XDG_CACHE_HOME or in ~/.cache. */
export function cacheFolder(): string {
  return expand(variable("HF_HUB_CACHE") ?? variable("HUGGINGFACE_HUB_CACHE") ?? join(hubHome(), "hub"));
}

function hubHome(): string {
  return expand(variable("HF_HOME") ?? join(cachesFolder(), "huggingface"));
}

/** Expands ~ and $NAME in a path, as Python does. */
function expand(path: string): string {
  const named = path.replace(/\$(?:(\w+)|\{(\w+)\})/g, (all, name, braced) => process.env[name ?? braced] ?? all);
  return resolve(named.replace(/^~(?=\/|$)/, () => homedir()));
}

/**
 * Settings of the hub: from the options, else from the environment. Throws ARGUMENT where either is wrong, FILE_IO for
 * a token file that cannot be read.
 */
export async function hubSettings(options: SettingsOptions): Promise<HubSettings> {
  const endpoint = (variable("HF_ENDPOINT") ?? "https://huggingface.co").replace(/\/+$/, "");
  if (!/^https?:\/\/[^/]/.test(endpoint) || !URL.canParse(endpoint)) {
    throw expected("HF_ENDPOINT", "an address that begins with https:// or http://", endpoint);
  }
  const seconds = variable("HF_HUB_DOWNLOAD_TIMEOUT") ?? "10";
  if (!/^[1-9]\d{0,5}$/.test(seconds)) {
    throw expected("HF_HUB_DOWNLOAD_TIMEOUT", "a whole number of seconds from 1", seconds);
  }
  const token = options.token === false ? undefined : options.token ?? await implicitToken();
  if (token !== undefined && !/^[\x21-\x7e]+$/.test(token)) {
    throw new TokenizerError(
      "ARGUMENT",
      "token: expected letters, digits and signs without spaces, found others (not shown)",
    );
  }
  return {
    endpoint,
    cacheDir: options.cacheDir === undefined ? cacheFolder() : resolve(options.cacheDir),
    token,
    isOffline: options.localFilesOnly ?? isOn("HF_HUB_OFFLINE"),
    timeoutMs: Number(seconds) * 1000,
  };
}

/** HF_TOKEN, or what `hf auth login` left in HF_TOKEN_PATH or in "token" of HF_HOME. */
async function implicitToken(): Promise<string | undefined> {
  if (isOn("HF_HUB_DISABLE_IMPLICIT_TOKEN")) return undefined;
  const given = variable("HF_TOKEN") ?? variable("HUGGING_FACE_HUB_TOKEN");
  if (given !== undefined) return given.trim() || undefined;
  const path = variable("HF_TOKEN_PATH") === undefined ? join(hubHome(), "token") : expand(variable("HF_TOKEN_PATH")!);
  try {
    return (await readFile(path, "utf8")).trim() || undefined;
  } catch (error) {
    const { code } = error as { code?: string };
    if (code === "ENOENT" || code === "ENOTDIR") return undefined;
    throw ioError(path, "read", error);
  }
}

// ---------------------------------------------------------------- the layout
export const isCommit = (revision: string): boolean => /^[0-9a-f]{40}$/.test(revision);

/** The cache's folder of a repository. "--" stands for "/" in its name, as the hub allows no "--" in names. */
export function repositoryFolder(cacheDir: string, repository: string): string {
  return join(cacheDir, `models--${repository.replace("/", "--")}`);
}

export const blobPath = (folder: string, hash: string): string => join(folder, "blobs", hash);
export const snapshotFolder = (folder: string, commit: string): string => join(folder, "snapshots", commit);

/** The commit that a branch or tag stood for when it was last asked about; undefined where it never was. */
export function knownCommit(folder: string, revision: string): string | undefined {
  if (isCommit(revision)) return revision;
  try {
    const commit = readFileSync(join(folder, "refs", revision), "utf8").trim();
    return isCommit(commit) ? commit : undefined;
  } catch {
    return undefined;
  }
}

export async function rememberCommit(folder: string, revision: string, commit: string): Promise<void> {
  if (isCommit(revision) || knownCommit(folder, revision) === commit) return;
  const path = join(folder, "refs", revision);
  await mkdir(dirname(path), { recursive: true }).catch((error) => {
    throw ioError(path, "write", error);
  });
  await writeFileAtomic(path, new TextEncoder().encode(commit));
}

/** Facts about the file that a path leads to; undefined where there is none, or it may not be looked at. */
export function factsOf(path: string): Stats | undefined {
  try {
    return statSync(path);
  } catch {
    return undefined;
  }
}

/** The files of a snapshot, at its top, that are there whole: a link whose blob is gone is none. */
export function snapshotFiles(snapshot: string): { readonly name: string; readonly bytes: number }[] {
  try {
    return readdirSync(snapshot).flatMap((name) => {
      const found = factsOf(join(snapshot, name));
      return found?.isFile() ? [{ name, bytes: found.size }] : [];
    });
  } catch {
    return [];
  }
}

/**
 * Makes `snapshot/file` stand for the blob. Where the system makes no links the blob itself moves there, as in Python.
 */
export async function linkBlob(snapshot: string, file: string, blob: string): Promise<void> {
  const path = join(snapshot, file), temporary = join(snapshot, `.ctok-${process.pid}-${crypto.randomUUID()}.tmp`);
  try {
    await mkdir(snapshot, { recursive: true });
    const isLinked = await symlink(relative(snapshot, blob), temporary).then(() => true, () => false);
    await rename(isLinked ? temporary : blob, path); // in the place of one that led elsewhere
  } catch (error) {
    await rm(temporary, { force: true }).catch(() => {});
    throw ioError(path, "write", error);
  }
}

// ---------------------------------------------------------------- which files
/**
 * Sets of files that a model can consist of. The first set of which a file is there is taken, as csrc/checkpoint/open.c
 * does in a folder.
 */
const sets = [
  ["encoder.jit", "decoder.jit"],
  ["autoencoder.jit"],
  ["encoder.safetensors", "decoder.safetensors"],
  ["autoencoder.safetensors"],
];
const single = [/^[\w][\w.-]*\.safetensors$/, /^[\w][\w.-]*\.(pt|pth|ckpt)$/];
export type Half = "encoder" | "decoder" | undefined;

/** The files that a model, or the given half of it, needs; undefined where `names` lacks one of them. */
export function neededFiles(
  names: readonly string[],
  half: Half,
  files?: readonly string[],
): readonly string[] | undefined {
  const set = files ?? sets.map((set) => set.filter((name) => names.includes(name))).find((set) => set.length > 0) ??
    single.map((pattern) => names.filter((name) => pattern.test(name))).find((found) => found.length > 0);
  if (!set || (!files && set.length > 1 && !isHalf(set[0]!))) return undefined;
  const needed = set.filter((name) => !half || !isHalf(name) || name.startsWith(half));
  return needed.length > 0 && needed.every((name) => names.includes(name)) ? needed : undefined;
}

const isHalf = (name: string) => /^(encoder|decoder)\./.test(name);

/**
 * The path to open in a downloaded snapshot: the folder where encoder and decoder are files of their own, else the
 * file.
 */
export function pathToOpen(snapshot: string, files: readonly string[]): string {
  return isHalf(files[0]!) ? snapshot : join(snapshot, files[0]!);
}

/** A path into a cache: the repository, the commit, its file where that is the whole model, and what to open. */
export interface CachePath {
  readonly repository: string;
  readonly commit: string;
  readonly file?: string;
  readonly path: string;
}

/**
 * What a path in a cache stands for: a folder models--OWNER--NAME, a snapshot in it, or a file of one. Undefined for
 * other paths. Throws FILE_MISSING where a repository's folder does not say which of its snapshots is meant.
 */
export function cachePathOf(path: string): CachePath | undefined {
  const whole = repositoryOf(path), commit = whole ? onlyCommit(path) : basename(path);
  const snapshot = whole ? snapshotFolder(path, commit) : path, repository = whole ?? snapshotOwner(path);
  if (repository) {
    const [file, ...more] = neededFiles(snapshotFiles(snapshot).map(({ name }) => name), undefined) ?? [];
    const isAlone = file !== undefined && more.length === 0 && !isHalf(file);
    return { repository, commit, path: isAlone ? join(snapshot, file) : snapshot, ...(isAlone && { file }) };
  }
  const owner = snapshotOwner(dirname(path)), file = basename(path);
  return owner && !isHalf(file) ? { repository: owner, commit: basename(dirname(path)), file, path } : undefined;
}

function snapshotOwner(path: string): string | undefined {
  const isSnapshot = isCommit(basename(path)) && basename(dirname(path)) === "snapshots";
  return isSnapshot ? repositoryOf(dirname(dirname(path))) : undefined;
}

function repositoryOf(path: string): string | undefined {
  const [, owner, name] = /^models--([A-Za-z0-9][\w.-]*?)--([A-Za-z0-9][\w.-]*)$/.exec(basename(path)) ?? [];
  return owner && name ? `${owner}/${name}` : undefined;
}

/** The commit that the branch main stands for, or else the only one in the cache. */
function onlyCommit(folder: string): string {
  const held = commitsIn(folder), main = knownCommit(folder, "main");
  const commit = main !== undefined && held.includes(main) ? main : held.length === 1 ? held[0]! : undefined;
  if (commit !== undefined) return commit;
  const found = held.length === 0 ? "none" : `${held.length}, of which refs/main names none: pass the folder of one`;
  throw new TokenizerError("FILE_MISSING", `${folder}: expected a snapshot in a repository's folder, found ${found}`);
}

function commitsIn(folder: string): string[] {
  try {
    return readdirSync(join(folder, "snapshots")).filter(isCommit);
  } catch {
    return [];
  }
}
