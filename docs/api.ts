/**
 * Writes docs/api.md: the public API as its docstrings tell it, from `deno doc mod.ts`, one heading for each export.
 * Run: npm run docs. A test compares the file with what this makes of the sources.
 */
import { execFileSync } from "node:child_process";
import { writeFileSync } from "node:fs";
import { join } from "node:path";
import process from "node:process";
import { fileURLToPath } from "node:url";

const root = fileURLToPath(new URL("../", import.meta.url));

interface Item {
  readonly kind: "function" | "class" | "interface" | "type" | "const";
  readonly name: string;
  readonly file: string;
  /** The signature, the doc and the members, as deno doc prints them. */
  readonly lines: readonly string[];
}

const titles = {
  function: "Functions",
  class: "Classes",
  const: "Constants",
  interface: "What functions take and give",
  type: "Types and options",
} as const;

function itemsOf(text: string): Item[] {
  return text.split(/^Defined in /m).slice(1).map((part) => {
    const [place = "", , ...lines] = part.trimEnd().split("\n");
    const [, kind, name] = /^(?:async )?(function|class|interface|type|const) ([A-Za-z]+)/.exec(lines[0] ?? "") ?? [];
    if (!kind || !name) throw new Error(`deno doc: expected a declaration, found ${JSON.stringify(lines[0])}`);
    const file = place.replace(/^.*?\/(src\/[^:]+):.*$/, "$1");
    return { kind, name, file, lines } as Item;
  });
}

const indentOf = (line: string) => /^ */.exec(line)![0].length;

/** Prose as it stands, for Markdown: [, < and * are text there. */
const prose = (text: string) => text.split(/(`[^`]*`)/).map((t, i) => i % 2 ? t : t.replace(/[<[*]/g, "\\$&")).join("");

function render({ kind, name, file, lines }: Item): string {
  const [signature = "", ...rest] = lines;
  const out = [`### ${name}`, "", "```text", signature, "```"];
  // Of a class or interface the doc ends at the first empty line; then come members, their own docs a step further in.
  const hasMembers = kind === "class" || kind === "interface", end = rest.indexOf("");
  const head = hasMembers && end >= 0 ? rest.slice(0, end) : rest, members: string[] = [];
  for (const line of hasMembers && end >= 0 ? rest.slice(end + 1) : []) {
    if (line.startsWith("  private ")) continue;
    if (line.trim() === "@internal") members.pop();
    else if (indentOf(line) === 2) members.push(`- \`${line.trim()}\``);
    else if (line.trim()) members[members.length - 1] += `\n  ${prose(line.trim())}`;
  }
  if (head.length) out.push("", ...head.map((line) => prose(line.trim())));
  if (members.length) out.push("", ...members);
  return [...out, "", `Source: [${file}](../${file})`, ""].join("\n");
}

export function renderApi(): string {
  const deno = join(root, "node_modules/.bin/deno");
  const text = execFileSync(deno, ["doc", "mod.ts"], {
    cwd: root,
    encoding: "utf8",
    env: { ...process.env, NO_COLOR: "1" },
    stdio: ["ignore", "pipe", "ignore"], // it warns of types of other runtimes that it cannot resolve
  });
  const items = itemsOf(text);
  const sections = Object.entries(titles).map(([kind, title]) => {
    const mine = items.filter((item) => item.kind === kind).sort((a, b) => a.name < b.name ? -1 : 1);
    return `## ${title}\n\n${mine.map(render).join("\n")}`;
  });
  return `# The API

Made from the docstrings by \`npm run docs\` (docs/api.ts); do not edit. Everything here is exported by \`ctok\` \
(\`mod.ts\` in the
checkout). Shapes are in brackets: B batch, T H W pixels, t h w tokens, C and d channels, what is in parentheses for \
videos alone.

${sections.join("\n")}`;
}

if (import.meta.main) writeFileSync(fileURLToPath(new URL("api.md", import.meta.url)), renderApi());
