/** A Worker that keeps four jobs of a model in work, and ends as it is told. See end_workers.ts. */
import process from "node:process";
import { Tokenizer } from "mod.ts";

interface Scope {
  onmessage(event: { data: string }): void;
  postMessage(message: string): void;
  close(): void;
}
const scope = globalThis as unknown as Scope;

const pixels = { dtype: "uint8", shape: [256, 256, 3], data: new Uint8Array(256 * 256 * 3) } as const;

scope.onmessage = async ({ data: how }) => {
  if (how !== "import") {
    const tok = await Tokenizer.open("nano-DI8x8", { threads: 2 });
    const keepBusy = async () => {
      for (;;) await tok.encode(pixels);
    };
    for (let n = 0; n < 4; n++) void keepBusy();
  }
  scope.onmessage = () => {
    if (how === "close") scope.close();
    if (how === "exit") process.exit(0);
    if (how === "throw") {
      setTimeout(() => {
        throw new Error("on purpose");
      });
    }
  };
  scope.postMessage("at work");
};
