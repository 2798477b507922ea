/**
 * A batch: equally large pictures as one tensor, one job, one result. Here three photos, cut to 256 x 256 about their
 * centres. A batch gives the tokens that its pictures give one by one. Writes out/06_batch/.
 * Run: bun examples/06_batch.ts, or deno run -A examples/06_batch.ts
 */
import { mkdir } from "node:fs/promises";
import { contactSheet, defaultModel, readImage, saveTokens, Tensor, Tokenizer, writeImage } from "ctok";

const photos = ["astronaut.png", "cat.png", "coffee.jpg"].map((name) => `examples/media/${name}`);
const side = 256, out = "out/06_batch";
await mkdir(out, { recursive: true });

/** The middle of a picture, uint8 [side, side, 3]. */
async function centreOf(path: string): Promise<Tensor<"uint8">> {
  const { data, shape } = await readImage(path);
  const [, height = 0, width = 0] = shape, top = (height - side) >> 1, left = (width - side) >> 1;
  const cut = new Uint8Array(side * side * 3);
  for (let y = 0; y < side; y++) {
    const start = ((top + y) * width + left) * 3;
    cut.set(data.subarray(start, start + side * 3), y * side * 3);
  }
  return new Tensor("uint8", [side, side, 3], cut);
}

const pictures = await Promise.all(photos.map(centreOf));
await using tokenizer = await Tokenizer.open(defaultModel);
const tokens = await tokenizer.encode(pictures); // indices int32 [3, 32, 32], codes float32 [3, 6, 32, 32]
console.log(`${pictures.length} pictures -> indices [${tokens.indices.shape}], codes [${tokens.codes.shape}]`);

for (const [i, picture] of pictures.entries()) {
  const { indices } = await tokenizer.encode(picture), ofBatch = tokens.indices.at(i);
  const equal = indices.data.every((code, k) => code === ofBatch.data[k]);
  console.log(`${photos[i]}: ${equal ? "the same tokens alone" : "other tokens alone"}`);
}

const again = await tokenizer.decode(tokens, { dtype: "uint8" }); // uint8 [3, 256, 256, 3]
await saveTokens(`${out}/batch.safetensors`, tokens);
await writeImage(`${out}/batch.png`, contactSheet([pictures, pictures.map((_, i) => again.at(i))]));
console.log(`${out}/batch.png: the pictures, and below each its reconstruction; ${out}/batch.safetensors: all tokens`);
