/**
 * Editing tokens: a rectangle of the cat's tokens goes into the coffee's grid, and a single code fills another.
 * Decoded, the edit shows where it was made and fades within a few tokens; elsewhere little changes (attention and
 * norms see the whole picture, so not nothing). Writes out/08_edit/.
 * Run: bun examples/08_edit.ts, or deno run -A examples/08_edit.ts
 */
import { mkdir } from "node:fs/promises";
import { defaultModel, sideBySide, Tensor, Tokenizer, Tokens, writeImage } from "ctok";

const out = "out/08_edit";
await mkdir(out, { recursive: true });

/** A part of a token grid: rows and columns of tokens. */
interface Region {
  readonly top: number;
  readonly left: number;
  readonly height: number;
  readonly width: number;
}

/** A copy of int32 [1, h, w] indices in which `codeAt` (row and column within the region) gives the region's codes. */
function edited(indices: Tensor<"int32">, region: Region, codeAt: (y: number, x: number) => number): Tensor<"int32"> {
  const data = indices.data.slice(), columns = indices.shape[2]!;
  for (let y = 0; y < region.height; y++) {
    for (let x = 0; x < region.width; x++) data[(region.top + y) * columns + region.left + x] = codeAt(y, x);
  }
  // With its origin, a tensor decodes to the photo's own size.
  return new Tensor("int32", indices.shape, data, { kind: "indices", origin: indices.origin });
}

await using tokenizer = await Tokenizer.open(defaultModel);
const { indices: coffee, origin } = await tokenizer.encode("examples/media/coffee.jpg");
const { indices: cat } = await tokenizer.encode("examples/media/cat.png");

const face = { top: 8, left: 12, height: 16, width: 24 }; // in the cat's grid
const target = { ...face, top: 4, left: 4 }, patch = { top: 30, left: 50, height: 8, width: 12 };
const catColumns = cat.shape[2]!;
const swapped = edited(coffee, target, (y, x) => cat.data[(face.top + y) * catColumns + face.left + x]!);
const edit = edited(swapped, patch, () => coffee.data[0]!); // the code of the upper left corner
const changed = edit.data.filter((code, i) => code !== coffee.data[i]).length;
console.log(`coffee.jpg: [${coffee.shape}] tokens, ${changed} changed in two rectangles`);

const before = await tokenizer.decode(coffee, { dtype: "uint8" });
const after = await tokenizer.decode(new Tokens(origin, { indices: edit }), { dtype: "uint8" });
const [, height = 0, width = 0] = after.shape, factor = origin.spatialFactor, near = 4; // tokens around an edit
const difference = { inside: 0, near: 0, far: 0 }, count = { inside: 0, near: 0, far: 0 };
for (let y = 0; y < height; y++) {
  for (let x = 0; x < width; x++) {
    const row = (y + origin.top) / factor, column = (x + origin.left) / factor;
    const isWithin = (r: Region, by: number) =>
      row >= r.top - by && row < r.top + r.height + by && column >= r.left - by && column < r.left + r.width + by;
    const place = [target, patch].some((r) => isWithin(r, 0))
      ? "inside"
      : [target, patch].some((r) => isWithin(r, near))
      ? "near"
      : "far";
    count[place] += 3;
    for (let c = 0; c < 3; c++) {
      const i = (y * width + x) * 3 + c;
      difference[place] += Math.abs(after.data[i]! - before.data[i]!);
    }
  }
}
const mean = (place: "inside" | "near" | "far") => (difference[place] / count[place]).toFixed(2);
console.log(
  `mean change of a byte: ${mean("inside")} inside, ${mean("near")} within ${near} tokens, ${mean("far")} elsewhere`,
);
await writeImage(`${out}/edited.png`, sideBySide(before, after));
console.log(`${out}/edited.png: the photo from its own tokens | from the edited ones`);
