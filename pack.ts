/**
 * Packs what is published: ctok-VERSION.tgz (JavaScript with types, one file for each source file, and the embedded models) and
 * ctok-linux-x64-gnu-VERSION.tgz (libctok.so), which ctok names as an optional dependency, so that no install script is needed.
 * JavaScript because Deno takes no TypeScript from node_modules; a file for each because a bundle would hoist bun:ffi.
 * The checkout's own package.json is private: `npm pack` there would ship TypeScript.
 * Run: npm run package, or after build.ts: node_modules/.bin/bun pack.ts [FOLDER]     (build/package unless given)
 */
import { execFileSync } from "node:child_process";
import { chmodSync, cpSync, mkdirSync, readdirSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import { join, resolve } from "node:path";
import process from "node:process";
import { fileURLToPath } from "node:url";

const root = fileURLToPath(new URL(".", import.meta.url));
const out = resolve(process.argv[2] ?? join(root, "build/package"));
const about = JSON.parse(readFileSync(join(root, "package.json"), "utf8"));
const { version, license } = about;
const platform = `ctok-${process.platform}-${process.arch}-gnu`; // as ffi/load.ts looks for it

/** "./mod.ts" and the like as the packed files are called. */
const compiled = (path: string, extension: string) => path.replace(/(?<!\.d)\.ts$/, extension);

function write(folder: string, file: string, value: unknown): void {
  writeFileSync(join(folder, file), JSON.stringify(value, null, 2) + "\n");
}

// ---------------------------------------------------------------- ctok
const main = join(out, "ctok");
rmSync(main, { recursive: true, force: true });
mkdirSync(main, { recursive: true });
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
  include: ["mod.ts", "ffi", "src", "cli", "repl", "plugin"].map((name) => join(root, name)),
});
execFileSync(join(root, "node_modules/.bin/tsc"), ["-p", config], { stdio: "inherit" });
// tsc rewrites the extension of imports in what it compiles, and leaves it in declarations.
for (const file of readdirSync(main, { recursive: true, encoding: "utf8" }).filter((name) => name.endsWith(".d.ts"))) {
  const text = readFileSync(join(main, file), "utf8");
  writeFileSync(join(main, file), text.replace(/((?:from|import)\s*\(?\s*"\.{1,2}\/[^"]+)\.ts"/g, '$1.js"'));
}
for (const name of ["models", "plugin/tokens.d.ts", "csrc/include/ctok.h", "README.md", "LICENSE", "NOTICE"]) {
  cpSync(join(root, name), join(main, name), { recursive: true });
}
const exported = Object.entries(about.exports as Record<string, string | { types: string }>).map(([name, target]) => [
  name,
  typeof target === "string" ? { types: compiled(target, ".d.ts"), default: compiled(target, ".js") } : target,
]);
const bin = Object.fromEntries(Object.entries<string>(about.bin).map(([name, path]) => [name, compiled(path, ".js")]));
for (const path of Object.values(bin)) chmodSync(join(main, path), 0o755);
const { name, description, type, dependencies, optionalDependencies } = about;
write(main, "package.json", {
  ...{ name, version, description, license, type, exports: Object.fromEntries(exported), bin, dependencies },
  optionalDependencies: { ...optionalDependencies, [platform]: version },
});

// ---------------------------------------------------------------- the platform's library
const native = join(out, platform);
rmSync(native, { recursive: true, force: true });
mkdirSync(native, { recursive: true });
cpSync(join(root, "build/libctok.so"), join(native, "libctok.so"));
cpSync(join(root, "LICENSE"), join(native, "LICENSE"));
write(native, "package.json", {
  ...{ name: platform, version, license, description: `The native library of ctok for ${process.platform}-${process.arch}` },
  ...{ os: [process.platform], cpu: [process.arch], libc: ["glibc"], files: ["libctok.so"] },
});

for (const folder of [main, native]) {
  const [packed] = JSON.parse(
    execFileSync("npm", ["pack", "--json", "--pack-destination", out], { cwd: folder, encoding: "utf8" }),
  );
  console.log(`${join(out, packed.filename)}: ${packed.files.length} files, ${(packed.size / 1e6).toFixed(1)} MB`);
}
