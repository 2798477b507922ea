/** What the commands that work through files share: opening models, and one file after the other. */
import { existsSync } from "node:fs";
import { access, constants, mkdir, rmdir, stat } from "node:fs/promises";
import { dirname } from "node:path";
import {
  defaultModel,
  defaultVideoModel,
  type FileKind,
  messageOf,
  type OpenOptions,
  Tokenizer,
  TokenizerError,
} from "../mod.ts";
import type { Args } from "./args.ts";
import type { OptionName } from "./options.ts";
import { type InOut, type Input, standard } from "./paths.ts";
import { exitCodes, Failure, type Report } from "./report.ts";
import { sendOut } from "./spool.ts";

/** Opens a model by the options of the command line; a failure carries the exit code for that. */
export async function openModel(model: string, args: Args, options: OpenOptions): Promise<Tokenizer> {
  try {
    const { device = "auto", precision = "auto", threads, "max-memory": maxMemory } = args;
    const limits = { ...(threads && { threads }), ...(maxMemory && { maxMemory }) };
    return await Tokenizer.open(model, { ...options, device, precision, ...limits });
  } catch (error) {
    throw modelFailure(error, args);
  }
}

/** What reading a picture or video takes of the command line. */
export function limitsOf(args: Args): { limitPixels?: number } {
  return args["limit-pixels"] ? { limitPixels: args["limit-pixels"] } : {};
}

/** The same, of a picture alone. */
export function pictureOptionsOf(args: Args): { limitPixels?: number; svg?: boolean } {
  return { ...limitsOf(args), ...(args.svg && { svg: true }) };
}

/** The model in use, kept for the next file: most files need the one before, and two may not fit in memory. */
export class ModelInUse implements AsyncDisposable {
  readonly #args: Args;
  readonly #options: OpenOptions;
  #current: { readonly model: string; readonly tokenizer: Tokenizer } | undefined;

  constructor(args: Args, options: OpenOptions) {
    this.#args = args;
    this.#options = options;
  }

  async of(model: string): Promise<Tokenizer> {
    if (this.#current?.model !== model) {
      await this[Symbol.asyncDispose]();
      const options = { ...this.#options, isFromTokens: model !== this.#args.model };
      this.#current = { model, tokenizer: await openModel(model, this.#args, options) };
    }
    return this.#current.tokenizer;
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await this.#current?.tokenizer.close();
    this.#current = undefined;
  }
}

/** The model that an input takes: the one asked for, else the embedded one for what it is. */
export function modelFor({ kind }: Input, args: Args): string {
  return args.model ?? (kind === "video" ? defaultVideoModel : defaultModel);
}

/** What is taken of a folder: what the model that was asked for takes, else pictures and videos, each by its own. */
export function kindsFor(asked: Tokenizer | undefined): readonly FileKind[] {
  return asked ? [asked.info.isVideo ? "video" : "picture"] : ["picture", "video"];
}

/** Fails where an image model is given what looks like a video, and where pixels are wanted and there are tokens. */
export function checkImage({ file, kind }: Input, model: string): void {
  if (kind !== "video" && kind !== "tokens") return;
  const found = kind === "tokens"
    ? "tokens, which ctok decode takes"
    : `a video or a folder of frames, which a video model takes (${defaultVideoModel})`;
  throw new TokenizerError("IMAGE", `${file}: expected an image, as ${model} takes, found ${found}`);
}

/**
 * `args`: those by which it was opened; what of them the environment said is told, as nobody has it before his eyes.
 */
export function modelFailure(error: unknown, args?: Args): Failure {
  const values = Object.entries(args?.fromEnvironment ?? {}).map(([name, env]) =>
    `${env}=${args![name as OptionName]}`
  );
  const told = values.length > 0 ? ` (${values.join(", ")})` : "";
  const code = error instanceof TokenizerError ? error.code : "INTERNAL";
  return new Failure(exitCodes.model, code, messageOf(error) + told, error);
}

export interface Job {
  readonly signal: AbortSignal;
  /** How far the file is: the part that is done, 0 to 1, undefined where the whole is not known; and its rate. */
  readonly onProgress?: (part: number | undefined, note?: string) => void;
}

/**
 * Calls `work` on one file after the other. A failure is reported and the next file follows; an interruption ends all.
 * The folders of the outputs are made first, so that one that cannot be made costs no work; those that stay empty go
 * again, as they may stand in the way of the right command.
 */
export async function eachFile(
  files: readonly InOut[],
  args: Args,
  report: Report,
  signal: AbortSignal,
  work: (io: InOut, job: Job) => Promise<void>,
): Promise<void> {
  const made: string[] = [], isDry = args["dry-run"] === true;
  for (const folder of new Set(files.filter(({ failure }) => !failure).map(({ target }) => dirname(target)))) {
    made.unshift(...await (isDry ? checkFolder(folder) : makeFolder(folder))); // those within others first
  }
  const start = performance.now();
  let failed = 0;
  using bar = report.progress({ unit: "files", total: files.length });
  try {
    for (const [i, io] of files.entries()) {
      try {
        signal.throwIfAborted();
        if (io.failure) throw io.failure;
        const onProgress: Job["onProgress"] = bar && ((part, note) => {
          bar.update(part === undefined && files.length === 1 ? undefined : i + (part ?? 0), io.file, note);
        });
        onProgress?.(0);
        await io.fill?.();
        await work(io, { signal, ...(onProgress && { onProgress }) });
      } catch (error) {
        if (signal.aborted) throw error;
        failed++;
        report.failure(error, io);
      }
    }
  } finally {
    for (const folder of made) await rmdir(folder).catch(() => {}); // not empty, as a rule
  }
  if (files.length > 1) {
    const seconds = secondsSince(start);
    const done = `${files.length - failed} of ${files.length} files`, others = failed ? `, ${failed} ` : "";
    report.summary(
      isDry
        ? `${done} would be done${others && `${others}would fail`}; nothing was written`
        : `${done} done in ${seconds} s${others && `${others}failed`}`,
    );
  }
}

/** Makes a folder; gives those that were not there, itself first. */
async function makeFolder(folder: string): Promise<string[]> {
  const missing = missingOf(folder);
  await mkdir(folder, { recursive: true }).catch((error) => {
    throw noFolder(folder, error);
  });
  return missing;
}

/** Fails where that would, as far as can be seen. */
async function checkFolder(folder: string): Promise<string[]> {
  const highest = missingOf(folder).at(-1), there = highest === undefined ? folder : dirname(highest);
  if (!(await stat(there)).isDirectory()) throw noFolder(folder, `the file ${there}`);
  await access(there, constants.W_OK).catch((error) => {
    throw noFolder(folder, error);
  });
  return [];
}

function missingOf(folder: string): string[] {
  const missing: string[] = [];
  for (let at = folder; !existsSync(at) && dirname(at) !== at; at = dirname(at)) missing.push(at);
  return missing;
}

function noFolder(folder: string, cause: unknown): TokenizerError {
  return new TokenizerError("FILE_IO", `${folder}: expected a folder, or to make one, found ${messageOf(cause)}`, {
    cause,
  });
}

/** Sends a result that is on the disk to where it is to go, before a word of it is said. */
export async function deliver({ out, target }: InOut): Promise<void> {
  if (out === standard) await sendOut(target);
}

/** To the millisecond. */
export function secondsSince(start: number): number {
  return Math.round(performance.now() - start) / 1000;
}
