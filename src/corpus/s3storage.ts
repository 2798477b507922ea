/**
 * A corpus in S3 or a store like it, where any number of machines may work on it. There is no rename: objects are
 * copied, and what is written "where nothing is" (If-None-Match: *) decides. docs/dataset_s3.md proves the steps; below
 * PREFIX:
 *
 *   .ctok/pending/SHARD-WRITER-ID/   files of a try, uploaded from the folder of this machine in which they were made
 *   .ctok/decided/SHARD.json         written where nothing is: the try that won, and what the manifest will say
 *   SHARD.tar, …                     copies of its files, whose size and hash are looked at, then
 *   manifest/SHARD.json              its entry: from here on the shard is committed
 *
 * Who finds a decided shard finishes it. Answers that come late, twice or never change nothing. Opened by
 * openstorage.ts.
 */
import { createHash } from "node:crypto";
import { mkdir, rm } from "node:fs/promises";
import { basename, join } from "node:path";
import { expected } from "../errors.ts";
import { io, isWriterGone } from "../files.ts";
import { fewAtOnce } from "./atonce.ts";
import { LocalAttempt, newTry, pendingName, removeAbandonedTries, type Try, writerOfTry } from "./attempt.ts";
import type { Item } from "./item.ts";
import type { Plan, PlanStart } from "./plan.ts";
import { joinLocation, parseS3, resolveLocation } from "./s3/address.ts";
import { S3Client } from "./s3/client.ts";
import { PlanCopy } from "./s3/plancopy.ts";
import { probeStore } from "./s3/probe.ts";
import { isStoreGone } from "./s3/request.ts";
import { abandonUpload, copyObject, hashOfObject, type OpenUpload, openUploads, uploadFile } from "./s3/upload.ts";
import type { Refused } from "./source.ts";
import {
  abandonedMs,
  type Attempt,
  checkedEntry,
  type CommitStep,
  type Decided,
  manifestBytes,
  type OnStep,
  type SetEntry,
  setName,
  type ShardEntry,
  stemOfManifest,
  type Step,
  type Storage,
} from "./storage.ts";

/**
 * How long to wait for requests of a killed process: a store refuses those that were signed more than 15 minutes ago.
 */
const lateMs = 20 * 60_000;

export class S3Storage implements Storage {
  readonly folder: string;
  readonly private: string;
  readonly #client: S3Client;
  readonly #plan: PlanCopy;
  readonly #prefix: string;
  readonly #onStep: OnStep;
  #isProbed = false;

  constructor(location: string, onStep: OnStep = () => {}, signal?: AbortSignal) {
    const { bucket, key } = parseS3(location);
    this.folder = resolveLocation(location);
    this.#client = S3Client.of(bucket).with(signal);
    this.#prefix = key === "" ? "" : `${key}/`;
    this.#plan = new PlanCopy(this.#client, `${this.#prefix}plan.jsonl`);
    this.private = join(this.#plan.folder, ".ctok");
    this.#onStep = onStep;
  }

  #key(...names: string[]): string {
    return this.#prefix + names.join("/");
  }
  manifestOf(stem: string): string {
    return joinLocation(this.folder, "manifest", `${stem}.json`);
  }

  plan(): Promise<Plan> {
    return this.#plan.open();
  }

  async writePlan(start: PlanStart, found: AsyncIterable<Item | Refused>): Promise<Plan> {
    await this.#probe();
    return await this.#plan.write(start, found);
  }

  async prepare(): Promise<void> {
    await io(this.private, "write", mkdir(join(this.private, "pending"), { recursive: true }));
    await this.#probe();
  }

  async #probe(): Promise<void> {
    if (!this.#isProbed) await probeStore(this.#client, this.#key(".ctok", ""));
    this.#isProbed = true;
  }

  committed(): Promise<Set<string>> {
    return this.#stemsIn("manifest");
  }

  async #stemsIn(folder: string): Promise<Set<string>> {
    const stems = new Set<string>();
    for await (const name of this.#namesIn(folder)) {
      const stem = stemOfManifest(name);
      if (stem !== undefined) stems.add(stem);
    }
    return stems;
  }

  async isCommitted(stem: string): Promise<boolean> {
    return await this.#client.head(this.#key("manifest", `${stem}.json`)) !== undefined;
  }

  async entry(stem: string): Promise<ShardEntry> {
    const bytes = await this.#client.get(this.#key("manifest", `${stem}.json`)), name = this.manifestOf(stem);
    if (!bytes) throw expected(name, "a manifest", "none", "FILE_MISSING");
    return checkedEntry<ShardEntry>(name, bytes, "ctok-shard-1");
  }

  async setEntry(): Promise<SetEntry | undefined> {
    const bytes = await this.#client.get(this.#key("manifest", setName));
    return bytes && checkedEntry<SetEntry>(joinLocation(this.folder, "manifest", setName), bytes, "ctok-set-1");
  }

  async writeSet(plan: string, all: ReadonlyMap<string, Uint8Array>): Promise<void> {
    const files: SetEntry["files"][number][] = [];
    for (const [name, bytes] of [...all].sort(([a], [b]) => a < b ? -1 : 1)) {
      await this.#client.put(this.#key(name), bytes);
      files.push({ name, bytes: bytes.length, sha256: createHash("sha256").update(bytes).digest("hex") });
    }
    await this.#client.putNew(this.#key("manifest", setName), manifestBytes({ format: "ctok-set-1", plan, files }));
  }

  note(name: string): Promise<Uint8Array | undefined> {
    return this.#client.get(this.#key(".ctok/notes", name));
  }
  writeNote(name: string, bytes: Uint8Array): Promise<boolean> {
    return this.#client.putNew(this.#key(".ctok/notes", name), bytes);
  }
  removeNote(name: string): Promise<void> {
    return this.#client.remove(this.#key(".ctok/notes", name));
  }
  async notes(folder: string): Promise<string[]> {
    const all: string[] = [];
    for await (const name of this.#namesIn(`.ctok/notes/${folder}`)) all.push(`${folder}/${name}`);
    return all.sort();
  }

  async *#namesIn(folder: string): AsyncGenerator<string> {
    const prefix = this.#key(folder, "");
    for await (const { objects } of this.#client.list(prefix, "/")) {
      for (const { key } of objects) yield key.slice(prefix.length);
    }
  }

  /** Note: tries are listed before decisions, so a try that is decided after that is not taken for abandoned. */
  async recover(): Promise<void> {
    const tries = await this.#tries();
    for (const stem of await this.#stemsIn(".ctok/decided")) await this.settle(stem);
    for (const [name, { idleMs, uploads }] of tries) {
      const writer = writerOfTry(name), isGone = writer !== undefined && isWriterGone(writer);
      if (!(idleMs > (isGone ? lateMs : abandonedMs))) continue;
      for (const { key, id } of uploads) await abandonUpload(this.#client, key, id);
      await this.#removeTry(this.#client, name);
    }
    await removeAbandonedTries(join(this.private, "pending"));
  }

  /** Tries of which something is there, and for how long nothing came, by the store's clock. */
  async #tries(): Promise<Map<string, { idleMs: number; uploads: OpenUpload[] }>> {
    const prefix = this.#key(".ctok/pending", ""), tries = new Map<string, { idleMs: number; uploads: OpenUpload[] }>();
    let nowMs = Date.now();
    const add = (key: string, atMs: number, uploads: OpenUpload[]) => {
      const name = key.slice(prefix.length).split("/")[0]!, before = tries.get(name);
      const idleMs = Math.min(before?.idleMs ?? Infinity, nowMs - atMs);
      tries.set(name, { idleMs, uploads: [...before?.uploads ?? [], ...uploads] });
    };
    for await (const page of this.#client.list(prefix)) {
      nowMs = page.nowMs;
      for (const { key, modifiedMs } of page.objects) add(key, modifiedMs, []);
    }
    for (const upload of await openUploads(this.#client, prefix)) add(upload.key, upload.begunMs, [upload]);
    return tries;
  }

  async #removeTry(client: S3Client, name: string): Promise<void> {
    for await (const { objects } of client.list(this.#key(".ctok/pending", name, ""))) {
      await fewAtOnce(objects.length, (i) => client.remove(objects[i]!.key));
    }
  }

  async begin(stem: string, index: number): Promise<Attempt> {
    const made = await newTry(join(this.private, "pending"), stem, index), begunMs = Date.now();
    await this.#onStep("begun", index);
    return new LocalAttempt(this.folder, made, (place, decided) => this.#decide(place, decided, begunMs));
  }

  /** Decides for this try, unless another has won, and gives the winner's objects their final names. */
  async #decide({ stem, index, folder }: Try, decided: Decided, begunMs: number): Promise<boolean> {
    const step = (name: CommitStep) => this.#onStep(name, index), name = basename(folder);
    await step("written");
    try {
      for (const { name: file } of decided.entry.files) {
        const own = pendingName(decided.id, file);
        await uploadFile(this.#client, join(folder, own), this.#key(".ctok/pending", name, own));
      }
    } catch (error) {
      if (!isStoreGone(error)) await this.#removeTry(this.#client.with(undefined), name).catch(() => {});
      throw error;
    }
    await step("entered");
    const hours = (Date.now() - begunMs) / 3_600_000, most = abandonedMs / 2 / 3_600_000;
    if (hours > most) throw expected(name, `a try of at most ${most} hours`, `${Math.round(hours)} hours`, "FILE_IO");
    const body = new TextEncoder().encode(JSON.stringify({ name, ...decided } satisfies Kept));
    const isFirst = !await this.isCommitted(stem) && await this.#client.putNew(this.#decidedOf(stem), body);
    if (isFirst) await step("decided");
    await rm(folder, { recursive: true, force: true });
    // Another worker may have removed this decision, as one that came too late, and left its objects: then they are
    // removed here.
    if (await this.#settle(stem, step) !== name) await this.#removeTry(this.#client, name);
    return isFirst;
  }

  async settle(stem: string): Promise<void> {
    await this.#settle(stem, () => {});
  }

  /** Commits the try that was decided, where one was, and gives the name of that try. */
  async #settle(stem: string, step: Step): Promise<string | undefined> {
    // The decision is read before the manifest is looked for. So a decision of a worker that did not see another's
    // commit is known to be too late.
    const said = await this.#client.get(this.#decidedOf(stem));
    if (!said) return undefined;
    const kept: Kept = JSON.parse(new TextDecoder().decode(said));
    if (!await this.isCommitted(stem)) await this.#place(kept, step);
    await this.#removeTry(this.#client, kept.name);
    await this.#client.remove(this.#decidedOf(stem));
    await step("tidied");
    return kept.name;
  }

  /**
   * Note: only files of one try are copied to the final names, so a worker that comes late writes what is there
   * already.
   */
  async #place({ name, id, entry }: Kept, step: Step): Promise<void> {
    for (const file of entry.files) {
      const to = this.#key(file.name), from = this.#key(".ctok/pending", name, pendingName(id, file.name));
      const isCopied = await copyObject(this.#client, from, to, file.bytes);
      const sha256 = await hashOfObject(this.#client, to, file.bytes);
      if (sha256 !== file.sha256) {
        if (await this.isCommitted(entry.stem)) return; // by others, who have tidied up
        const wanted = `an object of ${file.bytes} bytes with sha256 ${file.sha256}`;
        throw expected(this.#client.name(to), wanted, sha256 ?? (isCopied ? "another size" : "none"), "FILE_IO");
      }
      await step("placing");
    }
    await step("placed");
    await this.#client.putNew(this.#key("manifest", `${entry.stem}.json`), manifestBytes(entry));
    await step("committed");
  }

  #decidedOf(stem: string): string {
    return this.#key(".ctok/decided", `${stem}.json`);
  }
}

/** What is stored of a decision: the outcome, and where the winner's objects are. */
type Kept = Decided & { readonly name: string };
