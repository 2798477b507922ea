/**
 * A photo to tokens, to a file, and back to a photo. The tokens are a grid of whole numbers, one for 8 x 8 pixels; the
 * file names the model and the photo's size, so decoding needs nothing else. Writes out/01_photo/.
 * Run: bun examples/01_photo.ts [IMAGE], or deno run -A examples/01_photo.ts [IMAGE]
 */
import { mkdir, stat } from "node:fs/promises";
import process from "node:process";
import { detokenize, saveTokens, tokenize, tokenMap, writeImage } from "ctok";

const photo = process.argv[2] ?? "examples/media/astronaut.png", out = "out/01_photo";
await mkdir(out, { recursive: true });

const tokens = await tokenize(photo); // with the embedded model, nano-DI8x8
const { indices, origin } = tokens; // int32 [1, h, w], each 0 .. 63999
const [, rows, columns] = indices.shape;
console.log(`${photo}: ${origin.width}x${origin.height} pixels -> ${columns}x${rows} tokens of ${origin.model}`);
console.log(`the first eight: ${indices.data.subarray(0, 8).join(" ")}`);

await saveTokens(`${out}/photo.safetensors`, tokens);
console.log(`${out}/photo.safetensors: ${(await stat(`${out}/photo.safetensors`)).size} bytes`);

const again = await detokenize(`${out}/photo.safetensors`); // uint8 [1, H, W, 3], with height and width
await writeImage(`${out}/again.png`, again);
await writeImage(`${out}/token_map.png`, tokenMap(indices)); // a colour for each code
console.log(`${out}/again.png: the photo from its tokens; ${out}/token_map.png: the tokens as colours`);
