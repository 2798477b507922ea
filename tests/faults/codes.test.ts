/**
 * Every error code by a call that gives it: those of ctok.h in build/tests/status_test, whose rows are read from what
 * it prints, those that TypeScript adds in the table below. A code without a row is an error of types, or fails here.
 */
import assert from "node:assert/strict";
import { execFileSync } from "node:child_process";
import { join } from "node:path";
import { test } from "node:test";
import { decodeTokens, type ErrorCode, framesOf, readImage, TokenizerError } from "mod.ts";
import { Queue } from "../../src/corpus/queue.ts";
import * as layout from "../../ffi/layout.ts";
import { ctok, lines } from "../cli/spawn.ts";
import { root } from "../support.ts";

const cars = join(root, "examples/media/cars.mp4");

test("every status of ctok.h is given by a call", () => {
  const out = execFileSync(join(root, "build/tests/status_test"), { cwd: root, encoding: "utf8" });
  const rows = [...out.matchAll(/^ok \d+ - CTOK_(?:E_)?(\w+) by (.*)$/gm)];
  for (const [, name, about] of rows) console.log(`${name!.padEnd(13)} ${about}`);
  assert.deepEqual(rows.map(([, name]) => name).sort(), Object.keys(layout.status).sort());
});

/** The code that a command line ends with. */
const codeOf = async (args: string[], env: Record<string, string>) =>
  lines((await ctok([...args, "--json"], { env })).stdout)[0].code;

/** Nothing listens at port 1. */
const none = () => Promise.resolve(new Set<number>());
const noQueue = { committed: none, parked: none, park: () => Promise.resolve(), note: () => {} };

const added: Record<Exclude<ErrorCode, keyof typeof layout.status>, () => unknown> = {
  IMAGE: () => readImage(new TextEncoder().encode("no picture")),
  TOKEN_FILE: () => decodeTokens(new TextEncoder().encode("no tokens"), "text"),
  VIDEO: () => framesOf(join(root, "csrc")), // a folder without pictures
  HUB: () => codeOf(["pull", "DI8x8"], { HF_HUB_OFFLINE: "1", HF_HUB_CACHE: "/nonexistent" }),
  QUEUE: () => Queue.open("redis://127.0.0.1:1?gone=0.1", { ...noQueue, plan: "p", numShards: 1 }),
  FFMPEG: () => codeOf(["encode", cars, "--out", "/tmp/"], { CTOK_FFMPEG: "/nonexistent" }),
  LIBRARY: () => codeOf(["info", "nano-DI8x8"], { CTOK_LIBRARY: "/nonexistent" }),
};
for (const [code, call] of Object.entries(added)) {
  test(`${code} is given by a call`, async () => {
    const found = await Promise.try(call).catch((error) => error instanceof TokenizerError ? error.code : error);
    assert.equal(found, code);
  });
}
