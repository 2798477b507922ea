/**
 * A process of the tests of corpora: runs a plan and says a line of JSON for each event, each item and each step of a
 * commit. It kills itself with SIGKILL, as a machine would be switched off, at the first step of a name, or after so
 * many lines, or stops itself as one that hangs; its clock may be another than the machine's: FOLDER [STEP|NUMBER
 * [HowWorker as JSON]].
 */
import { writeSync } from "node:fs";
import process from "node:process";
import { runWith } from "../../src/corpus/dataset.ts";
import type { DatasetEvent } from "../../src/corpus/events.ts";
import type { Parts } from "../../src/corpus/parts.ts";
import { plain } from "./plain.ts";
import type { HowWorker } from "./support.ts";

const [, , folder, end = "", how = "{}"] = process.argv;
const { run, clockMs = 0, signal = "SIGKILL" }: HowWorker = JSON.parse(how);
let left = Number(end), isEnded = false;
const now = Date.now;
Date.now = () => now() + clockMs;

function happened(what: Readonly<Record<string, unknown>>): void {
  writeSync(1, JSON.stringify(what) + "\n");
  if (isEnded || !(what.step === end || --left === 0)) return;
  isEnded = true;
  process.kill(process.pid, signal);
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
await runWith(parts, folder!, { ...run, onEvent }, (step, index) => happened({ step, index }));
