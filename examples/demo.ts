/**
 * A photo and a clip to tokens and back with the embedded models; what it costs, how good it is, and which models are
 * better. Leaves pictures, the token file and a video in out/demo/, and in its README.txt what each is. Run: npm run
 * demo, or with a photo of yours: bun examples/demo.ts IMAGE (deno run -A examples/demo.ts IMAGE). Without FFmpeg the
 * clip is left out.
 */
import { mkdir, stat, writeFile } from "node:fs/promises";
import { basename, dirname, join, relative } from "node:path";
import process from "node:process";
import {
  codebookUse,
  contactSheet,
  createVideo,
  defaultModel,
  defaultVideoModel,
  detectGraphics,
  detokenize,
  drawPicture,
  framesOf,
  joinTokens,
  latentTiles,
  psnr,
  readImage,
  saveTokens,
  sideBySide,
  ssim,
  tellQuantizer,
  Tensor,
  Tokenizer,
  TokenizerError,
  tokenMap,
  type TokenPart,
  writeImage,
} from "ctok";

const root = dirname(import.meta.dirname!), runs = 5;
const photo = process.argv[2] ?? join(root, "examples/media/astronaut.png");
const folder = join(root, "out/demo");
const show = (name: string, value: string | number) => console.log(`${name.padEnd(16)} ${value}`);
const here = (path: string) => relative(process.cwd(), path);

/** What lies in out/demo/, for the terminal now and for README.txt. */
const left: string[] = [];
function showFile(kind: string, path: string, about: string): void {
  show(kind, `${here(path)}: ${about}`);
  left.push(`${basename(path)}: ${about}`);
}

/** In the terminal too, where that is one. */
async function drawHere(picture: Tensor<"uint8">): Promise<void> {
  const { stdout, env } = process;
  stdout.write(
    await drawPicture(picture, detectGraphics(env, stdout.isTTY === true), Math.min(stdout.columns || 80, 100)),
  );
}

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
// The warm-up, and the vector that the codes quantise.
const { indices, preQuant } = await tokenizer.encode(original, { preQuant: true });
await tokenizer.decode(indices);
const encoded = await timed(() => tokenizer.encode(original));
const decoded = await timed(() => tokenizer.decode(encoded.result, { dtype: "uint8" }));
const again = decoded.result;

// -------------------------------------------------------------- what it is
const [, rows = 0, columns = 0] = indices.shape, tokens = rows * columns;
show("model", `${info.name}, ${info.parameters.toLocaleString("en")} parameters`);
show("codebook", `${info.codebookSize} codes, ${tellQuantizer(info.quantizer)}`);
show("photo", `${relative(root, photo)}, ${width}x${height} pixels`);
show(
  "token grid",
  `${columns}x${rows} = ${tokens} tokens of ${info.spatialFactor}x${info.spatialFactor} pixels; its head:`,
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
showFile(
  "tokens",
  tokenFile,
  `${(await stat(tokenFile)).size} bytes; decoded from disk to the same picture, byte for byte`,
);
for (const [name, [about, picture]] of Object.entries(pictures)) {
  await writeImage(join(folder, name), picture);
  await drawHere(picture);
  showFile("picture", join(folder, name), about);
}

// -------------------------------------------------------------- clip -> tokens -> clip
const clip = join(root, "examples/media/cars.mp4"), numFrames = 51, columnsOfSheet = 8;
console.log();
try {
  await showClip();
} catch (error) {
  if (!(error instanceof TokenizerError && error.code === "FFMPEG")) throw error;
  show("clip", `left out: ${error.message}`);
}

// -------------------------------------------------------------- what drew these pictures, and what draws better ones
const note =
  `These pictures show what tokens are, not how good they can be. ctok carries small models so that it works \
with nothing
downloaded: ${defaultModel} was trained for 45 minutes on two CPU cores, ${defaultVideoModel} for three hours. \
Fine texture, text and
fast motion are lost. For quality take a public model, which is fetched from the Hugging Face hub when first asked for:

  ctok encode photo.jpg --out photo.safetensors --model nvidia/Cosmos-0.1-Tokenizer-DI8x8
  ctok encode clip.mp4 --out clip.safetensors --model nvidia/Cosmos-Tokenize1-DV8x16x16-720p

\`ctok models\` lists them with their licences. Here ctok is: node_modules/.bin/bun cli/main.ts`;
console.log(`\n${note}`);
await writeFile(join(folder, "README.txt"), `${left.join("\n")}\n\n${note}\n`);

async function showClip(): Promise<void> {
  const source = await framesOf(clip, { frames: numFrames });
  const frames = await Array.fromAsync(source.frames);
  await using tokenizer = await Tokenizer.open(defaultVideoModel);
  const { height, width, fps } = source.info, { name, parameters, codebookSize } = tokenizer.info;
  const pixels = frames.length * height * width, tokenBits = Math.log2(codebookSize);
  show("video model", `${name}, ${parameters.toLocaleString("en")} parameters`);
  show("clip", `${relative(root, clip)}, the first ${frames.length} frames of ${width}x${height} pixels`);

  let again: Tensor<"uint8">[] = [];
  for (const [mode, options] of [["seamless", {}], ["windows of 17", { window: 17 }]] as const) {
    const start = performance.now(), parts: TokenPart[] = [];
    for await (const part of tokenizer.encodeStream(frames, options)) parts.push(part);
    const between = performance.now();
    again = await Array.fromAsync(tokenizer.decodeStream(parts));
    const end = performance.now();
    const { shape, data } = joinTokens(parts).indices, bits = data.length * tokenBits;
    const error = frames.reduce((sum, frame, i) => sum + 10 ** (-psnr(frame, again[i]!) / 10), 0) / frames.length;
    const pace = (ms: number) => (frames.length / ms * 1000).toFixed(1);
    const [, times, rows, columns] = shape;
    const grid = `${times} frames of ${columns}x${rows} tokens, ${(bits / 8000).toFixed(0)} kB`;
    show(mode, `${grid}, ${(bits / pixels).toFixed(3)} bits a pixel; PSNR ${(-10 * Math.log10(error)).toFixed(2)} dB`);
    show("", `encode ${pace(between - start)}, decode ${pace(end - between)} frames a second (one run)`);
  }

  const video = join(folder, "clip_side_by_side.mp4"), sheet = join(folder, "clip_contact_sheet.png");
  await using sink = await createVideo(video, { height, width: 2 * width + 8, fps });
  for (const [i, frame] of frames.entries()) await sink.write(sideBySide(frame, again[i]!).data);
  await sink.close();
  showFile("video", video, "the original | its reconstruction, in windows of 17");
  const shown = Array.from(
    { length: columnsOfSheet },
    (_, i) => Math.round(i * (frames.length - 1) / (columnsOfSheet - 1)),
  );
  const rows = [frames, again].map((row) => shown.map((i) => row[i]!));
  await writeImage(sheet, contactSheet(rows, { shrink: 2 }));
  await drawHere(contactSheet(rows, { shrink: 2 }));
  showFile("picture", sheet, `frames ${shown.join(", ")}, below each its reconstruction, in windows of 17`);
}
