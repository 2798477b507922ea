/**
 * Pictures in a terminal, as text: the kitty protocol (raw pixels, deflated), sixel (256 colours), or half-blocks (two
 * pixels a character, 24-bit colour) that any terminal shows. Ref: https://sw.kovidgoyal.net/kitty/graphics-protocol,
 * DEC VT340 (sixel).
 */
import { deflateSync } from "node:zlib";
import { pictureSize } from "../tokens/dense.ts";
import { contactSheet } from "./pictures.ts";
import type { TensorLike } from "../tokens/tensor.ts";

export const graphicsKinds = ["kitty", "sixel", "blocks", "none"] as const;
export type Graphics = (typeof graphicsKinds)[number];

/**
 * What the terminal can show, by its environment. CTOK_GRAPHICS names a kind and wins; what is no terminal shows none.
 */
export function detectGraphics(env: Record<string, string | undefined>, isTerminal: boolean): Graphics {
  const asked = graphicsKinds.find((kind) => kind === env.CTOK_GRAPHICS);
  if (asked) return asked;
  if (!isTerminal || env.TERM === "dumb") return "none";
  const { TERM = "", TERM_PROGRAM = "" } = env;
  if (env.TMUX) return "blocks"; // which passes neither protocol on unless told to
  if (env.KITTY_WINDOW_ID || /kitty|ghostty/.test(TERM) || /^(ghostty|WezTerm)$/i.test(TERM_PROGRAM)) return "kitty";
  if (/sixel|mlterm|foot|contour/.test(TERM) || TERM_PROGRAM === "mintty") return "sixel";
  return "blocks";
}

const cellPixels = 9; // about a character's width: where a picture is wider than the terminal, kitty is asked to fit it

/** uint8 [H, W, 3] or [1, H, W, 3] as text that ends with a newline, at most `columns` characters wide; "" for none. */
export async function drawPicture(picture: TensorLike<"uint8">, kind: Graphics, columns: number): Promise<string> {
  const { height, width } = pictureSize("picture", picture);
  switch (kind) {
    case "kitty":
      return kitty(picture.data, width, height, columns);
    case "sixel":
      return await sixel(shrink(picture, Math.ceil(width / (columns * cellPixels))));
    case "blocks":
      return halfBlocks(shrink(picture, Math.max(Math.ceil(width / columns), Math.ceil(height / 96))));
    case "none":
      return "";
  }
}

function kitty(data: Uint8Array, width: number, height: number, columns: number): string {
  const payload = deflateSync(data).toString("base64"), chunkSize = 4096;
  const fit = width > columns * cellPixels ? `,c=${columns}` : "";
  let text = "";
  for (let at = 0; at < payload.length; at += chunkSize) {
    const head = at === 0 ? `a=T,f=24,s=${width},v=${height},o=z${fit},` : "";
    text += `\x1b_G${head}q=2,m=${at + chunkSize < payload.length ? 1 : 0};${payload.slice(at, at + chunkSize)}\x1b\\`;
  }
  return text + "\n";
}

const maxColours = 256;

async function sixel(picture: TensorLike<"uint8">): Promise<string> {
  const { data } = picture, { height, width } = pictureSize("picture", picture);
  const { FINALIZER, image2sixel, introducer, sixelEncode } = await import("sixel");
  const rgba = new Uint8Array(width * height * 4).fill(255);
  for (let i = 0; i < width * height; i++) rgba.set(data.subarray(i * 3, i * 3 + 3), i * 4);
  // The library's quantiser merges few colours that are far apart, as a token map has, so a palette of exactly these is
  // made here.
  const palette = new Map<number, [number, number, number]>();
  for (let i = 0; i < data.length && palette.size <= maxColours; i += 3) {
    const [red = 0, green = 0, blue = 0] = data.subarray(i, i + 3);
    palette.set(red << 16 | green << 8 | blue, [red, green, blue]);
  }
  if (palette.size > maxColours) return image2sixel(rgba, width, height, maxColours, 0) + "\n";
  return introducer(0) + sixelEncode(rgba, width, height, [...palette.values()]) + FINALIZER + "\n";
}

/**
 * A character is two pixels, one above the other: the upper in the foreground's colour, the lower in the background's.
 */
function halfBlocks(picture: TensorLike<"uint8">): string {
  const { data } = picture, { height, width } = pictureSize("picture", picture);
  const colour = (x: number, y: number) => data.subarray((y * width + x) * 3, (y * width + x) * 3 + 3).join(";");
  let text = "";
  for (let y = 0; y < height; y += 2) {
    for (let x = 0; x < width; x++) {
      const lower = y + 1 < height ? `\x1b[48;2;${colour(x, y + 1)}m` : "\x1b[49m";
      text += `\x1b[38;2;${colour(x, y)}m${lower}▀`;
    }
    text += "\x1b[0m\n";
  }
  return text;
}

/** The picture `factor` times smaller, where it has as many pixels. */
function shrink(picture: TensorLike<"uint8">, factor: number): TensorLike<"uint8"> {
  const { height, width } = pictureSize("picture", picture);
  return contactSheet([[picture]], { shrink: Math.max(1, Math.min(factor, width, height)) });
}
