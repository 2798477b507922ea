/** Which files a command reads and where each result goes, all settled before any work. */
import { existsSync, globSync, realpathSync, statSync } from "node:fs";
import { basename, join, parse, resolve } from "node:path";
import { usage } from "./args.ts";

export interface InOut {
  readonly file: string;
  readonly out: string;
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
 * One output for each input: `out` itself for a single input unless it is a folder, else `out`/STEM`extension`.
 * Throws a usage failure where two results would take one name, or a result an input's.
 */
export function planOutputs(files: readonly string[], out: string, extension: string): InOut[] {
  if (files.length === 0) throw usage("expected at least one file, found none");
  const found = existsSync(out) ? statSync(out) : undefined;
  const isFolder = files.length > 1 || out.endsWith("/") || found?.isDirectory();
  if (isFolder && found && !found.isDirectory()) {
    throw usage(`--out: expected a folder for ${files.length} inputs, found the file ${out}`);
  }
  const outputs = files.map((file) => ({ file, out: isFolder ? join(out, stemOf(file) + extension) : out }));

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
  return existsSync(file) && statSync(file).isDirectory() ? basename(resolve(file)) : parse(file).name;
}

function realOf(path: string): string {
  return existsSync(path) ? realpathSync(path) : resolve(path);
}
