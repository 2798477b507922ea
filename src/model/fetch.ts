/**
 * Finds the path on this machine of a model that a user names: embedded models and files are here, models of the hub
 * are downloaded. Also the public functions that download a model or ask whether it is here. Called by tokenizer.ts and
 * tokenize.ts.
 */
import { z } from "zod";
import { type Fields, parse, signal } from "../checks.ts";
import { expected } from "../errors.ts";
import { type HubModelToFetch, resolveModel } from "./catalogue.ts";
import { type DownloadProgress, type FetchedModel, fetchFromHub, type FetchOptions, findOnDisk } from "./hub.ts";
import { located } from "./job.ts";

/** Options for models of the hub; for other models they do nothing. */
export interface HubOptions {
  /** Branch, tag or commit. Default: main, or what the model's name says after an "@". */
  revision?: string | undefined;
  /** The folder of the cache. Default: as Python's huggingface_hub, by HF_HUB_CACHE, HF_HOME and XDG_CACHE_HOME. */
  cacheDir?: string | undefined;
  /**
   * Access token, sent to the hub's own address alone; false: none. Default: HF_TOKEN, or what `hf auth login` left in
   * HF_TOKEN_PATH or in HF_HOME.
   */
  token?: string | false | undefined;
  /**
   * Whether only what is downloaded already is opened, without a question to the hub. Default: as HF_HUB_OFFLINE says,
   * or false.
   */
  localFilesOnly?: boolean | undefined;
  /**
   * Called now and then while files are fetched or were found to be here. What it throws ends the call with code
   * ARGUMENT.
   */
  onDownload?: ((progress: DownloadProgress) => void) | undefined;
}
export const hubOptions = {
  revision: z.string().min(1).max(255).optional(),
  cacheDir: z.string().min(1).optional(),
  token: z.custom<string | false>((v) => v === false || typeof v === "string", "expected text or false").optional(),
  localFilesOnly: z.boolean().optional(),
  onDownload: z.custom<(progress: DownloadProgress) => void>((v) => typeof v === "function", "expected a function")
    .optional(),
} satisfies Fields<HubOptions>;

export interface PullOptions extends HubOptions {
  /** Only what this half needs. Default: both. */
  half?: "encoder" | "decoder" | undefined;
  /** Aborting it ends the call with code CANCELLED; what was downloaded by then is used the next time. */
  signal?: AbortSignal | undefined;
}
const pullOptions = z.strictObject(
  { ...hubOptions, half: z.enum(["encoder", "decoder"]).optional(), signal } satisfies Fields<PullOptions>,
);

/** What to open, and under which name. */
export interface Place {
  readonly path: string;
  readonly source: string;
  /** Name of the model; undefined where the path says it. */
  readonly name: string | undefined;
}

/** Downloads the model unless it is here. Throws as resolveModel and fetchFromHub. */
export async function fetchModel(
  model: string,
  options: FetchOptions & { revision?: string | undefined } = {},
): Promise<Place> {
  const found = resolveModel(model, options.revision);
  return found.kind === "hub" ? await fetchFromHub(found, options) : found;
}

/**
 * Downloads what is needed of a model of the hub: a public model's name ("DI8x8"), "owner/name", with "@revision" as
 * wanted, unless it is here. Files that are here are hashed and compared with the hub's; a download that was cut short
 * goes on where it was. Errors: HUB (refused or not to be reached; detail: the HTTP status), FILE_MISSING, FILE_IO,
 * ARGUMENT for what is not of the hub, CANCELLED.
 */
export function pullModel(model: string, options: PullOptions = {}): Promise<FetchedModel> {
  return located(async () => {
    const o = parse(pullOptions, options, "options");
    return await fetchFromHub(ofHub(model, o.revision), { ...o, isVerified: true });
  });
}

/**
 * The same of what is on this machine, without a question to anybody; undefined where it is not, or not whole. Errors:
 * ARGUMENT, FILE_MISSING for a name that is none.
 */
export function findPulled(model: string, options: PullOptions = {}): Promise<FetchedModel | undefined> {
  return located(async () => {
    const o = parse(pullOptions, options, "options");
    return await findOnDisk(ofHub(model, o.revision), o);
  });
}

function ofHub(model: string, revision: string | undefined): HubModelToFetch {
  const found = resolveModel(model, revision);
  if (found.kind === "hub") return found;
  throw expected("model", "one of the hub", `${model}, which is ${found.kind === "file" ? "a file here" : "embedded"}`);
}
