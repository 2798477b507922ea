/**
 * In a container the limits are the control group's: threads by its quota of processors, memory by its bytes. In real
 * groups, of version 1 or 2, where this process may make them; how their files are read is tests/native/cgroup_test.c.
 */
import assert from "node:assert/strict";
import { execFileSync } from "node:child_process";
import { existsSync, mkdirSync, readFileSync, rmdirSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import process from "node:process";
import { test } from "node:test";
import { setTimeout } from "node:timers/promises";
import { root, runArgs, runtime } from "../support.ts";

const top = "/sys/fs/cgroup", name = `ctok-test-${process.pid}`, memoryBytes = 300 * 2 ** 20;

/** Makes groups with half a processor and 300 MiB; gives their folders, or nothing where that is not allowed. */
function makeGroups(): string[] {
  const isV2 = existsSync(join(top, "cgroup.controllers"));
  const files: [folder: string, file: string, text: string][] = isV2
    ? [[top, "memory.max", `${memoryBytes}`], [top, "cpu.max", "50000 100000"]]
    : [[join(top, "memory"), "memory.limit_in_bytes", `${memoryBytes}`], [
      join(top, "cpu"),
      "cpu.cfs_quota_us",
      "50000",
    ]];
  const made: string[] = [];
  try {
    for (const [folder, file, text] of files) {
      const group = join(folder, name);
      if (!made.includes(group)) mkdirSync(group), made.push(group);
      writeFileSync(join(group, file), text);
    }
    return made;
  } catch {
    made.forEach((group) => rmdirSync(group));
    return [];
  }
}

const groups = makeGroups();
if (groups.length > 0) process.on("exit", () => groups.forEach((group) => existsSync(group) && rmdirSync(group)));
const skip = groups.length > 0 ? false : "no control groups with memory and cpu can be made here";

/** What a process in those groups prints. */
function runInside(program: string): string {
  const args = runtime === "deno"
    ? ["eval", "--config", join(root, "deno.json"), program]
    : [...runArgs, ...(runtime === "node" ? ["--input-type=module"] : []), "-e", program];
  const enter = groups.map((group) => `echo $$ > ${group}/cgroup.procs`).join(" && ");
  const command = ["-c", `${enter} && exec "$0" "$@"`, process.execPath, ...args];
  return execFileSync("sh", command, { cwd: root, encoding: "utf8" }).trim();
}

test("a control group's quota and memory are what the device has", { skip }, async () => {
  const found = runInside(`
    import { Tokenizer } from ${JSON.stringify(join(root, "mod.ts"))};
    import { engineFor } from ${JSON.stringify(join(root, "ffi/load.ts"))};
    const tok = await Tokenizer.open("nano-DI8x8", { device: "cpu" });
    const data = new Uint8Array(4096 * 4096 * 3);
    const refused = await tok.autoencode({ dtype: "uint8", shape: [4096, 4096, 3], data })
      .then(() => "done", (error) => error.code);
    console.log(tok.info.threads, (await engineFor({ device: 1 })).info().device_bytes, refused);
  `);
  assert.equal(found, `1 ${memoryBytes} MEMORY`);
  for (const group of groups) {
    const isEmpty = () => readFileSync(join(group, "cgroup.procs"), "utf8") === "";
    for (const until = performance.now() + 60_000; !isEmpty() && performance.now() < until;) await setTimeout(10);
    rmdirSync(group);
  }
});
