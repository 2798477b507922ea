/** What folders, patterns, lists, tars and parquet files give: items in order, sidecars, refusals. */
import assert from "node:assert/strict";
import { spawnSync } from "node:child_process";
import { mkdirSync, symlinkSync, writeFileSync } from "node:fs";
import { dirname, join, relative } from "node:path";
import process from "node:process";
import { test } from "node:test";
import { brotliCompressSync, gzipSync, zstdCompressSync } from "node:zlib";
import { parquetWriteFile } from "hyparquet-writer";
import { packTar } from "modern-tar";
import type { Item } from "../../src/corpus/item.ts";
import { Places } from "../../src/corpus/places.ts";
import { findItems, type FindOptions } from "../../src/corpus/sources/find.ts";
import type { Refused } from "../../src/corpus/source.ts";
import { rejects, root, runtime, withFolder } from "../support.ts";

interface All {
  readonly items: Item[];
  readonly keys: string[];
  readonly refused: Refused[];
  readonly notes: string[];
}

async function find(inputs: readonly string[], options: Partial<FindOptions> = {}): Promise<All> {
  const items: Item[] = [], refused: Refused[] = [], notes: string[] = [];
  for await (const found of findItems(inputs, { kind: "image", onNote: (note) => notes.push(note), ...options })) {
    if ("item" in found) items.push(found.item);
    else refused.push(found.refused);
  }
  return { items, keys: items.map(({ key }) => key), refused, notes };
}

/** Files with their own path as content. */
function fill(folder: string, paths: readonly string[]): void {
  for (const path of paths) {
    mkdirSync(dirname(join(folder, path)), { recursive: true });
    writeFileSync(join(folder, path), `content of ${path}`);
  }
}

async function textOf({ place, identity }: Pick<Item, "place" | "identity">): Promise<string> {
  await using places = new Places();
  return new TextDecoder().decode(await places.read(place, identity));
}

const fieldsOf = ({ sidecars }: Item) => sidecars.map(({ field }) => field);

test("a folder: all in it by code units, sidecars with their item, the rest told", async () => {
  await withFolder(async (folder) => {
    fill(folder, [
      ...["b/2.jpg", "b/10.JPG", "B/1.png", "a.webp", "photo.v2.jpg", "photo.v2.txt", "photo.v2.clip.npy", "photo.txt"],
      ...[".hidden.jpg", ".git/x.jpg", "out/9.jpg", "clip.mp4", "draw.svg", "README", "a.t\nxt", "é.gif", "b/2.pickle"],
    ]);
    writeFileSync(join(folder, "empty.jpg"), "");
    symlinkSync(join(folder, "b"), join(folder, "link"));
    symlinkSync(join(folder, "a.webp"), join(folder, "same.webp"));
    const found = await find([folder], { out: join(folder, "out") });
    assert.deepEqual(found.keys, ["B__1", "a", "b__10", "b__2", "photo_v2", "same", "é"]);
    assert.deepEqual(found.items.map(fieldsOf), [[], [], [], ["pickle"], ["clip.npy", "txt"], [], []]);
    assert.equal(await textOf(found.items[3]!), "content of b/2.jpg");
    assert.equal(await textOf(found.items[4]!.sidecars[1]!), "content of photo.v2.txt");
    assert.deepEqual(found.refused.map(({ name }) => name), [join(folder, "empty.jpg")]);
    assert.match(found.refused[0]!.reason, /found 0 bytes/);
    assert.match(found.notes[0]!, /left out .*1 \.mp4.*1 \.svg \(drawn only when asked for\)/);
    assert.match(found.notes[0]!, /1 \.txt.*1 links to folders.*1 with control characters.*1 without an extension/);
    assert.deepEqual((await find([folder], { kind: "video" })).keys, ["clip"]);
    assert.ok((await find([folder], { svg: true })).keys.includes("draw"));
  });
});

test("one key for each, whatever the names are", async () => {
  await withFolder(async (folder) => {
    fill(folder, ["a/b.jpg", "a__b.jpg", "p.jpg", "p.png", "p_jpg.jpg", "x.y.jpg", "x_y.jpg"]);
    const { keys, notes } = await find([folder]);
    assert.equal(new Set(keys).size, 7);
    assert.deepEqual(keys.slice(0, 5), ["a__b", "a__b_jpg", "p", "p_png", "p_jpg"]);
    assert.match(notes.join(), /3 items have a longer key/);
    const variants = await find([folder], { numVariants: 2 });
    assert.deepEqual(variants.keys.slice(0, 3), ["a__b_0", "a__b_1", "a__b_jpg_0"]);
    assert.deepEqual(variants.items.slice(0, 2).map(({ variant }) => variant), [0, 1]);
    assert.equal(new Set(variants.keys).size, 14);
  });
});

test("several inputs, patterns, files; none twice", async () => {
  await withFolder(async (folder) => {
    fill(folder, ["x/1.jpg", "x/1.txt", "y/1.jpg", "y/z/1.jpg", "noext"]);
    const at = (path: string) => join(folder, path);
    assert.deepEqual((await find([at("x"), at("y")])).keys, ["x__1", "y__1", "y__z__1"]);
    const { keys, items } = await find([at("*/*.jpg"), at("x/1.jpg")]);
    assert.deepEqual(keys, ["1", "1_jpg"]);
    assert.deepEqual(items.map(fieldsOf), [["txt"], []]);
    assert.deepEqual((await find([at("y/**/*.jpg")])).keys, ["1", "1_jpg"]);
    const near = await find([relative(process.cwd(), at("x"))]); // a worker may stand elsewhere
    assert.deepEqual([near.items, near.keys], [(await find([at("x")])).items, ["1"]]);
    const twice = await find([at("x"), at("x/1.jpg"), at("x")]);
    assert.deepEqual(twice.keys, ["x__1"]);
    assert.deepEqual([twice.refused, twice.notes], [[], ["1 inputs lie in other inputs and are taken once"]]);
    const all = await find([join(folder, "**")]); // folders, what is in them, and a file that is named by it
    assert.deepEqual([all.keys, all.refused], [["noext", "x__1", "y__1", "y__z__1"], []]);
    const wrong = await find([at("none.jpg"), at("x/*.webp"), at("noext"), join(root, "examples/media/cars.mp4")]);
    assert.deepEqual(wrong.keys, ["noext"], "its reader will tell");
    assert.deepEqual(wrong.refused.map(({ reason }) => reason), [
      "expected a file, found none",
      "expected a file, found none",
      "expected a picture, found a video",
    ]);
    await rejects(() => find([]), "ARGUMENT", /inputs: expected at least one/);
    await rejects(() => find(["-", "@-"]), "ARGUMENT", /standard input once/);
    await rejects(() => find([folder], { stride: 3 }), "ARGUMENT", /stride: expected a video model/);
    await rejects(() => find([folder], { kind: "video", stride: 3 }), "ARGUMENT", /stride: expected clipFrames/);
  });
});

test("names that are no UTF-8 are refused, in folders", async (t) => {
  await withFolder(async (folder) => {
    fill(folder, ["good.jpg", "also\ufffd.jpg"]);
    // By a shell: Deno writes U+FFFD for such bytes, as it reads them.
    const make = 'printf x > "$0/$(printf "also\\377.jpg")" && mkdir "$0/$(printf "d\\377")"';
    if (spawnSync("sh", ["-c", make, folder]).status !== 0) return t.skip("the file system takes UTF-8 alone");
    const found = await find([folder]);
    assert.deepEqual(found.keys, ["also_", "good"]);
    assert.deepEqual(
      found.refused.map(({ name }) => name),
      ["also\ufffd.jpg", "d\ufffd"].map((name) => join(folder, name)),
    );
    assert.match(found.refused[0]!.reason, /a name in UTF-8/);
  });
});

test("lists: paths, JSON lines with keys and captions, what is wrong in them", async () => {
  await withFolder(async (folder) => {
    fill(folder, ["p/1.jpg", "p/1.txt", "p/2.jpg", "q.jpg"]);
    const list = join(folder, "list.jsonl");
    writeFileSync(
      list,
      [
        `\ufeffp/1.jpg\r`,
        "",
        JSON.stringify({ path: join(folder, "q.jpg"), key: "mine", caption: "a “q”", score: 0.5, tags: ["x"] }),
        JSON.stringify({ path: "p/1.jpg", caption: "other words" }),
        JSON.stringify({ path: "p/2.jpg", key: "mine" }),
        JSON.stringify({ path: "p/2.jpg", key: "a.b" }),
        JSON.stringify({ key: "no path" }),
        "{broken",
        "none.jpg",
        "p",
        "p/2.jpg",
      ].join("\n"),
    );
    const { items, keys, refused } = await find([`@${list}`]);
    assert.deepEqual(keys, ["p__1", "mine", "p__1_jpg", "p__2"]);
    assert.deepEqual(items.map(fieldsOf), [["txt"], ["txt", "json"], ["txt"], []]);
    assert.equal(await textOf(items[0]!.sidecars[0]!), "content of p/1.txt");
    assert.equal(await textOf(items[1]!.sidecars[0]!), "a “q”");
    assert.deepEqual(JSON.parse(await textOf(items[1]!.sidecars[1]!)), { score: 0.5, tags: ["x"] });
    assert.equal(await textOf(items[2]!.sidecars[0]!), "other words");
    assert.deepEqual(refused.map(({ reason }) => reason.replace(/found.*/s, "")), [
      "expected a key of its own, ",
      "key: expected neither a dot nor a slash nor a control character in it, ",
      "path: expected a text, ",
      refused[3]!.reason, // the runtime's words on broken JSON
      "expected a file, ",
      "expected a file, ",
    ]);
    assert.equal(refused[3]!.name, `${list}, line 8`);
    await rejects(() => find([`@${join(folder, "none.txt")}`]), "FILE_MISSING", /none\.txt/);
  });
});

test("a list on standard input, to the working folder", async () => {
  await withFolder((folder) => {
    fill(folder, ["p/1.jpg", "2.jpg"]);
    const rights = runtime === "deno" ? ["run", "-A", "--no-check"] : [],
      script = join(root, "tests/corpus/stdin_items.ts");
    const options = { cwd: folder, input: "p/1.jpg\nnone.jpg\n2.jpg", encoding: "utf8" } as const;
    const { stdout, stderr } = spawnSync(process.execPath, [...rights, script], options);
    assert.deepEqual(stdout.split("\n"), ["p__1", "none.jpg: expected a file, found none", "2", ""], stderr);
    return Promise.resolve();
  });
});

const member = (name: string, text: string) => ({
  header: { name, size: Buffer.byteLength(text), type: "file" as const },
  body: text,
});

test("webdataset tars: samples, sidecars, what is no sample, a cut", async () => {
  await withFolder(async (folder) => {
    const tar = join(folder, "00000.tar");
    const bytes = await packTar([
      { header: { name: "train/", size: 0, type: "directory" } },
      member("train/0001.seg.png", "segments"),
      member("train/0001.jpg", "picture 1"),
      member("train/0001.txt", "words"),
      member("train/0002.PNG", "picture 2"),
      member("__skipped__", "x"),
      member("train/0003.txt", "alone"),
      member("../../etc/0004.jpg", "picture 4"),
      member("0005.jpg", ""),
      member("0006.jpg", "6"),
      member("0006.jpg", "again"),
      member("noextension", "x"),
      member("._0007.jpg", "x"),
      member("train/0002.jpg", "key once more"),
    ]);
    writeFileSync(tar, bytes);
    const { items, keys, refused, notes } = await find([tar]);
    assert.deepEqual(keys, ["train__0001", "train__0002", "etc__0004", "0006", "00000__train__0002"]);
    assert.deepEqual(fieldsOf(items[0]!), ["seg.png", "txt"]);
    assert.equal(await textOf(items[0]!), "picture 1");
    assert.equal(await textOf(items[0]!.sidecars[0]!), "segments");
    assert.equal(await textOf(items[4]!), "key once more");
    assert.deepEqual(refused.map(({ reason }) => reason), [
      "expected a picture among its members, found txt",
      "expected a member with something in it, found 0 bytes",
      "expected one member of this name, found a second one",
    ]);
    assert.match(notes[0]!, /left out 3 without a key and an extension, 1 folders/);
    assert.deepEqual((await find([tar], { member: "seg.png" })).keys, ["train__0001"]);

    assert.deepEqual((await find([folder])).keys, keys, "found in a folder, too");
    const cut = items[1]!.place.kind === "tar" ? items[1]!.place.offset + 3 : 0;
    writeFileSync(tar, bytes.subarray(0, cut));
    const part = await find([tar]);
    assert.deepEqual(part.keys, [], "the sample before the cut may lack members");
    assert.match(part.refused[0]!.reason, /found it cut at byte \d+.*train\/0001, the last sample, may not be whole/);
    await rejects(() => textOf(items[0]!), "FILE_IO", /expected its file as it was planned, \d+ bytes, found \d+/);
  });
});

test("parquet: bytes, and columns that go along", async () => {
  await withFolder(async (folder) => {
    const path = join(folder, "train.parquet"), encode = (text: string) => new TextEncoder().encode(text);
    const rows = Array.from({ length: 25 }, (_, i) => i);
    parquetWriteFile({
      filename: path,
      rowGroupSize: 10,
      columnData: [
        { name: "jpg", data: rows.map((i) => encode(`picture ${i} \xff`)), type: "BYTE_ARRAY" },
        { name: "caption", data: rows.map((i) => i === 3 ? null : `words ${i}`), type: "STRING", nullable: true },
        { name: "score", data: rows.map((i) => i / 2), type: "DOUBLE" },
        { name: "id", data: rows.map((i) => BigInt(i) * 2n ** 58n), type: "INT64" },
        { name: "embedding", data: rows.map((i) => Uint8Array.of(i, 255)), type: "BYTE_ARRAY" },
      ],
    });
    const { items, keys, refused } = await find([path]);
    assert.deepEqual(refused, []);
    assert.deepEqual(keys.slice(0, 2), ["train__00", "train__01"]);
    assert.deepEqual(fieldsOf(items[0]!), ["txt", "embedding", "json"]);
    await using places = new Places();
    for (const i of [24, 0, 13, 3, 9, 10]) {
      const { place, identity, sidecars } = items[i]!;
      const read = async (at: Pick<Item, "place" | "identity">) =>
        Buffer.from(await places.read(at.place, at.identity));
      assert.equal((await read({ place, identity })).toString(), `picture ${i} \xff`);
      assert.equal((await read(sidecars[0]!)).toString(), i === 3 ? "" : `words ${i}`);
      assert.deepEqual([...await read(sidecars[1]!)], [i, 255]);
      const id = i === 0 ? 0 : String(BigInt(i) * 2n ** 58n);
      assert.deepEqual(JSON.parse((await read(sidecars[2]!)).toString()), { score: i / 2, id });
    }
    assert.deepEqual((await find([path], { columns: ["score"] })).items.map(fieldsOf)[0], ["json"]);
    for (
      const [options, reason] of [
        [{ column: "nothing" }, /expected a column nothing, found jpg, caption/],
        [{ column: "caption" }, /expected bytes in column caption, found text/],
        [{ columns: ["nothing"] }, /expected a column nothing/],
        [{ kind: "video" }, /expected a column of bytes that is called video, video_bytes, mp4/],
      ] as const
    ) {
      assert.match((await find([path], options as Partial<FindOptions>)).refused[0]!.reason, reason);
    }
    writeFileSync(path, "PAR1 and no more");
    assert.match((await find([path])).refused[0]!.reason, /expected a parquet file, found/);
  });
});

test("parquet: Hugging Face's images, in structs; what the compressors of zlib made", async () => {
  await withFolder(async (folder) => {
    const path = join(folder, "hf.parquet"),
      data = [0, 1, 2, 3].map((i) => {
        return i === 2 ? null : { bytes: Uint8Array.of(0xff, 0xd8, i), path: `${i}.jpg` };
      });
    for (
      const [codec, compress] of [["GZIP", gzipSync], ["BROTLI", brotliCompressSync], [
        "ZSTD",
        zstdCompressSync,
      ]] as const
    ) {
      parquetWriteFile({
        filename: path,
        codec,
        compressors: { [codec]: (input: Uint8Array) => new Uint8Array(compress(input)) },
        schema: [
          { name: "root", num_children: 2 },
          { name: "image", num_children: 2, repetition_type: "OPTIONAL" },
          { name: "bytes", type: "BYTE_ARRAY", repetition_type: "OPTIONAL" },
          { name: "path", type: "BYTE_ARRAY", converted_type: "UTF8", repetition_type: "OPTIONAL" },
          { name: "label", type: "INT64", repetition_type: "OPTIONAL" },
        ],
        columnData: [{ name: "image", data }, { name: "label", data: [5n, 6n, 7n, 8n] }],
      });
      const { items, refused } = await find([path]);
      assert.deepEqual(refused, []);
      await using places = new Places();
      const read = async (
        { place, identity }: Pick<Item, "place" | "identity">,
      ) => [...await places.read(place, identity)];
      assert.deepEqual(
        await Promise.all(items.map(read)),
        [[0xff, 0xd8, 0], [0xff, 0xd8, 1], [], [0xff, 0xd8, 3]],
        codec,
      );
      assert.equal(await textOf(items[3]!.sidecars[0]!), '{"label":8}', codec);
    }
  });
});

test("hashes, when asked for, are looked at again", async () => {
  await withFolder(async (folder) => {
    fill(folder, ["1.jpg"]);
    const tar = join(folder, "a.tar");
    writeFileSync(tar, await packTar([member("x.jpg", "x")]));
    const { items } = await find([folder], { hash: true });
    assert.deepEqual(items.map(({ identity }) => identity.sha256?.length), [64, 64]);
    await using places = new Places();
    for (const { place, identity } of items) {
      await places.read(place, identity);
      await rejects(() => places.read(place, { ...identity, sha256: "0".repeat(64) }), "FILE_IO", /sha256 0000/);
    }
  });
});

test("an abort ends the search", async () => {
  await withFolder(async (folder) => {
    fill(folder, ["1.jpg", "2.jpg"]);
    await rejects(() => find([folder], { signal: AbortSignal.abort() }), "CANCELLED", /cancelled/);
  });
});

const isRoot = process.getuid?.() === 0;
test(
  "a folder that cannot be read is refused, the others are taken",
  { skip: isRoot && "root reads all" },
  async () => {
    await withFolder(async (folder) => {
      fill(folder, ["a/1.jpg", "b/1.jpg"]);
      const { chmodSync } = await import("node:fs");
      chmodSync(join(folder, "a"), 0);
      try {
        const { keys, refused } = await find([folder]);
        assert.deepEqual(keys, ["b__1"]);
        assert.match(refused[0]!.reason, /expected a folder to read/);
      } finally {
        chmodSync(join(folder, "a"), 0o700);
      }
    });
  },
);
