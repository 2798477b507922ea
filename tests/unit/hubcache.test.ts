/** Where the hub's cache is, what the environment says, and which files of a repository make a model. No network. */
import assert from "node:assert/strict";
import { mkdirSync, readFileSync, readlinkSync, symlinkSync, writeFileSync } from "node:fs";
import { homedir } from "node:os";
import { join } from "node:path";
import process from "node:process";
import { test } from "node:test";
import {
  cacheFolder,
  cachePathOf,
  hubSettings,
  knownCommit,
  linkBlob,
  neededFiles,
  pathToOpen,
  rememberCommit,
  repositoryFolder,
  snapshotFiles,
} from "../../src/model/hubcache.ts";
import { suggestion } from "../../src/nearest.ts";
import { rejects, withFolder } from "../support.ts";

const variables = [
  ...["HF_HOME", "HF_HUB_CACHE", "HUGGINGFACE_HUB_CACHE", "XDG_CACHE_HOME", "HF_TOKEN", "HUGGING_FACE_HUB_TOKEN"],
  ...["HF_TOKEN_PATH", "HF_HUB_DISABLE_IMPLICIT_TOKEN", "HF_ENDPOINT", "HF_HUB_OFFLINE", "HF_HUB_DOWNLOAD_TIMEOUT"],
];

/** With these variables and none of the others. */
async function withVariables<T>(values: Record<string, string>, work: () => T): Promise<Awaited<T>> {
  const before = variables.map((name) => [name, process.env[name]] as const);
  for (const name of variables) delete process.env[name];
  Object.assign(process.env, values);
  try {
    return await work();
  } finally {
    for (const [name, value] of before) {
      if (value === undefined) delete process.env[name];
      else process.env[name] = value;
    }
    delete process.env.CTOK_TEST_PLACE;
  }
}

test("the cache is where Python has it", async () => {
  const home = homedir();
  const cases: [Record<string, string>, string][] = [
    [{}, `${home}/.cache/huggingface/hub`],
    [{ XDG_CACHE_HOME: "/x" }, "/x/huggingface/hub"],
    [{ XDG_CACHE_HOME: "/x", HF_HOME: "/h" }, "/h/hub"],
    [{ HF_HOME: "~/h" }, `${home}/h/hub`],
    [{ HF_HOME: "" }, `${home}/.cache/huggingface/hub`],
    [{ HF_HOME: "/h", HUGGINGFACE_HUB_CACHE: "/old" }, "/old"],
    [{ HF_HOME: "/h", HUGGINGFACE_HUB_CACHE: "/old", HF_HUB_CACHE: "/c" }, "/c"],
    [{ HF_HUB_CACHE: "$CTOK_TEST_PLACE/c/${CTOK_TEST_PLACE}/$CTOK_NONE", CTOK_TEST_PLACE: "/p" }, "/p/c/p/$CTOK_NONE"],
  ];
  for (const [values, wanted] of cases) {
    assert.equal(await withVariables(values, cacheFolder), wanted, JSON.stringify(values));
  }
});

test("token, endpoint, offline and timeout: options first, then the variables, then the file of `hf auth login`", () =>
  withFolder(async (folder) => {
    const file = join(folder, "token"), home = { HF_HOME: folder };
    writeFileSync(file, "hf_file\n");
    writeFileSync(join(folder, "other"), " hf_other ");
    writeFileSync(join(folder, "empty"), "\n");
    const tokens: [Record<string, string>, string | false | undefined, string | undefined][] = [
      [home, undefined, "hf_file"],
      [home, "mine", "mine"],
      [home, false, undefined],
      [{ ...home, HF_TOKEN: " hf_env\n", HUGGING_FACE_HUB_TOKEN: "hf_old" }, undefined, "hf_env"],
      [{ ...home, HUGGING_FACE_HUB_TOKEN: "hf_old" }, undefined, "hf_old"],
      [{ ...home, HF_TOKEN_PATH: join(folder, "other") }, undefined, "hf_other"],
      [{ ...home, HF_TOKEN_PATH: join(folder, "empty") }, undefined, undefined],
      [{ ...home, HF_TOKEN_PATH: join(folder, "gone") }, undefined, undefined],
      [{ ...home, HF_TOKEN: "hf_env", HF_HUB_DISABLE_IMPLICIT_TOKEN: "1" }, undefined, undefined],
      [{ ...home, HF_TOKEN: "hf_env", HF_HUB_DISABLE_IMPLICIT_TOKEN: "1" }, "mine", "mine"],
    ];
    for (const [values, token, wanted] of tokens) {
      assert.equal(
        (await withVariables(values, () => hubSettings({ token }))).token,
        wanted,
        JSON.stringify([values, token]),
      );
    }
    await withVariables(
      { ...home, HF_TOKEN_PATH: folder },
      () => rejects(() => hubSettings({}), "FILE_IO", RegExp(folder)),
    );
    const plain = await withVariables({}, () => hubSettings({ cacheDir: "/c" }));
    assert.deepEqual({ ...plain, token: undefined }, {
      ...{ endpoint: "https://huggingface.co", cacheDir: "/c", token: undefined, isOffline: false, timeoutMs: 10_000 },
    });
    const set = {
      ...home,
      HF_ENDPOINT: "http://mirror:8080/hf/",
      HF_HUB_OFFLINE: "YES",
      HF_HUB_DOWNLOAD_TIMEOUT: "30",
    };
    assert.deepEqual(await withVariables(set, () => hubSettings({})), {
      ...{
        endpoint: "http://mirror:8080/hf",
        cacheDir: join(folder, "hub"),
        token: "hf_file",
        isOffline: true,
        timeoutMs: 30_000,
      },
    });
    assert.equal((await withVariables(set, () => hubSettings({ localFilesOnly: false }))).isOffline, false);
    assert.equal((await withVariables({ HF_HUB_OFFLINE: "0" }, () => hubSettings({}))).isOffline, false);
  }));

test("which files make a model, and of which half", () => {
  const cosmos = ["README.md", "autoencoder.jit", "decoder.jit", "encoder.jit", "model.pt"];
  const cases: [string[], "encoder" | "decoder" | undefined, string[] | undefined, string[] | undefined][] = [
    [cosmos, undefined, undefined, ["encoder.jit", "decoder.jit"]],
    [cosmos, "decoder", undefined, ["decoder.jit"]],
    [["autoencoder.jit", "x.safetensors"], "encoder", undefined, ["autoencoder.jit"]],
    [["encoder.safetensors", "decoder.safetensors", "a.pt"], undefined, undefined, [
      "encoder.safetensors",
      "decoder.safetensors",
    ]],
    [["model.safetensors", "model.pt"], undefined, undefined, ["model.safetensors"]],
    [["model.pth", "config.json"], "decoder", undefined, ["model.pth"]],
    [["a.pt", "b.ckpt"], undefined, undefined, undefined],
    [["a.safetensors", "b.safetensors", "c.pt"], undefined, undefined, undefined],
    [["encoder.jit"], undefined, undefined, ["encoder.jit"]],
    [["encoder.jit"], "decoder", undefined, undefined],
    [["encoder.jit"], undefined, ["encoder.jit", "decoder.jit"], undefined],
    [["a.pt", "b.pt"], "encoder", ["b.pt"], ["b.pt"]],
    [["../a.safetensors", "x/b.safetensors", "-c.pt", ".d.pt"], undefined, undefined, undefined],
    [[], undefined, undefined, undefined],
  ];
  for (const [names, half, files, wanted] of cases) {
    assert.deepEqual(neededFiles(names, half, files), wanted, `${names} ${half} ${files}`);
  }
  assert.equal(pathToOpen("/s", ["encoder.jit"]), "/s");
  assert.equal(pathToOpen("/s", ["autoencoder.jit"]), "/s/autoencoder.jit");
});

test("branches, links and what lies in a snapshot", () =>
  withFolder(async (cache) => {
    const folder = repositoryFolder(cache, "a/b"), commit = "0".repeat(40), later = "1".repeat(40);
    assert.equal(knownCommit(folder, "main"), undefined);
    assert.equal(knownCommit(folder, commit), commit);
    await rememberCommit(folder, "refs/pr/1", commit);
    await rememberCommit(folder, "refs/pr/1", later);
    assert.equal(knownCommit(folder, "refs/pr/1"), later);
    writeFileSync(join(folder, "refs/main"), "<html>");
    assert.equal(knownCommit(folder, "main"), undefined);
    const snapshot = join(folder, "snapshots", commit), blob = join(folder, "blobs", "f".repeat(64));
    assert.deepEqual(snapshotFiles(snapshot), []);
    mkdirSync(join(folder, "blobs"));
    mkdirSync(join(snapshot, "folder"), { recursive: true });
    writeFileSync(blob, "four");
    symlinkSync("../../blobs/gone", join(snapshot, "encoder.jit"));
    assert.deepEqual(snapshotFiles(snapshot), []); // a link to nothing, and a folder
    await linkBlob(snapshot, "encoder.jit", blob);
    assert.equal(readlinkSync(join(snapshot, "encoder.jit")), `../../blobs/${"f".repeat(64)}`);
    assert.equal(readFileSync(join(snapshot, "encoder.jit"), "utf8"), "four");
    assert.deepEqual(snapshotFiles(snapshot), [{ name: "encoder.jit", bytes: 4 }]);
    for (
      const path of [cache, join(cache, "models--a"), join(folder, "blobs"), blob, join(snapshot, "folder", "x.pt")]
    ) {
      assert.equal(cachePathOf(path), undefined, path);
    }
    assert.deepEqual(cachePathOf(folder), { repository: "a/b", commit, path: snapshot });
    const alone = { repository: "a/b", commit, file: "x.pt", path: join(snapshot, "x.pt") };
    assert.deepEqual(cachePathOf(join(snapshot, "x.pt")), alone);
  }));

test("did you mean: two edits or a third of the letters, in either case", () => {
  assert.equal(suggestion("di8x9", ["DI8x8", "CI8x8"]), " (did you mean DI8x8?)");
  assert.equal(suggestion("pul", ["pull", "models"], "--"), " (did you mean --pull?)");
  assert.equal(suggestion("something else", ["DI8x8"]), "");
  assert.equal(suggestion("x", []), "");
});
