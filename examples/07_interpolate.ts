/**
 * From one photo to another through the codes. A code is d = 6 numbers in [-1, 1]; code k is (digit - L/2) / (L/2), L/2
 * rounded down, with a digit 0 .. L - 1 (finite scalar quantisation, levels L = 8 8 8 5 5 5). The straight line between
 * two codes is rounded back to digits, so every step is a token grid that can be saved. Writes out/07_interpolate/.
 * Run: bun examples/07_interpolate.ts, or deno run -A examples/07_interpolate.ts
 */
import { mkdir } from "node:fs/promises";
import {
  contactSheet,
  defaultModel,
  indicesFromCodes,
  readImage,
  roundToCodes,
  Tensor,
  Tokenizer,
  writeImage,
} from "ctok";

const out = "out/07_interpolate", side = 256, steps = 5;
await mkdir(out, { recursive: true });

/** The upper left of a picture, uint8 [side, side, 3]. */
async function cornerOf(path: string): Promise<Tensor<"uint8">> {
  const { data, shape } = await readImage(path), width = shape[2]!;
  const cut = new Uint8Array(side * side * 3);
  for (let y = 0; y < side; y++) cut.set(data.subarray(y * width * 3, (y * width + side) * 3), y * side * 3);
  return new Tensor("uint8", [side, side, 3], cut);
}

await using tokenizer = await Tokenizer.open(defaultModel);
const quantizer = tokenizer.info.quantizer!;
const [a, b] = await Promise.all(["astronaut.png", "cat.png"].map(async (name) => {
  return (await tokenizer.encode(await cornerOf(`examples/media/${name}`))).codes; // float32 [1, 6, 32, 32]
})) as [Tensor<"float32">, Tensor<"float32">];
const positions = a.data.length / tokenizer.info.latentChannels;

/** Codes a part `t` of the way from `a` to `b`, each the nearest to it. */
function mix(t: number): Tensor<"float32"> {
  const mixed = a.data.map((from, i) => from + t * (b.data[i]! - from));
  return roundToCodes(new Tensor("float32", a.shape, mixed), quantizer);
}

const shown: Tensor<"uint8">[] = [], start = indicesFromCodes(a, quantizer), end = indicesFromCodes(b, quantizer);
for (let step = 0; step < steps; step++) {
  const t = step / (steps - 1), indices = indicesFromCodes(mix(t), quantizer);
  const shared = (other: Tensor<"int32">) => indices.data.filter((code, i) => code === other.data[i]).length;
  console.log(`t = ${t.toFixed(2)}: ${shared(start)} tokens of the first photo, ${shared(end)} of the second`);
  shown.push(await tokenizer.decode(indices, { dtype: "uint8" }));
}
await writeImage(`${out}/steps.png`, contactSheet([shown]));
console.log(`${out}/steps.png: ${steps} pictures of ${positions} tokens each`);
