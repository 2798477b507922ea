/** What a user calls a model, what the catalogue says, and which kinds of source leave this machine. */
import assert from "node:assert/strict";
import { mkdirSync } from "node:fs";
import { writeFile } from "node:fs/promises";
import { join } from "node:path";
import process from "node:process";
import { test } from "node:test";
import { publicModels } from "mod.ts";
import { resolveModel } from "../../src/model/catalogue.ts";
import { hubModelOf, kindOfSource, sourceOf, tellHubModel } from "../../src/tokens/origin.ts";
import { pictureOrigin, rejects, root, withFolder } from "../support.ts";

const hub = "hub:nvidia/Cosmos-Tokenizer-DI8x8@a1b2c3";
const commit = "0123456789abcdef0123456789abcdef01234567";

/** What a model of the hub is resolved to. */
function hubOf(model: string, revision?: string): [source: string, name: string, known: string | undefined] {
  const found = resolveModel(model, revision);
  assert.equal(found.kind, "hub");
  return found.kind === "hub" ? [found.source, found.name, found.known?.name] : assert.fail();
}

test("a model is embedded, a file or of the hub; a path that is there goes first", () =>
  withFolder(async (folder) => {
    const file = join(folder, "m.safetensors"), path = join(root, "models/nano/DI8x8.safetensors");
    await writeFile(file, "");
    const embedded = { kind: "embedded", source: "nano-DI8x8", name: "nano-DI8x8", path };
    assert.deepEqual(resolveModel("nano-DI8x8"), embedded);
    assert.deepEqual(resolveModel(file), { kind: "file", source: file, name: undefined, path: file });
    assert.deepEqual(hubOf(hub), [hub, "Cosmos-Tokenizer-DI8x8", "DI8x8"]);
    const before = process.cwd();
    process.chdir(folder);
    try {
      mkdirSync("nvidia/Cosmos-0.1-Tokenizer-DI8x8", { recursive: true });
      mkdirSync("DI8x8");
      for (const there of ["DI8x8", "nvidia/Cosmos-0.1-Tokenizer-DI8x8"]) {
        assert.equal(resolveModel(there).kind, "file", there);
      }
      await rejects(
        () => resolveModel("nvidia/other"),
        "FILE_MISSING",
        /found "nvidia\/other"$/,
      ); // in a folder that is here
    } finally {
      process.chdir(before);
    }
  }));

test("public models by short name, repository, its last part, the older name, with a revision", () => {
  const source = "hub:nvidia/Cosmos-0.1-Tokenizer-DI8x8@main", name = "Cosmos-0.1-Tokenizer-DI8x8";
  for (const called of ["DI8x8", name, "nvidia/" + name, "Cosmos-Tokenizer-DI8x8"]) {
    assert.deepEqual(hubOf(called), [source, name, "DI8x8"], called);
  }
  const old = "nvidia/Cosmos-Tokenizer-DI8x8";
  assert.deepEqual(hubOf(old), [`hub:${old}@main`, "Cosmos-Tokenizer-DI8x8", "DI8x8"]);
  assert.deepEqual(hubOf(`DI8x8@${commit}`), [`hub:nvidia/${name}@${commit}`, name, "DI8x8"]);
  assert.deepEqual(hubOf("DI8x8", "v1"), [`hub:nvidia/${name}@v1`, name, "DI8x8"]);
  assert.deepEqual(hubOf("me/mine", "refs/pr/1"), ["hub:me/mine@refs/pr/1", "mine", undefined]);
  for (const called of ["VQ-16", "vq_ds16_c2i"]) {
    assert.deepEqual(hubOf(called), ["hub:FoundationVision/LlamaGen@main/vq_ds16_c2i.pt", "vq_ds16_c2i", "VQ-16"]);
  }
  assert.deepEqual(hubOf("FoundationVision/LlamaGen"), ["hub:FoundationVision/LlamaGen@main", "LlamaGen", undefined]);
  const pinned = `hub:FoundationVision/LlamaGen@${commit}/vq_ds8_c2i.pt`;
  assert.deepEqual(hubOf(pinned), [pinned, "vq_ds8_c2i", "VQ-8"]);
  assert.equal(hubOf(`me/${"x".repeat(90)}`)[1].length, 63);
});

test("a name that is none is told what there is, and what is near", async () => {
  const near: [string, RegExp][] = [
    ["DI8x9", /found "DI8x9" \(did you mean DI8x8\?\)$/],
    ["cosmos-0.1-tokenizer-di16x16", /\(did you mean Cosmos-0\.1-Tokenizer-DI16x16\?\)$/],
    ["nano-DI8x", /\(did you mean nano-DI8x8\?\)$/],
    ["quite another thing", /ctok models lists them\), a file or folder, or owner\/name, found "quite another thing"$/],
    ["/models/Cosmos-Tokenizer-DI8x8", /DI8x8 is a public model \(nvidia\/.*\): ctok pull DI8x8 downloads it$/],
    ["gone/model.safetensors", /found "gone\/model\.safetensors"/],
    ["a/b/c", /found "a\/b\/c"/],
    ["", /found ""/],
  ];
  for (const [name, text] of near) await rejects(() => resolveModel(name), "FILE_MISSING", text);
  const wrong: [unknown, string | undefined, RegExp][] = [
    [5, undefined, /model: expected an embedded name, a path, or a model of the hub, found 5/],
    ["hub:nvidia/DI8x8", undefined, /model: expected hub:owner\/name@revision/],
    ["DI8x8@a", "b", /options\.revision: expected none beside "DI8x8@a", found "b"/],
    ["nano-DI8x8", "main", /options\.revision: expected a model of the hub beside it/],
    ["DI8x8@-x", undefined, /revision: expected a branch, tag or commit, found "-x"/],
    ["DI8x8", "a/../b", /revision: expected a branch, tag or commit/],
  ];
  for (const [model, revision, text] of wrong) {
    await rejects(() => resolveModel(model as string, revision), "ARGUMENT", text);
  }
});

test("every public model is found by its name, no name is another's, and its figures are of the kind it tells", () => {
  const names = publicModels.map(({ name }) => name);
  assert.equal(new Set(names).size, names.length);
  for (const m of publicModels) {
    assert.equal(hubOf(m.name)[2], m.name);
    assert.ok(m.files.length === 1 || m.files.join() === "encoder.jit,decoder.jit", m.name);
    assert.ok(m.licenceUrl.startsWith("https://") && m.spatialFactor > 0, m.name);
    assert.equal(m.trainedFrames === undefined || m.temporalFactor > 1, true, m.name);
    if (m.family === "llamagen") continue;
    const [, codes, pixels, factors] = /([CD])([IV])([\dx]+)/.exec(m.repository)!, isVideo = pixels === "V";
    const { temporalFactor: t, spatialFactor: s } = m;
    assert.equal([...(isVideo ? [t] : []), s, s].join("x"), factors, m.name);
    assert.deepEqual([m.kind, t > 1], [codes === "C" ? "continuous" : "discrete", isVideo], m.name);
    for (const { psnr, ssim, rfid, rfvd } of m.claims) {
      assert.ok(psnr! > 15 && psnr! < 40 && ssim! > 0 && ssim! < 1 && (isVideo ? rfvd! : rfid!) > 0, m.name);
    }
  }
});

test("names and the hub's sources leave the machine, paths only when asked to", () => {
  const kinds = {
    [hub]: "hub",
    "nano-DI8x8": "name",
    "/models/x": "path",
    "hub:/etc/passwd@x": "path",
    "hub:a/../b@x": "path",
    "hub:a/b@c/vq.pt": "hub",
    "hub:a/b@c/../vq.pt": "path",
  };
  for (const [source, kind] of Object.entries(kinds)) {
    assert.equal(kindOfSource(source), kind, source);
    const origin = { ...pictureOrigin, source };
    assert.equal(sourceOf(origin, false), kind === "path" ? origin.model : source, source);
    assert.equal(sourceOf(origin, true), source);
  }
  for (
    const wrong of [
      "hub:a/b",
      "hub:a@r",
      "hub:a/b@",
      "hub:a/b/c@r",
      "hub:a/b@r/..",
      "hub:../b@r",
      "hub:a/b@r\n",
      "a/b@r",
    ]
  ) {
    assert.equal(hubModelOf(wrong), undefined, wrong);
  }
  for (const right of [hub, "hub:a/b@c/vq.pt"]) assert.equal(tellHubModel(hubModelOf(right)!), right);
});
