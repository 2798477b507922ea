/**
 * The catalogue: the embedded models, and how what a user calls a model is understood: an embedded name, a file or
 * folder, a public model's name, or a repository of the hub. No file is opened here and nothing is downloaded: hub.ts
 * does that.
 */
import { existsSync } from "node:fs";
import { basename, dirname, extname, resolve } from "node:path";
import { packageFile } from "../../ffi/load.ts";
import { expected, TokenizerError } from "../errors.ts";
import { suggestion } from "../nearest.ts";
import { type HubModel, hubModelOf, type Origin, tellHubModel } from "../tokens/origin.ts";
import { cachePathOf, factsOf } from "./hubcache.ts";
import { type PublicModel, publicModels } from "./publicmodels.ts";

export interface EmbeddedModel {
  readonly name: string;
  readonly path: string;
  readonly licence: string;
}

const nano = (name: string): EmbeddedModel => ({
  name: `nano-${name}`,
  path: packageFile(`models/nano/${name}.safetensors`),
  licence: "Apache-2.0",
});

/** Small trained tokenizers that ship with ctok; see models/nano/README.md for what they can do. */
export const embeddedModels: readonly EmbeddedModel[] = [nano("DI8x8"), nano("DV4x8x8")];
export const defaultModel = "nano-DI8x8";
export const defaultVideoModel = "nano-DV4x8x8";

/**
 * A model that is known by name, before anything is opened or downloaded. `source` finds it again and is stored in the
 * tokens' origin.
 */
export type ResolvedModel =
  | { readonly kind: "embedded"; readonly source: string; readonly name: string; readonly path: string }
  /**
   * The model's name, unless it is given, is the last part of its path; in a cache of the hub that would be a commit.
   */
  | { readonly kind: "file"; readonly source: string; readonly name: string | undefined; readonly path: string }
  | HubModelToFetch;

/**
 * A model in a repository of the hub. Its source names the commit only once it is fetched, unless that was asked for.
 */
export interface HubModelToFetch extends HubModel {
  readonly kind: "hub";
  readonly source: string;
  readonly name: string;
  /** The model's row in the catalogue; undefined for a repository that has none. */
  readonly known: PublicModel | undefined;
}

/**
 * An embedded name; a file or folder that is there; a public model's name or repository; another repository of the hub,
 * as "owner/name"; any of the last two with "@revision", or a `revision` beside it; or a source,
 * "hub:owner/name@revision". Throws FILE_MISSING that says what was looked for and what name is near; ARGUMENT for no
 * string, two revisions, one of what is not of the hub, and a source without owner, name or revision.
 */
export function resolveModel(model: string, revision?: string): ResolvedModel {
  if (typeof model !== "string") throw expected("model", "an embedded name, a path, or a model of the hub", model);
  const embedded = embeddedModels.find((m) => m.name === model), path = resolve(model);
  if (embedded || (model !== "" && !model.startsWith("hub:") && existsSync(path))) {
    if (revision !== undefined) throw expected("options.revision", "a model of the hub beside it", model);
    return embedded ? { kind: "embedded", source: model, name: model, path: embedded.path } : fileModel(path);
  }
  const [, before, asked] = /^([^@]+)@([^@]+)$/.exec(model) ?? [];
  if (asked !== undefined && revision !== undefined) {
    throw expected("options.revision", `none beside ${JSON.stringify(model)}`, revision);
  }
  if (model.startsWith("hub:")) {
    const hub = hubModelOf(revision === undefined ? model : `${model}@${revision}`);
    if (!hub) throw expected("model", "hub:owner/name@revision", model);
    return hubModel(hub);
  }
  const name = before ?? model, known = publicModels.find((m) => namesOf(m).includes(name));
  const repository = isRepository(name) ? name : known?.repository;
  if (repository === undefined) throw missing(name);
  const wanted = asked ?? revision ?? "main";
  if (!/^\w[\w.-]*(\/\w[\w.-]*)*$/.test(wanted)) throw expected("revision", "a branch, tag or commit", wanted);
  return hubModel({ repository, revision: wanted }, known);
}

function hubModel(hub: HubModel, named?: PublicModel): HubModelToFetch {
  const rows = publicModels.filter((m) => [m.repository, ...m.otherRepositories].includes(hub.repository));
  const known = named ?? rows.find(({ files }) => hub.file === undefined ? rows.length === 1 : files[0] === hub.file);
  const file = hub.file ?? (known?.files.length === 1 ? known.files[0] : undefined);
  const model = { repository: hub.repository, revision: hub.revision, ...(file !== undefined && { file }) };
  const name = (file === undefined ? basename(hub.repository) : basename(file, extname(file))).slice(
    0,
    mostNameCharacters,
  );
  return { kind: "hub", source: tellHubModel(model), name, known, ...model };
}

/** Longest name of a model, in characters, that the native library keeps. */
const mostNameCharacters = 63;

function fileModel(path: string): ResolvedModel {
  const cached = cachePathOf(path);
  if (!cached) return { kind: "file", source: path, name: undefined, path };
  const { repository, commit: revision, file } = cached,
    { source, name } = hubModel({ repository, revision, ...(file && { file }) });
  return { kind: "file", source, name, path: cached.path };
}

/** What a public model may be called. Repositories of several models are no names of one. */
function namesOf({ name, repository, otherRepositories, files }: PublicModel): string[] {
  const repositories = files.length === 1 ? [] : [repository, ...otherRepositories];
  const stems = files.length === 1 ? files.map((file) => basename(file, extname(file))) : [];
  return [name, ...stems, ...repositories.flatMap((full) => [full, basename(full)])];
}

const checkpoint = /\.(jit|safetensors|pt|pth|ckpt)$/i;

/** "owner/name", but neither a file's name nor something in a folder that is here. */
function isRepository(name: string): boolean {
  if (!/^[A-Za-z0-9][\w.-]*\/[A-Za-z0-9][\w.-]*$/.test(name) || checkpoint.test(name)) return false;
  return !factsOf(dirname(name))?.isDirectory();
}

function missing(model: string): TokenizerError {
  const names = embeddedModels.map((m) => m.name), last = basename(model);
  const known = publicModels.find((m) => namesOf(m).includes(last));
  const hint = known
    ? `; ${known.name} is a public model (${known.repository}, ${known.licence}): ctok pull ${known.name} downloads it`
    : suggestion(last, [...names, ...publicModels.flatMap(namesOf)]);
  const wanted = `an embedded name (${
    names.join(", ")
  }), a public model's (ctok models lists them), a file or folder, or owner/name`;
  return new TokenizerError("FILE_MISSING", `model: expected ${wanted}, found ${JSON.stringify(model)}${hint}`);
}

/**
 * The failure of opening the model that tokens name: which it is, and nothing of what lies at its path, as a stranger
 * may name any.
 */
export function modelMissing({ model, sha256 }: Origin): TokenizerError {
  const its = `${model}${sha256 ? ` (sha256 ${sha256})` : ""}`;
  const message =
    `tokens: their model ${its} cannot be opened; \`model\` says where it is, or names another and is told why not`;
  return new TokenizerError("FILE_MISSING", message);
}
