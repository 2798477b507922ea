/**
 * The Dockerfile without Docker: what it copies and runs is there, its steps are those of container/steps.sh, and those
 * run in a copy of what the build would see. Packages and objects of this checkout stand in for the downloads and most
 * of the compiling. Not tested here: the base images, and apt.
 */
import assert from "node:assert/strict";
import { cp, mkdir, readdir, readFile, symlink, utimes } from "node:fs/promises";
import { join } from "node:path";
import { test } from "node:test";
import { readImage } from "mod.ts";
import { root, runtime, withFolder } from "../support.ts";
import { runs } from "../workplace.ts";

const steps = "container/steps.sh";
const dockerfile = (await readFile(join(root, "Dockerfile"), "utf8")).split("\n").filter((line) =>
  !line.startsWith("#")
);
const rest = (instruction: string) =>
  dockerfile.filter((line) => line.startsWith(`${instruction} `)).map((line) => line.slice(instruction.length + 1));

test("the Dockerfile runs each step once, in the order of steps.sh, on files that are there", async () => {
  const script = await readFile(join(root, steps), "utf8");
  const [, all = ""] = /^ {2}all\) (.*) ;;$/m.exec(script)!;
  const called = [...[...rest("RUN"), ...rest("CMD")].join("\n").matchAll(/container\/steps\.sh"?,? "?(\w+)/g)].map((
    [, name],
  ) => name);
  assert.deepEqual(called, all.split(" && "));
  const present = await readdir(root);
  for (const sources of rest("COPY").map((line) => line.split(" ").slice(0, -1))) {
    for (const source of sources) assert.ok(source === "." || present.includes(source.split("/")[0]!), source);
  }
  const ignored = (await readFile(join(root, ".dockerignore"), "utf8")).trim().split("\n");
  assert.deepEqual(ignored.filter((name) => [steps, "package.json", "package-lock.json", "models"].includes(name)), []);
});

test("a wrong step is refused", async () => {
  await assert.rejects(
    () => runs(root, "sh", [steps, "demoo"]),
    /expected system, packages, build, demo or all, found demoo/,
  );
});

test("the steps after system run in a fresh copy, and leave the demo's pictures", {
  skip: runtime === "bun" ? false : "runs once, beside Bun's tests",
}, () =>
  withFolder(async (folder) => {
    const ignored = [".git", "node_modules", "out", "build"];
    for (const name of (await readdir(root)).filter((n) => !ignored.includes(n))) {
      await cp(join(root, name), join(folder, name), { recursive: true, preserveTimestamps: true });
    }
    await symlink(join(root, "node_modules"), join(folder, "node_modules"));
    await mkdir(join(folder, "build"));
    await cp(join(root, "build/objects"), join(folder, "build/objects"), { recursive: true, preserveTimestamps: true });
    // So that packages finds node_modules newer, and fetches nothing.
    await utimes(join(folder, "package-lock.json"), 0, 0);
    for (const step of ["packages", "build"]) await runs(folder, "sh", [steps, step]);
    // Without FFmpeg the demo leaves the clip out, which takes most of its time and is tested elsewhere.
    const { stdout } = await runs(folder, "sh", [steps, "demo"], { CTOK_FFMPEG: "/nonexistent" });
    assert.match(stdout, /^quality +PSNR \d\d\.\d\d dB/m);
    assert.deepEqual((await readImage(join(folder, "out/demo/token_map.png"))).shape, [1, 512, 512, 3]);
    const note = await readFile(join(folder, "out/demo/README.txt"), "utf8");
    assert.match(note, /^token_map\.png: [^]*two CPU cores[^]*--model nvidia\/Cosmos-0\.1-Tokenizer-DI8x8/m);
    assert.ok(
      stdout.endsWith(note.slice(note.indexOf("These pictures"))),
      "what README.txt says stands under the pictures too",
    );
  }));
