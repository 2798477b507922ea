/**
 * Pictures to tokens in the order of the command line, but not one by one: while a job runs, the pictures behind it are
 * read, and those that are ready when their turn comes go into one job with the first, where they are of its size. So
 * no picture waits for others, and many small ones cost less than each alone. Tokens are the same. Called by encode.ts.
 */
import { type EncodeOptions, type Tensor, type Tokenizer, TokenizerError, type Tokens } from "../mod.ts";
import type { InOut } from "./paths.ts";
import { secondsSince } from "./run.ts";

/** Of a job, and of what is read ahead; a picture that is larger is read when its turn comes. */
const mostPictures = 16, mostPixels = 1 << 21;

type Picture = Tensor<"uint8">;
/** Reads a picture, of at most `limitPixels` pixels where that is given. */
type Read = (path: string, limitPixels?: number) => Promise<Picture>;

/** A picture that is being read, or is read: then `now` is there. */
interface Ahead {
  /** Undefined where only reading it alone, and without the limit, can tell what is wrong with it, if anything is. */
  readonly picture: Promise<Picture | undefined>;
  now?: Picture | undefined;
}

export interface Encoded {
  readonly tokens: Tokens;
  /** Its share of the job's time, reading included. */
  readonly seconds: number;
}

export class PicturesAhead {
  readonly #files: readonly InOut[];
  readonly #isPicture: (io: InOut) => boolean;
  readonly #read: Read;
  // By their places among the files.
  readonly #ahead = new Map<number, Ahead>();
  readonly #encoded = new Map<number, Encoded>();
  #turn = 0; // the file whose turn it is
  #behind = 0; // the first file behind it, and behind those of its job
  #isReading = false;
  #areAlone = false; // once a job of several has failed

  /** `isPicture`: whether a file is a picture for the model in use. */
  constructor(files: readonly InOut[], isPicture: (io: InOut) => boolean, read: Read) {
    this.#files = files;
    this.#isPicture = isPicture;
    this.#read = read;
  }

  /**
   * The tokens of a picture whose turn it is. A failure is its own: what cannot be read fails as it does alone, and
   * where a job of several fails, each is tried alone. Files between the turns are passed over.
   */
  async encode(io: InOut, tokenizer: Tokenizer, options: EncodeOptions): Promise<Encoded> {
    this.#turnTo(this.#files.indexOf(io));
    const encoded = this.#encoded.get(this.#turn);
    if (encoded) return encoded;
    const start = performance.now();
    const picture = await this.#ahead.get(this.#turn)?.picture ?? await this.#read(io.path);
    const others = this.#takeReady(picture);
    void this.#readOn();
    if (others.length > 0) {
      try {
        const all = await tokenizer.encode([picture, ...others.map(([, { now }]) => now!)], options);
        const seconds = Math.round(secondsSince(start) * 1000 / (1 + others.length)) / 1000;
        others.forEach(([i], n) => this.#encoded.set(i, { tokens: all.at(n + 1), seconds }));
        return { tokens: all.at(0), seconds };
      } catch (error) {
        if (options.signal?.aborted) throw error;
        this.#areAlone = true;
        for (const [i, other] of others) this.#ahead.set(i, other);
      }
    }
    return { tokens: await tokenizer.encode(picture, options), seconds: secondsSince(start) };
  }

  /** What is held of files before this one is dropped: they had their turn, or failed before they came here. */
  #turnTo(turn: number): void {
    this.#turn = turn;
    this.#behind = Math.max(this.#behind, turn + 1);
    for (const held of [this.#ahead, this.#encoded]) {
      for (const i of held.keys()) if (i < turn) held.delete(i);
    }
  }

  /**
   * Takes out, for its job, the pictures behind the one whose turn it is that are read and as large: as many as a job
   * takes. So there is room to read others while it runs.
   */
  #takeReady(picture: Picture): [place: number, Ahead][] {
    const size = picture.shape.join("x"), others: [number, Ahead][] = [];
    const most = this.#areAlone ? 1 : Math.min(mostPictures, Math.floor(mostPixels * 3 / picture.data.length));
    this.#ahead.delete(this.#turn);
    for (let i = this.#turn + 1; i < this.#turn + most; i++) {
      const other = this.#ahead.get(i);
      if (other?.now?.shape.join("x") !== size) break;
      others.push([i, other]);
      this.#ahead.delete(i);
    }
    this.#behind = Math.max(this.#behind, this.#turn + 1 + others.length);
    return others;
  }

  /** Reads the files behind, one after the other, while there is room. A failure is told when its turn comes. */
  async #readOn(): Promise<void> {
    if (this.#isReading || this.#areAlone) return;
    this.#isReading = true;
    try {
      for (let i = this.#behind; i < this.#files.length; i++) {
        if (i < this.#behind || this.#ahead.has(i)) continue; // it did not wait, or is read
        const io = this.#files[i]!;
        const held = [...this.#ahead.values()].reduce((sum, { now }) => sum + (now?.data.length ?? 0) / 3, 0);
        const isFull = this.#ahead.size >= mostPictures || held >= mostPixels;
        if (isFull || io.failure || io.fill || !this.#isPicture(io)) return;
        const limit = mostPixels - held;
        const picture = this.#read(io.path, limit).catch((error) => {
          if (isOfPicture(error, limit)) throw error;
          return undefined;
        });
        const ahead: Ahead = { picture };
        this.#ahead.set(i, ahead);
        ahead.now = await picture;
        if (!ahead.now) return;
      }
    } catch {
      // the picture's own
    } finally {
      this.#isReading = false;
    }
  }
}

/** Whether a picture fails so whenever it is read, and not for its size here, or for what the machine has just then. */
function isOfPicture(error: unknown, limitPixels: number): boolean {
  return error instanceof TokenizerError && error.code === "IMAGE" && !(error.detail && error.detail > limitPixels);
}
