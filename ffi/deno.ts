/** The library on Deno: Deno.dlopen. Imported by load.ts on Deno alone. */
import type { Functions } from "./native.ts";
import { type CType, type Signature, symbols } from "./symbols.ts";

const types = {
  u32: "u32",
  i32: "i32",
  u64: "u64",
  buffer: "buffer",
  callback: "pointer",
  string: "pointer",
} as const satisfies Record<CType, string>;

function translate(signature: Signature): Deno.ForeignFunction {
  return { parameters: signature.parameters.map((p) => types[p]), result: types[signature.result] };
}

export function open(path: string): Functions {
  const table = Object.fromEntries(Object.entries(symbols).map(([name, s]) => [name, translate(s)]));
  const native = Deno.dlopen(path, table).symbols as unknown as Record<string, (...args: unknown[]) => never>;
  const text = (pointer: Deno.PointerObject | null) => pointer ? Deno.UnsafePointerView.getCString(pointer) : "";
  return {
    ...native,
    ctok_version: () => text(native.ctok_version!()),
    ctok_status_name: (status: number) => text(native.ctok_status_name!(status)),
  } as unknown as Functions;
}
