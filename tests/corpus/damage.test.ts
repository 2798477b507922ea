/**
 * Shards that lie: cut at any length, with bytes changed, with members, lines and headers that contradict each other.
 * Each reader refuses them as a stranger's, names the shard, and gives nothing wrong before: what it gave until then
 * was written so. Where a changed byte is itself possible (an index, a caption), only the manifest's hash can tell:
 * verify looks at that.
 */
import assert from "node:assert/strict";
import { cpSync, readFileSync, rmSync, truncateSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { test } from "node:test";
import { tarMember } from "../../src/corpus/formats/tar.ts";
import { shardFormat, shardFormats } from "../../src/corpus/formats/table.ts";
import type { CommittedShard, CorpusFacts, ShardFormat } from "../../src/corpus/format.ts";
import type { Sample } from "../../src/corpus/item.ts";
import { TokenizerError } from "../../src/errors.ts";
import { rejects, withFolder } from "../support.ts";
import { committed, factsOf, type Kind, readShard, samplesOf, writeShard } from "./shards.ts";

interface Corpus {
  readonly format: ShardFormat;
  readonly facts: CorpusFacts;
  readonly samples: Sample[];
}

function corpusOf(format: ShardFormat): Corpus {
  const kind: Kind = format.name === "1x" ? "clips" : format.name === "webdataset-pth" ? "clip latents" : "pictures";
  const dtypes = kind === "clip latents" ? format.dtypes.continuous : format.dtypes.discrete;
  const facts = factsOf(kind, dtypes[0]!);
  return { format, facts, samples: samplesOf(kind, facts, format.name === "1x" || format.name === "npy") };
}

/** A shard whose files were changed after the commit, and whose manifest says so: the reader has only the bytes. */
function recommitted(folder: string, shard: CommittedShard): CommittedShard {
  return { ...shard, files: shard.files.map(({ name }) => committed(folder, name)) };
}

/** Reads until it fails or ends; what was given must be what was written. */
async function failureOf(folder: string, { format, facts, samples }: Corpus, shard: CommittedShard): Promise<unknown> {
  let count = 0;
  try {
    for await (const { key, tokens } of format.read(folder, shard, facts)) {
      const wanted = samples[count++];
      assert.equal(key, wanted?.key);
      assert.deepEqual(tokens.main.shape, wanted!.tokens.main.shape);
    }
    return undefined;
  } catch (error) {
    return error;
  }
}

for (const format of shardFormats.values()) {
  test(`${format.name}: cut at any length, or with a file missing: refused, with the shard's name`, () =>
    withFolder(async (folder) => {
      const corpus = corpusOf(format), shard = await writeShard(folder, format, corpus.facts, corpus.samples);
      for (const { name, bytes } of shard.files) {
        const path = join(folder, name), whole = readFileSync(path);
        const lengths = new Set([
          0,
          1,
          7,
          8,
          40,
          511,
          512,
          513,
          bytes - 1024,
          bytes - 513,
          bytes - 8,
          bytes - 2,
          bytes - 1,
        ]);
        for (let at = 0; at < bytes; at += Math.ceil(bytes / 40)) lengths.add(at);
        for (const length of [...lengths].filter((n) => n >= 0 && n < bytes)) {
          writeFileSync(path, whole.subarray(0, length));
          const unchanged = await failureOf(folder, corpus, shard);
          assert.ok(
            unchanged instanceof TokenizerError && unchanged.code === "TOKEN_FILE",
            `${name} ${length}: ${unchanged}`,
          );
          assert.match(unchanged.message, /as were committed/);
          const error = await failureOf(folder, corpus, recommitted(folder, shard));
          assert.ok(
            error instanceof TokenizerError && error.code === "TOKEN_FILE",
            `${name} cut to ${length}: ${error}`,
          );
          assert.match(error.message, /^shard 00002: /);
        }
        rmSync(path);
        const missing = await failureOf(folder, corpus, shard);
        assert.ok(missing instanceof TokenizerError && missing.code === "FILE_MISSING", `${name}: ${missing}`);
        const others = { ...shard, files: shard.files.filter((file) => file.name !== name) };
        const unnamed = await failureOf(folder, corpus, others);
        assert.ok(unnamed instanceof TokenizerError && /expected a file /.test(unnamed.message), `${name}: ${unnamed}`);
        writeFileSync(path, whole);
      }
      assert.equal(await failureOf(folder, corpus, shard), undefined);
    }));

  test(`${format.name}: a changed byte fails as damage or changes a value alone, bytes past the end are refused`, () =>
    withFolder(async (folder) => {
      const corpus = corpusOf(format), shard = await writeShard(folder, format, corpus.facts, corpus.samples);
      let refused = 0;
      for (const { name, bytes } of shard.files) {
        const path = join(folder, name), whole = readFileSync(path);
        for (let at = 0; at < bytes; at += Math.max(1, Math.floor(bytes / 150))) {
          const changed = Uint8Array.from(whole);
          changed[at]! ^= 1 << (at % 8);
          writeFileSync(path, changed);
          let error: unknown;
          try {
            await readShard(folder, corpus.format, shard, corpus.facts);
          } catch (cause) {
            error = cause;
          }
          if (error === undefined) continue;
          refused++;
          assert.ok(error instanceof TokenizerError, `${name} at ${at}: ${error}`);
          assert.equal(error.code, "TOKEN_FILE", error.message);
        }
        writeFileSync(path, Buffer.concat([whole, Buffer.alloc(512)]));
        const longer = await failureOf(folder, corpus, recommitted(folder, shard));
        assert.ok(longer instanceof TokenizerError && longer.code === "TOKEN_FILE", `${name} longer: ${longer}`);
        writeFileSync(path, whole);
      }
      assert.ok(refused > 20, `${refused} changes were seen`);
    }));

  test(`${format.name}: another corpus's shard and another number of samples are refused`, () =>
    withFolder(async (folder) => {
      const { facts, samples } = corpusOf(format), shard = await writeShard(folder, format, facts, samples);
      const read = (other: Partial<CorpusFacts>) => readShard(folder, format, shard, { ...facts, ...other });
      if (!["megatron", "1x", "npy"].includes(format.name)) { // whose facts are the plan's alone
        await rejects(() => read({ model: "another" }), "TOKEN_FILE", /another/);
        await rejects(() => read({ sha256: "f".repeat(64) }), "TOKEN_FILE", /ffff/);
      }
      const { quantizer: _, ...continuous } = facts;
      if (facts.quantizer) {
        await rejects(() => readShard(folder, format, shard, continuous), "TOKEN_FILE", /^shard 00002: /);
      }
      for (const numSamples of [3, 5]) {
        await rejects(() => readShard(folder, format, { ...shard, numSamples }, facts), "TOKEN_FILE", /^shard 00002/);
      }
    }));
}

/** Replaces text in a file of a shard, of which there must be some. */
function edit(folder: string, name: string, from: string | RegExp, to: string): void {
  const path = join(folder, name), before = readFileSync(path, "latin1"), after = before.replace(from, to);
  assert.notEqual(after, before, `${from} in ${name}`);
  writeFileSync(path, after, "latin1");
}

test("records that lie: each is refused in its own words", () =>
  withFolder(async (folder) => {
    const format = shardFormat("megatron"),
      facts = factsOf("pictures", "uint16"),
      samples = samplesOf("pictures", facts);
    const shard = await writeShard(folder, format, facts, samples);
    const whole = readFileSync(join(folder, "00002.jsonl"));
    const lies: [from: string | RegExp, to: string, text: RegExp][] = [
      ['"height":13', '"height":130', /picture: expected to lie inside 32x16 pixels, found/],
      ['"height":13,', "", /height: expected a positive whole number, found nothing/],
      ['"top":1', '"top":-1', /top: expected a whole number/],
      ['"shape":[2,4]', '"shape":[2,40]', /picture|bytes|expected/],
      ['"shape":[2,4]', '"shape":[4,2]', /picture: expected to lie inside 16x32/],
      ['"shape":[2,4]', '"shape":[0,4]', /shape: expected positive whole numbers/],
      ['"shape":[2,4],', "", /shape: expected that of its tokens/],
      ['"original_height":26', '"original_height":0', /original_height/],
      ['"flipped":true', '"flipped":"yes"', /flipped/],
      ['"bucket":"24x16"', '"bucket":"24x16","more":1', /[Uu]nrecognized key/],
      ['"key":"7"', '"key":"a.b"', /key: expected characters/],
      ['"key":"7"', '"key":"folder__photo"', /key: expected each once/],
      ['"key":"7"', '"key":7', /key/],
      ['"top":1', '"frames":17,"top":1', /frames: expected none beside a picture/],
      ['"base64":"', '"base64":"*', /seg\.png: expected base64/],
      ['{"base64":', '{"base65":', /expected a text or \{ base64 \}/],
      ['"txt":', '"../txt":', /sidecars: expected fields such as txt/],
      [/$/, '{"key":"more"}\n', /expected/],
      [/\n$/, "", /expected a newline at its end/],
      [/^\{/, "", /line 1: expected JSON/],
      [/^.*\n/, "null\n", /expected a JSON object a line/],
    ];
    for (const [from, to, text] of lies) {
      edit(folder, "00002.jsonl", from, to);
      await rejects(() => readShard(folder, format, recommitted(folder, shard), facts), "TOKEN_FILE", text);
      writeFileSync(join(folder, "00002.jsonl"), whole);
    }
    assert.equal((await readShard(folder, format, shard, facts)).length, samples.length);
  }));

test("an index outside the codebook is refused by its place", () =>
  withFolder(async (folder) => {
    const format = shardFormat("megatron"), facts = factsOf("pictures", "uint16");
    const shard = await writeShard(folder, format, facts, samplesOf("pictures", facts));
    const path = join(folder, "00002.bin"), bin = readFileSync(path);
    bin.writeUInt16LE(64000, 2);
    writeFileSync(path, bin);
    const text = /^shard 00002: folder__photo: indices\[0, 0, 1\]: expected an index from 0 to 63999, found 64000$/;
    await rejects(() => readShard(folder, format, shard, facts), "TOKEN_FILE", text);
  }));

test("tars of other hands: members that are missing, doubled, moved or of another kind are refused", () =>
  withFolder(async (folder) => {
    const format = shardFormat("webdataset"),
      facts = factsOf("pictures", "uint16"),
      samples = samplesOf("pictures", facts);
    const shard = await writeShard(folder, format, facts, samples.slice(1, 3));
    const path = join(folder, "00002.tar"), whole = readFileSync(path), last = tarStart(whole, "7.npy");
    const json = whole.subarray(last + 1024, whole.length - 1024), npy = whole.subarray(last, last + 1024);
    const head = whole.subarray(0, last),
      end = Buffer.alloc(1024),
      link = Buffer.from(tarMember("7.npy", new Uint8Array(0)));
    link[156] = 0x32; // a symbolic link, whose checksum is no more right
    const lies: [name: string, tar: Uint8Array[], text: RegExp][] = [
      ["no tokens", [head, json, end], /7: expected the members npy and json first, found "json"/],
      ["no record", [head, npy, end], /found "npy"/],
      ["another order", [head, json, npy, end], /found "json and npy"/],
      ["a member before", [head, tarMember("7.txt", Buffer.from("x")), npy, json, end], /found "txt and npy"/],
      ["doubled", [head, npy, npy, json, end], /found "npy and npy"/],
      ["a name without a field", [head, npy, json, tarMember("README", end), end], /README: expected a name KEY.FIELD/],
      ["a link", [head, npy, json, link, end], /a member's header as ctok writes it/],
      [
        "a sample more",
        [head, npy, json, tarMember("8.npy", end), end],
        /8: expected the members npy and json first, found "npy"/,
      ],
      ["no end", [head, npy, json], /expected 512 bytes at/],
      ["one block of zeros", [head, npy, json, end.subarray(512)], /expected 1024 bytes at/],
      ["data behind the end", [head, npy, json, end, npy], /two blocks of zeros and the end/],
      ["samples apart", [npy, json, head, npy, json, end], /offset|each once/],
    ];
    for (const [name, parts, text] of lies) {
      writeFileSync(path, Buffer.concat(parts));
      const error = await rejects(
        () => readShard(folder, format, recommitted(folder, shard), facts),
        "TOKEN_FILE",
        text,
      );
      assert.ok(error, name);
    }
    writeFileSync(path, Buffer.concat([head, npy, json, end]));
    assert.equal((await readShard(folder, format, recommitted(folder, shard), facts)).length, 2);
    edit(folder, "00002.tar", '"image_height":8', '"image_height":9');
    await rejects(() => readShard(folder, format, shard, facts), "TOKEN_FILE", /7\.json: expected 7 of 8 by 8, found/);
  }));

/** Where a member's header begins. */
function tarStart(tar: Uint8Array, name: string): number {
  return Buffer.from(tar.buffer, tar.byteOffset, tar.length).indexOf(`${name}\0`);
}

test("parquet: a column that contradicts the record is refused", () =>
  withFolder(async (folder) => {
    const format = shardFormat("parquet"), facts = factsOf("pictures", "uint16");
    const shard = await writeShard(folder, format, facts, samplesOf("pictures", facts));
    const path = join(folder, "00002.parquet"), whole = readFileSync(path);
    const swap = (from: string, to: string) => {
      const at = whole.indexOf(from), changed = Buffer.from(whole);
      assert.ok(at > 0, from);
      changed.write(to, at);
      writeFileSync(path, changed);
    };
    const read = () => readShard(folder, format, shard, facts);
    swap("a cat, Ünïcode", "a dog, Ünïcode");
    await rejects(read, "TOKEN_FILE", /folder__photo: caption: expected "a cat, .*, found "a dog, /);
    swap("folder__photo", "folder__Photo");
    await rejects(read, "TOKEN_FILE", /expected/);
    writeFileSync(path, whole);
    assert.equal((await read()).length, 4);
  }));

test("a shard is read from where it lies now: a copy of its folder is the same corpus", () =>
  withFolder(async (folder) => {
    const format = shardFormat("safetensors"), facts = factsOf("latents", "bf16");
    const shard = await writeShard(folder, format, facts, samplesOf("latents", facts));
    cpSync(folder, `${folder}-copy`, { recursive: true });
    try {
      assert.equal((await readShard(`${folder}-copy`, format, shard, facts)).length, 4);
      truncateSync(join(`${folder}-copy`, "00002.safetensors"), 100);
      await rejects(
        () => readShard(`${folder}-copy`, format, shard, facts),
        "TOKEN_FILE",
        /as were committed, found 100$/,
      );
    } finally {
      rmSync(`${folder}-copy`, { recursive: true });
    }
  }));
