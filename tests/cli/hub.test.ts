/** ctok pull and ctok models, and --model with a model of the hub, against a server that plays it. */
import assert from "node:assert/strict";
import { readdirSync, readFileSync } from "node:fs";
import { join } from "node:path";
import { after, test } from "node:test";
import { publicModels } from "mod.ts";
import { commitOf, HubServer } from "../hubserver.ts";
import { carried, root, sequence, withFolder } from "../support.ts";
import { ctok, ctokEnds, lines } from "./spawn.ts";

const name = "nvidia/Cosmos-0.1-Tokenizer-CI8x8", commit = commitOf(3);
const file = (name: string) => new Uint8Array(readFileSync(join(carried, "Cosmos-Tokenizer-CI8x8", name)));
const files = { "encoder.jit": file("encoder.jit"), "decoder.jit": file("decoder.jit") };
const bytes = files["encoder.jit"].length + files["decoder.jit"].length;
const hub = await HubServer.start({ [name]: { commit, files } });
after(() => hub[Symbol.asyncDispose]());
const cat = join(root, "examples/media/cat.png");
const within = (cache: string) => ({
  HF_ENDPOINT: hub.url,
  HF_HUB_CACHE: cache,
  HF_HUB_DISABLE_IMPLICIT_TOKEN: "1",
  HF_HUB_OFFLINE: "",
});

test("pull says what it fetched and where it lies; again, that it was here; a wrong one fails, others are done", () =>
  withFolder(async (cache) => {
    const env = within(cache);
    const first = await ctokEnds(0, ["pull", "CI8x8"], { env });
    assert.match(
      first.stdout,
      RegExp(`^CI8x8 -> ${cache}/models--nvidia--.*/snapshots/${commit}: fetched 2\\.6\\d MB of 2\\.6\\d MB, `),
    );
    assert.equal(first.stderr, "");
    assert.match((await ctokEnds(0, ["pull", "CI8x8"], { env })).stdout, /was here already, checked, /);
    const offline = await ctokEnds(0, ["pull", "CI8x8"], { env: { ...env, HF_HUB_OFFLINE: "1" } });
    assert.match(offline.stdout, /was here already, not checked: the hub was not asked/);
    const again = await ctok(["pull", "CI8x9", "CI8x8", "--json"], { env });
    const [wrong, right] = lines(again.stdout);
    assert.equal(again.code, 3);
    assert.deepEqual([wrong.file, wrong.ok, wrong.code], ["CI8x9", false, "FILE_MISSING"]);
    assert.match(wrong.message, /did you mean CI8x8\?/);
    const { model, ok, repository, source, fetchedBytes } = right;
    assert.deepEqual([model, ok, repository, fetchedBytes, right.bytes], ["CI8x8", true, name, 0, bytes]);
    assert.deepEqual([right.commit, source], [commit, `hub:${name}@${commit}`]);
    assert.match((await ctok(["pull"], { env })).stderr, /expected at least one model, found none/);
  }));

test("models lists what there is, and what is here", () =>
  withFolder(async (cache) => {
    const env = within(cache), before = lines((await ctokEnds(0, ["models", "--json"], { env })).stdout);
    assert.deepEqual(before.map((m) => m.name), ["nano-DI8x8", "nano-DV4x8x8", ...publicModels.map((m) => m.name)]);
    assert.deepEqual(before.filter((m) => m.isHere).map((m) => m.name), ["nano-DI8x8", "nano-DV4x8x8"]);
    await ctokEnds(0, ["pull", "CI8x8"], { env });
    const asked = hub.requests.length;
    const text = (await ctokEnds(0, ["models"], { env })).stdout;
    assert.equal(hub.requests.length, asked); // it asks nobody
    assert.match(
      text,
      sequence(
        /^nvidia\/Cosmos-0\.1-Tokenizer-… \(NVIDIA Open Model License\)\n/m,
        / {2}CI8x8 +continuous image +8x8 +154 MB +here$/,
      ),
    );
    assert.match(
      text,
      /^nvidia\/Cosmos-1\.0-Tokenizer-… \(.*\)\n {2}1\.0-CV8x8x8 +continuous video +8x8x8 +gated$/m,
    );
    assert.equal(text.match(/^ {2}\S/gm)!.length, 2 + publicModels.length);
    for (const line of text.split("\n")) assert.ok(line.length <= 80, line);
    assert.match((await ctok(["models", "x"], { env })).stderr, /expected no model, found 1/);
  }));

test("--model takes a model of the hub; tokens are decoded with the one they name, and another's are not fetched", () =>
  withFolder(async (cache) => {
    const env = within(cache), cwd = cache, tokens = "cat.safetensors";
    const half = await ctokEnds(0, ["encode", cat, "--model", "CI8x8", "--out", tokens, "--json"], { env, cwd });
    assert.equal(lines(half.stdout)[0].ok, true);
    assert.deepEqual(hub.content().slice(-1).map(({ file }) => file), ["encoder.jit"]);
    const decoded = await ctokEnds(0, ["decode", tokens, "--out", "cat.png", "--json"], { env, cwd });
    assert.equal(lines(decoded.stdout)[0].model, "Cosmos-0.1-Tokenizer-CI8x8");
    assert.deepEqual(hub.content().slice(-1).map(({ file }) => file), ["decoder.jit"]);
    hub.repositories.set("mallory/evil", { commit, files });
    const other = await ctokEnds(0, ["encode", cat, "--model", `mallory/evil@${commit}`, "--out", "evil.safetensors"], {
      env,
      cwd,
    });
    assert.equal(other.stderr, "");
    const asked = hub.requests.length;
    const refused = await ctok(["decode", "evil.safetensors", "--out", "evil.png", "--json"], {
      env: within(`${cache}/new`),
      cwd,
    });
    const [failure] = lines(refused.stdout);
    assert.deepEqual([refused.code, failure.code], [3, "HUB"]);
    assert.match(failure.message, /only public models are downloaded for them unasked: `ctok pull mallory\/evil@/);
    assert.equal(hub.requests.length, asked);
  }));

test("a model of the hub is converted to a file of its name", () =>
  withFolder(async (cache) => {
    const env = within(cache);
    await ctokEnds(0, ["convert", `${name}@main`, "--out", "out/"], { env, cwd: cache });
    assert.deepEqual(readdirSync(join(cache, "out")), ["Cosmos-0.1-Tokenizer-CI8x8.safetensors"]);
  }));
