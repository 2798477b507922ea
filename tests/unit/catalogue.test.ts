/** What a user calls a model, and which kinds of source leave this machine. */
import assert from "node:assert/strict";
import { writeFile } from "node:fs/promises";
import { join } from "node:path";
import { test } from "node:test";
import { convert, detokenize, Tensor, Tokenizer, Tokens } from "mod.ts";
import { fetchModel, resolveModel } from "../../src/model/catalogue.ts";
import { hubModelOf, kindOfSource, sourceOf } from "../../src/tokens/origin.ts";
import { pictureOrigin, rejects, root, withFolder } from "../support.ts";

const hub = "hub:nvidia/Cosmos-Tokenizer-DI8x8@a1b2c3";

test("a model is embedded, a file or of the hub", () =>
  withFolder(async (folder) => {
    const file = join(folder, "m.safetensors");
    await writeFile(file, "");
    const path = join(root, "models/nano/DI8x8.safetensors");
    const embedded = resolveModel("nano-DI8x8"), found = resolveModel(file);
    assert.deepEqual(embedded, { kind: "embedded", source: "nano-DI8x8", name: "nano-DI8x8", path });
    assert.deepEqual(found, { kind: "file", source: file, name: undefined });
    assert.deepEqual([await fetchModel(embedded), await fetchModel(found)], [path, file]);
    assert.deepEqual(resolveModel(hub), {
      ...{ kind: "hub", source: hub, name: "Cosmos-Tokenizer-DI8x8" },
      ...{ repository: "nvidia/Cosmos-Tokenizer-DI8x8", revision: "a1b2c3" },
    });
  }));

test("a model of the hub is named with what to do, and written without a revision it is refused", () =>
  withFolder(async (folder) => {
    const text = /download nvidia\/Cosmos-Tokenizer-DI8x8 at a1b2c3 and pass its folder/;
    await rejects(() => Tokenizer.open(hub), "FILE_MISSING", text);
    await rejects(() => convert(hub, join(folder, "out.safetensors")), "FILE_MISSING", text);
    await rejects(() => Tokenizer.open("hub:nvidia/DI8x8"), "ARGUMENT", /model: expected hub:owner\/name@revision/);
    const origin = { ...pictureOrigin, source: hub };
    const tokens = new Tokens(origin, { indices: new Tensor("int32", [1, 2, 4], new Int32Array(8), { origin }) });
    await rejects(() => detokenize(tokens), "FILE_MISSING", /their model nano-DI8x8 .* cannot be opened/);
    await rejects(() => detokenize(tokens, { model: hub }), "FILE_MISSING", text);
  }));

test("names and the hub's sources leave the machine, paths only when asked to", () => {
  const kinds = {
    [hub]: "hub",
    "nano-DI8x8": "name",
    "/models/x": "path",
    "hub:/etc/passwd@x": "path",
    "hub:a/../b@x": "path",
  };
  for (const [source, kind] of Object.entries(kinds)) {
    assert.equal(kindOfSource(source), kind, source);
    const origin = { ...pictureOrigin, source };
    assert.equal(sourceOf(origin, false), kind === "path" ? origin.model : source, source);
    assert.equal(sourceOf(origin, true), source);
  }
  for (
    const wrong of ["hub:a/b", "hub:a@r", "hub:a/b@", "hub:a/b/c@r", "hub:a/b@r/..", "hub:../b@r", "hub:a/b@r\n", "a/b@r"]
  ) {
    assert.equal(hubModelOf(wrong), undefined, wrong);
  }
});
