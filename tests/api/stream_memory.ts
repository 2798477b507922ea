/**
 * Run as a process of its own: MODE FRAMES HEIGHT WIDTH [MODEL]. Encodes synthetic frames in a stream or in windows and
 * prints as JSON the growth of peak resident memory since the model was opened, what the plan said (without weights),
 * and the bytes of the temporal attention's past in it.
 */
import process from "node:process";
import { type TensorLike, Tokenizer } from "mod.ts";
import { peakResidentBytes, residentBytes } from "../support.ts";

const [mode, model = "nano-DV4x8x8"] = [process.argv[2] as "stream" | "window", process.argv[6]];
const [frames, height, width] = process.argv.slice(3, 6).map(Number) as [number, number, number];

function* video(): Generator<TensorLike<"uint8">> {
  const data = new Uint8Array(height * width * 3);
  for (let t = 0; t < frames; t++) yield { dtype: "uint8", shape: [height, width, 3], data: data.fill(t * 7) };
}

await using tok = await Tokenizer.open(model, { half: "encoder" });
const plan = tok.plan({ frames, height, width }, { mode });
const before = residentBytes();
for await (const _ of tok.encodeStream(video(), mode === "window" ? { window: 17 } : {}));
const tokenFrames = Math.ceil((frames - 1) / tok.info.temporalFactor) + 1;
console.log(JSON.stringify({
  peakBytes: peakResidentBytes() - before,
  planBytes: plan.totalBytes - plan.weightBytes,
  pastBytes: plan.stateBytesPerTokenFrame * tokenFrames,
}));
