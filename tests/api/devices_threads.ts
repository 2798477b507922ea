/**
 * Run as a process of its own by devices.test.ts, on Linux: lists the devices beside an open model and prints the
 * native threads of the model and, once they are as many, those that there are.
 */
import { readdirSync, readFileSync } from "node:fs";
import { setTimeout as sleep } from "node:timers/promises";
import { devices, Tokenizer } from "mod.ts";

function threads(): string[] {
  const nameOf = (id: string) => {
    try {
      return readFileSync(`/proc/self/task/${id}/comm`, "utf8").trim();
    } catch {
      return ""; // it has just ended
    }
  };
  return readdirSync("/proc/self/task").map(nameOf).filter((name) => name.startsWith("ctok-")).sort();
}

await using tok = await Tokenizer.open("nano-DI8x8");
for (let i = 0; i < 3; i++) await devices();
const ofModel = ["ctok-engine", ...new Array<string>((tok.info.threads ?? 1) - 1).fill("ctok-pool")];
// A thread has its name a moment after it was started, and is listed for a moment after it was joined.
while (threads().length !== ofModel.length) await sleep(1);
console.log(JSON.stringify([ofModel, threads()]));
