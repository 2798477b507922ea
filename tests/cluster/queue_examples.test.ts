/**
 * The files of examples/cluster that start a queue and its workers: Redis takes its settings, Bun and systemd read the
 * others.
 */
import assert from "node:assert/strict";
import { spawnSync } from "node:child_process";
import { readFileSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { test } from "node:test";
import { Queue } from "../../src/corpus/queue.ts";
import { root, runtime, withFolder } from "../support.ts";
import { noRedis, RedisServer } from "./support.ts";

const at = (name: string) => join(root, "examples/cluster", name),
  read = (name: string) => readFileSync(at(name), "utf8");
const settingsOf = (text: string) => text.split("\n").map((line) => line.trim()).filter((line) => /^[a-z]/.test(line));

test("redis.conf starts a Redis that no worker complains of", { skip: noRedis }, () =>
  withFolder(async (folder) => {
    const conf = settingsOf(read("redis.conf")).flatMap((line) => {
      const [name, ...value] = line.split(" ");
      return [`--${name}`, value.join(" ").replaceAll('"', "")];
    });
    // In a test this machine's own address alone.
    await using redis = await RedisServer.start(folder, ...conf, "--bind", "127.0.0.1");
    for (const [name, value] of [["maxmemory-policy", "noeviction"], ["appendonly", "yes"], ["save", ""]] as const) {
      assert.deepEqual(redis.cli("config", "get", name).split("\n")[1] ?? "", value);
    }
    const notes: string[] = [], none = () => Promise.resolve(new Set<number>());
    const about = { plan: "p", numShards: 1, committed: none, parked: none, park: () => Promise.resolve() };
    await using queue = await Queue.open(redis.url(), { ...about, note: (text: string) => void notes.push(text) });
    assert.deepEqual([await queue.next(), notes], [0, []]);
  }));

// deno-lint-ignore no-explicit-any
type Parsed = any;
const noYaml = runtime === "bun" ? false : "Bun parses YAML";

test("the manifests: workers find the Redis, which has the settings of redis.conf", { skip: noYaml }, async () => {
  const { YAML } = await import("bun");
  const [conf, server, service, job] = YAML.parse(read("kubernetes-queue.yaml")) as Parsed[];
  const { services } = YAML.parse(read("compose.yaml")) as Parsed;
  const settings = settingsOf(read("redis.conf"));
  for (const line of settingsOf(conf.data["redis.conf"])) assert.ok(settings.includes(line), line);
  assert.equal(service.spec.ports[0].port, 6379);
  assert.deepEqual(service.spec.selector, server.spec.template.metadata.labels);
  const [worker] = job.spec.template.spec.containers;
  assert.deepEqual(worker.command.slice(0, 3), services.worker.command.slice(0, 3));
  assert.equal(worker.env[0].value, `redis://${service.metadata.name}:6379`);
  assert.deepEqual(job.spec.podFailurePolicy.rules[0].onExitCodes, {
    containerName: worker.name,
    operator: "In",
    values: [1, 2, 3],
  });
  assert.equal(services.worker.environment.CTOK_QUEUE, "redis://queue:6379");
  assert.deepEqual(services.worker.depends_on, ["queue"]);
});

const noSystemd = spawnSync("systemd-analyze", ["--version"]).status === 0 ? false : "no systemd-analyze";

test("systemd takes the unit", { skip: noSystemd }, () =>
  withFolder((folder) => {
    const unit = join(folder, "ctok-worker@.service");
    writeFileSync(
      unit,
      read("ctok-worker@.service").replace("/usr/local/bin/ctok", "/bin/true").replace("User=ctok", "User=root"),
    );
    const { status, stderr } = spawnSync("systemd-analyze", [
      "verify",
      "--recursive-errors=no",
      unit.replace("@", "@0"),
    ], {
      encoding: "utf8",
    });
    assert.equal(status, 0, stderr);
    return Promise.resolve();
  }));
