/**
 * Every picture of a folder to a token file, with progress. One model stays open for all; a file that is no picture is
 * reported and the others are still done. Writes out/02_folder/.
 * Run: bun examples/02_folder.ts [FOLDER], or deno run -A examples/02_folder.ts [FOLDER]
 */
import { mkdir, readdir } from "node:fs/promises";
import { basename, extname, join } from "node:path";
import process from "node:process";
import { defaultModel, messageOf, saveTokens, Tokenizer } from "ctok";

const folder = process.argv[2] ?? "examples/media", out = "out/02_folder";
const extensions = [".png", ".jpg", ".jpeg", ".webp", ".avif"];
const names = (await readdir(folder)).filter((name) => extensions.includes(extname(name).toLowerCase())).sort();
await mkdir(out, { recursive: true });

await using tokenizer = await Tokenizer.open(defaultModel);
const start = performance.now();
let done = 0, failed = 0, numTokens = 0;
const tell = (text: string) =>
  console.log(`${process.stdout.isTTY ? "\r" : ""}${done + failed} of ${names.length}  ${text}`);
for (const name of names) {
  // onProgress tells the part of this picture that is done, 0 to 1, every 50 ms. A terminal shows it in place.
  const onProgress = (part: number) => {
    const percent = 100 * (done + failed + part) / names.length;
    if (process.stdout.isTTY) process.stdout.write(`\r${percent.toFixed(0).padStart(3)} %  ${name} `);
  };
  try {
    const tokens = await tokenizer.encode(join(folder, name), { onProgress });
    await saveTokens(join(out, `${basename(name, extname(name))}.safetensors`), tokens);
    numTokens += tokens.indices.data.length;
    done++;
    tell(`${name}: [${tokens.indices.shape}]`);
  } catch (error) {
    failed++;
    tell(messageOf(error));
  }
}
const seconds = (performance.now() - start) / 1000;
console.log(
  `${done} done, ${failed} failed: ${numTokens} tokens in ${out}/, ${(numTokens / seconds).toFixed(0)} a second`,
);
