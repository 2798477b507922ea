/**
 * kill -9 in the middle of writing: nothing half-written under the target's name, and the next run gives the bytes that
 * an undisturbed one gives and removes what the killed one left.
 */
import assert from "node:assert/strict";
import { execFileSync } from "node:child_process";
import { existsSync, mkdirSync, readdirSync, readFileSync, renameSync, rmSync } from "node:fs";
import { join } from "node:path";
import process from "node:process";
import { test } from "node:test";
import { setImmediate } from "node:timers/promises";
import { saveTokens, Tensor, tokenize, writeImage } from "mod.ts";
import { ctok, ctokEnds } from "../cli/spawn.ts";
import { root, withFolder } from "../support.ts";

const cat = join(root, "examples/media/cat.png");
const isTemporary = (name: string) => name.startsWith(".ctok-");

/**
 * Runs ctok and kills it as soon as `isTime`, which is asked again and again, says so. False when it ended before that.
 */
async function isKilled(args: string[], cwd: string, isTime: () => boolean): Promise<boolean> {
  let pid = 0, isRunning = true;
  const run = ctok(args, { cwd, onStart: (id) => pid = id }).finally(() => isRunning = false);
  while (isRunning && !isTime()) await setImmediate();
  if (isRunning) process.kill(pid, "SIGKILL");
  return (await run).code === "SIGKILL";
}

const commands: [target: string, args: string[]][] = [
  ["copy.safetensors", ["convert", "nano-DI8x8"]],
  ["cat.safetensors", ["encode", cat, "--pre-quant"]],
  ["cat.npy", ["encode", cat]],
  ["cat.msgpack", ["encode", cat, "--pre-quant"]],
  ["cat.png", ["decode", "tokens.safetensors"]],
];
for (const [target, args] of commands) {
  test(`${args[0]} to ${target}, killed while it writes`, () =>
    withFolder(async (dir) => {
      await saveTokens(join(dir, "tokens.safetensors"), await tokenize(cat));
      const out = join(dir, "out"), path = join(out, target);
      mkdirSync(out);
      await ctokEnds(0, [...args, "--out", target], { cwd: dir });
      const wanted = readFileSync(join(dir, target));
      // The killer may come too late, when the file is there already: it is whole then, and the next try is on.
      for (let tries = 0; !readdirSync(out).some(isTemporary); tries++) {
        assert.ok(tries < 300, "never killed in the middle");
        rmSync(path, { force: true });
        await isKilled([...args, "--out", path], dir, () => readdirSync(out).some(isTemporary));
        if (existsSync(path)) assert.deepEqual(readFileSync(path), wanted);
      }
      await ctokEnds(0, [...args, "--out", path], { cwd: dir });
      assert.deepEqual(readFileSync(path), wanted);
      assert.deepEqual(readdirSync(out), [target]);
    }));
}

// The third picture is a pipe that nobody writes to, so that the run cannot end before it is killed.
test("a run over a folder, killed midway: whole files so far, and a rerun does the rest", () =>
  withFolder(async (dir) => {
    const names = ["a", "b", "c", "d", "e", "f"], out = join(dir, "out");
    mkdirSync(join(dir, "pictures"));
    for (const [n, name] of names.entries()) {
      const data = Uint8Array.from({ length: 256 * 256 * 3 }, (_, i) => (i * (n + 3)) & 255);
      await writeImage(join(dir, "pictures", `${name}.png`), new Tensor("uint8", [256, 256, 3], data));
    }
    const args = ["encode", "pictures/*.png", "--out"], targets = names.map((name) => `${name}.safetensors`);
    await ctokEnds(0, [...args, "wanted/"], { cwd: dir });
    const wanted = targets.map((name) => readFileSync(join(dir, "wanted", name)));
    const third = join(dir, "pictures/c.png");
    renameSync(third, join(dir, "c.png"));
    execFileSync("mkfifo", [third]);
    const done = () => existsSync(out) ? readdirSync(out).filter((name) => !isTemporary(name)) : [];
    assert.ok(await isKilled([...args, "out/"], dir, () => done().length >= 2), "ended before it could be killed");
    const whole = done();
    assert.deepEqual(whole.sort(), targets.slice(0, 2));
    renameSync(join(dir, "c.png"), third);
    for (const name of whole) assert.deepEqual(readFileSync(join(out, name)), wanted[targets.indexOf(name)]);
    await ctokEnds(0, [...args, "out/"], { cwd: dir });
    assert.deepEqual(readdirSync(out).sort(), targets);
    for (const [n, name] of targets.entries()) assert.deepEqual(readFileSync(join(out, name)), wanted[n]);
  }));
