/** Which files a command reads and where each result goes, all settled before any work. */
import { existsSync, globSync, realpathSync, statSync } from "node:fs";
import { basename, extname, join, parse, resolve } from "node:path";
import { usage } from "./args.ts";

export interface InOut {
  readonly file: string;
  readonly out: string;
  /** Whether the user named the output himself; else its extension follows what the file turns out to be. */
  readonly isNamed: boolean;
}

const videoExtensions = [".mp4", ".m4v", ".mov", ".mkv", ".webm", ".avi", ".mpg", ".mpeg", ".ts", ".y4m"];

/** Whether a path looks like a video: by its extension, or a folder, whose images are frames. A GIF is taken for an image. */
export function isVideoPath(file: string): boolean {
  return videoExtensions.includes(extname(file).toLowerCase()) || isFolder(file);
}

/**
 * The files that the arguments name, in the arguments' order, each once. A pattern that the shell left alone (* ? [] {} **)
 * gives its matches sorted by code unit; a file of exactly that name goes first, and a pattern without matches stays as it is.
 */
export function expandInputs(args: readonly string[]): string[] {
  const seen = new Set<string>();
  return args.flatMap((arg) => {
    const matches = /[*?[{]/.test(arg) && !existsSync(arg) ? globSync(arg).sort() : [];
    return matches.length > 0 ? matches : [arg];
  }).filter((file) => !seen.has(resolve(file)) && seen.add(resolve(file)));
}

/**
 * One output for each input: `out` itself for a single input unless it is a folder, else `out`/STEM with the extension.
 * Throws a usage failure where two results would take one name, or a result an input's.
 */
export function planOutputs(files: readonly string[], out: string, extensionOf: (file: string) => string): InOut[] {
  if (files.length === 0) throw usage("expected at least one file, found none");
  const found = existsSync(out) ? statSync(out) : undefined;
  const isNamed = files.length === 1 && !out.endsWith("/") && !found?.isDirectory();
  if (!isNamed && found && !found.isDirectory()) {
    throw usage(`--out: expected a folder for ${files.length} inputs, found the file ${out}`);
  }
  const outputs = files.map((file) => {
    return { file, out: isNamed ? out : join(out, stemOf(file) + extensionOf(file)), isNamed };
  });

  const sources = new Map(files.map((file) => [realOf(file), file]));
  const taken = new Map<string, string>();
  for (const { file, out } of outputs) {
    const other = taken.get(out), overwritten = sources.get(realOf(out));
    if (other !== undefined) {
      throw usage(`${other} and ${file}: expected different names, found that both would become ${out}`);
    }
    if (overwritten !== undefined) {
      throw usage(`--out: expected to leave the inputs alone, found that ${out} would overwrite ${overwritten}`);
    }
    taken.set(out, file);
  }
  return outputs;
}

/** A file's name without its extension, a folder's whole: "Cosmos-0.1-Tokenizer-DI8x8" has none. */
function stemOf(file: string): string {
  return isFolder(file) ? basename(resolve(file)) : parse(file).name;
}

function isFolder(path: string): boolean {
  return existsSync(path) && statSync(path).isDirectory();
}

function realOf(path: string): string {
  return existsSync(path) ? realpathSync(path) : resolve(path);
}
