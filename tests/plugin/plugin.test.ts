/**
 * ctok/plugin on Bun: imports of pictures and token files give what tokenize and loadTokens give, in programs and in
 * bun test, with their types; a program without such an import loads nothing more. Deno has no plugins, so this runs on
 * Bun alone.
 */
import assert from "node:assert/strict";
import { copyFile, mkdtemp, readFile, rm, symlink, writeFile } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import process from "node:process";
import { after, test } from "node:test";
import { loadTokens, saveTokens, tokenize } from "mod.ts";
import { root, runtime } from "../support.ts";
import { runs } from "../workplace.ts";

const skip = runtime === "bun" ? false : "plugins are Bun's";
const folder = await mkdtemp(join(tmpdir(), "ctok-plugin-"));
after(() => rm(folder, { recursive: true }));
const preload = `preload = ["${join(root, "plugin/bun.ts")}"]\n`;
await writeFile(join(folder, "bunfig.toml"), `${preload}[test]\n${preload}`);
await writeFile(join(folder, "package.json"), '{ "type": "module" }');
await copyFile(join(root, "examples/media/cat.png"), join(folder, "photo.png"));
await copyFile(join(root, "examples/media/cat.png"), join(folder, "a b.png"));
await symlink(join(root, "node_modules"), join(folder, "node_modules"));
const bun = (...args: string[]) => runs(folder, process.execPath, args);

/** Runs a program's text in the folder; what it printed as JSON. */
async function program(text: string): Promise<unknown> {
  await writeFile(join(folder, "program.ts"), text);
  return JSON.parse((await bun("program.ts")).stdout);
}

test("photo.png?tokens is tokenize's result; a model can be named", { skip }, async () => {
  const want = await tokenize(join(folder, "photo.png"));
  const text = `import tokens from "./photo.png?tokens";
    import same from "./photo.png?tokens=nano-DI8x8";
    import spaced from "./a b.png?tokens";
    import { Tokens } from ${JSON.stringify(join(root, "mod.ts"))};
    const later = (await import("./photo.png?tokens")).default;
    const sum = (t) => [t.indices.shape, Array.from(t.indices.data)];
    const sums = [tokens, same, spaced].map(sum);
    console.log(JSON.stringify([tokens instanceof Tokens, later === tokens, ...sums, tokens.origin]));`;
  const sum = [want.indices.shape, Array.from(want.indices.data)];
  assert.deepEqual(await program(text), [true, true, sum, sum, sum, want.origin]);
});

test(
  "*.tokens.safetensors and *.tokens.msgpack are loadTokens' results; a plain .safetensors is left to Bun",
  { skip },
  async () => {
    const tokens = await tokenize(join(folder, "photo.png"));
    for (const name of ["t.tokens.safetensors", "t.tokens.msgpack", "plain.safetensors"]) {
      await saveTokens(
        join(folder, name),
        tokens,
      );
    }
    const text = `import a from "./t.tokens.safetensors";
    import b from "./t.tokens.msgpack";
    import plain from "./plain.safetensors" with { type: "file" };
    console.log(JSON.stringify([a, b].map((t) => [t.parts, Array.from(t.indices.data)]).concat([plain])));`;
    const { indices, parts } = await loadTokens(join(folder, "t.tokens.safetensors"));
    const want = [parts, Array.from(indices.data)];
    assert.deepEqual(await program(text), [want, want, join(folder, "plain.safetensors")]);
  },
);

test("failures are ctok's, with code and path", { skip }, async () => {
  await writeFile(join(folder, "bad.tokens.safetensors"), "no tokens at all");
  const text = `const failed = [];
    const pictures = ["./gone.png?tokens", "./photo.png?tokens=nano-XI8x8"];
    for (const name of [...pictures, "./bad.tokens.safetensors", "./program.ts?tokens"]) {
      await import(name).catch((error) => failed.push([error.code, error.message.slice(0, 100)]));
    }
    console.log(JSON.stringify(failed));`;
  const failed = await program(text) as [string, string][];
  assert.deepEqual(failed.map(([code]) => code), ["FILE_MISSING", "FILE_MISSING", "TOKEN_FILE", "IMAGE"]);
  assert.match(failed[0]![1], /gone\.png: expected a file/);
  assert.match(failed[1]![1], /"?nano-/);
});

test("in bun test too", { skip }, async () => {
  await writeFile(
    join(folder, "own.test.ts"),
    `import { expect, test } from "bun:test";
     import tokens from "./photo.png?tokens";
     test("shape", () => expect(tokens.indices.shape).toEqual([1, 38, 58]));`,
  );
  const { stderr } = await bun("test", "./own.test.ts");
  assert.match(stderr, / 1 pass\n 0 fail/);
});

test("the preload alone loads nothing of ctok", { skip }, async () => {
  const text = `const files = Object.keys(require.cache).concat([...(globalThis.Loader?.registry?.keys() ?? [])]);
    console.log(JSON.stringify(files.filter((f) => /(mod|src|ffi)|sharp|zod/.test(f) && !f.includes("program.ts"))));`;
  assert.deepEqual(await program(text), []);
  // The same question finds them once such an import is there, so it can be asked.
  const found = await program(`import "./photo.png?tokens";\n${text}`) as string[];
  assert.ok(found.some((f) => f.endsWith("/src/model/tokenize.ts")), String(found));
});

test("tokens.d.ts gives the imports their types", { skip }, async () => {
  const program = (use: string) =>
    `import tokens from "./photo.png?tokens";\nimport video from "./clip.mp4?tokens=nano-DV4x8x8";\n` +
    `import file from "./t.tokens.safetensors";\n` +
    `export const all: readonly Int32Array[] = [tokens, video, file].map((t) => ${use});\n`;
  const options = {
    ...JSON.parse(await readFile(join(root, "tsconfig.json"), "utf8")).compilerOptions,
    paths: { "ctok": [join(root, "mod.ts")] },
  };
  const check = async (use: string) => {
    await writeFile(join(folder, "types.ts"), program(use));
    await writeFile(
      join(folder, "tsconfig.json"),
      JSON.stringify({ compilerOptions: options, files: ["types.ts", join(root, "plugin/tokens.d.ts")] }),
    );
    await runs(folder, join(root, "node_modules/.bin/tsc"), ["-p", "tsconfig.json"]);
  };
  try {
    await check("t.indices.data");
    await assert.rejects(() => check("t.latent.data"), /Float32Array/);
  } finally {
    await rm(join(folder, "tsconfig.json"), { force: true });
  }
});
