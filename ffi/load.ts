/**
 * Finds libctok.so and opens it with the adapter of the runtime that runs. Nothing is opened before the first engine is
 * asked for, so imports and --help work without the library. A failure lists what was tried and the command that fixes
 * it. Also says where a file of the package is, for a bundle and a compiled program too: docs/bundling.md has what goes
 * beside them.
 */
import { existsSync } from "node:fs";
import { createRequire } from "node:module";
import { basename, dirname, join } from "node:path";
import { fileURLToPath } from "node:url";
import { ABI_VERSION } from "./layout.ts";
import { Engine, type EngineSettings, type Functions } from "./native.ts";
import { type Host, missingMessage, packagesFor, refusedMessage } from "./platform.ts";

const { process } = globalThis;

export class LibraryMissing extends Error {}

const here = fileURLToPath(import.meta.url);
const runtime = process.versions.bun ? "bun" : process.versions.deno ? "deno" : "node";

/** Of `bun build --compile`: a program that is its own execPath, and whose modules lie in no folder. */
const isCompiled = !/^(bun|deno|node|nodejs)(-\w+)?(\.exe)?$/.test(basename(process.execPath));

/** As Node resolves it from this module; undefined where it is not installed. */
function installed(name: string): string | undefined {
  try {
    return createRequire(import.meta.url).resolve(name);
  } catch {
    return undefined;
  }
}

/**
 * A file of the package by its path in it: where the package lies, in the installed package that a bundle was made
 * from, or beside a compiled program. The first of these places where there is none, for the message.
 */
export function packageFile(path: string): string {
  const own = join(dirname(here), "..", path);
  if (existsSync(own)) return own;
  const about = installed("ctok/package.json");
  const others = [...(about ? [join(dirname(about), path)] : []), join(dirname(process.execPath), path)];
  return others.find((other) => existsSync(other)) ?? own;
}

/** Where the library may be, and how a message calls what is not there. */
function candidates(): { path: string | undefined; told: string }[] {
  const given = process.env.CTOK_LIBRARY;
  if (given) return [{ path: given, told: `${given} (CTOK_LIBRARY)` }];
  const packages = packagesFor(process).map(({ name }) => ({ path: installed(`${name}/libctok.so`), told: name }));
  const built = packageFile("build/libctok.so"), beside = join(dirname(process.execPath), "libctok.so");
  const files = isCompiled ? [built, beside] : [built];
  return [...packages, ...files.map((path) => ({ path, told: path }))];
}

/** Of ctok as it lies here: the checkout's TypeScript or the package's JavaScript. */
function buildCommand(): string {
  if (isCompiled) {
    return "in the package: bun node_modules/ctok/build.js library, then build/libctok.so goes beside the program";
  }
  if (here.endsWith(".ts")) return "node_modules/.bin/bun build.ts library";
  const run = { bun: "bun", deno: "deno run -A", node: "node" }[runtime];
  return `${run} ${packageFile("build.js")} library`;
}

/** Asked when something failed alone: it reads files, and on Deno that may need a permission. */
async function hostHere(): Promise<Host> {
  const { platform, arch } = process;
  try {
    const { family, version } = await import("detect-libc");
    return { platform, arch, runtime, libc: await family() ?? undefined, libcVersion: await version() ?? undefined };
  } catch {
    return { platform, arch, runtime };
  }
}

async function openLibrary(): Promise<Functions> {
  const tried = candidates();
  const path = tried.find(({ path }) => path !== undefined && existsSync(path))?.path;
  if (path === undefined) {
    throw new LibraryMissing(missingMessage(await hostHere(), tried.map(({ told }) => told), buildCommand()));
  }
  try {
    const adapters = {
      bun: () => import("./bun.ts"),
      deno: () => import("./deno.ts"),
      node: () => import("./node.ts"),
    };
    return (await adapters[runtime]()).open(path);
  } catch (cause) {
    const reason = cause instanceof Error ? cause.message : String(cause);
    throw new LibraryMissing(refusedMessage(await hostHere(), path, reason, buildCommand()), { cause });
  }
}

let library: Promise<Functions> | undefined;
/**
 * In the realm's hands, not this module's: `bun --hot` evaluates modules again at each change, and what is open serves
 * on.
 */
const realm = globalThis as { [engines: symbol]: Map<string, Promise<Engine>> | undefined };
const engines: Map<string, Promise<Engine>> = realm[Symbol.for(`ctok.engines.${ABI_VERSION}`)] ??= new Map();

/**
 * The engine of these kernels and this device (0: the best), opened at first use and kept for the life of the realm:
 * the process, or a Worker.
 */
export function engineFor(options: EngineSettings = {}): Promise<Engine> {
  const key = [options.kernels, options.device, options.deviceIndex, options.keepsSteps].map((o) => Number(o ?? 0))
    .join(
      "/",
    );
  let engine = engines.get(key);
  if (!engine) {
    engine = newEngine(options);
    // `deno run --watch` starts the next realm on the same thread, which does not end.
    engine.then(
      (e) => (globalThis as Partial<typeof globalThis>).addEventListener?.("unload", () => e.close()),
      () => {},
    );
    engines.set(key, engine);
    engine.catch(() => engines.delete(key));
  }
  return engine;
}

/** An engine of its own, which the caller closes. */
export async function newEngine(options: EngineSettings = {}): Promise<Engine> {
  library ??= openLibrary();
  try {
    const engine = new Engine(await library, options);
    await engine.ready();
    return engine;
  } catch (failure) {
    library = undefined; // whoever asks next looks for it again
    throw failure;
  }
}
