/**
 * Makes a line of JavaScript something that eval can run: await and import at the top, and names that outlive the line.
 * The line becomes an async function whose declarations assign to globalThis and whose last expression is returned.
 *     const x = await f(); x + 1    ->    (async () => { ;( x = await f());return { value: (x + 1) }; })()
 * What it leaves out: TypeScript (the line is JavaScript), and the difference of const from let.
 */
import { parse } from "acorn";

interface Node {
  readonly type: string;
  readonly start: number;
  readonly end: number;
  readonly [key: string]: unknown;
}

/** The source is so far only the beginning of something: more lines may complete it. */
export class Incomplete extends Error {}

/** The name under which the rewritten code finds its import(). */
export const importName = "__ctok_import";

/** Throws Incomplete, or SyntaxError with acorn's message. `names`: what the source declares. */
export function rewrite(source: string): { code: string; names: string[] } {
  const names: string[] = [], edits: { start: number; end: number; text: string }[] = [];
  const replace = (start: number, end: number, text: string) => edits.push({ start, end, text });
  const body = parseBody(source);
  for (const node of body) {
    eachNode(node, (n) => n.type === "ImportExpression" && replace(n.start, n.start + 6, importName));
  }
  for (const [i, node] of body.entries()) {
    switch (node.type) {
      case "VariableDeclaration": {
        const declarations = node.declarations as readonly Node[];
        names.push(...declarations.flatMap((d) => namesOf(d.id as Node)));
        replace(node.start, declarations[0]!.start, ";(");
        for (const d of declarations) if (!d.init) replace(d.end, d.end, " = undefined");
        replace(declarations.at(-1)!.end, node.end, ");");
        break;
      }
      case "FunctionDeclaration":
      case "ClassDeclaration": {
        const { name } = node.id as unknown as { name: string };
        names.push(name);
        replace(node.start, node.start, `globalThis.${name} = `);
        replace(node.end, node.end, ";");
        break;
      }
      case "ImportDeclaration": {
        const bindings = importBindings(node);
        names.push(...bindings.map(([local]) => local));
        const assigns = bindings.map(([local, member]) => `globalThis.${local} = m${member};`).join(" ");
        replace(node.start, node.end, `{ const m = await ${importName}(${(node.source as Node).raw}); ${assigns} }`);
        break;
      }
      case "ExpressionStatement":
        if (i !== body.length - 1) break;
        replace(node.start, node.start, "return { value: (");
        replace(source[node.end - 1] === ";" ? node.end - 1 : node.end, node.end, ") };");
    }
  }
  edits.sort((a, b) => b.start - a.start || b.end - a.end);
  const code = edits.reduce((text, { start, end, text: by }) => text.slice(0, start) + by + text.slice(end), source);
  return { code: `(async () => { ${code}\n})()`, names };
}

function parseBody(source: string): readonly Node[] {
  try {
    return parse(source, { ecmaVersion: "latest", sourceType: "module", allowAwaitOutsideFunction: true })
      .body as unknown as readonly Node[];
  } catch (error) {
    const { message, pos } = error as SyntaxError & { pos: number };
    // An error at the very end is a line that goes on; so is an open template or comment, wherever it began.
    if (pos >= source.trimEnd().length || /^Unterminated (template|comment)/.test(message)) {
      throw new Incomplete(message);
    }
    throw new SyntaxError(message);
  }
}

function eachNode(node: Node, visit: (node: Node) => void): void {
  visit(node);
  for (const value of Object.values(node)) {
    for (const child of Array.isArray(value) ? value : [value]) {
      if (typeof (child as Node | null)?.type === "string") eachNode(child as Node, visit);
    }
  }
}

/** The names that a pattern binds: { a, b: [c = 1, ...d] } binds a, c and d. */
function namesOf(pattern: Node): string[] {
  switch (pattern.type) {
    case "Identifier":
      return [pattern.name as string];
    case "ObjectPattern":
      return (pattern.properties as readonly Node[]).flatMap((p) => namesOf((p.value ?? p.argument) as Node));
    case "ArrayPattern":
      return (pattern.elements as readonly (Node | null)[]).flatMap((e) => e ? namesOf(e) : []);
    case "AssignmentPattern":
      return namesOf(pattern.left as Node);
    default: // RestElement
      return namesOf(pattern.argument as Node);
  }
}

/** [local name, what to take of the module] of each specifier. */
function importBindings(node: Node): [string, string][] {
  return (node.specifiers as readonly Node[]).map((s) => {
    const local = (s.local as Node).name as string, imported = s.imported as Node | undefined;
    if (s.type === "ImportNamespaceSpecifier") return [local, ""];
    return [local, `[${JSON.stringify(imported ? imported.name ?? imported.value : "default")}]`];
  });
}
