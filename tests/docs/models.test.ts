/** The table of public models in docs/models.md is what the catalogue says. */
import assert from "node:assert/strict";
import { readFileSync } from "node:fs";
import { join } from "node:path";
import { test } from "node:test";
import { type Claim, type PublicModel, publicModels } from "mod.ts";
import { root } from "../support.ts";

const document = readFileSync(join(root, "docs/models.md"), "utf8");

test("every public model has its row, with what the catalogue says", () => {
  const begin = document.indexOf("| name |"),
    table = document.slice(begin, document.indexOf("\n\n", begin)).split("\n");
  assert.deepEqual(table.slice(2), publicModels.map(row), `\n${publicModels.map(row).join("\n")}\n`);
});

function row(m: PublicModel): string {
  const { temporalFactor: t, spatialFactor: s } = m, isVideo = t > 1;
  const what = `${m.kind} ${isVideo ? "video" : "image"}, ${isVideo ? `${t}x` : ""}${s}x${s}`;
  const others = m.otherRepositories.map((other) => `, also \`${other.split("/")[1]}\``).join("");
  const files = m.files.length === 1 ? `, \`${m.files[0]}\`` : "";
  const gated = m.isGated === undefined ? "not known" : m.isGated ? "yes" : "no";
  const cells = [
    m.name,
    what,
    `\`${m.repository}\`${others}${files}`,
    m.trainedFrames,
    inMillions(m.parameters, "M"),
    inMillions(m.bytes, "MB"),
    gated,
  ];
  return `| ${[...cells, m.claims.map(told).join("; ")].map((cell) => cell ?? "").join(" | ")} |`;
}

const inMillions = (n: number | undefined, unit: string) =>
  n === undefined ? undefined : `${Math.round(n / 1e6)} ${unit}`;

function told({ on, psnr, ssim, rfid, rfvd }: Claim): string {
  const parts = [
    psnr && `${psnr.toFixed(2)} dB`,
    ssim && ssim.toFixed(3),
    rfid && `rFID ${rfid}`,
    rfvd && `rFVD ${rfvd}`,
  ];
  return `${on}: ${parts.filter(Boolean).join(", ")}`;
}
