/**
 * build.ts and tools/: a change compiles again what read the file, and nothing else; a CUDA compiler that fails costs
 * the GPU alone. Asked of the checkout's own objects, by a copy of the sources or in a folder beside, so that next to
 * nothing is compiled.
 */
import assert from "node:assert/strict";
import { spawnSync } from "node:child_process";
import {
  chmodSync,
  cpSync,
  existsSync,
  mkdirSync,
  readFileSync,
  symlinkSync,
  utimesSync,
  writeFileSync,
} from "node:fs";
import { dirname, join, normalize } from "node:path";
import process from "node:process";
import { test } from "node:test";
import { findCuda } from "../../tools/cuda.ts";
import { filesOfRule } from "../../tools/steps.ts";
import { root, runtime, withFolder } from "../support.ts";

const once = { skip: runtime === "bun" ? false : "runs once, beside Bun's tests" };
const bun = join(root, "node_modules/.bin/bun");

/** `bun build.ts library` in a folder, with these variables set or, where empty, taken away. */
function build(folder: string, args: readonly string[], variables: Record<string, string> = {}) {
  const env = Object.entries({ ...process.env, ...variables }).filter(([, value]) => value !== "");
  const { status, stdout, stderr } = spawnSync(bun, ["build.ts", ...args, "library"], {
    cwd: folder,
    encoding: "utf8",
    env: Object.fromEntries(env),
  });
  return { code: status, out: stdout + stderr };
}

/** What a build would make, "file: why". */
function tell(folder: string, variables: Record<string, string> = {}): string[] {
  const { code, out } = build(folder, ["--dry-run"], variables);
  assert.equal(code, 0, out);
  return out.split("\n").filter((line) => /^\S+: /.test(line));
}

/** A file, what it includes, what those include and so on, by the text of the sources. */
function readBy(source: string, read = new Set([source])): Set<string> {
  for (const [, name] of readFileSync(join(root, source), "utf8").matchAll(/^ *#include "([^"]+)"/gm)) {
    const file = normalize(join(dirname(source), name!));
    if (!read.has(file) && existsSync(join(root, file))) readBy(file, read.add(file));
  }
  return read;
}

test("what changed compiles again where it is read, and nowhere else", once, () =>
  withFolder((folder) => {
    for (const name of ["csrc", "tools", "build.ts"]) {
      cpSync(join(root, name), join(folder, name), { recursive: true, preserveTimestamps: true });
    }
    symlinkSync(join(root, "build"), join(folder, "build"));
    assert.deepEqual(tell(folder), [], "expected a checkout that is built (npm run build)");

    const commands = JSON.parse(readFileSync(join(root, "build/compile_commands.json"), "utf8")) as {
      file: string;
      output: string;
    }[];
    // Note: the seam to no CUDA (.none.o) leaves out what it includes in a build with it.
    const isWanted = (output: string) => /objects\/csrc-/.test(output) && !output.includes(".none.");
    const ofLibrary = commands.filter(({ output }) => isWanted(output));
    assert.ok(ofLibrary.length > 40, `${ofLibrary.length} objects`);
    const changes = [
      "backends/cpu/blocked_norm.inc",
      "runtime/plan.h",
      "base/ops.h",
      "backends/cuda/ptx/mma.cuh",
      "abi.c",
    ];
    for (const changed of changes.map((name) => `csrc/${name}`)) {
      const path = join(folder, changed), later = new Date(Date.now() + 60_000);
      utimesSync(path, later, later);
      const objects = ofLibrary.filter(({ file }) => readBy(file).has(changed)).map(({ output }) => output);
      const told = tell(folder);
      const expected = objects.map((object) => `${object}: ${changed} changed`);
      assert.deepEqual(told.filter((line) => /\.o: /.test(line) && isWanted(line)).sort(), expected.sort());
      if (objects.length > 0) assert.ok(told.some((line) => line.startsWith("build/libctok.so: ")), told.join("\n"));
      utimesSync(path, 0, 0);
    }
    assert.deepEqual(tell(folder), []);
    return Promise.resolve();
  }));

/** A build folder with the checkout's objects but those of CUDA: what is linked of them is made anew. */
function seeded(folder: string): string {
  const own = join(folder, "build");
  const isWanted = (path: string) => !/csrc-backends-cuda-\w+\.(o|ptxas)/.test(path);
  cpSync(join(root, "build/objects"), join(own, "objects"), {
    recursive: true,
    preserveTimestamps: true,
    filter: isWanted,
  });
  return own;
}

test("other flags compile again, and so does what has no whole record", once, () =>
  withFolder((folder) => {
    const variables = { BUILD: seeded(folder), CUDA: "0" };
    assert.deepEqual(tell(root, variables).map((line) => line.replace(/.*\//, "")), ["libctok.so: it is not there"]);
    const flagged = tell(root, { ...variables, CFLAGS: "-DOTHER" });
    assert.ok(
      flagged.length > 30 && flagged.slice(0, -1).every((line) => /\.o: its command is another$/.test(line)),
      flagged[0],
    );
    writeFileSync(join(folder, "build/objects/objects-csrc-abi.o.json"), '{"command": ["cc"');
    const [first, second] = tell(root, variables);
    assert.match(first!, /csrc-abi\.o: there is no record of how it was made$/);
    assert.match(second!, /libctok\.so: /);
    return Promise.resolve();
  }));

/** An nvcc that shows a toolkit when it is asked for one, or fails; and that compiles nothing. */
function fakeNvcc(folder: string, isThere: boolean): Record<string, string> {
  const bin = join(folder, "bin"), nvcc = join(bin, "nvcc"), top = join(folder, "cuda");
  for (const made of [bin, join(top, "lib64")]) mkdirSync(made, { recursive: true });
  writeFileSync(join(top, "lib64/libcudart_static.a"), "");
  const answer = isThere ? `case "$1" in --dryrun) echo '#$ TOP=${top}' >&2; exit 0;; esac\n` : "";
  writeFileSync(nvcc, `#!/bin/sh\n${answer}echo 'nvcc fatal: unsupported GNU version' >&2\nexit 1\n`);
  chmodSync(nvcc, 0o755);
  return { PATH: `${bin}:${process.env.PATH}`, NVCC: "", CUDA: "" };
}

for (const isThere of [false, true]) {
  test(
    `an nvcc that ${isThere ? "compiles nothing" : "does not start"} is told, and leaves a library without CUDA`,
    once,
    () =>
      withFolder((folder) => {
        const variables = { ...fakeNvcc(folder, isThere), BUILD: seeded(folder) };
        const { code, out } = build(root, [], variables);
        assert.equal(code, 0, out);
        assert.match(out, /^without CUDA\b.*nvcc/m);
        assert.match(out, /unsupported GNU version/);
        assert.ok(existsSync(join(folder, "build/libctok.so")), out);
        assert.ok(!existsSync(join(folder, "build/libctok-cpu.so")), "one library");
        const needed = build(root, [], { ...variables, CUDA: "1" });
        assert.notEqual(needed.code, 0, "CUDA=1 asks for it");
        assert.match(needed.out, /unsupported GNU version/);
        return Promise.resolve();
      }),
  );
}

const cuda = findCuda();
test("where there is nvcc, the checkout's library has CUDA", { skip: typeof cuda === "string" ? cuda : false }, () => {
  assert.ok(existsSync(join(root, "build/libctok-cpu.so")), "expected the library without CUDA beside it, found none");
});

test("rules of -MMD are read", () => {
  assert.deepEqual(filesOfRule("a.o: b.c \\\n c/../d.h e\\ f.h\n"), ["b.c", "d.h", "e f.h"]);
  assert.deepEqual(filesOfRule("out/a.o : b.cu \\\n    /x/c.h\n"), ["b.cu", "/x/c.h"], "as nvcc writes it");
});
