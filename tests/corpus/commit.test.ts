/**
 * The commit of a shard: killed by SIGKILL at each of its steps, and run again, the corpus is that of a run that nobody
 * disturbed, bit for bit, with nothing left beside it. Two workers at one shard, whatever bytes they make, leave one of
 * them whole.
 */
import assert from "node:assert/strict";
import { Buffer } from "node:buffer";
import { mkdirSync, readdirSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { test } from "node:test";
import { runWith } from "../../src/corpus/dataset.ts";
import { FolderStorage } from "../../src/corpus/folderstorage.ts";
import type { OnStep } from "../../src/corpus/storage.ts";
import { rejects, withFolder } from "../support.ts";
import { plain } from "./plain.ts";
import { contentOf, madeCorpus, runWorker } from "./support.ts";
import { about, attempt, committedText, steps } from "./tries.ts";

/** That nothing is left of tries. */
function checkTidy(out: string): void {
  for (const folder of ["pending", "decided"]) assert.deepEqual(readdirSync(join(out, ".ctok", folder)), [], folder);
  const left = readdirSync(out, { recursive: true, encoding: "utf8" }).filter((name) => name.endsWith(".tmp"));
  assert.deepEqual(left, []);
}

for (const step of steps) {
  test(`killed at "${step}", then run again: the same corpus, nothing left`, () =>
    withFolder(async (folder) => {
      const [undisturbed, out] = [join(folder, "undisturbed"), join(folder, "killed")];
      for (const path of [undisturbed, out]) await madeCorpus(folder, path, { numItems: 9, shardSize: 5 });
      await runWith(plain, undisturbed);
      const { signal, lines, stderr } = await runWorker(out, step);
      assert.equal(signal, "SIGKILL", stderr);
      assert.equal(lines.at(-1)!.step, step);
      const status = await runWith(plain, out);
      assert.ok(status.isComplete);
      assert.deepEqual(contentOf(out), contentOf(undisturbed));
      checkTidy(out);
    }));
}

/** Which try was committed, whole, with nothing left beside it. */
async function checkWhole(out: string): Promise<string> {
  const text = await committedText(new FolderStorage(out), (name) => readFileSync(join(out, name)));
  checkTidy(out);
  return text;
}

for (const step of steps.slice(1)) {
  test(`while one worker is at "${step}", another makes other bytes of the same shard, and a third tidies up`, () =>
    withFolder(async (out) => {
      const other = new FolderStorage(out);
      let isOthers: boolean | undefined;
      const onStep: OnStep = async (at) => {
        if (at !== step || isOthers !== undefined) return;
        isOthers = false;
        const late = await attempt(other, "other");
        [isOthers] = await Promise.all([
          late.commit(about),
          new FolderStorage(out).settle("00000"),
          other.settle("00000"),
        ]);
      };
      const storage = new FolderStorage(out, onStep);
      await storage.prepare();
      const isOurs = await (await attempt(storage, "ours")).commit(about);
      assert.notEqual(isOthers, undefined);
      assert.equal(isOurs, !isOthers, "one of them committed");
      assert.equal(await checkWhole(out), isOurs ? "ours" : "other");
    }));
}

/** As one that had looked before another's commit, and renamed its folder after it. */
function decideLate(out: string): void {
  const decided = join(out, ".ctok/decided/00000"), files = [{ name: "00000.bin", bytes: 5 }];
  mkdirSync(decided);
  writeFileSync(join(decided, "x-00000.bin"), "later");
  writeFileSync(join(decided, "entry.json"), JSON.stringify({ id: "x", entry: { stem: "00000", files } }));
}

test("who comes behind a commit drops its own, also where it was stopped before it looked", () =>
  withFolder(async (out) => {
    const storage = new FolderStorage(out);
    await storage.prepare();
    const [first, late] = [await attempt(storage, "first"), await attempt(storage, "late")];
    assert.equal(await first.commit(about), true);
    assert.equal(await late.commit(about), false);
    assert.equal(await checkWhole(out), "first");
    decideLate(out);
    await new FolderStorage(out).recover();
    assert.equal(await checkWhole(out), "first");
  }));

test("who looked before a commit does not place what a late one decided after it", () =>
  withFolder(async (out) => {
    const winner = new FolderStorage(out, async (step) => {
      if (step === "decided") await new Stale(out).settle("00000");
    });
    /** Between its look and what follows, the winner's shard is committed and another one is decided. */
    class Stale extends FolderStorage {
      #isFirst = true;
      override async isCommitted(stem: string): Promise<boolean> {
        const was = await super.isCommitted(stem);
        if (this.#isFirst) {
          this.#isFirst = false;
          await new FolderStorage(out).settle(stem);
          decideLate(out);
        }
        return was;
      }
    }
    await winner.prepare();
    assert.equal(await (await attempt(winner, "first")).commit(about), true);
    assert.equal(await checkWhole(out), "first");
  }));

test("notes are whole, and the first of a name stays", () =>
  withFolder(async (out) => {
    const storage = new FolderStorage(out), bytes = (text: string) => new TextEncoder().encode(text);
    assert.equal(await storage.note("split.json"), undefined);
    assert.deepEqual(await storage.notes("parked"), []);
    const wins = await Promise.all(["a", "b", "c"].map((text) => storage.writeNote("split.json", bytes(text))));
    assert.deepEqual(wins.filter(Boolean).length, 1);
    assert.equal(Buffer.from((await storage.note("split.json"))!).toString(), "abc"[wins.indexOf(true)]);
    await storage.writeNote("parked/00002", bytes("x"));
    assert.deepEqual(await storage.notes("parked"), ["parked/00002"]);
    await storage.removeNote("parked/00002");
    assert.deepEqual(await storage.notes("parked"), []);
    assert.deepEqual(readdirSync(join(out, ".ctok/notes")).sort(), ["parked", "split.json"]);
  }));

test("a try that is dropped leaves nothing; one that is committing is not dropped", () =>
  withFolder(async (out) => {
    const storage = new FolderStorage(out);
    await storage.prepare();
    await (await attempt(storage, "dropped")).discard();
    checkTidy(out);
    const one = await attempt(storage, "kept"), committing = one.commit(about);
    await one.discard();
    assert.equal(await committing, true);
    assert.equal(await checkWhole(out), "kept");
  }));

test("a decided shard whose file is neither there nor placed is told, not committed", () =>
  withFolder(async (out) => {
    const storage = new FolderStorage(out, (step) => {
      if (step === "decided") throw new Error("as if killed");
    });
    await storage.prepare();
    await assert.rejects((await attempt(storage, "lost")).commit(about), /as if killed/);
    const decided = join(out, ".ctok/decided/00000");
    for (const name of readdirSync(decided)) if (name.endsWith(".bin")) rmSync(join(decided, name));
    await rejects(
      () => new FolderStorage(out).recover(),
      "FILE_IO",
      /00000\.bin: expected a file of 8 bytes, found "none"/,
    );
    assert.equal(await storage.isCommitted("00000"), false);
  }));

test("manifests that are none, or of another plan, are told by name", () =>
  withFolder(async (folder) => {
    const out = join(folder, "out");
    await madeCorpus(folder, out, { numItems: 3 });
    await runWith(plain, out);
    const path = join(out, "manifest/00000.json"), entry = JSON.parse(readFileSync(path, "utf8"));
    writeFileSync(path, JSON.stringify({ ...entry, plan: "0".repeat(64) }));
    await rejects(
      () => runWith(plain, out),
      "FILE_FORMAT",
      /manifest\/00000\.json: expected a shard of the plan [0-9a-f]{64}, found "one of 0{64}"/,
    );
    writeFileSync(path, "{");
    await rejects(
      () => runWith(plain, out),
      "FILE_FORMAT",
      /manifest\/00000\.json: expected a manifest of ctok dataset/,
    );
  }));
