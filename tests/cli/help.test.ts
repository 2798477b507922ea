/**
 * What the command line says of itself, and how its words become values: help in every form, the examples in it, which
 * run as they stand, short options, sizes, the environment, and the arguments of scripts.
 */
import assert from "node:assert/strict";
import { execFileSync } from "node:child_process";
import { copyFile, mkdir, mkdtemp, readdir, readFile, rm, writeFile } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { after, test } from "node:test";
import { loadTokens } from "mod.ts";
import { parseArguments, splitWords } from "../../cli/args.ts";
import { commands } from "../../cli/commands.ts";
import { globalOptions, type Option, type OptionName, options } from "../../cli/options.ts";
import { columnsOf, tail, wrap } from "../../cli/screen.ts";
import { tellBytes, tellDuration } from "../../cli/tell.ts";
import { commitOf, HubServer } from "../hubserver.ts";
import { carried, root } from "../support.ts";
import { writeClip } from "../workplace.ts";
import { ctok, ctokEnds, lines, shell, top } from "./spawn.ts";

const place = await mkdtemp(join(tmpdir(), "ctok-help-"));
after(() => rm(place, { recursive: true }));
const folder = (name: string) => mkdtemp(join(place, `${name}-`));
const coffee = join(top, "examples/media/coffee.jpg");
const noLibrary = { env: { CTOK_LIBRARY: "/nonexistent" } };

// ---------------------------------------------------------------- help
test("help lists commands, variables and exit codes, without the native library, in 80 columns", async () => {
  const { stdout, stderr } = await ctokEnds(0, ["--help"], noLibrary);
  for (const { name, about } of commands) assert.match(stdout, new RegExp(`^  ${name} +${about.slice(0, 20)}`, "m"));
  for (const { env } of Object.values(options) as Option[]) {
    if (env) assert.match(stdout, new RegExp(`^  ${env} `, "m"));
  }
  assert.match(stdout, /Exit codes\n +0 .*\n +1 .*\n +2 .*\n +3 .*\n +129, 130, 143 /);
  for (const line of stdout.split("\n")) assert.ok(line.length <= 80, line);
  assert.equal(stderr, "");
  for (const args of [["-h"], ["help"]]) assert.equal((await ctokEnds(0, args, noLibrary)).stdout, stdout);
});

test("each command's help has examples and its options, and is the same in all three ways", async () => {
  for (const { name, usage, accepts, examples } of commands) {
    const { stdout } = await ctokEnds(0, ["help", name], noLibrary);
    assert.ok(stdout.startsWith(`ctok ${name} `) && stdout.split("\n")[0]!.includes(usage), stdout);
    assert.ok(examples.length > 0, `${name} has no example`);
    for (const { line, about } of examples) {
      assert.ok(stdout.includes(`\n  ${line}\n        ${about}\n`), `${line}\n${stdout}`);
    }
    const told = [...stdout.matchAll(/^ {2}(?:-\w, | {4})--([\w-]+)/gm)].map(([, option]) => option).sort();
    assert.deepEqual(told, [...accepts, ...globalOptions].sort(), name);
    for (const line of stdout.split("\n")) assert.ok(line.length <= 80, line);
  }
  const flag = await ctokEnds(0, ["decode", "x", "-h"], { env: { CTOK_DEVICE: "not looked at" } });
  assert.equal(flag.stdout, (await ctokEnds(0, ["help", "decode"])).stdout);
});

test("without a command: help and what is missing on stderr, 2; with --json an object", async () => {
  const { stdout, stderr } = await ctokEnds(2, [], noLibrary);
  assert.equal(stdout, "");
  assert.ok(stderr.startsWith((await ctokEnds(0, ["help"])).stdout), stderr);
  assert.match(stderr, /\nctok: expected a command, found none; see ctok --help\n$/);
  const json = await ctokEnds(2, ["--json"], noLibrary);
  assert.deepEqual([lines(json.stdout)[0].code, json.stderr], ["USAGE", ""]);
});

test("the examples of every command's help run as they stand", { timeout: 600_000 }, async () => {
  const cwd = await folder("examples"), model = join(cwd, "path/to/Cosmos-Tokenizer-DI8x8");
  for (const name of ["photos", model]) await mkdir(join(name === model ? "" : cwd, name), { recursive: true });
  execFileSync(join(root, "build/tests/make_weights"), [join(model, "autoencoder.safetensors"), "DI8x8", "--small"]);
  for (const name of ["photo.jpg", "photos/one.jpg", "photos/two.jpg"]) await copyFile(coffee, join(cwd, name));
  await writeClip(join(cwd, "clip.mp4"));
  await writeFile(join(cwd, "script.ts"), "console.log((await readImage(process.argv[2])).shape.join());\n");
  await writeFile(join(cwd, "package.json"), `{ "type": "module" }`); // for Node, of what it runs by tsx
  const prepared = ["encode clip.mp4 -o clip.safetensors", "encode photos -o tokens"]; // what others of them made
  for (const args of prepared) await ctokEnds(0, args.split(" "), { cwd });
  // What the examples of pull ask for.
  const jit = (name: string) => readFile(join(carried, "Cosmos-Tokenizer-CI8x8", name));
  const files = { "encoder.jit": await jit("encoder.jit"), "decoder.jit": await jit("decoder.jit") };
  await using hub = await HubServer.start({ "nvidia/Cosmos-0.1-Tokenizer-CI8x8": { commit: commitOf(3), files } });
  const token = { HF_HUB_DISABLE_IMPLICIT_TOKEN: "1", HF_HUB_OFFLINE: "" };
  const env = { HF_ENDPOINT: hub.url, HF_HUB_CACHE: join(cwd, "cache"), ...token };
  for (const { line } of commands.flatMap(({ examples }) => examples)) {
    const { code, stdout, stderr } = await shell(line, cwd, env);
    assert.equal(code, 0, `${line}\n${stdout}\n${stderr}`);
    assert.ok(stdout.length > 0 || / > /.test(line) || line.includes("repl"), `${line}: said nothing`);
  }
  const made = [
    "photo.safetensors",
    "clip.msgpack",
    "photo.png",
    "clip_again.mp4",
    "again.png",
    "mine.safetensors",
    "ctok.bash",
  ];
  const there = await readdir(cwd);
  for (const name of made) assert.ok(there.includes(name), `${name} is not there: ${there}`);
});

// ---------------------------------------------------------------- words to values
const parsed = (argv: string[], accepts: readonly OptionName[], env: Record<string, string> = {}) => {
  return parseArguments(splitWords(argv, commands), accepts, env);
};

test("short options are the long ones", async () => {
  const args = parsed(["encode", "a", "-qn", "-o", "x", "-mM", "b"], ["out", "model", "dry-run"]);
  assert.deepEqual(args, {
    inputs: ["a", "b"],
    rest: [],
    fromEnvironment: {},
    quiet: true,
    "dry-run": true,
    out: "x",
    model: "M",
  });
  const cwd = await folder("short");
  const { stdout, stderr } = await ctokEnds(0, ["encode", coffee, "-q", "-o", "t.npy", "-m", "nano-DI8x8"], { cwd });
  assert.deepEqual([stdout, stderr, await readdir(cwd)], ["", "", ["t.npy"]]);
  assert.match((await ctokEnds(0, ["-V"], noLibrary)).stdout, /^\d+\.\d+\.\d+\n$/);
});

test("sizes: powers of 1000 and of 1024, and width by height", () => {
  const memory = (text: string) => parsed(["encode", "--max-memory", text], ["max-memory"])["max-memory"];
  const cases = {
    ...{ "1500000": 1.5e6, "7B": 7, "2GB": 2e9, "2gb": 2e9, "1.5G": 1.5e9, "512MiB": 512 * 2 ** 20, "2Gi": 2 ** 31 },
    ...{ "64k": 64e3, "64KiB": 65536, "1T": 1e12 },
  };
  for (const [text, bytes] of Object.entries(cases)) assert.equal(memory(text), bytes, text);
  for (const text of ["", "-1", "GB", "2iB", "2 000", "1e9", "2GBs", "0", "9999999TB"]) {
    assert.throws(() => memory(text), /--max-memory: expected bytes, such as 2GB/, text);
  }
  const pixels = (text: string) => parsed(["encode", "--limit-pixels", text], ["limit-pixels"])["limit-pixels"];
  assert.deepEqual([pixels("1000"), pixels("8192x4096"), pixels("3X2")], [1000, 2 ** 25, 6]);
  for (const text of ["8192x", "x5", "0", "4x0", "2x2x2"]) {
    assert.throws(() => pixels(text), /--limit-pixels: expected pixels/);
  }
});

test("numbers as people are told them", () => {
  assert.deepEqual([0, 999, 1000, 7702, 99_949, 158e6, 999.6e6, 2.1e12].map(tellBytes), [
    ...["0 bytes", "999 bytes", "1.00 kB", "7.70 kB", "99.9 kB", "158 MB", "1.00 GB", "2.10 TB"],
  ]);
  assert.deepEqual([0, 8.4, 59.6, 61, 3723].map(tellDuration), ["0:00", "0:08", "1:00", "1:01", "1:02:03"]);
});

test("texts are cut to a terminal's columns", () => {
  assert.deepEqual(wrap("one two three four", 9), ["one two", "three", "four"]);
  assert.deepEqual([tail("photo.jpg", 9), tail("photos/cat.jpg", 9), tail("ab", 1)], ["photo.jpg", "…/cat.jpg", "…"]);
  assert.deepEqual([tail("写真の犬.jpg", 9), tail("e\u0301te\u0301", 3)], ["…の犬.jpg", "e\u0301te\u0301"]);
  assert.ok(columnsOf("stdout") > 0);
});

// ---------------------------------------------------------------- the environment
test("variables count where the option is not given, for commands that take it", async () => {
  const env = { CTOK_MODEL: "nano-DI8x8", CTOK_PRECISION: "f32", CTOK_DEVICE: "cpu" },
    cwd = await folder("environment");
  const { model, precision, device, fromEnvironment } = parsed(
    ["encode", "-m", "M"],
    ["model", "precision", "device"],
    env,
  );
  assert.deepEqual([model, precision, device], ["M", "f32", "cpu"]);
  assert.deepEqual(fromEnvironment, { precision: "CTOK_PRECISION", device: "CTOK_DEVICE" });
  assert.equal(parsed(["encode"], ["model"], { CTOK_MODEL: "" }).model, undefined, "empty is as good as none");
  await ctokEnds(0, ["encode", coffee, "-o", "t.safetensors"], { cwd, env });
  assert.equal((await loadTokens(join(cwd, "t.safetensors"))).origin.precision, "f32");
  await ctokEnds(0, ["encode", coffee, "-o", "t.safetensors", "--precision", "bf16"], { cwd, env });
  assert.equal((await loadTokens(join(cwd, "t.safetensors"))).origin.precision, "bf16");
});

test("a wrong variable is told by its name", async () => {
  const encode = ["encode", coffee, "-o", join(place, "never.npy")];
  const told = async (code: number, env: Record<string, string>) => (await ctokEnds(code, encode, { env })).stderr;
  assert.match(
    await told(2, { CTOK_PRECISION: "f64" }),
    /^ctok: CTOK_PRECISION: expected one of auto, f32, bf16, found f64;/,
  );
  assert.match(
    await told(2, { CTOK_DEVICE: "tpu" }),
    /^ctok: CTOK_DEVICE: expected auto, cpu, cuda or cuda:1, found tpu;/,
  );
  assert.match(await told(3, { CTOK_MODEL: "/gone" }), /found "\/gone" \(CTOK_MODEL=\/gone\)\n$/);
  await ctokEnds(0, ["help"], { env: { CTOK_DEVICE: "tpu" } });
  assert.equal((await ctok(["completions", "bash"], { env: { CTOK_PRECISION: "f64" } })).code, 0);
  // As --model does, it names the model of all inputs: a video is refused by an image model.
  const { stderr } = await ctokEnds(1, ["encode", join(top, "examples/media/cars.mp4"), "-o", join(place, "x/")], {
    env: { CTOK_MODEL: "nano-DI8x8" },
  });
  assert.match(stderr, /expected an image, as nano-DI8x8 takes/);
});

// ---------------------------------------------------------------- scripts
test("run: what follows the script is its own, options of ctok stand before it", async () => {
  const cwd = await folder("run");
  await writeFile(
    join(cwd, "s.ts"),
    `import process from "node:process";
console.log(JSON.stringify([process.argv.slice(1), globalThis.process.argv.length, typeof tokenize]));\n`,
  );
  const args = ["--json", "-h", "a b", "--", "--threads", "-1"];
  for (
    const first of [["run", "s.ts"], ["run", "--threads", "1", "./s.ts"], ["--quiet", "run", "s.ts"], [
      "run",
      "--",
      "s.ts",
    ]]
  ) {
    const { stdout, stderr } = await ctokEnds(0, [...first, ...args], { cwd });
    assert.deepEqual([lines(stdout)[0], stderr], [[[join(cwd, "s.ts"), ...args], args.length + 2, "function"], ""]);
  }
  assert.match((await ctokEnds(0, ["run", "-h", "s.ts"], { cwd })).stdout, /^ctok run \[OPTIONS\] SCRIPT/);
  assert.match((await ctokEnds(2, ["run", "--video", "s.ts"], { cwd })).stderr, /unknown option --video/);
  assert.match((await ctokEnds(1, ["run", "gone.ts", "--json"], { cwd })).stderr, /gone\.ts: expected a script/);
});
