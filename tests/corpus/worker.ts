/**
 * A process of chaos.test.ts and others: runs a plan and says a line of JSON for each event and each step of a commit. With a
 * number, it kills itself with SIGKILL at so many steps and events, as a machine would be switched off. FOLDER [AFTER].
 */
import process from "node:process";
import { writeSync } from "node:fs";
import { runWith } from "../../src/corpus/dataset.ts";
import { plain } from "./plain.ts";

const [, , folder, after = "0"] = process.argv;
let left = Number(after);

function happened(what: object): void {
  writeSync(1, JSON.stringify(what) + "\n");
  if (--left === 0) process.kill(process.pid, "SIGKILL");
}

// Each item is an event: progress comes when a clock says so.
const parts: typeof plain = {
  ...plain,
  openPreparer: (options, places) => {
    const preparer = plain.openPreparer(options, places);
    return {
      ...preparer,
      async prepare(item, signal) {
        const prepared = await preparer.prepare(item, signal);
        happened({ prepared: item.key });
        return prepared;
      },
    };
  },
};
const onEvent = (event: { event: string }) => event.event === "progress" || happened(event);
await runWith(parts, folder!, { onEvent }, (step, index) => happened({ step, index }));
