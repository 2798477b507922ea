/**
 * What is told on machines that the native library is not packed for: the machine, what was tried, and a command that
 * exists.
 */
import assert from "node:assert/strict";
import { readFileSync } from "node:fs";
import { join } from "node:path";
import { test } from "node:test";
import {
  type Host,
  isOlder,
  libraryPackages,
  missingMessage,
  oldestGlibc,
  packagesFor,
  refusedMessage,
} from "../../ffi/platform.ts";
import { root, sequence } from "../support.ts";

const build = "node /here/node_modules/ctok/build.js library";
const host = (change: Partial<Host> = {}): Host => ({
  ...{ platform: "linux", arch: "x64", libc: "glibc", libcVersion: "2.36", runtime: "node" },
  ...change,
});
const missing = (change: Partial<Host>) => missingMessage(host(change), ["ctok-a", "/b/libctok.so"], build);

test("where there is a package: its name, for the package manager of the runtime, and how to build", () => {
  const said = missing({});
  assert.match(
    said,
    sequence(
      /^native library: expected libctok\.so for linux-x64 \(glibc 2\.36\), found none; /,
      /tried ctok-a, \/b\/libctok\.so\. /,
    ),
  );
  assert.match(
    said,
    /npm install ctok-linux-x64-gnu, .*node \/here\/node_modules\/ctok\/build\.js library.*CTOK_LIBRARY/,
  );
  assert.match(missing({ runtime: "bun" }), /bun add ctok-linux-x64-gnu,/);
  assert.match(missing({ runtime: "deno", arch: "arm64" }), /deno add npm:ctok-linux-arm64-gnu,/);
  assert.match(
    missing({ libc: undefined, libcVersion: undefined }),
    /for linux-x64, found none.*npm install ctok-linux-x64-gnu/,
  );
});

test("macOS and Windows: a container, and nothing that would not help there", () => {
  for (
    const [change, name] of [[{ platform: "darwin", arch: "arm64" }, "darwin-arm64"], [
      { platform: "win32" },
      "win32-x64",
    ]] as const
  ) {
    const said = missing({ ...change, libc: undefined, libcVersion: undefined });
    assert.match(said, new RegExp(`for ${name}, found none; tried ctok-a, /b/libctok.so\\. ctok runs on Linux`));
    assert.match(said, /docker run .* npx ctok/);
    assert.doesNotMatch(said, /npm install|build\.js/);
  }
});

test("musl, an older glibc, another processor: built from source", () => {
  for (
    const [change, name] of [
      [{ libc: "musl", libcVersion: "1.2.4" }, "linux-x64 (musl 1.2.4)"],
      [{ libcVersion: "2.28" }, "linux-x64 (glibc 2.28)"],
      [{ arch: "riscv64" }, "linux-riscv64 (glibc 2.36)"],
    ] as const
  ) {
    const said = missing(change);
    assert.ok(said.includes(`for ${name}, found none`), said);
    assert.match(
      said,
      /for Linux on x64 and arm64 with glibc 2\.34 or later: build it with a C compiler, node .*build\.js library$/,
    );
    assert.doesNotMatch(said, /npm install/);
  }
});

test("a library that does not load: in the loader's words, and what to do where it needs another C library", () => {
  const refused = (change: Partial<Host>, reason: string) =>
    refusedMessage(host(change), "/p/libctok.so", reason, build);
  const old = "/lib64/libc.so.6: version `GLIBC_2.34' not found (required by /p/libctok.so)";
  assert.match(
    refused({ libcVersion: "2.28" }, old),
    sequence(
      /^native library \/p\/libctok\.so: expected one that loads on linux-x64 \(glibc 2\.28\), /,
      /found: .*GLIBC_2\.34' not found.* build it/,
    ),
  );
  assert.match(refused({ libc: undefined, libcVersion: undefined }, old), /build it with a C compiler/);
  assert.match(
    refused({ libc: "musl", libcVersion: "1.2.4" }, "Error loading shared library"),
    /build it with a C compiler/,
  );
  assert.match(refused({ platform: "darwin", libc: undefined }, "not a mach-o file"), /docker run/);
  assert.doesNotMatch(refused({}, "file too short"), /build/);
});

test("versions are compared by number", () => {
  assert.ok(isOlder("2.4", "2.34") && isOlder("2.34", "3") && isOlder("2", "2.1"));
  assert.ok(!isOlder("2.34", "2.34") && !isOlder("2.100", "2.34") && !isOlder("3.0", "2.34"));
});

test("packages: those with CUDA first, each told by its name", () => {
  assert.deepEqual(packagesFor({ platform: "linux", arch: "x64" }).map(({ hasCuda }) => hasCuda), [true, false]);
  assert.deepEqual(packagesFor({ platform: "darwin", arch: "arm64" }), []);
  for (const { name, os, cpu, libc, hasCuda } of libraryPackages) {
    assert.equal(name, `ctok-${os}-${cpu}-${libc === "glibc" ? "gnu" : libc}${hasCuda ? "-cuda" : ""}`);
  }
  const document = readFileSync(join(root, "docs/install.md"), "utf8");
  for (const text of [...libraryPackages.map(({ name }) => name), `glibc ${oldestGlibc}`]) {
    assert.ok(document.includes(text), text);
  }
});
