/** One interface in three places: the header, the TypeScript table, and what the library exports. */
import assert from "node:assert/strict";
import { execFileSync } from "node:child_process";
import { readFileSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { test } from "node:test";
import * as layout from "../../ffi/layout.ts";
import { newEngine } from "../../ffi/load.ts";
import { symbols } from "../../ffi/symbols.ts";
import { root, withFolder } from "../support.ts";

const header = readFileSync(join(root, "csrc/include/ctok.h"), "utf8").replace(/\/\*[\s\S]*?\*\//g, "");
const table = readFileSync(join(root, "ffi/symbols.ts"), "utf8");

/** Function name to its parameters as written in C, in order. */
const declared = new Map(
  [...header.matchAll(/CTOK_API\s+([\w\s*]+?)(ctok_\w+)\(([^)]*)\);/g)].map(([, , name, parameters]) => [
    name!,
    parameters!.trim() === "void" ? [] : parameters!.split(",").map((p) => p.trim().replace(/\s+/g, " ")),
  ]),
);

test("the header declares at most 30 functions", () =>
  assert.ok(declared.size > 0 && declared.size <= 30, String(declared.size)));

test("the kernel sets have the numbers of the header", () => {
  const [, names = ""] = /enum \{\s*(CTOK_KERNELS_AUTO = 0,[^}]*)\}/.exec(header)!;
  const wanted = names.split(",").map((name) =>
    name.replace(/= 0/, "").trim().replace("CTOK_KERNELS_", "").toLowerCase()
  );
  assert.deepEqual(Object.entries(layout.kernels), wanted.map((name, number) => [name, number]));
});

test("symbol table equals header", () => {
  assert.deepEqual(Object.keys(symbols).sort(), [...declared.keys()].sort());
  for (const [name, parameters] of declared) {
    const { parameters: types } = symbols[name as keyof typeof symbols];
    assert.equal(types.length, parameters.length, name);
    const block = new RegExp(`\\b${name}: \\{([\\s\\S]*?)result:`).exec(table)![1]!;
    const trailing = [...block.matchAll(/\/\/ (.*)$/gm)].map((m) => m[1]!);
    assert.deepEqual(trailing, parameters, `${name}: the C declaration beside each parameter`);
    parameters.forEach((parameter, i) => {
      const wanted = /\*/.test(parameter)
        ? "buffer"
        : /^ctok_wake/.test(parameter)
        ? "callback"
        : /^uint64_t/.test(parameter)
        ? "u64"
        : /^uint32_t/.test(parameter)
        ? "u32"
        : "i32";
      assert.equal(types[i], wanted, `${name}: ${parameter}`);
    });
  }
});

test("library exports equal header", () => {
  const out = execFileSync("nm", ["-D", "--defined-only", join(root, "build/libctok.so")], { encoding: "utf8" });
  const exported = [...out.matchAll(/ [A-Z] (\w+)/g)].map((m) => m[1]!).sort();
  assert.deepEqual(exported, [...declared.keys()].sort());
});

test("the library's version is the package's", async () => {
  const engine = await newEngine({ threads: 1 });
  assert.equal(engine.version, JSON.parse(readFileSync(join(root, "package.json"), "utf8")).version);
  await engine.close();
});

test("statuses equal header", () => {
  const inHeader = [...header.matchAll(/CTOK_(E_)?(\w+) = (\d+)/g)].filter(([, e, name]) => e || name === "OK")
    .map(([, , name, value]) => [name, Number(value)]);
  assert.deepEqual(Object.entries(layout.status), inHeader);
});

test("struct layouts equal the C compiler's", async () => {
  const structs: Record<string, layout.Struct> = {
    ctok_error: layout.ErrorStruct as layout.Struct,
    ctok_engine_options: layout.EngineOptions as layout.Struct,
    ctok_engine_info: layout.EngineInfo as layout.Struct,
    ctok_device_info: layout.DeviceInfo as layout.Struct,
    ctok_model_options: layout.ModelOptions as layout.Struct,
    ctok_fact: layout.Fact as layout.Struct,
    ctok_model_info: layout.ModelInfo as layout.Struct,
    ctok_request: layout.Request as layout.Struct,
    ctok_output: layout.Output as layout.Struct,
    ctok_plan: layout.Plan as layout.Struct,
    ctok_stream_options: layout.StreamOptions as layout.Struct,
    ctok_job_info: layout.JobInfo as layout.Struct,
    ctok_step: layout.Step as layout.Struct,
  };
  const inHeader = [...header.matchAll(/\}\s*(ctok_\w+);/g)].map((m) => m[1]!);
  assert.deepEqual(Object.keys(structs).sort(), inHeader.sort());
  const lines = Object.entries(structs).flatMap(([name, struct]) => [
    `printf("${name} %zu\\n", sizeof(${name}));`,
    ...Object.keys(struct.fields).map((f) =>
      `printf("${name}.${f} %zu %zu\\n", offsetof(${name}, ${f}), sizeof(((${name} *)0)->${f}));`
    ),
  ]);
  await withFolder((folder) => {
    const source = join(folder, "layout.c");
    writeFileSync(
      source,
      `#include <stdio.h>\n#include <stddef.h>\n#include "ctok.h"\nint main(void) { ${lines.join("\n")} return 0; }\n`,
    );
    execFileSync("cc", ["-I", join(root, "csrc/include"), source, "-o", join(folder, "layout")]);
    const found = execFileSync(join(folder, "layout"), { encoding: "utf8" }).trim().split("\n");
    const wanted = Object.entries(structs).flatMap(([name, struct]) => {
      const fields = Object.entries(struct.offsets).sort((a, b) => a[1] - b[1]);
      return [
        `${name} ${struct.bytes}`,
        ...fields.map(([field, offset]) => `${name}.${field} ${offset} ${sizeOf(struct.fields[field]!)}`),
      ];
    });
    assert.deepEqual(found, wanted);
    return Promise.resolve();
  });
});

function sizeOf(field: layout.Fields[string]): number {
  return new layout.Struct({ field }).bytes;
}
