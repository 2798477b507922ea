// deno-lint-ignore-file no-control-regex
/**
 * What a file is: a picture, a video or tokens, by its extension, else by its first bytes; and whether ctok wrote it.
 * One table of extensions for all that ask. What a file called so then holds is for its reader to find out. Called by
 * the command line and the REPL.
 */
import { constants } from "node:fs";
import { open } from "node:fs/promises";
import { extname } from "node:path";
import { pictureExtensions } from "./image.ts";
import { videoExtensions } from "./videosink.ts";
import { type TokenFormat, tokenFormats } from "../tokens/tokenfile.ts";

export type FileKind = "picture" | "video" | "tokens";

/**
 * Extensions of what is read. A GIF counts as a picture (its first frame), an SVG too, which is drawn only on request.
 */
export const readExtensions: Readonly<Record<FileKind, readonly string[]>> = {
  picture: [".png", ".jpg", ".jpeg", ".jpe", ".jfif", ".webp", ".avif", ".gif", ".tif", ".tiff", ".svg"],
  video: [
    ...[".mp4", ".m4v", ".mov", ".qt", ".f4v", ".3gp", ".3g2", ".mkv", ".mk3d", ".webm", ".avi", ".divx"],
    ...[".wmv", ".asf", ".flv", ".ogv", ".ogm", ".mpg", ".mpeg", ".m1v", ".m2v", ".m2p", ".mpv", ".vob"],
    ...[".ts", ".mts", ".m2ts", ".m2t", ".tod", ".mod", ".mxf", ".gxf", ".nut", ".ivf", ".y4m", ".dv"],
    ...[".rm", ".rmvb", ".wtv", ".h264", ".264", ".h265", ".265", ".hevc", ".avc", ".obu", ".mjpg", ".mjpeg"],
  ],
  tokens: tokenFormats.map((format) => `.${format}`),
};

/** Extensions of the files that writeImage, createVideo and saveTokens write, by kind. */
export const writtenExtensions: Readonly<Record<FileKind, readonly string[]>> = {
  picture: pictureExtensions,
  video: videoExtensions,
  tokens: readExtensions.tokens,
};

const headBytes = 4096;

/**
 * The kind of a file: by its extension, in any case, or by its first bytes where that says nothing. Undefined where
 * they say nothing either.
 */
export async function fileKind(path: string): Promise<FileKind | undefined> {
  return kindOfName(path) ?? kindOfBytes(await headOf(path, 0, headBytes));
}

/** What kind of file a name's extension stands for. */
export function kindOfName(path: string): FileKind | undefined {
  const extension = extname(path).toLowerCase();
  return (["picture", "video", "tokens"] as const).find((kind) => readExtensions[kind].includes(extension));
}

/**
 * Which bytes at which offset mark which kind of file, as regular expressions over latin1, where a character is a byte.
 * The first that fits decides.
 */
const marks: readonly [kind: FileKind, at: number, mark: RegExp][] = [
  ["picture", 0, /^(\x89PNG\r\n|\xff\xd8\xff|GIF8[79]a|RIFF....WEBP|II[*+]\0|MM\0[*+]|\xff\x0a|\0\0\0\x0cJXL )/s],
  ["picture", 4, /^ftyp(avif|avis|heic|heix|mif1|msf1)/],
  ["picture", 0, /^(\xef\xbb\xbf)?\s*<(svg|\?xml|!DOCTYPE svg|!--)/i],
  ["video", 4, /^(ftyp|moov|mdat|wide|skip|free)/], // ISO and QuickTime
  ["video", 0, /^(\x1a\x45\xdf\xa3|RIFF....AVI |OggS|FLV\x01|\x30\x26\xb2\x75\x8e\x66\xcf\x11)/s], // Matroska … ASF
  // From MPEG to RealMedia.
  ["video", 0, /^(\0\0\x01[\xba\xb3]|\x06\x0e\x2b\x34|nut\/multimedia container|YUV4MPEG2|DKIF|\.RMF)/],
  ["video", 0, /^\0?\0\0\x01([\x27\x47\x67]|\x09[\x10\x30\x50\x70\xf0]|[\x40\x46]\x01)/], // H.264 and HEVC as such
  ["video", 0, /^\x47.{187}\x47.{187}\x47/s], // a transport stream
  ["video", 4, /^\x47.{191}\x47.{191}\x47/s], // with times before its packets: .m2ts
  ["tokens", 0, /^\x93NUMPY/],
  ["tokens", 0, /ctok-tokens-/],
];

function kindOfBytes(head: Uint8Array): FileKind | undefined {
  const text = String.fromCharCode(...head);
  return marks.find(([, at, mark]) => mark.test(text.slice(at)))?.[0];
}

/** Bytes of a file, fewer at its end; none of what is no regular file or cannot be read: its reader will tell. */
async function headOf(path: string, at: number, length: number): Promise<Uint8Array> {
  const bytes = new Uint8Array(length);
  try {
    const file = await open(path, constants.O_RDONLY | (constants.O_NONBLOCK ?? 0)); // not to wait for a pipe's writer
    try {
      const isFile = (await file.stat()).isFile();
      return isFile ? bytes.subarray(0, (await file.read(bytes, 0, length, at)).bytesRead) : bytes.subarray(0, 0);
    } finally {
      await file.close();
    }
  } catch {
    return bytes.subarray(0, 0);
  }
}

const mostHeaderBytes = 32 << 20; // as checkpoints may have

/**
 * Whether a file is one that ctok wrote, as far as its content tells: tokens as safetensors or msgpack, a converted
 * checkpoint. Pictures, videos and .npy arrays bear no mark.
 */
export async function writtenByCtok(path: string): Promise<"tokens" | "checkpoint" | undefined> {
  const head = await headOf(path, 0, 64);
  if (isMsgpackTokens(head)) return "tokens";
  const metadata = (await safetensorsHeader(path, head))?.metadata ?? {};
  if (String(metadata.format).startsWith("ctok-tokens-")) return "tokens";
  return Object.hasOwn(metadata, "ctok.name") ? "checkpoint" : undefined;
}

/**
 * Which form of token file a file is, by its content alone; undefined for anything else, a checkpoint too. A
 * safetensors file that ctok did not write is one of tokens where it has a tensor `indices` or `latent`.
 */
export async function tokenFormatOf(path: string): Promise<TokenFormat | undefined> {
  const head = await headOf(path, 0, 64);
  if (String.fromCharCode(...head.subarray(0, 6)) === "\x93NUMPY") return "npy";
  if (isMsgpackTokens(head)) return "msgpack";
  const { names = [], metadata = {} } = await safetensorsHeader(path, head) ?? {};
  const isMarked = String(metadata.format).startsWith("ctok-tokens-");
  return isMarked || names.includes("indices") || names.includes("latent") ? "safetensors" : undefined;
}

/** Whether the first entry of a msgpack map is that of a token file. */
function isMsgpackTokens(head: Uint8Array): boolean {
  return /^(.|\xde..|\xdf....)\xa6format.{1,2}ctok-tokens-/s.test(String.fromCharCode(...head));
}

/** The tensors' names and the metadata of a safetensors file; undefined for any other. */
async function safetensorsHeader(
  path: string,
  head: Uint8Array,
): Promise<{ readonly names: readonly string[]; readonly metadata: Record<string, unknown> } | undefined> {
  if (head.length < 10 || head[8] !== 0x7b) return undefined;
  const length = new DataView(head.buffer, head.byteOffset).getBigUint64(0, true);
  if (length > BigInt(mostHeaderBytes)) return undefined;
  try {
    const { __metadata__, ...tensors } = JSON.parse(new TextDecoder().decode(await headOf(path, 8, Number(length))));
    return { names: Object.keys(tensors), metadata: Object(__metadata__) };
  } catch { // no JSON
    return undefined;
  }
}
