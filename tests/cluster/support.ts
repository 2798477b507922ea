/** What the tests of queues share: a Redis of their own, a wire that can be cut, worker processes that are watched. */
import assert from "node:assert/strict";
import { type ChildProcess, spawn, spawnSync } from "node:child_process";
import { connect, createServer, type Server, type Socket } from "node:net";
import { join } from "node:path";
import process from "node:process";
import { setTimeout } from "node:timers/promises";
import { runWith } from "../../src/corpus/dataset.ts";
import { plain } from "../corpus/plain.ts";
import { contentOf, madeCorpus } from "../corpus/support.ts";
import { root, runArgs, withFolder } from "../support.ts";
import type { WorkerOptions } from "./worker.ts";

/** Why there is no Redis here, or false. */
export const noRedis = spawnSync("redis-server", ["--version"]).status === 0
  ? false
  : "no redis-server (apt-get install redis-server)";

/** For what comes in its time, on a machine that may be slow. */
export async function until(isSo: () => boolean | Promise<boolean>, what: string): Promise<void> {
  for (const end = Date.now() + 120_000; !await isSo();) {
    assert.ok(Date.now() < end, `${what}: not after two minutes`);
    await setTimeout(30);
  }
}

/** A corpus that nobody disturbed, and a plan of the same to be worked on; a Redis; all in a folder. */
export async function withCorpus(
  numItems: number,
  use: (about: { folder: string; out: string; whole: Map<string, string>; redis: RedisServer }) => Promise<void>,
): Promise<void> {
  await withFolder(async (folder) => {
    const [alone, out] = [join(folder, "alone"), join(folder, "out")];
    for (const path of [alone, out]) await madeCorpus(folder, path, { numItems, shardSize: 4 });
    await runWith(plain, alone);
    await using redis = await RedisServer.start(folder);
    await use({ folder, out, whole: contentOf(alone), redis });
  });
}

export function freePort(): Promise<number> {
  return new Promise((resolve, reject) => {
    const server = createServer().on("error", reject).listen(0, "127.0.0.1", () => {
      const { port } = server.address() as { port: number };
      server.close(() => resolve(port));
    });
  });
}

/** A Redis in a folder, which it keeps over a restart; ends with its test. */
export class RedisServer implements AsyncDisposable {
  #child: ChildProcess | undefined;
  readonly #folder: string;
  readonly #settings: readonly string[];
  readonly port: number;

  private constructor(folder: string, port: number, settings: readonly string[]) {
    this.#folder = folder;
    this.port = port;
    this.#settings = settings;
  }

  static async start(folder: string, ...settings: string[]): Promise<RedisServer> {
    const server = new RedisServer(folder, await freePort(), settings);
    await server.start();
    return server;
  }

  /** The address for workers: a lock of two seconds, a second try after a tenth. */
  url(query = "lock=2&retry=0.1", port = this.port): string {
    return `redis://127.0.0.1:${port}/0?${query}`;
  }

  async start(): Promise<void> {
    const args = [
      "--port",
      String(this.port),
      "--dir",
      this.#folder,
      "--save",
      "",
      "--appendonly",
      "yes",
      "--bind",
      "127.0.0.1",
    ];
    this.#child = spawn("redis-server", [...args, ...this.#settings], { stdio: "ignore" });
    await until(() => /PONG|NOAUTH/.test(this.cli("ping")), "Redis starts");
  }

  async stop(): Promise<void> {
    const child = this.#child!;
    if (child.exitCode !== null || child.signalCode !== null) return;
    const ended = new Promise((resolve) => child.once("exit", resolve));
    child.kill("SIGTERM");
    await ended;
  }

  cli(...args: string[]): string {
    return spawnSync("redis-cli", ["-p", String(this.port), ...args], { encoding: "utf8" }).stdout.trim();
  }

  [Symbol.asyncDispose](): Promise<void> {
    return this.stop();
  }
}

/**
 * A wire to a port. Cut, it lets nothing through and nobody is told, as a network that is gone; mended, what was sent
 * arrives late.
 */
export class Wire implements AsyncDisposable {
  readonly #server: Server;
  readonly #sockets = new Set<Socket>();
  #isCut = false;

  private constructor(server: Server) {
    this.#server = server;
  }

  static to(port: number): Promise<Wire> {
    return new Promise((resolve) => {
      const server = createServer((near) => wire.#join(near, connect(port, "127.0.0.1")));
      const wire = new Wire(server);
      server.listen(0, "127.0.0.1", () => resolve(wire));
    });
  }

  get port(): number {
    return (this.#server.address() as { port: number }).port;
  }

  #join(near: Socket, far: Socket): void {
    for (const [from, to] of [[near, far], [far, near]] as const) {
      this.#sockets.add(from);
      from.on("data", (bytes) => void to.write(bytes));
      if (this.#isCut) from.pause();
      from.on("error", () => {});
      from.on("close", () => (this.#sockets.delete(from), to.destroy()));
    }
  }

  cut(): void {
    this.#isCut = true;
    for (const socket of this.#sockets) socket.pause();
  }
  mend(): void {
    this.#isCut = false;
    for (const socket of this.#sockets) socket.resume();
  }

  [Symbol.asyncDispose](): Promise<void> {
    for (const socket of this.#sockets) socket.destroy();
    return new Promise((resolve) => this.#server.close(() => resolve()));
  }
}

export type Line = Readonly<Record<string, unknown>>;

/** A worker process, on the runtime of the test. */
export class WorkerProcess implements AsyncDisposable {
  readonly #child: ChildProcess;
  readonly lines: Line[] = [];
  readonly ended: Promise<{ readonly code: number | null; readonly signal: string | null }>;
  #hasEnded = false;
  stderr = "";

  /** `before`: words that go before the command, such as those of another network namespace. */
  constructor(options: WorkerOptions, before: readonly string[] = []) {
    const program = [process.execPath, ...runArgs, join(root, "tests/cluster/worker.ts"), JSON.stringify(options)];
    const [command, ...args] = [...before, ...program];
    this.#child = spawn(command!, args, { cwd: root, stdio: ["ignore", "pipe", "pipe"] });
    let rest = "";
    this.#child.stdout!.setEncoding("utf8").on("data", (text: string) => {
      const parts = (rest + text).split("\n");
      rest = parts.pop()!;
      this.lines.push(...parts.map((line) => JSON.parse(line)));
    });
    this.#child.stderr!.setEncoding("utf8").on("data", (text: string) => this.stderr += text);
    this.ended = new Promise((resolve, reject) => {
      this.#child.on("error", reject);
      this.#child.on("close", (code, signal) => (this.#hasEnded = true, resolve({ code, signal })));
    });
  }

  events(event: string): Line[] {
    return this.lines.filter((line) => line.event === event);
  }
  /** Numbers of shards that it committed, but for those that another had. */
  get shards(): number[] {
    return this.events("shard").filter(({ isTwice }) => !isTwice).map(({ index }) => Number(index));
  }
  get prepared(): string[] {
    return this.lines.flatMap(({ prepared }) => typeof prepared === "string" ? [prepared] : []);
  }

  /** Note: not by the child's own method, after which Deno takes a stopped process for one that has ended. */
  kill(signal: NodeJS.Signals): void {
    if (!this.#hasEnded) process.kill(this.#child.pid!, signal);
  }

  /** Waits until it has said something, while it lives. */
  async says(isSo: () => boolean, what: string): Promise<void> {
    await until(() => {
      if (isSo()) return true;
      assert.ok(!this.#hasEnded, `${what}: ended before; ${this.stderr}`);
      return false;
    }, what);
  }

  /** Its last word. */
  async end(): Promise<Line> {
    const last = () => JSON.stringify(this.lines.filter(({ event }) => event !== "progress").slice(-12));
    await until(() => this.#hasEnded, "the worker ends").catch((error) =>
      assert.fail(`${error.message}: ${last()} ${this.stderr}`)
    );
    const { code, signal } = await this.ended;
    assert.equal(code, 0, `${signal} ${this.stderr}`);
    return this.lines.at(-1)!;
  }

  async [Symbol.asyncDispose](): Promise<void> {
    this.kill("SIGKILL");
    await this.ended;
  }
}
