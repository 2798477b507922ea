/**
 * Run as a process of its own by tokens.test.ts: reads a token file and prints what its peak resident memory grew by,
 * bytes, and what was read. FILE, then "load" or "decode".
 */
import { readFileSync } from "node:fs";
import process from "node:process";
import { decodeTokens, loadTokens } from "mod.ts";
import { peakResidentBytes } from "../support.ts";

const [path = "", how] = process.argv.slice(2);
const bytes = how === "decode" ? new Uint8Array(readFileSync(path)) : undefined;
const before = peakResidentBytes();
const tokens = bytes ? decodeTokens(bytes, path) : await loadTokens(path);
console.log(peakResidentBytes() - before, tokens.main.data.length, tokens.main.data.at(-1));
