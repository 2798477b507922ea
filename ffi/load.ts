/**
 * Finds libctok.so and opens it with the adapter of the runtime that runs. Nothing is opened before the first engine is
 * asked for, so imports and --help work without the library. A failure lists every path tried and the command that mends it.
 */
import { existsSync } from "node:fs";
import { createRequire } from "node:module";
import process from "node:process";
import { fileURLToPath } from "node:url";
import { ABI_VERSION } from "./layout.ts";
import { Engine, type EngineSettings, type Functions } from "./native.ts";

export class LibraryMissing extends Error {}

function candidates(): string[] {
  const found: string[] = [];
  if (process.env.CTOK_LIBRARY) return [process.env.CTOK_LIBRARY];
  try {
    found.push(createRequire(import.meta.url).resolve(`ctok-${process.platform}-${process.arch}-gnu/libctok.so`));
  } catch {
    // the platform package is optional
  }
  found.push(fileURLToPath(new URL("../build/libctok.so", import.meta.url)));
  return found;
}

async function openLibrary(): Promise<Functions> {
  const tried = candidates();
  const path = tried.find((p) => existsSync(p));
  if (!path) {
    throw new LibraryMissing(
      `native library: expected libctok.so at ${
        tried.join(" or ")
      }, found none; build it with node_modules/.bin/bun build.ts, or set CTOK_LIBRARY`,
    );
  }
  const { bun, deno } = process.versions;
  try {
    const adapter = await (bun ? import("./bun.ts") : deno ? import("./deno.ts") : import("./node.ts"));
    return adapter.open(path);
  } catch (error) {
    throw new LibraryMissing(`native library ${path}: ${error instanceof Error ? error.message : error}`, { cause: error });
  }
}

let library: Promise<Functions> | undefined;
/** In the realm's hands, not this module's: `bun --hot` evaluates modules again at each change, and what is open serves on. */
const realm = globalThis as { [engines: symbol]: Map<string, Promise<Engine>> | undefined };
const engines: Map<string, Promise<Engine>> = realm[Symbol.for(`ctok.engines.${ABI_VERSION}`)] ??= new Map();

/**
 * The engine of these kernels and this device (0: the best), opened at first use and kept for the life of the realm: the process,
 * or a Worker.
 */
export function engineFor(options: EngineSettings = {}): Promise<Engine> {
  const key = [options.kernels, options.device, options.deviceIndex].map((o) => o ?? 0).join("/");
  let engine = engines.get(key);
  if (!engine) {
    engine = newEngine(options);
    // `deno run --watch` starts the next realm on the same thread, which does not end.
    engine.then((e) => (globalThis as Partial<typeof globalThis>).addEventListener?.("unload", () => e.close()), () => {});
    engines.set(key, engine);
    engine.catch(() => {
      engines.delete(key);
      library = undefined;
    });
  }
  return engine;
}

/** An engine of its own, which the caller closes. */
export async function newEngine(options: EngineSettings = {}): Promise<Engine> {
  library ??= openLibrary();
  return new Engine(await library, options);
}
