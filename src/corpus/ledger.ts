/**
 * Who works on which shard: leases that expire, in SQLite, for any number of processes on one machine. The truth is in
 * the manifests and not here: the file may be removed at any time, and two processes may then make one shard, of which
 * one is committed. Called by run.ts, which does without it where there is no SQLite.
 */
import { randomBytes } from "node:crypto";
import { existsSync } from "node:fs";
import { rm } from "node:fs/promises";
import { join } from "node:path";
import { setTimeout } from "node:timers/promises";
import { messageOf, TokenizerError } from "../errors.ts";
import { isWriterGone, writerName } from "../files.ts";
import type { Leases, LeasesOptions } from "./leases.ts";

/** A shard that a process is working on. */
export interface LeasedShard {
  readonly index: number;
  readonly owner: string;
  readonly numItems: number;
}

/**
 * How long a lease lasts after its last renewal. A worker may be stopped for longer than that: the commit allows for
 * it.
 */
const leaseMs = 60_000, renewMs = 5_000, pollMs = 500;
const open = 0, leased = 1, done = 2;

const schema = `
  CREATE TABLE IF NOT EXISTS about (plan TEXT NOT NULL);
  CREATE TABLE IF NOT EXISTS shards (
    number INTEGER PRIMARY KEY, state INTEGER NOT NULL, owner TEXT,
    expires INTEGER NOT NULL DEFAULT 0, items INTEGER NOT NULL DEFAULT 0
  );
  CREATE INDEX IF NOT EXISTS by_state ON shards (state, number);`;

type Database = import("node:sqlite").DatabaseSync;
type Statement = import("node:sqlite").StatementSync;

export class Ledger implements Leases {
  readonly #db: Database;
  readonly #statements = new Map<string, Statement>();
  readonly #path: string;
  readonly #options: LeasesOptions;
  readonly #owner = `${writerName}-${randomBytes(4).toString("hex")}`;
  readonly #held = new Map<number, number>();
  readonly #timer: ReturnType<typeof setInterval>;
  #numDone = 0;

  private constructor(db: Database, path: string, options: LeasesOptions) {
    this.#db = db;
    this.#path = path;
    this.#options = options;
    this.#timer = setInterval(() => this.#renew(), renewMs);
  }

  /** Opens the ledger of a folder, or makes one; one that cannot be read is replaced. Throws FILE_IO. */
  static async open(folder: string, options: LeasesOptions): Promise<Ledger> {
    const path = join(folder, "ledger.sqlite");
    for (let isFirst = true;; isFirst = false) {
      let db: Database | undefined;
      try {
        db = await database(path);
        await setUp(db, options);
        return new Ledger(db, path, options);
      } catch (cause) {
        db?.close();
        if (!isFirst || /locked|busy|full/i.test(messageOf(cause))) throw refused(path, cause);
        for (const end of ["", "-journal", "-wal", "-shm"]) await rm(path + end, { force: true });
      }
    }
  }

  async next(signal?: AbortSignal): Promise<number | undefined> {
    for (;;) {
      const { got, isLeft } = this.#take();
      if (got !== undefined || !isLeft) return got;
      await setTimeout(pollMs, undefined, signal ? { signal } : {});
      const committed = await this.#options.committed(this.#ofOthers()); // by one whose ledger was another file
      this.#guarded(() => committed.forEach((index) => this.#sql(markDone).run(index)));
    }
  }

  /** Takes a free shard; where there is none, says whether other workers still hold some. */
  #take(): { readonly got: number | undefined; readonly isLeft: boolean } {
    return this.#guarded(() => {
      this.#freeAbandoned();
      const got = this.#sql(
        `UPDATE shards SET state = ${leased}, owner = ?, expires = ?, items = 0 WHERE number =
           (SELECT number FROM shards WHERE state = ${open} ORDER BY number LIMIT 1) RETURNING number`,
      ).get(this.#owner, Date.now() + leaseMs) as { number: number } | undefined;
      if (got) this.#held.set(got.number, 0);
      const others = this.#sql(`SELECT count(*) n FROM shards WHERE state = ${leased} AND owner <> ?`);
      return { got: got?.number, isLeft: (others.get(this.#owner) as { n: number }).n > 0 };
    });
  }

  #ofOthers(): number[] {
    const sql = `SELECT number FROM shards WHERE state = ${leased} AND owner <> ?`;
    return this.#guarded(() => (this.#sql(sql).all(this.#owner) as { number: number }[]).map(({ number }) => number));
  }

  /** A prepared statement, kept: the runtimes free one only at a garbage collection, and it takes 3 KB. */
  #sql(text: string): Statement {
    const statement = this.#statements.get(text) ?? this.#db.prepare(text);
    this.#statements.set(text, statement);
    return statement;
  }

  #guarded<T>(work: () => T): T {
    try {
      return work();
    } catch (cause) {
      throw refused(this.#path, cause);
    }
  }

  done(index: number): void {
    this.#held.delete(index);
    this.#try(`UPDATE shards SET state = ${done}, owner = NULL WHERE number = ?`, index);
  }

  release(index: number): void {
    this.#held.delete(index);
    const sql = `UPDATE shards SET state = ${open}, owner = NULL WHERE number = ? AND owner = ? AND state = ${leased}`;
    this.#try(sql, index, this.#owner);
  }

  numDone(): number {
    try {
      const { n } = this.#sql(`SELECT count(*) n FROM shards WHERE state = ${done}`).get() as { n: number };
      return this.#numDone = n;
    } catch {
      return this.#numDone; // asked for by a clock, on a full disk as well
    }
  }

  tell(index: number, numItems: number): void {
    if (this.#held.has(index)) this.#held.set(index, numItems);
  }

  /** Frees leases that have expired, or whose process is gone. */
  #freeAbandoned(): void {
    const owners = this.#sql(`SELECT DISTINCT owner FROM shards WHERE state = ${leased}`).all() as {
      owner: string;
    }[];
    const free = this.#sql(
      `UPDATE shards SET state = ${open}, owner = NULL WHERE state = ${leased} AND owner = ? AND (expires < ? OR ?)`,
    );
    for (const { owner } of owners) {
      if (owner !== this.#owner) free.run(owner, Date.now(), isWriterGone(owner) ? 1 : 0);
    }
  }

  #renew(): void {
    const sql = "UPDATE shards SET expires = ?, items = ? WHERE number = ? AND owner = ?";
    for (const [index, items] of this.#held) this.#try(sql, Date.now() + leaseMs, items, index, this.#owner);
  }

  /** Runs an update that may fail, as on a full disk, without harm: the lease expires, and the manifest is there. */
  #try(sql: string, ...values: (number | string)[]): void {
    try {
      this.#sql(sql).run(...values);
    } catch {
      // No harm: see above.
    }
  }

  [Symbol.asyncDispose](): Promise<void> {
    clearInterval(this.#timer);
    for (const index of [...this.#held.keys()]) this.release(index);
    this.#db.close();
    return Promise.resolve();
  }
}

/** The shards that the ledger of a folder has as being worked on; none where there is no ledger. */
export async function leasedShards(folder: string, plan: string): Promise<LeasedShard[]> {
  const path = join(folder, "ledger.sqlite");
  if (!existsSync(path)) return [];
  try {
    using db = closing(await database(path));
    if ((db.value.prepare("SELECT plan FROM about").get() as { plan: string } | undefined)?.plan !== plan) return [];
    const rows = db.value.prepare(
      `SELECT number AS "index", owner, items AS numItems FROM shards WHERE state = ${leased} AND expires >= ? ` +
        "ORDER BY number",
    ).all(Date.now()) as unknown as LeasedShard[];
    return rows.filter(({ owner }) => !isWriterGone(owner)).map((row) => ({ ...row }));
  } catch {
    return []; // being made anew
  }
}

/** Whether there can be a ledger: Node has SQLite from 22.13 on, the other runtimes in every version that runs ctok. */
export const hasSqlite = () => import("node:sqlite").then(() => true, () => false);

/**
 * Opens the ledger's database. Note: with a rollback journal and not WAL, so that the file may be removed by itself. It
 * is not synced: a lost ledger costs nothing but work.
 */
async function database(path: string): Promise<Database> {
  const { DatabaseSync } = await import("node:sqlite");
  const db = new DatabaseSync(path);
  db.exec("PRAGMA busy_timeout = 10000; PRAGMA journal_mode = DELETE; PRAGMA synchronous = OFF");
  return db;
}

async function setUp(db: Database, { plan, numShards, committed }: LeasesOptions): Promise<void> {
  const found = await committed();
  db.exec("BEGIN IMMEDIATE");
  db.exec(schema);
  if ((db.prepare("SELECT plan FROM about").get() as { plan: string } | undefined)?.plan !== plan) {
    db.exec("DELETE FROM about; DELETE FROM shards");
    db.prepare("INSERT INTO about VALUES (?)").run(plan);
    db.prepare(
      `WITH RECURSIVE all_numbers(n) AS (SELECT 0 UNION ALL SELECT n + 1 FROM all_numbers WHERE n + 1 < ?)
         INSERT INTO shards (number, state) SELECT n, ${open} FROM all_numbers WHERE n < ?`,
    ).run(numShards, numShards);
  }
  // A shard whose manifest was removed is to be made again.
  const said = db.prepare(`SELECT number FROM shards WHERE state = ${done}`).all() as { number: number }[];
  const reopen = db.prepare(`UPDATE shards SET state = ${open} WHERE number = ?`);
  for (const { number } of said) if (!found.has(number)) reopen.run(number);
  const mark = db.prepare(markDone);
  for (const index of found) mark.run(index);
  db.exec("COMMIT");
}

const markDone = `UPDATE shards SET state = ${done}, owner = NULL WHERE number = ? AND state <> ${done}`;

function refused(path: string, cause: unknown): TokenizerError {
  return new TokenizerError("FILE_IO", `${path}: expected a ledger, or to make one, found ${messageOf(cause)}`, {
    cause,
  });
}

function closing(value: Database): { readonly value: Database } & Disposable {
  return { value, [Symbol.dispose]: () => value.close() };
}
