/**
 * A corpus in its plainest form, on which plan, run and commit are tested alone: the pictures of one folder, as they
 * are, into shards of a line a sample. What sources and formats do beside is tested in their own files.
 */
import { Buffer } from "node:buffer";
import { readdir, readFile, stat } from "node:fs/promises";
import { basename, extname, join } from "node:path";
import { readImage, TokenizerError } from "mod.ts";
import type { CorpusFacts, ShardFiles, ShardFormat } from "../../src/corpus/format.ts";
import type { Identity, Item, Place } from "../../src/corpus/item.ts";
import type { Parts } from "../../src/corpus/parts.ts";
import type { PlaceReader } from "../../src/corpus/source.ts";

async function identityOf(path: string): Promise<Identity> {
  const { size, mtimeNs } = await stat(path, { bigint: true });
  return { bytes: Number(size), mtimeNs: String(mtimeNs) };
}

const places: PlaceReader = {
  async read(place: Place, identity: Identity) {
    if (place.kind !== "file") throw new Error(`a ${place.kind}`);
    const found = await identityOf(place.path).catch(() => undefined);
    if (!found) throw new TokenizerError("FILE_MISSING", `${place.path}: expected what was planned, found nothing`);
    if (found.bytes !== identity.bytes || found.mtimeNs !== identity.mtimeNs) {
      throw new TokenizerError("FILE_IO", `${place.path}: expected what was planned, found another file`);
    }
    return await readFile(place.path);
  },
  [Symbol.asyncDispose]: () => Promise.resolve(),
};

export const lines: ShardFormat = {
  name: "lines",
  about: "a line a sample",
  dtypes: { discrete: ["uint16"], continuous: [] },
  dtypeOf: (quantizer, wanted = "uint16") => {
    if (!quantizer) {
      throw new TokenizerError("ARGUMENT", "format lines: expected a discrete model, found a continuous one");
    }
    if (wanted !== "uint16") {
      throw new TokenizerError("ARGUMENT", `format lines: dtype: expected uint16, found "${wanted}"`);
    }
    return wanted;
  },
  check() {},
  async open(files: ShardFiles, _facts: CorpusFacts) {
    const file = await files.create(".txt");
    return {
      async add({ key, tokens: { indices } }) {
        const data = Buffer.from(new Uint16Array(indices.data).buffer).toString("base64");
        await file.write(Buffer.from(`${key} ${indices.shape.join("x")} ${data}\n`));
      },
      async finish() {
        await file.write(Buffer.from("end\n"));
      },
    };
  },
  setFiles: (shards) => new Map([["count.txt", Buffer.from(String(shards.reduce((n, s) => n + s.numSamples, 0)))]]),
  // deno-lint-ignore require-yield
  async *read() {
    throw new Error("not of this format");
  },
};

/** Counts of what was done, for tests of what is not done. */
export const counts = { found: 0, prepared: 0 };

export const plain: Parts = {
  checkOptions: (options) => options,
  async *find(inputs) {
    for (const input of inputs) {
      for (const name of (await readdir(input)).sort()) {
        const path = join(input, name), key = basename(name, extname(name));
        counts.found++;
        if (extname(name) !== ".png") yield { refused: { name, reason: "no PNG" } };
        else {
          const item: Item = {
            key,
            kind: "image",
            place: { kind: "file", path },
            identity: await identityOf(path),
            sidecars: [],
          };
          yield { item };
        }
      }
    }
  },
  openPlaces: () => places,
  openPreparer: () =>
    Promise.resolve({
      async prepare(item: Item, signal?: AbortSignal) {
        counts.prepared++;
        const pixels = await readImage(await places.read(item.place, item.identity), { signal });
        const [, height = 0, width = 0] = pixels.shape;
        const facts = { fileName: `${item.key}.png`, height, width, originalHeight: height, originalWidth: width };
        return { kind: "image" as const, pixels, facts };
      },
      [Symbol.asyncDispose]: () => Promise.resolve(),
    }),
  versions: () => Promise.resolve({ plain: "1" }),
  formats: new Map([[lines.name, lines]]),
};
