/**
 * The README's picture, docs/pictures/tokens.jpg: a photo, the tokens that nano-DI8x8 makes of it, and what it makes of
 * those tokens. In the middle each token is a square with a colour of its own; the framed ones are drawn large, with
 * their numbers. In float32, so that every processor draws the same. Digits are drawn here: what fonts a machine has
 * would show. Run: bun docs/pictures.ts [FILE], or deno run -A docs/pictures.ts [FILE]
 */
import { mkdir } from "node:fs/promises";
import { dirname, join } from "node:path";
import process from "node:process";
import { contactSheet, defaultModel, readImage, type Tensor, Tokenizer, tokenMap, writeImage } from "mod.ts";

const root = dirname(import.meta.dirname!);
const path = process.argv[2] ?? join(root, "docs/pictures/tokens.jpg");
const grey = [128, 128, 128] as const, white = [255, 255, 255] as const, black = [0, 0, 0] as const;

/** The tokens that are drawn large: rows and columns of the grid, and the size of each there. */
const lens = { top: 16, left: 26, rows: 4, columns: 5, cell: { height: 56, width: 96 }, at: { top: 264, left: 16 } };

/** 3 x 5 pixels each, a row a digit of base 8. */
const digits = ["75557", "26227", "71747", "71717", "55711", "74717", "74757", "71111", "75757", "75717"];

type Colour = readonly [number, number, number];
type Picture = Tensor<"uint8">;

function fill(
  { shape, data }: Picture,
  top: number,
  left: number,
  height: number,
  width: number,
  colour: Colour,
): void {
  const rowBytes = shape.at(-2)! * 3;
  for (let y = top; y < top + height; y++) {
    for (let x = left; x < left + width; x++) data.set(colour, y * rowBytes + x * 3);
  }
}

function frame(picture: Picture, top: number, left: number, height: number, width: number, thick: number): void {
  const outer = thick + 2;
  for (const [by, colour] of [[outer, black], [thick, white]] as const) {
    fill(picture, top - by, left - by, by, width + 2 * by, colour);
    fill(picture, top + height, left - by, by, width + 2 * by, colour);
    fill(picture, top - by, left - by, height + 2 * by, by, colour);
    fill(picture, top - by, left + width, height + 2 * by, by, colour);
  }
}

function write(picture: Picture, text: string, top: number, left: number, scale: number, colour: Colour): void {
  for (const [n, digit] of [...text].entries()) {
    for (const [y, row] of [...digits[Number(digit)]!].entries()) {
      for (let x = 0; x < 3; x++) {
        if (Number(row) >> (2 - x) & 1) {
          fill(picture, top + y * scale, left + (n * 4 + x) * scale, scale, scale, colour);
        }
      }
    }
  }
}

/** The framed tokens, each a cell of its colour with its number. */
function magnify(map: Picture, indices: Tensor<"int32">, size: number): void {
  const { top, left, rows, columns, cell, at } = lens, scale = 4, columnsOfAll = indices.shape[2]!;
  for (let y = 0; y < rows; y++) {
    for (let x = 0; x < columns; x++) {
      const first = ((top + y) * size * map.shape[1]! + (left + x) * size) * 3;
      const colour = map.data.slice(first, first + 3) as unknown as Colour;
      const text = String(indices.data[(top + y) * columnsOfAll + left + x]), width = (text.length * 4 - 1) * scale;
      const cellTop = at.top + y * cell.height, cellLeft = at.left + x * cell.width;
      fill(map, cellTop, cellLeft, cell.height, cell.width, colour);
      const light = colour[0] * 0.3 + colour[1] * 0.59 + colour[2] * 0.11 > 128;
      const middle = { top: cellTop + (cell.height - 5 * scale) / 2, left: cellLeft + (cell.width - width) / 2 };
      write(map, text, middle.top, middle.left, scale, light ? black : white);
    }
  }
  frame(map, at.top, at.left, rows * cell.height, columns * cell.width, 3);
}

await using tokenizer = await Tokenizer.open(defaultModel, { precision: "f32" });
const size = tokenizer.info.spatialFactor;
const photo = await readImage(join(root, "examples/media/astronaut.png"));
const { indices } = await tokenizer.encode(photo);
const again = await tokenizer.decode(indices, { dtype: "uint8" });
const map = tokenMap(indices, size);
for (const picture of [photo, map]) {
  const { top, left, rows, columns } = lens;
  frame(picture, top * size, left * size, rows * size, columns * size, 2);
}
magnify(map, indices, size);

const sheet = contactSheet([[photo, map, again]], { gap: 16 });
const [height = 0, width = 0] = photo.shape.slice(1);
for (const n of [1, 2]) fill(sheet, 0, n * (width + 16) - 16, height, 16, grey);
await mkdir(dirname(path), { recursive: true });
await writeImage(path, sheet);
