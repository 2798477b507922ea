/** src/looking/terminal.ts: pictures as terminal text, read back. */
import assert from "node:assert/strict";
import { describe, test } from "node:test";
import { inflateSync } from "node:zlib";
import { decode as decodeSixel } from "sixel";
import { detectGraphics, drawPicture, Tensor } from "mod.ts";
import { kittyChunks } from "../support.ts";

function picture(height: number, width: number, at: (y: number, x: number) => readonly number[]): Tensor<"uint8"> {
  const pixels = Array.from({ length: height * width }, (_, i) => at(Math.floor(i / width), i % width));
  return new Tensor("uint8", [1, height, width, 3], Uint8Array.from(pixels.flat()));
}

describe("kinds", () => {
  test("by the environment; asked for; none without a terminal", () => {
    assert.equal(detectGraphics({ TERM: "xterm-kitty" }, true), "kitty");
    assert.equal(detectGraphics({ TERM: "xterm-256color", TERM_PROGRAM: "WezTerm" }, true), "kitty");
    assert.equal(detectGraphics({ TERM: "xterm-kitty", TMUX: "x" }, true), "blocks");
    assert.equal(detectGraphics({ TERM: "foot" }, true), "sixel");
    assert.equal(detectGraphics({ TERM: "xterm-256color" }, true), "blocks");
    assert.equal(detectGraphics({ TERM: "dumb" }, true), "none");
    assert.equal(detectGraphics({ TERM: "xterm-kitty" }, false), "none");
    assert.equal(detectGraphics({ CTOK_GRAPHICS: "sixel" }, false), "sixel");
  });
});

/** Between the introducer and the terminator. */
const sixelBody = (text: string) => text.slice(text.indexOf("q") + 1, text.lastIndexOf("\x1b\\"));

describe("pixels come back", () => {
  const noisy = picture(70, 90, (y, x) => [(x * 37 + y * 91) % 256, (x * y) % 256, (x * 11) % 256]);
  test("kitty: raw and whole, over several chunks", async () => {
    const text = await drawPicture(noisy, "kitty", 80), chunks = kittyChunks(text);
    assert.match(chunks[0]![1]!, /a=T,f=24,s=90,v=70,o=z/);
    assert.ok(chunks.length > 1 && chunks.every((c, i) => c[1]!.endsWith(i === chunks.length - 1 ? "m=0" : "m=1")));
    assert.ok(inflateSync(Buffer.from(chunks.map((c) => c[2]).join(""), "base64")).equals(Buffer.from(noisy.data)));
  });
  test("sixel: few colours exactly", async () => {
    const colours = [[255, 0, 0], [0, 255, 0], [0, 0, 255], [255, 255, 255]] as const;
    const few = picture(12, 16, (y, x) => colours[(x >> 2) ^ (y >> 3)]!);
    const { data32, width, height } = decodeSixel(Buffer.from(sixelBody(await drawPicture(few, "sixel", 80))));
    assert.deepEqual([width, height], [16, 12]);
    const bytes = new Uint8Array(data32.buffer, data32.byteOffset, data32.byteLength);
    for (let i = 0; i < 12 * 16; i++) {
      assert.deepEqual([...bytes.subarray(i * 4, i * 4 + 3)], [...few.data.subarray(i * 3, i * 3 + 3)]);
    }
  });
  test("half-blocks: two pixels a character, means where the picture is wider", async () => {
    const text = await drawPicture(picture(3, 2, (y, x) => [y * 10, x * 20, 5]), "blocks", 80);
    const first = "\x1b[38;2;0;0;5m\x1b[48;2;10;0;5m▀\x1b[38;2;0;20;5m\x1b[48;2;10;20;5m▀\x1b[0m\n";
    assert.equal(text, first + "\x1b[38;2;20;0;5m\x1b[49m▀\x1b[38;2;20;20;5m\x1b[49m▀\x1b[0m\n");
    const wide = await drawPicture(picture(4, 4, (y, x) => [x * 2, y * 2, 7]), "blocks", 2);
    assert.equal(wide, "\x1b[38;2;1;1;7m\x1b[48;2;1;5;7m▀\x1b[38;2;5;1;7m\x1b[48;2;5;5;7m▀\x1b[0m\n");
    assert.equal(await drawPicture(noisy, "none", 80), "");
  });
});
