/**
 * A corpus in a folder, of one machine or of a disk that several share. All that touches the folder's shards and
 * manifests is here. docs/dataset.md proves the steps:
 *
 *   pending/SHARD-WRITER-ID/   a shard that is being made: its files under names that nobody else has, then
 *                              entry.json, all synced
 *   decided/SHARD/             the same folder renamed: one rename wins, as one that is not empty is never replaced
 *   SHARD.tar, …               its files renamed to their names, then
 *   manifest/SHARD.json        its entry: from here on the shard is committed and never touched again
 *
 * Who finds a decided shard finishes it, so nothing depends on two workers making the same bytes. Opened by
 * openstorage.ts.
 */
import { createHash, randomBytes } from "node:crypto";
import { existsSync } from "node:fs";
import { link, mkdir, open, readdir, rename, rm, rmdir, stat } from "node:fs/promises";
import { dirname, join } from "node:path";
import { expected, TokenizerError } from "../errors.ts";
import { io, readWholeFile, syncFolder, writeFileAtomic, writerName } from "../files.ts";
import { LocalAttempt, newTry, pendingName, removeAbandonedTries, type Try } from "./attempt.ts";
import type { Item } from "./item.ts";
import { Plan, type PlanStart } from "./plan.ts";
import type { Refused } from "./source.ts";
import {
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

const entryName = "entry.json";

export class FolderStorage implements Storage {
  readonly folder: string;
  readonly #onStep: OnStep;

  constructor(folder: string, onStep: OnStep = () => {}) {
    this.folder = folder;
    this.#onStep = onStep;
  }

  get private(): string {
    return join(this.folder, ".ctok");
  }
  get #manifests(): string {
    return join(this.folder, "manifest");
  }
  manifestOf(stem: string): string {
    return join(this.#manifests, `${stem}.json`);
  }
  get #notes(): string {
    return join(this.private, "notes");
  }
  #decidedOf(stem: string): string {
    return join(this.private, "decided", stem);
  }

  plan(): Promise<Plan> {
    return Plan.open(this.folder);
  }

  async writePlan(start: PlanStart, found: AsyncIterable<Item | Refused>): Promise<Plan> {
    await io(this.folder, "write", mkdir(this.folder, { recursive: true }));
    return await Plan.write(this.folder, start, found);
  }

  async prepare(): Promise<void> {
    for (const folder of [this.#manifests, join(this.private, "pending"), join(this.private, "decided")]) {
      await io(folder, "write", mkdir(folder, { recursive: true }));
    }
  }

  async committed(): Promise<Set<string>> {
    const names = await readdir(this.#manifests).catch(() => []);
    return new Set(names.flatMap((name) => stemOfManifest(name) ?? []));
  }

  isCommitted(stem: string): Promise<boolean> {
    return Promise.resolve(existsSync(this.manifestOf(stem)));
  }

  async entry(stem: string): Promise<ShardEntry> {
    const path = this.manifestOf(stem);
    return checkedEntry<ShardEntry>(path, await readWholeFile(path), "ctok-shard-1");
  }

  async setEntry(): Promise<SetEntry | undefined> {
    const path = join(this.#manifests, setName), bytes = await readWholeFile(path).catch(missingAsUndefined);
    return bytes && checkedEntry<SetEntry>(path, bytes, "ctok-set-1");
  }

  async writeSet(plan: string, all: ReadonlyMap<string, Uint8Array>): Promise<void> {
    const files: SetEntry["files"][number][] = [];
    for (const [name, bytes] of [...all].sort(([a], [b]) => a < b ? -1 : 1)) {
      const path = join(this.folder, name);
      await io(path, "write", mkdir(dirname(path), { recursive: true }));
      await writeFileAtomic(path, bytes);
      await syncFolder(dirname(path));
      files.push({ name, bytes: bytes.length, sha256: createHash("sha256").update(bytes).digest("hex") });
    }
    const entry: SetEntry = { format: "ctok-set-1", plan, files };
    await this.#writeManifest(setName, entry);
  }

  note(name: string): Promise<Uint8Array | undefined> {
    return readWholeFile(join(this.#notes, name)).catch(missingAsUndefined);
  }

  async writeNote(name: string, bytes: Uint8Array): Promise<boolean> {
    const path = join(this.#notes, name), pending = `${path}-${writerName}-${randomBytes(8).toString("hex")}.tmp`;
    await io(path, "write", mkdir(dirname(path), { recursive: true }));
    try {
      await writeSynced(pending, bytes);
      return await link(pending, path).then(() => true, (error) => {
        return error.code === "EEXIST" ? false : io(path, "write", Promise.reject(error));
      });
    } finally {
      await rm(pending, { force: true });
    }
  }

  async removeNote(name: string): Promise<void> {
    await io(join(this.#notes, name), "write", rm(join(this.#notes, name), { force: true }));
  }

  async notes(folder: string): Promise<string[]> {
    const names = await readdir(join(this.#notes, folder)).catch(() => []);
    return names.filter((name) => !name.endsWith(".tmp")).sort().map((name) => join(folder, name));
  }

  async recover(): Promise<void> {
    for (const stem of await readdir(join(this.private, "decided")).catch(() => [])) await this.settle(stem);
    await removeAbandonedTries(join(this.private, "pending"));
  }

  async begin(stem: string, index: number): Promise<Attempt> {
    const made = await newTry(join(this.private, "pending"), stem, index);
    await this.#onStep("begun", index);
    return new LocalAttempt(this.folder, made, (place, decided) => this.#decide(place, decided));
  }

  /** Decides for this try, unless another has won, and gives the winner's files their final names. */
  async #decide({ stem, index, folder }: Try, decided: Decided): Promise<boolean> {
    const step = (name: CommitStep) => this.#onStep(name, index);
    await step("written");
    await writeSynced(join(folder, entryName), new TextEncoder().encode(JSON.stringify(decided)));
    await syncFolder(folder);
    await step("entered");
    const target = this.#decidedOf(stem);
    const isFirst = !await this.isCommitted(stem) && await rename(folder, target).then(() => true, (error) => {
      if (["ENOTEMPTY", "EEXIST"].includes(error.code)) return false;
      return io(target, "write", Promise.reject(error));
    });
    if (isFirst) {
      await syncFolder(dirname(target));
      await step("decided");
    } else await rm(folder, { recursive: true, force: true });
    await this.settle(stem, step);
    return isFirst;
  }

  async settle(stem: string, step: Step = () => {}): Promise<void> {
    const decided = this.#decidedOf(stem);
    if (!existsSync(decided)) return;
    // The decision is read before the manifest is looked for. So a decision of a worker that did not see another's
    // commit is known to be too late.
    const said = await readWholeFile(join(decided, entryName)).catch(missingAsUndefined);
    if (said && !await this.isCommitted(stem)) {
      await this.#place(decided, JSON.parse(new TextDecoder().decode(said)), step);
    }
    // A decided folder without an entry and without a commit should not exist: it is left for people to look at.
    if (!await this.isCommitted(stem)) return;
    await rm(join(decided, entryName), { force: true });
    // Files that a losing try left after the winner had removed the others.
    for (const name of await readdir(decided).catch(() => [])) await rm(join(decided, name), { force: true });
    await rmdir(decided).catch(() => {});
    await step("tidied");
  }

  /**
   * Note: names within a decided folder begin with the try's own id, so that nobody can take the file of another try
   * for it.
   */
  async #place(decided: string, { id, entry }: Decided, step: Step): Promise<void> {
    for (const { name, bytes } of entry.files) {
      const target = join(this.folder, name);
      await rename(join(decided, pendingName(id, name)), target).catch(async (error) => {
        if (error.code !== "ENOENT") return await io(target, "write", Promise.reject(error));
        // The file may have its final name already: from a worker that was killed, or from another that commits the
        // same shard.
        const found = await stat(target).catch(() => undefined);
        if (found?.size !== bytes) throw expected(target, `a file of ${bytes} bytes`, found?.size ?? "none", "FILE_IO");
      });
      await step("placing");
    }
    await syncFolder(this.folder);
    await step("placed");
    await this.#writeManifest(`${entry.stem}.json`, entry);
    await step("committed");
  }

  async #writeManifest(name: string, entry: ShardEntry | SetEntry): Promise<void> {
    await writeFileAtomic(join(this.#manifests, name), manifestBytes(entry));
    await syncFolder(this.#manifests);
  }
}

async function writeSynced(path: string, bytes: Uint8Array): Promise<void> {
  const file = await io(path, "write", open(path, "wx"));
  try {
    await io(path, "write", file.writeFile(bytes));
    await io(path, "write", file.sync());
  } finally {
    await file.close();
  }
}

function missingAsUndefined(error: unknown): undefined {
  if (error instanceof TokenizerError && error.code === "FILE_MISSING") return undefined;
  throw error;
}
