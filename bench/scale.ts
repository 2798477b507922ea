/**
 * What a corpus of very many items costs beside its tokens: `bun bench/scale.ts [ITEMS] [SHARDS]` (or `deno run -A`;
 * default 1,000,000 and 100,000; the folder for it is of TMPDIR, best one in memory). Measures the plan of a list, of
 * tars and of a folder, an opened plan, the manifests of so many shards with all that reads them, the ledger, and what
 * processes that find nothing free cost. docs/scale.md has the figures. Run by people.
 */
import { mkdirSync, mkdtempSync, readdirSync, rmSync, statSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import process from "node:process";
import { datasetStatus, planDataset, runDataset } from "mod.ts";
import { Ledger } from "../src/corpus/ledger.ts";
import { Plan } from "../src/corpus/plan.ts";
import { committedIn } from "../src/corpus/openleases.ts";
import { FolderStorage } from "../src/corpus/folderstorage.ts";
import { manifests, planOf, tarOf } from "./scale/made.ts";

const [, , givenItems = "1000000", givenShards = "100000"] = process.argv;
const numItems = Number(givenItems), numShards = Number(givenShards);
const folder = mkdtempSync(join(tmpdir(), "ctok-scale-"));

/**
 * Runs `work`, and tells its time by the clock and of the processors, and the most memory that was resident while it
 * ran.
 */
async function tell<T>(name: string, work: () => T | Promise<T>): Promise<T> {
  const cpu = process.cpuUsage(), start = performance.now();
  let most = process.memoryUsage().rss;
  const timer = setInterval(() => most = Math.max(most, process.memoryUsage().rss), 50);
  const result = await work();
  clearInterval(timer);
  const { user, system } = process.cpuUsage(cpu), ms = performance.now() - start;
  console.log(
    `${name.padEnd(58)} ${ms.toFixed(0).padStart(8)} ms, ${
      ((user + system) / 1000).toFixed(0).padStart(8)
    } of the processors, ` +
      `${(Math.max(most, process.memoryUsage().rss) / 1e6).toFixed(0)} MB resident`,
  );
  return result;
}

/** Plans `inputs`; tells bytes an item. */
async function planned(name: string, inputs: readonly string[]): Promise<string> {
  const out = join(folder, `plan-${name}`);
  await tell(
    `plan of ${numItems} items: ${name}`,
    () => planDataset({ inputs, out, shardSize: Math.ceil(numItems / numShards) }),
  );
  const { size } = statSync(join(out, "plan.jsonl"));
  console.log(`  plan.jsonl ${size} bytes, ${(size / numItems).toFixed(1)} an item`);
  return out;
}

function listInput(): string {
  const picture = join(folder, "one.jpg"), list = join(folder, "list.jsonl"), lines: string[] = [];
  writeFileSync(picture, "x");
  for (let i = 0; i < numItems; i++) lines.push(`{"path":"one.jpg","key":"picture_${String(i).padStart(9, "0")}"}\n`);
  writeFileSync(list, lines.join(""));
  return list;
}

function tarInputs(): string {
  const path = join(folder, "tars"), ofTar = 10_000;
  mkdirSync(path);
  for (let i = 0; i * ofTar < numItems; i++) {
    const name = String(i).padStart(5, "0"), count = Math.min(ofTar, numItems - i * ofTar);
    writeFileSync(join(path, `${name}.tar`), tarOf(count, (k) => `${name}${String(k).padStart(4, "0")}`));
  }
  return path;
}

function folderInput(): string {
  const path = join(folder, "files");
  for (let i = 0; i < numItems; i++) {
    if (i % 1000 === 0) mkdirSync(join(path, String(i / 1000).padStart(6, "0")), { recursive: true });
    writeFileSync(join(path, String(Math.floor(i / 1000)).padStart(6, "0"), `${i}.jpg`), "x");
  }
  return path;
}

async function plans(): Promise<void> {
  await planned("list", [`@${listInput()}`]);
  await planned("tars", [tarInputs()]);
  rmSync(join(folder, "tars"), { recursive: true });
  await planned("folder", [folderInput()]);
  rmSync(join(folder, "files"), { recursive: true });
  for (const name of ["list", "tars", "folder"]) rmSync(join(folder, `plan-${name}`), { recursive: true });
}

async function opened(): Promise<string> {
  const out = join(folder, "corpus");
  await tell(
    `a plan of ${numItems} items and ${numShards} shards, written alone`,
    () => planOf(out, { numItems, numShards }),
  );
  const plan = await tell("plan opened", () => Plan.open(out));
  await tell("a first shard's items, plan.idx being made", () => plan.items(0));
  console.log(`  plan.idx ${statSync(join(out, "plan.idx")).size} bytes`);
  const again = await Plan.open(out);
  await tell("a first shard's items, plan.idx being there", () => again.items(numShards >> 1));
  await tell("1000 more shards' items", async () => {
    for (let i = 0; i < 1000; i++) await again.items(i * 7919 % numShards);
  });
  return out;
}

async function committed(out: string): Promise<void> {
  const plan = await Plan.open(out), storage = new FolderStorage(out);
  await storage.prepare();
  await tell(`start of a run: recover, nothing left`, () => storage.recover());
  const bytes = await tell(`${numShards} manifests written`, () => manifests(plan, storage));
  console.log(`  a manifest ${(bytes / numShards).toFixed(0)} bytes`);
  await tell("names of the committed shards", () => storage.committed());
  await tell("status", () => datasetStatus(out));
  await tell("a run of the finished corpus, set files made", () => runDataset(out));
  await tell("a run of the finished corpus", () => runDataset(out));
  console.log(
    `  ${
      readdirSync(join(out, ".nv-meta")).map((name) => `${name} ${statSync(join(out, ".nv-meta", name)).size}`)
    } bytes`,
  );
}

async function ledgers(): Promise<void> {
  const at = join(folder, "ledger"), none = () => Promise.resolve(new Set<number>());
  mkdirSync(at);
  const options = { plan: "plan", numShards, committed: none };
  const ledger = await tell(`ledger of ${numShards} shards made`, () => Ledger.open(at, options));
  const other = await tell("ledger opened by another", () => Ledger.open(at, options));
  const taken: number[] = [];
  const take = async (count: number) => {
    for (let i = 0; i < count; i++) taken.push((await ledger.next())!);
  };
  await tell("1000 shards taken", () => take(1000));
  await tell("1000 shards done", () => taken.splice(0).forEach((index) => ledger.done(index)));
  await other.next();
  await tell(`all but one taken and done`, async () => {
    for (let i = 1001; i < numShards; i++) ledger.done((await ledger.next())!);
  });
  await tell("shards that are done counted, 100 times", () => {
    for (let i = 0; i < 100; i++) ledger.numDone();
  });
  await ledger[Symbol.asyncDispose]();
  await other[Symbol.asyncDispose]();
  const all = new Set(Array.from({ length: numShards }, (_, i) => i));
  const late = await tell(
    "ledger opened, all committed",
    () => Ledger.open(at, { ...options, committed: () => Promise.resolve(all) }),
  );
  await late[Symbol.asyncDispose]();
  console.log(`  ledger.sqlite ${statSync(join(at, "ledger.sqlite")).size} bytes`);
}

/** One that finds nothing free, for some seconds, while another holds the last shard. */
async function waiting(out: string): Promise<void> {
  const plan = await Plan.open(out), storage = new FolderStorage(out), seconds = 10;
  rmSync(storage.manifestOf(plan.stemOf(0)));
  const options = { plan: plan.id, numShards, committed: committedIn(plan, storage) };
  const at = join(folder, "waiting");
  mkdirSync(at);
  await using holder = await Ledger.open(at, options);
  await holder.next();
  await using idle = await Ledger.open(at, options);
  await tell(`${seconds} seconds of one that finds nothing free`, () => {
    return idle.next(AbortSignal.timeout(seconds * 1000)).catch(() => undefined);
  });
}

try {
  console.log(
    `${process.versions.bun ? `Bun ${process.versions.bun}` : `Deno ${process.versions.deno ?? "none"}`}, ${folder}`,
  );
  await plans();
  const out = await opened();
  await committed(out);
  await ledgers();
  await waiting(out);
} finally {
  rmSync(folder, { recursive: true, force: true });
}
