/**
 * Corpora for the tests of formats: facts and samples of every kind, and shards written to a folder as the commit
 * leaves them.
 */
import { createHash } from "node:crypto";
import { readFileSync } from "node:fs";
import { open } from "node:fs/promises";
import { join } from "node:path";
import type { CommittedShard, CorpusFacts, ShardFiles, ShardFormat, TokenDType } from "../../src/corpus/format.ts";
import type { Sample, SampleFacts } from "../../src/corpus/item.ts";
import { fsq, type Quantizer } from "../../src/tokens/quantizer.ts";
import { type Origin, Tensor, Tokens, type VideoOrigin } from "../../src/tokens/tensor.ts";
import { pictureOrigin } from "../support.ts";

export const kinds = ["pictures", "latents", "clips", "clip latents"] as const;
export type Kind = (typeof kinds)[number];

const levels = fsq([8, 8, 8, 5, 5, 5]);
const isVideo = (kind: Kind) => kind.startsWith("clip");
const isDiscrete = (kind: Kind) => !kind.endsWith("latents");

export function factsOf(kind: Kind, dtype: TokenDType, quantizer: Quantizer = levels): CorpusFacts {
  const { model, sha256, version } = pictureOrigin;
  return {
    ...{ model, source: model, sha256, precision: "bf16", version, dtype, numShards: 3 },
    ...{ isVideo: isVideo(kind), spatialFactor: 8, temporalFactor: isVideo(kind) ? 8 : 1 },
    ...(isDiscrete(kind) && { quantizer }),
  };
}

interface SampleOptions {
  readonly key: string;
  readonly height?: number;
  readonly width?: number;
  readonly video?: Omit<VideoOrigin, "temporalFactor">;
  readonly sidecars?: Sample["sidecars"];
  readonly more?: Partial<SampleFacts>;
  /** Side of a token grid that the picture does not fit into. */
  readonly grid?: number;
  /** Another element at each place. */
  readonly seed?: number;
}

/** Of a picture in the middle of its grid; latents hold values that bf16 and f16 hold exactly. */
export function sampleOf(kind: Kind, facts: CorpusFacts, options: SampleOptions): Sample {
  const { key, height = 13, width = 29, video, sidecars = [], more = {}, seed = 0 } = options;
  const grid = options.grid
    ? [options.grid / 8, options.grid / 8] as const
    : [Math.ceil(height / 8), Math.ceil(width / 8)] as const;
  const frames = video &&
    (video.windows?.reduce((sum, w) => sum + w.tokens, 0) ?? Math.ceil((video.frames - 1) / 8) + 1);
  const shape = [1, ...(isDiscrete(kind) ? [] : [16]), ...(frames ? [frames] : []), ...grid];
  const origin: Origin = {
    ...{ model: facts.model, source: facts.source, precision: "bf16", sha256: facts.sha256, spatialFactor: 8 },
    ...(facts.quantizer && { quantizer: facts.quantizer }),
    ...{ height, width, version: facts.version },
    top: Math.max(0, Math.floor((grid[0] * 8 - height) / 2)),
    left: Math.max(0, Math.floor((grid[1] * 8 - width) / 2)),
    ...(video && { video: { temporalFactor: 8, ...video } }),
  };
  const size = shape.reduce((a, b) => a * b), at = (i: number) => (i * 7919 + seed * 104729 + 63999) % 64000;
  const tokens = isDiscrete(kind)
    ? {
      indices: new Tensor("int32", shape, Int32Array.from({ length: size }, (_, i) => at(i)), {
        kind: "indices",
        origin,
      }),
    }
    : {
      latent: new Tensor("float32", shape, Float32Array.from({ length: size }, (_, i) => (at(i) % 255 - 127) / 32), {
        kind: "latent",
        origin,
      }),
    };
  const told: SampleFacts = {
    ...{ fileName: `${key}.photo.jpg`, height, width, originalHeight: 2 * height, originalWidth: 3 * width },
    ...(video && { numFrames: video.frames, ...(video.fps && { fps: video.fps }) }),
    ...more,
  };
  return { key, tokens: new Tokens(origin, tokens), facts: told, sidecars };
}

const utf8 = (text: string) => new TextEncoder().encode(text);
/** Of each kind of content: text, a record whose name is ours too, bytes that are no text, nothing. */
export const sidecars: Sample["sidecars"] = [
  { field: "txt", bytes: utf8("a cat, Ünïcode 画像\n") },
  { field: "json", bytes: utf8('{"score": 1}') },
  { field: "cls", bytes: utf8("207") },
  { field: "seg.png", bytes: Uint8Array.of(0x89, 0x50, 0xff, 0, 254, 10, 13) },
  { field: "empty", bytes: new Uint8Array(0) },
];

const window = { tokens: 3, frames: 17, before: 0 };
/** Samples of different sizes (equal ones where asked), with and without sidecars and facts. */
export function samplesOf(kind: Kind, facts: CorpusFacts, isEqual = false): Sample[] {
  const size = (height: number, width: number) => isEqual ? { height: 16, width: 24 } : { height, width };
  const clip = (frames: number, more: object = {}) =>
    isVideo(kind)
      ? { video: { frames, windows: new Array(Math.ceil(frames / 17)).fill(window), fps: "30000/1001", ...more } }
      : {};
  const more = { cropTop: 3, cropLeft: 0, isFlipped: true, bucket: "24x16", ...(isVideo(kind) && { firstFrame: 40 }) };
  return [
    sampleOf(kind, facts, { key: "folder__photo", ...size(13, 29), ...clip(17), sidecars, more }),
    sampleOf(kind, facts, { key: "画像-é", ...size(16, 24), ...clip(isEqual ? 17 : 34), seed: 1 }),
    sampleOf(kind, facts, { key: "7", ...size(8, 8), ...clip(17, { start: 0.25, sampleAspect: "16:11" }), seed: 2 }),
    sampleOf(kind, facts, {
      key: "k".repeat(180),
      ...size(9, 40),
      ...clip(17),
      seed: 3,
      sidecars: sidecars.slice(0, 1),
    }),
  ];
}

/** The dtypes of a format for a kind. */
export function dtypesOf(format: ShardFormat, kind: Kind): readonly TokenDType[] {
  return isDiscrete(kind) ? format.dtypes.discrete : format.dtypes.continuous;
}

/** The files of a shard, written at once under their own names. */
function filesIn(folder: string, stem: string): { files: ShardFiles; close: () => Promise<void>; names: string[] } {
  const names: string[] = [], handles: { close(): Promise<void> }[] = [];
  const create = async (suffix: string, name = stem + suffix) => {
    const handle = await open(join(folder, name), "wx");
    let offset = 0;
    names.push(name), handles.push(handle);
    return {
      get offset() {
        return offset;
      },
      async write(bytes: Uint8Array) {
        await handle.writeFile(bytes);
        offset += bytes.length;
      },
    };
  };
  return { files: { stem, create }, names, close: async () => void await Promise.all(handles.map((h) => h.close())) };
}

/** Writes a shard and gives what its manifest would say. */
export async function writeShard(
  folder: string,
  format: ShardFormat,
  facts: CorpusFacts,
  samples: readonly Sample[],
  index = 2,
): Promise<CommittedShard> {
  const stem = String(index).padStart(5, "0"), { files, names, close } = filesIn(folder, stem);
  try {
    const writer = await format.open(files, facts);
    for (const sample of samples) await writer.add(sample);
    await writer.finish();
  } finally {
    await close();
  }
  return { index, stem, numSamples: samples.length, files: names.map((name) => committed(folder, name)) };
}

export function committed(folder: string, name: string): CommittedShard["files"][number] {
  const bytes = readFileSync(join(folder, name));
  return { name, bytes: bytes.length, sha256: createHash("sha256").update(bytes).digest("hex") };
}

export function readShard(
  folder: string,
  format: ShardFormat,
  shard: CommittedShard,
  facts: CorpusFacts,
): Promise<Sample[]> {
  return Array.fromAsync(format.read(folder, shard, facts));
}
