/**
 * A photo to tokens and back with the embedded model; what it costs and how good it is. Leaves pictures and the token file in
 * out/demo/. Run: npm run demo, or with a photo of yours: bun examples/demo.ts IMAGE (deno run -A examples/demo.ts IMAGE).
 */
import { mkdir, stat } from "node:fs/promises";
import { dirname, join, relative } from "node:path";
import process from "node:process";
import {
  codebookUse,
  defaultModel,
  detokenize,
  latentTiles,
  psnr,
  readImage,
  saveTokens,
  sideBySide,
  ssim,
  Tensor,
  Tokenizer,
  tokenMap,
  writeImage,
} from "mod.ts";

const root = dirname(import.meta.dirname!), runs = 5;
const photo = process.argv[2] ?? join(root, "examples/media/astronaut.png");
const folder = join(root, "out/demo");
const show = (name: string, value: string | number) => console.log(`${name.padEnd(16)} ${value}`);

/** Median of several runs, in milliseconds, and what the last run gave. The caller has warmed up. */
async function timed<T>(work: () => Promise<T>): Promise<{ result: T; ms: number }> {
  const times: number[] = [];
  let result: T;
  for (let i = 0; i < runs; i++) {
    const start = performance.now();
    result = await work();
    times.push(performance.now() - start);
  }
  return { result: result!, ms: times.sort((a, b) => a - b)[runs >> 1]! };
}

await using tokenizer = await Tokenizer.open(defaultModel);
const { info } = tokenizer;
const original = await readImage(photo);
const [, height = 0, width = 0] = original.shape, pixels = height * width;

// -------------------------------------------------------------- photo -> tokens -> photo
const { indices, preQuant } = await tokenizer.encode(original, { preQuant: true }); // the warm-up, and the vector that the codes quantise
await tokenizer.decode(indices);
const encoded = await timed(() => tokenizer.encode(original));
const decoded = await timed(() => tokenizer.decode(encoded.result, { dtype: "uint8" }));
const again = decoded.result;

// -------------------------------------------------------------- what it is
const [, rows = 0, columns = 0] = indices.shape, tokens = rows * columns;
show("model", `${info.name}, ${info.parameters.toLocaleString("en")} parameters`);
show("codebook", `${info.codebookSize} codes, FSQ levels ${info.levels.join(", ")}`);
show("photo", `${relative(root, photo)}, ${height} x ${width} pixels`);
show(
  "token grid",
  `${rows} x ${columns} = ${tokens} tokens of ${info.spatialFactor} x ${info.spatialFactor} pixels; its head:`,
);
for (let y = 0; y < Math.min(rows, 4); y++) {
  const row = indices.data.subarray(y * columns, y * columns + 8);
  console.log(" ".repeat(16) + Array.from(row, (index) => String(index).padStart(7)).join("") + "  ..");
}

// -------------------------------------------------------------- what it costs, how good it is
const fileBits = 8 * (await stat(photo)).size, tokenBits = Math.log2(info.codebookSize);
const use = codebookUse(indices, info.codebookSize);
const perPixel = tokens * tokenBits / pixels;
show("bits a token", `${tokenBits.toFixed(2)}, stored in 16`);
show(
  "bits a pixel",
  `${perPixel.toFixed(3)}; the photo's file ${(fileBits / pixels).toFixed(2)}, ${
    (fileBits / pixels / perPixel).toFixed(0)
  } times as many`,
);
show("codes in use", `${use.distinct} distinct, entropy ${use.entropyBits.toFixed(2)} bits a token`);
show("quality", `PSNR ${psnr(original, again).toFixed(2)} dB, SSIM ${ssim(original, again).toFixed(4)}`);
show("encode", `${encoded.ms.toFixed(0)} ms`);
show("decode", `${decoded.ms.toFixed(0)} ms`);
const runtime = process.versions.bun ? `Bun ${process.versions.bun}` : `Deno ${process.versions.deno}`;
console.log(
  `${
    " ".repeat(16)
  } (medians of ${runs} runs after one warm-up; ${info.threads} threads, ${info.kernels} kernels, ${runtime})`,
);

// -------------------------------------------------------------- pictures, and the tokens on disk
await mkdir(folder, { recursive: true });
const tokenFile = join(folder, "tokens.safetensors");
await saveTokens(tokenFile, encoded.result);
const image = await detokenize(tokenFile);
const fromDisk = new Tensor("uint8", [1, image.height, image.width, 3], image.data);
if (!again.data.every((byte, i) => byte === fromDisk.data[i])) {
  throw new Error(`${tokenFile}: expected the picture that decode gave, found another`);
}

const pictures = {
  "original_and_again.png": [
    "the original | its reconstruction, decoded from tokens.safetensors",
    sideBySide(original, fromDisk),
  ],
  "token_map.png": ["the token grid, a colour for each code", tokenMap(indices)],
  "channels.png": [
    `the ${info.latentChannels} channels that the codes quantise, dark low, yellow high`,
    latentTiles(preQuant, 4),
  ],
} as const;
console.log();
show(
  "tokens",
  `${relative(process.cwd(), tokenFile)}: ${
    (await stat(tokenFile)).size
  } bytes; decoded from disk to the same picture, byte for byte`,
);
for (const [name, [about, picture]] of Object.entries(pictures)) {
  await writeImage(join(folder, name), picture);
  show("picture", `${relative(process.cwd(), join(folder, name))}: ${about}`);
}
