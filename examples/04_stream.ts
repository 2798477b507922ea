/**
 * A video as a stream: frames are read, encoded, decoded and written a few at a time, so memory does not grow with the
 * clip (but for the temporal attention's past). The parts are one seamless token sequence, equal to encoding the whole
 * clip at once. Needs FFmpeg. Writes out/04_stream/.
 * Run: bun examples/04_stream.ts [VIDEO [FRAMES]], or deno run -A examples/04_stream.ts [VIDEO [FRAMES]]
 */
import { mkdir } from "node:fs/promises";
import process from "node:process";
import { createVideo, defaultVideoModel, framesOf, joinTokens, saveTokens, Tokenizer, type TokenPart } from "ctok";

const video = process.argv[2] ?? "examples/media/cars.mp4",
  numFrames = Number(process.argv[3] ?? 17),
  out = "out/04_stream";
await mkdir(out, { recursive: true });

await using tokenizer = await Tokenizer.open(defaultVideoModel);
const { frames, fps, info } = await framesOf(video, { frames: numFrames });
const plan = tokenizer.plan({ frames: numFrames, height: info.height, width: info.width }, { mode: "stream" });
console.log(`${video}: ${info.width}x${info.height} pixels, ${fps} frames a second`);
console.log(`the plan for ${numFrames} frames: ${(plan.totalBytes / 2 ** 20).toFixed(0)} MiB to encode them`);

// Each part is made when it is asked for: the loop that takes frames from `decodeStream` drives everything before it.
const parts: TokenPart[] = [];
async function* seen(stream: AsyncIterable<TokenPart>): AsyncGenerator<TokenPart> {
  for await (const part of stream) {
    console.log(
      `frames ${part.firstFrame} to ${part.firstFrame + part.numFrames - 1} -> tokens [${part.indices.shape}]`,
    );
    parts.push(part);
    yield part;
  }
}
await using sink = await createVideo(`${out}/again.mp4`, { height: info.height, width: info.width, fps: info.fps });
let written = 0;
for await (const frame of tokenizer.decodeStream(seen(tokenizer.encodeStream(frames, { fps })))) {
  await sink.write(frame.data); // uint8 [H, W, 3]
  written++;
}
await sink.close();

const tokens = joinTokens(parts);
await saveTokens(`${out}/clip.safetensors`, tokens);
console.log(`${out}/again.mp4: ${written} frames; ${out}/clip.safetensors: [${tokens.indices.shape}]`);
