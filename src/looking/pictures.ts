/**
 * Pictures of pictures and of tokens, for people: images side by side or in a sheet, a map of the codes, the channels
 * of a latent. Pure functions from tensors to uint8 [H, W, 3]; writing them to a file is media/image.ts.
 */
import { expected } from "../errors.ts";
import { mostPixels } from "../checks.ts";
import { pictureSize } from "../tokens/dense.ts";
import { checkTensor, Tensor, type TensorLike } from "../tokens/tensor.ts";

const white = 255;
/**
 * A white picture, no larger than readImage would take. Throws ARGUMENT, which names the option `name` that made it too
 * large.
 */
function blank(name: string, height: number, width: number): Uint8Array {
  if (!(height * width <= mostPixels)) {
    throw expected(name, `a result of at most ${mostPixels} pixels`, `one of ${width}x${height}`);
  }
  return new Uint8Array(height * width * 3).fill(white);
}

/** `a`, a white gap of `gap` pixels, `b`. Throws SHAPE unless both have one height. */
export function sideBySide(a: TensorLike<"uint8">, b: TensorLike<"uint8">, gap = 8): Tensor<"uint8"> {
  const left = pictureSize("a", a), right = pictureSize("b", b);
  if (!Number.isInteger(gap) || gap < 0) throw expected("gap", "a whole number of pixels", gap);
  if (left.height !== right.height) throw expected("b", `${left.height} rows, as a has`, right.height, "SHAPE");
  const width = left.width + gap + right.width;
  const out = blank("gap", left.height, width);
  for (let y = 0; y < left.height; y++) {
    out.set(a.data.subarray(y * left.width * 3, (y + 1) * left.width * 3), y * width * 3);
    out.set(b.data.subarray(y * right.width * 3, (y + 1) * right.width * 3), (y * width + left.width + gap) * 3);
  }
  return new Tensor("uint8", [left.height, width, 3], out, { kind: "pixels" });
}

export interface ContactSheetOptions {
  /** White space between two pictures, in pixels; default 8. */
  gap?: number | undefined;
  /** How many times smaller each picture becomes, a whole number; default 1. */
  shrink?: number | undefined;
}

/**
 * Pictures in rows and columns, all equally large, white gaps of `gap` pixels between them; each picture `shrink` times
 * smaller, a pixel the mean of shrink × shrink (rows and columns left over are cut). Throws SHAPE for other sizes.
 */
export function contactSheet(
  rows: readonly (readonly TensorLike<"uint8">[])[],
  options: ContactSheetOptions = {},
): Tensor<"uint8"> {
  const { gap = 8, shrink = 1 } = Object(options) as typeof options;
  if (!Array.isArray(rows) || !rows.every(Array.isArray)) throw expected("rows", "a list of rows of pictures", rows);
  const columns = rows.reduce((most, row) => Math.max(most, row.length), 0);
  if (columns === 0) throw expected("rows", "at least one picture", "none");
  if (!Number.isInteger(gap) || gap < 0) throw expected("gap", "a whole number of pixels", gap);
  if (!Number.isInteger(shrink) || shrink < 1) throw expected("shrink", "a positive whole number", shrink);
  const first = pictureSize("rows[0][0]", rows.flat()[0]!);
  const height = Math.floor(first.height / shrink), width = Math.floor(first.width / shrink);
  if (height === 0 || width === 0) throw expected("shrink", "no more than the pictures' sides", shrink);
  const sheetHeight = rows.length * (height + gap) - gap, sheetWidth = columns * (width + gap) - gap;
  const out = blank("rows", sheetHeight, sheetWidth);
  for (const [r, row] of rows.entries()) {
    for (const [c, picture] of row.entries()) {
      const size = pictureSize(`rows[${r}][${c}]`, picture);
      if (size.height !== first.height || size.width !== first.width) {
        const wanted = `${first.width}x${first.height} pixels, as the first`;
        throw expected(`rows[${r}][${c}]`, wanted, `${size.width}x${size.height}`, "SHAPE");
      }
      for (let y = 0; y < height; y++) {
        const at = ((r * (height + gap) + y) * sheetWidth + c * (width + gap)) * 3;
        for (let x = 0; x < width * 3; x++) out[at + x] = meanOf(picture.data, first.width, y, x, shrink);
      }
    }
  }
  return new Tensor("uint8", [sheetHeight, sheetWidth, 3], out, { kind: "pixels" });
}

/** Byte `x` (three for each pixel) of row `y` of the smaller picture: the mean of shrink × shrink pixels. */
function meanOf(data: Uint8Array, width: number, y: number, x: number, shrink: number): number {
  let sum = 0;
  const colour = x % 3, left = (x - colour) * shrink + colour;
  for (let dy = 0; dy < shrink; dy++) {
    for (let dx = 0; dx < shrink; dx++) sum += data[(y * shrink + dy) * width * 3 + left + dx * 3]!;
  }
  return Math.round(sum / shrink ** 2);
}

/** Indices [1, h, w] as [h · scale, w · scale, 3]: each code its own fixed colour, so that equal codes can be seen. */
export function tokenMap(indices: TensorLike<"int32" | "uint16">, scale = 8): Tensor<"uint8"> {
  checkTensor("indices", indices);
  checkScale(scale);
  const [batch, height, width, ...more] = indices.shape;
  if (batch !== 1 || height === undefined || width === undefined || more.length > 0) {
    throw expected("indices.shape", "[1, h, w]", indices.shape, "SHAPE");
  }
  const canvas = new Canvas(height * scale, width * scale);
  canvas.drawGrid(0, 0, height, width, scale, (i) => colourOfCode(indices.data[i]!));
  return canvas.tensor();
}

/**
 * A latent, codes or preQuant [1, C, h, w] as C tiles in rows of ⌈√C⌉, one scale apart: viridis from each tile's own
 * least value (dark blue) to its greatest (yellow), a constant tile dark blue, a value that is not finite red.
 */
export function latentTiles(latent: TensorLike<"float32">, scale = 8): Tensor<"uint8"> {
  checkTensor("latent", latent);
  checkScale(scale);
  const [batch, channels, height, width, ...more] = latent.shape;
  if (batch !== 1 || channels === undefined || height === undefined || width === undefined || more.length > 0) {
    throw expected("latent.shape", "[1, C, h, w]", latent.shape, "SHAPE");
  }
  const columns = Math.ceil(Math.sqrt(channels)), rows = Math.ceil(channels / columns);
  const canvas = new Canvas((rows * (height + 1) - 1) * scale, (columns * (width + 1) - 1) * scale);
  for (let c = 0; c < channels; c++) {
    const tile = latent.data.subarray(c * height * width, (c + 1) * height * width);
    let least = Infinity, greatest = -Infinity;
    for (const value of tile) {
      if (!Number.isFinite(value)) continue;
      least = Math.min(least, value);
      greatest = Math.max(greatest, value);
    }
    const range = greatest - least || 1;
    const top = Math.floor(c / columns) * (height + 1) * scale, left = (c % columns) * (width + 1) * scale;
    canvas.drawGrid(top, left, height, width, scale, (i) => {
      return Number.isFinite(tile[i]) ? viridis((tile[i]! - least) / range) : notFinite;
    });
  }
  return canvas.tensor();
}

type Colour = readonly [red: number, green: number, blue: number];

const notFinite: Colour = [255, 0, 0];

/** A picture that is drawn cell by cell; it is white where nothing was drawn. */
class Canvas {
  readonly #height: number;
  readonly #width: number;
  readonly #pixels: Uint8Array;

  constructor(height: number, width: number) {
    this.#height = height;
    this.#width = width;
    this.#pixels = blank("scale", height, width);
  }

  /** Draws height × width cells, each a square of `scale` pixels; `colour(i)` is the colour of cell i, row-major. */
  drawGrid(
    top: number,
    left: number,
    height: number,
    width: number,
    scale: number,
    colour: (i: number) => Colour,
  ): void {
    const rowBytes = this.#width * 3;
    for (let y = 0; y < height; y++) {
      const start = (top + y * scale) * rowBytes + left * 3;
      for (let x = 0; x < width; x++) {
        const cell = colour(y * width + x);
        for (let s = 0; s < scale; s++) this.#pixels.set(cell, start + (x * scale + s) * 3);
      }
      for (let s = 1; s < scale; s++) this.#pixels.copyWithin(start + s * rowBytes, start, start + width * scale * 3);
    }
  }

  tensor(): Tensor<"uint8"> {
    return new Tensor("uint8", [this.#height, this.#width, 3], this.#pixels, { kind: "pixels" });
  }
}

function checkScale(scale: number): void {
  if (!Number.isInteger(scale) || scale < 1) throw expected("scale", "a positive whole number", scale);
}

/** Neighbouring codes far apart: murmur3's finaliser mixes the code's bits into hue, saturation and value. */
function colourOfCode(code: number): Colour {
  let h = code + 0x9e3779b9 | 0;
  h = Math.imul(h ^ h >>> 16, 0x85ebca6b);
  h = Math.imul(h ^ h >>> 13, 0xc2b2ae35);
  h ^= h >>> 16;
  const hue = (h & 0xffff) / 0x10000 * 6;
  const saturation = 0.35 + 0.65 * (h >>> 16 & 0xff) / 255, value = 0.4 + 0.6 * (h >>> 24) / 255;
  const channel = (n: number) => { // HSV to RGB, each channel the same curve shifted along the hue
    const k = (n + hue) % 6;
    return Math.round(255 * value * (1 - saturation * Math.max(0, Math.min(k, 4 - k, 1))));
  };
  return [channel(5), channel(3), channel(1)];
}

/** matplotlib's viridis at 0, 1/8, .. 1, straight lines between. */
const viridisTable: readonly Colour[] = [
  [68, 1, 84],
  [71, 45, 123],
  [59, 82, 139],
  [44, 114, 142],
  [33, 145, 140],
  [40, 174, 128],
  [94, 201, 98],
  [173, 220, 48],
  [253, 231, 37],
];

function viridis(t: number): Colour {
  const at = t * (viridisTable.length - 1), i = Math.min(Math.floor(at), viridisTable.length - 2);
  const low = viridisTable[i]!, high = viridisTable[i + 1]!, part = at - i;
  const mix = (c: 0 | 1 | 2) => Math.round(low[c] + (high[c] - low[c]) * part);
  return [mix(0), mix(1), mix(2)];
}
