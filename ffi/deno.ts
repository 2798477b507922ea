/** The library on Deno: Deno.dlopen, woken by one non-blocking wait while jobs are pending. Imported by load.ts on Deno alone. */
import type { Functions, Library, Listener } from "./native.ts";
import { type CType, type Signature, symbols } from "./symbols.ts";

const types = {
  u32: "u32",
  i32: "i32",
  u64: "u64",
  buffer: "buffer",
  callback: "pointer",
  string: "pointer",
} as const satisfies Record<CType, string>;
const maxWaitUs = 1_000_000;

function translate(signature: Signature, nonblocking = false): Deno.ForeignFunction {
  return { parameters: signature.parameters.map((p) => types[p]), result: types[signature.result], nonblocking };
}

export function open(path: string): Library {
  const blocking = Object.fromEntries(Object.entries(symbols).map(([name, s]) => [name, translate(s)]));
  const native = Deno.dlopen(path, blocking).symbols as unknown as Record<string, (...args: unknown[]) => never>;
  const wait = Deno.dlopen(path, { ctok_engine_wait: translate(symbols.ctok_engine_wait, true) }).symbols
    .ctok_engine_wait as unknown as (...args: unknown[]) => Promise<number>;
  const text = (pointer: Deno.PointerObject | null) => pointer ? Deno.UnsafePointerView.getCString(pointer) : "";
  const functions = {
    ...native,
    ctok_version: () => text(native.ctok_version!()),
    ctok_status_name: (status: number) => text(native.ctok_status_name!(status)),
  } as unknown as Functions;

  function listen(openEngine: (wake: null) => number, look: () => void): Listener {
    const engine = openEngine(null);
    const none = new Uint8Array(4), count = new Uint8Array(4);
    let isBusy = false, waiting: Promise<void> | undefined;
    async function pump(): Promise<void> {
      while (isBusy) {
        await wait(engine, none, 0, count, maxWaitUs, null); // capacity 0: waits, takes nothing
        if (isBusy) look();
      }
      waiting = undefined;
    }
    return {
      engine,
      setBusy(wanted) {
        isBusy = wanted;
        if (isBusy) waiting ??= pump();
      },
      async close(closeEngine) {
        isBusy = false;
        closeEngine(); // wakes the wait
        await waiting;
      },
    };
  }
  return { functions, listen: listen as Library["listen"] };
}
