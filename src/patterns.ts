/**
 * Patterns of file names (* ? [] {} **), for what a shell left alone. Called by the command line and by the sources of
 * a corpus. Note: not by node:fs, whose globSync Node has from 22 on. As there, hidden files need a dot in the pattern,
 * and ** goes through no links to folders.
 */
import { type Dirent, existsSync, readdirSync } from "node:fs";
import { join, resolve } from "node:path";
import picomatch from "picomatch";

/**
 * The files that texts name, in the texts' order, each once. A pattern gives its matches, sorted by code unit, the same
 * on every machine; a file of exactly that name goes first, and a pattern without matches stays as it is. What
 * `isOther` says is no file stays, too.
 */
export function expandPatterns(texts: readonly string[], isOther: (text: string) => boolean = () => false): string[] {
  const seen = new Set<string>();
  return texts.flatMap((text) => {
    const matches = !isOther(text) && /[*?[{]/.test(text) && !existsSync(text) ? matchesOf(text) : [];
    return matches.length > 0 ? matches : [text];
  }).filter((text) => {
    const name = isOther(text) ? text : resolve(text), isNew = !seen.has(name);
    seen.add(name);
    return isNew;
  });
}

function matchesOf(pattern: string): string[] {
  const { base, glob } = picomatch.scan(pattern), matches = picomatch(glob), isDeep = glob.includes("**");
  const found: string[] = [];
  const visit = (folder: string, levels: number) => {
    let names: Dirent[] = [];
    try {
      names = readdirSync(join(base, folder), { withFileTypes: true });
    } catch {
      // not a folder, or none that may be read: nothing matches there
    }
    for (const entry of names) {
      const path = join(folder, entry.name);
      if (matches(path)) found.push(join(base, path));
      if (levels > 1 && (entry.isDirectory() || (!isDeep && entry.isSymbolicLink()))) visit(path, levels - 1);
    }
  };
  visit("", isDeep ? Infinity : glob.split("/").length);
  return found.sort(); // by code units
}
