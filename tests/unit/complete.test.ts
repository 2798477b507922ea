/**
 * Completion of paths: a name from the disk is one string whatever is in it, and what is typed is understood as source.
 */
import assert from "node:assert/strict";
import { mkdir, writeFile } from "node:fs/promises";
import { join } from "node:path";
import process from "node:process";
import { test } from "node:test";
import { parse } from "acorn";
import { complete } from "../../repl/complete.ts";
import { withFolder } from "../support.ts";

const quotes = ["'", '"', "`"];
const names = [
  'a"),Bun.spawnSync(["touch","pwned"]),("',
  "a'),evil(),('",
  "a`),evil(),(`",
  "a${evil()}",
  "a\\",
  "a\\u0061",
  "a\n\r\t\u2028\u2029",
  "a\x1b]0;title\x07\x7f\x9b",
  "a\u202eb\u2066",
  "a plain name, ünïcode 🦊",
];

/** What the source of one call with one string passes. */
function argumentOf(source: string): unknown {
  // deno-lint-ignore no-explicit-any
  const [statement, ...more] = parse(source, { ecmaVersion: "latest" }).body as any[];
  assert.equal(more.length, 0, source);
  const { type, arguments: [only, ...others] } = statement.expression;
  assert.deepEqual([type, others.length], ["CallExpression", 0], source);
  if (only.type === "Literal") return only.value;
  assert.deepEqual([only.type, only.expressions.length], ["TemplateLiteral", 0], source);
  return only.quasis[0].value.cooked;
}

test("a completed name stands in its string and nowhere else, from whatever part of it is typed", () =>
  withFolder(async (folder) => {
    for (const [n, name] of names.entries()) {
      await mkdir(join(folder, String(n)));
      await writeFile(join(folder, String(n), name), "");
      for (const quote of quotes) {
        const begin = `load(${quote}${folder}/${n}/`;
        const [[whole], typed] = complete(begin, []);
        assert.equal(
          argumentOf(begin.slice(0, begin.length - typed.length) + whole + `${quote})`),
          join(folder, `${n}`, name),
        );
        // In another kind of string, as where an earlier line has opened one.
        for (const other of quotes) {
          assert.equal(argumentOf(`load(${other}${whole}${other})`), join(folder, `${n}`, name));
        }
        // A second Tab, after any part of what the first inserted: nothing, or the same name.
        for (let end = typed.length; end <= whole!.length; end++) {
          const line = `load(${quote}${whole!.slice(0, end)}`, [[again]] = complete(line, []);
          if (again !== undefined) {
            assert.equal(argumentOf(`load(${quote}${again}${quote})`), join(folder, `${n}`, name), line);
          }
        }
      }
    }
  }));

test("what several names begin with is never half of an escape", () =>
  withFolder(async (folder) => {
    for (const name of ['x"1', "x\\2", "y\x1b1", "y\x1c2", "z1", "z2"]) await writeFile(join(folder, name), "");
    const common = (line: string) => {
      const [candidates, typed] = complete(line, []);
      assert.ok(candidates.length >= 2);
      const [first = "", ...others] = candidates;
      let length = typed.length;
      while (length < first.length && others.every((c) => c[length] === first[length])) length++;
      return first.slice(typed.length, length);
    };
    assert.deepEqual(["x", "y", "z"].map((stem) => common(`load("${folder}/${stem}`)), ["", "", ""]);
  }));

test("strings are told from code: quotes in comments, regular expressions and templates", () =>
  withFolder(async (folder) => {
    await writeFile(join(folder, "zqname"), "");
    const here = process.cwd();
    process.chdir(folder);
    try {
      for (const line of ['/"/.test(zq', '// "zq', 'f("a") + zq', "`${zq", "`${1}zq", '"\\u{zq']) {
        assert.deepEqual(complete(line, [])[0], [], line);
      }
      for (const line of ['"zq', "f('x', \"zq", "/[\"]/.test('zq", "`zq", "`${f('zq", 'f("\\"", "\\x7aq']) {
        assert.deepEqual(complete(line, [])[0].map((c) => c.slice(-2)), ["me"], line);
      }
    } finally {
      process.chdir(here);
    }
  }));
