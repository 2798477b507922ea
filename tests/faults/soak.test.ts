/** bench/soak.ts for two rounds of each kind: every one works, samples are taken, and its verdict tells a leak. */
import assert from "node:assert/strict";
import { spawn } from "node:child_process";
import { join } from "node:path";
import process from "node:process";
import { test } from "node:test";
import { lines } from "../cli/spawn.ts";
import { root, runArgs } from "../support.ts";

function soak(...args: string[]): Promise<{ code: number | null; said: Record<string, unknown>[]; stderr: string }> {
  const command = [...runArgs, join(root, "bench/soak.ts")];
  const child = spawn(process.execPath, [...command, "--seconds", "0.1", "--rounds", "24", "--every", "0", ...args], {
    cwd: root,
  });
  let stdout = "", stderr = "";
  child.stdout.setEncoding("utf8").on("data", (text) => stdout += text);
  child.stderr.setEncoding("utf8").on("data", (text) => stderr += text);
  return new Promise((settle) => child.on("close", (code) => settle({ code, said: lines(stdout), stderr })));
}

test("a short soak works and samples; one that leaks is told", async () => {
  const [good, leaking] = await Promise.all([soak("--seed", "7", "--share", "0.8"), soak("--leak")]);
  const verdict = good.said.pop()!, last = good.said.at(-1)!; // memory need not have settled so soon
  assert.equal(good.code, verdict.isFlat ? 0 : 1, good.stderr);
  assert.ok(
    good.said.length >= 24 && (last.residentMb as number) > 10 && (last.descriptors as number) > 2,
    good.stderr,
  );
  assert.ok((verdict.rounds as number) >= 24, good.stderr);
  assert.deepEqual([leaking.code, leaking.said.at(-1)!.isFlat], [1, false], leaking.stderr);
});
