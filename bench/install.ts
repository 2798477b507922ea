/**
 * A new user's first minute, timed: an empty folder, an install from a registry on this machine (every cache empty), a
 * program that tokenises a photo and turns it back, and the command line doing so. On Bun, Deno, the Node on the PATH,
 * and what `npm run nodes` has put there. Prints a row of seconds for each; docs/install.md has them.
 *
 *     npm run package && bun bench/install.ts
 */
import { spawn } from "node:child_process";
import { copyFile, mkdtemp, readdir, rm, writeFile } from "node:fs/promises";
import { cpus, tmpdir } from "node:os";
import { dirname, join } from "node:path";
import process from "node:process";
import { fileURLToPath } from "node:url";
import { nodesHere } from "../tests/nodes.ts";
import { openRegistry } from "../tests/package/registry.ts";

const root = fileURLToPath(new URL("../", import.meta.url)), packages = join(root, "build/package");
const tarballs = (await readdir(packages)).filter((name) => name.endsWith(".tgz"));
const registry = await openRegistry(
  Object.fromEntries(tarballs.map((name) => [name.replace(/-\d+\.\d+\.\d+\.tgz$/, ""), join(packages, name)])),
);

const program = `import { detokenize, saveTokens, tokenize } from "ctok";
const tokens = await tokenize("photo.png");
await saveTokens("photo.safetensors", tokens);
const { shape } = await detokenize(tokens);
console.log(tokens.indices.shape, shape);`;

interface Runtime {
  readonly name: string;
  readonly version: readonly string[];
  readonly install: readonly string[];
  readonly program: readonly string[];
  readonly ctok: readonly string[];
  readonly path?: string;
}
const bun = join(root, "node_modules/.bin/bun"), deno = join(root, "node_modules/.bin/deno");
const runtimes: Runtime[] = [
  {
    name: "Bun",
    version: [bun, "--version"],
    install: [bun, "add", "ctok"],
    program: [bun, "program.mjs"],
    ctok: [bun, "--bun", "x", "ctok"],
  },
  {
    name: "Deno",
    version: [deno, "--version"],
    install: [deno, "add", "npm:ctok"],
    program: [deno, "run", "-A", "program.mjs"],
    ctok: [deno, "run", "-A", "npm:ctok"],
  },
  ...nodesHere().map((node): Runtime => ({
    name: "Node",
    version: [node, "--version"],
    install: ["npm", "install", "--no-audit", "--no-fund", "--loglevel=error", "ctok"],
    program: ["node", "program.mjs"],
    ctok: ["npx", "ctok"],
    ...(node !== "node" && { path: dirname(node) }),
  })),
];

function run([command, ...args]: readonly string[], cwd: string, env: Record<string, string>): Promise<string> {
  return new Promise((resolve, reject) => {
    const child = spawn(command!, args, { cwd, env: { ...process.env, ...env }, stdio: ["ignore", "pipe", "pipe"] });
    let out = "";
    for (const stream of [child.stdout, child.stderr]) stream.setEncoding("utf8").on("data", (text) => out += text);
    child.on("error", reject);
    child.on("close", (code) => code === 0 ? resolve(out) : reject(new Error(`${command} ${args.join(" ")}: ${out}`)));
  });
}

console.log(`${cpus().length} cores, ${cpus()[0]?.model}; seconds`);
for (const runtime of runtimes) {
  const project = await mkdtemp(join(tmpdir(), "ctok-install-")), cache = await mkdtemp(join(tmpdir(), "ctok-cache-"));
  const env = {
    NPM_CONFIG_REGISTRY: registry.url,
    npm_config_registry: registry.url,
    npm_config_cache: cache,
    BUN_INSTALL_CACHE_DIR: cache,
    DENO_DIR: cache,
    CTOK_LIBRARY: "",
    ...(runtime.path && { PATH: `${runtime.path}:${process.env.PATH}` }),
  };
  const seconds = async (command: readonly string[]) => {
    const start = performance.now();
    await run(command, project, env);
    return ((performance.now() - start) / 1000).toFixed(1);
  };
  try {
    await copyFile(join(root, "examples/media/cat.png"), join(project, "photo.png"));
    await writeFile(join(project, "program.mjs"), program);
    const version = /\d+\.\d+\.\d+/.exec(await run(runtime.version, project, env))?.[0];
    const install = await seconds(runtime.install), both = await seconds(runtime.program);
    const encode = await seconds([...runtime.ctok, "encode", "photo.png", "--out", "tokens.safetensors"]);
    const decode = await seconds([...runtime.ctok, "decode", "tokens.safetensors", "--out", "again.png"]);
    console.log(`${runtime.name} ${version}: install ${install}, program ${both}, encode ${encode}, decode ${decode}`);
  } finally {
    for (const folder of [project, cache]) await rm(folder, { recursive: true, force: true });
  }
}
await registry.close();
