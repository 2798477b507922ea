/**
 * end_workers.ts HOW ROUNDS: ends ROUNDS Workers, one after another, at random moments of their work, and again, three
 * to seven times. HOW: terminate (from here), close, exit or throw (in the Worker). Prints as JSON what the last of
 * these times left beside what was there before: threads, threads of ctok, resident bytes. Run as a process of its own,
 * whose survival is the point.
 */
import { readdirSync, readFileSync } from "node:fs";
import process from "node:process";
import { setTimeout } from "node:timers/promises";
import { collectGarbage, residentBytes } from "../support.ts";

const [how, rounds] = [process.argv[2]!, Number(process.argv[3])];

async function endOne(): Promise<void> {
  const worker = new Worker(new URL("./worker.ts", import.meta.url), { type: "module" });
  worker.onerror = (event) => event.preventDefault(); // what "throw" throws is not this process's
  const isAtWork = new Promise((resolve) => worker.onmessage = resolve);
  worker.postMessage(how);
  await isAtWork;
  await setTimeout(Math.random() * 30);
  if (how === "terminate") worker.terminate();
  else worker.postMessage("end");
}

/** Names of the threads of this process. */
function threads(): string[] {
  return readdirSync("/proc/self/task").map((id) => {
    try {
      return readFileSync(`/proc/self/task/${id}/comm`, "utf8");
    } catch {
      return "ended meanwhile";
    }
  });
}

const ownThreads = () => threads().filter((name) => name.startsWith("ctok")).length;

/** Ends so many, and waits until they are gone, at most a minute: they go on their own time. */
async function end(count: number, mostThreads: number): Promise<number> {
  for (let n = 0; n < count; n++) await endOne();
  const until = performance.now() + 60_000;
  while (performance.now() < until && (ownThreads() > 0 || threads().length > mostThreads)) await setTimeout(10);
  collectGarbage();
  return residentBytes();
}

await end(rounds, Infinity);
const before = threads().length, resident: number[] = [];
do {
  resident.push(await end(rounds, before + 1)); // a runtime's own heap grows at first and is flat then; a leak goes on
} while (resident.length < 2 || (resident.length < 6 && resident.at(-1)! - resident.at(-2)! >= 5e6));
const grown = resident.at(-1)! - resident.at(-2)!;
console.log(JSON.stringify({ threads: threads().length - before, ownThreads: ownThreads(), grown }));
process.exit(0);
