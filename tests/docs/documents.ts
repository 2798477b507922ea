/** The Markdown documents as their tests read them: code blocks, headings, links. */
import { readdirSync, readFileSync } from "node:fs";
import { join } from "node:path";
import { root } from "../support.ts";

/** Every document of the checkout, relative to the root. */
export const documents: readonly string[] = readdirSync(root, { recursive: true, encoding: "utf8" })
  .filter((path) => path.endsWith(".md") && !/^(node_modules|build|out|\.git|\.ci)\//.test(path)).sort();

export const read = (document: string) => readFileSync(join(root, document), "utf8");

export interface Block {
  readonly language: string;
  /** What follows the language: the name of the file that the block is. */
  readonly name: string | undefined;
  readonly text: string;
  /** Counted from 1, of the block's first line. */
  readonly line: number;
}

const fence = /^```(\w*)(?: (\S+))?\n([\s\S]*?)^```$/gm;

export function blocksOf(text: string): Block[] {
  return [...text.matchAll(fence)].map((found) => ({
    language: found[1]!,
    name: found[2],
    text: found[3]!,
    line: text.slice(0, found.index).split("\n").length + 1,
  }));
}

/** GitHub's anchors of the headings. */
export function anchorsOf(text: string): Set<string> {
  const headings = text.replace(fence, "").matchAll(/^#+ (.*)$/gm);
  return new Set(
    [...headings].map(([, title]) => title!.toLowerCase().replace(/[^\p{L}\p{N} _-]/gu, "").replaceAll(" ", "-")),
  );
}

export function linksOf(text: string): string[] {
  const prose = text.replace(fence, "").replace(/`[^`\n]*`/g, "``");
  return [...prose.matchAll(/\]\(([^)\s]+)\)/g)].map(([, target]) => target!);
}
