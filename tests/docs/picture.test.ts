/** The README's picture is the one that docs/pictures.ts draws, and it is linked with words for who cannot see it. */
import assert from "node:assert/strict";
import { statSync } from "node:fs";
import { join } from "node:path";
import { test } from "node:test";
import { psnr, readImage } from "mod.ts";
import { root, withFolder } from "../support.ts";
import { runsScript } from "../workplace.ts";
import { read } from "./documents.ts";

const kept = "docs/pictures/tokens.jpg";

test(`${kept} is what docs/pictures.ts draws`, () =>
  withFolder(async (folder) => {
    const drawn = join(folder, "tokens.jpg");
    await runsScript(root, "docs/pictures.ts", [drawn]);
    const db = psnr(await readImage(drawn), await readImage(join(root, kept))); // another encoder may round elsewhere
    assert.ok(db > 40, `${db} dB between them: expected what \`bun docs/pictures.ts\` draws`);
    assert.ok(statSync(join(root, kept)).size < 300_000);
  }));

test("the README shows it, with words", () => {
  assert.match(read("README.md"), new RegExp(`!\\[[^\\]]{40,}\\]\\(${kept}\\)`));
});
