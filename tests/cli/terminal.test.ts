// deno-lint-ignore-file no-control-regex
/**
 * What a terminal is shown: help in its width, colours and their absence, and the bar. Terminals are those of
 * script(1).
 */
import assert from "node:assert/strict";
import { spawn, spawnSync } from "node:child_process";
import { copyFile, mkdtemp, rm, writeFile } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import process from "node:process";
import { after, test } from "node:test";
import { Bar, barLine, type Counted, type Moment } from "../../cli/progress.ts";
import { ctokEnds, runtimeCommand, top } from "./spawn.ts";

const place = await mkdtemp(join(tmpdir(), "ctok-terminal-"));
after(() => rm(place, { recursive: true }));
const noScript = spawnSync("script", ["--version"]).status === 0 ? false : "no script(1), which makes terminals";

/** What ctok writes to a terminal of so many columns, its line ends as ours. */
function inTerminal(columns: number, args: readonly string[], env: Record<string, string> = {}): Promise<string> {
  const quoted = [...runtimeCommand, ...args].map((word) => `'${word}'`).join(" ");
  // On CI a terminal is taken to have no colours.
  const { NO_COLOR: _no, FORCE_COLOR: _force, CI: _ci, ...others } = process.env;
  const child = spawn("script", ["-qec", `stty cols ${columns}; ${quoted} 2>&1`, "/dev/null"], {
    cwd: place,
    env: { ...others, TERM: "xterm-256color", ...env },
    stdio: ["ignore", "pipe", "inherit"],
  });
  let text = "";
  child.stdout.setEncoding("utf8").on("data", (chunk: string) => text += chunk);
  return new Promise((resolve, reject) => {
    child.on("error", reject);
    child.on("close", () => resolve(text.replaceAll("\r\n", "\n")));
  });
}

const escapes = /\x1b\[[\d;]*[A-Za-z]/g;

// ---------------------------------------------------------------- help and colours
for (const columns of [40, 60, 100]) {
  test(`help fits ${columns} columns, headings bold`, { skip: noScript }, async () => {
    for (const args of [["help"], ["help", "encode"], ["autoencode", "-h"]]) {
      const shown = await inTerminal(columns, args), plain = await inTerminal(columns, args, { NO_COLOR: "1" });
      assert.match(shown, /\n\x1b\[1m\w[\w ]+\x1b\[22m\n/);
      assert.equal(shown.replace(escapes, ""), plain);
      assert.doesNotMatch(plain, /\x1b/);
      // An example is not cut: it is there to be copied.
      const lines = plain.split("\n").filter((line) => !line.startsWith("  ctok "));
      for (const line of lines) assert.ok(line.length <= columns, `${columns}: ${line}`);
      assert.ok(columns < 100 || lines.some((line) => line.length > 80), "the width is used");
    }
  });
}

test("failures are marked red; NO_COLOR, a dumb terminal and a pipe have none, FORCE_COLOR a pipe too", {
  skip: noScript,
}, async () => {
  const wrong = ["encdoe"],
    red = /^\x1b\[31mctok:\x1b\[39m unknown command encdoe/,
    plain = /^ctok: unknown command encdoe/;
  assert.match(await inTerminal(80, wrong), red);
  assert.match(await inTerminal(80, wrong, { NO_COLOR: "" }), red);
  assert.match(await inTerminal(80, wrong, { NO_COLOR: "1" }), plain);
  assert.match(await inTerminal(80, wrong, { TERM: "dumb" }), plain);
  assert.match((await ctokEnds(2, wrong)).stderr, plain);
  assert.match((await ctokEnds(2, wrong, { env: { FORCE_COLOR: "1" } })).stderr, red);
});

test("a run in 60 columns: one bar in its line, results above it, nothing of it left", {
  skip: noScript,
  timeout: 600_000,
}, async () => {
  const names = ["a.png", "b.png", "text.png", "a_long_name_of_a_picture_that_does_not_fit_into_the_line.png"];
  for (const name of names) await copyFile(join(top, "examples/media/astronaut.png"), join(place, name));
  await writeFile(join(place, "text.png"), "text");
  const shown = await inTerminal(60, ["autoencode", ...names, "-o", "out"]);
  const drawn = shown.split("\r").filter((piece) => piece.endsWith("\x1b[K") && piece !== "\x1b[K");
  assert.ok(drawn.length >= 4, JSON.stringify(shown));
  for (const piece of drawn) {
    assert.ok(piece.length - "\x1b[K".length < 60 && !piece.includes("\n"), piece);
    assert.match(piece, /^\[[#.]{8}\] +\d+% {2}[1-4]\/4 /);
  }
  for (const [i, name] of names.slice(0, 3).entries()) {
    assert.ok(drawn.some((piece) => piece.includes(`  ${i + 1}/4`) && piece.includes(name)));
  }
  // What stays when each bar is wiped by what came after it.
  const left = shown.split("\n").map((line) => line.split("\r").at(-1)!.replace(escapes, "")).filter(Boolean);
  assert.equal(left.length, 5, shown);
  assert.match(left[0]!, /^a\.png -> out\/a\.png: 512x512 pixels, PSNR /);
  assert.match(left[2]!, /^ctok: text\.png: expected /);
  assert.match(left[4]!, /^3 of 4 files done in /);
  assert.doesNotMatch(await inTerminal(60, ["autoencode", "a.png", "-o", "out/", "--overwrite", "-q"]), /./);
});

// ---------------------------------------------------------------- the bar's line
const at = (counted: Counted, moment: Partial<Moment>, columns = 80) => {
  return barLine(counted, { done: 0, label: "photos/cat.jpg", seconds: 0, first: 0, ...moment }, columns);
};

test("files: the part, the count, the rate and the time left", () => {
  const files = { unit: "files", total: 20 } as const;
  assert.equal(at(files, {}), "[..........]    0%  1/20  photos/cat.jpg");
  assert.equal(
    at(files, { done: 5.5, seconds: 11 }),
    "[###.......]   27%  6/20  2.0 s/file  0:29 left  photos/cat.jpg",
  );
  assert.equal(at(files, { done: 15, seconds: 5 }), "[########..]   75%  16/20  3 files/s  0:02 left  photos/cat.jpg");
  assert.equal(
    at(files, { done: 15, seconds: 5, note: "12.3 frames/s" }),
    "[########..]   75%  16/20  12.3 frames/s  0:02 left  photos/cat.jpg",
  );
  assert.equal(
    at({ unit: "files", total: 1 }, { done: 0.5, seconds: 2 }),
    "[#####.....]   50%  0:02 left  photos/cat.jpg",
  );
  const unknown = { done: undefined, note: "40 frames, 12.3 frames/s", seconds: 9 };
  assert.equal(at({ unit: "files", total: 1 }, unknown), "40 frames, 12.3 frames/s  photos/cat.jpg");
});

test("bytes: of what there was before, none count for the rate", () => {
  const bytes = { unit: "bytes", total: 158e6 } as const;
  assert.equal(
    at(bytes, { done: 79e6, first: 59e6, seconds: 4, label: "m.jit" }, 100),
    "[############............]   50%  79.0 MB of 158 MB  5.00 MB/s  0:16 left  m.jit",
  );
  assert.equal(
    at({ unit: "bytes", total: undefined }, { done: 79e6, seconds: 4 }),
    "79.0 MB  19.8 MB/s  photos/cat.jpg",
  );
});

test("whatever there is to say fits, and moves no cursor", () => {
  const label = `${"写".repeat(40)}\x1b[2J\n.jpg`;
  for (let columns = 5; columns < 130; columns++) {
    for (const total of [1, 20, undefined]) {
      const line = at({ unit: "files", total }, { done: 0.5, seconds: 3, label, note: "12.3 frames/s" }, columns);
      const width = [...line].reduce((sum, c) => sum + (c === "写" ? 2 : 1), 0);
      assert.ok(width < columns, `${columns}: ${line}`);
      assert.doesNotMatch(line, /[\x1b\n]/);
    }
  }
});

test("the bar is drawn at once, not at every update, and goes when others write", () => {
  let written = "", now = 5000;
  const bar = new Bar({ unit: "files", total: 3 }, (text) => written += text, () => 60, () => now);
  const take = () => [written, written = ""][0];
  bar.clear();
  assert.equal(take(), "", "nothing to wipe");
  bar.update(0, "a");
  assert.match(take()!, /^\r\[\.{8}\] {4}0% {2}1\/3 {2}a\x1b\[K$/);
  for (let i = 0; i < 50; i++, now += 10) bar.update(i / 50, "a");
  assert.equal(take()!.match(/\r/g)?.length, 4, "once in 100 ms");
  bar.clear();
  assert.match(take()!, /\r\x1b\[K$/);
  bar.update(1, "b");
  assert.match(take()!, /2\/3 {2}b\x1b\[K$/, "shown again at once");
  bar[Symbol.dispose]();
  assert.equal(take(), "\r\x1b[K");
});
