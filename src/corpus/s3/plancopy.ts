/**
 * The plan of a corpus in S3: one object, written once, and a copy of it in this machine's cache, from which workers
 * read their items. The copy is taken for the plan while the object's ETag and size are those it had, and the lines are
 * those of the header's hash. The folder of the copy is the corpus's own on this machine: leases and shards that are
 * being made are in its .ctok. Called by s3storage.ts.
 */
import { createHash, randomBytes } from "node:crypto";
import { mkdir, rename, rm, stat } from "node:fs/promises";
import { join } from "node:path";
import { cachesFolder } from "../../environment.ts";
import { expected, TokenizerError } from "../../errors.ts";
import { io, PendingFile, readWholeFile, writeFileAtomic } from "../../files.ts";
import type { Item } from "../item.ts";
import { Plan, type PlanStart } from "../plan.ts";
import type { Refused } from "../source.ts";
import type { ObjectInfo, S3Client } from "./client.ts";
import { probeParts } from "./probe.ts";
import { limits, uploadFile } from "./upload.ts";

export class PlanCopy {
  /** Where this machine keeps the copy: ctok/datasets/HASH in XDG_CACHE_HOME or ~/.cache. */
  readonly folder: string;
  readonly #client: S3Client;
  readonly #key: string;

  constructor(client: S3Client, key: string) {
    this.#client = client;
    this.#key = key;
    const hash = createHash("sha256").update(`${client.host}/${client.bucket}/${key}`).digest("hex");
    this.folder = join(cachesFolder(), "ctok/datasets", hash.slice(0, 16));
  }

  get #path(): string {
    return join(this.folder, "plan.jsonl");
  }
  /** The file that says which version of the object the copy was made of. */
  get #source(): string {
    return join(this.folder, "plan.source");
  }

  /**
   * Opens the copy of the plan, after fetching it where it is missing or old. Throws FILE_MISSING where there is no
   * plan, FILE_FORMAT for a damaged one.
   */
  async open(): Promise<Plan> {
    const found = await this.#client.head(this.#key);
    if (!found) throw expected(this.#client.name(this.#key), "a file", "none", "FILE_MISSING");
    return await this.#kept(found) ?? await this.#fetched(found);
  }

  /** Makes a plan and writes it where none is. Throws ARGUMENT, with both, where another was written meanwhile. */
  async write(start: PlanStart, found: AsyncIterable<Item | Refused>): Promise<Plan> {
    const folder = join(this.folder, `planning-${randomBytes(8).toString("hex")}`);
    await io(folder, "write", mkdir(folder, { recursive: true }));
    try {
      const made = await Plan.write(folder, start, found), { size } = await io(made.path, "read", stat(made.path));
      await probeParts(this.#client, this.#key, size);
      if (await uploadFile(this.#client, made.path, this.#key, true)) {
        await rm(join(this.folder, "plan.idx"), { force: true });
        await io(this.#path, "write", rename(made.path, this.#path));
        return await this.open();
      }
      const theirs = await this.open();
      if (theirs.id === made.id) return theirs;
      const name = this.#client.name(this.#key);
      throw new TokenizerError(
        "ARGUMENT",
        `${name}: expected no other plan than ours, ${tell(made)}, found ${tell(theirs)}`,
      );
    } finally {
      await rm(folder, { recursive: true, force: true });
    }
  }

  async #kept({ etag, bytes }: ObjectInfo): Promise<Plan | undefined> {
    try {
      const source = JSON.parse(new TextDecoder().decode(await readWholeFile(this.#source)));
      if (source.etag !== etag || source.bytes !== bytes) return undefined;
      const plan = await Plan.open(this.folder);
      await plan.checkLines();
      return plan;
    } catch {
      return undefined; // none, or a damaged one
    }
  }

  async #fetched(found: ObjectInfo): Promise<Plan> {
    const { etag, bytes } = found, name = this.#client.name(this.#key);
    await io(this.folder, "write", mkdir(this.folder, { recursive: true }));
    const pending = await PendingFile.create(this.#path);
    try {
      for (let at = 0; at < bytes; at += limits.partBytes) {
        const part = await this.#client.range(this.#key, etag, at, Math.min(limits.partBytes, bytes - at));
        if (!part) throw expected(name, `the object with ETag ${etag} to stay`, "another", "FILE_IO");
        await pending.write(part);
      }
      await rm(join(this.folder, "plan.idx"), { force: true });
      await pending.publish();
    } finally {
      await pending.discard();
    }
    const plan = await Plan.open(this.folder);
    await plan.checkLines();
    await writeFileAtomic(this.#source, new TextEncoder().encode(JSON.stringify({ etag, bytes })));
    return plan;
  }
}

function tell({ id, header: { numItems, model } }: Plan): string {
  return `${id} (${numItems} items, ${model.name})`;
}
