/**
 * What is in a media file, by ffprobe's JSON: streams, rates, rotation, when streams start, and the packets of the
 * beginning. Texts inside the file (titles, tags) are no part of what is asked for. Called where videos are opened and
 * where audio is taken along. Decoded frames, whose size and times are the truth in the end, are videofile.ts's.
 */
import { throwIfAborted } from "../abort.ts";
import { TokenizerError } from "../errors.ts";
import { type Ending, findFfprobe, inputArgs, startFfprobe, tellEnding } from "./ffmpeg.ts";
import { FfmpegLog } from "./ffmpeglog.ts";
import { tooLarge } from "./picture.ts";

/** What ffprobe says of a file after reading its beginning. */
export interface MediaFacts {
  /** Name of the demuxer, such as "matroska,webm". */
  readonly format: string;
  /** The earliest start of any stream on the container's clock, in seconds; undefined where it has no timestamps. */
  readonly startSeconds: number | undefined;
  readonly durationSeconds: number | undefined;
  /** The first video stream that is not cover art. */
  readonly video: VideoFacts | undefined;
  /** FFmpeg's name for the codec of the first audio stream. */
  readonly audioCodec: string | undefined;
}

export interface VideoFacts {
  readonly codec: string;
  /** Height as stored, in pixels; 0 where it is known only once a frame is decoded. */
  readonly height: number;
  readonly width: number;
  /** Rotation that the display matrix asks for, in degrees counter-clockwise. */
  readonly rotation: number;
  readonly startSeconds: number | undefined;
  readonly durationSeconds: number | undefined;
  /** Number of frames as the container's index gives it; undefined where it does not. */
  readonly numFrames: number | undefined;
  /**
   * Fractions such as "30000/1001", neither of which need be the frames' rate: of the finest tick seen, and the
   * average.
   */
  readonly tickRate: string | undefined;
  readonly averageRate: string | undefined;
  /** The video stream's first packets, in the file's order. */
  readonly packets: readonly PacketFacts[];
}

export interface PacketFacts {
  /** When the packet's frame is shown, and when it is decoded, in seconds on the container's clock. */
  readonly seconds: number | undefined;
  readonly decodedSeconds: number | undefined;
  /** Whether it is a key frame, where decoding can begin. */
  readonly isKey: boolean;
  /** Whether its frame is decoded and not shown: before the start of an edit list. */
  readonly isDropped: boolean;
}

/** How many packets of all streams together are read: some seconds of a video with sound. */
const firstPackets = 400;
/** Too few to tell a rate by, and as many as are looked at for a key frame: 20 minutes at 25 a second. */
const fewPackets = 16, mostPackets = 40_000;
/** Limit: characters of ffprobe's JSON. A file with many streams would fill it with what is not needed. */
const mostCharacters = 1 << 24;

const entries = [
  "format=format_name,start_time,duration",
  "stream=index,codec_type,codec_name,width,height,start_time,duration,nb_frames,r_frame_rate,avg_frame_rate",
  "stream_disposition=attached_pic",
  "stream_side_data=rotation",
  "packet=stream_index,pts_time,dts_time,flags",
];

/**
 * Throws VIDEO when `path` is nothing that FFmpeg reads, with its words, or its pixels are too many; FFMPEG when
 * ffprobe is not found or died; CANCELLED. `wanted` is what the message says was expected.
 */
export async function probeMedia(
  path: string,
  limitPixels: number,
  signal?: AbortSignal,
  wanted = "a video that FFmpeg can read",
): Promise<MediaFacts> {
  const interval = ["-read_intervals", `%+#${firstPackets}`];
  const { text, ending } = await read(path, limitPixels, ["-show_entries", entries.join(":"), ...interval], signal);
  throwIfAborted(signal);
  if (ending.signal) {
    const message = `${path}: expected ffprobe to read it, found ${tellEnding(ending)}`;
    throw new TokenizerError("FFMPEG", message, { detail: 0 });
  }
  const size = ending.code === 0 ? undefined : FfmpegLog.of(ending).excess(false);
  if (size && size.height * size.width > limitPixels) {
    throw tooLarge("VIDEO", path, limitPixels, size.height, size.width);
  }
  if (ending.code !== 0) throw new TokenizerError("VIDEO", `${path}: expected ${wanted}, found: ${reasonOf(ending)}`);
  const json = parseJson(path, text), facts = toFacts(json), { video } = facts;
  // Sound alone for some seconds, or a recording joined midway.
  const isShort = video && (video.packets.length < fewPackets || !video.packets.some(({ isKey }) => isKey));
  if (!isShort || packetsOf(json).length < firstPackets) return facts;
  return { ...facts, video: { ...video, packets: await findPackets(path, limitPixels, signal) } };
}

/** Packets of the video alone, up to the first one at which decoding can begin and some more. */
async function findPackets(path: string, limitPixels: number, signal?: AbortSignal): Promise<readonly PacketFacts[]> {
  const entry = ["-select_streams", "V:0", "-show_entries", "packet=pts_time,dts_time,flags"];
  for (let count = firstPackets;; count *= 10) {
    const { text, ending } = await read(path, limitPixels, [...entry, "-read_intervals", `%+#${count}`], signal);
    throwIfAborted(signal);
    const packets = ending.code === 0 ? packetsOf(parseJson(path, text)) : [];
    const isEnough = packets.length < count || count >= mostPackets;
    if (isEnough || packets.slice(0, -fewPackets).some(({ isKey }) => isKey)) return packets;
  }
}

/**
 * Finds the first decoded frame whose size, as stored, is not that of the first frame; gives that size. Decodes all
 * frames up to there.
 */
export async function findOtherSize(
  path: string,
  limitPixels: number,
  signal?: AbortSignal,
): Promise<{ readonly height: number; readonly width: number } | undefined> {
  const args = [
    "-select_streams",
    "V:0",
    "-show_entries",
    "frame=width,height",
    "-print_format",
    "csv=print_section=0",
  ];
  const run = startFfprobe(await findFfprobe(), [...args, ...inputArgs(path, limitPixels)], { signal });
  let rest = "", first: string | undefined;
  try {
    for await (const chunk of run.stdout.iterator({ destroyOnReturn: false })) {
      const lines = (rest + String(chunk)).split("\n");
      rest = lines.pop()!;
      for (const line of lines) {
        const size = /^(\d+),(\d+)/.exec(line);
        if (!size) continue;
        first ??= size[0];
        if (size[0] !== first) return { width: Number(size[1]), height: Number(size[2]) };
      }
    }
    return undefined;
  } finally {
    await run.kill();
  }
}

async function read(
  path: string,
  limitPixels: number,
  args: readonly string[],
  signal?: AbortSignal,
): Promise<{ text: string; ending: Ending }> {
  const run = startFfprobe(await findFfprobe(), ["-print_format", "json", ...args, ...inputArgs(path, limitPixels)], {
    signal,
  });
  const chunks: Uint8Array[] = [];
  let size = 0;
  for await (const chunk of run.stdout as AsyncIterable<Uint8Array>) {
    chunks.push(chunk);
    if ((size += chunk.length) <= mostCharacters) continue;
    await run.kill();
    const message = `${path}: expected at most ${mostCharacters} characters about its streams, found more`;
    throw new TokenizerError("VIDEO", message);
  }
  return { text: new TextDecoder().decode(Buffer.concat(chunks)), ending: await run.ended };
}

/** Why ffprobe could not read a file, in words. */
function reasonOf(ending: Ending): string {
  const log = FfmpegLog.of(ending);
  if (log.refusedFormat === "tty") return "text"; // FFmpeg would draw it as a terminal does, and call that a video
  if (log.refusedFormat) return `${log.refusedFormat}, which is not on the list of formats that hold their own frames`;
  return log.reason || ending.stderr.trim() || tellEnding(ending);
}

// ---------------------------------------------------------------- JSON
type Json = Record<string, unknown>;

function parseJson(path: string, text: string): Json {
  try {
    return JSON.parse(text) as Json;
  } catch (cause) {
    throw new TokenizerError("INTERNAL", `${path}: expected JSON of ffprobe, found ${text.slice(0, 80)}`, { cause });
  }
}

function toFacts(json: Json): MediaFacts {
  const { format_name = "", start_time, duration } = (json.format ?? {}) as Json;
  const streams = listOf(json.streams), packets = packetsOf(json);
  const video = streams.find(({ codec_type, disposition }) => {
    return codec_type === "video" && (disposition as Json | undefined)?.attached_pic !== 1;
  });
  const audio = streams.find(({ codec_type }) => codec_type === "audio");
  return {
    format: String(format_name),
    startSeconds: toNumber(start_time),
    durationSeconds: toNumber(duration),
    video: video && toVideo(video, packets.filter(({ stream }) => stream === video.index)),
    audioCodec: audio && String(audio.codec_name ?? "unknown"),
  };
}

function toVideo(stream: Json, packets: readonly PacketFacts[]): VideoFacts {
  const turned = listOf(stream.side_data_list).find(({ rotation }) => typeof rotation === "number");
  return {
    codec: String(stream.codec_name ?? "unknown"),
    height: toNumber(stream.height) ?? 0,
    width: toNumber(stream.width) ?? 0,
    rotation: toNumber(turned?.rotation) ?? 0,
    startSeconds: toNumber(stream.start_time),
    durationSeconds: toNumber(stream.duration),
    numFrames: toNumber(stream.nb_frames),
    tickRate: toRateText(stream.r_frame_rate),
    averageRate: toRateText(stream.avg_frame_rate),
    packets,
  };
}

function packetsOf(json: Json): (PacketFacts & { stream: unknown })[] {
  // ffprobe gives packets and frames in one list where both are asked for.
  return listOf(json.packets ?? json.packets_and_frames).map(({ stream_index, pts_time, dts_time, flags }) => ({
    stream: stream_index,
    seconds: toNumber(pts_time),
    decodedSeconds: toNumber(dts_time),
    isKey: String(flags).includes("K"),
    isDropped: String(flags).includes("D"),
  }));
}

function listOf(value: unknown): Json[] {
  return Array.isArray(value) ? value.filter((one) => typeof one === "object" && one !== null) : [];
}

/** ffprobe writes most numbers as text, and leaves out those that it does not know or says N/A. */
function toNumber(value: unknown): number | undefined {
  const number = typeof value === "string" || typeof value === "number" ? Number(value) : NaN;
  return Number.isFinite(number) ? number : undefined;
}

function toRateText(value: unknown): string | undefined {
  return typeof value === "string" && /^[1-9]\d*\/[1-9]\d*$/.test(value) ? value : undefined;
}
