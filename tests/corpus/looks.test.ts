/** Sizes, places and buckets: arithmetic that must not change, as plans depend on it. */
import assert from "node:assert/strict";
import { test } from "node:test";
import fc from "fast-check";
import { bucketsOf, lookAt, type LookOptions, type Looks, numVariantsOf } from "../../src/corpus/looks.ts";
import { prepareOptions } from "../../src/corpus/prepare.ts";

const options = (o: LookOptions): Looks => prepareOptions.parse(o);
const side = fc.integer({ min: 1, max: 5000 });

test("every look lies in its picture, for any picture and options", () => {
  const any = fc.record({
    size: fc.integer({ min: 1, max: 1024 }),
    crop: fc.constantFrom("center", "none", "random:7" as const),
    bucket: fc.boolean(),
    bucketStep: fc.constantFrom(8, 16, 64),
    flip: fc.boolean(),
  });
  fc.assert(fc.property(side, side, any, fc.string(), (height, width, o, key) => {
    const parsed = prepareOptions.safeParse(o);
    if (!parsed.success) return;
    const look = lookAt(height, width, parsed.data, key);
    assert.ok(look.top >= 0 && look.top + look.height <= look.scaledHeight, JSON.stringify(look));
    assert.ok(look.left >= 0 && look.left + look.width <= look.scaledWidth, JSON.stringify(look));
    if (o.bucket) {
      assert.ok(
        look.height % o.bucketStep === 0 && look.width % o.bucketStep === 0 && look.height * look.width <= o.size ** 2,
      );
      assert.ok(look.scaledHeight === look.height || look.scaledWidth === look.width, "it covers, and no more");
    } else {
      assert.equal(Math.min(look.scaledHeight, look.scaledWidth), o.size);
      if (o.crop !== "none") assert.deepEqual([look.height, look.width], [o.size, o.size]);
    }
    assert.deepEqual(lookAt(height, width, parsed.data, key), look, "the same again");
  }));
});

test("without a size nothing changes", () => {
  fc.assert(fc.property(side, side, (height, width) => {
    const look = lookAt(height, width, options({}), "k");
    const same = {
      scaledHeight: height,
      scaledWidth: width,
      top: 0,
      left: 0,
      height,
      width,
      isFlipped: false,
      bucket: undefined,
    };
    assert.deepEqual(look, same);
  }));
});

test("the middle, and places by the key that stay as they are", () => {
  const pick = (
    { scaledHeight, scaledWidth, top, left }: ReturnType<typeof lookAt>,
  ) => [scaledHeight, scaledWidth, top, left];
  assert.deepEqual(pick(lookAt(400, 601, options({ size: 256 }), "k")), [256, 385, 0, 64]);
  assert.deepEqual(pick(lookAt(601, 400, options({ size: 256 }), "k")), [385, 256, 64, 0]);
  const random = options({ size: 256, crop: "random:7" });
  assert.deepEqual(pick(lookAt(400, 600, random, "a")), [256, 384, 0, 123]);
  assert.deepEqual(pick(lookAt(400, 600, random, "b")), [256, 384, 0, 49]);
  assert.notDeepEqual(pick(lookAt(400, 600, options({ size: 256, crop: "random:8" }), "a")), [256, 384, 0, 123]);
  const lefts = new Set(Array.from({ length: 3000 }, (_, i) => lookAt(256, 266, random, `k${i}`).left));
  assert.equal(lefts.size, 11, "both ends are reached");
});

test("variants: crops, each as it is and mirrored", () => {
  const o = options({ size: 64, crop: "random:1", crops: 3, flip: true });
  assert.equal(numVariantsOf(o), 6);
  const looks = Array.from({ length: 6 }, (_, v) => lookAt(300, 500, o, `key_${v}`, v));
  assert.deepEqual(looks.map(({ isFlipped }) => isFlipped), [false, true, false, true, false, true]);
  for (const v of [0, 2, 4]) assert.equal(looks[v]!.left, looks[v + 1]!.left);
  assert.equal(new Set(looks.map(({ left }) => left)).size, 3);
});

test("buckets of 512 in steps of 64, as others have them", () => {
  const names = bucketsOf(512, 64, 2).map(({ width, height }) => `${width}x${height}`);
  assert.deepEqual(names, ["640x384", "576x448", "512x512", "448x576", "384x640"]);
  const large = bucketsOf(1024, 64, 2).map(({ width, height }) => `${width}x${height}`);
  for (const one of ["1344x768", "1216x832", "1152x896", "1024x1024", "896x1152"]) assert.ok(large.includes(one), one);
  assert.equal(lookAt(480, 800, options({ size: 512, bucket: true }), "k").bucket, "640x384");
  assert.equal(lookAt(100, 100, options({ size: 512, bucket: true }), "k").bucket, "512x512");
  assert.equal(lookAt(10, 5000, options({ size: 512, bucket: true }), "k").bucket, names[0]);
});

test("what does not go together is refused with a word why", () => {
  const wrong: [LookOptions, RegExp][] = [
    [{ bucket: true }, /bucket.*expected a size beside it/],
    [{ crop: "center" }, /crop.*expected a size beside it/],
    [{ size: 256, bucket: true, crop: "none" }, /crop.*expected center or random:SEED with buckets/],
    [{ size: 256, crops: 2 }, /crops.*expected crop random:SEED/],
    [{ size: 32, bucket: true }, /bucketStep.*fits into an area of 32 by 32/],
    [{ size: 256, crop: "random:x" as "random:1" }, /expected center, none or random:SEED/],
    [{ size: 0 }, /size/],
  ];
  for (const [o, text] of wrong) {
    const { error } = prepareOptions.safeParse(o);
    assert.match((error?.issues ?? []).map(({ path, message }) => `${path}: ${message}`).join("; "), text);
  }
});
