/**
 * Pictures and videos made to hurt: headers that claim 100,000 x 100,000 pixels, playlists under a video's name, absurd
 * rates and rotations, sizes that grow midway. Every way in refuses them by name, with both sizes, before memory is
 * taken, and `limitPixels` moves the limit. FFmpeg runs here in 1.5 GB of addresses: what it refuses it has not
 * allocated.
 */
import assert from "node:assert/strict";
import { execFileSync, spawn } from "node:child_process";
import { once } from "node:events";
import { chmodSync, existsSync, mkdtempSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import { createServer } from "node:net";
import { tmpdir } from "node:os";
import { join } from "node:path";
import process from "node:process";
import { after, test } from "node:test";
import { crc32 } from "node:zlib";
import sharp from "sharp";
import {
  createVideo,
  framesOf,
  loadTokens,
  readImage,
  saveTokens,
  tokenize,
  Tokenizer,
  type VideoOptions,
} from "mod.ts";
import { findFfmpeg } from "../../src/media/ffmpeg.ts";
import { Screen } from "../../repl/screen.ts";
import { Session } from "../../repl/session.ts";
import { ctokEnds, lines } from "../cli/spawn.ts";
import { rejects, residentBytes, root, runtime, withFolder } from "../support.ts";

const folder = mkdtempSync(join(tmpdir(), "ctok-hostile-"));
after(() => rmSync(folder, { recursive: true }));
const at = (name: string) => join(folder, name);
const file = (name: string, content: Uint8Array | string) => (writeFileSync(at(name), content), at(name));
const cat = join(root, "examples/media/cat.png"), cars = join(root, "examples/media/cars.mp4");

const ffmpeg = await findFfmpeg().catch(() => undefined);
const needs = { skip: ffmpeg ? false : "no FFmpeg: none in CTOK_FFMPEG, PATH, or the npm package" };
/** A test whose FFmpeg has 1.5 GB of addresses. The environment is the process's, which later tests share. */
function testVideo(name: string, work: () => Promise<void>): void {
  test(name, needs, async () => {
    const script = file("ffmpeg", `#!/bin/sh\nulimit -v 1500000\nexec '${ffmpeg!.path}' "$@"\n`),
      { CTOK_FFMPEG } = process.env;
    chmodSync(script, 0o755);
    process.env.CTOK_FFMPEG = script;
    try {
      await work();
    } finally {
      if (CTOK_FFMPEG === undefined) delete process.env.CTOK_FFMPEG;
      else process.env.CTOK_FFMPEG = CTOK_FFMPEG;
    }
  });
}

// ---------------------------------------------------------------- pictures
/** A picture of 16 x 16 pixels whose header then says another size. */
async function claiming(format: "png" | "jpeg" | "gif" | "tiff" | "avif"): Promise<Uint8Array> {
  const small = sharp({ create: { width: 16, height: 16, channels: 3, background: "red" } });
  const bytes = new Uint8Array(await small.toFormat(format).toBuffer()), view = new DataView(bytes.buffer);
  if (format === "png") {
    view.setUint32(16, 100_000), view.setUint32(20, 100_000);
    view.setUint32(29, crc32(bytes.subarray(12, 29)));
  } else if (format === "jpeg") { // the start of frame, behind the other segments
    let place = 2;
    while (bytes[place + 1] !== 0xc0) place += 2 + view.getUint16(place + 2);
    view.setUint32(place + 5, 65_500 * 65_536 + 65_500);
  } else if (format === "gif") { // the screen, and its first image
    bytes.fill(255, 6, 10);
    const image = bytes.indexOf(0x2c, 13 + 3 * (2 << (bytes[10]! & 7)));
    bytes.fill(255, image + 5, image + 9);
  } else if (format === "tiff") {
    const isLittle = bytes[0] === 0x49, directory = view.getUint32(4, isLittle);
    for (let i = 0; i < view.getUint16(directory, isLittle); i++) {
      const entry = directory + 2 + 12 * i;
      if (![256, 257].includes(view.getUint16(entry, isLittle))) continue;
      view.setUint16(entry + 2, 4, isLittle), view.setUint32(entry + 8, 100_000, isLittle);
    }
  } else {
    const extent = Buffer.from(bytes).indexOf("ispe") + 8;
    view.setUint32(extent, 100_000), view.setUint32(extent + 4, 100_000);
  }
  return bytes;
}
const tooMany = /expected at most 268402689 pixels \(limitPixels\), found (100000x100000|65500x65500|65535x65535)/;
const huge: Record<string, Uint8Array> = {};
for (const format of ["png", "jpeg", "gif", "tiff", "avif"] as const) huge[format] = await claiming(format);
huge.svg = new TextEncoder().encode('<svg xmlns="http://www.w3.org/2000/svg" width="100000" height="100000"/>');
for (const [format, bytes] of Object.entries(huge)) file(`huge.${format}`, bytes);

test("pictures that claim 100,000 x 100,000 pixels, or as many as their format can, through every way in", async () => {
  await using tok = await Tokenizer.open("nano-DI8x8");
  await readImage(cat); // what sharp takes once
  const before = residentBytes();
  for (const [format, bytes] of Object.entries(huge)) {
    const options = format === "svg" ? { svg: true } : {};
    for (const input of [bytes, at(`huge.${format}`)]) {
      const { detail } = await rejects(() => readImage(input, options), "IMAGE", tooMany);
      assert.ok(detail! >= 65_500 ** 2, format);
      await rejects(() => tok.encode(input, options), "IMAGE", tooMany);
      await rejects(() => tok.autoencode([cat, input], options), "IMAGE", tooMany);
      await rejects(() => tokenize(input, options), "IMAGE", tooMany);
    }
    assert.ok(residentBytes() - before < 64e6, `${format}: ${residentBytes() - before} bytes`);
  }
  const limit = { limitPixels: 300 * 451 - 1 }, found = /at most 135299 pixels \(limitPixels\), found 451x300/;
  await rejects(() => tok.encode(cat, limit), "IMAGE", found);
  await rejects(() => tok.autoencode(cat, limit), "IMAGE", found);
  await rejects(() => tokenize(cat, limit), "IMAGE", found);
  assert.deepEqual((await tok.encode(cat, { limitPixels: 300 * 451 })).indices.shape, [1, 38, 58]);
  await rejects(() => readImage(huge.png!, { limitPixels: 1e11 }), "IMAGE", /expected an image that sharp can read/);
});

test("pictures cut short, entities that grow, and references to other files", async () => {
  const svg = (head: string, body: string) =>
    file("x.svg", `${head}<svg xmlns="http://www.w3.org/2000/svg" width="64" height="64">${body}</svg>`);
  const names = "abcdefghijkl",
    entities = Array.from(names, (name, i) => {
      return `<!ENTITY ${name} "${i ? `&${names[i - 1]};`.repeat(10) : "aaaaaaaaaa"}">`;
    });
  const drawn = (head: string, body: string) => readImage(svg(head, body), { svg: true });
  await rejects(() => drawn(`<!DOCTYPE svg [${entities.join("")}]>`, "<text>&l;</text>"), "IMAGE", /entity/i);
  const outside = '<!DOCTYPE svg [<!ENTITY x SYSTEM "file:///etc/passwd">]>';
  await rejects(() => drawn(outside, "<text>&x;</text>"), "IMAGE", /Entity/);
  const other = await drawn("", `<image href="file://${cat}" width="64" height="64"/>`);
  assert.ok(other.data.every((byte) => byte === 0), "an SVG drew another file");
  for (const bytes of Object.values(huge)) {
    for (const part of [0.2, 0.5, 0.9]) {
      const cut = bytes.subarray(0, bytes.length * part);
      await rejects(() => readImage(cut, { svg: true }), "IMAGE", /expected (an image|at most)/);
    }
  }
});

test("a folder run reports such a file and finishes the rest; so do the other commands", async () => {
  const { stdout } = await ctokEnds(1, [
    ...["encode", cat, at("huge.png"), join(root, "examples/media/coffee.jpg"), "--out", at("tokens/"), "--json"],
  ]);
  const results = lines(stdout);
  assert.deepEqual(results.map(({ ok }) => ok), [true, false, true]);
  assert.equal(results[1].code, "IMAGE");
  assert.match(results[1].message, tooMany);
  assert.ok(existsSync(at("tokens/coffee.safetensors")) && !existsSync(at("tokens/huge.safetensors")));
  const { stderr } = await ctokEnds(1, ["autoencode", cat, "--out", at("again.png"), "--limit-pixels", "1000"]);
  assert.match(stderr, /at most 1000 pixels \(limitPixels\), found 451x300/);
  await using tok = await Tokenizer.open("nano-DI8x8", { half: "encoder" });
  const most = tok.plan({ height: 300, width: 451 }).totalBytes - 1;
  const memory = await ctokEnds(1, ["encode", cat, "--out", at("cat.npy"), "--max-memory", String(most)]);
  assert.match(memory.stderr, new RegExp(`need ${most + 1} bytes .*limit \\(max_memory_bytes\\) is ${most}`));
});

test("the REPL's load and the plugin", async () => {
  await using session = new Session(new Screen());
  const { load, encode } = session.scope() as Record<string, (...args: unknown[]) => Promise<unknown>>;
  await rejects(() => load!(at("huge.png")), "IMAGE", tooMany);
  await rejects(() => load!(cat, { limitPixels: 1000 }), "IMAGE", /at most 1000 pixels/);
  await rejects(() => encode!(cat, { limitPixels: 1000 }), "IMAGE", /at most 1000 pixels/);
  if (ffmpeg) await rejects(() => load!(cars, { limitPixels: 1000 }), "VIDEO", /at most 1000 pixels/);
  // Deno has no plugins.
  if (runtime === "bun") await rejects(() => import(`${at("huge.png")}?tokens`), "IMAGE", tooMany);
});

// ---------------------------------------------------------------- videos
/** H.264 whose parameters say a size: sequence and picture parameters, and slices of noise. Ref: ITU-T H.264, 7.3.2. */
function h264(height: number, width: number): Uint8Array {
  const golomb = (v: number) => (v + 1).toString(2).replace(/^/, (_, _at, s: string) => "0".repeat(s.length - 1));
  const unit = (type: number, bits: string) => {
    const whole = `${bits}1`.padEnd(Math.ceil((bits.length + 1) / 8) * 8, "0");
    return [0, 0, 0, 1, type, ...whole.match(/.{8}/g)!.map((byte) => parseInt(byte, 2))];
  };
  const codes = (...values: number[]) => values.map(golomb).join("");
  const sequence = `${"01000010"}${"00000000"}${"00110011"}${codes(0, 0, 2, 1)}0${
    codes(width / 16 - 1, height / 16 - 1)
  }1100`;
  const picture = `${codes(0, 0)}00${codes(0, 0, 0)}000${codes(0, 0, 0)}000`;
  const slice = [...unit(0x65, `${codes(0, 7, 0)}0000${codes(0)}00${codes(0, 1)}`), ...new Array(50).fill(0x55)];
  return Uint8Array.of(...unit(0x67, sequence), ...unit(0x68, picture), ...slice, ...slice, ...slice);
}
const y4m = (height: number, width: number, rate: string, frames: number, frameBytes: number) =>
  `YUV4MPEG2 W${width} H${height} F${rate} C420\n${`FRAME\n${"x".repeat(frameBytes)}`.repeat(frames)}`;

async function framesIn(path: string, options: VideoOptions = {}): Promise<number> {
  let count = 0;
  for await (const _ of (await framesOf(path, options)).frames) count++;
  return count;
}

testVideo("videos that claim 100,000 x 100,000 pixels are refused, and limitPixels moves the limit", async () => {
  file("huge.h264", h264(100_000, 100_000));
  file("huge.y4m", y4m(100_000, 100_000, "30:1", 1, 1000));
  await using tok = await Tokenizer.open("nano-DV4x8x8");
  const before = residentBytes();
  for (const name of ["huge.h264", "huge.y4m", "huge.gif"]) await rejects(() => framesOf(at(name)), "VIDEO", tooMany);
  for (const name of ["huge.png", "huge.jpeg", "huge.tiff", "huge.avif"]) { // clips of one frame
    await rejects(() => framesOf(at(name)), "IMAGE", tooMany);
  }
  await rejects(() => tok.encode(at("huge.h264")), "VIDEO", tooMany);
  const { detail } = await rejects(
    () => framesOf(cars, { limitPixels: 432 * 768 - 1 }),
    "VIDEO",
    /found 768x432/,
  );
  assert.equal(detail, 432 * 768);
  await rejects(
    () => tok.encode(cars, { limitPixels: 1000 }),
    "VIDEO",
    /at most 1000 pixels \(limitPixels\), found 768x432/,
  );
  assert.equal(await framesIn(cars, { limitPixels: 432 * 768, frames: 3 }), 3);
  await rejects(
    () => framesOf(at("huge.h264"), { limitPixels: 1e12 }),
    "VIDEO",
    /expected (a video that FFmpeg can read|at least one frame), found/,
  );
  // A frame within the limit, of which the file has a thousandth.
  await rejects(
    () => framesOf(file("large.y4m", y4m(9000, 9000, "30:1", 1, 1000))),
    "VIDEO",
    /at least one frame, found none/,
  );
  assert.ok(residentBytes() - before < 64e6, `${residentBytes() - before} bytes`);
});

testVideo("a stream that becomes too large midway ends with the frames before", async () => {
  const part = (name: string, size: string) => {
    const pattern = ["-f", "lavfi", "-i", `testsrc=s=${size}:r=30:d=1`],
      codec = ["-c:v", "libx264", "-preset", "ultrafast"];
    execFileSync(ffmpeg!.path, [
      "-v",
      "error",
      "-y",
      ...pattern,
      ...codec,
      "-bf",
      "0",
      "-pix_fmt",
      "yuv420p",
      at(name),
    ]);
    return readFileSync(at(name));
  };
  const path = file("grows.ts", Buffer.concat([part("small.ts", "64x48"), part("large.ts", "320x240")]));
  let count = 0;
  const { frames } = await framesOf(path, { limitPixels: 10_000, allowDamage: true });
  const work = async () => {
    for await (const _ of frames) count++;
  };
  await rejects(work, "VIDEO", /at most 10000 pixels \(limitPixels\), found 320x240/);
  assert.ok(count >= 28 && count <= 30, `${count} frames`);
});

testVideo("playlists and scripts under a video's name open no file and no connection", async () => {
  let connections = 0;
  const server = createServer((socket) => (connections++, socket.destroy())).listen(0, "127.0.0.1");
  await once(server, "listening");
  const { port } = server.address() as { port: number }, url = `http://127.0.0.1:${port}/a.ts`;
  const playlist = (target: string) => `#EXTM3U\n#EXT-X-TARGETDURATION:9\n#EXTINF:9,\n${target}\n#EXT-X-ENDLIST\n`;
  const dash = `<?xml version="1.0"?><MPD xmlns="urn:mpeg:dash:schema:mpd:2011" type="static"><Period><AdaptationSet
    mimeType="video/mp4"><Representation id="1" bandwidth="1"><BaseURL>${url}</BaseURL></Representation>\
</AdaptationSet></Period></MPD>`;
  const sdp = "v=0\no=- 0 0 IN IP4 127.0.0.1\ns=x\nc=IN IP4 127.0.0.1\nt=0 0\n" +
    `m=video ${port} RTP/AVP 96\na=rtpmap:96 H264/90000\n`;
  const copy = file(
    "part.ts",
    execFileSync(ffmpeg!.path, ["-v", "error", "-i", cars, "-c", "copy", "-f", "mpegts", "-"]),
  );
  // Later FFmpegs go by the extension, too.
  const hls = /found: hls[,a-z]*, which is not on the list|Not detecting m3u8\/hls/;
  const cases: [string, string, RegExp][] = [
    ["net", playlist(url), hls],
    ["local", playlist(`file://${copy}`), hls],
    ["concat", `ffconcat version 1.0\nfile part.ts\n`, /found: concat, which is not on the list/],
    ["dash", dash, /expected a video that FFmpeg can read/],
    ["sdp", sdp, /found: sdp, which is not on the list/],
    ["text", "hello, this is text\n", /expected a video that FFmpeg can read/],
  ];
  for (const [name, content, pattern] of cases) {
    for (const extension of ["mp4", "m3u8", ""]) {
      await rejects(
        () => framesOf(file(`${name}.${extension}`, content)),
        "VIDEO",
        extension === "mp4" ? pattern : /./,
      );
    }
    const sink = { height: 16, width: 16, fps: 25, audioFrom: at(`${name}.mp4`) };
    await rejects(() => createVideo(at("out.mp4"), sink), "VIDEO", /expected a file with audio/);
  }
  writeFileSync(at("a001.png"), readFileSync(cat));
  // It would read a001.png.
  await rejects(() => framesOf(file("a%03d.png", "x")), "VIDEO", /image2, which is not on the list/);
  assert.equal(connections, 0);
  server.close();
});

testVideo("absurd rates, rotations and clocks", async () => {
  for (const rate of ["0:0", "2147483647:1", "1:2147483647"]) {
    assert.equal(await framesIn(file("rate.y4m", y4m(16, 16, rate, 2, 384))), 2, rate);
  }
  execFileSync(ffmpeg!.path, ["-v", "error", "-i", cars, "-c", "copy", "-metadata:s:v", "rotate=45", at("turned.mp4")]);
  assert.equal(await framesIn(at("turned.mp4"), { frames: 3 }), 3);
  // Two frames, 68 years apart by their timestamps: resampled, an endless video of a few bytes.
  const slow = file("slow.y4m", y4m(2, 2, "1:2147483647", 2, 6));
  assert.equal(await framesIn(slow, { fps: 25, frames: 100 }), 100);
  const limit = { fps: 25, limitFrames: 1000 };
  const { detail } = await rejects(
    () => framesIn(slow, limit),
    "VIDEO",
    /at most 1000 frames \(limitFrames\), found more/,
  );
  assert.equal(detail, 1000);
  assert.equal(await framesIn(cars, { limitFrames: 75 }), 75);
  await rejects(() => framesIn(cars, { limitFrames: 74 }), "VIDEO", /at most 74 frames/);
});

test("a folder of frames whose second claims too much", async () => {
  await withFolder(async (frames) => {
    writeFileSync(join(frames, "1.png"), readFileSync(cat));
    writeFileSync(join(frames, "2.png"), huge.png!);
    const source = await framesOf(frames);
    await rejects(
      async () => {
        for await (const _ of source.frames);
      },
      "IMAGE",
      tooMany,
    );
    await rejects(() => framesOf(frames, { limitPixels: 1000 }), "IMAGE", /at most 1000 pixels/);
  });
});

test("pipes as pictures and token files: read to their end, and an abort lets go of one that says nothing", () =>
  withFolder(async (dir) => {
    await using tok = await Tokenizer.open("nano-DI8x8");
    const pipe = (name: string) => {
      execFileSync("mkfifo", [join(dir, name)]);
      return join(dir, name);
    };
    const wanted = await tok.encode(cat), tokens = join(dir, "tokens.safetensors");
    await saveTokens(tokens, wanted);
    const feed = (from: string, to: string) => {
      const child = spawn("sh", ["-c", `cat '${from}' > '${to}'`], { stdio: "ignore" });
      return new Promise((resolve) => child.once("close", resolve));
    };
    const fed = [feed(cat, pipe("cat.png")), feed(tokens, pipe("t.safetensors"))];
    assert.deepEqual((await tok.encode(join(dir, "cat.png"))).indices.data, wanted.indices.data);
    assert.deepEqual((await loadTokens(join(dir, "t.safetensors"))).indices.data, wanted.indices.data);
    await Promise.all(fed);

    const abort = new AbortController(), { signal } = abort;
    const works = [
      ...Array.from({ length: 8 }, (_, n) => tok.encode(pipe(`p${n}.png`), { signal })),
      readImage(pipe("r.png"), { signal }),
      loadTokens(pipe("l.safetensors"), undefined, { signal }),
    ];
    const ended = Promise.allSettled(works);
    assert.deepEqual((await tok.encode(cat)).indices.data, wanted.indices.data, "other files are read meanwhile");
    abort.abort();
    for (const result of await ended) assert.equal(result.status === "rejected" && result.reason.code, "CANCELLED");
  }));
