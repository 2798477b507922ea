/**
 * "Who calls it: …" and "Called by …" at the head of a C file are true: each file named there exists and names a
 * function of the header (of a kernel, the kernel itself). A sentence may leave callers out, as where all of a folder
 * call it.
 */
import assert from "node:assert/strict";
import { existsSync, readdirSync, readFileSync } from "node:fs";
import { basename, dirname, join } from "node:path";
import { test } from "node:test";
import { root } from "../support.ts";

const core = join(root, "csrc");
const read = (path: string) => readFileSync(path, "utf8");
const withoutComments = (text: string) => text.replace(/\/\*[\s\S]*?\*\/|\/\/.*/g, "");
const stemOf = (path: string) => path.replace(/\.\w+$/, "");

/** The sentence's words, without the line breaks of its comment. */
export function sentenceOf(text: string): string | undefined {
  const comment = text.replace(/\n\/\/ /g, " ");
  return /(?:Who calls (?:it|them):|Called by)((?:[^.\n]|\.(?=\w))*)/.exec(comment)?.[1];
}

/** Files that the sentence names by a folder or an extension: beside this one, from csrc/ or from the root. */
function filesOf(sentence: string, path: string): string[] {
  const words = (sentence.match(/[\w/.]+/g) ?? []).filter((word) => /[/.]/.test(word));
  return words.flatMap((word) => {
    const places = [join(dirname(path), word), join(core, word), join(root, word)];
    return places.flatMap((place) => [place, `${place}.c`]).filter((place) => /\.\w+$/.test(place) && existsSync(place))
      .slice(0, 1);
  });
}

/** What others can call: the functions of the header of that name, and a kernel by its own name. */
function functionsOf(path: string): string[] {
  const header = `${stemOf(path)}.h`;
  const declared = existsSync(header) ? withoutComments(read(header)).match(/\b[a-z]\w*(?=\()/g) ?? [] : [];
  const defined = path.endsWith(".c")
    ? withoutComments(read(path)).match(/^(?!static)\w[\w *]*?\b(\w+)(?=\()/gm) ?? []
    : [];
  return [...declared, ...defined.map((found) => /\w+$/.exec(found)![0]), basename(stemOf(path))];
}

const told = readdirSync(core, { recursive: true, encoding: "utf8" }).filter((name) => /\.(c|h|cu|cuh)$/.test(name))
  .map((name) => join(core, name)).flatMap((path) => {
    const sentence = sentenceOf(read(path));
    return sentence === undefined ? [] : [{ path, sentence }];
  });

test("files told as callers call", () => {
  const wrong: string[] = [];
  let checked = 0;
  for (const { path, sentence } of told) {
    const functions = new RegExp(`\\b(${functionsOf(path).join("|")})\\b`);
    const named = sentence.match(/[\w/]+\.(c|h|cu|ts)\b|\b(?:base|network|runtime|checkpoint|backends)\/\w+/g) ?? [];
    const files = filesOf(sentence, path);
    if (files.length < named.length) wrong.push(`${path}: ${sentence}: a file that is not there`);
    for (const file of files) {
      checked++;
      if (!functions.test(withoutComments(read(file)))) wrong.push(`${path}: ${file} calls nothing of it`);
    }
  }
  assert.deepEqual(wrong.map((line) => line.replaceAll(root, "")), []);
  assert.ok(checked > 30, `${checked} callers`);
});

test("a sentence goes over lines, and ends", () => {
  assert.equal(sentenceOf("// A. Who calls it: abi.c,\n// runtime/job (open). More.\n"), " abi.c, runtime/job (open)");
  assert.equal(sentenceOf("// Called by the readers."), " the readers");
  assert.equal(sentenceOf("// A."), undefined);
});
