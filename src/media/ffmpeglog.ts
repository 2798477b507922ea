/**
 * FFmpeg's stderr, line by line: why it failed, for messages, and whether a decoder or demuxer found damage. No other
 * fact about a file comes from here (ffprobe.ts). Lines carry their level (`-loglevel level+verbose`):
 *
 *   [graph 0 input from stream 0:0 @ 0x55…] [verbose] w:768 h:432 pixfmt:yuv420p tb:1/12800 fr:25/2 sar:0/1
 *   [mov,mp4,m4a,3gp,3g2,mj2 @ 0x56…] [error] stream 0, offset 0x37da8: partial file
 *
 * The graph line is written when the first frame is decoded. Why damage is taken from words: FFmpeg 4.1 and 5.1 have no
 * other sign. Of 13 files of 6 containers, cut short or overwritten, exit codes under -xerror missed 18 in 26 runs
 * (Matroska cut short, spoilt H.264 in MP4; both versions, 2026-11-25), and "corrupt" flags reach neither ffprobe's
 * JSON nor an encoder.
 */
import type { Ending } from "./ffmpeg.ts";

interface Complaint {
  readonly by: string;
  readonly text: string;
  readonly isAfterFirstFrame: boolean;
}

/** Sources of lines that say nothing about the file that is read: encoders, muxers, and FFmpeg itself about those. */
const writers = /^(nut|rawvideo|null|out#|vost#|aost#|mux)/;
/**
 * What decoders call an error though every pixel is there: of reference lists after a cut, and of a camera's own notes.
 */
const harmless = [
  /^Application provided invalid, non monotonically increasing dts/,
  /^(mmco: unref short failure|co located POCs unavailable)/,
  /^unable to decode APP fields/,
];

/** How many complaints of a run are kept: the first ones, and the last one. */
const mostComplaints = 100;

export class FfmpegLog {
  readonly #complaints: Complaint[] = [];
  readonly #name: string;
  readonly #nameBreaks: number;
  #skipped = 0;
  #hasFrame = false;

  /** `url`: what FFmpeg reads, whose name it repeats; one with line breaks would else be read as lines of its own. */
  constructor(url = "") {
    const [first = "", ...rest] = url.split(/\r?\n/);
    this.#name = first;
    this.#nameBreaks = rest.length;
  }

  /** The log of a run that has ended. */
  static of({ stderr }: Ending): FfmpegLog {
    const log = new FfmpegLog();
    for (const line of stderr.split("\n")) log.read(line);
    return log;
  }

  /** Takes one line of the log. It is an arrow function, so that it can be passed on as a callback. */
  readonly read = (line: string): void => {
    if (this.#skipped > 0) return void this.#skipped--;
    if (this.#nameBreaks > 0 && line.includes(this.#name)) this.#skipped = this.#nameBreaks;
    const parts = /^((?:\[[^\]]* @ 0x[0-9a-f]+\] )*)\[(\w+)\] ?(.*)$/.exec(line);
    if (!parts) return;
    const [, contexts, level, text] = parts as unknown as [string, string, string, string];
    if (level === "error" || level === "fatal" || level === "panic") {
      const by = /^\[([^\]]*?) @ /.exec(contexts)?.[1] ?? "";
      if (harmless.some((one) => one.test(text))) return; // of which there may be one a frame
      if (this.#complaints.length === mostComplaints) this.#complaints.pop();
      this.#complaints.push({ by, text, isAfterFirstFrame: this.#hasFrame });
    } else if (contexts.includes("graph") && text.startsWith("w:")) this.#hasFrame = true;
  };

  /**
   * A sign that frames are lost or spoilt. What a decoder says before the first frame does not count: a recording
   * that was joined midway begins with frames that nothing can decode. `format`: the demuxer, which says best what
   * happened.
   */
  damage(format: string): string | undefined {
    const told = this.#complaints.filter(({ by }) => !writers.test(by));
    const byContainer = told.find(({ by }) => by === format);
    return (byContainer ?? told.find(({ isAfterFirstFrame }) => isAfterFirstFrame))?.text;
  }

  /**
   * Whether FFmpeg could not write its output, of which its exit code need not tell (it is 0 after a full disk, up to
   * 5.1).
   */
  get isUnwritten(): boolean {
    const told = /^(Error (writing|closing|muxing)|av_interleaved_write_frame\(\))/;
    return this.#complaints.some(({ by, text }) => by === "" && told.test(text));
  }

  /** The demuxer that a file needs, where inputArgs does not allow it; else undefined. */
  get refusedFormat(): string | undefined {
    return this.#complaints.find(({ text }) => text.startsWith("Format not on whitelist"))?.by;
  }

  /**
   * A frame's size that a decoder refused, above `-max_pixels` or FFmpeg's own limit; of one that came after the first
   * frame.
   */
  excess(isAfterFirstFrame: boolean): { readonly height: number; readonly width: number } | undefined {
    for (const { text, isAfterFirstFrame: isLater } of this.#complaints) {
      const size = /^Picture size (\d+)x(\d+) (exceeds specified max pixel count|is invalid)/.exec(text);
      if (size && isLater === isAfterFirstFrame) return { height: Number(size[2]), width: Number(size[1]) };
    }
    return undefined;
  }

  /** The last errors that FFmpeg reported, on one line. */
  get reason(): string {
    const texts = this.#complaints.map(({ text }) => text.trim()).filter((text) =>
      text && !/^Conversion failed/.test(text)
    );
    return [...new Set(texts)].slice(-3).join("; ");
  }
}
