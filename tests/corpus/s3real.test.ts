/**
 * The commit of shards in a store that is none of ours: CTOK_S3_TEST=s3://BUCKET/PREFIX names an empty place of it,
 * beside the AWS_ variables. Workers are killed at each step, two more go on as two machines, and the corpus is that of
 * a folder. Leaves nothing.
 */
import assert from "node:assert/strict";
import { createHash } from "node:crypto";
import { writeFileSync } from "node:fs";
import { join } from "node:path";
import process from "node:process";
import { test } from "node:test";
import { runWith } from "../../src/corpus/dataset.ts";
import { joinLocation, parseS3 } from "../../src/corpus/s3/address.ts";
import { S3Client } from "../../src/corpus/s3/client.ts";
import { copyObject, hashOfObject, limits, uploadFile } from "../../src/corpus/s3/upload.ts";
import { withFolder } from "../support.ts";
import { plain } from "./plain.ts";
import { contentOf, madeCorpus, runWorker } from "./support.ts";

const place = process.env.CTOK_S3_TEST, skip = place ? false : "no store: CTOK_S3_TEST names none";

async function withPlace(use: (client: S3Client, key: string, folder: string) => Promise<void>): Promise<void> {
  await withFolder(async (folder) => {
    const { bucket, key } = parseS3(joinLocation(place!, `test-${Date.now()}`)), client = S3Client.of(bucket);
    process.env.XDG_CACHE_HOME = join(folder, "cache");
    try {
      await use(client, key, folder);
    } finally {
      delete process.env.XDG_CACHE_HOME;
      for await (const { objects } of client.list(`${key}/`)) for (const one of objects) await client.remove(one.key);
    }
  });
}

test(
  "objects of odd names and of many parts: written once, read, copied, hashed",
  { skip },
  () =>
    withPlace(async (client, key, folder) => {
      const odd = `${key}/a b+é/ü&(1)*'.txt`, bytes = new TextEncoder().encode("content");
      assert.deepEqual([await client.putNew(odd, bytes), await client.putNew(odd, bytes)], [true, false]);
      assert.deepEqual(await client.get(odd), bytes);
      const { etag } = (await client.head(odd))!;
      assert.deepEqual(await client.range(odd, etag, 2, 3), bytes.subarray(2, 5));
      assert.equal(await client.range(odd, "0".repeat(32), 0, 1), undefined);
      assert.equal(await client.copy(`${key}/none`, `${key}/copy`, 1), false);
      const content = new Uint8Array(20 << 20).map((_, i) => i * 31 >> 8), file = join(folder, "large");
      writeFileSync(file, content);
      const sha256 = createHash("sha256").update(content).digest("hex"), before = { ...limits };
      try {
        Object.assign(limits, { copyBytes: 10 << 20, copyPartBytes: 10 << 20 });
        await uploadFile(client, file, `${key}/large`);
        assert.equal(await copyObject(client, `${key}/large`, `${key}/copy`, content.length), true);
        for (const one of ["large", "copy"]) {
          assert.equal(await hashOfObject(client, `${key}/${one}`, content.length), sha256);
        }
      } finally {
        Object.assign(limits, before);
      }
    }),
);

test(
  "killed at each step, and two machines: the corpus of a folder",
  { skip },
  () =>
    withPlace(async (client, key, folder) => {
      const local = join(folder, "local"), out = `s3://${client.bucket}/${key}`;
      for (const path of [local, out]) await madeCorpus(folder, path, { numItems: 48, shardSize: 2 });
      await runWith(plain, local);
      for (const step of ["written", "entered", "decided", "placing", "placed", "committed"]) {
        const { signal, stderr } = await runWorker(out, step);
        assert.equal(signal, "SIGKILL", `${step}: ${stderr}`);
      }
      const workers = [1, 2].map((machine) =>
        runWorker(out, "", `XDG_CACHE_HOME=${join(folder, `machine-${machine}`)}`)
      );
      for (const { code, stderr } of await Promise.all(workers)) assert.equal(code, 0, stderr);
      assert.ok((await runWith(plain, out)).isComplete);
      for (const [name, sha256] of contentOf(local)) {
        if (name === "plan.idx") continue;
        assert.equal(createHash("sha256").update((await client.get(`${key}/${name}`))!).digest("hex"), sha256, name);
      }
    }),
);
