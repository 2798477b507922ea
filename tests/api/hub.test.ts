/**
 * Models of the hub, with a server that plays it: what is asked, fetched and kept, in the layout that Python's
 * huggingface_hub has, and that what it keeps opens here. Failures of the hub are in tests/faults/hub.test.ts.
 */
import assert from "node:assert/strict";
import {
  existsSync,
  lstatSync,
  mkdirSync,
  readdirSync,
  readFileSync,
  readlinkSync,
  symlinkSync,
  writeFileSync,
} from "node:fs";
import { dirname, join } from "node:path";
import process from "node:process";
import { after, test } from "node:test";
import {
  convert,
  detokenize,
  type DownloadProgress,
  findPulled,
  pullModel,
  readImage,
  Tensor,
  tokenize,
  Tokenizer,
  Tokens,
} from "mod.ts";
import { commitOf, gitHash, HubServer, noise, sha256 } from "../hubserver.ts";
import { goOffline, goOnline } from "../offline.ts";
import { carried, pictureOrigin, rejects, root, withFolder, withWeights } from "../support.ts";

const name = "nvidia/Cosmos-0.1-Tokenizer-CI8x8", commit = commitOf(1), other = commitOf(2);
const file = (name: string) => new Uint8Array(readFileSync(join(carried, "Cosmos-Tokenizer-CI8x8", name)));
const halves = { "encoder.jit": file("encoder.jit"), "decoder.jit": file("decoder.jit") };
const more = { "autoencoder.jit": noise(2000), "README.md": noise(90), "config.json": noise(54) };
const hub = await HubServer.start({ [name]: { commit, files: { ...halves, ...more } } });
hub.renamed.set("nvidia/Cosmos-Tokenizer-CI8x8", name);
after(async () => {
  goOffline();
  await hub[Symbol.asyncDispose]();
});
goOnline(hub.url);

/** With a cache of its own, and the server as at first. */
const withCache = (work: (cacheDir: string) => Promise<void>) => () =>
  withFolder(async (cacheDir) => {
    hub.requests.length = 0;
    hub.onRequest = () => false;
    process.env.HF_HUB_CACHE = cacheDir;
    await work(cacheDir);
  });

/** All that lies in a cache, links as "-> where they lead". */
function laidOut(folder: string): string[] {
  return readdirSync(folder, { recursive: true, encoding: "utf8" }).filter((path) =>
    !lstatSync(join(folder, path)).isDirectory()
  )
    .map((path) =>
      lstatSync(join(folder, path)).isSymbolicLink() ? `${path} -> ${readlinkSync(join(folder, path))}` : path
    )
    .sort();
}

/** A cache as Python's huggingface_hub 0.36 leaves it after hf_hub_download of these files at main. */
function asPython(cacheDir: string, repository: string, files: Record<string, Uint8Array>, at = commit): string {
  const folder = join(cacheDir, `models--${repository.replace("/", "--")}`);
  const locks = join(cacheDir, ".locks", `models--${repository.replace("/", "--")}`);
  for (const path of ["blobs", "refs", `snapshots/${at}`, `.no_exist/${at}`]) {
    mkdirSync(join(folder, path), { recursive: true });
  }
  mkdirSync(locks, { recursive: true });
  writeFileSync(join(folder, "refs/main"), at);
  writeFileSync(join(folder, `.no_exist/${at}/adapter_config.json`), "");
  for (const [path, bytes] of Object.entries(files)) {
    const hash = bytes.length >= 1000 ? sha256(bytes) : gitHash(bytes);
    writeFileSync(join(locks, `${hash}.lock`), "");
    writeFileSync(join(folder, "blobs", hash), bytes);
    symlinkSync(join("../../blobs", hash), join(folder, "snapshots", at, path));
  }
  return folder;
}

test(
  "a public model opens by its short name: the files needed, laid out as Python does, called by its repository",
  withCache(async (cacheDir) => {
    const told: DownloadProgress[] = [], onDownload = (progress: DownloadProgress) => void told.push(progress);
    {
      await using tok = await Tokenizer.open("CI8x8", { onDownload });
      assert.equal(tok.info.name, "Cosmos-0.1-Tokenizer-CI8x8");
      assert.equal(tok.info.source, `hub:${name}@${commit}`);
      assert.deepEqual([tok.info.spatialFactor, tok.info.isDiscrete, tok.info.halves], [8, false, [
        "encoder",
        "decoder",
      ]]);
    }
    const hashes = Object.entries(halves).map(([path, bytes]) => [path, sha256(bytes)] as const);
    const folder = "models--nvidia--Cosmos-0.1-Tokenizer-CI8x8";
    assert.deepEqual(
      laidOut(cacheDir),
      [
        ...hashes.map(([, hash]) => `${folder}/blobs/${hash}`),
        `${folder}/refs/main`,
        ...hashes.map(([path, hash]) => `${folder}/snapshots/${commit}/${path} -> ../../blobs/${hash}`),
      ].sort(),
    );
    assert.equal(readFileSync(join(cacheDir, folder, "refs/main"), "utf8"), commit);
    for (const [path, bytes] of Object.entries(halves)) {
      assert.deepEqual(new Uint8Array(readFileSync(join(cacheDir, folder, "snapshots", commit, path))), bytes);
    }
    const totalBytes = halves["encoder.jit"].length + halves["decoder.jit"].length;
    assert.deepEqual(told.at(-1), { repository: name, file: "decoder.jit", bytes: totalBytes, totalBytes });
    assert.ok(told.every((now, i) => now.totalBytes === totalBytes && now.bytes >= (told[i - 1]?.bytes ?? 0)));

    hub.requests.length = 0;
    await (await Tokenizer.open(name)).close();
    assert.deepEqual(hub.requests.map(({ what }) => what), ["info", "tree"]); // main may have moved
    hub.requests.length = 0;
    await (await Tokenizer.open(name, { revision: commit })).close();
    await (await Tokenizer.open(`CI8x8@${commit}`)).close();
    await (await Tokenizer.open(name, { localFilesOnly: true })).close();
    assert.deepEqual(hub.requests, []); // a commit does not move
  }),
);

test(
  "one half alone takes its file alone, and the other half comes when it is needed",
  withCache(async () => {
    await (await Tokenizer.open("CI8x8", { half: "encoder" })).close();
    assert.deepEqual(hub.content().map(({ file }) => file), ["encoder.jit"]);
    assert.equal(await findPulled("CI8x8"), undefined);
    assert.equal((await findPulled("CI8x8", { half: "encoder" }))!.commit, commit);
    await (await Tokenizer.open("CI8x8")).close();
    assert.deepEqual(hub.content().map(({ file }) => file), ["encoder.jit", "decoder.jit"]);
  }),
);

test(
  "a moved branch is followed, equal files are kept, and a copy is opened where the hub does not answer",
  withCache(async (cacheDir) => {
    const before = await pullModel("CI8x8");
    const decoder = noise(3000);
    hub.repositories.set(name, { commit: other, files: { ...halves, "decoder.jit": decoder } });
    const moved = await pullModel("CI8x8");
    hub.repositories.set(name, { commit, files: { ...halves, ...more } });
    assert.deepEqual([before.commit, moved.commit, moved.fetchedBytes], [commit, other, decoder.length]);
    assert.deepEqual(hub.content().map(({ file }) => file), ["encoder.jit", "decoder.jit", "decoder.jit"]);
    assert.equal(readFileSync(join(cacheDir, "models--nvidia--Cosmos-0.1-Tokenizer-CI8x8/refs/main"), "utf8"), other);
    assert.equal((await pullModel(`CI8x8@${commit}`)).commit, commit); // the other one is there still
    hub.onRequest = (_, response) => {
      response.destroy();
      return true;
    };
    const tokenizer = await Tokenizer.open("CI8x8", { revision: commit });
    assert.equal(tokenizer.info.source, `hub:${name}@${commit}`);
    await tokenizer.close();
  }),
);

for (const repository of [name, "nvidia/Cosmos-Tokenizer-CI8x8"]) {
  test(
    `what Python downloaded as ${repository} opens without a network, by name, folder and snapshot`,
    withCache(async (cacheDir) => {
      const folder = asPython(cacheDir, repository, { ...halves, ...more });
      const before = laidOut(cacheDir), called = repository.split("/")[1]!, source = `hub:${repository}@${commit}`;
      const short = await Tokenizer.open("CI8x8", { localFilesOnly: true });
      assert.equal(short.info.name, "Cosmos-0.1-Tokenizer-CI8x8");
      await short.close();
      for (const path of [folder, `${folder}/`, join(folder, "snapshots", commit)]) {
        await using tok = await Tokenizer.open(path);
        assert.deepEqual([tok.info.name, tok.info.source, tok.info.spatialFactor], [called, source, 8], path);
      }
      assert.deepEqual(hub.requests, []);
      assert.deepEqual(laidOut(cacheDir), before);
      const pulled = await pullModel(repository);
      assert.deepEqual([pulled.fetchedBytes, hub.content().length, laidOut(cacheDir)], [0, 0, before]);
    }),
  );
}

test(
  "a cache that is here and whole is not written to",
  withCache(async (cacheDir) => {
    const folder = asPython(cacheDir, name, halves), link = join(folder, "snapshots", commit, "encoder.jit");
    const before = [link, join(folder, "refs/main"), join(folder, "blobs")].map((path) =>
      lstatSync(path, { bigint: true }).ctimeNs
    );
    await (await Tokenizer.open("CI8x8")).close();
    await pullModel("CI8x8");
    const after = [link, join(folder, "refs/main"), join(folder, "blobs")].map((path) =>
      lstatSync(path, { bigint: true }).ctimeNs
    );
    assert.deepEqual(after, before);
    assert.deepEqual(hub.content(), []);
  }),
);

test(
  "a folder of a cache that does not say which snapshot is meant is refused",
  withCache(async (cacheDir) => {
    const folder = join(cacheDir, "models--a--b");
    mkdirSync(join(folder, "snapshots"), { recursive: true });
    await rejects(() => Tokenizer.open(folder), "FILE_MISSING", /models--a--b: expected a snapshot .*, found none/);
    for (const at of [commit, other]) mkdirSync(join(folder, "snapshots", at));
    await rejects(() => Tokenizer.open(folder), "FILE_MISSING", /found 2, of which refs\/main names none/);
  }),
);

test(
  "tokens name the commit, and are decoded with it; a file that is one whole model is named too",
  withCache((cacheDir) =>
    withWeights("VQ-8", "small", async (weights) => {
      const image = new Tensor("uint8", [16, 24, 3], noise(16 * 24 * 3));
      const tokens = await tokenize(image, { model: "CI8x8" });
      assert.equal(tokens.origin.source, `hub:${name}@${commit}`);
      const asked = hub.requests.length;
      assert.deepEqual((await detokenize(tokens)).shape, [1, 16, 24, 3]); // with the model that is open
      assert.equal(hub.requests.length, asked);

      const vq = new Uint8Array(readFileSync(weights));
      hub.repositories.set("FoundationVision/LlamaGen", {
        commit,
        files: { "c2i_B_256.pt": noise(1500), "vq_ds8_c2i.pt": vq, "vq_ds16_c2i.pt": noise(1000) },
      });
      await using tok = await Tokenizer.open("VQ-8");
      assert.deepEqual([tok.info.name, tok.info.family], ["vq_ds8_c2i", "llamagen"]);
      assert.equal(tok.info.source, `hub:FoundationVision/LlamaGen@${commit}/vq_ds8_c2i.pt`);
      await using again = await Tokenizer.open(tok.info.source, { localFilesOnly: true });
      assert.equal(again.info.sha256, tok.info.sha256);
      assert.deepEqual(hub.content().slice(-1).map(({ file }) => file), ["vq_ds8_c2i.pt"]);
      const snapshot = join(cacheDir, "models--FoundationVision--LlamaGen", "snapshots", commit);
      for (const path of [join(snapshot, "vq_ds8_c2i.pt"), snapshot, dirname(dirname(snapshot))]) {
        await using here = await Tokenizer.open(path);
        assert.deepEqual([here.info.name, here.info.source], [tok.info.name, tok.info.source]);
      }
    })
  ),
);

test(
  "tokens of strangers make this machine ask for public models only",
  withCache(async (cacheDir) => {
    const stranger = "mallory/Evil-DI8x8",
      bytes = new Uint8Array(readFileSync(join(root, "models/nano/DI8x8.safetensors")));
    hub.repositories.set(stranger, { commit, files: { "model.safetensors": bytes } });
    const tokensOf = (source: string) => {
      const origin = { ...pictureOrigin, source };
      return new Tokens(origin, { indices: new Tensor("int32", [1, 2, 4], new Int32Array(8), { origin }) });
    };
    const text =
      /public models are downloaded for them unasked: `ctok pull mallory\/Evil-DI8x8@c+1` .* --model names another/;
    await rejects(() => detokenize(tokensOf(`hub:${stranger}@${commit}`)), "HUB", text);
    await rejects(() => Tokenizer.open(`hub:${stranger}@${commit}`, { isFromTokens: true }), "HUB", text);
    assert.deepEqual(hub.requests, []);
    await pullModel(stranger);
    assert.deepEqual((await detokenize(tokensOf(`hub:${stranger}@${commit}/model.safetensors`))).shape, [1, 13, 29, 3]);

    hub.repositories.set("nvidia/Cosmos-0.1-Tokenizer-DI8x8", {
      commit,
      files: { "encoder.jit": noise(5000), "decoder.jit": noise(5000) },
      tree: { "decoder.jit": { lfs: { oid: sha256(noise(5000)), size: 2 ** 31, pointerSize: 130 } } },
    });
    const huge = `hub:nvidia/Cosmos-0.1-Tokenizer-DI8x8@${commit}`;
    await rejects(() => detokenize(tokensOf(huge)), "HUB", /expected at most 1073741824 bytes for tokens that name it/);
    assert.deepEqual(hub.content("decoder.jit"), []);
    assert.ok(!existsSync(join(cacheDir, "models--nvidia--Cosmos-0.1-Tokenizer-DI8x8")));
  }),
);

test(
  "another repository: what opens of it, or what it holds",
  withCache(async (cacheDir) => {
    const nano = new Uint8Array(readFileSync(join(root, "models/nano/DI8x8.safetensors")));
    hub.repositories.set("me/mine-DI8x8", { commit, files: { "README.md": noise(90), "model.safetensors": nano } });
    await using tok = await Tokenizer.open("me/mine-DI8x8@main", { half: "decoder" });
    assert.deepEqual([tok.info.source, tok.info.halves], [`hub:me/mine-DI8x8@${commit}/model.safetensors`, [
      "decoder",
    ]]);
    await convert("me/mine-DI8x8", join(cacheDir, "copy.safetensors"));
    hub.repositories.set("me/two", { commit, files: { "a.safetensors": noise(1000), "b.safetensors": noise(1000) } });
    const text = /me\/two at main: expected encoder\.jit and decoder\.jit .*, found a\.safetensors, b\.safetensors/;
    await rejects(() => pullModel("me/two"), "FILE_MISSING", text);
    await rejects(
      () => pullModel("FoundationVision/LlamaGen"),
      "FILE_MISSING",
      /found c2i_B_256\.pt, .*; VQ-8 and VQ-16 name models of it/,
    );
    hub.repositories.set("me/none", { commit, files: {} });
    await rejects(() => pullModel("me/none"), "FILE_MISSING", /found no file/);
    hub.repositories.set("me/half", { commit, files: { "encoder.jit": halves["encoder.jit"] } });
    await rejects(
      () => pullModel("me/half", { half: "decoder" }),
      "FILE_MISSING",
      /expected decoder\.jit .*, found encoder\.jit/,
    );
    await rejects(() => pullModel("nano-DI8x8"), "ARGUMENT", /expected one of the hub, found .*embedded/);
    await rejects(
      () => pullModel("CI8x8@main", { revision: commit }),
      "ARGUMENT",
      /options\.revision: expected none beside/,
    );
  }),
);

test(
  "what goes wrong in a callback ends the call; a wrong option is told",
  withCache(async () => {
    const onDownload = () => {
      throw new Error("mine");
    };
    await rejects(
      () => pullModel("CI8x8", { onDownload }),
      "ARGUMENT",
      /onDownload: expected a function that does not throw, found mine/,
    );
    await rejects(() => Tokenizer.open("CI8x8", { revision: 5 as unknown as string }), "ARGUMENT", /options\.revision/);
    await rejects(
      () => Tokenizer.open("nano-DI8x8", { revision: "main" }),
      "ARGUMENT",
      /options\.revision: expected a model of the hub/,
    );
    await rejects(() => pullModel("CI8x8", { token: "a b" }), "ARGUMENT", /token: expected letters.*\(not shown\)/);
    await rejects(() => pullModel("CI8x8@../x"), "ARGUMENT", /revision: expected a branch, tag or commit/);
  }),
);

test(
  "a picture by a model of the hub is the same as by its folder",
  withCache(async () => {
    const image = await readImage(join(root, "examples/media/cat.png"));
    const small = image.data.slice(0, 32 * 32 * 3), picture = new Tensor("uint8", [32, 32, 3], small);
    const ours = await tokenize(picture, { model: "CI8x8" });
    const theirs = await tokenize(picture, { model: join(carried, "Cosmos-Tokenizer-CI8x8") });
    assert.deepEqual(ours.main.data, theirs.main.data);
  }),
);
