/**
 * A hub that refuses, lies, breaks off or is not there, and processes that are killed while they download: each is told
 * by its code and with what to do, what has come is used the next time, and a file is in the cache whole or not at all.
 */
import assert from "node:assert/strict";
import { execFileSync, spawnSync } from "node:child_process";
import {
  existsSync,
  mkdirSync,
  mkdtempSync,
  readdirSync,
  readFileSync,
  rmSync,
  statSync,
  writeFileSync,
} from "node:fs";
import type { ServerResponse } from "node:http";
import { createServer } from "node:net";
import type { AddressInfo } from "node:net";
import { tmpdir } from "node:os";
import { join } from "node:path";
import process from "node:process";
import { after, test } from "node:test";
import { setImmediate } from "node:timers/promises";
import { findPulled, pullModel, Tokenizer } from "mod.ts";
import { ctok, ctokEnds, lines } from "../cli/spawn.ts";
import {
  commitOf,
  gitHash,
  HubServer,
  json,
  noise,
  redirect,
  refuse,
  type Request,
  send,
  sha256,
} from "../hubserver.ts";
import { goOffline, goOnline } from "../offline.ts";
import { rejects, root, withFolder } from "../support.ts";

const model = "me/model",
  commit = commitOf(7),
  bytes = noise(300_000),
  file = "model.safetensors",
  hash = sha256(bytes);
const hub = await HubServer.start();
after(async () => {
  goOffline();
  await hub[Symbol.asyncDispose]();
});
goOnline(hub.url);

/** With a cache of its own, and a server that behaves. */
const withCache = (work: (cacheDir: string) => Promise<void>) => () =>
  withFolder(async (cacheDir) => {
    hub.requests.length = 0;
    hub.onRequest = () => false;
    hub.repositories.clear();
    hub.repositories.set(model, { commit, files: { [file]: bytes } });
    process.env.HF_HUB_CACHE = cacheDir;
    try {
      await work(cacheDir);
    } finally {
      delete process.env.HF_HUB_OFFLINE;
      delete process.env.HF_HUB_DOWNLOAD_TIMEOUT;
    }
  });

const blobsOf = (cacheDir: string) => join(cacheDir, "models--me--model/blobs");
const heldIn = (cacheDir: string) => existsSync(blobsOf(cacheDir)) ? readdirSync(blobsOf(cacheDir)) : [];
const bytesIn = (cacheDir: string) =>
  Math.max(0, ...heldIn(cacheDir).map((name) => sizeOf(join(blobsOf(cacheDir), name))));
const sizeOf = (path: string) => statSync(path, { throwIfNoEntry: false })?.size ?? 0;

/** The file, whole and right, and nothing beside it. */
function assertWhole(cacheDir: string): void {
  assert.deepEqual(heldIn(cacheDir), [hash]);
  assert.equal(sha256(new Uint8Array(readFileSync(join(blobsOf(cacheDir), hash)))), hash);
  const linked = join(cacheDir, "models--me--model/snapshots", commit, file);
  assert.equal(sha256(new Uint8Array(readFileSync(linked))), hash);
}

/** Answers requests of a kind by itself; `times`: the first so many. */
function misbehave(
  what: Request["what"],
  how: (response: ServerResponse, request: Request) => boolean | Promise<boolean>,
  times = Infinity,
): void {
  let n = 0;
  hub.onRequest = (request, response) => request.what === what && n++ < times ? how(response, request) : false;
}

// ---------------------------------------------------------------- refusals
const page = `${hub.url}/${model}`;
const refusals: [string, status: number, code: string | undefined, token: string | false, text: RegExp][] = [
  [
    "gated, without a token",
    401,
    "GatedRepo",
    false,
    RegExp(`gated or licensed model \\(401\\): accept its licence on ${page} and log in`),
  ],
  [
    "gated, with a token",
    403,
    "GatedRepo",
    "hf_x",
    RegExp(`gated or licensed model \\(403\\): accept its licence on ${page}$`),
  ],
  ["forbidden", 403, undefined, "hf_x", /gated or licensed model \(403\)/],
  [
    "a bad token",
    401,
    undefined,
    "hf_x",
    /expected a token that the hub takes, found that it refuses yours \(401\): log in .* anew/,
  ],
  [
    "none of that name, or private",
    401,
    "RepoNotFound",
    false,
    /found none of that name, or a private one \(401\): if it is private, log in/,
  ],
  [
    "none of that name, with a token",
    404,
    "RepoNotFound",
    "hf_x",
    /found none of that name, or a private one \(404\)$/,
  ],
  ["no such revision", 404, "RevisionNotFound", false, /expected a revision main, found none there \(404\)/],
  ["too many requests, for long", 429, undefined, false, /too many requests \(429\): try again in 3600 s/],
];
for (const [about, status, code, token, text] of refusals) {
  test(
    `the hub refuses: ${about}`,
    withCache(async (cacheDir) => {
      for (const what of ["info", "tree", "file"] as const) {
        misbehave(what, (response) => refuse(response, status, code, status === 429 ? { "retry-after": "3600" } : {}));
        const error = await rejects(() => pullModel(model, { token }), "HUB", text);
        assert.equal(error.detail, status);
        assert.ok(!error.message.includes("hf_x"));
        assert.equal(hub.requests.filter((request) => request.what === what).length, 1, "asked once");
        hub.requests.length = 0;
      }
      assert.deepEqual(heldIn(cacheDir), []);
    }),
  );
}

test(
  "a name that is near a public model's is told",
  withCache(async () => {
    const text = /nvidia\/Cosmos-0\.1-Tokenizer-DI8x9: .*\(did you mean nvidia\/Cosmos-0\.1-Tokenizer-DI8x8\?\)/;
    await rejects(() => Tokenizer.open("nvidia/Cosmos-0.1-Tokenizer-DI8x9"), "HUB", text);
  }),
);

test(
  "a server that is busy is asked again, as soon as it says",
  withCache(async (cacheDir) => {
    for (const what of ["info", "tree", "file", "content"] as const) {
      for (const status of [429, 500, 503]) {
        rmSync(join(cacheDir, "models--me--model"), { recursive: true, force: true });
        misbehave(what, (response) => refuse(response, status, undefined, { "retry-after": "0" }), 2);
        await pullModel(model);
        assertWhole(cacheDir);
      }
    }
    misbehave("info", (response) => refuse(response, 500, undefined, { "retry-after": new Date(0).toUTCString() }));
    assert.equal((await pullModel(model)).commit, commit); // the copy, as main was this the last time
    const error = await rejects(
      () => pullModel("me/else"),
      "HUB",
      /found an error of the server \(500\): try again later/,
    );
    assert.equal(error.detail, 500);
  }),
);

// ---------------------------------------------------------------- connections
/** The content up to `end`, and once that is on the disk no more. */
async function sendAndCut(request: Request, response: ServerResponse, end: number, cacheDir: string): Promise<boolean> {
  send(request, response, bytes, end);
  while (bytesIn(cacheDir) < end) await setImmediate();
  response.destroy();
  return true;
}

test(
  "a connection that is cut again and again: each time on from there, no byte twice",
  withCache(async (cacheDir) => {
    const cuts = [1, 70_000, 70_001, 250_000];
    hub.onRequest = (request, response) => {
      const cut = request.what === "content" ? cuts.shift() : undefined;
      return cut === undefined ? false : sendAndCut(request, response, cut, cacheDir);
    };
    const { fetchedBytes } = await pullModel(model);
    assert.equal(fetchedBytes, bytes.length);
    assertWhole(cacheDir);
    assert.deepEqual(hub.content().map(({ start }) => start), [0, 1, 70_000, 70_001, 250_000]);
  }),
);

test(
  "a connection that is cut for good: what has come stays, and is gone on with",
  withCache(async (cacheDir) => {
    misbehave("content", (response, request) => {
      if (request.start < 100_000) return sendAndCut(request, response, 100_000, cacheDir);
      response.destroy();
      return true;
    });
    await rejects(
      () => pullModel(model),
      "HUB",
      /me\/model: expected an answer of 127\.0\.0\.1:\d+, found .*is there a network\?/,
    );
    assert.deepEqual(heldIn(cacheDir), [`${hash}.incomplete`]);
    assert.equal(bytesIn(cacheDir), 100_000);
    assert.equal(await findPulled(model), undefined);
    hub.onRequest = () => false;
    const told: number[] = [];
    const { fetchedBytes } = await pullModel(model, { onDownload: ({ bytes }) => void told.push(bytes) });
    assert.equal(fetchedBytes, bytes.length - 100_000);
    assert.equal(told[0], 100_000);
    assertWhole(cacheDir);
  }),
);

test(
  "a server that says nothing is given up",
  withCache(async () => {
    process.env.HF_HUB_DOWNLOAD_TIMEOUT = "1";
    misbehave("info", () => true);
    await rejects(() => pullModel(model), "HUB", /found nothing for 1 s \(HF_HUB_DOWNLOAD_TIMEOUT\)/);
    let isFirst = true;
    misbehave("content", (response, request) => {
      send(request, response, bytes, isFirst ? 5000 : undefined);
      isFirst = false;
      return true;
    });
    await pullModel(model);
    assert.deepEqual(hub.content().map(({ start }) => start), [0, 5000]);
  }),
);

test(
  "no network, without a cached copy and with one; offline by variable and by option",
  withCache(async (cacheDir) => {
    const before = process.env.HF_ENDPOINT;
    const closed = await new Promise<number>((resolve) => {
      const server = createServer().listen(0, "127.0.0.1", () => {
        const { port } = server.address() as AddressInfo;
        server.close(() => resolve(port));
      });
    });
    process.env.HF_ENDPOINT = `http://127.0.0.1:${closed}`;
    try {
      await rejects(
        () => pullModel(model),
        "HUB",
        /expected an answer of 127\.0\.0\.1:\d+, found .* Without one only what is downloaded opens/,
      );
      process.env.HF_ENDPOINT = before;
      await pullModel(model);
      process.env.HF_ENDPOINT = `http://127.0.0.1:${closed}`;
      const { fetchedBytes, isVerified } = await pullModel(model);
      assert.deepEqual([fetchedBytes, isVerified], [0, false]);
      await rejects(() => pullModel(model, { revision: "v2" }), "HUB", /expected an answer/);
    } finally {
      process.env.HF_ENDPOINT = before;
    }
    hub.requests.length = 0;
    process.env.HF_HUB_OFFLINE = "1";
    assert.equal((await pullModel(model)).commit, commit);
    const text = RegExp(
      `expected me/other at main in ${cacheDir}, found none, and no network may be used .*ctok pull me/other@main`,
    );
    await rejects(() => pullModel("me/other"), "HUB", text);
    await rejects(() => pullModel("me/other", { localFilesOnly: true }), "HUB", text);
    assert.deepEqual(hub.requests, []);
    await rejects(
      () => pullModel(model, { revision: "v2", localFilesOnly: false }),
      "HUB",
      /a repository|none there|answer/,
    )
      .catch(() => {});
    assert.notEqual(hub.requests.length, 0);
  }),
);

test(
  "wrong variables are told",
  withCache(async () => {
    const before = process.env.HF_ENDPOINT;
    process.env.HF_ENDPOINT = "huggingface.co";
    await rejects(() => pullModel(model), "ARGUMENT", /HF_ENDPOINT: expected an address .*, found "huggingface\.co"/);
    process.env.HF_ENDPOINT = before;
    process.env.HF_HUB_DOWNLOAD_TIMEOUT = "soon";
    await rejects(() => pullModel(model), "ARGUMENT", /HF_HUB_DOWNLOAD_TIMEOUT: expected a whole number of seconds/);
  }),
);

// ---------------------------------------------------------------- lies
const lies: [string, (response: ServerResponse, request: Request) => void, RegExp][] = [
  [
    "other bytes",
    (r, q) => send(q, r, noise(bytes.length, 5)),
    /model\.safetensors: expected SHA-256 [0-9a-f]{64}, found [0-9a-f]{64}/,
  ],
  [
    "a longer file",
    (r, q) => send(q, r, noise(bytes.length + 1)),
    /expected a file of 300000 bytes, found one of 300001/,
  ],
  [
    "a page instead of a file",
    (r) => void r.writeHead(200, { "content-length": 9 }).end("<p>log in"),
    /expected a file of 300000 bytes, found one of 9/,
  ],
  [
    "a longer file that does not say so",
    (r) => void r.writeHead(200).end(noise(bytes.length + 9)),
    /found a longer one/,
  ],
];
for (const [about, lie, text] of lies) {
  test(
    `the hub sends ${about}: refused, and nothing of it kept`,
    withCache(async (cacheDir) => {
      misbehave("content", (response, request) => {
        lie(response, request);
        return true;
      });
      await rejects(() => pullModel(model), "HUB", text);
      assert.ok(!existsSync(join(cacheDir, "models--me--model/snapshots")));
      assert.ok(!heldIn(cacheDir).includes(hash));
      hub.onRequest = () => false;
      await pullModel(model); // whatever it left
      assertWhole(cacheDir);
    }),
  );
}

test(
  "a server without ranges, one that answers another range, and a wrong beginning: it is fetched anew",
  withCache(async (cacheDir) => {
    const odd: ((response: ServerResponse) => void)[] = [
      (r) => void r.writeHead(200, { "content-length": bytes.length }).end(bytes),
      (r) => void r.writeHead(206, { "content-range": `bytes 5-299999/${bytes.length}` }).end(bytes.subarray(5)),
      (r) => void r.writeHead(206).end(bytes),
      (r) => void r.writeHead(416).end(),
    ];
    mkdirSync(blobsOf(cacheDir), { recursive: true });
    for (const answer of odd) {
      rmSync(join(blobsOf(cacheDir), hash), { force: true });
      writeFileSync(join(blobsOf(cacheDir), `${hash}.incomplete`), bytes.subarray(0, 1000));
      misbehave("content", (response) => {
        answer(response);
        return true;
      }, 1);
      await pullModel(model);
      assertWhole(cacheDir);
    }
    hub.onRequest = () => false;
    for (const left of [noise(1000, 9), noise(bytes.length, 9), noise(bytes.length + 5, 9), bytes, new Uint8Array()]) {
      rmSync(join(blobsOf(cacheDir), hash), { force: true });
      writeFileSync(join(blobsOf(cacheDir), `${hash}.incomplete`), left);
      hub.requests.length = 0;
      const { fetchedBytes } = await pullModel(model);
      if (left === bytes) assert.deepEqual([fetchedBytes, hub.content().length], [0, 0]);
      assertWhole(cacheDir);
    }
  }),
);

test(
  "names, hashes and commits of the hub become paths only as what they are",
  withCache(async (cacheDir) => {
    const around = () => readdirSync(join(cacheDir, "..")).length;
    const before = around(),
      files = { "../../evil.safetensors": bytes, "/tmp/evil.pt": bytes, "a/model.safetensors": bytes };
    hub.repositories.set(model, { commit, files });
    await rejects(() => pullModel(model), "FILE_MISSING", /expected encoder\.jit and decoder\.jit/);
    const trees: [object, RegExp][] = [
      [
        { lfs: { oid: "../../../evil", size: bytes.length, pointerSize: 1 } },
        /expected a hash of 64 hexadecimal digits, found "\.\.\/\.\.\/\.\.\/evil"/,
      ],
      [{ lfs: undefined, oid: "../x" }, /expected a hash of 40 hexadecimal digits/],
      [{ lfs: { oid: hash, size: "many", pointerSize: 1 } }, /expected a size in bytes, found "many"/],
      [{ lfs: { oid: hash, size: -1, pointerSize: 1 } }, /expected a size in bytes/],
    ];
    for (const [tree, text] of trees) {
      hub.repositories.set(model, { commit, files: { [file]: bytes }, tree: { [file]: tree } });
      await rejects(() => pullModel(model), "HUB", text);
    }
    hub.repositories.set(model, { commit: "../../../../evil", files: { [file]: bytes } });
    await rejects(() => pullModel(model), "HUB", /expected a commit of 40 hexadecimal digits, found "\.\.\/.*evil"/);
    hub.repositories.set(model, { commit, files: { [file]: bytes } });
    for (const answer of [{ error: "none" }, "text", 5, null, [null, 5, {}]]) {
      misbehave("tree", (response) => json(response, answer));
      await rejects(
        () => pullModel(model),
        Array.isArray(answer) || answer === "text" ? "FILE_MISSING" : "HUB",
        /me\/model/,
      );
    }
    const pageOf = JSON.stringify(
      Array.from({ length: 4000 }, (_, i) => ({ type: "file", path: `${i}.txt`, size: 1, oid: "x" })),
    );
    misbehave("tree", (response, { path }) => {
      response.writeHead(200, { "content-type": "application/json", link: `<${hub.url}${path}>; rel="next"` }).end(
        pageOf,
      );
      return true;
    });
    await rejects(() => pullModel(model), "HUB", /expected at most 10000 files and folders at its top, found more/);
    misbehave("info", (response) => {
      response.writeHead(200, { "content-type": "text/html" }).end("<p>log in");
      return true;
    });
    await rejects(() => pullModel(model), "HUB", /expected an answer of a hub/);
    assert.equal(around(), before);
    assert.deepEqual(readdirSync(cacheDir), []);
  }),
);

test(
  "a small file is checked by git's hash",
  withCache(async (cacheDir) => {
    const small = noise(500);
    hub.repositories.set(model, { commit, files: { [file]: small } });
    misbehave("content", (response, request) => {
      send(request, response, noise(500, 3));
      return true;
    }, 1);
    await rejects(() => pullModel(model), "HUB", RegExp(`expected git's SHA-1 ${gitHash(small)}, found`));
    await pullModel(model);
    assert.deepEqual(heldIn(cacheDir), [gitHash(small)]);
  }),
);

test(
  "pull looks at files that are here: a damaged one is fetched anew",
  withCache(async (cacheDir) => {
    await pullModel(model);
    const blob = join(blobsOf(cacheDir), hash);
    for (const damaged of [noise(bytes.length, 4), bytes.subarray(0, 1000)]) {
      writeFileSync(blob, damaged);
      const { fetchedBytes, isVerified } = await pullModel(model);
      assert.deepEqual([fetchedBytes, isVerified], [bytes.length, true]);
      assertWhole(cacheDir);
    }
  }),
);

test(
  "the token goes to the hub alone, and no redirect leads to another kind of address or on and on",
  withCache(async () => {
    await pullModel(model, { token: "secret" });
    for (const { what, authorization } of hub.requests) {
      assert.equal(authorization, what === "content" ? undefined : "Bearer secret", what);
    }
    for (
      const [to, text] of [["file:///etc/passwd", /expected a redirect by http, found "null"/], [
        "http://",
        /expected a redirect to an address/,
      ]] as const
    ) {
      misbehave("info", (response) => redirect(response, 302, to));
      await rejects(() => pullModel(model, { revision: "v3" }), "HUB", text);
    }
    misbehave("info", (response, { path }) => redirect(response, 302, `${path}?x`));
    await rejects(() => pullModel(model, { revision: "v3" }), "HUB", /expected at most 5 redirects, found more/);
    misbehave("tree", (response) => {
      response.writeHead(200, { "content-type": "application/json", link: `<${hub.contentUrl}/next>; rel="next"` }).end(
        "[]",
      );
      return true;
    });
    hub.requests.length = 0;
    await pullModel(model, { token: "secret", revision: commitOf(8) }).catch(() => {});
    const followed = hub.requests.find(({ path }) => path === "/next");
    assert.ok(followed, "the list goes on elsewhere");
    assert.equal(followed.authorization, undefined);
  }),
);

// ---------------------------------------------------------------- aborts, kills, other processes
test(
  "an abort ends it at once, and what has come is gone on with",
  withCache(async (cacheDir) => {
    const controller = new AbortController();
    misbehave("content", (response, request) => {
      send(request, response, bytes, 120_000);
      return true;
    }, 1);
    const pulling = pullModel(model, { signal: controller.signal });
    const ended = rejects(() => pulling, "CANCELLED", /cancelled/);
    while (bytesIn(cacheDir) < 120_000) await setImmediate();
    controller.abort();
    await ended;
    assert.deepEqual(heldIn(cacheDir), [`${hash}.incomplete`]);
    assert.equal((await pullModel(model)).fetchedBytes, bytes.length - 120_000);
    assertWhole(cacheDir);
    await rejects(() => pullModel(model, { signal: AbortSignal.abort() }), "CANCELLED", /cancelled/);
  }),
);

test(
  "ctok pull, killed with -9 at ten moments, then run again: one good copy, and no byte that was here is fetched again",
  withCache(async (cacheDir) => {
    const args = ["pull", model, "--json"];
    for (let n = 0; n < 10; n++) {
      const before = bytesIn(cacheDir), left = bytes.length - before;
      const until = before + 1 + Math.floor(Math.random() * left / 4);
      hub.requests.length = 0;
      misbehave("content", (response, request) => {
        send(request, response, bytes, until); // and then nothing
        return true;
      });
      let pid = 0, isRunning = true;
      const run = ctok(args, { onStart: (id) => pid = id }).finally(() => isRunning = false);
      const moment = before + Math.floor(Math.random() * (until - before));
      while (isRunning && bytesIn(cacheDir) <= moment) await setImmediate();
      process.kill(pid, "SIGKILL");
      assert.equal((await run).code, "SIGKILL");
      assert.deepEqual(hub.content().map(({ start }) => start), [before], `killed ${n} times`);
      assert.ok(!heldIn(cacheDir).includes(hash));
      assert.equal(heldIn(cacheDir).length, 1);
      assert.equal(await findPulled(model), undefined);
    }
    const before = bytesIn(cacheDir);
    hub.requests.length = 0;
    hub.onRequest = () => false;
    const [facts] = lines((await ctokEnds(0, args)).stdout);
    assert.equal(facts.fetchedBytes, bytes.length - before);
    assert.deepEqual(hub.content().map(({ start }) => start), [before]);
    assertWhole(cacheDir);
  }),
);

test(
  "several processes at once: one good copy, and each byte is fetched once",
  withCache(async (cacheDir) => {
    const count = 4;
    hub.onRequest = async ({ what }) => {
      // Nothing comes before all of them want it.
      while (what === "content" && hub.requests.filter((r) => r.what === "tree").length < count) await setImmediate();
      return false;
    };
    const ends = await Promise.all(Array.from({ length: count }, () => ctokEnds(0, ["pull", model, "--json"])));
    const fetched = ends.map(({ stdout }) => lines(stdout)[0].fetchedBytes as number);
    assert.deepEqual(fetched.sort((a, b) => a - b), [0, 0, 0, bytes.length]);
    assert.equal(hub.sentBytes, bytes.length);
    assertWhole(cacheDir);
  }),
);

test(
  "calls of one process at once share one download; one whose owner is killed goes on with another",
  withCache(async (cacheDir) => {
    await Promise.all(Array.from({ length: 5 }, () => pullModel(model)));
    assert.equal(hub.sentBytes, bytes.length);
    assertWhole(cacheDir);
    rmSync(join(cacheDir, "models--me--model"), { recursive: true });
    hub.requests.length = 0;
    misbehave("content", (response, request) => {
      send(request, response, bytes, 50_000);
      return true;
    }, 1);
    let pid = 0;
    const owner = ctok(["pull", model], { onStart: (id) => pid = id });
    while (bytesIn(cacheDir) < 50_000) await setImmediate();
    const waiting = pullModel(model);
    while (hub.requests.filter(({ what }) => what === "tree").length < 2) await setImmediate();
    process.kill(pid, "SIGKILL");
    assert.equal((await owner).code, "SIGKILL");
    assert.equal((await waiting).fetchedBytes, bytes.length - 50_000);
    assertWhole(cacheDir);
  }),
);

const noFlock = spawnSync("flock", ["--version"]).error ? "no flock" : false;
test(
  "while Python downloads a file, which holds its lock, ctok waits",
  { skip: noFlock },
  withCache(async (cacheDir) => {
    const locks = join(cacheDir, ".locks/models--me--model"), lock = join(locks, `${hash}.lock`);
    mkdirSync(locks, { recursive: true });
    mkdirSync(blobsOf(cacheDir), { recursive: true });
    writeFileSync(lock, "");
    writeFileSync(join(blobsOf(cacheDir), `${hash}.incomplete`), bytes.subarray(0, 1000));
    const { spawn } = await import("node:child_process");
    const python = spawn("flock", [lock, "sh", "-c", "echo held; cat"], { stdio: ["pipe", "pipe", "inherit"] });
    await new Promise((resolve) => python.stdout.once("data", resolve));
    let isDone = false, looked = 0;
    const waiting = pullModel(model, { onDownload: () => void looked++ }).finally(() => isDone = true);
    while (looked < 3 && !isDone) await setImmediate(); // it has looked that often, and waited on
    assert.deepEqual([isDone, hub.content().length, heldIn(cacheDir)], [false, 0, [`${hash}.incomplete`]]);
    writeFileSync(join(blobsOf(cacheDir), hash), bytes); // as Python ends
    rmSync(join(blobsOf(cacheDir), `${hash}.incomplete`));
    python.stdin.end();
    assert.equal((await waiting).fetchedBytes, 0);
    assertWhole(cacheDir);
  }),
);

// ---------------------------------------------------------------- the machine
const probe = mkdtempSync(join(tmpdir(), "ctok-hub-disk-"));
after(() => rmSync(probe, { recursive: true, force: true }));
const mount = (size: number, folder: string, how = "") =>
  spawnSync("mount", ["-t", "tmpfs", "-o", `${how}size=${size}`, "tmpfs", folder]);
const refused = mount(4096, probe);
if (refused.status === 0) execFileSync("umount", [probe]);
const noMount = refused.status !== 0 && `no filesystem may be mounted here: ${refused.error ?? refused.stderr}`;
test(
  "a disk that is full: told, the file is not there, and with more room it goes on",
  { skip: noMount },
  withCache(async (cacheDir) => {
    mount(128 << 10, cacheDir);
    try {
      const error = await rejects(
        () => pullModel(model),
        "FILE_IO",
        /expected the system to write it, found a full disk/,
      );
      assert.equal(error.detail, 28);
      assert.deepEqual(heldIn(cacheDir), [`${hash}.incomplete`]);
      const before = bytesIn(cacheDir);
      assert.ok(before > 0);
      mount(2 << 20, cacheDir, "remount,");
      assert.equal((await pullModel(model)).fetchedBytes, bytes.length - before);
      assertWhole(cacheDir);
    } finally {
      execFileSync("umount", [cacheDir]);
    }
  }),
);

test(
  "a cache that may not be written is told",
  withCache(async (cacheDir) => {
    writeFileSync(join(cacheDir, "models--me--model"), "");
    await rejects(() => pullModel(model), "FILE_IO", /models--me--model/);
  }),
);

test(
  "on Deno without --allow-net a download says what is missing, and what is here opens",
  withCache(async (cacheDir) => {
    const nano = new Uint8Array(readFileSync(join(root, "models/nano/DI8x8.safetensors")));
    hub.repositories.set(model, { commit, files: { [file]: nano } });
    const code = `import { Tokenizer } from "./mod.ts";
      try {
        await using tok = await Tokenizer.open("me/model");
        console.log("opened", tok.info.source);
      } catch (error) { console.log(error.code, error.message); }`;
    const deno = join(root, "node_modules/.bin/deno"),
      allowed = ["--allow-read", "--allow-env", "--allow-ffi", "--allow-sys"];
    const run = async (...more: string[]) => {
      const { spawn } = await import("node:child_process");
      const child = spawn(deno, ["run", "--no-prompt", "--no-check", ...allowed, ...more, "-"], {
        cwd: root,
        env: process.env,
      });
      child.stdin.end(code);
      let said = "";
      for (const stream of [child.stdout, child.stderr]) {
        stream.setEncoding("utf8").on("data", (text: string) => said += text);
      }
      await new Promise((resolve) => child.on("close", resolve));
      return said;
    };
    const address = hub.url.slice("http://".length);
    assert.match(
      await run(),
      RegExp(`HUB me/model: expected permission to reach ${address}, found none: deno run --allow-net=${address}`),
    );
    await pullModel(model);
    assert.match(await run(), RegExp(`opened hub:me/model@${commit}/model.safetensors`));
    rmSync(join(cacheDir, "models--me--model"), { recursive: true });
    const opened = await run("--allow-net", `--allow-write=${cacheDir}`);
    assert.match(opened, RegExp(`opened hub:me/model@${commit}/model.safetensors`)); // links want more than that
  }),
);
