import assert from "node:assert/strict";
import { Buffer } from "node:buffer";
import { execFile, execFileSync, spawn } from "node:child_process";
import { existsSync, writeFileSync } from "node:fs";
import {
  lstat,
  mkdir,
  mkdtemp,
  open,
  readdir,
  readFile,
  readlink,
  rename,
  rm,
  symlink,
  utimes,
  writeFile,
} from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import process from "node:process";
import { after, test } from "node:test";
import { promisify } from "node:util";
import { printable, TokenizerError } from "../../src/errors.ts";
import { ioError, PendingFile, readChunks, readWholeFile, writeFileAtomic } from "../../src/files.ts";
import { rejects, runArgs } from "../support.ts";

const root = await mkdtemp(join(tmpdir(), "ctok-files-"));
after(() => rm(root, { recursive: true }));

/** A fresh empty folder. */
async function folder(name: string): Promise<string> {
  const path = join(root, name);
  await mkdir(path);
  return path;
}

test("bytes and chunks arrive whole, and nothing else is left", async () => {
  const dir = await folder("whole");
  await writeFileAtomic(join(dir, "a"), Uint8Array.of(1, 2, 3));
  await writeFileAtomic(join(dir, "b"), [Uint8Array.of(1), new Uint8Array(0), new Uint8Array(300_000).fill(7)]);
  async function* chunks() {
    yield await Promise.resolve(Uint8Array.of(9, 8));
    yield Uint8Array.of(1, 2, 3, 4).subarray(1, 3);
  }
  await writeFileAtomic(join(dir, "c"), chunks());
  await writeFileAtomic(join(dir, "a"), Uint8Array.of(4)); // replaces
  assert.deepEqual([...await readWholeFile(join(dir, "a"))], [4]);
  assert.equal((await readWholeFile(join(dir, "b"))).length, 300_001);
  assert.deepEqual([...await readWholeFile(join(dir, "c"))], [9, 8, 2, 3]);
  assert.deepEqual((await readdir(dir)).sort(), ["a", "b", "c"]);
});

test("a name of the greatest length, and a symbolic link that stays one", async () => {
  const dir = await folder("names"), long = "x".repeat(255);
  await writeFileAtomic(join(dir, long), Uint8Array.of(1));
  await symlink(join(dir, long), join(dir, "link"));
  await writeFileAtomic(join(dir, "link"), Uint8Array.of(2));
  assert.deepEqual([...await readFile(join(dir, long))], [2]);
  assert.deepEqual((await readdir(dir)).sort(), ["link", long]);
});

test("content that fails midway leaves the older file and no temporary", async () => {
  const dir = await folder("midway"), path = join(dir, "tokens");
  await writeFile(path, "old");
  function* chunks() {
    yield new Uint8Array(100_000);
    throw new TokenizerError("CANCELLED", "stopped");
  }
  await assert.rejects(writeFileAtomic(path, chunks()), { code: "CANCELLED" });
  await assert.rejects(writeFileAtomic(join(dir, "new"), chunks()), { code: "CANCELLED" });
  assert.equal(await readFile(path, "utf8"), "old");
  assert.deepEqual(await readdir(dir), ["tokens"]);
});

test("a write that the system refuses midway leaves the older file and no temporary", async () => {
  // A file size limit of 64 KiB (ulimit -f counts 512-byte or 1 KiB blocks) stands for a disk that fills up while
  // writing.
  const dir = await folder("limited"), script = join(root, "limited.mts");
  await writeFile(join(dir, "old"), "old");
  const files = new URL("../../src/files.ts", import.meta.url).href;
  await writeFile(
    script,
    `import { writeFileAtomic } from ${JSON.stringify(files)};
    for (const name of ["old", "new"]) {
      try {
        await writeFileAtomic(${JSON.stringify(dir)} + "/" + name, new Uint8Array(1 << 20));
        console.log("written");
      } catch (error) {
        console.log(error.name, error.code, error.detail, error.message.includes(name + ": expected "));
      }
    }`,
  );
  const command = ["-c", 'trap "" XFSZ; ulimit -f 64; exec "$@"', "sh", process.execPath, ...runArgs, script];
  const { stdout } = await promisify(execFile)("sh", command);
  assert.equal(stdout, "TokenizerError FILE_IO 27 true\n".repeat(2)); // 27: EFBIG
  assert.deepEqual(await readdir(dir), ["old"]);
  assert.equal(await readFile(join(dir, "old"), "utf8"), "old");
});

test("a full disk is called one", async () => {
  const full = await open("/dev/full", "w");
  const refusal = await full.write(Uint8Array.of(1)).then(() => assert.fail("/dev/full took a byte"), (error) => error);
  await full.close();
  const error = ioError("out/a.safetensors", "write", refusal);
  assert.equal(error.code, "FILE_IO");
  assert.equal(error.detail, 28); // ENOSPC
  assert.match(
    error.message,
    /^out\/a\.safetensors: expected the system to write it, found a full disk \(.*[Nn]o space left/,
  );
});

test("places that cannot be written say why", async () => {
  const dir = await folder("places");
  const write = (path: string) => writeFileAtomic(path, Uint8Array.of(1));
  await assert.rejects(write(join(dir, "no", "such")), {
    code: "FILE_IO",
    message: /no\/such: expected its folder to exist, found ENOENT/,
  });
  await assert.rejects(write(dir), {
    code: "FILE_IO",
    message: /expected a regular file or nothing there yet, found "a directory"/,
  });
  await assert.rejects(write("/dev/null"), { code: "FILE_IO", message: /found "a device or pipe"/ });
  // Before anything is written; Bun's join would mend the surrogate.
  for (const path of [`${dir}/a\0b`, `${dir}/a\ud800b`]) {
    const refused = {
      name: "TokenizerError",
      code: "FILE_IO",
      message: /expected a name without NUL and lone surrogates/,
    };
    await assert.rejects(PendingFile.create(path), refused);
    await assert.rejects(write(path), refused);
  }
  await assert.rejects(write(""), { name: "TokenizerError", code: "FILE_IO" });
  assert.deepEqual(await readdir(dir), []);
});

test("files that cannot be read say why", async () => {
  await assert.rejects(readWholeFile(join(root, "none")), {
    code: "FILE_MISSING",
    detail: 2,
    message: /none: expected a file, found ENOENT/,
  });
  await assert.rejects(readWholeFile("/etc/passwd/x"), { code: "FILE_MISSING" });
  await assert.rejects(readWholeFile(root), { code: "FILE_IO", detail: 21 });
});

// ---------------------------------------------------------------- pipes
/** A named pipe. */
function pipe(dir: string, name: string): string {
  const path = join(dir, name);
  execFileSync("mkfifo", [path]);
  return path;
}

/** A shell whose output a pipe gets. Writes on for as long as someone reads; ends with the test in any case. */
function feeds(path: string, script: string) {
  const shell = spawn("sh", ["-c", `{ ${script}; } > "$1"`, "sh", path], { stdio: "ignore" });
  after(() => shell.kill("SIGKILL"));
  return new Promise((resolve) => shell.once("close", resolve));
}

test("pipes are read to their end, in few pieces or many", async () => {
  const dir = await folder("pipes"), path = pipe(dir, "p");
  for (
    const [script, wanted] of [
      ["printf abc; printf def", Buffer.from("abcdef")],
      ["head -c 1000000 /dev/zero", Buffer.alloc(1_000_000)],
    ] as const
  ) {
    const fed = feeds(path, script);
    assert.deepEqual(Buffer.from(await readWholeFile(path)), wanted, script);
    await fed;
  }
  // What `<(...)` and /dev/stdin are: pipes without a name, whose writers are there or gone.
  const files = JSON.stringify(join(import.meta.dirname!, "../../src/files.ts")), script = join(dir, "read.mts");
  await writeFile(
    script,
    `import { readWholeFile } from ${files};
     console.log(new TextDecoder().decode(await readWholeFile(process.argv[2])) + ".");`.replace(
      "process",
      "globalThis.process",
    ),
  );
  const command = [process.execPath, ...runArgs, script];
  for (const [feed, wanted] of [["printf abc", "abc.\n"], ["true", ".\n"]] as const) {
    const { stdout } = await promisify(execFile)("sh", ["-c", `${feed} | "$@" /dev/stdin`, "sh", ...command]);
    assert.equal(stdout, wanted);
  }
});

test("a pipe without a writer, or with one that says nothing, ends with the signal and holds nothing up", async () => {
  const dir = await folder("silent"), abort = new AbortController();
  const before = (await readdir("/proc/self/fd")).length;
  // More of them than a runtime has threads for files: other files are read all the same.
  const silent = Array.from({ length: 16 }, (_, n) => readWholeFile(pipe(dir, `p${n}`), { signal: abort.signal }));
  const held = await open(pipe(dir, "held"), "r+");
  silent.push(readWholeFile(join(dir, "held"), { signal: abort.signal }));
  const ended = Promise.allSettled(silent);
  await writeFile(join(dir, "plain"), "plain");
  for (let n = 0; n < 16; n++) assert.equal((await readWholeFile(join(dir, "plain"))).length, 5);
  abort.abort(new Error("the reason"));
  for (const result of await ended) {
    assert.ok(result.status === "rejected");
    assert.deepEqual([result.reason.code, result.reason.cause.message], ["CANCELLED", "the reason"]);
  }
  await held.close();
  assert.ok((await readdir("/proc/self/fd")).length <= before + 1, "pipes were left open");
  await rejects(() => readWholeFile(join(dir, "plain"), { signal: abort.signal }), "CANCELLED", /cancelled/);
});

test("more than mostBytes is refused: a file before it is read, a pipe there", async () => {
  const dir = await folder("most"), path = join(dir, "f");
  await writeFile(path, new Uint8Array(1000));
  assert.equal((await readWholeFile(path, { mostBytes: 1000 })).length, 1000);
  await rejects(() => readWholeFile(path, { mostBytes: 999 }), "FILE_IO", /f: expected at most 999 bytes, found 1000$/);
  const endless = feeds(pipe(dir, "p"), "cat /dev/zero");
  await rejects(
    () => readWholeFile(join(dir, "p"), { mostBytes: 1 << 20 }),
    "FILE_IO",
    /at most 1048576 bytes, found "more"/,
  );
  await endless; // closed: its writer ends
  await rejects(() => readWholeFile("/dev/zero"), "FILE_IO", /expected a file or pipe, found "a device"/);
  await writeFile(path, Uint8Array.from({ length: 9_000_000 }, (_, i) => i));
  const pieces = await Array.fromAsync(readChunks(path));
  assert.ok(pieces.length > 1);
  assert.deepEqual(Buffer.concat(pieces), await readFile(path));
  assert.deepEqual(Buffer.from(await readWholeFile(path)), await readFile(path));
});

// ---------------------------------------------------------------- names and what they stand for
test("a link to nothing is followed: the file is made where it points", async () => {
  const dir = await folder("dangling");
  await mkdir(join(dir, "far"));
  await symlink("far/second", join(dir, "first"));
  await symlink("../end", join(dir, "far/second"));
  await writeFileAtomic(join(dir, "first"), Uint8Array.of(5));
  assert.deepEqual([...await readFile(join(dir, "end"))], [5]);
  assert.deepEqual([await readlink(join(dir, "first")), await readlink(join(dir, "far/second"))], [
    "far/second",
    "../end",
  ]);
  await symlink("gone/x", join(dir, "lost"));
  await rejects(() => writeFileAtomic(join(dir, "lost"), Uint8Array.of(1)), "FILE_IO", /expected its folder to exist/);
  await symlink("loop", join(dir, "loop"));
  await rejects(() => writeFileAtomic(join(dir, "loop"), Uint8Array.of(1)), "FILE_IO", /loop: expected /);
  assert.deepEqual((await readdir(dir)).sort(), ["end", "far", "first", "loop", "lost"]);
});

test("a temporary file that another took away or put something in place of is not published", async () => {
  const dir = await folder("swapped"), target = join(dir, "target"), victim = join(dir, "victim");
  await writeFile(target, "old");
  await writeFile(victim, "precious");
  const swaps: [how: string, swap: (temporary: string) => Promise<void>][] = [
    ["removed", (temporary) => rm(temporary)],
    ["another file", async (temporary) => {
      await rm(temporary);
      await writeFile(temporary, "half");
    }],
    ["a link", async (temporary) => {
      await rm(temporary);
      await symlink(victim, temporary);
    }],
    ["a link to the file itself", async (temporary) => {
      await rename(temporary, join(dir, "moved"));
      await symlink("moved", temporary);
    }],
  ];
  for (const [how, swap] of swaps) {
    const pending = await PendingFile.create(target);
    await pending.write(Buffer.from("new"));
    await swap(pending.temporary);
    await rejects(() => pending.verify(), "FILE_IO", /target: expected the file that was begun at .*\.tmp, found /);
    await rejects(() => pending.publish(), "FILE_IO", /target: expected the file that was begun at /);
    const isThere = await lstat(pending.temporary).then(() => true, () => false);
    await pending.discard();
    assert.equal(await lstat(pending.temporary).then(() => true, () => false), isThere, `${how}: not ours to remove`);
    assert.deepEqual([await readFile(target, "utf8"), await readFile(victim, "utf8")], ["old", "precious"], how);
    await rm(pending.temporary, { force: true });
  }
});

test("writers of one target: each publishes its own file, whatever the others do", async () => {
  const dir = await folder("writers"), target = join(dir, "target");
  const [a, b] = [await PendingFile.create(target), await PendingFile.create(target)];
  await a.write(Buffer.from("a, "));
  await b.write(Buffer.from("b whole"));
  await b.publish();
  await b.discard();
  const d = await PendingFile.create(target);
  await d.write(Buffer.from("d, "));
  await a.write(Buffer.from("whole"));
  await a.publish();
  assert.equal(await readFile(target, "utf8"), "a, whole");
  await d.write(Buffer.from("whole"));
  await d.publish();
  assert.equal(await readFile(target, "utf8"), "d, whole");
  await Promise.all([a.discard(), d.discard()]);
  assert.deepEqual(await readdir(dir), ["target"]);
});

test("what killed writers left neither stands in the way nor stays", async () => {
  const dir = await folder("left"), gone = spawn("true");
  await new Promise((resolve) => gone.once("close", resolve));
  const pending = await PendingFile.create(join(await folder("left-name"), "x")), { temporary } = pending;
  await pending.discard(); // only its name is wanted; a handle that is collected open is an error on Bun
  const [, place] = /\.ctok-(\w+)-\d+-\w+\.tmp$/.exec(temporary)!, random = "0123456789abcdef";
  const of = (at: string, pid: number) => join(dir, `.ctok-${at}-${pid}-${random}.tmp`);
  const dead = of(place!, gone.pid!), alive = of(place!, process.ppid), elsewhere = of("0123456789ab", gone.pid!);
  const old = of("ba9876543210", process.ppid), foreign = join(dir, ".ctok-notes.tmp");
  for (const path of [dead, alive, elsewhere, old, foreign]) writeFileSync(path, "left");
  // The names of earlier versions, with which 101 leftovers closed a target for ever.
  const earlier = Array.from({ length: 101 }, (_, n) => join(dir, `.ctok-0123456789abcdef-${n}.tmp`));
  for (const path of earlier) writeFileSync(path, "");
  const yesterday = Date.now() / 1000 - 2 * 86_400;
  for (const path of [old, foreign, ...earlier]) await utimes(path, yesterday, yesterday);
  await writeFileAtomic(join(dir, "target"), Uint8Array.of(1));
  assert.deepEqual([dead, old, ...earlier].filter((path) => existsSync(path)), []);
  assert.deepEqual([alive, elsewhere, foreign].filter((path) => !existsSync(path)), [], "of others that may live");
});

test("text for a terminal has nothing that moves it", () => {
  const hostile = "a\x1b[2J\x07\r\n\tb\x00\x7f\u009b31m\u202eexe.\u2066\u2028\ud800 é 日本 👍";
  const shown = "a\\x1b[2J\\x07\\r\\n\\tb\\x00\\x7f\\x9b31m\\u202eexe.\\u2066\\u2028\\ud800 é 日本 👍";
  assert.equal(printable(hostile), shown);
});
