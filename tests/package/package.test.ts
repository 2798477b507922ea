/**
 * What is published works in an empty project: pack.ts packs it, `bun add`, `deno add` or `npm install` installs it
 * from a registry of this machine, the platform's library comes as a package of its own with no install script, and
 * programs, types, the command line and the plugin run from there; on Node with nothing else on the PATH. The test's
 * own library and sources are out of their reach.
 */
import assert from "node:assert/strict";
import { existsSync, readdirSync, readFileSync, statSync } from "node:fs";
import {
  copyFile,
  cp,
  mkdir,
  mkdtemp,
  readdir,
  readFile,
  realpath,
  rename,
  rm,
  symlink,
  writeFile,
} from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import process from "node:process";
import { after, before, describe, test } from "node:test";
import { tokenize } from "mod.ts";
import { oldestGlibc } from "../../ffi/platform.ts";
import { blocksOf, linksOf } from "../docs/documents.ts";
import { nodeAt } from "../nodes.ts";
import { root, runtime } from "../support.ts";
import { runs } from "../workplace.ts";
import { openRegistry, type Registry } from "./registry.ts";

const platform = `ctok-${process.platform}-${process.arch}-gnu`;
const bun = join(root, "node_modules/.bin/bun");
const noCuda = runtime === "deno"
  ? "as on the other runtimes"
  : existsSync(join(root, "build/libctok-cpu.so"))
  ? false
  : "built without nvcc";
/** Installed, with what comes along unasked: no FFmpeg. */
const mostBytes = 60e6;

describe(`a packed ctok in an empty project, on ${runtime}`, () => {
  let top: string, project: string, registry: Registry, env: Record<string, string>, tarballs: string[];
  const here = (command: string, ...args: string[]) => runs(project, command, args, env);
  const run = runtime === "deno" ? ["run", "-A"] : [];
  const program = async (text: string, runner = process.execPath) => {
    await writeFile(join(project, "program.mjs"), text);
    return (await here(runner, ...run, "program.mjs")).stdout;
  };
  const add = (name: string) => here(adding[0]!, ...adding.slice(1), runtime === "deno" ? `npm:${name}` : name);
  const adding = {
    bun: [process.execPath, "add"],
    deno: [process.execPath, "add"],
    node: ["npm", "install", "--no-audit", "--no-fund"],
  }[runtime];

  before(async () => {
    top = await realpath(await mkdtemp(join(tmpdir(), "ctok-package-")));
    project = join(top, "project");
    await mkdir(project);
    await runs(root, bun, ["pack.ts", join(top, "packed")]);
    tarballs = (await readdir(join(top, "packed"))).filter((name) => name.endsWith(".tgz"));
    registry = await openRegistry(Object.fromEntries(
      tarballs.map((name) => [name.replace(/-\d+\.\d+\.\d+\.tgz$/, ""), join(top, "packed", name)]),
    ));
    await mkdir(join(top, "bin")); // node and npm, and what npm itself starts; no bun, no deno
    for (const name of ["node", "npm", "npx", "sh", "env"]) {
      const found = process.env.PATH!.split(":").map((folder) => join(folder, name)).find((path) => existsSync(path));
      if (found) await symlink(await realpath(found), join(top, "bin", name));
    }
    env = {
      NPM_CONFIG_REGISTRY: registry.url,
      npm_config_registry: registry.url,
      npm_config_cache: join(top, "cache"),
      BUN_INSTALL_CACHE_DIR: join(top, "cache"),
      DENO_DIR: join(top, "cache"),
      CTOK_LIBRARY: "",
      ...(runtime === "node" && { PATH: join(top, "bin") }),
    };
    await copyFile(join(root, "examples/media/cat.png"), join(project, "photo.png"));
    if (runtime === "bun") await add(join(top, "packed", tarballs.find((n) => /^ctok-\d/.test(n))!));
    else await add("ctok");
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
    assert.ok(about.keywords.length > 0 && about.engines.node && about.engines.bun && about.engines.deno);
    const own = JSON.parse(await readFile(join(top, "packed", platform, "package.json"), "utf8"));
    assert.deepEqual([own.os, own.cpu, own.libc, own.version], [["linux"], [process.arch], ["glibc"], about.version]);
  });

  test("it is small, and FFmpeg's packages are for those who add them", {
    skip: runtime === "node" ? false : "counted once, on Node",
  }, () => {
    const sizes = readdirSync(join(project, "node_modules"), { recursive: true, encoding: "utf8" })
      .map((name) => statSync(join(project, "node_modules", name))).filter((file) => file.isFile()).map(({ size }) =>
        size
      );
    const bytes = sizes.reduce((a, b) => a + b);
    assert.ok(bytes < mostBytes && bytes > 30e6, `${bytes} bytes in ${sizes.length} files`);
    assert.ok(![...registry.fetched].some((name) => /ffmpeg|ffprobe/.test(name)), [...registry.fetched].join());
  });

  const onlyBun = runtime === "bun" ? false : "runs once, beside Bun's tests";
  test("npm run release, dry: goes to the end, and says what a release lacks", { skip: onlyBun }, async () => {
    const packages = join(top, "packed");
    const empty = await openRegistry({}); // npm asks which versions there are
    const release = (packages: string) =>
      runs(root, bun, ["release.ts", "--dry-run", "--packages", packages], { ...env, npm_config_registry: empty.url });
    const { stdout } = await release(packages);
    const about = JSON.parse(await readFile(join(root, "package.json"), "utf8"));
    for (const name of tarballs) assert.ok(stdout.includes(`${join(packages, name)}: npm would publish it`), stdout);
    if (!about.repository) assert.match(stdout, /missing for a release: package\.json: expected "repository"/);
    const sbom = JSON.parse(await readFile(join(packages, `ctok-${about.version}.cdx.json`), "utf8"));
    const names = sbom.components.map(({ name }: { name: string }) => name);
    for (const name of Object.keys(about.dependencies)) assert.ok(names.includes(name), name);
    for (const name of Object.keys(about.devDependencies)) {
      assert.ok(!names.includes(name) || name in about.peerDependencies, name);
    }
    await assert.rejects(
      () => release(project),
      /wrong: .*ctok-\d+\.\d+\.\d+\.tgz: expected what pack\.ts makes, found none/,
    );
    await empty.close();
  });

  const onlyDeno = runtime === "deno" ? false : "runs once, beside Deno's tests";
  test("deno publish, dry: the sources are what JSR takes", { skip: onlyDeno }, async () => {
    const folder = join(top, "jsr"), about = JSON.parse(await readFile(join(root, "deno.json"), "utf8"));
    const include = ["mod.ts", "ffi", "src", "README.md", "LICENSE", "NOTICE"];
    await mkdir(folder);
    for (const name of [...include, "package.json", "models"]) {
      await cp(join(root, name), join(folder, name), { recursive: true });
    }
    await symlink(join(root, "node_modules"), join(folder, "node_modules"));
    await writeFile(
      join(folder, "deno.json"),
      JSON.stringify({ ...about, name: "@ctok/ctok", version: "0.1.0", exports: "./mod.ts", publish: { include } }),
    );
    // Slow types: options are schemas, whose types are what they check.
    const args = ["publish", "--dry-run", "--allow-dirty", "--allow-slow-types", "--quiet"];
    await runs(folder, process.execPath, args, env);
  });

  const bundled = `import { tokenize } from "ctok";
    const { indices } = await tokenize("photo.png");
    console.log(indices.shape.join());`;
  test("bun build --target bun finds the library and the models", { skip: onlyBun }, async () => {
    await writeFile(join(project, "app.ts"), bundled);
    await here(process.execPath, "build", "app.ts", "--target", "bun", "--outfile", "dist/app.js");
    assert.equal((await here(process.execPath, "dist/app.js")).stdout, "1,38,58\n");
  });

  test(
    "bun build --compile gives a program that runs elsewhere, as docs/bundling.md says",
    { skip: onlyBun },
    async () => {
      const away = join(top, "away"), modules = join(project, "node_modules");
      await mkdir(away);
      await writeFile(join(project, "app.ts"), bundled);
      const how = ["--compile", "--compile-autoload-package-json", "--external", "sharp"];
      assert.ok(readFileSync(join(root, "docs/bundling.md"), "utf8").includes(`bun build app.ts ${how.join(" ")} `));
      await here(process.execPath, "build", "app.ts", ...how, "--outfile", join(away, "app"));
      await copyFile(join(project, "photo.png"), join(away, "photo.png"));
      const alone = () => runs(away, join(away, "app"), [], { CTOK_LIBRARY: "", PATH: join(top, "bin") });
      await assert.rejects(alone, /sharp: expected the image library to load|libctok\.so for/);
      await copyFile(join(modules, platform, "libctok.so"), join(away, "libctok.so"));
      await cp(join(modules, "ctok/models"), join(away, "models"), { recursive: true });
      for (const name of ["sharp", "@img", "detect-libc", "semver"]) {
        await cp(join(modules, name), join(away, "node_modules", name), { recursive: true });
      }
      await rename(project, project + ".away"); // what it was made from is gone
      try {
        assert.equal((await alone()).stdout, "1,38,58\n");
      } finally {
        await rename(project + ".away", project);
      }
    },
  );

  test(
    "a program of one file, with the library and a model inside it, as docs/bundling.md has it",
    { skip: onlyBun },
    async () => {
      const text = readFileSync(join(root, "docs/bundling.md"), "utf8");
      const code = blocksOf(text).find(({ text }) => text.includes('with { type: "file" }'))!.text;
      await writeFile(join(project, "inside.ts"), code.replace("ctok-linux-x64-gnu", platform));
      await here(
        process.execPath,
        "build",
        "inside.ts",
        "--compile",
        "--external",
        "sharp",
        "--outfile",
        join(top, "inside"),
      );
      const away = await mkdtemp(join(top, "alone-"));
      const { stdout } = await runs(away, join(top, "inside"), [], {
        CTOK_LIBRARY: "",
        PATH: "/nowhere",
        TMPDIR: away,
      });
      assert.equal(stdout, "1,2,2\n");
    },
  );

  test("links of the packed documents lead somewhere", () => {
    const packed = join(top, "packed/ctok");
    for (
      const file of readdirSync(packed, { recursive: true, encoding: "utf8" }).filter((name) => name.endsWith(".md"))
    ) {
      for (
        const link of linksOf(readFileSync(join(packed, file), "utf8")).filter((link) => !/^(https:|#)/.test(link))
      ) {
        assert.ok(existsSync(join(packed, file, "..", link.replace(/#.*/, ""))), `${file}: ${link}`);
      }
    }
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
    const command = {
      bun: [process.execPath, "node_modules/.bin/ctok"],
      deno: [process.execPath, "run", "-A", "npm:ctok"],
      node: ["npx", "ctok"],
    }[runtime];
    const [first, ...rest] = [...command, "encode", "photo.png", "--out", "photo.tokens.safetensors"];
    await here(first!, ...rest);
    assert.ok(existsSync(join(project, "photo.tokens.safetensors")));
  });

  test("ctok as a program where Bun stands in for Node", { skip: runtime === "bun" ? false : "Bun's" }, async () => {
    await symlink(process.execPath, join(top, "bin/bun"));
    await rm(join(top, "bin/node"));
    const { stdout } = await runs(project, "bun", ["--bun", "x", "ctok", "info", "nano-DI8x8"], {
      ...env,
      PATH: join(top, "bin"),
    });
    assert.match(stdout, /nano-DI8x8/);
  });

  for (const name of ["node-22", "node-24"]) {
    const node = nodeAt(name);
    const skip = runtime !== "node"
      ? "another runtime's tests"
      : existsSync(node)
      ? false
      : `no ${name}: npm run nodes brings it`;
    test(`${name} runs a program and the command line`, { skip }, async () => {
      const text =
        `import { tokenize } from "ctok"; console.log(process.version, (await tokenize("photo.png")).indices.shape);`;
      assert.match(await program(text, node), new RegExp(`^v${name.slice(5)}\\..* \\[ 1, 38, 58 \\]\n$`));
      assert.match((await here(node, "node_modules/.bin/ctok", "info", "nano-DI8x8")).stdout, /nano-DI8x8/);
    });
  }

  /** With the library's packages out of reach. */
  async function withoutLibrary(names: readonly string[], work: () => Promise<void>): Promise<void> {
    const paths = names.map((name) => join(project, "node_modules", name)).filter((path) => existsSync(path));
    assert.ok(paths.length > 0, `${names.join()}`);
    for (const path of paths) await rename(path, path + ".away");
    try {
      await work();
    } finally {
      for (const path of paths) await rename(path + ".away", path);
    }
  }

  // Deno keeps packages in a cache of its own.
  test(
    "without the library: what was tried and commands that exist",
    { skip: runtime === "deno" },
    () =>
      withoutLibrary([platform, `${platform}-cuda`], async () => {
        const said = await program(`import { tokenize } from "ctok";
        await tokenize("photo.png").catch((error) => console.log(error.code, error.message));`);
        assert.match(
          said,
          new RegExp(
            `^LIBRARY native library: expected libctok\\.so for linux-.* tried ${platform}-cuda, ${platform}, `,
          ),
        );
        assert.match(said, runtime === "bun" ? /bun add ctok-linux/ : /npm install ctok-linux/);
        const [, builder] = /compiler, \w+ (\S+\/build\.js) library/.exec(said)!;
        await assert.rejects(
          () => here(process.execPath, builder!, "nothing"),
          /expected library or names of programs, found nothing/,
        );
      }),
  );

  test("the library with CUDA serves where there is no GPU", { skip: noCuda }, async () => {
    await add(`${platform}-cuda`);
    await withoutLibrary([platform], async () => {
      const stdout = await program(
        `import { Tokenizer } from "ctok"; console.log((await Tokenizer.open("nano-DI8x8")).info.name);`,
      );
      assert.match(stdout, /nano-DI8x8/);
    });
  });

  test("libraries need no newer glibc than the message says", async () => {
    for (
      const name of tarballs.filter((n) => n.startsWith(platform)).map((n) => n.replace(/-\d+\.\d+\.\d+\.tgz$/, ""))
    ) {
      const { stdout } = await runs(root, "readelf", ["-V", "--wide", join(top, "packed", name, "libctok.so")]);
      const needed = [...stdout.matchAll(/GLIBC_2\.(\d+)/g)].map(([, minor]) => Number(minor));
      assert.ok(
        needed.length > 10 && Math.max(...needed) <= Number(oldestGlibc.split(".")[1]),
        `${name}: 2.${Math.max(...needed)}`,
      );
    }
  });

  test(
    "ctok/plugin by its name in bunfig.toml",
    { skip: runtime === "bun" ? false : "plugins are Bun's" },
    async () => {
      await writeFile(join(project, "bunfig.toml"), 'preload = ["ctok/plugin"]\n');
      const stdout = await program(`import tokens from "./photo.png?tokens";
      import read from "./photo.tokens.safetensors";
      const isSame = read.indices.data.every((code, i) => code === tokens.indices.data[i]);
      console.log(tokens.indices.shape.join(), isSame);`);
      assert.equal(stdout, "1,38,58 true\n");
    },
  );
});
