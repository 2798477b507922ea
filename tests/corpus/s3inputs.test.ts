/**
 * Inputs in S3: a prefix gives what a folder with the same files gives, in the same order and with the same keys;
 * patterns, lists, tars and parquet files, too. What was changed or removed since the plan is told; a store that is not
 * there is nobody's fault but its own.
 */
import assert from "node:assert/strict";
import { Buffer } from "node:buffer";
import { mkdirSync, readFileSync, writeFileSync } from "node:fs";
import { dirname, join } from "node:path";
import process from "node:process";
import { test } from "node:test";
import { parquetWriteFile } from "hyparquet-writer";
import { packTar } from "modern-tar";
import type { Item } from "../../src/corpus/item.ts";
import { Places } from "../../src/corpus/places.ts";
import { findItems, type FindOptions } from "../../src/corpus/sources/find.ts";
import type { Refused } from "../../src/corpus/source.ts";
import { spool } from "../../src/corpus/spool.ts";
import { bucket, type S3Server, withS3 } from "../s3server.ts";
import { rejects, withFolder } from "../support.ts";

const top = `s3://${bucket}/data`;

function withBucket(use: (server: S3Server, folder: string) => Promise<void>): Promise<void> {
  return withFolder((folder) => withS3(folder, (server) => use(server, folder)));
}

async function find(inputs: readonly string[], options: Partial<FindOptions> = {}) {
  const items: Item[] = [], refused: Refused[] = [], notes: string[] = [];
  for await (const found of findItems(inputs, { kind: "image", onNote: (note) => notes.push(note), ...options })) {
    if ("item" in found) items.push(found.item);
    else refused.push(found.refused);
  }
  return { items, keys: items.map(({ key }) => key), refused, notes };
}

/** The same files in a folder and below the prefix, with their own path as content. */
function fill(server: S3Server, folder: string, paths: readonly string[]): void {
  for (const path of paths) {
    mkdirSync(dirname(join(folder, path)), { recursive: true });
    writeFileSync(join(folder, path), `content of ${path}`);
    server.put(`data/${path}`, `content of ${path}`);
  }
}

async function textOf({ place, identity }: Pick<Item, "place" | "identity">): Promise<string> {
  await using places = new Places();
  return new TextDecoder().decode(await places.read(place, identity));
}

test("a prefix gives what a folder gives, in pages of any size", () =>
  withBucket(async (server, top_) => {
    const folder = join(top_, "data");
    fill(server, folder, [
      ...[
        "b/2.jpg",
        "b/10.JPG",
        "B/1.png",
        "a.webp",
        "a/x.jpg",
        "photo.v2.jpg",
        "photo.v2.txt",
        "photo.v2.clip.npy",
        "photo.txt",
      ],
      ...[
        ".hidden.jpg",
        ".git/x.jpg",
        "out/9.jpg",
        "clip.mp4",
        "draw.svg",
        "README",
        "é ü+&.gif",
        "b/2.pickle",
        "q?*[x].png",
      ],
    ]);
    const wanted = await find([folder], { out: join(folder, "out") });
    server.put("data/b/", ""); // what some tools make to show a folder
    for (const pageSize of [1000, 2]) {
      server.pageSize = pageSize;
      const found = await find([`${top}/`], { out: `${top}/out` });
      assert.deepEqual(found.keys, wanted.keys);
      assert.deepEqual(
        found.items.map(({ sidecars }) => sidecars.map(({ field }) => field)),
        wanted.items.map(({ sidecars }) => sidecars.map(({ field }) => field)),
      );
      assert.deepEqual(found.notes.map((note) => note.replace(`${top}/`, folder)), wanted.notes);
      for (const [i, item] of found.items.entries()) {
        assert.equal(await textOf(item), await textOf(wanted.items[i]!));
        for (const [k, sidecar] of item.sidecars.entries()) {
          assert.equal(await textOf(sidecar), await textOf(wanted.items[i]!.sidecars[k]!));
        }
        assert.equal(item.identity.etag, server.objects.get(`data/${relativeOf(item)}`)!.etag.slice(1, -1));
      }
    }
    const listed = server.requests.filter(({ what }) => what === "Head").length;
    assert.equal(listed, 0, "sizes and ETags come with the list");
    assert.deepEqual((await find([top])).keys, (await find([folder])).keys);
  }));

function relativeOf({ place }: Item): string {
  assert.equal(place.kind, "file");
  return (place as { path: string }).path.slice(top.length + 1);
}

test("patterns, single objects with what belongs to them, lists here and there", () =>
  withBucket(async (server, folder) => {
    fill(server, folder, [
      "b/2.jpg",
      "b/2.txt",
      "b/20.jpg",
      "b/c/3.jpg",
      "b/c/3.v2.jpg",
      "b/c/3.v2.txt",
      "a.png",
      "d/{x}.png",
    ]);
    const keysOf = async (...inputs: string[]) => (await find(inputs)).keys;
    assert.deepEqual(await keysOf(`${top}/b/*.jpg`), ["2", "20"]);
    assert.deepEqual(await keysOf(`${top}/**/*.jpg`), ["2", "20", "3", "3_v2"]);
    assert.deepEqual(await keysOf(`${top}/d/{x}.png`), ["{x}"], "an object of exactly that name");
    assert.deepEqual(await keysOf(`${top}/b`, `${top}/b/2.jpg`, join(folder, "a.png")), [
      "b__2",
      "b__20",
      "b__c__3",
      "b__c__3_v2",
      "a",
    ]);
    const one = await find([`${top}/b/c/3.v2.jpg`]);
    assert.deepEqual(one.items[0]!.sidecars.map(({ field }) => field), ["txt"]);
    const { refused } = await find([`${top}/b/4.jpg`, `${top}/nothing`, `${top}/a.mp4`, `${top}/draw.svg`]);
    await rejects(
      () => find(["s3://corpora/a//b.jpg"]),
      "ARGUMENT",
      /expected a key without empty parts, \. and \.\., found "a\/\/b\.jpg"/,
    );
    await rejects(() => find(["s3:///b.jpg"]), "ARGUMENT", /expected s3:\/\/BUCKET\/PREFIX, found "s3:\/\/\/b\.jpg"/);
    assert.deepEqual(refused.map(({ name, reason }) => [name.slice(top.length + 1), reason]), [
      ["b/4.jpg", "expected a file, found none"],
      ["nothing", `${top}/nothing: expected a file, found "none"`],
      ["a.mp4", "expected a picture, found a video"],
      ["draw.svg", "expected pixels, found SVG, which is drawn only when asked for (svg: true, --svg)"],
    ]);

    const list = ["b/2.jpg", `${top}/a.png`, '{"path": "../data/b/c/3.jpg", "key": "third", "caption": "three"}'].join(
      "\n",
    );
    server.put("data/list.txt", list);
    writeFileSync(
      join(folder, "list.txt"),
      list.replaceAll('"../data', `"${top}`).replace("b/2.jpg", `${top}/b/2.jpg`),
    );
    for (const at of [`@${top}/list.txt`, `@${join(folder, "list.txt")}`]) {
      const { keys, items, refused } = await find([at]);
      assert.deepEqual(refused, []);
      assert.deepEqual(keys.slice(1), ["data__a", "third"]);
      assert.deepEqual(await Promise.all(items.map(textOf)), [
        "content of b/2.jpg",
        "content of a.png",
        "content of b/c/3.jpg",
      ]);
    }
    await rejects(
      () => find([`@${top}/no.txt`]),
      "FILE_MISSING",
      /s3:\/\/corpora\/data\/no\.txt: expected a file, found "none"/,
    );
  }));

test("tars and parquet files: members and cells by ranges alone", () =>
  withBucket(async (server, folder) => {
    const member = (name: string, body: string) => ({
      header: { name, size: Buffer.byteLength(body), type: "file" as const },
      body,
    });
    const filler = "x".repeat(3 << 20);
    const tar = await packTar([
      member("1.jpg", "one"),
      member("1.txt", "a cat"),
      member("2.bin", filler),
      member("2.jpg", "two"),
    ]);
    server.put("data/00000.tar", tar);
    const { keys, items, refused } = await find([`${top}/00000.tar`]);
    assert.deepEqual([keys, refused], [["1", "2"], []]);
    assert.deepEqual(await Promise.all(items.map(textOf)), ["one", "two"]);
    assert.equal(await textOf(items[0]!.sidecars[0]!), "a cat");

    const path = join(folder, "train.parquet"), encode = (text: string) => new TextEncoder().encode(text);
    parquetWriteFile({
      filename: path,
      columnData: [
        { name: "image", data: [encode("first"), encode("second")], type: "BYTE_ARRAY" },
        { name: "caption", data: ["a", "b"], type: "STRING" },
      ],
    });
    server.put("data/train.parquet", readFileSync(path));
    const rows = await find([`${top}/train.parquet`]);
    assert.deepEqual(rows.keys, (await find([path])).keys);
    assert.deepEqual(await Promise.all(rows.items.map(textOf)), ["first", "second"]);
    const whole = server.requests.filter(({ what, headers }) => what === "Get" && headers.range === undefined);
    assert.deepEqual(whole, []);
  }));

test("changed and removed since the plan: told with both sides, by ETag and size", () =>
  withBucket(async (server) => {
    for (const name of ["same", "edited", "longer", "gone"]) server.put(`data/${name}.jpg`, name);
    const { items } = await find([`${top}/`]), byKey = new Map(items.map((item) => [item.key, item]));
    server.put("data/edited.jpg", "EDITED"),
      server.put("data/longer.jpg", "longer than it was"),
      server.objects.delete("data/gone.jpg");
    assert.equal(await textOf(byKey.get("same")!), "same");
    const text = (key: string) => () => textOf(byKey.get(key)!);
    await rejects(
      text("edited"),
      "FILE_IO",
      /edited\.jpg: expected the file as it was planned, ETag [0-9a-f]{32}, found ETag [0-9a-f]{32}/,
    );
    await rejects(text("longer"), "FILE_IO", /longer\.jpg: expected the file as it was planned, 6 bytes, found 18/);
    await rejects(text("gone"), "FILE_MISSING", /gone\.jpg: expected the file that was planned, found none/);

    await using places = new Places();
    const { place, identity } = byKey.get("same")!;
    await using file = await spool(place, identity, places);
    assert.deepEqual([file.path.endsWith("/same.jpg"), readFileSync(file.path, "utf8")], [true, "same"]);
    const { place: other, identity: was } = byKey.get("edited")!;
    await rejects(() => spool(other, was, places), "FILE_IO", /edited\.jpg: expected the file as it was planned, ETag/);
  }));

test("a store that does not answer, or says no, ends the search and refuses no item", () =>
  withBucket(async (server) => {
    server.put("data/1.jpg", "one");
    const { items } = await find([`${top}/`]);
    server.fault = () => ({ status: 503, code: "SlowDown" });
    process.env.CTOK_S3_TIMEOUT = "1";
    const gone = await rejects(
      () => find([`${top}/`]),
      "FILE_IO",
      /expected 127\.0\.0\.1:\d+ to answer GET, found 503, SlowDown, in \d+ tries/,
    );
    assert.equal(gone.detail, 503);
    assert.equal((await rejects(() => textOf(items[0]!), "FILE_IO", /503/)).detail, 503);
    server.fault = () => ({ status: 403, code: "AccessDenied" });
    await rejects(() => find([`${top}/`]), "ARGUMENT", /found 403, AccessDenied: the credentials do not allow it/);
    server.fault = () => undefined;
    await rejects(() => find(["s3://elsewhere/x/"]), "ARGUMENT", /found 404, NoSuchBucket: there is no such bucket/);
  }));
