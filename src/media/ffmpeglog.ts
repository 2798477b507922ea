/**
 * What FFmpeg's stderr tells about a video, line by line: format, streams, sizes, damage. There is no ffprobe in the npm
 * package, and this text has been stable from FFmpeg 4 to 7. Lines carry their level (`-loglevel level+verbose`):
 *
 *   [info] Input #0, mov,mp4,m4a,3gp,3g2,mj2, from 'file:cars.mp4':
 *   [info]   Stream #0:0[0x1](eng): Video: h264 (High) (avc1 / 0x31637661), yuv420p(tv), 768x432, 12.50 fps, 12.50 tbr, …
 *   [graph 0 input from stream 0:0 @ 0x55…] [verbose] w:768 h:432 pixfmt:yuv420p tb:1/12800 fr:25/2 sar:0/1
 *   [mov,mp4,m4a,3gp,3g2,mj2 @ 0x56…] [error] stream 0, offset 0x37da8: partial file
 *
 * The graph line is written when the first frame is decoded, and again whenever a frame of another size comes.
 */
import type { Rate } from "./rate.ts";

interface Complaint {
  readonly by: string;
  readonly text: string;
  readonly isAfterFirstFrame: boolean;
}

export class FfmpegLog {
  /** The demuxer, such as "matroska,webm"; undefined while FFmpeg has not recognised the file. */
  format: string | undefined;
  /** Of the longest stream, as the header says or FFmpeg guesses. */
  durationSeconds: number | undefined;
  videoCodec: string | undefined;
  audioCodec: string | undefined;
  /** Degrees counter-clockwise, from the display matrix. */
  rotation = 0;
  /** The average rate (`fps`) and the rate of the finest clock tick seen (`tbr`), rounded to two decimals by FFmpeg. */
  averageRate: number | undefined;
  tickRate: number | undefined;
  /** The rate that FFmpeg itself would give the output. */
  guessedRate: Rate | undefined;
  /** Height and width of decoded frames, before rotation, each time they were another. */
  readonly sizes: { readonly height: number; readonly width: number }[] = [];
  /** Height and width of the frames that come out. */
  output: { readonly height: number; readonly width: number } | undefined;

  readonly #complaints: Complaint[] = [];
  #section: "input" | "output" | undefined;
  #isInVideo = false;

  /** Takes one line. An arrow, so that it can be handed on as it is. */
  readonly read = (line: string): void => {
    const parts = /^((?:\[[^\]]* @ 0x[0-9a-f]+\] )*)\[(\w+)\] ?(.*)$/.exec(line);
    if (!parts) return;
    const [, contexts, level, text] = parts as unknown as [string, string, string, string];
    if (level === "error" || level === "fatal" || level === "panic") {
      const by = /^\[([^\]]*?) @ /.exec(contexts)?.[1] ?? "";
      if (this.#complaints.length < 100) {
        this.#complaints.push({ by, text, isAfterFirstFrame: this.sizes.length > 0 });
      }
    } else if (contexts.includes("graph")) this.#readGraph(text);
    else if (contexts === "") this.#readDump(text);
  };

  #readGraph(text: string): void {
    const size = /^w:(\d+) h:(\d+) pixfmt:.* fr:(\d+)\/(\d+)/.exec(text);
    if (!size) return;
    const [width, height, num, den] = size.slice(1).map(Number) as [number, number, number, number];
    const last = this.sizes.at(-1);
    if (last?.height !== height || last.width !== width) this.sizes.push({ height, width });
    if (num > 0 && den > 0) this.guessedRate ??= { num, den };
  }

  #readDump(text: string): void {
    const input = /^Input #0, (.*?), from /.exec(text);
    if (input) {
      this.#section = "input";
      this.format = input[1];
    } else if (text.startsWith("Output #0")) this.#section = "output";
    else if (text.startsWith("Stream mapping")) this.#section = undefined;
    if (this.#section === "input") this.#readInput(text);
    if (this.#section === "output" && !this.output) {
      const size = /Stream #0:0.*: Video: .*?, (\d+)x(\d+)(?:[ ,]|$)/.exec(text);
      if (size) this.output = { height: Number(size[2]), width: Number(size[1]) };
    }
  }

  #readInput(text: string): void {
    const duration = /^\s*Duration: (\d+):(\d\d):(\d\d\.\d+)/.exec(text);
    if (duration) {
      this.durationSeconds = Number(duration[1]) * 3600 + Number(duration[2]) * 60 + Number(duration[3]);
    }
    const stream = /^\s*Stream #0:\d+.*?: (Video|Audio|\w+): (\w+)/.exec(text);
    if (stream) {
      const [, kind, codec] = stream;
      this.#isInVideo = kind === "Video" && !text.includes("(attached pic)") && this.videoCodec === undefined;
      if (kind === "Audio") this.audioCodec ??= codec;
      if (this.#isInVideo) {
        this.videoCodec = codec;
        this.averageRate = readNumber(/, ([\d.]+k?) fps/.exec(text)?.[1]);
        this.tickRate = readNumber(/, ([\d.]+k?) tbr/.exec(text)?.[1]);
      }
    }
    const rotation = /displaymatrix: rotation of (-?[\d.]+) degrees/.exec(text);
    if (rotation && this.#isInVideo) this.rotation = Number(rotation[1]);
  }

  /**
   * A sign that frames are lost or spoilt. What a decoder says before the first frame does not count: a recording
   * that was joined midway begins with frames that nothing can decode.
   */
  get damage(): string | undefined {
    const byContainer = this.#complaints.find(({ by }) => by === this.format); // says best what happened to the file
    return (byContainer ?? this.#complaints.find(({ isAfterFirstFrame }) => isAfterFirstFrame))?.text;
  }

  /** Whether FFmpeg could not write its output, of which its exit code need not tell (it is 0 after a full disk, up to 5.1). */
  get isUnwritten(): boolean {
    const told = /^(Error (writing|closing|muxing)|av_interleaved_write_frame\(\))/;
    return this.#complaints.some(({ by, text }) => by === "" && told.test(text));
  }

  /** The demuxer of a file that inputArgs keeps out. */
  get refusedFormat(): string | undefined {
    return this.#complaints.find(({ text }) => text.startsWith("Format not on whitelist"))?.by;
  }

  /** A frame's size that a decoder refused, above `-max_pixels` or FFmpeg's own limit; of one that came after the first frame. */
  excess(isAfterFirstFrame: boolean): { readonly height: number; readonly width: number } | undefined {
    for (const { text, isAfterFirstFrame: isLater } of this.#complaints) {
      const size = /^Picture size (\d+)x(\d+) (exceeds specified max pixel count|is invalid)/.exec(text);
      if (size && isLater === isAfterFirstFrame) return { height: Number(size[2]), width: Number(size[1]) };
    }
    return undefined;
  }

  /** The errors that FFmpeg told, the last ones, on one line. */
  get reason(): string {
    const texts = this.#complaints.map(({ text }) => text.trim()).filter((text) => text && !/^Conversion failed/.test(text));
    return [...new Set(texts)].slice(-3).join("; ");
  }
}

function readNumber(text: string | undefined): number | undefined {
  if (text === undefined) return undefined;
  return text.endsWith("k") ? Number(text.slice(0, -1)) * 1000 : Number(text);
}
