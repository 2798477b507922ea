/**
 * ctok/plugin: pictures and token files as imports, on Bun.
 *     import tokens from "./photo.png?tokens";                // tokenised with the embedded model
 *     import tokens from "./clip.mp4?tokens=nano-DV4x8x8";    // with another embedded model, here a video's
 *     import tokens from "./photo.tokens.safetensors";        // read; .tokens.msgpack too (.npy names no model)
 * Each gives the Tokens that tokenize or loadTokens give, as the default export; tokens.d.ts beside this file has the
 * types. Switched on by `preload = ["ctok/plugin"]` in bunfig.toml, and again under [test] for bun test. Preloading
 * registers three filters and no more: ctok itself is loaded by the first such import.
 * Limits: for programs that Bun runs. `bun build` takes no modules that are values, and Deno no plugins: use tokenize
 * there, and for models by path (Bun 1.4.5 looks for a specifier with ./ in its query by itself and asks no plugin).
 */
import { dirname, resolve } from "node:path";
import { fileURLToPath } from "node:url";
import { plugin } from "bun";

const query = /^(.*)\?tokens(?:=([\w-]+))?$/s;

plugin({
  name: "ctok",
  setup(build) {
    // The query stays in the path: Bun keeps a module by it, so two models give two modules.
    build.onResolve({ filter: query }, ({ path, importer }) => {
      const [, file, model] = query.exec(path)!;
      const found = resolve(dirname(importer), file!.startsWith("file:") ? fileURLToPath(file!) : file!);
      return { path: `${found}?tokens${model ? `=${model}` : ""}`, namespace: "ctok" };
    });
    build.onLoad({ filter: /.*/, namespace: "ctok" }, async ({ path }) => {
      const [, file, model] = query.exec(path)!;
      const { tokenize } = await import("../mod.ts");
      return { exports: { default: await tokenize(file!, model === undefined ? {} : { model }) }, loader: "object" };
    });
    build.onLoad({ filter: /\.tokens\.(safetensors|msgpack)$/ }, async ({ path }) => {
      const { loadTokens } = await import("../mod.ts");
      return { exports: { default: await loadTokens(path) }, loader: "object" };
    });
  },
});
