/**
 * Finds libctok.so and opens it with the adapter of the runtime that runs. Nothing is opened before the first engine is
 * asked for, so imports and --help work without the library. A failure lists every path tried and the command that mends it.
 */
import { existsSync } from "node:fs";
import { createRequire } from "node:module";
import process from "node:process";
import { fileURLToPath } from "node:url";
import { Engine, type EngineSettings, type Library } from "./native.ts";

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

async function openLibrary(): Promise<Library> {
  const tried = candidates();
  const path = tried.find((p) => existsSync(p));
  if (!path) {
    throw new LibraryMissing(
      `native library: expected libctok.so at ${
        tried.join(" or ")
      }, found none; build it with node_modules/.bin/bun build.ts, or set CTOK_LIBRARY`,
    );
  }
  const runtime = process.versions.bun ? "bun" : process.versions.deno ? "deno" : "";
  if (!runtime) {
    throw new LibraryMissing(`native library: expected to run on Bun or Deno, found Node.js ${process.versions.node}`);
  }
  try {
    const adapter = runtime === "bun" ? await import("./bun.ts") : await import("./deno.ts");
    return adapter.open(path);
  } catch (error) {
    throw new LibraryMissing(`native library ${path}: ${error instanceof Error ? error.message : error}`, { cause: error });
  }
}

let library: Promise<Library> | undefined;
const engines = new Map<string, Promise<Engine>>();

/** The engine of these kernels and this device (0: the best), opened at first use and kept for the life of the process. */
export function engineFor(options: EngineSettings = {}): Promise<Engine> {
  const key = [options.kernels, options.device, options.deviceIndex].map((o) => o ?? 0).join("/");
  let engine = engines.get(key);
  if (!engine) {
    library ??= openLibrary();
    engine = library.then((l) => new Engine(l, options));
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
