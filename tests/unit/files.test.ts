import assert from "node:assert/strict";
import { execFile } from "node:child_process";
import { mkdir, mkdtemp, open, readdir, readFile, rm, symlink, writeFile } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { after, test } from "node:test";
import { promisify } from "node:util";
import { TokenizerError } from "../../src/errors.ts";
import { ioError, readWholeFile, writeFileAtomic } from "../../src/files.ts";

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
  // A file size limit of 64 KiB (ulimit -f counts 512-byte or 1 KiB blocks) stands for a disk that fills up while writing.
  const dir = await folder("limited"), script = join(root, "limited.ts");
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
  const runtime = "deno" in process.versions ? [process.execPath, "run", "-A", "--no-config"] : [process.execPath];
  const command = ["-c", 'trap "" XFSZ; ulimit -f 64; exec "$@"', "sh", ...runtime, script];
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
  await assert.rejects(write(join(dir, "a\0b")), { name: "TokenizerError", code: "FILE_IO" });
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
