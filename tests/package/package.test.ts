/**
 * What is published works in an empty project: pack.ts packs it, `bun add` (on Bun) or `deno add` (on Deno) installs it from a
 * registry of this machine, the platform's library comes as a package of its own with no install script, and programs, types,
 * the command line and the plugin run from there. The test's own library and sources are out of their reach.
 */
import assert from "node:assert/strict";
import { existsSync } from "node:fs";
import { copyFile, mkdir, mkdtemp, readdir, readFile, realpath, rm, writeFile } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import process from "node:process";
import { after, before, describe, test } from "node:test";
import { tokenize } from "mod.ts";
import { root, runtime } from "../support.ts";
import { runs } from "../workplace.ts";
import { openRegistry, type Registry } from "./registry.ts";

const platform = `ctok-${process.platform}-${process.arch}-gnu`;
const bun = join(root, "node_modules/.bin/bun");

describe(`a packed ctok in an empty project, ${runtime} add`, () => {
  let top: string, project: string, registry: Registry, env: Record<string, string>;
  const here = (command: string, ...args: string[]) => runs(project, command, args, env);
  const runtimeArgs = runtime === "bun" ? [] : ["run", "-A"];
  const program = async (text: string) => {
    await writeFile(join(project, "program.ts"), text);
    return (await here(process.execPath, ...runtimeArgs, "program.ts")).stdout;
  };

  before(async () => {
    top = await realpath(await mkdtemp(join(tmpdir(), "ctok-package-")));
    project = join(top, "project");
    await mkdir(project);
    await runs(root, bun, ["pack.ts", join(top, "packed")]);
    const tarballs = (await readdir(join(top, "packed"))).filter((name) => name.endsWith(".tgz"));
    registry = await openRegistry(Object.fromEntries(
      tarballs.map((name) => [name.replace(/-\d+\.\d+\.\d+\.tgz$/, ""), join(top, "packed", name)]),
    ));
    env = {
      NPM_CONFIG_REGISTRY: registry.url,
      npm_config_registry: registry.url,
      BUN_INSTALL_CACHE_DIR: join(top, "cache"),
      DENO_DIR: join(top, "cache"),
      CTOK_LIBRARY: "",
    };
    await copyFile(join(root, "examples/media/cat.png"), join(project, "photo.png"));
    if (runtime === "bun") {
      await here(
        process.execPath,
        "add",
        join(top, "packed", tarballs.find((n) => /^ctok-\d/.test(n))!),
      );
    } else await here(process.execPath, "add", "npm:ctok");
  });
  after(async () => {
    await registry?.close();
    await rm(top, { recursive: true, force: true });
  });

  test("the library came as a package, and no package of ours has an install script", async () => {
    assert.ok(registry.fetched.has(platform), [...registry.fetched].join());
    for (const name of ["ctok", platform]) {
      const about = JSON.parse(await readFile(join(top, "packed", name, "package.json"), "utf8"));
      assert.equal(about.scripts, undefined);
    }
    const about = JSON.parse(await readFile(join(top, "packed/ctok/package.json"), "utf8"));
    assert.equal(about.optionalDependencies[platform], about.version);
  });

  test("a program that tokenises a picture gives the checkout's tokens", async () => {
    const stdout = await program(`import { detokenize, tokenize } from "ctok";
      const tokens = await tokenize("photo.png"), { height, width } = await detokenize(tokens);
      console.log(JSON.stringify([height, width, tokens.origin.source, Array.from(tokens.indices.data)]));`);
    const { indices } = await tokenize(join(root, "examples/media/cat.png"));
    assert.deepEqual(JSON.parse(stdout), [300, 451, "nano-DI8x8", Array.from(indices.data)]);
  });

  test("types are there and hold", async () => {
    const text = (use: string) =>
      `import { type Tokens, tokenize } from "ctok";
      const tokens: Tokens = await tokenize("photo.png");
      export const data: Int32Array = ${use};\n`;
    const check = async (use: string) => {
      await writeFile(join(project, "types.ts"), text(use));
      if (runtime === "deno") return await here(process.execPath, "check", "types.ts");
      const options = {
        module: "nodenext",
        target: "ES2024",
        lib: ["ESNext"],
        strict: true,
        noEmit: true,
        skipLibCheck: true,
      };
      const compilerOptions = { ...options, types: ["node"], typeRoots: [join(root, "node_modules/@types")] };
      await writeFile(join(project, "types.json"), JSON.stringify({ compilerOptions, files: ["types.ts"] }));
      await writeFile(
        join(project, "package.json"),
        (await readFile(join(project, "package.json"), "utf8")).replace("{", '{ "type": "module",'),
      );
      return await here(join(root, "node_modules/.bin/tsc"), "-p", "types.json");
    };
    await check("tokens.indices.data");
    await assert.rejects(() => check("tokens.latent.data"), /Float32Array/);
  });

  test("the command line", async () => {
    const args = runtime === "bun" ? ["node_modules/.bin/ctok"] : ["run", "-A", "npm:ctok"];
    await here(process.execPath, ...args, "encode", "photo.png", "--out", "photo.tokens.safetensors");
    assert.ok(existsSync(join(project, "photo.tokens.safetensors")));
  });

  test("ctok/plugin by its name in bunfig.toml", { skip: runtime === "bun" ? false : "plugins are Bun's" }, async () => {
    await writeFile(join(project, "bunfig.toml"), 'preload = ["ctok/plugin"]\n');
    const stdout = await program(`import tokens from "./photo.png?tokens";
      import read from "./photo.tokens.safetensors";
      console.log(tokens.indices.shape.join(), read.indices.data.every((code, i) => code === tokens.indices.data[i]));`);
    assert.equal(stdout, "1,38,58 true\n");
  });
});
