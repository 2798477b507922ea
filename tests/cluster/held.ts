/**
 * A worker of an array that stops itself in the midst of its second shard, as one that hangs, until it is killed:
 * FOLDER INDEX OF. Run by slurm.test.ts in the place of ctok. What ends it may let it go on first, as scancel does:
 * it waits for ever then.
 */
import process from "node:process";
import { runWith } from "../../src/corpus/dataset.ts";
import { standard } from "../../src/corpus/standard.ts";

const [, , folder, index, of] = process.argv;
await runWith(standard, folder!, { shard: { index: Number(index), of: Number(of) } }, (step, shard) => {
  if (step !== "entered" || shard < Number(of)) return;
  process.kill(process.pid, "SIGSTOP");
  Atomics.wait(new Int32Array(new SharedArrayBuffer(4)), 0, 0);
});
