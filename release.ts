/**
 * npm run release [-- --dry-run] [--packages FOLDER]: publishes what pack.ts packed, the libraries before ctok, with
 * provenance, and writes the SBOM beside them. First it checks all that can be checked; what is wrong is said, all of
 * it, and nothing is published. --dry-run goes the same way to the end and publishes nothing: what only a release needs
 * (a repository, every platform's library, a clean checkout at its tag) is then told as missing and is no failure. Run
 * by Bun, in CI by .github/workflows/release.yml.
 */
import { execFileSync, spawnSync } from "node:child_process";
import { existsSync, mkdirSync, readdirSync, readFileSync, writeFileSync } from "node:fs";
import { join, resolve } from "node:path";
import process from "node:process";
import { fileURLToPath } from "node:url";
import { parseArgs } from "node:util";
import { libraryPackages } from "./ffi/platform.ts";

const root = fileURLToPath(new URL(".", import.meta.url));
const { values } = parseArgs({
  options: { "dry-run": { type: "boolean", default: false }, packages: { type: "string", default: "build/package" } },
});
const isDry = values["dry-run"], packages = resolve(values.packages);
const about = JSON.parse(readFileSync(join(root, "package.json"), "utf8"));
const wrong: string[] = [], missing: string[] = [];

const git = (...args: string[]) => spawnSync("git", args, { cwd: root, encoding: "utf8" }).stdout?.trim() ?? "";

/** The package.json inside a tarball, and the files beside it. */
function inside(tarball: string): { about: Record<string, unknown>; files: Set<string> } {
  const tar = (...args: string[]) => execFileSync("tar", args, { encoding: "utf8", maxBuffer: 1 << 26 });
  const files = tar("-tzf", tarball).split("\n").filter(Boolean).map((name) => name.replace(/^package\//, ""));
  return { about: JSON.parse(tar("-xzOf", tarball, "package/package.json")), files: new Set(files) };
}

/**
 * A folder with package.json and the lock, without what is for development. Note: npm sbom --omit=dev would also leave
 * out what ctok needs, where a package for development needs it, too.
 */
function withoutDev(): string {
  const folder = join(packages, "sbom"), lock = JSON.parse(readFileSync(join(root, "package-lock.json"), "utf8"));
  mkdirSync(folder, { recursive: true });
  for (const [path, { dev }] of Object.entries<{ dev?: boolean }>(lock.packages)) if (dev) delete lock.packages[path];
  delete lock.packages[""].devDependencies;
  writeFileSync(join(folder, "package.json"), JSON.stringify({ ...about, devDependencies: undefined }));
  writeFileSync(join(folder, "package-lock.json"), JSON.stringify(lock));
  return folder;
}

// ---------------------------------------------------------------- what a release needs
if (!about.repository) {
  missing.push('package.json: expected "repository", of which npm makes provenance and links, found none');
}
if (git("status", "--porcelain") !== "") missing.push("git: expected no changes that are not committed, found some");
if (git("tag", "--points-at", "HEAD").split("\n").every((tag) => tag !== `v${about.version}`)) {
  missing.push(`git: expected the tag v${about.version} on this commit, found none`);
}

// ---------------------------------------------------------------- what was packed
const names = [...libraryPackages.map(({ name }) => name), about.name];
const tarballs: string[] = [];
for (const name of names) {
  const tarball = join(packages, `${name}-${about.version}.tgz`);
  if (!existsSync(tarball)) {
    (name === about.name ? wrong : missing).push(`${tarball}: expected what pack.ts makes, found none`);
    continue;
  }
  const { about: its, files } = inside(tarball);
  const needed = name === about.name ? ["mod.js", "mod.d.ts", "cli/main.js", "build.js", "README.md"] : ["libctok.so"];
  for (const file of [...needed, "LICENSE"]) {
    if (!files.has(file)) wrong.push(`${name}: expected ${file} in it, found none`);
  }
  if (its.name !== name || its.version !== about.version) {
    wrong.push(`${name}: expected version ${about.version}, found ${its.name} ${its.version}`);
  }
  if (its.scripts) wrong.push(`${name}: expected no scripts, found ${Object.keys(its.scripts).join(", ")}`);
  if (its.private) wrong.push(`${name}: expected a package that is not private`);
  tarballs.push(tarball);
}
for (const name of existsSync(packages) ? readdirSync(packages).filter((name) => name.endsWith(".tgz")) : []) {
  if (!tarballs.includes(join(packages, name))) {
    wrong.push(`${join(packages, name)}: expected nothing of another version or name`);
  }
}

if (!isDry) wrong.push(...missing);
for (const text of wrong) console.error(`wrong: ${text}`);
if (isDry) { for (const text of missing) console.log(`missing for a release: ${text}`); }
if (wrong.length > 0) process.exit(1);

// ---------------------------------------------------------------- the list of what ctok is made of, and npm
const sbom = join(packages, `ctok-${about.version}.cdx.json`);
const npm = (args: string[], cwd = root) => execFileSync("npm", args, { cwd, encoding: "utf8", maxBuffer: 1 << 26 });
const parts = JSON.parse(npm(["sbom", "--sbom-format=cyclonedx", "--package-lock-only"], withoutDev()));
parts.metadata.component.name = about.name; // npm takes the folder's
writeFileSync(sbom, JSON.stringify(parts, null, 2) + "\n");
console.log(`${sbom}: ${parts.components.length} components`);
for (const tarball of tarballs) {
  // Note: no --provenance in a dry run, which npm would refuse outside of CI.
  npm(["publish", tarball, "--access=public", "--loglevel=error", ...(isDry ? ["--dry-run"] : ["--provenance"])]);
  console.log(`${tarball}: ${isDry ? "npm would publish it" : "published"}`);
}
