/**
 * ctok dataset on s3://: planned, run and looked at by the command line, as a folder is; and how it ends where the
 * store does not.
 */
import assert from "node:assert/strict";
import { join } from "node:path";
import process from "node:process";
import { test } from "node:test";
import { writeImage } from "mod.ts";
import { noise } from "../corpus/support.ts";
import { bucket, withS3 } from "../s3server.ts";
import { sequence, withFolder } from "../support.ts";
import { ctok, ctokEnds, lines } from "./spawn.ts";

const out = `s3://${bucket}/tokens`;

test("a corpus in S3 from plan to cat", () =>
  withFolder((folder) =>
    withS3(folder, async (server) => {
      for (let i = 0; i < 3; i++) await writeImage(join(folder, `photo-${i}.png`), noise(16, 32, i));
      const run = (code: number, ...args: string[]) => ctokEnds(code, ["dataset", ...args], { cwd: folder });
      const { stdout } = await run(0, folder, "--out", out, "--shard-size", "2");
      assert.match(stdout, /^s3:\/\/corpora\/tokens: complete, 2 shards; 3 of 3 items/m);
      assert.deepEqual(server.keys("tokens/").filter((key) => key.endsWith(".tar")), [
        "tokens/00000.tar",
        "tokens/00001.tar",
      ]);
      assert.match((await run(0, "status", out)).stdout, /^s3:\/\/corpora\/tokens: complete, 2 shards/);
      assert.match((await run(0, "verify", out)).stdout, /as it was written, 2 shards, 3 samples/);
      const [cat] = lines((await run(0, "cat", out, "photo-2")).stdout) as { key: string; tokens: number[] }[];
      assert.deepEqual([cat!.key, cat!.tokens.length], ["photo-2", 8]);
      process.env.AWS_SECRET_ACCESS_KEY = "wrong";
      const { code, stderr } = await ctok(["dataset", "status", out], { cwd: folder });
      assert.equal(code, 1);
      assert.match(
        stderr,
        sequence(
          /^ctok: s3:\/\/corpora\/tokens\/plan\.jsonl: expected 127\.0\.0\.1:\d+ to answer HEAD, /,
          /found 403, SignatureDoesNotMatch: the secret/,
        ),
      );
    })
  ));
