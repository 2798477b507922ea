/** Tries at one shard, for the tests of its commit: in a folder (commit.test.ts) and in S3 (s3commit.test.ts). */
import assert from "node:assert/strict";
import { Buffer } from "node:buffer";
import { createHash } from "node:crypto";
import type { Attempt, CommitStep, Storage } from "../../src/corpus/storage.ts";

/** Of a commit, in their order. */
export const steps: CommitStep[] = [
  ...["begun", "written", "entered", "decided", "placing", "placed", "committed", "tidied"] as const,
];

/** What a try says of its shard. */
export const about = {
  plan: "p",
  arithmetic: { precision: "f32", kernels: "generic", versions: {} },
  numItems: 1,
  numSamples: 1,
  numTokens: 1,
  quarantined: [],
} as const;

/** A try at shard 0 whose two files begin with `text`. */
export async function attempt(storage: Storage, text: string): Promise<Attempt> {
  const one = await storage.begin("00000", 0);
  for (const suffix of [".bin", ".idx"]) await (await one.create(suffix)).write(Buffer.from(text + suffix));
  return one;
}

/** Which try was committed; that its shard is whole, and all of that one. `read` gives the bytes of a file. */
export async function committedText(storage: Storage, read: (name: string) => Uint8Array): Promise<string> {
  const { files } = await storage.entry("00000");
  assert.deepEqual(files.map(({ name }) => name), ["00000.bin", "00000.idx"]);
  const texts = files.map(({ name, bytes, sha256 }) => {
    const content = read(name);
    assert.deepEqual([content.length, createHash("sha256").update(content).digest("hex")], [bytes, sha256], name);
    return Buffer.from(content).toString().slice(0, -4);
  });
  assert.equal(new Set(texts).size, 1);
  return texts[0]!;
}
