/**
 * The commit of a shard in S3, as commit.test.ts has it for a folder: killed by SIGKILL at each of its steps, and run
 * again, the corpus is that of a run in a folder that nobody disturbed, bit for bit. Two workers at one shard, whatever
 * bytes they make, leave one of them whole. And what a store alone can do: answers that are lost, come late, or say
 * 409.
 */
import assert from "node:assert/strict";
import { Buffer } from "node:buffer";
import { mkdtempSync, readFileSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import process from "node:process";
import { after, test } from "node:test";
import { runWith } from "../../src/corpus/dataset.ts";
import { openStorage } from "../../src/corpus/openstorage.ts";
import { limits } from "../../src/corpus/s3/upload.ts";
import { S3Storage } from "../../src/corpus/s3storage.ts";
import type { OnStep, Storage } from "../../src/corpus/storage.ts";
import { bucket, contentIn, type S3Server, withS3 } from "../s3server.ts";
import { rejects, root, withFolder } from "../support.ts";
import { plain } from "./plain.ts";
import { contentOf, madeCorpus, runWorker } from "./support.ts";
import { about, attempt, committedText, steps } from "./tries.ts";

const out = `s3://${bucket}/some/where`, below = "some/where/";
const hours = 3_600_000;

/** Runs with a bucket of its own. */
function withBucket(use: (server: S3Server, folder: string) => Promise<void>): Promise<void> {
  return withFolder((folder) => withS3(folder, (server) => use(server, folder)));
}

/** That nothing is left of tries. */
function checkTidy(server: S3Server): void {
  assert.deepEqual(server.keys(`${below}.ctok/`), []);
  assert.deepEqual([...server.uploads], []);
}

/**
 * What a run in a folder leaves that nobody disturbs, and pictures for all tests that are held against it: plans have
 * their paths.
 */
const top = mkdtempSync(join(tmpdir(), "ctok-test-"));
after(() => rmSync(top, { recursive: true, force: true }));
let undisturbed: Promise<Map<string, string>> | undefined;
const sizes = { numItems: 9, shardSize: 5 };
async function runUndisturbed(): Promise<Map<string, string>> {
  const path = join(top, "undisturbed");
  await madeCorpus(top, path, sizes);
  await runWith(plain, path);
  const content = contentOf(path);
  content.delete("plan.idx"); // which is this machine's
  return content;
}

for (const step of steps) {
  test(`killed at "${step}", then run again: the same corpus, nothing left`, () =>
    withBucket(async (server) => {
      const content = await (undisturbed ??= runUndisturbed());
      await madeCorpus(top, out, sizes);
      const { signal, lines, stderr } = await runWorker(out, step);
      assert.equal(signal, "SIGKILL", stderr);
      assert.equal(lines.at(-1)!.step, step);
      server.aheadMs = hours; // for the store; what the killed one has sent has come
      assert.ok((await runWith(plain, out)).isComplete);
      assert.deepEqual(contentIn(server, below), content);
      checkTidy(server);
    }));
}

/** Which try was committed, whole, with nothing left beside it. */
async function checkWhole(server: S3Server): Promise<string> {
  const text = await committedText(openStorage(out), (name) => server.objects.get(below + name)!.bytes);
  checkTidy(server);
  return text;
}

for (const step of steps.slice(1)) {
  test(`while one worker is at "${step}", another makes other bytes of the same shard, and a third tidies up`, () =>
    withBucket(async (server) => {
      const other = openStorage(out);
      let isOthers: boolean | undefined;
      const onStep: OnStep = async (at) => {
        if (at !== step || isOthers !== undefined) return;
        isOthers = false;
        const late = await attempt(other, "other");
        [isOthers] = await Promise.all([late.commit(about), openStorage(out).settle("00000"), other.settle("00000")]);
      };
      const isOurs = await (await attempt(openStorage(out, { onStep }), "ours")).commit(about);
      assert.notEqual(isOthers, undefined);
      assert.equal(isOurs, !isOthers, "one of them committed");
      assert.equal(await checkWhole(server), isOurs ? "ours" : "other");
    }));
}

/** As one that had looked before another's commit, and decided after it. */
function decideLate(server: S3Server): void {
  const name = "00000-abc-1-f", files = [{ name: "00000.bin", bytes: 5, sha256: "0".repeat(64) }];
  server.put(`${below}.ctok/pending/${name}/f-00000.bin`, "later");
  server.put(`${below}.ctok/decided/00000.json`, JSON.stringify({ name, id: "f", entry: { stem: "00000", files } }));
}

test("who comes behind a commit drops its own, also where it was stopped before it looked", () =>
  withBucket(async (server) => {
    const storage = openStorage(out), [first, late] = [await attempt(storage, "first"), await attempt(storage, "late")];
    assert.equal(await first.commit(about), true);
    assert.equal(await late.commit(about), false);
    assert.equal(await checkWhole(server), "first");
    decideLate(server);
    await openStorage(out).recover();
    assert.equal(await checkWhole(server), "first");
  }));

test("who looked before a commit does not place what a late one decided after it", () =>
  withBucket(async (server) => {
    const winner = openStorage(out, {
      onStep: async (step) => {
        if (step === "decided") await new Stale(out).settle("00000");
      },
    });
    /** Between its look and what follows, the winner's shard is committed and another one is decided. */
    class Stale extends S3Storage {
      #isFirst = true;
      override async isCommitted(stem: string): Promise<boolean> {
        const was = await super.isCommitted(stem);
        if (this.#isFirst) {
          this.#isFirst = false;
          await openStorage(out).settle(stem);
          decideLate(server);
        }
        return was;
      }
    }
    assert.equal(await (await attempt(winner, "first")).commit(about), true);
    server.aheadMs = 25 * hours; // the late one was killed: what it had sent is nobody's, until it is old
    await openStorage(out).recover();
    assert.equal(await checkWhole(server), "first");
  }));

/** The kinds of request of a commit. */
const kinds = ["Put", "PutNew", "Copy", "Head", "Get", "Delete", "List"];
const faults = {
  "the answer is lost": { reset: "after" },
  "the request is lost": { reset: "before" },
  "the store says 503": { status: 503, code: "SlowDown" },
  "the store says 409": { status: 409, code: "ConditionalRequestConflict" },
  "a copy fails after its 200": { status: 200, code: "InternalError" },
} as const;

for (const [name, fault] of Object.entries(faults)) {
  test(`${name}, once for every kind of request: the shard is whole, and ours`, () =>
    withBucket(async (server) => {
      const seen = new Set<string>(), isCopys = name.startsWith("a copy");
      server.fault = ({ what, key }) => {
        const where = `${what} ${key.replace(/[0-9a-f-]{20,}/, "")}`;
        if (seen.has(where) || isCopys && what !== "Copy") return undefined;
        seen.add(where);
        return fault;
      };
      assert.equal(await (await attempt(openStorage(out), "ours")).commit(about), true);
      server.fault = () => undefined;
      assert.equal(await checkWhole(server), "ours");
      const all = new Set([...seen].map((where) => where.split(" ")[0]));
      assert.deepEqual([...all].sort(), isCopys ? ["Copy"] : [...kinds].sort());
    }));
}

test("an answer that never comes is not waited for: it may be there, and is found", () =>
  withBucket(async (server) => {
    process.env.CTOK_S3_TIMEOUT = "2";
    let isFirst = true;
    // The decision is written, but its writer hears of it neither in time nor ever.
    server.fault = ({ what, key }) => {
      if (what !== "PutNew" || !key.includes("decided") || !isFirst) return undefined;
      isFirst = false;
      return { silent: "after" };
    };
    assert.equal(await (await attempt(openStorage(out), "ours")).commit(about), true);
    assert.equal(await checkWhole(server), "ours");
  }));

test("large files go in parts, each checked; a part that fails leaves none; copies of large ones, too", async () => {
  const before = { ...limits };
  try {
    Object.assign(limits, { partBytes: 1000, copyBytes: 3000, copyPartBytes: 1500 });
    await withBucket(async (server) => {
      const content = "0123456789".repeat(512);
      const make = async (storage: Storage) => {
        const one = await storage.begin("00000", 0);
        for (const suffix of [".bin", ".idx"]) await (await one.create(suffix)).write(Buffer.from(content + suffix));
        return one;
      };
      let isBroken = true, numParts = 0;
      server.fault = ({ what }) =>
        what === "UploadPart" && ++numParts > 3 && isBroken ? { status: 403, code: "AccessDenied" } : undefined;
      const one = await make(openStorage(out));
      await rejects(
        () => one.commit(about),
        "ARGUMENT",
        /expected 127\.0\.0\.1:\d+ to answer PUT, found 403, AccessDenied: the credentials/,
      );
      await one.discard();
      checkTidy(server);
      isBroken = false;
      numParts = 0;
      server.fault = ({ what }) => { // as one that was started again in between, and has lost what was begun
        if (what === "UploadPart" && ++numParts === 3) server.uploads.clear();
        return undefined;
      };
      assert.equal(await (await make(openStorage(out))).commit(about), true);
      assert.equal(await checkWhole(server), content);
      assert.ok(server.requests.some(({ what }) => what === "CopyPart"));
      assert.match(server.objects.get(`${below}00000.bin`)!.etag, /-4"$/);
    });
  } finally {
    Object.assign(limits, before);
  }
});

test("a store that tells no hashes is read back", () =>
  withBucket(async (server) => {
    server.tellsNoHashes = true;
    assert.equal(await (await attempt(openStorage(out), "ours")).commit(about), true);
    assert.equal(await checkWhole(server), "ours");
    assert.ok(server.requests.some(({ what, key }) => what === "Get" && key === `${below}00000.bin`));
  }));

test("what killed workers have left goes when it is old, by the store's clock, and not before", () =>
  withBucket(async (server) => {
    const left = `${below}.ctok/pending/00000-0123456789ab-7-aa/aa-00000.bin`;
    server.put(left, "x");
    server.uploads.set("u1", { key: left, meta: {}, begunMs: server.now.getTime(), parts: new Map() });
    server.aheadMs = 23 * hours;
    await openStorage(out).recover();
    assert.deepEqual([server.keys(), [...server.uploads.keys()]], [[left], ["u1"]]);
    server.aheadMs = 25 * hours;
    await openStorage(out).recover();
    checkTidy(server);
  }));

test("a decided shard whose file is neither there nor placed is told, not committed", () =>
  withBucket(async (server) => {
    const storage = openStorage(out, {
      onStep: (step) => {
        if (step === "decided") throw new Error("as if killed");
      },
    });
    await assert.rejects((await attempt(storage, "lost")).commit(about), /as if killed/);
    for (const key of server.keys(`${below}.ctok/pending`)) if (key.endsWith(".bin")) server.objects.delete(key);
    const text =
      /s3:\/\/corpora\/some\/where\/00000\.bin: expected an object of 8 bytes with sha256 [0-9a-f]{64}, found "none"/;
    await rejects(() => openStorage(out).recover(), "FILE_IO", text);
    assert.equal(await openStorage(out).isCommitted("00000"), false);
  }));

test("a try that is dropped leaves nothing; one that is committing is not dropped", () =>
  withBucket(async (server) => {
    await (await attempt(openStorage(out), "dropped")).discard();
    checkTidy(server);
    const one = await attempt(openStorage(out), "kept"), committing = one.commit(about);
    await one.discard();
    assert.equal(await committing, true);
    assert.equal(await checkWhole(server), "kept");
  }));

test("notes are whole, and the first of a name stays, also where its answer was lost", () =>
  withBucket(async (server) => {
    const storage = openStorage(out), bytes = (text: string) => new TextEncoder().encode(text);
    let numLost = 0;
    server.fault = ({ what }) => what === "PutNew" && numLost++ < 3 ? { reset: "after" } : undefined;
    assert.equal(await storage.note("split.json"), undefined);
    assert.deepEqual(await storage.notes("parked"), []);
    const wins = await Promise.all(["a", "b", "c"].map((text) => storage.writeNote("split.json", bytes(text))));
    assert.deepEqual(wins.filter(Boolean).length, 1);
    assert.equal(Buffer.from((await storage.note("split.json"))!).toString(), "abc"[wins.indexOf(true)]);
    await storage.writeNote("parked/00002", bytes("x"));
    assert.deepEqual(await storage.notes("parked"), ["parked/00002"]);
    await storage.removeNote("parked/00002");
    assert.deepEqual(await storage.notes("parked"), []);
  }));

test("what a shard costs in requests, as docs/dataset_s3.md says", () =>
  withBucket(async (server, folder) => {
    const counted = async (numShards: number) => {
      const here = `${out}-${numShards}`;
      await madeCorpus(folder, here, { numItems: 2 * numShards, shardSize: 2 });
      const from = server.requests.length;
      await runWith(plain, here);
      const all = new Map<string, number>();
      for (const { what } of server.requests.slice(from)) all.set(what, (all.get(what) ?? 0) + 1);
      return all;
    };
    const [few, more] = [await counted(2), await counted(5)];
    const each = [...more].map(([what, count]) => [what, (count - few.get(what)!) / 3] as const).filter(([, count]) =>
      count > 0
    );
    const wanted = { Get: 3, Head: 4, Put: 1, PutNew: 2, Copy: 1, List: 1, Delete: 2 };
    assert.deepEqual(Object.fromEntries(each.sort()), Object.fromEntries(Object.entries(wanted).sort()));
    const ofFiles = async (suffixes: readonly string[]) => {
      const one = await openStorage(`${out}-${suffixes.length}-files`).begin("00000", 0), from = server.requests.length;
      for (const suffix of suffixes) await (await one.create(suffix)).write(Buffer.from(suffix));
      await one.commit(about);
      return server.requests.slice(from).map(({ what }) => what);
    };
    const [one, two] = [await ofFiles([".bin"]), await ofFiles([".bin", ".idx"])];
    for (const what of one) two.splice(two.indexOf(what), 1);
    assert.deepEqual(two.sort(), ["Copy", "Delete", "Head", "Put"]);
    const text = readFileSync(join(root, "docs/dataset_s3.md"), "utf8");
    assert.ok(text.includes("| a shard of one file | 3 | 4 | 3 | 1 | 1 | 2 |"));
    assert.ok(text.includes("| each further file | | 1 | 1 | 1 | | 1 |"));
    const begins = [...few.values()].reduce((sum, count) => sum + count) - 2 * 14;
    assert.ok(text.includes(`A run has ${begins} requests beside those`), `${begins}`);
  }));
