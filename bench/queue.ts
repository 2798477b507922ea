/**
 * What a queue costs: `bun bench/queue.ts [SHARDS]` (or `deno run -A`), with redis-server on the PATH. Measures the
 * queue alone over SHARDS shards (10,000): time of one from asking to done, and Redis's memory on the way; then, in
 * turns, one worker of all threads beside six of one thread on a corpus of JPEGs with the embedded model: by the clock
 * and in processor time, so that a shared machine can be judged.
 */
import { spawn, spawnSync } from "node:child_process";
import { mkdirSync, mkdtempSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import { availableParallelism, tmpdir } from "node:os";
import { join } from "node:path";
import process from "node:process";
import { setTimeout } from "node:timers/promises";
import { fileURLToPath } from "node:url";
import sharp from "sharp";
import { planDataset } from "mod.ts";
import { Queue } from "../src/corpus/queue.ts";

const [, , given = "10000"] = process.argv, numShards = Number(given), port = 7391, url = `redis://127.0.0.1:${port}`;
const numItems = 1200, shardSize = 10, rounds = 3, side = 256;
const folder = mkdtempSync(join(tmpdir(), "ctok-queue-")), out = join(folder, "out");
const redis = spawn("redis-server", ["--port", String(port), "--dir", folder, "--save", "", "--appendonly", "yes"]);
const cli = (...args: string[]) =>
  spawnSync("redis-cli", ["-p", String(port), ...args], { encoding: "utf8" }).stdout.trim();
const usedKb = () => Math.round(Number(/used_memory:(\d+)/.exec(cli("info", "memory"))![1]) / 1000);
const median = (all: readonly number[]) => all.toSorted((a, b) => a - b)[Math.floor(all.length / 2)]!;

/** One worker that asks, and is done at once. */
async function queueAlone(): Promise<void> {
  const done = new Set<number>(), memory: number[] = [usedKb()], times: number[] = [];
  await using queue = await Queue.open(url, {
    plan: "bench",
    numShards,
    committed: () => Promise.resolve(done),
    parked: () => Promise.resolve(new Set<number>()),
    park: () => Promise.reject(new Error("parked")),
    note: (text) => console.log(text),
  });
  const cpu = process.cpuUsage(), start = performance.now();
  for (let before = start, index; (index = await queue.next()) !== undefined; before = performance.now()) {
    done.add(index);
    queue.done(index);
    times.push(performance.now() - before);
    if (done.size % Math.ceil(numShards / 10) === 0) memory.push(usedKb());
  }
  const { user, system } = process.cpuUsage(cpu), wallMs = (performance.now() - start) / numShards;
  if (done.size !== numShards) throw new Error(`${done.size} shards of ${numShards}`);
  console.log(
    `the queue alone, ${numShards} shards: ${wallMs.toFixed(2)} ms a shard by the clock, of the worker's processor`,
  );
  console.log(
    `${((user + system) / 1000 / numShards).toFixed(2)} ms; median from asking to the next ${
      median(times).toFixed(2)
    } ms`,
  );
  console.log(`memory of Redis before, and after each tenth: ${memory.join(", ")} kB`);
}

async function pictures(): Promise<string> {
  const input = join(folder, "in"), source = new URL("../examples/media/coffee.jpg", import.meta.url).pathname;
  const { width = 0, height = 0 } = await sharp(source).metadata();
  mkdirSync(input);
  for (let i = 0; i < numItems; i++) {
    const part = { left: (i * 37) % (width - side), top: (i * 23) % (height - side), width: side, height: side };
    writeFileSync(join(input, `${i}.jpg`), await sharp(source).extract(part).jpeg({ quality: 90 }).toBuffer());
  }
  return input;
}

interface Commit {
  readonly atMs: number;
  /** Of the processors, by then. */
  readonly cpuMs: number;
}
/** A worker process, as users run it; gives its commits. */
function worker(threads: number): Promise<Commit[]> {
  const main = fileURLToPath(new URL("../cli/main.ts", import.meta.url)), deno = ["run", "-A", "--no-check"];
  const program = [...(process.versions.deno ? deno : []), main, "dataset", "run", out];
  const child = spawn(process.execPath, [...program, "--queue", url, "--threads", String(threads), "--json"]);
  const commits: Commit[] = [];
  let rest = "";
  child.stdout.setEncoding("utf8").on("data", (text: string) => {
    const lines = (rest + text).split("\n");
    rest = lines.pop()!;
    for (const line of lines) {
      if (/"event":"shard"/.test(line)) commits.push({ atMs: performance.now(), cpuMs: cpuMsOf(child.pid!) });
    }
  });
  return new Promise((resolve, reject) =>
    child.on("close", (code) => code === 0 ? resolve(commits) : reject(new Error(`a worker ended with ${code}`)))
  );
}

/** As the kernel counts: in hundredths. */
function cpuMsOf(pid: number): number {
  const [user, system] = readFileSync(`/proc/${pid}/stat`, "utf8").split(") ")[1]!.split(" ").slice(11, 13).map(Number);
  return 10 * (user! + system!);
}

interface Rate {
  /** Pictures a second between the first commit and the last of all. */
  readonly rate: number;
  /** The processors' milliseconds a picture, of each worker from its first commit to its last. */
  readonly cpuMs: number;
}

async function rateOf(numWorkers: number, threads: number): Promise<Rate> {
  rmSync(join(out, "manifest"), { recursive: true, force: true });
  const all = await Promise.all(Array.from({ length: numWorkers }, () => worker(threads)));
  const times = all.flatMap((commits) => commits.map(({ atMs }) => atMs)).sort((a, b) => a - b);
  const spent = all.reduce((sum, commits) => sum + commits.at(-1)!.cpuMs - commits[0]!.cpuMs, 0);
  const items = (commits: number) => commits * shardSize;
  const rate = items(times.length - 1) / (times.at(-1)! - times[0]!) * 1000;
  return { rate, cpuMs: spent / items(times.length - numWorkers) };
}

try {
  while (cli("ping") !== "PONG") await setTimeout(50);
  await queueAlone();
  await planDataset({ inputs: [await pictures()], out, shardSize });
  const cores = availableParallelism(), one: Rate[] = [], six: Rate[] = [];
  for (let round = 0; round < rounds; round++) {
    one.push(await rateOf(1, cores));
    six.push(await rateOf(6, 1));
  }
  console.log(
    `${numItems} JPEGs of ${side} x ${side} in shards of ${shardSize}, nano-DI8x8, ${cores} cores, ${rounds} ` +
      "rounds in turns:",
  );
  for (const [name, all] of [[`one worker of ${cores} threads`, one], ["six workers of one thread", six]] as const) {
    const told = (of: keyof Rate) => all.map((one) => one[of].toFixed(1)).join(", ");
    console.log(`${name}: ${told("rate")} pictures a second; ${told("cpuMs")} ms of the processors a picture`);
  }
  const kept = (of: (one: Rate, six: Rate) => number) =>
    (100 * median(six.map((rate, i) => of(one[i]!, rate)))).toFixed(1);
  console.log(`six keep ${kept((one, six) => six.rate / one.rate)} % of the rate of one by the clock,`);
  console.log(`${kept((one, six) => one.cpuMs / six.cpuMs)} % by processor time (medians of the rounds)`);
} finally {
  redis.kill();
  rmSync(folder, { recursive: true, force: true });
}
