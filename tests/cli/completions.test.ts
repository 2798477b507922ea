/** Completion scripts: each parses in its shell, and a Tab there offers what the tables of commands and options say. */
import assert from "node:assert/strict";
import { execFileSync, spawnSync } from "node:child_process";
import { mkdir, mkdtemp, rm, writeFile } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { after, test } from "node:test";
import { commands } from "../../cli/commands.ts";
import { globalOptions, type Option, type OptionName, options } from "../../cli/options.ts";
import { ctokEnds } from "./spawn.ts";

const place = await mkdtemp(join(tmpdir(), "ctok-completions-"));
after(() => rm(place, { recursive: true }));
const scripts: Record<string, string> = {};
for (const shell of ["bash", "zsh", "fish"]) {
  const { stdout, stderr } = await ctokEnds(0, ["completions", shell], { env: { CTOK_LIBRARY: "/nonexistent" } });
  assert.equal(stderr, "");
  scripts[shell] = join(place, `ctok.${shell}`);
  await writeFile(scripts[shell], stdout);
}
await mkdir(join(place, "files/photos"), { recursive: true });
for (const name of ["photo one.jpg", "p'2.png"]) await writeFile(join(place, "files", name), "");
const cwd = join(place, "files");

const missing = (shell: string) => spawnSync(shell, ["--version"]).status === 0 ? false : `no ${shell} on the PATH`;
const names = commands.map(({ name }) => name);
const flagsOf = (accepts: readonly OptionName[]) => {
  return [...accepts, ...globalOptions].flatMap((name) => {
    const { short }: Option = options[name];
    return [`--${name}`, ...(short ? [`-${short}`] : [])];
  }).sort();
};

for (const shell of ["bash", "zsh", "fish"]) {
  test(`${shell} parses its script`, { skip: missing(shell) }, () => {
    execFileSync(shell, ["-n", scripts[shell]!], { stdio: ["ignore", "pipe", "pipe"] });
  });
}

// ---------------------------------------------------------------- bash
/** What bash offers for words of which the last is being typed, as readline cuts them. */
function inBash(...words: string[]): string[] {
  const quoted = words.map((word) => `'${word.replaceAll("'", "'\\''")}'`).join(" ");
  const code = `source "$0"
complete -p ctok >/dev/null || exit 1
COMP_WORDS=(${quoted}) COMP_CWORD=${words.length - 1}
_ctok
printf '%s\\n' "\${COMPREPLY[@]}"`;
  const out = execFileSync("bash", ["--norc", "-c", code, scripts.bash!], { cwd, encoding: "utf8" });
  return out.split("\n").filter(Boolean).sort();
}

const bash = { skip: missing("bash") };

test("bash: commands, options of each, shells", bash, () => {
  assert.deepEqual(inBash("ctok", ""), [...names].sort());
  assert.deepEqual(inBash("ctok", "en"), ["encode"]);
  assert.deepEqual(inBash("ctok", "--v"), ["--version"]);
  for (const { name, accepts } of commands) assert.deepEqual(inBash("ctok", name, "-"), flagsOf(accepts), name);
  assert.deepEqual(inBash("ctok", "decode", "--con"), ["--container"]);
  assert.deepEqual(inBash("ctok", "help", "enc"), ["encode"]);
  assert.deepEqual(inBash("ctok", "completions", ""), ["bash", "fish", "zsh"]);
});

test("bash: choices, models and files, also after =, and past options with values", bash, () => {
  assert.deepEqual(inBash("ctok", "encode", "--format", ""), ["msgpack", "npy", "safetensors"]);
  assert.deepEqual(inBash("ctok", "encode", "--format", "=", "np"), ["npy"]);
  assert.deepEqual(inBash("ctok", "encode", "--format", "="), ["msgpack", "npy", "safetensors"]);
  assert.deepEqual(inBash("ctok", "encode", "--threads", ""), []);
  assert.deepEqual(inBash("ctok", "encode", "-m", "nano-DI"), ["nano-DI8x8"]);
  assert.deepEqual(inBash("ctok", "info", "nano"), ["nano-DI8x8", "nano-DV4x8x8"]);
  assert.deepEqual(inBash("ctok", "encode", "p"), ["p'2.png", "photo one.jpg", "photos"]);
  assert.deepEqual(inBash("ctok", "encode", "photo one.jpg", "-o", "photos"), ["photos"]);
  // The command is found behind an option and its value; a value that is called like a command is none.
  assert.deepEqual(inBash("ctok", "--quiet", "decode", "--con"), ["--container"]);
  assert.deepEqual(inBash("ctok", "-m", "encode", "decode", "--con"), ["--container"]);
  assert.deepEqual(inBash("ctok", "--model", "=", "encode", "decode", "--con"), ["--container"]);
});

// ---------------------------------------------------------------- fish and zsh
function inFish(line: string): string[] {
  const code = `source ${scripts.fish}; complete -C ${JSON.stringify(line)}`;
  const out = execFileSync("fish", ["--no-config", "-c", code], {
    cwd,
    encoding: "utf8",
    env: { ...process.env, HOME: place },
  });
  return out.split("\n").filter(Boolean).map((offer) => offer.split("\t")[0]!).sort();
}

test("fish: commands, options, choices, models and files", { skip: missing("fish") }, () => {
  assert.deepEqual(inFish("ctok "), [...names].sort());
  for (const { name, accepts } of commands) {
    const long = flagsOf(accepts).filter((flag) => flag.startsWith("--"));
    assert.deepEqual(inFish(`ctok ${name} --`).map((flag) => flag.replace(/=$/, "")).sort(), long, name);
  }
  assert.deepEqual(inFish("ctok encode --format "), ["msgpack", "npy", "safetensors"]);
  assert.deepEqual(inFish("ctok encode --threads "), []);
  assert.deepEqual(inFish("ctok encode -m nano-DI"), ["nano-DI8x8"]);
  assert.deepEqual(inFish("ctok encode phot"), ["photo one.jpg", "photos/"]);
  assert.deepEqual(inFish("ctok completions "), ["bash", "fish", "zsh"]);
});

/** What zsh lists for each line, asked by its list-choices (Ctrl-D) in a terminal of its own (zpty). */
function inZsh(...typed: string[]): string[] {
  const asked = typed.map((line) => `ask $'${line}'`).join("; ");
  const code = `
zmodload zsh/zpty
zpty shell 'zsh -f -i'
await() { zpty -r shell text "*$1*"; print -r -- "$text" }
ask() {
  zpty -w -n shell "$1"$'\\C-d'
  zpty -w -n shell $'\\C-a\\C-k print do\\'\\'ne\\n'
  await done
  await 'ready> ' >/dev/null
  print -r -- NEXT
}
# Keys as Emacs has them: npm sets EDITOR=vi, by which zsh takes those of vi.
zpty -w shell "bindkey -e; autoload -Uz compinit; compinit -u -D; source $0; LISTMAX=999; \
setopt no_list_beep no_prompt_sp; PS1='rea'dy'> '"
await 'ready> ' >/dev/null # the prompt: the line editor is there
${asked}
zpty -d shell`;
  const env = { ...process.env, HOME: place, TERM: "dumb", COLUMNS: "200", LINES: "200" };
  const out = execFileSync("zsh", ["-f", "-c", code, scripts.zsh!], { cwd, encoding: "utf8", env, timeout: 120_000 });
  return out.split("NEXT");
}

test("zsh: commands, options, choices and models", { skip: missing("zsh") }, () => {
  const [first, flags, formats, models] = inZsh(
    "ctok ",
    "ctok decode --con",
    "ctok encode --format ",
    "ctok info nano-D",
  );
  for (const { name } of commands) assert.match(first!, new RegExp(`^${name} +-- `, "m"));
  assert.match(flags!, /--container/);
  assert.match(formats!, /msgpack +npy +safetensors/);
  assert.match(models!, /nano-DI8x8/);
});
