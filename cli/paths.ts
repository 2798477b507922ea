/**
 * Which files a command reads and where each result goes, settled before any work as far as that can be: only what a
 * token file holds says whether its result is a picture or a video, and how many. No result may take the place of an
 * input, of another result, or (unless asked) of a file that ctok did not write.
 */
import { type BigIntStats, existsSync, readlinkSync, realpathSync, statSync } from "node:fs";
import { readdir, stat } from "node:fs/promises";
import { basename, dirname, extname, join, parse, relative, resolve } from "node:path";
import {
  defaultVideoModel,
  expandPatterns,
  type FileKind,
  fileKind,
  kindOfName,
  TokenizerError,
  writtenByCtok,
  writtenExtensions,
} from "../mod.ts";
import { type Args, usage } from "./args.ts";
import { exitCodes, Failure } from "./report.ts";
import type { Spool } from "./spool.ts";

const { process } = globalThis;

/** Standard input as a file to read, standard output as one to write. */
export const standard = "-";

export interface Input {
  /** As messages call it. */
  readonly file: string;
  /** Where it is read: `file` but for what came through a pipe. */
  readonly path: string;
  /** Undefined for a file that is missing or says nothing of itself. */
  readonly kind: FileKind | undefined;
  /** Name of its result below --out, without extension; folders in it are those that were walked. */
  readonly stem: string;
  /** Whether it was found in a folder. */
  readonly isFound: boolean;
  /** Of a pipe that is read when its turn comes: puts what comes through it at `path`. */
  readonly fill?: () => Promise<void>;
  /** Why there is nothing to read. */
  readonly failure?: TokenizerError;
}

export interface InOut extends Input {
  /** As messages call the result. */
  readonly out: string;
  /** Where it is written: `out` but for standard output. */
  readonly target: string;
  /** Whether the user named the output himself; else its extension follows what the file turns out to be. */
  readonly isNamed: boolean;
}

export interface Wanted {
  /** What is taken of a folder. Of files named one by one, each is tried. */
  readonly kinds: readonly FileKind[];
  readonly spool: Spool;
  readonly signal: AbortSignal;
}

/**
 * What there is to read: files as they are, what comes through pipes from a spool, folders as the files in them,
 * recursively, in natural order and without hidden ones; with --video a folder is one input. Links to folders are not
 * followed.
 */
export async function findInputs(args: Args, { kinds, spool, signal }: Wanted): Promise<Input[]> {
  const files = expandPatterns(args.inputs);
  if (files.length === 0) throw usage("expected at least one file, found none");
  const found = await Promise.all(
    files.map((file) => file === standard ? undefined : stat(file).catch(() => undefined)),
  );
  if (args.video && !found.some((f) => f?.isDirectory())) {
    throw usage("--video: expected a folder among the inputs, found none");
  }
  const inputs: Input[] = [];
  for (const [i, file] of files.entries()) {
    const facts = found[i];
    if (facts?.isDirectory() && !args.video) {
      inputs.push(...await filesIn(file, kinds, files.length > 1 ? basename(resolve(file)) : "", args));
      continue;
    }
    // /dev/stdin and the like are other files to FFmpeg than to us.
    const isPiped = file === standard ||
      (facts && !facts.isDirectory() && (!facts.isFile() || /^\/(dev|proc)\//.test(file)));
    const named = facts?.isDirectory() ? "video" : kindOfName(file), path = isPiped ? spool.place("input") : file;
    const fill = isPiped ? () => spool.fill(path, file, signal) : undefined, isLater = fill && named;
    if (!isLater) await fill?.(); // what it is decides where its result goes
    const kind = named ?? await fileKind(path);
    const stem = file === standard ? "stdin" : facts?.isDirectory() ? basename(resolve(file)) : parse(file).name;
    inputs.push({ file, path, kind, stem, isFound: false, ...(isLater && { fill }) });
  }
  return inputs;
}

const naturally = new Intl.Collator("en", { numeric: true }).compare;

async function filesIn(
  folder: string,
  kinds: readonly FileKind[],
  prefix: string,
  { out, svg }: Args,
): Promise<Input[]> {
  const inputs: Input[] = [], others = new Map<FileKind, number>();
  const own = out === undefined || out === standard ? undefined : resolve(out); // results of before are no inputs
  const walk = async (at: string): Promise<void> => {
    const entries = await readdir(at, { withFileTypes: true });
    for (const entry of entries.sort((a, b) => naturally(a.name, b.name) || (a.name < b.name ? -1 : 1))) {
      const path = join(at, entry.name);
      if (entry.name.startsWith(".")) continue;
      if (entry.isDirectory()) {
        if (resolve(path) !== own) await walk(path);
        continue;
      }
      const kind = kindOfName(path);
      if (!kind || !(await stat(path).catch(() => undefined))?.isFile()) continue;
      if (!kinds.includes(kind) || (!svg && extname(path).toLowerCase() === ".svg")) {
        others.set(kind, (others.get(kind) ?? 0) + 1);
      } else {
        const stem = join(prefix, dirname(relative(folder, path)), parse(path).name);
        inputs.push({ file: path, path, kind, stem, isFound: true });
      }
    }
  };
  const fail = (failure: TokenizerError): Input[] => {
    return [{
      file: folder,
      path: folder,
      kind: undefined,
      stem: prefix || basename(resolve(folder)),
      isFound: true,
      failure,
    }];
  };
  try {
    await walk(folder);
  } catch (cause) { // a folder that cannot be read
    return fail(new TokenizerError("FILE_IO", `${folder}: expected a folder to read, found ${cause}`, { cause }));
  }
  if (inputs.length > 0) return inputs;
  const found = [...others].map(([kind, n]) => `${n} ${kind === "tokens" || n === 1 ? kind : `${kind}s`}`).join(", ");
  const hints = [
    others.has("picture") && kinds.includes("video") && "--video takes its pictures as the frames of one",
    others.has("video") && !kinds.includes("video") && !kinds.includes("tokens") &&
    `a video model takes those: ${defaultVideoModel}`,
    others.has("tokens") && "ctok decode takes tokens",
  ].filter(Boolean);
  const wanted = kinds.map((kind) => kind === "tokens" ? kind : `${kind}s`).join(" or ");
  const message = `${folder}: expected a folder with ${wanted}, found ${found || "no file that ctok reads"}`;
  return fail(new TokenizerError("FILE_MISSING", message + (hints.length > 0 ? ` (${hints.join("; ")})` : "")));
}

export interface Results {
  /** Extension of a result that the user does not name. */
  readonly extensionOf: (input: Input) => string;
  /** Those that a name may have, if any. */
  readonly extensions: readonly string[];
  readonly spool: Spool;
}

/**
 * One output for each input: --out itself for a single file unless it is a folder, else below it the input's stem with
 * the extension; of a folder's files that would so take one name, the whole name before it. Throws a usage failure for
 * a name whose extension says what the command does not write, where two results would take one name, or a result an
 * input's.
 */
export function planOutputs(
  inputs: readonly Input[],
  out: string,
  { extensionOf, extensions, spool }: Results,
): InOut[] {
  const [first] = inputs as [Input];
  if (out === standard) {
    if (inputs.length > 1 || first.isFound) {
      throw usage(`--out -: expected one file to read, found ${first.isFound ? "a folder" : inputs.length}`);
    }
    if (process.stdout.isTTY) throw usage("--out -: expected a pipe or file as standard output, found a terminal");
    return [{ ...first, out, target: spool.place(`stdout${extensionOf(first)}`), isNamed: true }];
  }
  const found = existsSync(out) ? statSync(out) : undefined, extension = extname(out).toLowerCase();
  const isNamed = inputs.length === 1 && !first.isFound && !out.endsWith("/") && !found?.isDirectory();
  const many = first.isFound ? "what is in a folder" : `${inputs.length} inputs`;
  if (!isNamed && found && !found.isDirectory()) {
    throw usage(`--out: expected a folder for ${many}, found the file ${out}`);
  }
  const isFileName = Object.values(writtenExtensions).flat().includes(extension);
  if (!isNamed && !found && !out.endsWith("/") && isFileName) {
    throw usage(
      `--out: expected a folder for ${many}, found ${out}, which is a file's name (${out}/ makes a folder of it)`,
    );
  }
  if (isNamed && extension && !extensions.includes(extension)) {
    throw usage(`--out: expected one of ${extensions.join(", ")}, found ${extension}`);
  }
  const names = inputs.map((input) => input.stem + extensionOf(input)), counts = new Map<string, number>();
  for (const name of names) counts.set(name, (counts.get(name) ?? 0) + 1);
  return inputs.map((input, i) => {
    const isPaired = input.isFound && counts.get(names[i]!)! > 1; // a phone's IMG_1.jpg and IMG_1.mov
    const name = isPaired ? input.stem + extname(input.file) + extensionOf(input) : names[i]!;
    const place = isNamed ? out : join(out, name);
    return { ...input, out: place, target: place, isNamed };
  });
}

/** Where results go, one after the other: who has which name. Names are compared as the files that they stand for. */
export class Outputs {
  readonly #sources = new Map<string, string>();
  readonly #owners = new Map<string, { readonly file: string; readonly target: string }>();
  readonly #isOverwriting: boolean;
  readonly #replaced: "tokens" | "checkpoint" | undefined;

  /**
   * `sources` are the files that must stay as they are, `replaced` what ctok replaces of its own. Throws a usage
   * failure where two results would take one name, or a result an input's.
   */
  constructor(args: Args, files: readonly InOut[], sources: readonly string[], replaced?: "tokens" | "checkpoint") {
    this.#isOverwriting = args.overwrite === true;
    this.#replaced = replaced;
    for (const source of [...files.map(({ path }) => path), ...sources]) {
      for (const key of identitiesOf(source)) this.#sources.set(key, source);
    }
    for (const { file, target } of files) {
      const taken = this.reserve(target, file);
      if (taken) throw usage(taken);
    }
  }

  /** Gives the name to a file's result; what stands against it otherwise. */
  reserve(target: string, file: string): string | undefined {
    const keys = identitiesOf(target);
    for (const key of keys) {
      const source = this.#sources.get(key), other = this.#owners.get(key);
      if (source !== undefined && standsFor(source, key)) {
        return `--out: expected to leave the inputs alone, found that ${target} would overwrite ${source}`;
      }
      if (other !== undefined && other.file !== file && standsFor(other.target, key)) {
        return `${other.file} and ${file}: expected different names, found that both would become ${target}`;
      }
    }
    for (const key of keys) this.#owners.set(key, { file, target });
    return undefined;
  }

  /** Throws where the name is another file's by now, or stands for a file that is not to be replaced. */
  async admit(target: string, file: string): Promise<void> {
    const taken = this.reserve(target, file);
    if (taken) throw new Failure(exitCodes.failed, "FILE_EXISTS", taken);
    // What is no file is refused later.
    if (this.#isOverwriting || !existsSync(target) || !statSync(target).isFile()) return;
    if (this.#replaced && await writtenByCtok(target) === this.#replaced) return;
    const own = this.#replaced ? `, or ${this.#replaced === "tokens" ? "tokens" : "a checkpoint"} that ctok wrote` : "";
    const message = `${target}: expected nothing there yet${own}, found a file (--overwrite replaces it)`;
    throw new Failure(exitCodes.failed, "FILE_EXISTS", message);
  }
}

/** The files of a model that is on the disk: none may be overwritten. */
export async function filesOfModel(model: string | undefined): Promise<string[]> {
  const found = model === undefined ? undefined : await stat(model).catch(() => undefined);
  if (!found?.isDirectory()) return found ? [model!] : [];
  return (await readdir(model!).catch(() => [])).map((name) => join(model!, name));
}

/** What a path stands for: a place, at the end of all links, and the file there, which may have other names. */
function identitiesOf(path: string): string[] {
  const found = factsOf(path);
  return [placeOf(path), ...(found ? [`${found.dev}:${found.ino}`] : [])];
}

/** Whether it still does: a file's number is another's once the file is replaced. */
function standsFor(path: string, key: string): boolean {
  return identitiesOf(path).includes(key);
}

function factsOf(path: string): BigIntStats | undefined {
  try {
    return statSync(path, { bigint: true });
  } catch {
    return undefined;
  }
}

/** Through all links, also those to nothing, and the folders that there are. */
function placeOf(path: string, links = 0): string {
  try {
    return realpathSync(path);
  } catch { // nothing is there, or no file: what /dev/stdout stands for may be a pipe
  }
  let to: string | undefined;
  try {
    to = readlinkSync(path);
  } catch { // no link
  }
  if (to !== undefined && links < 40) return placeOf(resolve(dirname(path), to), links + 1);
  const folder = dirname(resolve(path));
  if (folder === resolve(path)) return folder;
  return join(placeOf(folder, links), basename(path));
}
