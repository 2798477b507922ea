/**
 * end_workers.ts HOW ROUNDS: ends ROUNDS Workers, one after another, at random moments of their work. HOW: terminate (from
 * here), close, exit or throw (in the Worker). Prints as JSON what they left beside what as many before them had left already:
 * threads, threads of ctok, resident bytes. Run as a process of its own, whose survival is the point.
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

const bytes = await end(rounds, Infinity), before = threads().length;
const grown = await end(rounds, before + 1) - bytes;
console.log(JSON.stringify({ threads: threads().length - before, ownThreads: ownThreads(), grown }));
process.exit(0);
