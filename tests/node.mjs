/**
 * What Node needs to run the checkout: `node --import ./tests/node.mjs`. tsx takes types away and lowers `using`, and gives "mod.ts"
 * its place by tsconfig.json. What tests use and Node 20 or 22 lacks is added; tests/unit/architecture.test.ts holds that nothing
 * outside tests/ leans on it. Plain JavaScript, as it runs before there is anything else.
 */
import process from "node:process";
import { fileURLToPath } from "node:url";

process.env.TSX_TSCONFIG_PATH = fileURLToPath(new URL("../tsconfig.json", import.meta.url)); // also from elsewhere, and of children
await import("tsx");

Array.fromAsync ??= async (source) => {
  const all = [];
  for await (const item of source) all.push(item);
  return all;
};
Promise.try ??= async (work) => await work();
Promise.withResolvers ??= () => {
  const parts = {};
  parts.promise = new Promise((resolve, reject) => Object.assign(parts, { resolve, reject }));
  return parts;
};
