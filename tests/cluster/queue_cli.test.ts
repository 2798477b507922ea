/** The command line with a queue, and parked shards without one: what is told, and exit codes. */
import assert from "node:assert/strict";
import { copyFileSync, mkdirSync, renameSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { test } from "node:test";
import { ctokEnds, lines } from "../cli/spawn.ts";
import { root, withFolder } from "../support.ts";
import { noRedis, RedisServer } from "./support.ts";

/** A plan over pictures, of which one is broken: four a shard. */
async function planned(cwd: string, numItems: number): Promise<string[]> {
  mkdirSync(join(cwd, "photos"));
  const names = Array.from({ length: numItems }, (_, i) => join(cwd, `photos/${String(i).padStart(2, "0")}.png`));
  for (const name of names) copyFileSync(join(root, "examples/media/cat.png"), name);
  writeFileSync(names[1]!, "no picture");
  await ctokEnds(0, ["dataset", "plan", "photos", "-o", "out", "--size", "32", "--shard-size", "4"], { cwd });
  return names;
}

test(
  "a worker of a queue ends with 0 though items were set aside, with 1 where a shard is parked, and unpark mends it",
  {
    skip: noRedis,
  },
  () =>
    withFolder(async (cwd) => {
      await using redis = await RedisServer.start(cwd);
      const gone = (await planned(cwd, 12)).slice(4, 8), env = { CTOK_QUEUE: redis.url() };
      for (const name of gone) renameSync(name, `${name}-away`);
      const parked = await ctokEnds(1, ["dataset", "run", "out"], { cwd, env });
      assert.match(parked.stderr, /shard 1, parked after 3 tries: .*none of the shard's 4/);
      assert.match(parked.stdout, /^out: 2 of 3 shards; .*, 1 set aside, 1 shard parked\n$/);
      const status = await ctokEnds(0, ["dataset", "status", "out"], { cwd });
      assert.match(status.stdout, /parked: shard 1, after 3 tries: \w+: .*none of the shard's 4/);
      const [said] = lines((await ctokEnds(0, ["dataset", "status", "out", "--json"], { cwd })).stdout);
      assert.deepEqual([said.numParked, said.parked[0].index, said.parked[0].attempts], [1, 1, 3]);
      for (const name of gone) renameSync(`${name}-away`, name);
      assert.match(
        (await ctokEnds(0, ["dataset", "unpark", "out"], { cwd })).stdout,
        /^out: 1 shard to be tried again\n$/,
      );
      const done = await ctokEnds(0, ["dataset", "run", "out", "--queue", redis.url()], { cwd });
      assert.match(done.stdout, /^out: complete, 3 shards; 11 of 12 items, .*, 1 set aside\n$/);
      assert.match(done.stderr, /^$/);
    }),
);

test("a parked shard is named without a queue, and a run without one makes it", () =>
  withFolder(async (cwd) => {
    await planned(cwd, 8);
    mkdirSync(join(cwd, "out/.ctok/notes/parked"), { recursive: true });
    const note = join(cwd, "out/.ctok/notes/parked/00001");
    writeFileSync(note, JSON.stringify({ code: "MEMORY", message: "too much", attempts: 3 }));
    const status = await ctokEnds(0, ["dataset", "status", "out"], { cwd });
    assert.match(
      status.stdout,
      /^out: 0 of 2 shards; .*, 1 shard parked\nparked: shard 1, after 3 tries: MEMORY: too much\n$/,
    );
    writeFileSync(note, "no note");
    assert.match(
      (await ctokEnds(0, ["dataset", "status", "out"], { cwd })).stdout,
      /parked: shard 1, .*: its note cannot be read/,
    );
    await ctokEnds(1, ["dataset", "run", "out"], { cwd }); // as an item was set aside
    assert.deepEqual(lines((await ctokEnds(0, ["dataset", "status", "out", "--json"], { cwd })).stdout)[0].parked, []);
    const wrong = await ctokEnds(2, ["dataset", "run", "out", "--queue", "http://host"], { cwd });
    assert.match(wrong.stderr, /--queue: expected redis:\/\/HOST:PORT, or rediss:\/\/ with TLS, found/);
  }));
