/**
 * Pictures to tokens in the order of the command line, but not one by one: while a job runs, the pictures behind it are
 * read, and those that are ready when their turn comes go into one job with the first, where they are of its size. So
 * no picture waits for others, and many small ones cost less than each alone. Tokens are the same. Called by encode.ts.
 */
import type { EncodeOptions, Tensor, Tokenizer, Tokens } from "../mod.ts";
import type { InOut } from "./paths.ts";
import { secondsSince } from "./run.ts";

/** Of a job, and of what is read ahead; a picture that is larger is read when its turn comes. */
const mostPictures = 16, mostPixels = 1 << 21;

type Picture = Tensor<"uint8">;
/** Reads a picture, of at most `limitPixels` pixels where that is given; what it rejects with is not told. */
type Read = (path: string, limitPixels?: number) => Promise<Picture>;

export interface Encoded {
  readonly tokens: Tokens;
  /** Its share of the job's time, reading included. */
  readonly seconds: number;
}

export class PicturesAhead {
  readonly #files: readonly InOut[];
  readonly #isPicture: (io: InOut) => boolean;
  readonly #read: Read;
  /** Pictures that are being read, or are read: then `now` is there. */
  readonly #ahead = new Map<InOut, { readonly picture: Promise<Picture>; now?: Picture }>();
  readonly #encoded = new Map<InOut, Encoded>();
  #turn = 0; // the file whose turn it is
  #isReading = false;
  #areAlone = false; // once a job of several has failed

  /** `isPicture`: whether a file is a picture for the model in use. */
  constructor(files: readonly InOut[], isPicture: (io: InOut) => boolean, read: Read) {
    this.#files = files;
    this.#isPicture = isPicture;
    this.#read = read;
  }

  /**
   * The tokens of a picture whose turn it is. A failure is its own: one that cannot be read fails as it would alone, and
   * where a job of several fails, each is tried alone.
   */
  async encode(io: InOut, tokenizer: Tokenizer, options: EncodeOptions): Promise<Encoded> {
    this.#turn = this.#files.indexOf(io);
    const encoded = this.#encoded.get(io);
    if (encoded) {
      this.#encoded.delete(io);
      return encoded;
    }
    const start = performance.now();
    const picture = await (this.#ahead.get(io)?.picture ?? this.#read(io.path)).catch(() => undefined);
    this.#ahead.delete(io);
    const others = picture ? this.#readyFor(picture) : [];
    if (picture) void this.#readOn();
    if (picture && others.length > 0) {
      try {
        const all = await tokenizer.encode([picture, ...others.map((other) => this.#ahead.get(other)!.now!)], options);
        const seconds = Math.round(secondsSince(start) * 1000 / (1 + others.length)) / 1000;
        others.forEach((other, i) => {
          this.#ahead.delete(other);
          this.#encoded.set(other, { tokens: all.at(i + 1), seconds });
        });
        return { tokens: all.at(0), seconds };
      } catch (error) {
        if (options.signal?.aborted) throw error;
        this.#areAlone = true;
      }
    }
    return { tokens: await tokenizer.encode(picture ?? io.path, options), seconds: secondsSince(start) };
  }

  /** The files behind the one whose turn it is that are read and as large as its picture: as many as a job takes. */
  #readyFor(picture: Picture): InOut[] {
    const size = picture.shape.join("x"),
      most = Math.min(mostPictures, Math.floor(mostPixels * 3 / picture.data.length));
    const behind = this.#files.slice(this.#turn + 1, this.#turn + (this.#areAlone ? 1 : most));
    const end = behind.findIndex((io) => this.#ahead.get(io)?.now?.shape.join("x") !== size);
    return end < 0 ? behind : behind.slice(0, end);
  }

  /** Reads the files behind, one after the other, while there is room. A failure is told when its turn comes. */
  async #readOn(): Promise<void> {
    if (this.#isReading || this.#areAlone) return;
    this.#isReading = true;
    try {
      for (let i = this.#turn + 1; i < this.#files.length; i++) {
        if (i <= this.#turn) continue; // it did not wait
        const io = this.#files[i]!;
        if (this.#ahead.has(io) || this.#encoded.has(io)) continue;
        const held = [...this.#ahead.values()].reduce((sum, { now }) => sum + (now?.data.length ?? 0) / 3, 0);
        const isFull = this.#ahead.size >= mostPictures || held >= mostPixels;
        if (isFull || io.failure || io.fill || !this.#isPicture(io)) return;
        const picture = this.#read(io.path, mostPixels - held);
        this.#ahead.set(io, { picture });
        this.#ahead.set(io, { picture, now: await picture });
      }
    } catch {
      // the picture's own
    } finally {
      this.#isReading = false;
    }
  }
}
