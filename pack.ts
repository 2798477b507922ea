/**
 * Packs what is published: ctok-VERSION.tgz (JavaScript with types, one file for each source file, the embedded
 * models, and the C sources, of which build.js makes a library where none is packed), and one package for each
 * libctok.so, named by what that file is for (ffi/platform.ts). ctok names those without CUDA as optional dependencies,
 * so that no install script is needed. JavaScript because Deno takes no TypeScript from node_modules; a file for each
 * because a bundle would hoist bun:ffi. The checkout's own package.json is private: `npm pack` there would ship
 * TypeScript. Needs readelf (binutils), as gcc does.
 * Run: npm run package, or after build.ts: node_modules/.bin/bun pack.ts [FOLDER [LIBRARY...]]
 * (unless given, build/package and build/libctok*.so)
 */
import { execFileSync } from "node:child_process";
import { chmodSync, cpSync, existsSync, mkdirSync, readdirSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import { dirname, join, relative, resolve } from "node:path";
import process from "node:process";
import { fileURLToPath } from "node:url";
import { isOlder, type LibraryPackage, libraryPackages, oldestGlibc } from "./ffi/platform.ts";

const root = fileURLToPath(new URL(".", import.meta.url));
const [folder = "build/package", ...given] = process.argv.slice(2);
const out = resolve(folder);
const built = ["libctok.so", "libctok-cpu.so"].map((name) => join(root, "build", name)).filter((path) =>
  existsSync(path)
);
const about = JSON.parse(readFileSync(join(root, "package.json"), "utf8"));
const { version, license, repository, homepage, bugs } = about;
const common = { version, license, repository, homepage, bugs };

/** "./mod.ts" and the like as the packed files are called. */
const compiled = (path: string, extension: string) => path.replace(/(?<!\.d)\.ts$/, extension);

function write(folder: string, file: string, value: unknown): void {
  writeFileSync(join(folder, file), JSON.stringify(value, null, 2) + "\n");
}

function emptied(name: string): string {
  const path = join(out, name);
  rmSync(path, { recursive: true, force: true });
  mkdirSync(path, { recursive: true });
  return path;
}

const filesUnder = (folder: string, pattern: RegExp) =>
  readdirSync(folder, { recursive: true, encoding: "utf8" }).filter((name) => pattern.test(name));

// ---------------------------------------------------------------- ctok
function compile(main: string): void {
  const config = join(out, "tsconfig.json"); // Note: not in `main`, whose tsconfig would be packed
  write(out, "tsconfig.json", {
    extends: join(root, "tsconfig.json"),
    compilerOptions: {
      noEmit: false,
      declaration: true,
      allowImportingTsExtensions: false,
      rewriteRelativeImportExtensions: true,
      rootDir: root,
      outDir: main,
      typeRoots: [join(root, "node_modules/@types"), join(root, "node_modules")],
    },
    include: ["mod.ts", "build.ts", "tools", "ffi", "src", "cli", "repl", "plugin"].map((name) => join(root, name)),
  });
  execFileSync(join(root, "node_modules/.bin/tsc"), ["-p", config], { stdio: "inherit" });
  for (
    const file of [
      "build.d.ts",
      ...filesUnder(join(main, "tools"), /\.d\.ts$/).map((name) => join("tools", name)),
    ]
  ) {
    rmSync(join(main, file)); // of a program
  }
  // tsc rewrites the extension of imports in what it compiles, and leaves it in declarations.
  for (const file of filesUnder(main, /\.d\.ts$/)) {
    const text = readFileSync(join(main, file), "utf8");
    writeFileSync(join(main, file), text.replace(/((?:from|import)\s*\(?\s*"\.{1,2}\/[^"]+)\.ts"/g, '$1.js"'));
  }
}

/** Links to what is not packed go to the repository, and are plain text where package.json names none. */
function settleLinks(main: string, file: string): void {
  const address = /github\.com[/:](.+?)(\.git)?$/.exec(repository?.url ?? repository ?? "")?.[1];
  const settled = (link: string, image: string, text: string, path: string, anchor = "") => {
    const target = relative(main, join(main, dirname(file), path));
    if (/^[a-z]+:/.test(path) || existsSync(join(main, target))) return link;
    return address ? `${image}[${text}](https://github.com/${address}/blob/v${version}/${target}${anchor})` : text;
  };
  const parts = readFileSync(join(main, file), "utf8").split(/^(```[\s\S]*?^```)$/m); // every second one is code
  const link = /(!?)\[([^\]]*)\]\(([^)\s#]+)(#[^)\s]*)?\)/g;
  writeFileSync(join(main, file), parts.map((part, n) => n % 2 ? part : part.replace(link, settled)).join(""));
}

function makeMain(): string {
  const main = emptied("ctok");
  compile(main);
  for (
    const name of ["models", "csrc", "docs", "plugin/tokens.d.ts", "README.md", "SECURITY.md", "LICENSE", "NOTICE"]
  ) {
    cpSync(join(root, name), join(main, name), { recursive: true, filter: (path) => !/docs\/.*\.ts$/.test(path) });
  }
  for (const file of filesUnder(main, /\.md$/)) settleLinks(main, file);
  const exported = Object.entries(about.exports as Record<string, string | { types: string }>).map(([name, target]) => [
    name,
    typeof target !== "string" || !target.endsWith(".ts")
      ? target
      : { types: compiled(target, ".d.ts"), default: compiled(target, ".js") },
  ]);
  const bin = Object.fromEntries(
    Object.entries<string>(about.bin).map(([name, path]) => [name, compiled(path, ".js")]),
  );
  for (const path of Object.values(bin).map((path) => join(main, path))) {
    // npx and a shell start it by this line: Node is what most have, and Bun stands in for it where there is none.
    writeFileSync(path, readFileSync(path, "utf8").replace(/^#!.*/, "#!/usr/bin/env node"));
    chmodSync(path, 0o755);
  }
  const {
    name,
    description,
    keywords,
    type,
    engines,
    dependencies,
    optionalDependencies,
    peerDependencies,
    peerDependenciesMeta,
  } = about;
  const libraries = (hasCuda: boolean) =>
    libraryPackages.filter((library) => library.hasCuda === hasCuda).map(({ name }) => name);
  const each = <T>(names: readonly string[], value: T) => Object.fromEntries(names.map((name) => [name, value]));
  write(main, "package.json", {
    ...{
      name,
      ...common,
      description,
      keywords,
      type,
      engines,
      exports: Object.fromEntries(exported),
      bin,
      dependencies,
    },
    optionalDependencies: { ...optionalDependencies, ...each(libraries(false), version) },
    // What users add themselves: so that package managers that keep packages apart let ctok see it.
    peerDependencies: { ...peerDependencies, ...each(libraries(true), version) },
    peerDependenciesMeta: { ...peerDependenciesMeta, ...each(libraries(true), { optional: true }) },
  });
  return main;
}

// ---------------------------------------------------------------- the libraries
/** The package that a library is for, by the file itself. */
function packageOf(library: string): LibraryPackage {
  const facts = execFileSync("readelf", ["-hSV", "--wide", library], { encoding: "utf8" });
  const cpu = { "X86-64": "x64", "AArch64": "arm64" }[/Machine:.*?(X86-64|AArch64)$/m.exec(facts)?.[1] ?? ""];
  const newest = [...facts.matchAll(/GLIBC_(\d[\d.]*)/g)].map(([, version]) => version!)
    .reduce((a, b) => isOlder(a, b) ? b : a, "0");
  if (isOlder(oldestGlibc, newest)) {
    throw new Error(`${library}: expected a library that needs glibc ${oldestGlibc} at most, found ${newest}`);
  }
  const hasCuda = facts.includes(".nv_fatbin");
  const found = libraryPackages.find((library) => library.cpu === cpu && library.hasCuda === hasCuda);
  if (!found) {
    throw new Error(`${library}: expected a machine that ffi/platform.ts lists, found ${cpu} with CUDA: ${hasCuda}`);
  }
  return found;
}

function makeLibrary(library: string): string {
  const { name, os, cpu, libc, hasCuda } = packageOf(library), native = emptied(name);
  cpSync(library, join(native, "libctok.so"));
  for (const file of ["LICENSE", "NOTICE"]) cpSync(join(root, file), join(native, file));
  const description = `The native library of ctok for ${os}-${cpu} (${libc})${hasCuda ? ", with CUDA" : ""}`;
  write(native, "package.json", {
    ...{ name, ...common, description, os: [os], cpu: [cpu], libc: [libc], files: ["libctok.so", "NOTICE"] },
  });
  return native;
}

if (given.length === 0 && built.length === 0) {
  throw new Error("pack.ts: expected build/libctok.so, found none (build.ts makes it)");
}
for (const folder of [makeMain(), ...(given.length > 0 ? given : built).map(makeLibrary)]) {
  const [packed] = JSON.parse(
    execFileSync("npm", ["pack", "--json", "--pack-destination", out], { cwd: folder, encoding: "utf8" }),
  );
  console.log(`${join(out, packed.filename)}: ${packed.files.length} files, ${(packed.size / 1e6).toFixed(1)} MB`);
}
