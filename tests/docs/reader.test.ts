/**
 * The Python reader of docs/token_formats.md reads what ctok writes, in all three forms, to the last element; so do the
 * README's lines with PyTorch and with NumPy, where Python has them.
 */
import assert from "node:assert/strict";
import { writeFile } from "node:fs/promises";
import { join } from "node:path";
import { test } from "node:test";
import {
  fsq,
  type Quantizer,
  saveTokens,
  Tensor,
  type TensorLike,
  tokenFormats,
  Tokenizer,
  Tokens,
  type VideoOrigin,
} from "mod.ts";
import { carried, runtime, withFolder } from "../support.ts";
import { noPython, python, runs, whatPythonLacks } from "../workplace.ts";
import { blocksOf, read } from "./documents.ts";

const skip = runtime === "bun" ? noPython : "runs once, beside Bun's tests";
const reader = blocksOf(read("docs/token_formats.md")).find(({ name }) => name === "read_tokens.py")!.text;
const script = `import json, sys
from read_tokens import read_tokens
for path in sys.argv[1:]:
    about, arrays = read_tokens(path)
    print(json.dumps([about, {name: [shape, list(values)] for name, (shape, values) in arrays.items()}]))
`;

const picture = (height: number, width: number, frames?: number): TensorLike<"uint8"> => {
  const shape = [...(frames ? [frames] : []), height, width, 3], size = shape.reduce((a, b) => a * b);
  return { dtype: "uint8", shape, data: Uint8Array.from({ length: size }, (_, i) => (i * 37) & 255) };
};
/** What a file says of FSQ levels, and of none. */
function keysOf(quantizer: Quantizer | undefined) {
  return quantizer?.kind === "fsq" ? { quantizer: "fsq", levels: quantizer.levels } : { quantizer: "none" };
}
const stored = ({ shape, data }: TensorLike) => [shape, Array.from(data)];

/** Tokens with another origin of their video. */
function timed(tokens: Tokens, about: Partial<VideoOrigin>): Tokens {
  const origin = { ...tokens.origin, video: { ...tokens.origin.video!, ...about } };
  return new Tokens(origin, { indices: tokens.indices });
}

/**
 * Tokens of every kind: discrete with preQuant, continuous, windows of a video, a seamless video, times, a large
 * codebook.
 */
async function samples(): Promise<Record<string, Tokens>> {
  await using images = await Tokenizer.open("nano-DI8x8");
  await using videos = await Tokenizer.open("nano-DV4x8x8");
  await using latents = await Tokenizer.open(join(carried, "Cosmos-Tokenizer-CI8x8"));
  const discrete = await images.encode([picture(30, 45), picture(30, 45)], { preQuant: true });
  const [part] = await Array.fromAsync(
    videos.encodeStream([0, 1, 2].map(() => new Tensor("uint8", [16, 32, 3], picture(16, 32).data as Uint8Array)), {
      fps: "25/2",
    }),
  );
  const large = { ...discrete.origin, quantizer: fsq([300, 300]), height: 16, width: 16, top: 0, left: 0 };
  return {
    discrete,
    continuous: await latents.encode(picture(17, 16)),
    windows: await videos.encode(picture(16, 16, 21)),
    repeated: timed(await videos.encode(picture(16, 16, 22), { window: 7 }), { start: 0.6, sampleAspect: "16:11" }),
    stream: part!,
    varying: timed(part!, { times: [0.1, 1 / 3, 2e-7 + 1] }),
    large: new Tokens(large, { indices: new Tensor("int32", [1, 2, 2], Int32Array.of(0, 1, 70000, 89999)) }),
  };
}

test("the Python reader of token_formats.md gives what was saved", { skip }, () =>
  withFolder(async (folder) => {
    await writeFile(join(folder, "read_tokens.py"), reader);
    await writeFile(join(folder, "all.py"), script);
    const all = Object.entries(await samples()).flatMap(([name, tokens]) =>
      tokenFormats.map((format) => ({ name, file: `${name}.${format}`, tokens, format }))
    );
    for (const { file, tokens, format } of all) await saveTokens(join(folder, file), tokens, { format });
    const { stdout } = await runs(folder, python, ["all.py", ...all.map(({ file }) => file)]);
    const lines = stdout.trim().split("\n").map((line) => JSON.parse(line));
    const windows: Record<string, string> = { windows: "5/17/0 3/4/2", repeated: "3/7/1*3 1/1/0" };
    for (const [i, { name, file, tokens, format }] of all.entries()) {
      const { model, precision, sha256, spatialFactor, quantizer, height, width, top, left, version, video } =
        tokens.origin;
      const kind = tokens.isDiscrete ? "indices" : "latent";
      const about = {
        ...{ format: "ctok-tokens-2", kind, model, source: model, precision, ...(sha256 && { sha256 }) },
        ...{ spatial_factor: spatialFactor, ...keysOf(quantizer), height, width, top, left, ctok_version: version },
        ...(video && { frames: video.frames, temporal_factor: video.temporalFactor }),
        ...(video?.fps && { fps: video.fps }),
        ...(video?.start && { start: video.start }),
        ...(video?.sampleAspect && { sample_aspect: video.sampleAspect }),
        ...(video?.windows && { windows: windows[name] }),
      };
      const preQuant = tokens.parts.includes("preQuant") && format !== "npy" && { preQuant: stored(tokens.preQuant) };
      const times = video?.times && format !== "npy" && { times: [[video.frames], video.times] };
      const arrays = { [kind]: stored(tokens.main), ...preQuant, ...times };
      assert.deepEqual(lines[i], [format === "npy" ? { kind } : about, arrays], file);
    }
    assert.equal(lines.length, 21);
  }));

for (const [name, file] of [["load_torch.py", "photo.safetensors"], ["load_numpy.py", "photo.npy"]] as const) {
  const lines = blocksOf(read("README.md")).find((block) => block.name === name)!.text;
  test(
    `the README's ${name} gives what was saved`,
    { skip: skip || whatPythonLacks(lines) },
    () =>
      withFolder(async (folder) => {
        await using tokenizer = await Tokenizer.open("nano-DI8x8");
        const tokens = await tokenizer.encode(picture(30, 45)), { indices } = tokens;
        await saveTokens(join(folder, file), tokens);
        const print =
          "import json\nprint(json.dumps([str(tokens.dtype), list(tokens.shape), tokens.reshape(-1).tolist()]))\n";
        await writeFile(join(folder, name), lines + print);
        const [dtype, shape, values] = JSON.parse((await runs(folder, python, [name])).stdout);
        assert.match(dtype, /^(torch\.)?int64$/);
        assert.deepEqual([shape, values], [indices.shape, Array.from(indices.data)]);
      }),
  );
}
