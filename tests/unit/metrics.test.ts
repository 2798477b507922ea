import assert from "node:assert/strict";
import { test } from "node:test";
import { TokenizerError } from "../../src/errors.ts";
import { codebookUse, psnr, ssim } from "../../src/looking/metrics.ts";
import { Tensor } from "../../src/tokens/tensor.ts";

type Pixel = (y: number, x: number, c: number) => number;

function picture(height: number, width: number, pixel: Pixel): Tensor<"uint8"> {
  const data = new Uint8Array(height * width * 3);
  for (let i = 0; i < data.length; i++) {
    data[i] = Math.max(0, Math.min(255, pixel(Math.floor(i / 3 / width), Math.floor(i / 3) % width, i % 3)));
  }
  return new Tensor("uint8", [height, width, 3], data);
}

const smooth: Pixel = (y, x, c) => (x * 5 + y * 3 + c * 40 + (x * y) % 23) % 256;
const noisy: Pixel = (y, x, c) => smooth(y, x, c) + (x * 31 + y * 17 + c * 7) % 25 - 12;

/** Every window on its own, with the textbook's sums of deviations. */
function directSsim(a: Tensor<"uint8">, b: Tensor<"uint8">): number {
  const [height = 0, width = 0] = a.shape;
  const values: number[] = [];
  for (let c = 0; c < 3; c++) {
    for (let top = 0; top + 7 <= height; top++) {
      for (let left = 0; left + 7 <= width; left++) {
        const at = Array.from({ length: 49 }, (_, i) => ((top + Math.floor(i / 7)) * width + left + i % 7) * 3 + c);
        const mean = (t: Tensor<"uint8">) => at.reduce((sum, i) => sum + t.data[i]!, 0) / 49;
        const meanA = mean(a), meanB = mean(b);
        const covariance = (p: Tensor<"uint8">, q: Tensor<"uint8">, meanP: number, meanQ: number) =>
          at.reduce((sum, i) => sum + (p.data[i]! - meanP) * (q.data[i]! - meanQ), 0) / 48;
        const luminance = (2 * meanA * meanB + 6.5025) / (meanA ** 2 + meanB ** 2 + 6.5025);
        const spread = covariance(a, a, meanA, meanA) + covariance(b, b, meanB, meanB) + 58.5225;
        values.push(luminance * (2 * covariance(a, b, meanA, meanB) + 58.5225) / spread);
      }
    }
  }
  return values.reduce((sum, v) => sum + v) / values.length;
}

function isNear(found: number, wanted: number, tolerance: number): void {
  assert.ok(Math.abs(found - wanted) <= tolerance, `expected ${wanted} ± ${tolerance}, found ${found}`);
}

test("psnr and ssim equal scikit-image", () => {
  // scikit-image 0.26.0, NumPy float64, 2026-11-23: structural_similarity(a, b, channel_axis=-1, data_range=255) and
  // peak_signal_noise_ratio(a, b, data_range=255) on these same two 23×31 pictures.
  const a = picture(23, 31, smooth), b = picture(23, 31, noisy);
  isNear(ssim(a, b), 0.8984944256995561, 1e-12);
  isNear(psnr(a, b), 31.016892596978455, 1e-12);
});

test("ssim equals the direct computation, window by window", () => {
  for (const [height, width] of [[7, 7], [7, 12], [15, 8]] as const) {
    const a = picture(height, width, smooth), b = picture(height, width, noisy);
    isNear(ssim(a, b), directSsim(a, b), 1e-12);
  }
});

test("equal pictures, opposite pictures, batches of one", () => {
  const a = picture(8, 9, smooth), black = picture(8, 9, () => 0), white = picture(8, 9, () => 255);
  assert.equal(ssim(a, a), 1);
  assert.equal(psnr(a, a), Infinity);
  assert.equal(psnr(black, white), 0);
  assert.equal(ssim(new Tensor("uint8", [1, 8, 9, 3], a.data), a), 1);
});

test("sizes that cannot be compared are refused", () => {
  const a = picture(8, 9, smooth);
  assert.throws(() => psnr(a, picture(9, 8, smooth)), {
    code: "SHAPE",
    message: 'b: expected 9x8 pixels, as a has, found "8x9"',
  });
  assert.throws(() => ssim(picture(6, 9, smooth), picture(6, 9, smooth)), { code: "SHAPE" });
  assert.throws(() => psnr(a, new Tensor("uint8", [2, 4, 9, 3], a.data)), TokenizerError);
});

test("codebookUse counts codes and bits", () => {
  const indices = (...data: number[]) => new Tensor("int32", [1, 1, data.length], Int32Array.from(data));
  assert.deepEqual(codebookUse(indices(0, 1, 2, 3), 4), { distinct: 4, entropyBits: 2 });
  assert.deepEqual(codebookUse(indices(7, 7, 7), 8), { distinct: 1, entropyBits: 0 });
  assert.deepEqual(codebookUse(indices(5, 5, 5, 1), 64000), {
    distinct: 2,
    entropyBits: 0.75 * Math.log2(4 / 3) + 0.5,
  });
  assert.throws(() => codebookUse(indices(64000), 64000), { code: "VALUE", message: /from 0 to 63999, found 64000/ });
  assert.throws(() => codebookUse(indices(-1), 64000), { code: "VALUE" });
});
