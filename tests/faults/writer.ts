/**
 * One of the writers of writers.test.ts: for each number on stdin it writes the target whole, in pieces that say who
 * wrote them and in which round, and answers with the number when the file has its name.
 */
import process from "node:process";
import { createInterface } from "node:readline";
import { writeFileAtomic } from "../../src/files.ts";

const [, , name, target] = process.argv;
for await (const round of createInterface({ input: process.stdin })) {
  const piece = new TextEncoder().encode(`${name} ${round}\n`.padStart(16).repeat(4096)); // 64 KiB
  await writeFileAtomic(target!, Array.from({ length: 8 }, () => piece)).then(
    () => console.log(`${round} done`),
    (error) => console.log(`${round} ${error.code} ${error.message}`),
  );
}
