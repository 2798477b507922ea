/**
 * How near two pictures are, and how much of a codebook a picture uses. Pictures are uint8 [H, W, 3] or [1, H, W, 3].
 * SSIM is that of scikit-image, structural_similarity(a, b, channel_axis=-1, data_range=255): 7×7 uniform windows,
 * sample covariance, the mean over whole windows only and over channels. Ref: Wang et al. 2004, IEEE TIP 13(4).
 */
import { pictureSize } from "../tokens/dense.ts";
import { expected } from "../errors.ts";
import { checkTensor, type TensorLike } from "../tokens/tensor.ts";

/** Peak signal-to-noise ratio in dB, peak 255: 10 log10(255² / mean squared error); Infinity when equal. */
export function psnr(a: TensorLike<"uint8">, b: TensorLike<"uint8">): number {
  sameSize(a, b);
  let squares = 0;
  for (let i = 0; i < a.data.length; i++) squares += (a.data[i]! - b.data[i]!) ** 2;
  return 10 * Math.log10(255 ** 2 * a.data.length / squares);
}

const side = 7, windowPixels = side * side;

/** Structural similarity, -1 .. 1, 1 when equal. Throws SHAPE for pictures under 7×7. */
export function ssim(a: TensorLike<"uint8">, b: TensorLike<"uint8">): number {
  const { height, width } = sameSize(a, b);
  if (height < side || width < side) {
    throw expected("a", `at least ${side}x${side} pixels`, `${width}x${height}`, "SHAPE");
  }
  const c1 = (0.01 * 255) ** 2, c2 = (0.03 * 255) ** 2, sample = windowPixels / (windowPixels - 1);
  let total = 0;
  for (let c = 0; c < 3; c++) {
    // Sums of a, b, a², b² and ab over the last 7 rows of each column: whole numbers under 2²², so exact.
    const columns = new Int32Array(5 * width);
    const addRow = (y: number, sign: 1 | -1) => {
      for (let x = 0, i = y * width * 3 + c; x < width; x++, i += 3) {
        const p = a.data[i]!, q = b.data[i]!;
        columns[x * 5]! += sign * p;
        columns[x * 5 + 1]! += sign * q;
        columns[x * 5 + 2]! += sign * p * p;
        columns[x * 5 + 3]! += sign * q * q;
        columns[x * 5 + 4]! += sign * p * q;
      }
    };
    for (let y = 0; y < height; y++) {
      addRow(y, 1);
      if (y >= side) addRow(y - side, -1);
      if (y < side - 1) continue;
      const sums = new Int32Array(5);
      for (let x = 0; x < width; x++) {
        for (let k = 0; k < 5; k++) sums[k]! += columns[x * 5 + k]! - (x >= side ? columns[(x - side) * 5 + k]! : 0);
        if (x < side - 1) continue;
        const meanA = sums[0]! / windowPixels, meanB = sums[1]! / windowPixels;
        const varianceA = sample * (sums[2]! / windowPixels - meanA * meanA);
        const varianceB = sample * (sums[3]! / windowPixels - meanB * meanB);
        const covariance = sample * (sums[4]! / windowPixels - meanA * meanB);
        total += (2 * meanA * meanB + c1) * (2 * covariance + c2) /
          ((meanA * meanA + meanB * meanB + c1) * (varianceA + varianceB + c2));
      }
    }
  }
  return total / (3 * (height - side + 1) * (width - side + 1));
}

/**
 * How many of the `size` codes occur, and the entropy of their frequencies in bits a token (at most log2 of `size` and
 * of the number of tokens). Indices of any shape. Throws VALUE at an index outside 0 .. size − 1.
 */
export function codebookUse(
  indices: TensorLike<"int32" | "uint16">,
  size: number,
): { distinct: number; entropyBits: number } {
  checkTensor("indices", indices);
  if (!Number.isSafeInteger(size) || size < 1) throw expected("size", "a positive whole number", size);
  const counts = new Map<number, number>();
  for (const index of indices.data) {
    if (index < 0 || index >= size) throw expected("indices", `numbers from 0 to ${size - 1}`, index, "VALUE");
    counts.set(index, (counts.get(index) ?? 0) + 1);
  }
  let entropyBits = 0;
  for (const count of counts.values()) {
    entropyBits += count / indices.data.length * Math.log2(indices.data.length / count);
  }
  return { distinct: counts.size, entropyBits };
}

function sameSize(a: TensorLike<"uint8">, b: TensorLike<"uint8">): { height: number; width: number } {
  const size = pictureSize("a", a), other = pictureSize("b", b);
  if (size.height !== other.height || size.width !== other.width) {
    throw expected("b", `${size.width}x${size.height} pixels, as a has`, `${other.width}x${other.height}`, "SHAPE");
  }
  return size;
}
