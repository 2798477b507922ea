/**
 * Shards handed out by a queue in Redis, to workers on any number of machines: a job is a shard's number, locked by the
 * worker that has it and free again soon after the last sign of life of that worker. Nothing of it is truth: who gets a
 * shard looks at its manifest first, and what the queue lost is put in again. At most some thousand shards wait in it
 * at a time, whatever the corpus has. While Redis is away, a worker goes on with what it holds. Called by run.ts;
 * BullMQ's part is its scripts, by its manual API.
 */
import { randomBytes } from "node:crypto";
import { setTimeout } from "node:timers/promises";
import type { Job, Queue as Jobs, Worker } from "bullmq";
import { throwIfAborted } from "../abort.ts";
import { messageOf, type TokenizerError } from "../errors.ts";
import type { Leases, LeasesOptions } from "./leases.ts";
import type { WhyParked } from "./parked.ts";
import {
  type Address,
  type Client,
  connect,
  loadBullMQ,
  readAddress,
  refusalOf,
  unreachable,
  warningOf,
} from "./redis.ts";

export interface QueueOptions extends LeasesOptions {
  /** The shards that the queue has given up, as notes in the storage say. */
  parked(): Promise<ReadonlySet<number>>;
  park(index: number, why: WhyParked): Promise<void>;
  /** Called with a text that people should read, such as a warning. */
  note(text: string): void;
  readonly signal?: AbortSignal | undefined;
}

/** Tries at a shard, each of which failed for itself or ended its worker, until it is parked. */
export const tries = 3;
/**
 * The most shards that wait in Redis; how often an empty queue is asked again; how often the manifests are listed while
 * other workers have shards.
 */
const mostQueued = 1000, pollMs = 500, lookMs = 15_000;

export class Queue implements Leases {
  readonly #o: QueueOptions;
  readonly #address: Address;
  readonly #client: Client;
  readonly #jobs: Jobs;
  readonly #worker: Worker;
  readonly #timer: ReturnType<typeof setInterval>;
  readonly #owner = randomBytes(8).toString("hex");
  readonly #held = new Map<number, Job>();
  /** Messages to Redis whose answers nobody waits for. */
  readonly #said = new Set<Promise<void>>();
  /**
   * A shard in work here whose last worker ended in the midst of it, perhaps because of it. Nothing is made beside it,
   * so that a worker that ends again counts against this shard alone.
   */
  #suspect: number | undefined;
  #numTaken = 0;
  #lookAt = 0;
  /** When Redis stopped answering; undefined while it answers. */
  #awaySince: number | undefined;
  #isRenewing = false;
  /**
   * Shards committed when this worker last looked; `#count`: how many all workers committed since, as far as is known.
   */
  #numCommitted = 0;
  #count: { readonly first: number; readonly last: number } | undefined;

  private constructor(options: QueueOptions, address: Address, client: Client, jobs: Jobs, worker: Worker) {
    this.#o = options;
    this.#address = address;
    this.#client = client;
    this.#jobs = jobs;
    this.#worker = worker;
    this.#timer = setInterval(() => this.#renew().catch(() => {}), thirdOf(address));
  }

  /**
   * Opens the queue of a plan. Throws UNSUPPORTED without BullMQ, ARGUMENT for an address that is none or refused,
   * QUEUE, CANCELLED.
   */
  static async open(text: string, options: QueueOptions): Promise<Queue> {
    const address = readAddress(text), { Queue: Jobs, Worker } = await loadBullMQ();
    const client = await connect(address, options.signal);
    const name = `plan-${options.plan.slice(0, 24)}`,
      common = { connection: client, prefix: "ctok", skipVersionCheck: true };
    const jobs = new Jobs(name, { ...common, streams: { events: { maxLen: 100 } } });
    const worker = new Worker(name, null, {
      ...common,
      autorun: false,
      lockDuration: address.lockMs,
      stalledInterval: thirdOf(address),
      maxStalledCount: tries - 1,
    });
    jobs.on("error", () => {}); // told by who asks
    worker.on("error", () => {});
    const queue = new Queue(options, address, client, jobs, worker);
    try {
      const warning = await queue.#ask(() => warningOf(client), options.signal);
      if (warning) options.note(warning);
      queue.#numCommitted = (await options.committed()).size;
      await worker.startStalledCheckTimer();
      return queue;
    } catch (error) {
      await queue[Symbol.asyncDispose]();
      throw refusalOf(address.shown, error) ?? error;
    }
  }

  /**
   * The next shard; undefined when all are committed or parked. Throws QUEUE when Redis is gone for good and this
   * worker has no shard left; CANCELLED.
   */
  async next(signal?: AbortSignal): Promise<number | undefined> {
    for (;;) {
      throwIfAborted(signal);
      await this.#until(() => this.#suspect === undefined || !this.#held.has(this.#suspect), signal);
      const token = `${this.#owner}-${this.#numTaken++}`;
      const job: Job | undefined = await this.#ask(() => this.#worker.getNextJob(token, { block: false }), signal);
      if (job) {
        const index = await this.#taken(job);
        if (index === undefined) continue;
        if (job.stalledCounter > 0) {
          this.#suspect = index;
          await this.#until(() => this.#held.size === 1, signal);
        }
        return index;
      }
      const { wait = 0, active = 0, delayed = 0 } = await this.#ask(
        () => this.#jobs.getJobCounts("wait", "active", "delayed"),
        signal,
      );
      const isDry = wait + active + delayed + this.#held.size === 0;
      if ((isDry || Date.now() >= this.#lookAt) && !await this.#look(active + delayed, signal)) return undefined;
      if (!isDry) await setTimeout(pollMs, undefined, signal ? { signal } : {});
    }
  }

  async #until(isSo: () => boolean, signal?: AbortSignal): Promise<void> {
    while (!isSo()) await setTimeout(pollMs / 10, undefined, signal ? { signal } : {});
  }

  /** The shard of a job; undefined for one that is given up, as its workers ended too often. */
  async #taken(job: Job): Promise<number | undefined> {
    const index = indexOf(job);
    this.#held.set(index, job);
    if (job.deferredFailure === undefined) return index;
    if (!(await this.#o.committed()).has(index)) {
      const message = "each worker that had it ended, or gave no sign of life";
      await this.#o.park(index, { code: "INTERNAL", message, attempts: tries });
    }
    this.done(index);
    return undefined;
  }

  /**
   * Puts missing shards into the queue, besides those in `inWork`, which are there already. False where none is
   * missing.
   */
  async #look(inWork: number, signal?: AbortSignal): Promise<boolean> {
    const [committed, parked] = await Promise.all([this.#o.committed(), this.#o.parked()]);
    const missing: number[] = [];
    for (let index = 0; index < this.#o.numShards; index++) {
      if (!committed.has(index) && !parked.has(index)) missing.push(index);
    }
    const added = missing.filter((index) => !this.#held.has(index)).slice(0, mostQueued + inWork);
    if (added.length > 0) await this.#ask(() => this.#jobs.addBulk(added.map((index) => this.#jobOf(index))), signal);
    this.#lookAt = added.length + this.#held.size < missing.length ? 0 : Date.now() + lookMs;
    return missing.length > 0;
  }

  /** The queue's job for a shard. Note: BullMQ refuses a number as an id. */
  #jobOf(index: number) {
    const backoff = { type: "exponential", delay: this.#address.retryMs };
    const opts = { jobId: `shard-${index}`, attempts: tries, backoff, removeOnComplete: true, removeOnFail: true };
    return { name: "shard", data: {}, opts };
  }

  /** Asks Redis, and asks again while it cannot be reached. */
  async #ask<T>(question: () => Promise<T>, signal?: AbortSignal): Promise<T> {
    for (;;) {
      try {
        const answer = await question();
        this.#heard();
        return answer;
      } catch (error) {
        throwIfAborted(signal);
        const { shown, goneMs } = this.#address, refused = refusalOf(shown, error), since = this.#missed(error);
        if (refused) throw refused;
        if (this.#held.size === 0 && Date.now() - since >= goneMs) throw unreachable(shown, error, goneMs);
      }
      await setTimeout(pollMs, undefined, signal ? { signal } : {});
    }
  }

  #heard(): void {
    if (this.#awaySince === undefined) return;
    this.#o.note(
      `queue: ${this.#address.shown} answers again after ${Math.round((Date.now() - this.#awaySince) / 1000)} s`,
    );
    this.#awaySince = undefined;
  }

  /** Since when it is so. */
  #missed(error: unknown): number {
    if (this.#awaySince === undefined) {
      const { shown, goneMs } = this.#address,
        until = `what is in work goes on, and the run ends after ${goneMs / 1000} s of it`;
      this.#o.note(`queue: expected an answer of ${shown}, found ${messageOf(error) || "none"}; ${until}`);
    }
    return this.#awaySince ??= Date.now();
  }

  done(index: number): void {
    this.#part(index, async (job) => {
      await job.moveToCompleted("", job.token!, false);
      await this.#client.incr(this.#jobs.toKey("done"));
    });
  }

  release(index: number): void {
    this.#part(index, (job) => job.moveToWait(job.token!));
  }

  /**
   * Note: the shard is parked first. A worker that dies before it removes the job leaves it to the next one, which
   * finds the shard parked, or tries it.
   */
  failed(index: number, { code, message }: TokenizerError): void {
    this.#part(index, async (job) => {
      const attempts = job.attemptsMade + 1;
      if (attempts < tries) {
        this.#o.note(`shard ${index}: ${code}: ${message} (try ${attempts} of ${tries})`);
        return await job.moveToFailed(new Error(code), job.token!, false);
      }
      await this.#o.park(index, { code, message, attempts });
      await job.moveToCompleted("", job.token!, false);
    });
  }

  tell(): void {}

  numDone(): number {
    const { first, last } = this.#count ?? { first: 0, last: 0 };
    return Math.min(this.#o.numShards, this.#numCommitted + Math.max(0, last - first));
  }

  /**
   * Says a last word of a shard. One that is not heard does no harm: the lock runs out, and the manifest is there or is
   * not.
   */
  #part(index: number, say: (job: Job) => Promise<unknown>): void {
    const job = this.#held.get(index);
    if (!job) return;
    this.#held.delete(index);
    const said: Promise<void> = say(job).then(() => {}, () => {}).finally(() => this.#said.delete(said));
    this.#said.add(said);
  }

  /** Renews the locks of the jobs that this worker holds; a timer calls it. */
  async #renew(): Promise<void> {
    if (this.#isRenewing) return;
    this.#isRenewing = true;
    try {
      const { lockMs } = this.#address, jobs = [...this.#held.values()], ids = jobs.map(({ id }) => id!);
      const lost = jobs.length > 0
        ? await this.#worker.extendJobLocks(ids, jobs.map(({ token }) => token!), lockMs)
        : [];
      // These locks expired while Redis was away. One that no other worker has taken is set again.
      for (const { id, token } of jobs.filter(({ id }) => lost.includes(id!))) {
        await this.#client.set(`${this.#jobs.toKey(id!)}:lock`, token!, "PX", lockMs, "NX");
      }
      const last = Number(await this.#client.get(this.#jobs.toKey("done")) ?? 0);
      this.#count = { first: Math.min(this.#count?.first ?? last, last), last };
      if (jobs.length > 0) this.#heard(); // reading alone is no sign: a Redis that is full answers that
    } catch (error) {
      this.#missed(error);
    } finally {
      this.#isRenewing = false;
    }
  }

  async [Symbol.asyncDispose](): Promise<void> {
    clearInterval(this.#timer);
    for (const index of [...this.#held.keys()]) this.release(index);
    await Promise.all(this.#said); // each ends within seconds, as a command does
    await this.#worker.close(true).catch(() => {});
    await this.#jobs.close().catch(() => {});
    this.#client.disconnect();
  }
}

/**
 * How often, in milliseconds, a worker renews its locks, and looks for locks that have expired. Note: Redis takes whole
 * numbers only.
 */
function thirdOf({ lockMs }: Address): number {
  return Math.round(lockMs / 3);
}

function indexOf(job: Job): number {
  return Number(job.id!.slice("shard-".length));
}
