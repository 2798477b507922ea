/**
 * A process of the tests of queues: runs a plan by a queue and says a line of JSON for each event, each item and its
 * end. Its one argument is JSON: `itemMs` that each item takes longer, `deadly` the key of an item that ends the
 * process by SIGKILL, `held` that of one that waits until a file is there.
 */
import { existsSync, writeSync } from "node:fs";
import process from "node:process";
import { setTimeout } from "node:timers/promises";
import { TokenizerError } from "mod.ts";
import { runWith } from "../../src/corpus/dataset.ts";
import type { Parts } from "../../src/corpus/parts.ts";
import { plain } from "../corpus/plain.ts";

export interface WorkerOptions {
  readonly out: string;
  readonly queue: string;
  readonly itemMs?: number;
  readonly deadly?: string;
  readonly held?: { readonly key: string; readonly until: string };
}

const { out, queue, itemMs = 0, deadly, held }: WorkerOptions = JSON.parse(process.argv[2]!);
const say = (what: object) => void writeSync(1, JSON.stringify(what) + "\n");
const parts: Parts = {
  ...plain,
  async openPreparer(options, places) {
    const preparer = await plain.openPreparer(options, places);
    return {
      async prepare(item, signal) {
        if (item.key === deadly) process.kill(process.pid, "SIGKILL");
        const prepared = await preparer.prepare(item, signal);
        say({ prepared: item.key });
        await setTimeout(itemMs);
        while (item.key === held?.key && !existsSync(held.until)) await setTimeout(20);
        return prepared;
      },
      [Symbol.asyncDispose]: () => preparer[Symbol.asyncDispose](),
    };
  },
};
try {
  const { isComplete, parked } = await runWith(parts, out, {
    queue,
    readers: 1,
    threads: 1,
    onEvent: (event) => say(event),
  });
  say({ event: "end", isComplete, parked });
} catch (error) {
  if (!(error instanceof TokenizerError)) throw error;
  say({ event: "failed", code: error.code, message: error.message });
}
