/**
 * What becomes of a queue's Redis: stopped and back, full, emptied, two of them, gone; and a network that is. The
 * corpus bears it all.
 */
import assert from "node:assert/strict";
import { spawnSync } from "node:child_process";
import { readdirSync } from "node:fs";
import { type AddressInfo, connect, createServer } from "node:net";
import { join } from "node:path";
import process from "node:process";
import { test } from "node:test";
import { setTimeout } from "node:timers/promises";
import { datasetStatus, runWith } from "../../src/corpus/dataset.ts";
import { Queue } from "../../src/corpus/queue.ts";
import { plain } from "../corpus/plain.ts";
import { contentOf } from "../corpus/support.ts";
import { runtime, withFolder } from "../support.ts";
import { noRedis, RedisServer, until, withCorpus, WorkerProcess } from "./support.ts";

const skip = noRedis;
const numShards = (workers: readonly WorkerProcess[]) => workers.flatMap(({ shards }) => shards).length;

/** What a queue needs of a corpus, which is a set here; and what it says. */
function corpusOf(numShards: number) {
  const done = new Set<number>(), notes: string[] = [], none = () => Promise.resolve(new Set<number>());
  const park = () => Promise.reject(new Error("parked"));
  const options = { plan: "p", numShards, committed: () => Promise.resolve(done), parked: none, park };
  return { done, notes, options: { ...options, note: (text: string) => void notes.push(text) } };
}

test(
  "Redis is stopped for longer than locks last, and restarted: who holds a shard keeps it",
  { skip },
  () =>
    withFolder(async (folder) => {
      await using redis = await RedisServer.start(folder);
      const { done, notes, options } = corpusOf(2), lockMs = 2_000;
      await using one = await Queue.open(redis.url(), options);
      assert.equal(await one.next(), 0);
      await redis.stop();
      await until(() => notes.length === 1, "it misses Redis");
      await setTimeout(1.5 * lockMs);
      await redis.start();
      await until(() => notes.length === 2, "it has Redis back");
      await using two = await Queue.open(redis.url(), options);
      assert.equal(await two.next(), 1);
      // The other is looked for each third of a lock, and would be missed at the second look.
      await assert.rejects(two.next(AbortSignal.timeout(2 * lockMs)), "handed out twice");
      for (const [queue, index] of [[one, 0], [two, 1]] as const) done.add(index), queue.done(index);
      assert.deepEqual([await one.next(), await two.next()], [undefined, undefined]);
    }),
);

test("Redis goes away while a worker begins: it waits for it", { skip }, () =>
  withFolder(async (folder) => {
    await using redis = await RedisServer.start(folder);
    let isLost = false;
    const wire = createServer((near) => {
      const far = connect(redis.port, "127.0.0.1");
      let numAsked = 0; // by the client itself, to see whether Redis is ready; then by the queue
      near.on("data", (bytes) => {
        if (/\binfo\b/i.test(String(bytes)) && ++numAsked === 2 && !isLost) isLost = near.destroy().destroyed;
        else far.write(bytes);
      });
      far.on("data", (bytes) => near.write(bytes));
      for (const [one, other] of [[near, far], [far, near]] as const) {
        one.on("error", () => {}).on("close", () => other.destroy());
      }
    });
    await new Promise<void>((resolve) => wire.listen(0, "127.0.0.1", resolve));
    try {
      const { notes, options } = corpusOf(1);
      await using queue = await Queue.open(redis.url(undefined, (wire.address() as AddressInfo).port), options);
      assert.equal(await queue.next(), 0);
      assert.ok(isLost);
      assert.match(notes.join(), /found .*, and the run ends after 300 s of it,.* answers again/);
    } finally {
      wire.close();
    }
  }));

test(
  "a Redis that is full is told; what is in work goes on, and the rest when there is room",
  { skip },
  () =>
    withCorpus(24, async ({ out, whole, redis }) => {
      await using worker = new WorkerProcess({ out, queue: redis.url(), itemMs: 100 });
      await worker.says(() => worker.prepared.length > 0, "it works");
      redis.cli("config", "set", "maxmemory", "1");
      await worker.says(() => worker.events("note").length > 0, "it is told");
      assert.match(String(worker.events("note")[0]!.text), /OOM command not allowed/);
      await worker.says(() => worker.shards.length > 0, "what it held is committed");
      redis.cli("config", "set", "maxmemory", "0");
      assert.equal((await worker.end()).isComplete, true);
      assert.deepEqual(contentOf(out), whole);
    }),
);

test("a Redis that is emptied is filled again", { skip }, () =>
  withCorpus(40, async ({ out, whole, redis }) => {
    await using one = new WorkerProcess({ out, queue: redis.url(), itemMs: 50 });
    await using two = new WorkerProcess({ out, queue: redis.url(), itemMs: 50 });
    await one.says(() => one.shards.length > 0, "a shard is done");
    redis.cli("flushall");
    for (const worker of [one, two]) assert.equal((await worker.end()).isComplete, true);
    assert.equal(numShards([one, two]), 10);
    assert.deepEqual(contentOf(out), whole);
  }));

test(
  "two clusters with a Redis each work on one corpus",
  { skip },
  () =>
    withCorpus(40, ({ out, whole, redis }) =>
      withFolder(async (folder) => {
        await using other = await RedisServer.start(folder);
        await using one = new WorkerProcess({ out, queue: redis.url(), itemMs: 20 });
        await using two = new WorkerProcess({ out, queue: other.url(), itemMs: 30 });
        for (const worker of [one, two]) assert.equal((await worker.end()).isComplete, true);
        assert.equal(numShards([one, two]), 10);
        assert.deepEqual(contentOf(out), whole);
      })),
);

test(
  "Redis is gone for good: what is in work is committed, then the run ends with QUEUE, and a later one goes on",
  { skip },
  () =>
    withCorpus(24, async ({ out, whole, redis }) => {
      await using worker = new WorkerProcess({ out, queue: redis.url("lock=2&gone=3"), itemMs: 100 });
      await worker.says(() => worker.prepared.length > 0, "it works");
      await redis.stop();
      const { event, code, message } = await worker.end();
      assert.deepEqual([event, code], ["failed", "QUEUE"]);
      assert.match(String(message), /queue: expected redis:\/\/127\.0\.0\.1:\d+\/0 to answer within 3 s, found/);
      const { committed } = await datasetStatus(out);
      assert.equal(committed.numShards, worker.shards.length);
      assert.ok(committed.numShards > 0 && committed.numShards < 6, String(committed.numShards));
      assert.deepEqual(readdirSync(join(out, ".ctok/pending")), []);
      assert.ok((await runWith(plain, out)).isComplete); // with the ledger
      assert.deepEqual(contentOf(out), whole);
    }),
);

const onlyOnce = runtime === "bun"
  ? false
  : "once, beside Bun's tests: the wire of queue.test.ts is cut on each runtime";

/**
 * Why no network of our own may be made here, or false. Its two ends are 10.203.77.1, here, and .2, in the namespace.
 */
function makeNetwork(name: string): string | false {
  const commands = [
    `netns add ${name}`,
    `link add ${name}h type veth peer name ${name}n`,
    `link set ${name}n netns ${name}`,
    `addr add 10.203.77.1/30 dev ${name}h`,
    `link set ${name}h up`,
    `-n ${name} addr add 10.203.77.2/30 dev ${name}n`,
    `-n ${name} link set ${name}n up`,
    `-n ${name} link set lo up`,
  ];
  for (const command of commands) {
    const { status, stderr, error } = spawnSync("ip", command.split(" "), { encoding: "utf8" });
    if (status !== 0) return `no network namespace may be made here: ip ${command}: ${error?.message ?? stderr.trim()}`;
  }
  return false;
}

test(
  "a worker whose network goes commits what it holds, and comes back with it",
  { skip: skip || onlyOnce },
  async (t) => {
    const name = `ctok${process.pid % 10_000}`;
    try {
      const why = makeNetwork(name);
      if (why) return t.skip(why);
      await withFolder((folder) =>
        withCorpus(32, async ({ out, whole, redis: near }) => {
          await using redis = await RedisServer.start(
            folder,
            "--bind",
            "127.0.0.1",
            "10.203.77.1",
            "--protected-mode",
            "no",
          );
          const far = `redis://10.203.77.1:${redis.port}/0?lock=2&retry=0.1`;
          await near.stop();
          await using one = new WorkerProcess({ out, queue: far, itemMs: 150 }, ["ip", "netns", "exec", name]);
          await one.says(() => one.prepared.length > 0, "it works");
          spawnSync("ip", ["link", "set", `${name}h`, "down"]);
          const held = Number(one.prepared[0]) >> 2;
          await one.says(() => one.shards.includes(held), "what it held is committed");
          await one.says(() => one.events("note").length > 0, "it says that it is alone");
          await using two = new WorkerProcess({ out, queue: redis.url(), itemMs: 20 });
          await two.says(() => two.shards.length > 0, "the other works");
          spawnSync("ip", ["link", "set", `${name}h`, "up"]);
          for (const worker of [one, two]) assert.equal((await worker.end()).isComplete, true);
          assert.deepEqual(contentOf(out), whole);
        })
      );
    } finally {
      spawnSync("ip", ["link", "del", `${name}h`]);
      spawnSync("ip", ["netns", "del", name]);
    }
  },
);
