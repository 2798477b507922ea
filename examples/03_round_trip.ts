/**
 * How much of a photo the tokens keep: PSNR and SSIM of the round trip, what a pixel costs, and how many codes are in
 * use. Metrics are those of src/looking/metrics.ts, which follow scikit-image. Writes out/03_round_trip/.
 * Run: bun examples/03_round_trip.ts [IMAGE..], or deno run -A examples/03_round_trip.ts [IMAGE..]
 */
import { mkdir } from "node:fs/promises";
import { basename, extname } from "node:path";
import process from "node:process";
import { codebookUse, defaultModel, psnr, readImage, sideBySide, ssim, Tokenizer, writeImage } from "ctok";

const samples = ["astronaut.png", "cat.png", "coffee.jpg"].map((name) => `examples/media/${name}`);
const photos = process.argv.length > 2 ? process.argv.slice(2) : samples, out = "out/03_round_trip";
await mkdir(out, { recursive: true });

await using tokenizer = await Tokenizer.open(defaultModel);
const { name, codebookSize } = tokenizer.info;
console.log(`${name}: ${codebookSize} codes, ${Math.log2(codebookSize).toFixed(2)} bits a token\n`);
console.log("photo            pixels      tokens    bits/pixel  codes  entropy    PSNR    SSIM");
for (const photo of photos) {
  const original = await readImage(photo); // uint8 [1, H, W, 3]
  const tokens = await tokenizer.encode(original);
  const again = await tokenizer.decode(tokens, { dtype: "uint8" }); // as large as the original: the padding is cut off
  const { indices } = tokens;
  const [, height = 0, width = 0] = original.shape, [, rows, columns] = indices.shape;
  const bits = indices.data.length * Math.log2(codebookSize) / (height * width);
  const { distinct, entropyBits } = codebookUse(indices, codebookSize);
  console.log(
    basename(photo).padEnd(16),
    `${width}x${height}`.padEnd(11),
    `${columns}x${rows}`.padEnd(9),
    bits.toFixed(3).padEnd(11),
    String(distinct).padEnd(6),
    entropyBits.toFixed(2).padEnd(8),
    psnr(original, again).toFixed(2),
    ssim(original, again).toFixed(4).padStart(8),
  );
  await writeImage(`${out}/${basename(photo, extname(photo))}.png`, sideBySide(original, again));
}
console.log(`\n${out}/: each original beside its reconstruction`);
