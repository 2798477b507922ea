/**
 * What Tab offers: commands, names and members in scope, and inside a string the paths on the disk. A name from the
 * disk becomes source, so it is escaped for any string that it may stand in: '…', "…" or `…`. Which string that is
 * cannot be told from one line alone, as an earlier line may have opened it.
 */
import { readdirSync } from "node:fs";
import { basename, dirname } from "node:path";
import { parseExpressionAt, tokenizer } from "acorn";
import { printable } from "../mod.ts";

const globals = globalThis as unknown as Record<string, unknown>;
const syntax = { ecmaVersion: "latest", sourceType: "module" } as const;

/** Candidates for the end of a line, and the part of the line that they replace. */
export function complete(line: string, commands: readonly string[]): [string[], string] {
  if (line.startsWith(".")) return [commands.map((c) => `.${c}`).filter((c) => c.startsWith(line)), line];
  const text = openString(line);
  if (text === undefined) return [[], line];
  if (text !== "") return [pathsFrom(text.slice(1)), text.slice(1)];
  const word = /[\w$.]*$/.exec(line)![0], dot = word.lastIndexOf(".");
  let owner: unknown = globals;
  for (const name of dot < 0 ? [] : word.slice(0, dot).split(".")) {
    try {
      owner = (owner as Record<string, unknown> | undefined)?.[name];
    } catch { // a getter that throws
      return [[], word];
    }
  }
  if (owner === undefined || owner === null) return [[], word];
  return [membersOf(owner).map((name) => word.slice(0, dot + 1) + name).filter((name) => name.startsWith(word)), word];
}

function membersOf(value: unknown): string[] {
  const names = new Set<string>();
  for (let o = Object(value); o && o !== Object.prototype; o = Object.getPrototypeOf(o)) {
    for (const name of Object.getOwnPropertyNames(o)) if (/^[A-Za-z_$][\w$]*$/.test(name)) names.add(name);
  }
  return [...names].sort();
}

/**
 * The string that the line leaves open, from its quote on: "" where there is none; undefined where nothing can be told.
 */
function openString(line: string): string | undefined {
  try {
    for (const _ of tokenizer(line, syntax));
  } catch (error) {
    const { message, pos } = error as SyntaxError & { pos: number };
    if (message.startsWith("Unterminated string")) return line.slice(pos);
    // Of a template only its beginning: what comes behind a ${…} is not where a path begins.
    if (message.startsWith("Unterminated template") && line[pos - 1] === "`") return line.slice(pos - 1);
    return undefined;
  }
  return "";
}

/** What a string's source says; undefined where it ends within an escape. */
function valueOf(source: string): string | undefined {
  const asTemplate = source.replace(/\\.|[`$]/gs, (found) => found.length > 1 ? found : `\\${found}`);
  try {
    const { quasis: [only] } = parseExpressionAt(`\`${asTemplate}\``, 0, syntax) as unknown as {
      quasis: [{ value: { cooked: string } }];
    };
    return only.value.cooked;
  } catch {
    return undefined;
  }
}

/** Paths that go on from what is written, as source. */
function pathsFrom(source: string): string[] {
  const start = valueOf(source);
  if (start === undefined) return [];
  const folder = start.endsWith("/") ? start : dirname(start), stem = start.endsWith("/") ? "" : basename(start);
  try {
    const rests = readdirSync(folder, { withFileTypes: true }).filter((entry) => entry.name.startsWith(stem))
      .map((entry) => escaped(entry.name.slice(stem.length)) + (entry.isDirectory() ? "/" : "")).sort();
    return withWholeEscapes(rests).map((rest) => source + rest);
  } catch { // no such folder: nothing to offer
    return [];
  }
}

/**
 * The rest of a name as it is written in any kind of string. A { at its start may follow a $ that stands there already.
 */
function escaped(rest: string): string {
  return printable(rest.replace(/[\\"'`$]|^\{/g, "\\$&"));
}

/**
 * Of several a terminal inserts what all begin with, which must not be half of an escape: then the part before it is
 * offered too.
 */
function withWholeEscapes(rests: string[]): string[] {
  const [first = "", ...others] = rests;
  let length = 0; // of what all have in common, in whole characters or escapes
  for (const [unit] of first.matchAll(/\\(?:x..|u....|.)|[^\\]/gsu)) {
    if (!others.every((rest) => rest.startsWith(first.slice(0, length) + unit))) break;
    length += unit.length;
  }
  const isCut = others.length > 0 && others.every((rest) => rest[length] === "\\" && first[length] === "\\");
  return isCut ? [first.slice(0, length), ...rests] : rests;
}
