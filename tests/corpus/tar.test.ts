/** The index of a tar: what modern-tar reads, GNU tar's own archives, cuts at every block, damage. */
import assert from "node:assert/strict";
import { execFileSync } from "node:child_process";
import { mkdirSync, readFileSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { test } from "node:test";
import fc from "fast-check";
import { packTar, type TarEntry, unpackTar } from "modern-tar";
import { type TarMember, tarMembers } from "../../src/corpus/sources/tar.ts";
import { rejects, withFolder } from "../support.ts";

async function all(path: string): Promise<TarMember[]> {
  return await Array.fromAsync(tarMembers(path));
}

const hasTar = (() => {
  try {
    return execFileSync("tar", ["--version"], { encoding: "utf8" }).includes("GNU tar");
  } catch {
    return false;
  }
})();

test("names, kinds and contents are those that modern-tar reads", async () => {
  const part = fc.string({ unit: fc.constantFrom(..."abcé.- 漢".split("")), minLength: 1, maxLength: 60 });
  const name = fc.array(part, { minLength: 1, maxLength: 5 }).map((parts) => `n${parts.join("/")}x`);
  const entry = fc.record({ name, body: fc.uint8Array({ maxLength: 1500 }) });
  await withFolder(async (folder) => {
    const path = join(folder, "a.tar");
    await fc.assert(
      fc.asyncProperty(fc.array(entry, { maxLength: 8 }), async (entries) => {
        const written: TarEntry[] = entries.map(({ name, body }) => ({
          header: { name, size: body.length, type: "file" },
          body,
        }));
        const bytes = await packTar(written);
        writeFileSync(path, bytes);
        const found = (await all(path)).map(({ name, kind, offset, bytes: size }) => {
          return { name, kind, data: Buffer.from(bytes.subarray(offset, offset + size)).toString("hex") };
        });
        const wanted = (await unpackTar(bytes)).map(({ header, data }) => {
          return { name: header.name, kind: header.type, data: Buffer.from(data ?? []).toString("hex") };
        });
        assert.deepEqual(found, wanted);
      }),
      { numRuns: 60 },
    );
  });
});

test("archives of GNU tar, in each of its formats", { skip: hasTar ? false : "no GNU tar" }, async () => {
  await withFolder(async (folder) => {
    const long = `${"d".repeat(90)}/${"e".repeat(60)}/${"f".repeat(60)}.jpg`;
    const files: Record<string, string> = { "a.jpg": "one", "b/c.d.txt": "", "ä.json": "{}" };
    for (const [name, text] of Object.entries(files)) {
      mkdirSync(join(folder, "in", name, ".."), { recursive: true });
      writeFileSync(join(folder, "in", name), text);
    }
    mkdirSync(join(folder, "in", long, ".."), { recursive: true });
    writeFileSync(join(folder, "in", long), "far");
    execFileSync("ln", ["-s", "a.jpg", join(folder, "in/link.jpg")]);
    for (const format of ["gnu", "pax", "ustar", "oldgnu"]) {
      const path = join(folder, `${format}.tar`);
      execFileSync("tar", ["-C", join(folder, "in"), `--format=${format}`, "--sort=name", "-cf", path, "."]);
      const bytes = readFileSync(path), members = await all(path);
      const found = Object.fromEntries(
        members.filter((m) => m.kind === "file").map((m) => {
          return [m.name.replace("./", ""), bytes.subarray(m.offset, m.offset + m.bytes).toString()];
        }),
      );
      assert.deepEqual(found, { ...files, [long]: "far" }, format);
      assert.deepEqual(members.filter((m) => m.kind === "link").map((m) => m.name), ["./link.jpg"], format);
      assert.ok(members.some((m) => m.kind === "folder" && m.name === "./b/"), format);
    }
    const sparse = join(folder, "sparse.bin");
    execFileSync("truncate", ["-s", "1M", sparse]);
    for (const format of ["gnu", "pax"]) {
      execFileSync("tar", ["-C", folder, `--format=${format}`, "-S", "-cf", join(folder, "s.tar"), "sparse.bin"]);
      assert.deepEqual((await all(join(folder, "s.tar"))).map((m) => m.kind), ["sparse"], format);
    }
  });
});

test("cut anywhere: the members before the cut, then an error", async () => {
  await withFolder(async (folder) => {
    const path = join(folder, "a.tar"), sizes = [10, 0, 700, 512];
    const bytes = await packTar(
      sizes.map((size, i) => ({
        header: { name: `${i}.jpg`, size, type: "file" },
        body: new Uint8Array(size).fill(i + 1),
      })),
    );
    writeFileSync(path, bytes);
    const ends = (await all(path)).map(({ offset, bytes }) => offset + bytes),
      mark = Math.ceil(ends.at(-1)! / 512) * 512;
    assert.equal(ends.length, 4);
    for (let at = 0; at < bytes.length; at += 100) {
      writeFileSync(path, bytes.subarray(0, at));
      const found: TarMember[] = [];
      const read = async () => {
        for await (const member of tarMembers(path)) found.push(member);
      };
      if (at >= mark + 512) await read();
      else await rejects(read, "FILE_FORMAT", /a\.tar: expected a (whole )?tar, found/);
      assert.deepEqual(found.length, ends.filter((end) => end <= at).length, `cut at ${at}`);
    }
  });
});

test("damaged headers, sizes that lie, names that are no UTF-8, gzip", async () => {
  await withFolder(async (folder) => {
    const path = join(folder, "a.tar");
    const entry = (name: string): TarEntry => ({ header: { name, size: 4, type: "file" }, body: new Uint8Array(4) });
    const good = await packTar([entry("a.jpg"), entry("b.jpg")]);
    const write = (change: (bytes: Uint8Array) => void, sum = true) => {
      const bytes = good.slice();
      change(bytes);
      if (sum) {
        for (const at of [0, 1024]) {
          bytes.fill(0x20, at + 148, at + 156);
          const total = bytes.subarray(at, at + 512).reduce((a, b) => a + b, 0);
          bytes.set(new TextEncoder().encode(total.toString(8).padStart(6, "0") + "\0 "), at + 148);
        }
      }
      writeFileSync(path, bytes);
    };
    write((b) => b[1024] = 0x7a, false);
    await rejects(() => all(path), "FILE_FORMAT", /expected a whole tar, found no header at byte 1024/);
    write((b) => b.set(new TextEncoder().encode("77777777777\0"), 1024 + 124));
    await rejects(
      () => all(path),
      "FILE_FORMAT",
      /found it cut at byte \d+, in a member of 8589934591 bytes from byte 1536/,
    );
    write((b) => b.set(new TextEncoder().encode("-0000000004\0"), 1024 + 124));
    await rejects(() => all(path), "FILE_FORMAT", /found no size in the header at byte 1024/);
    write((b) => b.set([0xff, ...new Uint8Array(11).fill(0xff)], 1024 + 124)); // -1 in base 256
    await rejects(() => all(path), "FILE_FORMAT", /found no size/);
    write((b) => b.set([0x80, ...new Uint8Array(10), 4], 1024 + 124)); // 4 in base 256
    assert.deepEqual((await all(path)).map((m) => m.bytes), [4, 4]);
    write((b) => b[1024] = 0xff);
    assert.deepEqual((await all(path)).map((m) => [m.name, m.isUtf8]), [["a.jpg", true], ["\\xff.jpg", false]]);
    writeFileSync(path, Uint8Array.of(0x1f, 0x8b, 8, ...new Uint8Array(600)));
    await rejects(() => all(path), "FILE_FORMAT", /expected a tar, found gzip/);
    writeFileSync(path, "no tar at all".repeat(100));
    await rejects(() => all(path), "FILE_FORMAT", /expected a tar, found none/);
    await rejects(() => all(join(folder, "none.tar")), "FILE_MISSING", /none\.tar/);
  });
});
