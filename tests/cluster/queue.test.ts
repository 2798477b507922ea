/**
 * A queue in Redis: workers share a corpus, whatever becomes of them, and shards that fail are parked. What becomes of
 * Redis itself is in queue_redis.test.ts.
 */
import assert from "node:assert/strict";
import { execFileSync } from "node:child_process";
import { cpSync, mkdirSync, readdirSync, renameSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import process from "node:process";
import { test } from "node:test";
import { TokenizerError } from "mod.ts";
import { datasetStatus, runWith, unparkDataset } from "../../src/corpus/dataset.ts";
import type { DatasetEvent } from "../../src/corpus/events.ts";
import type { Parts } from "../../src/corpus/parts.ts";
import { Queue } from "../../src/corpus/queue.ts";
import { rejects, root, runArgs, withFolder } from "../support.ts";
import { plain } from "../corpus/plain.ts";
import { contentOf } from "../corpus/support.ts";
import { noRedis, RedisServer, until, Wire, withCorpus, WorkerProcess } from "./support.ts";

const skip = noRedis;

test(
  "two workers share a corpus, each shard is made once, and Redis keeps next to nothing",
  { skip },
  () =>
    withCorpus(60, async ({ out, whole, redis }) => {
      const queue = redis.url("");
      await using one = new WorkerProcess({ out, queue, itemMs: 20 });
      await using two = new WorkerProcess({ out, queue, itemMs: 20 });
      for (const worker of [one, two]) assert.equal((await worker.end()).isComplete, true);
      assert.deepEqual([...one.shards, ...two.shards].sort((a, b) => a - b), Array.from({ length: 15 }, (_, i) => i));
      assert.ok(one.shards.length > 0 && two.shards.length > 0);
      assert.deepEqual(contentOf(out), whole);
      const kept = redis.cli("keys", "*").split("\n").filter((key) => /:shard-/.test(key));
      assert.deepEqual(kept, []);
      await redis.stop(); // a finished corpus asks no queue
      assert.ok((await runWith(plain, out, { queue })).isComplete);
    }),
);

test(
  "a worker that is killed loses its shards to another, which makes them",
  { skip },
  () =>
    withCorpus(24, async ({ folder, out, whole, redis }) => {
      // Past the first pictures, which are encoded together.
      const held = { key: "00017", until: join(folder, "never") };
      await using first = new WorkerProcess({ out, queue: redis.url(), held });
      await first.says(
        () => first.prepared.includes(held.key) && first.shards.length === 4,
        "it is at the fifth shard",
      );
      first.kill("SIGKILL");
      await using second = new WorkerProcess({ out, queue: redis.url() });
      assert.equal((await second.end()).isComplete, true);
      assert.deepEqual([...second.shards].sort(), [4, 5]);
      assert.deepEqual(contentOf(out), whole);
    }),
);

test(
  "a worker that hung is replaced, and drops what it comes late with",
  { skip },
  () =>
    withCorpus(12, async ({ folder, out, whole, redis }) => {
      const held = { key: "00001", until: join(folder, "go") };
      await using first = new WorkerProcess({ out, queue: redis.url(), held });
      await first.says(() => first.prepared.includes(held.key), "it works");
      first.kill("SIGSTOP");
      await using second = new WorkerProcess({ out, queue: redis.url() });
      assert.equal((await second.end()).isComplete, true);
      assert.deepEqual([...second.shards].sort(), [0, 1, 2]);
      assert.deepEqual(contentOf(out), whole);
      writeFileSync(held.until, "");
      first.kill("SIGCONT");
      assert.equal((await first.end()).isComplete, true);
      assert.deepEqual(first.shards, []);
      assert.deepEqual(first.events("shard").map(({ index, isTwice }) => [index, isTwice]), [[0, true]]);
      assert.deepEqual(contentOf(out), whole);
      assert.deepEqual(readdirSync(join(out, ".ctok/pending")), []);
    }),
);

test(
  "a worker that is cut off from Redis goes on with what it holds, and comes back",
  { skip },
  () =>
    withCorpus(32, async ({ out, whole, redis }) => {
      await using wire = await Wire.to(redis.port);
      await using first = new WorkerProcess({ out, queue: redis.url(undefined, wire.port), itemMs: 150 });
      await first.says(() => first.prepared.length > 0, "it works");
      wire.cut();
      const held = Number(first.prepared[0]) >> 2;
      await first.says(() => first.shards.includes(held), "what it held is committed");
      await first.says(() => first.events("note").length > 0, "it says that it is alone");
      await using second = new WorkerProcess({ out, queue: redis.url() });
      await second.says(() => second.shards.length > 0, "the other works");
      wire.mend();
      for (const worker of [first, second]) assert.equal((await worker.end()).isComplete, true);
      assert.match(
        String(first.events("note")[0]!.text),
        /queue: expected an answer of redis:\/\/127\.0\.0\.1:\d+\/0, found/,
      );
      assert.match(String(first.events("note").at(-1)!.text), /answers again after \d+ s/);
      assert.deepEqual(contentOf(out), whole);
    }),
);

test("a shard that fails for itself is parked after three tries while others are done, and made when it is unparked", {
  skip,
}, () =>
  withCorpus(16, async ({ folder, out, whole, redis }) => {
    const [input, away] = [join(folder, "pictures-16"), join(folder, "away")],
      gone = [4, 5, 6, 7].map((n) => `0000${n}.png`);
    for (const name of gone) renameSync(join(input, name), `${away}-${name}`);
    const events: DatasetEvent[] = [],
      options = { queue: redis.url(), onEvent: (event: DatasetEvent) => void events.push(event) };
    const { isComplete, parked, committed } = await runWith(plain, out, options);
    assert.deepEqual([isComplete, committed.numShards], [false, 3]);
    assert.deepEqual(parked.map(({ index, attempts }) => [index, attempts]), [[1, 3]]);
    assert.match(parked[0]!.message, /none of the shard's 4/);
    assert.deepEqual(events.filter(({ event }) => event === "parked").length, 1);
    const tried = events.flatMap((event) =>
      event.event === "note" && /try \d of 3/.test(event.text) ? [event.text] : []
    );
    assert.equal(tried.length, 2);
    assert.deepEqual((await datasetStatus(out)).parked, parked);
    assert.deepEqual((await runWith(plain, out, options)).parked, parked); // with no try
    assert.equal(events.filter(({ event }) => event === "parked").length, 1);
    for (const name of gone) renameSync(`${away}-${name}`, join(input, name));
    assert.deepEqual(await unparkDataset(out), [1]);
    const again = await runWith(plain, out, options);
    assert.deepEqual([again.isComplete, again.parked], [true, []]);
    assert.deepEqual(contentOf(out), whole);
  }));

test(
  "an encoder that does not take an item fails its shards alone",
  { skip },
  () =>
    withCorpus(40, async ({ out, redis }) => {
      const parts: Parts = {
        ...plain,
        async openPreparer(options, places) {
          const preparer = await plain.openPreparer(options, places);
          return {
            prepare(item, signal) {
              if (item.key === "00021") throw new TokenizerError("MEMORY", "expected less, found more");
              return preparer.prepare(item, signal);
            },
            [Symbol.asyncDispose]: () => preparer[Symbol.asyncDispose](),
          };
        },
      };
      const { parked, committed } = await runWith(parts, out, { queue: redis.url() });
      assert.deepEqual(parked, [{ index: 5, code: "MEMORY", message: "expected less, found more", attempts: 3 }]);
      assert.equal(committed.numShards, 9);
      assert.deepEqual(readdirSync(join(out, ".ctok/pending")), []);
      await rejects(() => runWith(parts, out), "MEMORY", /expected less/); // a ledger has nobody else who would try
    }),
);

test(
  "a shard that ends its workers is parked after the third, and the fourth does the others",
  { skip },
  () =>
    withCorpus(12, async ({ out, redis }) => {
      const queue = redis.url("lock=0.6");
      for (let n = 0; n < 3; n++) {
        await using worker = new WorkerProcess({ out, queue, deadly: "00004" });
        assert.equal((await worker.ended).signal, "SIGKILL", worker.stderr);
      }
      await using last = new WorkerProcess({ out, queue, deadly: "00004" });
      const { isComplete, parked } = await last.end() as {
        isComplete: boolean;
        parked: { index: number; message: string }[];
      };
      assert.equal(isComplete, false);
      assert.deepEqual(parked.map(({ index }) => index), [1]);
      assert.match(parked[0]!.message, /each worker that had it ended/);
      assert.equal((await datasetStatus(out)).committed.numShards, 2);
    }),
);

test(
  "shards that fail one after the other are a machine that fails: it ends, and parks none",
  { skip },
  () =>
    withCorpus(40, async ({ folder, out, whole, redis }) => {
      const input = join(folder, "pictures-40"), queue = redis.url("lock=2&retry=1");
      renameSync(input, `${input}-away`);
      await rejects(() => runWith(plain, out, { queue }), "FILE_IO", /none of the shard's 4/);
      const { parked, committed } = await datasetStatus(out);
      assert.deepEqual([parked, committed.numShards], [[], 0]);
      renameSync(`${input}-away`, input);
      // The tries that failed wait in the queue, this run for them.
      assert.ok((await runWith(plain, out, { queue: redis.url() })).isComplete);
      assert.deepEqual(contentOf(out), whole);
    }),
);

test("without BullMQ it is said what to install", () =>
  withFolder((folder) => {
    for (const name of ["corpus/redis.ts", "errors.ts", "abort.ts"]) {
      cpSync(join(root, "src", name), join(folder, "src", name));
    }
    mkdirSync(join(folder, "node_modules")); // without one Bun would fetch what it lacks
    writeFileSync(join(folder, "package.json"), '{ "type": "module" }');
    const load = 'import { loadBullMQ } from "./src/corpus/redis.ts";\n' +
      "console.log(await loadBullMQ().catch(({ code, message }) => `${code} ${message}`));";
    writeFileSync(join(folder, "load.ts"), load);
    const said = execFileSync(process.execPath, [...runArgs, join(folder, "load.ts")], {
      cwd: folder,
      encoding: "utf8",
    });
    assert.match(said, /^UNSUPPORTED queue: expected .*\(npm install bullmq ioredis\), found no bullmq: /);
    return Promise.resolve();
  }));

test(
  "an address that is none, a password that is wrong, and a Redis that forgets",
  { skip },
  () =>
    withFolder(async (folder) => {
      await using redis = await RedisServer.start(
        folder,
        "--requirepass",
        "secret",
        "--maxmemory-policy",
        "allkeys-lru",
      );
      const none = () => Promise.resolve(new Set<number>()), notes: string[] = [];
      const options = {
        plan: "p",
        numShards: 2,
        committed: none,
        parked: none,
        park: () => Promise.resolve(),
        note: (text: string) => void notes.push(text),
      };
      for (
        const [wrong, said] of [
          ["redis://", /expected redis:\/\/\[USER/],
          ["redis://u:hidden@host/x", /found "redis:\/\/host\/x"/],
          ["redis://host/0?lost=1", /expected one of lock, gone, retry .*found "lost"/],
          ["redis://host/0?lock=-1", /queue: lock: expected 0.1 to 86400 seconds, found "-1"/],
        ] as const
      ) {
        const { message } = await rejects(() => Queue.open(wrong, options), "ARGUMENT", said);
        assert.doesNotMatch(message, /hidden/);
      }
      for (const user of ["", ":wrong@"]) {
        const wrong = `redis://${user}127.0.0.1:${redis.port}`;
        const { message } = await rejects(
          () => Queue.open(wrong, options),
          "ARGUMENT",
          /to let us in, found "(NOAUTH|WRONGPASS)/,
        );
        assert.doesNotMatch(message, /:wrong/);
      }
      await using queue = await Queue.open(`redis://:secret@127.0.0.1:${redis.port}`, options);
      assert.match(notes.join(), /expected maxmemory-policy noeviction, found allkeys-lru/);
      assert.deepEqual([await queue.next(), await queue.next()], [0, 1]);
      queue.release(1);
      await until(async () => await queue.next() === 1, "what was given back comes again");
    }),
);
