/**
 * Pictures under hostile use: bombs end by a limit, an abort is answered and nothing goes on behind it, memory that the
 * caller still touches is copied in the call's own tick, helper processes keep no one alive. Sizes of limits are held,
 * not times: a bomb that nothing stopped would run into the runner's own limit.
 */
import assert from "node:assert/strict";
import { spawn } from "node:child_process";
import { once } from "node:events";
import { writeFileSync } from "node:fs";
import { readFile } from "node:fs/promises";
import { join } from "node:path";
import process from "node:process";
import { test } from "node:test";
import { detokenize, readImage, tokenize, Tokenizer, TokenizerError, writeImage } from "mod.ts";
import sharp from "sharp";
import { gif, png, tiff } from "../pictures.ts";
import { rejects, root, runArgs, runtime, withFolder } from "../support.ts";
import { bomb, bombLimits, family } from "./bombs.ts";

const svg = (body: string, side = 16) =>
  new TextEncoder().encode(`<svg xmlns="http://www.w3.org/2000/svg" width="${side}" height="${side}">${body}</svg>`);
const square = svg('<rect width="16" height="16" fill="#08f"/>');
/** Years of work in a few hundred bytes. */
const endless = svg(
  `<defs><g id="a0"><circle r="9"/></g>${
    Array.from({ length: 14 }, (_, i) => `<g id="a${i + 1}">${`<use href="#a${i}"/>`.repeat(12)}</g>`).join("")
  }</defs><use href="#a14"/>`,
);
const dots = Uint8Array.from({ length: 48 }, (_, i) => i * 5);

test("SVG is drawn when asked for, and refused otherwise, whatever it is called", async () => {
  const image = await readImage(square, { svg: true });
  assert.deepEqual([image.shape, [...image.data.subarray(0, 3)]], [[1, 16, 16, 3], [0, 0x88, 255]]);
  const asked = /expected pixels, found what may be SVG, which is drawn only when asked for \(svg: true, --svg\)/;
  await using tok = await Tokenizer.open("nano-DI8x8");
  await withFolder(async (folder) => {
    const path = join(folder, "photo.png");
    writeFileSync(path, square);
    for (const input of [square, path]) {
      await rejects(() => readImage(input), "IMAGE", asked);
      await rejects(() => tok.encode(input), "IMAGE", asked);
      await rejects(() => tok.autoencode(input), "IMAGE", asked);
      await rejects(() => tokenize(input), "IMAGE", asked);
      assert.deepEqual((await tok.encode(input, { svg: true })).indices.shape, [1, 2, 2]);
      assert.deepEqual((await tok.autoencode(input, { svg: true })).shape, [1, 16, 16, 3]);
    }
  });
});

test("limits of time and memory end what they should, and the next picture is read", async () => {
  const time = /expected to decode in at most (0\.2|1) seconds \(limitSeconds\), found more/;
  await rejects(() => readImage(endless, { svg: true, limitSeconds: 0.2 }), "IMAGE", time);
  await rejects(() => readImage(endless, { svg: true }), "IMAGE", time);
  await rejects(() => tokenize(endless, { svg: true, limitSeconds: 0.2 }), "IMAGE", time);
  const large = svg(
    `<pattern id="p" width="30000" height="30000" patternUnits="userSpaceOnUse">
     <rect width="30000" height="30000"/></pattern>
     <rect width="16" height="16" fill="url(#p)"/><filter id="f" x="-99999" y="-99999" width="199999" height="199999">
     <feGaussianBlur stdDeviation="9999"/></filter><rect width="16" height="16" fill="url(#p)" filter="url(#f)"/>`,
  );
  const memory = /expected to decode in at most \d+ bytes of memory \(limitMemory\), found \d+ and more/;
  await rejects(() => readImage(large, { svg: true, limitSeconds: 100 }), "IMAGE", memory);
  await rejects(
    () => readImage(large, { svg: true, limitSeconds: 100, limitMemory: 50_000_000 }),
    "IMAGE",
    /most 50000000 bytes/,
  );
  assert.deepEqual((await readImage(square, { svg: true })).shape, [1, 16, 16, 3]);
  for (const limits of [{ limitSeconds: 0 }, { limitMemory: 0 }, { svg: 1 }]) {
    await rejects(() => readImage(square, limits as never), "ARGUMENT", /^options\.(limitSeconds|limitMemory|svg): /);
  }
});

test("what a picture left in its helper counts for no other", async () => {
  const make = async (side: number, compression: "none" | "deflate") => {
    const pixels = Uint8Array.from({ length: side * side * 3 }, (_, i) => i * 31 + (i >> 8));
    return await sharp(pixels, { raw: { width: side, height: side, channels: 3 } }).tiff({ compression }).toBuffer();
  };
  // The first leaves 54 MB until they are collected.
  const large = await make(3000, "none"), next = await make(1200, "deflate");
  for (let i = 0; i < 4; i++) {
    assert.deepEqual((await readImage(large)).shape, [1, 3000, 3000, 3]);
    assert.deepEqual((await readImage(next, { limitMemory: 48 * 2 ** 20 })).shape, [1, 1200, 1200, 3]);
  }
});

test("a JPEG of thousands of scans is refused by its header's walk, one of few is read", async () => {
  const jpegs = [];
  for (let seed = 1; jpegs.length < 12; seed += 8) {
    const { name, bytes } = await bomb(seed);
    const numScans = Number(/with (\d+) scans/.exec(name)?.[1]);
    if (numScans) jpegs.push({ numScans, bytes });
  }
  for (const { numScans, bytes } of jpegs) {
    if (numScans > 99) {
      await rejects(() => readImage(bytes, bombLimits), "IMAGE", /expected a JPEG of at most 100 scans, found "more"/);
    } else assert.equal((await readImage(bytes, bombLimits)).shape[3], 3);
  }
  assert.ok(jpegs.some(({ numScans }) => numScans > 99) && jpegs.some(({ numScans }) => numScans <= 99));
});

test("bombs of every format: read, or refused as IMAGE, within the limit of memory", async () => {
  await readImage(square, { svg: true });
  const before = family();
  for (let seed = 0; seed < 24; seed++) {
    const { name, bytes } = await bomb(seed);
    let most = 0;
    const watch = setInterval(() => most = Math.max(most, family().bytes), 10);
    const end = await readImage(bytes, { ...bombLimits, limitSeconds: 0.3 }).catch((error) => error);
    clearInterval(watch);
    const isRight = end instanceof TokenizerError ? end.code === "IMAGE" : end.data.length <= 3 * 2 ** 22;
    assert.ok(isRight, `${name}: ${end}`);
    // The limit of 200 MiB, a helper beside the one that was there, and what comes between two looks on a busy machine;
    // some take 3 GiB without a limit.
    assert.ok(most - before.bytes < 2 ** 30, `${name}: ${most - before.bytes} bytes more`);
  }
});

test("an abort ends a picture in work, waiting, or not begun", async () => {
  const endings = new AbortController(), limits = { svg: true, limitSeconds: 1e6, signal: endings.signal };
  const works = Array.from({ length: 12 }, () => readImage(endless, limits)); // more than helpers: some wait
  works.push(tokenize(endless, limits) as never);
  const all = Promise.allSettled(works);
  const { seconds } = family();
  // Until helpers are at work.
  while (family().seconds - seconds < 0.5) await new Promise((resolve) => setTimeout(resolve, 20));
  endings.abort(new Error("enough"));
  for (const end of await all) {
    assert.ok(end.status === "rejected" && end.reason instanceof TokenizerError, String(end.status));
    assert.deepEqual([end.reason.code, (end.reason.cause as Error).message], ["CANCELLED", "enough"]);
  }
  await rejects(() => readImage(square, limits), "CANCELLED", /cancelled/);
  await rejects(() => readImage(png([1, 2, 3], 1), { signal: endings.signal }), "CANCELLED", /cancelled/);
  await withFolder(async (folder) => {
    const path = join(folder, "a.png"), image = { dtype: "uint8", shape: [4, 4, 3], data: dots } as const;
    await rejects(() => writeImage(path, image, { signal: endings.signal }), "CANCELLED", /cancelled/);
    await assert.rejects(readFile(path), { code: "ENOENT" });
  });
  assert.deepEqual((await readImage(square, { svg: true })).shape, [1, 16, 16, 3]); // helpers are there for others
});

/** Runs a program over mod.ts; gives its exit code and how it spoke. */
async function program(code: string, rights = ["-A"]): Promise<{ code: number | string | null; stdout: string }> {
  const said = { stdout: "" };
  return await withFolderOf(code, async (path) => {
    const args = runtime === "deno"
      ? ["run", ...rights, "--no-check", "--no-prompt", "--config", join(root, "deno.json"), path]
      : [...runArgs, path];
    const child = spawn(process.execPath, args, { stdio: ["ignore", "pipe", "inherit"] });
    child.stdout.setEncoding("utf8").on("data", (text: string) => said.stdout += text);
    const [exit, signal] = await once(child, "close");
    return { ...said, code: exit ?? signal };
  });
}
async function withFolderOf<T>(code: string, use: (path: string) => Promise<T>): Promise<T> {
  let result!: T;
  await withFolder(async (folder) => {
    const path = join(folder, "program.ts");
    writeFileSync(path, `import { readImage } from ${JSON.stringify(join(root, "mod.ts"))};\n${code}`);
    result = await use(path);
  });
  return result;
}
const inProgram = (bytes: Uint8Array) => `Uint8Array.from(${JSON.stringify([...bytes])})`;

test("an idle helper keeps no process alive, an aborted bomb neither, and process.exit waits for none", async () => {
  const read = `console.log((await readImage(${inProgram(square)}, { svg: true })).shape.join());`;
  assert.deepEqual(await program(read), { code: 0, stdout: "1,16,16,3\n" });
  const bombs = `const stop = new AbortController(), limits = { svg: true, limitSeconds: 1e6, signal: stop.signal };
    const work = readImage(${inProgram(endless)}, limits).catch((error) => console.log(error.code));
    setTimeout(() => stop.abort(), 300); await work;`;
  assert.deepEqual(await program(read + bombs), { code: 0, stdout: "1,16,16,3\nCANCELLED\n" });
  const exits = `import process from "node:process"; readImage(${
    inProgram(endless)
  }, { svg: true, limitSeconds: 1e6 }).catch(() => {});
    setTimeout(() => process.exit(7), 300);`;
  assert.deepEqual(await program(exits), { code: 7, stdout: "" });
});

test("where no helper may start: small pictures that are no SVG are read here, the rest is refused", async () => {
  const code = `const tiff = ${inProgram(tiff(dots, 4))}, svg = ${inProgram(square)};
    console.log((await readImage(tiff)).shape.join());
    const refused = /expected a process to decode it in/;
    await readImage(svg, { svg: true }).catch((error) => console.log(error.code, refused.test(error.message)));`;
  // Deno without the right to run anything; on Bun a program that is called otherwise, as a compiled one is.
  const hide = `import process from "node:process"; process.execPath = "/nowhere/program";\n`;
  const { stdout } = runtime === "deno"
    ? await program(code, ["--allow-read", "--allow-env", "--allow-ffi", "--allow-sys"])
    : await program(hide + code);
  assert.equal(stdout, "1,4,4,3\nTHREAD true\n");
});

test("bytes and pixels are copied in the call's own tick", async () => {
  const side = 64, noise = new Uint8Array(side * side * 3);
  for (let i = 0, state = 1; i < noise.length; i++) {
    noise[i] = (state = Math.imul(state, 1103515245) + 12345 | 0) >>> 16;
  }
  const files = [png(noise, side), tiff(noise, side)]; // in this process, and in a helper
  for (const file of files) {
    for (
      const spoil of [
        (bytes: Uint8Array) => bytes.fill(0xaa),
        (bytes: Uint8Array) => structuredClone(bytes.buffer, { transfer: [bytes.buffer as ArrayBuffer] }),
      ]
    ) {
      const bytes = file.slice(), image = readImage(bytes);
      spoil(bytes);
      assert.deepEqual((await image).data, noise);
      await withFolder(async (folder) => {
        const path = join(folder, "a.png"), data = noise.slice();
        const written = writeImage(path, { dtype: "uint8", shape: [side, side, 3], data });
        spoil(data);
        await written;
        assert.deepEqual((await readImage(path)).data, noise);
      });
    }
  }
  const gone = files[0]!.slice();
  structuredClone(gone.buffer, { transfer: [gone.buffer] });
  await rejects(() => readImage(gone), "IMAGE", /found no bytes at all/);
});

test("writeImage takes what detokenize gives, and tells what it does not take", async () => {
  const image = await detokenize(await tokenize(join(root, "examples/media/cat.png")));
  await withFolder(async (folder) => {
    const path = join(folder, "again.png");
    await writeImage(path, image);
    assert.deepEqual((await readImage(path)).data, image.data);
    assert.deepEqual((await sharp(path).metadata()).height, image.height);
    const wrong: [unknown, TokenizerError["code"]][] = [
      [undefined, "ARGUMENT"],
      [null, "ARGUMENT"],
      [5, "ARGUMENT"],
      [{}, "ARGUMENT"],
      [{ data: dots, height: 4, width: 4 }, "ARGUMENT"],
      [{ dtype: "uint8", shape: [1, 1, 3], data: [1, 2, 3] }, "ARGUMENT"],
      [{ dtype: "uint8", shape: [4, 5, 3], data: dots }, "SHAPE"],
      [{ dtype: "uint8", shape: [4, 12], data: dots }, "SHAPE"],
      [{ dtype: "uint8", shape: [4, NaN, 3], data: dots }, "SHAPE"],
    ];
    for (const [what, code] of wrong) await rejects(() => writeImage(path, what as never), code, /^image/);
    await rejects(() => writeImage(undefined as never, image), "ARGUMENT", /^path: /);
  });
});

test("what of several frames is read in a helper: the first, and damage is told", async () => {
  const palette = [255, 0, 0, 0, 255, 0, 0, 0, 255, 9, 8, 7];
  const moving = gif([0, 1, 2, 3], 2, { palette, more: 50 });
  assert.deepEqual([...(await readImage(moving)).data], palette);
  const cut = tiff(dots, 4).subarray(0, 150);
  await rejects(() => readImage(cut), "IMAGE", /expected an image that sharp can read/);
});
