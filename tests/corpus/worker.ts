/**
 * A process of the tests of corpora: runs a plan and says a line of JSON for each event, each item and each step of a commit. It
 * kills itself with SIGKILL, as a machine would be switched off, at the first step of a name, or after so many lines:
 * FOLDER [STEP|NUMBER].
 */
import { writeSync } from "node:fs";
import process from "node:process";
import { runWith } from "../../src/corpus/dataset.ts";
import type { DatasetEvent } from "../../src/corpus/events.ts";
import type { Parts } from "../../src/corpus/parts.ts";
import { plain } from "./plain.ts";

const [, , folder, end = ""] = process.argv;
let left = Number(end);

function happened(what: Readonly<Record<string, unknown>>): void {
  writeSync(1, JSON.stringify(what) + "\n");
  if (what.step === end || --left === 0) process.kill(process.pid, "SIGKILL");
}

const parts: Parts = {
  ...plain,
  async openPreparer(options, places) {
    const preparer = await plain.openPreparer(options, places);
    return {
      async prepare(item, signal) {
        const prepared = await preparer.prepare(item, signal);
        happened({ prepared: item.key });
        return prepared;
      },
      [Symbol.asyncDispose]: () => preparer[Symbol.asyncDispose](),
    };
  },
};
// Progress comes when a clock says so.
const onEvent = (event: DatasetEvent) => event.event === "progress" ? undefined : happened({ ...event });
await runWith(parts, folder!, { onEvent }, (step, index) => happened({ step, index }));
