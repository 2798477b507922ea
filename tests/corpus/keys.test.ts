/** Keys of samples are legal, and each is given once. */
import assert from "node:assert/strict";
import { test } from "node:test";
import fc from "fast-check";
import { checkKey, KeyBook, keyOf } from "../../src/corpus/sources/keys.ts";
import { keysOf } from "../../src/corpus/sources/folder.ts";
import { rejects } from "../support.ts";

// deno-lint-ignore no-control-regex
const illegal = /[./\\\0-\x1f\x7f-\x9f]/;

test("a path's key is readable", () => {
  assert.equal(keyOf("n01440764/n01440764_10026"), "n01440764__n01440764_10026");
  assert.equal(keyOf("a/b.c/photo.v2"), "a__b_c__photo_v2");
  assert.equal(keyOf("./a"), "a");
  assert.equal(keyOf("../x/漢字 é"), "x__漢字 é");
  assert.equal(keyOf(""), "_");
  assert.deepEqual(keysOf("a/photo.v2.jpg"), ["a__photo_v2", "a__photo_v2_jpg"]);
});

test("keys are legal and short for any path, and what is a key is its own key", () => {
  fc.assert(fc.property(fc.string({ unit: "binary", maxLength: 60 }), (path) => {
    const key = keyOf(path);
    assert.doesNotMatch(key, illegal);
    assert.ok(key.isWellFormed() && key.length > 0 && Buffer.byteLength(key) <= 160, key);
    assert.equal(checkKey(key), key);
    assert.equal(keyOf(key), key);
  }));
  const [a, b] = ["a".repeat(200), "a".repeat(201)].map(keyOf);
  assert.notEqual(a, b, "cut keys keep a hash of the whole");
});

test("a book gives each key once, whatever is asked for", () => {
  const path = fc.string({ unit: fc.constantFrom("a", "_", ".", "/", "b"), minLength: 1, maxLength: 6 });
  fc.assert(fc.property(fc.array(path, { maxLength: 200 }), (paths) => {
    const book = new KeyBook(), keys = paths.map((path) => book.take(keysOf(path), path));
    assert.equal(new Set(keys).size, keys.length);
    const again = new KeyBook();
    assert.deepEqual(paths.map((path) => again.take(keysOf(path), path)), keys, "the same each time");
  }));
});

test("the book's table grows", () => {
  const book = new KeyBook(), keys = new Set<string>();
  for (let i = 0; i < 20_000; i++) keys.add(book.take([`k${i % 15_000}`], `path ${i}`));
  assert.equal(keys.size, 20_000);
  assert.equal(book.numChanged, 5000);
});

test("a key that somebody gave is taken as it is or refused", async () => {
  const book = new KeyBook();
  assert.ok(book.takeExactly("x"));
  assert.ok(!book.takeExactly("x"));
  assert.notEqual(book.take(["x"], "p"), "x");
  for (const wrong of ["", "a.b", "a/b", "a\nb", "a\ud800", "x".repeat(161), 5, null]) {
    await rejects(() => checkKey(wrong), "ARGUMENT", /^key: expected /);
  }
});
