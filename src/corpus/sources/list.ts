/**
 * Lists of items: a file, or standard input, with one path a line, or one JSON object a line: {"path": …} with, where
 * wanted, a "key", a "caption" and whatever else is to go along. Relative paths are those of the folder that the list
 * lies in; of standard input, of the working folder. Called by find.ts.
 */
import { dirname, isAbsolute } from "node:path";
import { abortable } from "../../abort.ts";
import { messageOf } from "../../errors.ts";
import type { Sidecar } from "../item.ts";
import { chunksOf } from "../openfile.ts";
import { isS3, joinLocation } from "../s3/address.ts";
import type { Search, Seen } from "./candidate.ts";
import { SingleFiles } from "./folder.ts";
import { checkKey } from "./keys.ts";

const { process } = globalThis;

/** The path that stands for standard input. */
export const standard = "-";
const mostLineCharacters = 1 << 20;

/**
 * The item of each line, in the list's order. For a path that is no single file, such as a folder, `other` gives its
 * items.
 */
export async function* itemsOfList(
  list: string,
  search: Search,
  other: (path: string) => AsyncGenerator<Seen> | undefined,
): AsyncGenerator<Seen> {
  const files = new SingleFiles(search), folder = list === standard ? "" : dirname(list);
  const name = list === standard ? "standard input" : list;
  let line = 0;
  for await (const text of linesOf(list, search.signal)) {
    line++;
    if (text.trim() === "") continue;
    const refuse = (reason: string): Seen => ({ refused: { name: `${name}, line ${line}`, reason } });
    if (text.length > mostLineCharacters) {
      yield refuse(`expected at most ${mostLineCharacters} characters, found more`);
      continue;
    }
    let told: Line;
    try {
      told = text.trimStart().startsWith("{") ? parseLine(text) : { path: text, sidecars: [] };
    } catch (error) {
      yield refuse(messageOf(error));
      continue;
    }
    const isWhole = isS3(told.path) || isAbsolute(told.path) || folder === "";
    const path = isWhole ? told.path : joinLocation(folder, told.path);
    const many = other(path);
    if (many) {
      yield* many;
      continue;
    }
    const seen = await files.find(path, told.path.replace(/^(s3:\/\/[^/]*\/|(\.{0,2}\/)+)/, ""));
    if (!("candidate" in seen)) {
      yield seen;
      continue;
    }
    const { candidate } = seen, own = new Set(told.sidecars.map(({ field }) => field));
    yield {
      candidate: {
        ...candidate,
        ...(told.key !== undefined && { keys: [told.key], isKeyGiven: true }),
        // A field that the list gives wins over a file of that name.
        sidecars: [...told.sidecars, ...candidate.sidecars.filter(({ field }) => !own.has(field))],
      },
    };
  }
}

interface Line {
  readonly path: string;
  readonly key?: string;
  readonly sidecars: readonly Sidecar[];
}

/** {"path", "key", "caption", …}: the caption becomes the field "txt", the rest "json". */
function parseLine(text: string): Line {
  const { path, key, caption, ...rest } = JSON.parse(text) as Record<string, unknown>;
  if (typeof path !== "string" || path === "") throw new Error(`path: expected a text, found ${typeof path}`);
  if (caption !== undefined && caption !== null && typeof caption !== "string") {
    throw new Error(`caption: expected a text, found ${typeof caption}`);
  }
  const sidecars: Sidecar[] = [];
  const add = (field: string, text: string) => {
    const identity = { bytes: Buffer.byteLength(text), mtimeNs: "0" };
    sidecars.push({ field, place: { kind: "text", text }, identity });
  };
  if (typeof caption === "string") add("txt", caption);
  if (Object.keys(rest).length > 0) add("json", JSON.stringify(rest));
  return { path, ...(key !== undefined && key !== null && { key: checkKey(key) }), sidecars };
}

/** Lines without their ends, "\n" or "\r\n"; a mark at the beginning (BOM) is no part of the first. */
async function* linesOf(list: string, signal: AbortSignal | undefined): AsyncGenerator<string> {
  const chunks: AsyncIterable<Uint8Array> = list === standard
    ? abortable(process.stdin as AsyncIterable<Uint8Array>, signal)
    : chunksOf(list, signal);
  const decoder = new TextDecoder(); // what is no UTF-8 becomes U+FFFD, by which nothing is found
  let rest = "";
  const cut = (line: string) => line.endsWith("\r") ? line.slice(0, -1) : line;
  for await (const chunk of chunks) {
    const lines = (rest + decoder.decode(chunk, { stream: true })).split("\n");
    rest = lines.pop()!;
    if (rest.length > mostLineCharacters) rest = rest.slice(0, mostLineCharacters + 1);
    for (const line of lines) yield cut(line);
  }
  rest += decoder.decode();
  if (rest !== "") yield cut(rest);
}
