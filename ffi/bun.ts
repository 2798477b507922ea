/** The library on Bun: bun:ffi. Imported by load.ts on Bun alone. */
import { dlopen, type FFIFunction } from "bun:ffi";
import type { Functions } from "./native.ts";
import { type CType, type Signature, symbols } from "./symbols.ts";

const types = {
  u32: "u32",
  i32: "i32",
  u64: "u64",
  buffer: "ptr",
  callback: "ptr",
  string: "cstring",
} as const satisfies Record<CType, string>;

function translate(signature: Signature): FFIFunction {
  return { args: signature.parameters.map((p) => types[p]), returns: types[signature.result] };
}

export function open(path: string): Functions {
  const table = Object.fromEntries(Object.entries(symbols).map(([name, s]) => [name, translate(s)]));
  const native = dlopen(path, table).symbols as unknown as Record<string, (...args: unknown[]) => unknown>;
  // A C string arrives as an object that reads memory; String copies it.
  return {
    ...native,
    ctok_version: () => String(native.ctok_version!()),
    ctok_status_name: (status: number) => String(native.ctok_status_name!(status)),
  } as unknown as Functions;
}
