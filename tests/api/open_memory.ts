/**
 * Run as a process of its own by async.test.ts: opens a model and prints what that added to the peak of resident
 * memory, and its weights, bytes. MODEL
 */
import process from "node:process";
import { Tokenizer } from "mod.ts";
import { peakResidentBytes } from "../support.ts";

await (await Tokenizer.open("nano-DI8x8")).close(); // loads the library and its callers
const before = peakResidentBytes();
await using tok = await Tokenizer.open(process.argv[2]!);
console.log(`${peakResidentBytes() - before} ${tok.info.weightBytes}`);
