/**
 * The layouts that the emulator gives the tensor-core instructions are the ones written down in native/ptx_layouts/,
 * which bench/gpu_check compares with what a real GPU answers: all three agree, or the first line that differs is
 * named.
 */
import assert from "node:assert/strict";
import { execFileSync } from "node:child_process";
import { existsSync, readFileSync } from "node:fs";
import { join } from "node:path";
import { test } from "node:test";
import { root, runtime } from "../support.ts";

for (const name of ["sm80", "sm90"]) {
  const program = join(root, `build/tests/${name}_layouts`);
  const skip = !existsSync(program)
    ? "the emulator was not built: no g++"
    : runtime !== "bun"
    ? "native code alone: it runs once, on Bun"
    : false;
  test(`${name}: the emulator's layouts are those written down`, { skip }, () => {
    const found = execFileSync(program).toString().split("\n");
    const wanted = readFileSync(join(root, `tests/native/ptx_layouts/${name}.txt`), "utf8").split("\n");
    const first = wanted.findIndex((line, i) => found[i] !== line);
    assert.equal(found[first], wanted[first], `line ${first + 1}`);
    assert.equal(found.length, wanted.length);
  });
}
