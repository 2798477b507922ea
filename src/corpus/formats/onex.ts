/**
 * The files of 1X's world model data, of a video model whose windows of 17 frames are 3 token frames: video_N.bin,
 * int32 windows [3, h, w] one after the other; segment_idx_N.bin, an int32 a frame that says which clip of the shard it
 * is of; metadata_N.json; for the set metadata.json. The robot's states are not ours to make. N is the shard's number,
 * without zeros in front. STEM.jsonl keeps what the numbers do not say. Every window is full, as frame i lies in window
 * ⌊i / 17⌋, and all have one grid. Ref: the dataset card of 1x-technologies/world_model_tokenized_data, and its
 * unpack_data.py.
 */
import { expected } from "../../errors.ts";
import { codebookSize } from "../../tokens/quantizer.ts";
import { bytesFor, storedTensor } from "../../tokens/stored.ts";
import { parseWindows } from "../../tokens/origin.ts";
import type { CommittedShard, CorpusFacts } from "../format.ts";
import { type RecordKeys, sampleOf } from "../records.ts";
import { readLines, utf8Of, writeLine } from "./companion.ts";
import { defineFormat } from "./define.ts";

const windowFrames = 17, windowTokens = 3;

export const oneX = defineFormat({
  name: "1x",
  about: "video_N.bin of windows of 17 frames, as 1X's world model data",
  dtypes: { discrete: ["int32"], continuous: [] },
  refuse({ isVideo, temporalFactor }) {
    if (isVideo && temporalFactor === 8) return;
    throw expected("format 1x", "a video model of temporal factor 8", isVideo ? temporalFactor : "a picture model");
  },
  async write(files, facts) {
    const n = Number(files.stem), lines = await files.create(".jsonl");
    const video = await files.create(".bin", `video_${n}.bin`);
    const segments = await files.create(".bin", `segment_idx_${n}.bin`);
    let clips = 0, frames = 0, grid: readonly number[] | undefined;
    return {
      async add(sample) {
        const { data, shape } = sample.tensor, clipFrames = framesOf(sample.key, sample.record, shape[1]!);
        grid ??= shape.slice(2);
        checkGrid(sample.key, grid, shape.slice(2));
        await video.write(new Uint8Array(data.buffer, data.byteOffset, data.byteLength));
        await segments.write(new Uint8Array(new Int32Array(clipFrames).fill(clips).buffer));
        await writeLine(lines, sample, { shape: shape.slice(1) });
        clips++;
        frames += clipFrames;
      },
      async finish() {
        const file = await files.create(".json", `metadata_${n}.json`);
        await file.write(metadataOf(n, frames, grid, facts));
      },
    };
  },
  async *read(open, shard, facts) {
    const n = Number(shard.stem);
    await using lines = await open(".jsonl");
    await using video = await open("", `video_${n}.bin`);
    await using segments = await open("", `segment_idx_${n}.bin`);
    await using metadata = await open("", `metadata_${n}.json`);
    let at = 0, clips = 0, frames = 0, grid: readonly number[] | undefined;
    for await (const { record, shape, sidecars } of readLines(lines)) {
      if (!shape) throw expected(`${lines.name}: ${record.key}: shape`, "that of its tokens", "nothing", "TOKEN_FILE");
      const clipFrames = framesOf(String(record.key), record, shape[0]!), bytes = bytesFor("int32", shape);
      grid ??= shape.slice(1);
      checkGrid(String(record.key), grid, shape.slice(1));
      const told = storedTensor(segments.name, "int32", [clipFrames], await segments.read(4 * frames, 4 * clipFrames));
      const odd = (told.data as Int32Array).find((segment) => segment !== clips);
      if (odd !== undefined) {
        throw expected(`${segments.name}: clip ${clips}`, `${clips} of each frame`, odd, "TOKEN_FILE");
      }
      const data = await video.read(at, bytes);
      yield sampleOf(record, storedTensor(String(record.key), "int32", shape, data), sidecars, facts);
      at += bytes;
      clips++;
      frames += clipFrames;
    }
    if (at !== video.bytes) throw expected(video.name, `${at} bytes, as of all clips`, video.bytes, "TOKEN_FILE");
    if (4 * frames !== segments.bytes) {
      throw expected(segments.name, `${frames} frames`, segments.bytes / 4, "TOKEN_FILE");
    }
    const wanted = metadataOf(n, frames, grid, facts), found = await metadata.read(0, metadata.bytes);
    if (utf8Of(found) !== utf8Of(wanted)) {
      throw expected(metadata.name, utf8Of(wanted)!.trim(), utf8Of(found) ?? "other bytes", "TOKEN_FILE");
    }
  },
  setFiles: (shards, facts) => new Map([["metadata.json", setMetadata(shards, facts)]]),
});

/** How many frames a clip has; all must lie in full windows. Throws SHAPE. */
function framesOf(key: string, { frames, windows }: RecordKeys, tokenFrames: number): number {
  const wanted = tokenFrames / windowTokens * windowFrames;
  const all = windows === undefined ? [] : parseWindows(String(windows), tokenFrames);
  const isFull = all.length === 0
    ? tokenFrames === windowTokens
    : all.every((w) => w.tokens === windowTokens && w.frames === windowFrames);
  if (isFull && frames === wanted) return wanted;
  const found = `${frames} frames in ${all.length || 1} windows, ${tokenFrames} token frames`;
  throw expected(key, `windows of ${windowFrames} frames, all of them full`, found, "SHAPE");
}

function checkGrid(key: string, wanted: readonly number[], found: readonly number[]): void {
  if (wanted.join() === found.join()) return;
  const hint = `${found.join(" x ")} (one size for all: --size with --crop center)`;
  throw expected(`${key}: tokens of a frame`, `${wanted.join(" x ")}, as of the first clip`, hint);
}

function metadataOf(
  n: number,
  frames: number,
  grid: readonly number[] | undefined,
  { quantizer }: CorpusFacts,
): Uint8Array {
  const [h, w] = grid ?? [], size = quantizer && { vocab_size: codebookSize(quantizer) };
  const told = { shard_ind: n, shard_num_frames: frames, ...(grid && { h, w }), token_dtype: "int32", ...size };
  return new TextEncoder().encode(JSON.stringify(told) + "\n");
}

/** Writes the metadata file. It counts frames by the segments, which take four bytes each. */
function setMetadata(shards: readonly CommittedShard[], { quantizer }: CorpusFacts): Uint8Array {
  const frames = shards.flatMap(({ files }) => files).filter(({ name }) => name.startsWith("segment_idx_"))
    .reduce((sum, { bytes }) => sum + bytes / 4, 0);
  const told = { num_shards: shards.length, num_images: frames, token_dtype: "int32" };
  return new TextEncoder().encode(JSON.stringify({ ...told, vocab_size: codebookSize(quantizer!) }) + "\n");
}
