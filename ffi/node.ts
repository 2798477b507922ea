/**
 * The library on Node: koffi's binary for this machine, which is a package of its own. koffi itself would add the
 * sources and a script that builds them. Imported by load.ts on Node alone.
 */
import { createRequire } from "node:module";
import type { Functions } from "./native.ts";
import { type CType, symbols } from "./symbols.ts";

const { process } = globalThis;

/** A typed array goes to `void *` as its own memory, in both directions. */
const types = {
  u32: "uint32_t",
  i32: "int32_t",
  u64: "uint64_t",
  buffer: "void *",
  callback: "void *",
  string: "const char *",
} as const satisfies Record<CType, string>;

export function open(path: string): Functions {
  const koffi: typeof import("koffi") = createRequire(import.meta.url)(
    `@koromix/koffi-${process.platform}-${process.arch}`,
  );
  const library = koffi.load(path);
  const functions = Object.entries(symbols).map(([name, { parameters, result }]) => [
    name,
    library.func(name, types[result], parameters.map((p) => types[p])),
  ]);
  return Object.fromEntries(functions);
}
