/**
 * Code in documents runs: JavaScript is piped into ctok repl, TypeScript on the runtime that runs the tests
 * (type-checked beside Bun's), C compiled, Python saved under its name, and each line of a sh block that calls ctok,
 * bun, deno, cc, python3 (PYTHON, where it is set) or what was compiled. Blocks of one document share a folder, in
 * order, with the names that the documents use: photo.jpg, photos/, clip.mp4, path/to/ with checkpoints. Other lines
 * must be npm scripts that exist, scripts of bench/, or in `elsewhere`, so that nothing stays untried unseen.
 */
import assert from "node:assert/strict";
import { execFileSync } from "node:child_process";
import { existsSync, readFileSync } from "node:fs";
import { chmod, copyFile, mkdir, writeFile } from "node:fs/promises";
import { join } from "node:path";
import process from "node:process";
import { test } from "node:test";
import { root, runArgs, runtime } from "../support.ts";
import { makeWorkplace, python, runs, runsScript, whatPythonLacks, writeClip } from "../workplace.ts";
import { type Block, blocksOf, documents, read } from "./documents.ts";

/**
 * Commands that other tests run (the packed package, the container's steps, a hub or a store that is played), or that
 * need a person.
 */
const elsewhere = [
  /^(bun add \S*ctok|deno add npm:ctok|docker (build|run) |git clone |cd \w+$)/,
  /^(ctok (pull|.* (-m|--model)) nvidia\/|ctok dataset .*s3:\/\/|export AWS_\w+=)/,
  /^((npx|bunx|deno run -A npm:)\s?ctok|npm install |bun (build|dist)|cp -?r? ?node_modules\/)/,
];
const isText = (language: string) => ["", "text", "toml"].includes(language);

/** What the document's text asks for by name. */
async function furnish(folder: string, text: string): Promise<void> {
  const media = (name: string) => join(root, "examples/media", name);
  for (const name of ["photos", "bin", "path/to/Cosmos-Tokenizer-DI8x8", "path/to/Cosmos-Tokenizer-CI16x16"]) {
    await mkdir(join(folder, name), { recursive: true });
  }
  await copyFile(media("coffee.jpg"), join(folder, "photo.jpg"));
  await copyFile(media("cat.png"), join(folder, "photo.png"));
  await copyFile(media("coffee.jpg"), join(folder, "photos/one.jpg"));
  await copyFile(media("coffee.jpg"), join(folder, "photos/two.jpg"));
  if (text.includes("clip.mp4")) await writeClip(join(folder, "clip.mp4"));
  for (const model of text.includes("path/to/") ? ["DI8x8", "CI16x16"] : []) {
    const file = join(folder, `path/to/Cosmos-Tokenizer-${model}/autoencoder.safetensors`);
    execFileSync(join(root, "build/tests/make_weights"), [file, model, "--small"]);
  }
  const run = [process.execPath, ...runArgs, join(root, "cli/main.ts")];
  await writeFile(join(folder, "bin/ctok"), `#!/bin/sh\nexec ${run.map((part) => `'${part}'`).join(" ")} "$@"\n`);
  await chmod(join(folder, "bin/ctok"), 0o755);
}

/** Lines of a sh block, those that end in \ joined, without comments. */
function commandsOf({ text }: Block): string[] {
  return text.replaceAll("\\\n", " ").split("\n").map((line) => line.replace(/(^|\s)#.*$/, "").trim()).filter(Boolean);
}

const scripts = JSON.parse(read("package.json")).scripts as Record<string, string>;

async function runCommand(folder: string, command: string): Promise<void> {
  if (elsewhere.some((pattern) => pattern.test(command))) return;
  if (/^npm /.test(command)) {
    const script = /^npm (?:run (?:-s )?)?([\w:-]+)$/.exec(command)?.[1] ?? "";
    return assert.ok(scripts[script], `${command}: no such script in package.json`);
  }
  const measuring = /^(?:bun|sh|build\/pytorch\/bin\/python) (bench\/\S+)/.exec(command)?.[1];
  if (measuring) return assert.ok(existsSync(join(root, measuring)), `${command}: no such file`);
  if (elsewhere.some((pattern) => pattern.test(command))) return;
  assert.match(
    command,
    /^(cat \S+ \| )?(ctok|cc|python3|node_modules\/\.bin\/(bun|deno)|\.\/\w+)( |$)/,
    `${command}: expected a command that the tests know, found another`,
  );
  const script = /^python3 (\S+)/.exec(command)?.[1];
  const lacking = script && whatPythonLacks(readFileSync(join(folder, script), "utf8"));
  if (lacking) return console.log(`skipped: ${command}: ${lacking}`);
  const line = command.replace(/^python3(?= )/, python);
  await runs(folder, "sh", ["-c", `{ ${line}\n} </dev/null`], { PATH: `${join(folder, "bin")}:${process.env.PATH}` });
}

/** All TypeScript blocks of a document, checked together. */
async function checkTypes(folder: string, files: string[]): Promise<void> {
  if (runtime !== "bun" || files.length === 0) return;
  const types = [join(root, "plugin/tokens.d.ts")];
  const paths = { "mod.ts": [join(root, "mod.ts")], "ctok": [join(root, "mod.ts")], "ctok/*": [join(root, "*")] };
  const { compilerOptions } = JSON.parse(read("tsconfig.json"));
  const options = {
    ...compilerOptions,
    paths,
    typeRoots: [join(root, "node_modules/@types"), join(root, "node_modules")],
  };
  await writeFile(
    join(folder, "blocks.json"),
    JSON.stringify({ compilerOptions: options, files: [...files, ...types] }),
  );
  await runs(folder, join(root, "node_modules/.bin/tsc"), ["-p", "blocks.json"]);
}

for (const document of documents) {
  const blocks = blocksOf(read(document)).filter(({ language }) => !isText(language));
  if (blocks.length === 0) continue;
  test(`${document}: ${blocks.length} blocks`, async () => {
    const { folder, remove } = await makeWorkplace("docs");
    const files: string[] = [];
    try {
      await furnish(folder, read(document));
      for (const block of blocks) {
        const { language, name, text, line } = block;
        try {
          if (language === "ts") {
            const file = name ?? `block_${line}.ts`;
            files.push(file);
            await writeFile(join(folder, file), text);
            const isPlugin = /\?tokens"|\.tokens\.\w+"/.test(text); // Note: plugins are Bun's
            if (!isPlugin || runtime === "bun") await runsScript(folder, file);
          } else if (language === "js") {
            await writeFile(join(folder, "piped.js"), text);
            await runs(folder, "sh", ["-c", "bin/ctok repl <piped.js"]);
          } else if (language === "json") JSON.parse(text);
          else if (language === "sh") { for (const command of commandsOf(block)) await runCommand(folder, command); }
          else {
            assert.ok(
              name && ["c", "python"].includes(language),
              `a block of ${language} with a name that tells its file`,
            );
            await writeFile(join(folder, name), text);
          }
        } catch (error) {
          throw new Error(`${document}, line ${line}: ${error instanceof Error ? error.message : error}`, {
            cause: error,
          });
        }
      }
      await checkTypes(folder, files);
    } finally {
      await remove();
    }
  });
}
