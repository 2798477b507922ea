/** The library on Bun: bun:ffi, woken by one thread-safe callback. Imported by load.ts on Bun alone. */
import { dlopen, type FFIFunction, JSCallback, type Pointer } from "bun:ffi";
import type { Functions, Library, Listener } from "./native.ts";
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

export function open(path: string): Library {
  const table = Object.fromEntries(Object.entries(symbols).map(([name, s]) => [name, translate(s)]));
  const native = dlopen(path, table).symbols as unknown as Record<string, (...args: unknown[]) => unknown>;
  // A C string arrives as an object that reads memory; String copies it.
  const functions = {
    ...native,
    ctok_version: () => String(native.ctok_version!()),
    ctok_status_name: (status: number) => String(native.ctok_status_name!(status)),
  } as unknown as Functions;

  function listen(openEngine: (wake: Pointer | null) => number, look: () => void): Listener {
    const wake = new JSCallback(look, { args: [], returns: "void", threadsafe: true });
    const engine = openEngine(wake.ptr);
    let keepAlive: ReturnType<typeof setInterval> | undefined; // the callback alone does not keep the process alive
    return {
      engine,
      setBusy(isBusy) {
        if (isBusy) keepAlive ??= setInterval(() => {}, 0x7fffffff);
        else if (keepAlive) keepAlive = void clearInterval(keepAlive);
      },
      close(closeEngine) {
        closeEngine();
        wake.close(); // only after the native thread has been joined
        this.setBusy(false);
        return Promise.resolve();
      },
    };
  }
  return { functions, listen: listen as Library["listen"] };
}
