/**
 * The REPL in a pseudo-terminal (util-linux's script), as a person drives it; then piped, and ctok run. Pictures are
 * asked for in the kitty protocol, whose pixels can be read back.
 */
import assert from "node:assert/strict";
import { type ChildProcess, spawn } from "node:child_process";
import { lstatSync, readdirSync, readFileSync } from "node:fs";
import { mkdir, symlink, writeFile } from "node:fs/promises";
import { join } from "node:path";
import process from "node:process";
import { test } from "node:test";
import { inflateSync } from "node:zlib";
import { edit, loadTokens, psnr, readImage, saveTokens, Tensor, Tokenizer, tokenMap, Tokens } from "mod.ts";
import { kittyChunks, withFolder } from "../support.ts";
import { ctokEnds, runtimeCommand, top } from "./spawn.ts";

const photo = join(top, "examples/media/cat.png");

/** A program in a terminal of its own: type to it, wait for what it says. */
class Terminal implements AsyncDisposable {
  readonly #child: ChildProcess;
  #output = "";
  #seen = 0;
  #onOutput = () => {};
  readonly ended: Promise<number | null>;

  constructor(command: readonly string[], env: Record<string, string>, cwd = top) {
    const line = command.map((word) => `'${word}'`).join(" ");
    this.#child = spawn("script", ["-qec", line, "/dev/null"], {
      cwd,
      env: { ...process.env, TERM: "xterm-256color", ...env },
      stdio: ["pipe", "pipe", "inherit"],
    });
    this.#child.stdout!.setEncoding("utf8").on("data", (text: string) => {
      this.#output += text;
      this.#onOutput();
    });
    this.ended = new Promise((resolve) => this.#child.on("close", resolve));
  }

  type(text: string): void {
    this.#child.stdin!.write(text);
  }

  /** What it has said since the last wait, up to and with the pattern. */
  async waitFor(pattern: RegExp, timeoutMs = 120_000): Promise<string> {
    const deadline = Date.now() + timeoutMs;
    while (true) {
      const rest = this.#output.slice(this.#seen), found = pattern.exec(rest);
      if (found) {
        this.#seen += found.index + found[0].length;
        return rest.slice(0, found.index + found[0].length);
      }
      const left = deadline - Date.now();
      assert.ok(left > 0, `expected ${pattern} within ${timeoutMs} ms, found ${JSON.stringify(rest.slice(-2000))}`);
      await new Promise<void>((resolve) => {
        const timer = setTimeout(resolve, left);
        this.#onOutput = () => (clearTimeout(timer), resolve());
      });
    }
  }

  /** Types a line and gives what it said until the next prompt. */
  async line(text: string): Promise<string> {
    this.type(text + "\r");
    await this.waitFor(/\r\n/); // the echo
    return await this.waitFor(prompt);
  }

  async [Symbol.asyncDispose](): Promise<void> {
    this.#child.stdin!.end();
    this.#child.kill("SIGKILL");
    await this.ended;
  }
}

// deno-lint-ignore no-control-regex
const prompt = /ctok> (?:\x1b\[\d*[A-Z])*$/;

/** The pixels of the last picture that was drawn. */
function pictureIn(output: string): { width: number; height: number; data: Uint8Array } {
  const start = output.lastIndexOf("\x1b_Ga=T");
  assert.ok(start >= 0, `expected a picture, found ${JSON.stringify(output.slice(0, 500))}`);
  const chunks = kittyChunks(output.slice(start));
  const [, width, height] = /s=(\d+),v=(\d+)/.exec(chunks[0]![1]!)!.map(Number) as [number, number, number];
  const data = new Uint8Array(inflateSync(Buffer.from(chunks.map((c) => c[2]).join(""), "base64")));
  assert.equal(data.length, width * height * 3);
  return { width, height, data };
}

test("a session: open, load, encode, show, edit, decode, diff, errors, Ctrl-C, history, .exit", async () =>
  await withFolder(async (folder) => {
    const env = { CTOK_GRAPHICS: "kitty", CTOK_HISTORY: join(folder, "state/history") };
    const command = [...runtimeCommand, "repl"];
    {
      await using terminal = new Terminal(command, env);
      await terminal.waitFor(prompt);
      assert.match(
        await terminal.line(".help"),
        /edit\(tokens, region, code, codebook\?\).*[\s\S]*neighbours\(code, codebook\?\)/,
      );
      assert.match(await terminal.line(`await open("nano-DI8x8"); 1`), /1/);
      await terminal.line(`const photo = await load("${photo}")`);

      const shown = pictureIn(await terminal.line("await show(photo)"));
      const original = await readImage(photo);
      assert.deepEqual([shown.height, shown.width], [300, 451]);
      assert.ok(Buffer.from(original.data).equals(Buffer.from(shown.data)), "the picture's own pixels");

      await terminal.line("const tokens = await encode(photo)");
      const summary = await terminal.line("tokens");
      assert.match(summary, /Tokens \{ nano-DI8x8: indices int32 \[1, 38, 58\].*451x300 pixels/);
      await using tok = await Tokenizer.open("nano-DI8x8");
      const tokens = await tok.encode(photo), map = pictureIn(await terminal.line("await show(tokens)"));
      assert.ok(Buffer.from(tokenMap(tokens.indices).data).equals(Buffer.from(map.data)), "the map of the same codes");

      await terminal.line(
        "const edited = edit(tokens, { top: 4, left: 4, height: 8, width: 8 }, 100), again = await decode(edited)",
      );
      const again = await tok.decode(edit(tokens, { top: 4, left: 4, height: 8, width: 8 }, 100), { dtype: "uint8" });
      const decoded = pictureIn(await terminal.line("await show(again)"));
      assert.ok(Buffer.from(again.data).equals(Buffer.from(decoded.data)), "the edit, decoded");
      const difference = await terminal.line("diff(photo, again).psnr.toFixed(6)");
      assert.ok(difference.includes(psnr(original, again).toFixed(6)), difference);
      assert.match(await terminal.line(`await save("${folder}/t.safetensors", edited)`), /t\.safetensors/);
      assert.deepEqual((await loadTokens(join(folder, "t.safetensors"))).indices.data[4 * 58 + 4], 100);

      // A wrong call, a code outside the codebook, a wrong name; none of them ends the session.
      assert.match(
        await terminal.line("edit(tokens, 5)"),
        /ARGUMENT: edit\(tokens, region, code, codebook\?\): expected a region.*found 5/,
      );
      assert.match(
        await terminal.line("edit(tokens, {}, 64000)"),
        /VALUE: code: expected a whole number from 0 to 63999, found 64000/,
      );
      assert.match(
        await terminal.line("encode(tokens)"),
        /encode\(x, options\?\): expected a path or a picture.*found tokens of nano/,
      );
      assert.match(await terminal.line("nonsense"), /nonsense/);

      // Ctrl-C stops the work and not the REPL.
      terminal.type(`for (;;) { await encode(photo); console.log(6 * 7 + " pictures") }\r`);
      await terminal.waitFor(/42 pictures/);
      terminal.type("\x03");
      assert.match(await terminal.waitFor(prompt), /CANCELLED: interrupted/);
      assert.match(await terminal.line("6 * 7"), /42/);

      // Completion: a verb, a member, a path.
      terminal.type("neigh\t");
      await terminal.waitFor(/neighbour/);
      terminal.type("\x15tokens.ind\t");
      await terminal.waitFor(/tokens\.indices/);
      terminal.type(`\x15await load("${top}/examples/media/coff\t`);
      await terminal.waitFor(/coffee\.jpg/);
      terminal.type("\x15");
      await terminal.line("'the last line'");
      terminal.type(".exit\r");
      assert.equal(await terminal.ended, 0);
    }
    assert.match(readFileSync(env.CTOK_HISTORY, "utf8"), /'the last line'\n[\s\S]*6 \* 7/);
    await using terminal = new Terminal(command, env);
    await terminal.waitFor(prompt);
    terminal.type("\x1b[A\x1b[A"); // .exit, then the line before it
    await terminal.waitFor(/'the last line'/);
    terminal.type("\r");
    assert.match(await terminal.waitFor(prompt), /the last line/);
    terminal.type(".exit\r");
    assert.equal(await terminal.ended, 0);
  }));

test("a video: frames, a contact sheet, there and back", async () =>
  await withFolder(async (folder) => {
    await using terminal = new Terminal([...runtimeCommand, "repl", "nano-DV4x8x8"], {
      CTOK_GRAPHICS: "kitty",
      CTOK_HISTORY: join(folder, "history"),
    });
    await terminal.waitFor(prompt);
    await terminal.line(`const clip = await load("${top}/examples/media/cars.mp4", { frames: 9 })`);
    assert.match(await terminal.line("clip.shape.join()"), /1,9,432,768,3/);
    await terminal.line("const tokens = await encode(clip), again = await decode(tokens)");
    assert.match(await terminal.line("again.shape.join()"), /1,9,432,768,3/);
    const sheet = pictureIn(await terminal.line("await show(again)"));
    assert.deepEqual([sheet.height, sheet.width], [2 * 432 + 8, 4 * 768 + 3 * 8], "eight frames in rows of four");
    assert.equal((await terminal.line("await play(again, 50)")).match(/a=T/g)?.length, 9, "each frame is drawn");
    assert.match(await terminal.line("stats(tokens).levels.length"), /6/);
    terminal.type(".exit\r");
    assert.equal(await terminal.ended, 0);
  }));

test("names from the disk: completed as one string, listed without what a terminal would obey", async () =>
  await withFolder(async (folder) => {
    const runs = `a"),require("node:fs").writeFileSync("pwned",""),("`, title = "b\x1b]0;title\x07.png";
    for (const name of [runs, title, "b2.png"]) await writeFile(join(folder, name), "no picture");
    await using terminal = new Terminal(
      [...runtimeCommand, "repl"],
      { CTOK_HISTORY: join(folder, ".history") },
      folder,
    );
    let all = await terminal.waitFor(prompt);
    terminal.type('await load("a\t');
    all += await terminal.waitFor(/\\",\\"\\"\),\(\\"/);
    all += await terminal.line('")');
    assert.match(all, /IMAGE: a"\),require.* expected an image/);
    terminal.type('await load("b');
    for (let isListed = false; !isListed;) { // the second Tab in a row lists; two in one read are text
      terminal.type("\t");
      isListed = await terminal.waitFor(/b2\.png[^]*ctok> await load\("b/, 500).then((text) =>
        all += text, () => "") !== "";
    }
    terminal.type("\\x1b\t");
    all += await terminal.waitFor(/title\\x07\.png/);
    all += await terminal.line('")');
    assert.match(all, /IMAGE: b\\x1b\]0;title\\x07\.png/);
    // deno-lint-ignore no-control-regex
    assert.doesNotMatch(all, /\x1b\]/);
    assert.deepEqual(readdirSync(folder).sort(), [runs, title, "b2.png"].sort());
    terminal.type(".exit\r");
    assert.equal(await terminal.ended, 0);
  }));

test("what a token file says of itself reaches the terminal escaped", async () =>
  await withFolder(async (folder) => {
    const path = join(folder, "t.safetensors"), evil = "\x1b]52;c;QUFB\x07\x1b[2J\r\nx -> y: done\x9b2J\u202e";
    const { origin, indices } = await (async () => {
      await using tok = await Tokenizer.open("nano-DI8x8");
      return await tok.encode(photo);
    })();
    const named = { ...origin, model: `m${evil}`, source: `/s${evil}` };
    await saveTokens(
      path,
      new Tokens(named, { indices: new Tensor("int32", indices.shape, indices.data, { origin: named }) }),
    );
    const lines = [
      `const t = await load("${path}")`,
      "t",
      "t.indices",
      "[t]",
      "t.latent",
      "throw t.origin.model",
      "throw new Error(t.origin.model)",
      "new Error(t.origin.model)",
    ];
    // deno-lint-ignore no-control-regex
    const obeyed = /\x1b\]|\x1b\[2J|\x9b|\u202e|\nx -> y/;
    const env = { CTOK_HISTORY: join(folder, "history"), CTOK_GRAPHICS: "none" };
    await using terminal = new Terminal([...runtimeCommand, "repl"], env);
    await terminal.waitFor(prompt);
    for (const line of lines) assert.doesNotMatch(await terminal.line(line), obeyed, line);
    terminal.type(".exit\r");
    assert.equal(await terminal.ended, 0);
    for (const line of lines.slice(1)) {
      const { stdout, stderr } = await pipe(["repl"], `${lines[0]}\n${line}\n`);
      assert.doesNotMatch(stdout + stderr, obeyed, line);
      assert.match(stdout + stderr, /\\x1b/i, line);
    }
  }));

test("the history: for the user alone, and no link that lies there is followed", async () =>
  await withFolder(async (folder) => {
    const history = join(folder, "state/history"), victim = join(folder, "victim");
    await writeFile(victim, "precious");
    await mkdir(join(folder, "state"));
    await using terminal = new Terminal([...runtimeCommand, "repl"], { CTOK_HISTORY: history });
    await terminal.waitFor(prompt);
    const pid = /(\d+)/.exec(await terminal.line("process.pid"))![1];
    await symlink(victim, `${history}.${pid}.tmp`); // where older versions wrote it first
    await symlink(victim, history);
    terminal.type(".exit\r");
    assert.equal(await terminal.ended, 0);
    assert.equal(readFileSync(victim, "utf8"), "precious");
    const written = lstatSync(history);
    assert.deepEqual([written.isFile(), written.mode & 0o777], [true, 0o600]);
    assert.match(readFileSync(history, "utf8"), /process\.pid/);
    assert.deepEqual(readdirSync(join(folder, "state")).sort(), ["history", `history.${pid}.tmp`]);
  }));

test("piped: statements over several lines, values printed, the first failure ends it with code 1", async () => {
  const program = `
    const tokens = await encode("${photo}")
    tokens
    function twice(x) {
      return 2 * x;
    }
    twice(21)
    const { data: [first] } = tokens.indices
    import { basename } from "node:path"
    basename("a/b.c")
    edit(tokens, { top: 99 }, 5)
    "never reached"
  `;
  const { code, stdout, stderr } = await pipe(["repl"], program);
  assert.equal(code, 1, stderr);
  assert.match(stdout, /^Tokens \{ nano-DI8x8: indices int32 \[1, 38, 58\].*\n42\n'b\.c'\n$/);
  assert.match(stderr, /ARGUMENT: region\.top: expected a whole number from 0 to 37, found 99/);
  assert.deepEqual(await pipe(["repl"], "1 +"), {
    code: 1,
    stdout: "",
    stderr: "ctok: SyntaxError: expected the statement to end, found the end of the input\n",
  });
  assert.deepEqual(await pipe(["repl"], "1 + 1"), { code: 0, stdout: "2\n", stderr: "" });
});

test("ctok run: a TypeScript file with the verbs in scope; its failure is exit code 1", async () =>
  await withFolder(async (folder) => {
    const script = join(folder, "script.mts"), call = "(globalThis as Record<string, any>)";
    await writeFile(
      script,
      `const t: unknown = await ${call}.encode(${
        JSON.stringify(photo)
      });\nconsole.log(String(${call}.stats(t).tokens));\n`,
    );
    const { stdout } = await ctokEnds(0, ["run", script]);
    assert.equal(stdout, "2204\n");
    await writeFile(script, `${call}.mix(1, 2, 3);\n`);
    const failed = await ctokEnds(1, ["run", script]);
    assert.match(failed.stderr, /mix\(a, b, t, codebook\?\): expected tokens, as encode gives, found 1/);
    assert.match((await ctokEnds(1, ["run", join(folder, "none.ts")])).stderr, /none\.ts: expected a script/);
  }));

function pipe(
  args: readonly string[],
  input: string,
): Promise<{ code: number | null; stdout: string; stderr: string }> {
  const [command, ...rest] = runtimeCommand;
  const child = spawn(command!, [...rest, ...args], { cwd: top, stdio: ["pipe", "pipe", "pipe"] });
  const ended = { stdout: "", stderr: "" };
  child.stdout.setEncoding("utf8").on("data", (text: string) => ended.stdout += text);
  child.stderr.setEncoding("utf8").on("data", (text: string) => ended.stderr += text);
  child.stdin.end(input);
  return new Promise((resolve) => child.on("close", (code) => resolve({ code, ...ended })));
}
