/**
 * A cluster that tokenises a corpus in virtual time: nodes die and come back, some are slow, workers freeze for longer
 * than their lease lasts, and whoever hands out shards forgets all it knew. Plan, pending files, decision and manifests
 * are the real ones (Plan, Storage) on a real folder; only the encoder is a sleep, and leases are a table. Each try at
 * a shard writes other bytes, so that what is committed tells whose it is. Used by simulate.ts and
 * tests/corpus/scale.test.ts.
 */
import { createHash } from "node:crypto";
import { readdir, readFile } from "node:fs/promises";
import { join } from "node:path";
import type { Plan } from "../../src/corpus/plan.ts";
import { FolderStorage } from "../../src/corpus/folderstorage.ts";
import { Clock, Killed, type Life } from "./clock.ts";
import { type Handout, LeaseTable, Split } from "./handout.ts";

/** Times in seconds. */
export interface ClusterOptions {
  readonly numNodes: number;
  readonly workersOfNode: number;
  /** "lease": the next free shard, as by a ledger or a queue; "split": shard k belongs to worker k mod N. */
  readonly handOut: "lease" | "split";
  /** What a shard takes a worker. */
  readonly shard: number;
  /** From the start of a process to its first item. */
  readonly start: number;
  /** All steps of a commit together. */
  readonly commit: number;
  /** Mean time between failures of a node: all its workers end at once, anywhere. */
  readonly mtbf: number;
  /** Until a node that failed, or the one in its stead, starts its workers again. */
  readonly repair: number;
  readonly lease: number;
  /** Share of the nodes that are slow, and how many times as long they take. */
  readonly slowShare: number;
  readonly slowness: number;
  /** Mean time between two freezes of a worker, and how long one is. */
  readonly freezeEvery: number;
  readonly freeze: number;
  /** Mean time until all leases are forgotten; Infinity: never. */
  readonly forgetEvery: number;
  readonly seed: number;
}

export interface ClusterReport {
  readonly hours: number;
  /** What the same nodes take where nothing fails, nobody waits and starting and committing cost nothing. */
  readonly idealHours: number;
  readonly failures: number;
  readonly workersKilled: number;
  /** Workers that were killed between two steps of a commit, after its decision or before. */
  readonly killedInCommit: number;
  readonly freezes: number;
  readonly forgotten: number;
  /** Tries at shards that ended in a commit that found another's, and what they took, as part of all work. */
  readonly doubled: number;
  readonly doubledShare: number;
  /** What killed workers had done of their shards, as part of all work. */
  readonly lostShare: number;
  /** From the first worker that found nothing more to take to the end. */
  readonly tailHours: number;
  /** Folders of dead tries that lie in .ctok/pending at the end. */
  readonly leftovers: number;
}

export async function simulate(plan: Plan, o: ClusterOptions): Promise<ClusterReport> {
  const cluster = new Cluster(plan, o);
  await cluster.run();
  return await cluster.report();
}

class Cluster {
  readonly #plan: Plan;
  readonly #o: ClusterOptions;
  readonly #clock = new Clock();
  readonly #random: () => number;
  readonly #handout: Handout;
  readonly #committed = new Map<number, string>();
  readonly #slowness: readonly number[];
  #failures = 0;
  #workersKilled = 0;
  #killedInCommit = 0;
  #freezes = 0;
  #forgotten = 0;
  #doubled = 0;
  #doubledSeconds = 0;
  #lostSeconds = 0;
  #numTries = 0;
  #firstIdle: number | undefined;

  constructor(plan: Plan, o: ClusterOptions) {
    this.#plan = plan;
    this.#o = o;
    this.#random = randomNumbers(o.seed);
    const { numShards } = plan, numWorkers = o.numNodes * o.workersOfNode;
    this.#handout = o.handOut === "lease"
      ? new LeaseTable(numShards, this.#clock, o.lease)
      : new Split(numShards, numWorkers);
    this.#slowness = Array.from({ length: o.numNodes }, () => this.#random() < o.slowShare ? o.slowness : 1);
  }

  async run(): Promise<void> {
    for (let node = 0; node < this.#o.numNodes; node++) this.#clock.start(() => this.#node(node));
    if (this.#o.forgetEvery < Infinity) this.#clock.start(() => this.#forget());
    await this.#clock.run(() => this.#committed.size === this.#plan.numShards);
  }

  /** Starts a node's workers, and again after each failure. */
  async #node(node: number): Promise<void> {
    const { workersOfNode, mtbf, repair } = this.#o;
    for (;;) {
      const life: Life = {};
      for (let i = 0; i < workersOfNode; i++) {
        this.#clock.start(() => this.#worker(node * workersOfNode + i, node, life));
      }
      await this.#clock.sleep(this.#exponential(mtbf));
      life.diedAt = this.#clock.now;
      this.#failures++;
      this.#handout.died(life);
      await this.#clock.sleep(repair);
    }
  }

  async #forget(): Promise<void> {
    for (;;) {
      await this.#clock.sleep(this.#exponential(this.#o.forgetEvery));
      this.#forgotten++;
      const stems = await new FolderStorage(this.#plan.folder).committed();
      this.#handout.forget(new Set([...stems].map(Number)));
    }
  }

  /** As run.ts has it: recover, then a shard after the other. */
  async #worker(worker: number, node: number, life: Life): Promise<void> {
    const clock = this.#clock, { commit, start } = this.#o;
    let isCommitting = false, begun: number | undefined;
    const storage = new FolderStorage(
      this.#plan.folder,
      (step) => step === "begun" ? undefined : clock.sleep(commit / numSteps, life),
    );
    try {
      await storage.prepare();
      await storage.recover();
      await clock.sleep(start, life);
      for (;;) {
        const index = this.#handout.next(worker, life);
        if (typeof index === "string") {
          this.#firstIdle ??= clock.now;
          if (index === "end") return;
          await clock.sleep(pollSeconds, life);
          continue;
        }
        const stem = this.#plan.stemOf(index);
        await storage.settle(stem);
        if (!await storage.isCommitted(stem)) {
          begun = clock.now;
          const attempt = await storage.begin(stem, index);
          await this.#encode(index, node, life);
          const file = await attempt.create(".txt"), items = await this.#plan.items(index), mark = ++this.#numTries;
          await file.write(new TextEncoder().encode(`try ${mark}\n${items.map(({ key }) => `${key}\n`).join("")}`));
          isCommitting = true;
          const counts = { numItems: items.length, numSamples: items.length, numTokens: 0, quarantined: [] };
          const isOurs = await attempt.commit({
            plan: this.#plan.id,
            arithmetic: this.#plan.header.arithmetic,
            ...counts,
          });
          isCommitting = false;
          if (!isOurs) this.#doubled++, this.#doubledSeconds += clock.now - begun;
          begun = undefined;
        }
        this.#handout.done(index);
        await this.#note(storage, index, stem);
      }
    } catch (error) {
      if (!(error instanceof Killed)) throw error;
      this.#workersKilled++;
      if (isCommitting) this.#killedInCommit++;
      if (begun !== undefined) this.#lostSeconds += life.diedAt! - begun;
      throw error;
    }
  }

  /** Where the encoder would be. A worker may freeze in it: nobody renews its lease then. */
  async #encode(index: number, node: number, life: Life): Promise<void> {
    const { freezeEvery, freeze, shard } = this.#o, clock = this.#clock;
    let left = shard * this.#slowness[node]!;
    for (let until; (until = this.#exponential(freezeEvery)) < left; left -= until) {
      await clock.sleep(until, life);
      this.#freezes++;
      this.#handout.frozen(index, life, freeze);
      await clock.sleep(freeze, life);
    }
    await clock.sleep(left, life);
  }

  /** A shard that is committed stays as it is: throws where its manifest says other than before. */
  async #note(storage: FolderStorage, index: number, stem: string): Promise<void> {
    const { files } = await storage.entry(stem), { sha256 } = files[0]!, before = this.#committed.get(index);
    if (before !== undefined && before !== sha256) throw new Error(`shard ${stem} was committed twice`);
    this.#committed.set(index, sha256);
  }

  #exponential(mean: number): number {
    return mean === Infinity ? Infinity : -mean * Math.log(1 - this.#random());
  }

  async report(): Promise<ClusterReport> {
    const { numNodes, workersOfNode, shard } = this.#o, { numShards } = this.#plan, hours = this.#clock.now / 3600;
    const speed = this.#slowness.reduce((sum, slowness) => sum + workersOfNode / slowness, 0);
    const work = numShards * shard, pending = join(new FolderStorage(this.#plan.folder).private, "pending");
    if (speed === 0 || numNodes === 0) throw new Error("expected a node");
    return {
      hours,
      idealHours: work / speed / 3600,
      failures: this.#failures,
      workersKilled: this.#workersKilled,
      killedInCommit: this.#killedInCommit,
      freezes: this.#freezes,
      forgotten: this.#forgotten,
      doubled: this.#doubled,
      doubledShare: this.#doubledSeconds / work,
      lostShare: this.#lostSeconds / work,
      tailHours: hours - (this.#firstIdle ?? this.#clock.now) / 3600,
      leftovers: (await readdir(pending)).length,
    };
  }
}
const pollSeconds = 5;
/** "written" to "tidied", with one file a shard. */
const numSteps = 7;

/**
 * Throws unless the corpus is whole: a manifest for each shard and no other, each file as its manifest says and of one
 * try alone, all items once and in the plan's order, nothing decided left over, no file that nobody knows. Gives how
 * many bytes there are.
 */
export async function checkWhole(plan: Plan): Promise<number> {
  const storage = new FolderStorage(plan.folder);
  await storage.recover();
  const expectNone = (what: string, found: readonly string[]) => {
    if (found.length > 0) throw new Error(`expected no ${what}, found ${found.length}: ${found[0]}`);
  };
  const stems = await storage.committed(), known = new Set(["plan.jsonl", "plan.idx", "manifest", ".ctok"]);
  let bytes = 0;
  for (let index = 0; index < plan.numShards; index++) {
    const stem = plan.stemOf(index), { files, numItems } = await storage.entry(stem), [file] = files;
    if (!file || files.length !== 1 || !stems.delete(stem)) throw new Error(`expected one file of shard ${stem}`);
    known.add(file.name);
    const content = await readFile(join(plan.folder, file.name)), items = await plan.items(index);
    const sha256 = createHash("sha256").update(content).digest("hex"),
      [mark, ...keys] = content.toString().trimEnd().split("\n");
    const isPlanned = numItems === items.length && keys.join() === items.map(({ key }) => key).join();
    if (sha256 !== file.sha256 || !/^try \d+$/.test(mark!) || !isPlanned) {
      throw new Error(`shard ${stem} is not as committed`);
    }
    bytes += content.length;
  }
  expectNone("other manifests", [...stems]);
  expectNone("decided shards", await readdir(join(storage.private, "decided")));
  expectNone("other files", (await readdir(plan.folder)).filter((name) => !known.has(name)));
  return bytes;
}

/** Between 0 and 1, the same from the same seed (mulberry32). */
function randomNumbers(seed: number): () => number {
  let state = seed;
  return () => {
    state = state + 0x6d2b79f5 | 0;
    let t = Math.imul(state ^ state >>> 15, 1 | state);
    t = t + Math.imul(t ^ t >>> 7, 61 | t) ^ t;
    return ((t ^ t >>> 14) >>> 0) / 4294967296;
  };
}
