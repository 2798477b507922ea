/**
 * A corpus in S3 from the plan to what is read back: credentials, stores that are refused, plans of two machines,
 * workers of two machines, a store that goes away in the middle of a run, and verbs that read.
 */
import assert from "node:assert/strict";
import { Buffer } from "node:buffer";
import { copyFileSync, mkdirSync, readdirSync, readFileSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import process from "node:process";
import { test } from "node:test";
import {
  type DatasetEvent,
  datasetSample,
  datasetStats,
  datasetStatus,
  planDataset,
  readDataset,
  runDataset,
  shardFormats,
  verifyDataset,
} from "mod.ts";
import { planWith, runWith } from "../../src/corpus/dataset.ts";
import { openStorage } from "../../src/corpus/openstorage.ts";
import { S3Client } from "../../src/corpus/s3/client.ts";
import { S3Requests } from "../../src/corpus/s3/request.ts";
import { limits } from "../../src/corpus/s3/upload.ts";
import { findFfmpeg } from "../../src/media/ffmpeg.ts";
import { s3Settings } from "../../src/corpus/s3/settings.ts";
import { accessKeyId, bucket, type S3Server, secretAccessKey, withS3 } from "../s3server.ts";
import { rejects, root, withFolder } from "../support.ts";
import { plain } from "./plain.ts";
import { contentOf, madeCorpus, pictures, runWorker } from "./support.ts";

const out = `s3://${bucket}/tokens`, media = join(root, "examples/media");

function withBucket(use: (server: S3Server, folder: string) => Promise<void>): Promise<void> {
  return withFolder((folder) => withS3(folder, (server) => use(server, folder)));
}

/** Runs with other variables of the environment. */
async function withVariables(
  values: Record<string, string | undefined>,
  use: () => Promise<void> | void,
): Promise<void> {
  const before = Object.keys(values).map((name) => [name, process.env[name]] as const);
  const set = (name: string, value: string | undefined) => {
    if (value === undefined) delete process.env[name];
    else process.env[name] = value;
  };
  for (const [name, value] of Object.entries(values)) set(name, value);
  try {
    await use();
  } finally {
    for (const [name, value] of before) set(name, value);
  }
}

test("where a bucket is and who asks: the variables and files of the AWS tools", () =>
  withFolder(async (folder) => {
    const files = { AWS_SHARED_CREDENTIALS_FILE: join(folder, "credentials"), AWS_CONFIG_FILE: join(folder, "config") };
    const none = Object.fromEntries([
      ...[
        "AWS_ACCESS_KEY_ID",
        "AWS_SECRET_ACCESS_KEY",
        "AWS_SESSION_TOKEN",
        "AWS_PROFILE",
        "AWS_REGION",
        "AWS_DEFAULT_REGION",
      ],
      ...["AWS_ENDPOINT_URL", "AWS_ENDPOINT_URL_S3"],
    ].map((name) => [name, undefined]));
    await withVariables({ ...none, ...files }, async () => {
      const nothing = await rejects(
        s3Settings,
        "ARGUMENT",
        /AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, or for the profile default/,
      );
      for (const path of Object.values(files)) assert.ok(nothing.message.includes(path));
      const text = "[default]\naws_access_key_id = A1\naws_secret_access_key=S1\n" +
        "[ other ]\naws_access_key_id=A2\naws_secret_access_key = S2\naws_session_token = T2\n";
      writeFileSync(files.AWS_SHARED_CREDENTIALS_FILE, text);
      writeFileSync(
        files.AWS_CONFIG_FILE,
        "[default]\nregion = eu-west-3\n[profile other]\nregion=us-west-2\nendpoint_url = http://127.0.0.1:1/\n",
      );
      assert.deepEqual(s3Settings(), {
        ...{ endpoint: undefined, region: "eu-west-3", timeoutMs: 30_000 },
        credentials: { accessKeyId: "A1", secretAccessKey: "S1" },
      });
      const host = (bucket: string) => new S3Requests(bucket, s3Settings()).host;
      assert.deepEqual([host("photos"), host("my.photos")], [
        "photos.s3.eu-west-3.amazonaws.com",
        "s3.eu-west-3.amazonaws.com",
      ]);
      await withVariables({ AWS_PROFILE: "other", AWS_REGION: "eu-north-1" }, () => {
        assert.deepEqual(s3Settings(), {
          ...{ endpoint: "http://127.0.0.1:1", region: "eu-north-1", timeoutMs: 30_000 },
          credentials: { accessKeyId: "A2", secretAccessKey: "S2", sessionToken: "T2" },
        });
        assert.equal(host("photos"), "127.0.0.1:1");
      });
      await withVariables({ AWS_ACCESS_KEY_ID: "A3", AWS_SECRET_ACCESS_KEY: "S3" }, () => {
        assert.deepEqual(s3Settings().credentials, { accessKeyId: "A3", secretAccessKey: "S3" });
      });
      await withVariables({ AWS_PROFILE: "third" }, () =>
        rejects(s3Settings, "ARGUMENT", /the profile third \(AWS_PROFILE\)/).then(() => {}));
    });
  }));

test("credentials that are wrong are told without them; those that run out are read again", () =>
  withBucket(async (server, folder) => {
    const get = () => S3Client.of(bucket).get("nothing");
    await withVariables({ AWS_SECRET_ACCESS_KEY: "a-wrong-secret" }, async () => {
      const told = await rejects(
        get,
        "ARGUMENT",
        /SignatureDoesNotMatch: the secret key is not that of the access key/,
      );
      assert.doesNotMatch(told.message, /a-wrong-secret|AWS4-HMAC|AKID/);
    });
    await withVariables({ AWS_REGION: "us-west-1" }, async () => {
      await rejects(
        get,
        "ARGUMENT",
        /AuthorizationHeaderMalformed: the bucket is in eu-test-1 \(AWS_REGION says us-west-1\)/,
      );
    });
    const file = join(folder, "credentials");
    const write = (token: string) =>
      writeFileSync(
        file,
        `[default]\naws_access_key_id=${accessKeyId}\naws_secret_access_key=${secretAccessKey}\n` +
          `aws_session_token=${token}\n`,
      );
    const own = { AWS_ACCESS_KEY_ID: undefined, AWS_SECRET_ACCESS_KEY: undefined, AWS_SHARED_CREDENTIALS_FILE: file };
    await withVariables(own, async () => {
      write("first"), server.sessionToken = "first";
      assert.equal(await get(), undefined);
      server.sessionToken = "second";
      await rejects(get, "ARGUMENT", /ExpiredToken: the credentials have run out/);
      write("second");
      assert.equal(await get(), undefined);
      write("third"), server.sessionToken = "third";
      assert.equal(await openStorage(out).isCommitted("00000"), false, "a HEAD has no body that says why");
    });
  }));

test("a store that breaks its promises is refused before any work, and nothing of the question stays", async () => {
  const cases: [RegExp, (server: S3Server) => void][] = [
    [
      /to write only where nothing is \(If-None-Match: \*\), found "?that it replaced/,
      (server) => server.ignoresIfNoneMatch = true,
    ],
    [/to write where nothing is \(If-None-Match: \*\), found "?an error \(501\)/, (server) => {
      server.fault = ({ what }) => what === "PutNew" ? { status: 501, code: "NotImplemented" } : undefined;
    }],
    [/to refuse bytes that are not those of their hash/, (server) => server.ignoresHashes = true],
    [/to copy an object/, (server) => {
      server.fault = ({ what }) => what === "Copy" ? { status: 404, code: "NoSuchKey" } : undefined;
    }],
  ];
  for (const [text, break_] of cases) {
    await withBucket(async (server, folder) => {
      await madeCorpus(folder, out, { numItems: 3 });
      const before = server.keys();
      break_(server);
      const told = await rejects(() => runWith(plain, out), "UNSUPPORTED", text);
      assert.match(told.message, /expected 127\.0\.0\.1:\d+ .*take a newer version of the store, another one/);
      const other = () => planWith(plain, { inputs: [join(folder, "pictures-3")], out: `${out}-2` }, {});
      await rejects(other, "UNSUPPORTED", text);
      assert.deepEqual(server.keys(), before);
    });
  }
});

test("a plan is written once: another's is kept, the same is the same, the copy here is looked at", () =>
  withBucket(async (server, folder) => {
    await madeCorpus(folder, out, { numItems: 3 });
    const plan = await openStorage(out).plan(), key = "tokens/plan.jsonl", bytes = server.objects.get(key)!.bytes;
    // Planned at the same time on two machines: each saw none.
    const race = async (numItems: number) => {
      const inputs = [await pictures(folder, numItems)];
      server.objects.delete(key);
      server.fault = ({ what, key: at }) => {
        if (what === "PutNew" && at === key) server.put(key, bytes);
        return undefined;
      };
      try {
        return await planWith(plain, { inputs, out }, {});
      } finally {
        server.fault = () => undefined;
      }
    };
    assert.equal((await race(3)).id, plan.id);
    const both = new RegExp(
      `expected no other plan than ours, [0-9a-f]{64} \\(2 items, nano-DI8x8\\), found ${plan.id} \\(3 items`,
    );
    await rejects(() => race(2), "ARGUMENT", both);
    assert.deepEqual(server.objects.get(key)!.bytes, bytes);

    const asked = () => server.requests.filter(({ what, key: at }) => what === "Get" && at === key).length;
    const [before, copy] = [asked(), (await openStorage(out).plan()).path];
    assert.equal(asked(), before, "the copy is taken");
    writeFileSync(copy, readFileSync(copy, "utf8").replace("00001.png", "00000.png"));
    assert.deepEqual((await (await openStorage(out).plan()).items(0)).map(({ key }) => key), [
      "00000",
      "00001",
      "00002",
    ]);
    assert.equal(asked(), before + 1, "a damaged copy is not");
    await rejects(
      () => planWith(plain, { inputs: [join(folder, "pictures-2")], out }, {}),
      "ARGUMENT",
      /^s3:\/\/corpora\/tokens\/plan\.jsonl: expected what is planned there, or another folder, found inputs: planned/,
    );
    await rejects(
      () => datasetStatus(`s3://${bucket}/none`),
      "FILE_MISSING",
      /s3:\/\/corpora\/none\/plan\.jsonl: expected a file, found/,
    );
  }));

test("a large plan goes in parts where the store writes those only where nothing is", async () => {
  const before = { ...limits };
  try {
    Object.assign(limits, { partBytes: 500, newBytes: 1000 });
    await withBucket(async (server, folder) => {
      await madeCorpus(folder, out, { numItems: 9 });
      assert.match(server.objects.get("tokens/plan.jsonl")!.etag, /-\d+"$/);
      assert.equal((await openStorage(out).plan()).header.numItems, 9);
      server.ignoresIfNoneMatchOfParts = true;
      const other = () => planWith(plain, { inputs: [join(folder, "pictures-9")], out: `${out}-2` }, {});
      await rejects(
        other,
        "UNSUPPORTED",
        /to end an upload in parts only where nothing is, as a plan of more than 1000 bytes needs/,
      );
      assert.deepEqual([server.keys("tokens-2/"), [...server.uploads]], [[], []]);
    });
  } finally {
    Object.assign(limits, before);
  }
});

for (const format of ["webdataset", "parquet", "megatron"]) {
  test(`${format}: from S3 to S3, and read back: what a folder gives`, () =>
    withBucket(async (server, folder) => {
      assert.ok(shardFormats.has(format));
      const photos = join(folder, "photos"), local = join(folder, "local");
      mkdirSync(photos);
      copyFileSync(join(media, "cat.png"), join(photos, "cat.png"));
      copyFileSync(join(media, "coffee.jpg"), join(photos, "coffee.jpg"));
      writeFileSync(join(photos, "cat.txt"), "a cat"), writeFileSync(join(photos, "broken.jpg"), "no picture");
      for (const name of readdirSync(photos)) server.put(`photos/${name}`, readFileSync(join(photos, name)));
      const options = { format, shardSize: 2, size: 64 };
      const there = { inputs: [`s3://${bucket}/photos/`], out }, here = { inputs: [photos], out: local };
      for (const places of [there, here]) await planDataset({ ...places, ...options });
      const [done, wanted] = [await runDataset(out), await runDataset(local)];
      assert.deepEqual(done.committed, wanted.committed);
      assert.deepEqual(done.quarantined.map(({ key, code }) => [key, code]), [["broken", "IMAGE"]]);
      assert.ok(done.isComplete);
      const verified = await verifyDataset(out, { samples: 2 });
      assert.deepEqual([verified.problems, verified.numSamples, verified.decoded.length], [[], 2, 2]);
      assert.ok(verified.decoded.every(({ psnr }) => psnr! > 15), "the originals are read from S3");
      assert.deepEqual(await datasetStats(out), await datasetStats(local));
      const samples = async (at: string) =>
        (await Array.fromAsync(readDataset(at))).map(({ key, facts, tokens, sidecars }) => ({
          key,
          facts,
          data: [...tokens.main.data],
          sidecars,
        }));
      assert.deepEqual(await samples(out), await samples(local));
      assert.equal((await datasetSample(out, "coffee")).facts.fileName, "coffee.jpg");
      const file = server.keys("tokens/00000.").find((key) => !key.endsWith(".idx"))!,
        bytes = Uint8Array.from(server.objects.get(file)!.bytes);
      bytes[bytes.length >> 1]! ^= 1;
      server.put(file, bytes);
      assert.match(
        (await verifyDataset(out, { samples: 0 })).problems.join(),
        /expected sha256 [0-9a-f]{64}, found [0-9a-f]{64}/,
      );
    }));
}

const noFfmpeg = await findFfmpeg().then(
  () => false as const,
  () => "no FFmpeg: none in CTOK_FFMPEG, PATH, or the npm package",
);

test("clips of a video in S3 are those of the file", { skip: noFfmpeg }, () =>
  withBucket(async (server, folder) => {
    const cars = join(media, "cars.mp4"), local = join(folder, "local");
    server.put("videos/cars.mp4", readFileSync(cars));
    const options = { model: "nano-DV4x8x8", size: 32, frames: 36, clipFrames: 17 };
    for (const [input, at] of [[`s3://${bucket}/videos/cars.mp4`, out], [cars, local]] as const) {
      await planDataset({ inputs: [input], out: at, ...options });
      assert.deepEqual((await runDataset(at)).quarantined, []);
    }
    const data = async (at: string) =>
      (await Array.fromAsync(readDataset(at))).map(({ key, tokens }) => [key, tokens.main.data.join()]);
    assert.deepEqual(await data(out), await data(local));
    const whole = planDataset({
      inputs: [`s3://${bucket}/videos/`],
      out: `${out}-2`,
      ...options,
      foldersAreVideos: true,
    });
    await rejects(() => whole, "ARGUMENT", /expected at least one video, found "none, and 1 refused"/);
  }));

test("workers of two machines, a store that is often busy: as if nothing had been", () =>
  withBucket(async (server, folder) => {
    const local = join(folder, "local");
    for (const path of [local, out]) await madeCorpus(folder, path, { numItems: 24, shardSize: 3 });
    await runWith(plain, local);
    let count = 0;
    server.fault = () =>
      [undefined, undefined, { reset: "after" }, undefined, { status: 503 }, { lateMs: 20 }, {
        reset: "before",
      }][++count % 7] as undefined;
    const workers = [1, 2].map((machine) => runWorker(out, "", `XDG_CACHE_HOME=${join(folder, `machine-${machine}`)}`));
    for (const { code, stderr } of await Promise.all(workers)) assert.equal(code, 0, stderr);
    server.fault = () => undefined;
    assert.ok((await runWith(plain, out)).isComplete);
    const content = contentOf(local);
    assert.deepEqual(
      server.keys("tokens/"),
      [...content.keys()].filter((name) => name !== "plan.idx").map((name) => `tokens/${name}`),
    );
    for (const [name, sha256] of content) {
      if (name !== "plan.idx") assert.equal(hashIn(server, `tokens/${name}`), sha256, name);
    }
  }));

function hashIn(server: S3Server, key: string): string {
  return Buffer.from(server.objects.get(key)!.sha256, "base64").toString("hex");
}

test("cut off from the store: the run ends in its time, and a later one completes", () =>
  withBucket(async (server, folder) => {
    await madeCorpus(folder, out, { numItems: 12, shardSize: 2 });
    process.env.CTOK_S3_TIMEOUT = "2";
    let isGone = false, goneMs = 0;
    server.fault = () => isGone ? { silent: "before" } : undefined;
    const onEvent = ({ event }: DatasetEvent) => {
      if (event === "shard" && !isGone) isGone = true, goneMs = performance.now();
    };
    const error = await rejects(
      () => runWith(plain, out, { onEvent }),
      "FILE_IO",
      /found none for 2 s \(CTOK_S3_TIMEOUT\), in \d tries/,
    );
    assert.equal(error.detail, 110);
    assert.ok(performance.now() - goneMs >= 3 * 2000, "it was asked again and again");
    server.fault = () => undefined;
    assert.ok((await runWith(plain, out)).isComplete);
  }));

test("a run that is cancelled does not wait for the store", () =>
  withBucket(async (server, folder) => {
    await madeCorpus(folder, out, { numItems: 6, shardSize: 2 });
    const abort = new AbortController();
    process.env.CTOK_S3_TIMEOUT = "600";
    server.fault = ({ what }) => {
      if (what !== "PutNew") return undefined;
      abort.abort();
      return { silent: "before" };
    };
    await rejects(() => runWith(plain, out, { signal: abort.signal }), "CANCELLED", /cancelled/);
    process.env.CTOK_S3_TIMEOUT = "30";
    server.fault = () => undefined;
    assert.ok((await runWith(plain, out)).isComplete);
  }));
