/**
 * Stopping work: an AbortSignal ends the job that runs, between two steps of the network, and those queued behind it;
 * the tokenizer stays open and takes new work at once. The error has the code CANCELLED, the name AbortError (as the
 * web platform's) and the signal's reason as its cause.
 * Run: bun examples/05_cancel.ts, or deno run -A examples/05_cancel.ts
 */
import { defaultModel, readImage, sideBySide, Tokenizer, type TokenizerError } from "ctok";

await using tokenizer = await Tokenizer.open(defaultModel);
const photo = await readImage("examples/media/astronaut.png");
const large = sideBySide(photo, photo, 0); // 512 x 1024 pixels

const controller = new AbortController(), { signal } = controller;
const jobs = Array.from({ length: 12 }, () => tokenizer.encode(large, { signal }));
await jobs[1]; // two are done, one runs, nine wait
const stopped = performance.now();
controller.abort(new Error("two are enough"));
const ends = await Promise.allSettled(jobs);
const ms = performance.now() - stopped;

const failures = ends.flatMap((end) => end.status === "rejected" ? [end.reason as TokenizerError] : []);
const texts = new Set(failures.map((e) => `${e.name} ${e.code}: ${e.message} (${(e.cause as Error).message})`));
console.log(
  `${jobs.length - failures.length} done, ${failures.length} stopped within ${ms.toFixed(1)} ms of the signal`,
);
console.log([...texts].join("\n"));

// A limit in time is a signal too.
const limited = tokenizer.encode(Array(32).fill(large), { signal: AbortSignal.timeout(1) });
console.log(await limited.catch((error) => `a limit of 1 ms: ${error.code} (${error.cause.name})`));

const { indices } = await tokenizer.encode(photo);
console.log(`the tokenizer goes on: [${indices.shape}] tokens of the next photo`);
