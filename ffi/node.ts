/** The library on Node: koffi, a package with its binaries inside it. Imported by load.ts on Node alone. */
import koffi from "koffi";
import type { Functions } from "./native.ts";
import { type CType, symbols } from "./symbols.ts";

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
  const library = koffi.load(path);
  return Object.fromEntries(
    Object.entries(symbols).map((
      [name, { parameters, result }],
    ) => [name, library.func(name, types[result], parameters.map((p) => types[p]))]),
  ) as unknown as Functions;
}
