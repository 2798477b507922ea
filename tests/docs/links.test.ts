/**
 * What documents say of the checkout is so: links lead somewhere, every error code has its paragraph, the API's page is
 * that of the sources. Addresses on the web are not fetched.
 */
import assert from "node:assert/strict";
import { existsSync, readdirSync } from "node:fs";
import { dirname, join, relative } from "node:path";
import { test } from "node:test";
import { root, runtime } from "../support.ts";
import { anchorsOf, documents, linksOf, read } from "./documents.ts";

for (const document of documents) {
  test(`links of ${document}`, () => {
    for (const link of linksOf(read(document))) {
      if (/^https?:/.test(link)) {
        assert.equal(new URL(link).protocol, "https:", link);
        continue;
      }
      const [path = "", anchor] = link.split("#");
      const target = path === "" ? document : relative(root, join(root, dirname(document), path));
      assert.ok(!target.startsWith("..") && existsSync(join(root, target)), `${document}: ${link} leads nowhere`);
      if (anchor === undefined) continue;
      assert.ok(anchorsOf(read(target)).has(anchor), `${document}: ${link}: no such heading in ${target}`);
    }
  });
}

test("the checker finds what is wrong", () => {
  const text = "# A `b` c\n[x](#a-b-c) `[no](link)`\n```ts\n[no](link)\n# no heading\n```\n[y](gone.md)";
  assert.deepEqual(linksOf(text), ["#a-b-c", "gone.md"]);
  assert.deepEqual([...anchorsOf(text)], ["a-b-c"]);
});

test("the README names docs/, and docs/README.md every document there", () => {
  assert.ok(linksOf(read("README.md")).some((link) => link.startsWith("docs/")));
  const listed = linksOf(read("docs/README.md"));
  for (const name of readdirSync(join(root, "docs")).filter((n) => n.endsWith(".md") && n !== "README.md")) {
    assert.ok(listed.includes(name), `docs/README.md lacks ${name}`);
  }
});

test("troubleshooting.md has a paragraph for every error code, and for nothing else", () => {
  const [union = ""] = /type ErrorCode =[\s\S]*?;\n/.exec(read("src/errors.ts"))!;
  const codes = [...union.matchAll(/"([A-Z_]+)"/g)].map(([, code]) => code!);
  assert.ok(codes.length > 20, String(codes));
  const paragraphs = new Map(
    read("docs/troubleshooting.md").split(/^### /m).slice(1).map((part) => {
      const [title = "", ...text] = part.split(/^## /m)[0]!.split("\n");
      return [title, text.join("\n").trim()];
    }),
  );
  assert.deepEqual([...paragraphs.keys()].sort(), codes.toSorted());
  for (const [code, text] of paragraphs) assert.ok(text.length > 40, `${code}: ${text}`);
});

test(
  "api.md is what its generator makes of the docstrings (npm run docs)",
  { skip: runtime === "bun" ? false : "compared once, beside Bun's tests" },
  async () => {
    const { renderApi } = await import("../../docs/api.ts");
    const made = renderApi(),
      exported = read("mod.ts").replace(/\/\*[\s\S]*?\*\//g, "").match(
        /(?<=[{,]\s*(?:type )?)\b(?!type\b)\w+\b(?=\s*[,}])/g,
      )!;
    for (const name of exported) {
      assert.match(made, new RegExp(`^### ${name}$`, "m"), `${name} is exported and has no heading`);
    }
    assert.ok(read("docs/api.md") === made, "docs/api.md: expected what `npm run docs` writes, found another text");
  },
);
