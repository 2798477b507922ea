/**
 * What an editor shows: the declarations that tsc makes of mod.ts carry a comment for every field of every options
 * type, and no public function hides fields in a type without a name.
 */
import assert from "node:assert/strict";
import { execFileSync } from "node:child_process";
import { readdirSync, readFileSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import process from "node:process";
import { test } from "node:test";
import { root, runArgs, withFolder } from "../support.ts";

const isOptions = (name: string) => /(Options|Shape|Limits)$/.test(name);

/** Fields of the body of an interface or type literal: its name, and whether a comment stands before it. */
function fieldsOf(body: string): { name: string; hasComment: boolean }[] {
  const lines = body.split("\n"), indent = /^ */.exec(lines.find((line) => line.trim()) ?? "")![0].length;
  return lines.flatMap((line, i) => {
    const name = /^(?:readonly )?(\w+)\??:/.exec(line.slice(indent))?.[1];
    return name && line.slice(0, indent).trim() === "" ? [{ name, hasComment: /\*\/$/.test(lines[i - 1] ?? "") }] : [];
  });
}

test("every field of the public options has its comment in the declarations", () =>
  withFolder((folder) => {
    const config = join(folder, "tsconfig.json"), out = join(folder, "out");
    writeFileSync(
      config,
      JSON.stringify({
        extends: join(root, "tsconfig.json"),
        compilerOptions: {
          ...{ noEmit: false, declaration: true, emitDeclarationOnly: true, rootDir: root, outDir: out, paths: {} },
          typeRoots: [join(root, "node_modules/@types"), join(root, "node_modules")],
        },
        include: [join(root, "mod.ts")],
      }),
    );
    execFileSync(process.execPath, [
      ...runArgs,
      join(root, "node_modules/typescript/lib/tsc.js"),
      ...["-p", config],
    ]);
    const files = readdirSync(join(out, "src"), { recursive: true, encoding: "utf8" }).filter((name) =>
      name.endsWith(".d.ts")
    );
    const interfaces = new Map<string, ReturnType<typeof fieldsOf>>(),
      text = files.map((file) => {
        return readFileSync(join(out, "src", file), "utf8");
      }).join("\n");
    for (const [, name, body] of text.matchAll(/^export interface (\w+)[^{]*\{\n([^]*?)^\}/gm)) {
      interfaces.set(name!, fieldsOf(body!));
    }
    const exported = [...readFileSync(join(out, "mod.d.ts"), "utf8").matchAll(/\b(\w+)\b/g)].map(([name]) => name);
    const options = [...new Set(exported.filter(isOptions))];
    assert.ok(options.length >= 18, `expected all options types, found ${options.join(", ")}`);
    const documented = new Set<string>();
    for (const name of options) {
      const fields = interfaces.get(name);
      assert.ok(fields, `${name}: expected an interface, whose comments declarations keep, found another type`);
      for (const field of fields) {
        assert.ok(field.hasComment, `${name}.${field.name}: expected a comment`);
        documented.add(field.name);
      }
    }
    assert.ok(
      ["maxMemory", "signal", "onProgress", "allowNonFinite", "fps", "svg"].every((name) => documented.has(name)),
    );
    // A type literal among the parameters may only narrow what an interface has.
    for (const [, name, parameters] of text.matchAll(/^export declare function (\w+)(?:<[^]*?>)?\(([^]*?)\): /gm)) {
      if (!exported.includes(name!)) continue;
      for (const [, body] of parameters!.matchAll(/\{([^{}]*:[^{}]*)\}/g)) {
        for (const field of fieldsOf(body!)) {
          assert.ok(documented.has(field.name), `${name}: { ${field.name} } has no comment`);
        }
      }
    }
    return Promise.resolve();
  }));
