/**
 * What Node needs to run the checkout: `node --import ./tests/node.mjs`. tsx takes types away and lowers `using`, and
 * gives "mod.ts" its place by tsconfig.json. What tests use and Node 20 or 22 lacks is added, and Worker as pages have
 * it; tests/unit/architecture.test.ts holds that nothing outside tests/ leans on it. Plain JavaScript, as it runs
 * before there is anything else.
 */
import { fileURLToPath } from "node:url";
import { parentPort, Worker as Thread, workerData } from "node:worker_threads";

const { process } = globalThis; // see architecture.test.ts: imported, it would open standard input

// Also when started from elsewhere, and for children.
process.env.TSX_TSCONFIG_PATH = fileURLToPath(new URL("../tsconfig.json", import.meta.url));
const isWorker = parentPort !== null && typeof workerData?.program === "string"; // and no thread of tsx
if (isWorker) (await import("tsx/esm/api")).register();
else await import("tsx");

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

globalThis.Worker ??= class {
  #thread;
  constructor(url) {
    // Through this file, as Node 20 runs no --import in a thread.
    this.#thread = new Thread(new URL(import.meta.url), { workerData: { program: String(url) }, execArgv: [] });
    this.#thread.on("message", (data) => this.onmessage?.({ data }));
    this.#thread.on("error", (error) => this.onerror?.({ error, message: error.message, preventDefault() {} }));
  }
  postMessage(message, transfer) {
    this.#thread.postMessage(message, transfer);
  }
  terminate() {
    void this.#thread.terminate();
  }
};
if (isWorker) {
  const listen = (handler) => parentPort.removeAllListeners("message").on("message", (data) => handler({ data }));
  Object.defineProperty(globalThis, "onmessage", { set: listen, configurable: true });
  globalThis.postMessage = (message, transfer) => parentPort.postMessage(message, transfer);
  globalThis.close = () => process.exit(0);
  await import(workerData.program);
}
