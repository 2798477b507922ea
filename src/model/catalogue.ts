/**
 * The catalogue: the embedded models, and the public checkpoints by name with where they come from and their licence.
 * Resolves what a user calls a model: an embedded one, a file, or one of the hub. No file is opened here.
 */
import { existsSync } from "node:fs";
import { basename, resolve } from "node:path";
import { packageFile } from "../../ffi/load.ts";
import { expected, TokenizerError } from "../errors.ts";
import { type HubModel, hubModelOf, type Origin } from "../tokens/origin.ts";

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

export interface PublicModel {
  /** Short name, such as "CI8x8": of Cosmos the folder too. LlamaGen's VQ-8 is vq_ds8_c2i.pt, VQ-16 vq_ds16_c2i.pt and _t2i. */
  readonly name: string;
  /** Repository on the Hugging Face hub; of LlamaGen on GitHub, whose page names the files. */
  readonly repository: string;
  readonly kind: "continuous" | "discrete";
  readonly spatialFactor: number;
  /** 1 for images. */
  readonly temporalFactor: number;
  readonly licence: string;
  readonly licenceUrl: string;
}

const published = (family: string, name: string): PublicModel => ({
  name,
  repository: `nvidia/${family}-${name}`,
  kind: name.startsWith("C") ? "continuous" : "discrete",
  spatialFactor: Number(/x(\d+)/.exec(name)![1]),
  temporalFactor: name[1] === "V" ? Number(/^..(\d+)/.exec(name)![1]) : 1,
  licence: "NVIDIA Open Model License",
  licenceUrl: "https://www.nvidia.com/en-us/agreements/enterprise-software/nvidia-open-model-license/",
});

/** Tokenizers that ctok reads. Their weights are not part of ctok: fetch them, accept their licence, pass the folder. */
export const publicModels: readonly PublicModel[] = [
  ...["CI8x8", "CI16x16", "DI8x8", "DI16x16", "CV4x8x8", "CV8x8x8", "CV8x16x16", "DV4x8x8", "DV8x8x8", "DV8x16x16"].map((
    name,
  ) => published("Cosmos-Tokenizer", name)),
  ...[
    "CI8x8-360p",
    "CI16x16-360p",
    "DI8x8-360p",
    "DI16x16-360p",
    "CV4x8x8-360p",
    "DV4x8x8-360p",
    "CV8x8x8-720p",
    "DV8x16x16-720p",
  ].map((name) => published("Cosmos-Tokenize1", name)),
  ...[8, 16].map((factor): PublicModel => ({
    name: `VQ-${factor}`,
    repository: "FoundationVision/LlamaGen",
    kind: "discrete",
    spatialFactor: factor,
    temporalFactor: 1,
    licence: "MIT",
    licenceUrl: "https://github.com/FoundationVision/LlamaGen/blob/main/LICENSE",
  })),
];

/** A model that is known, before anything is opened or fetched. `source` finds it again, and stands in the tokens' origin. */
export type ResolvedModel =
  | { readonly kind: "embedded"; readonly source: string; readonly name: string; readonly path: string }
  | { readonly kind: "file"; readonly source: string; readonly name: undefined }
  | ({ readonly kind: "hub"; readonly source: string; readonly name: string } & HubModel);

/**
 * An embedded name, a file or folder, or "hub:owner/name@revision". Throws FILE_MISSING that says what was looked for; ARGUMENT for
 * no string, and for a hub's model without owner, name or revision.
 */
export function resolveModel(model: string): ResolvedModel {
  if (typeof model !== "string") throw expected("model", "an embedded name, a path or hub:owner/name@revision", model);
  const embedded = embeddedModels.find((m) => m.name === model);
  if (embedded) return { kind: "embedded", source: embedded.name, name: embedded.name, path: embedded.path };
  const hub = hubModelOf(model);
  if (hub) return { kind: "hub", source: model, name: basename(hub.repository), ...hub };
  if (model.startsWith("hub:")) throw expected("model", "hub:owner/name@revision", model);
  const path = resolve(model);
  if (existsSync(path)) return { kind: "file", source: path, name: undefined };
  const known = publicModels.find((m) => m.name === basename(model) || m.repository.endsWith(`/${basename(model)}`));
  const hint = known
    ? `; ${known.name} is a public checkpoint (${known.repository}, ${known.licence}): download its folder and pass the path`
    : "";
  const names = embeddedModels.map((m) => m.name).join(", ");
  throw new TokenizerError(
    "FILE_MISSING",
    `model: expected an embedded name (${names}) or a file or folder, found "${model}"${hint}`,
  );
}

/**
 * Where a model's file or folder lies on this machine: a promise, so that a download can stand behind it. Throws FILE_MISSING for a
 * model of the hub, as nothing is downloaded.
 */
export function fetchModel(found: ResolvedModel): Promise<string> {
  if (found.kind === "embedded") return Promise.resolve(found.path);
  if (found.kind === "file") return Promise.resolve(found.source);
  const { source, repository, revision } = found;
  const hint = `ctok downloads nothing: download ${repository} at ${revision} and pass its folder`;
  return Promise.reject(
    new TokenizerError("FILE_MISSING", `model: expected one that lies on this machine, found "${source}"; ${hint}`),
  );
}

/** The failure of opening the model that tokens name: which it is, and nothing of what lies at its path, as a stranger may name any. */
export function modelMissing({ model, sha256 }: Origin): TokenizerError {
  const its = `${model}${sha256 ? ` (sha256 ${sha256})` : ""}`;
  const message =
    `tokens: their model ${its} cannot be opened; \`model\` says where it is, or names another and is told why not`;
  return new TokenizerError("FILE_MISSING", message);
}
