/** Run as a process of its own by async.test.ts: encodes once and prints the peak resident memory, bytes. MODEL SIDE */
import process from "node:process";
import { Tokenizer } from "mod.ts";
import { peakResidentBytes } from "../support.ts";

const [model, side] = [process.argv[2]!, Number(process.argv[3])];
await using tok = await Tokenizer.open(model);
await tok.encode({ dtype: "uint8", shape: [side, side, 3], data: new Uint8Array(side * side * 3).fill(90) });
console.log(peakResidentBytes());
