/** repl/rewrite.ts: a line of JavaScript made ready for eval. */
import assert from "node:assert/strict";
import { test } from "node:test";
import { Incomplete, rewrite } from "../../repl/rewrite.ts";

const globals = globalThis as unknown as Record<string, unknown>;

async function run(source: string): Promise<unknown> {
  const { code, names } = rewrite(source);
  for (const name of names) globals[name] ??= undefined;
  return (await ((0, eval)(code) as Promise<{ value: unknown } | undefined>))?.value;
}

test("the last expression is the value; a declaration has none", async () => {
  assert.equal(await run("1 + 1"), 2);
  assert.equal(await run("const u1 = 5"), undefined);
  assert.equal(await run("u1 + 1; u1 + 2"), 7);
  assert.equal(await run("await Promise.resolve(3)"), 3);
  assert.deepEqual(await run("({ a: 1 })"), { a: 1 });
  assert.equal(await run(""), undefined);
});

test("names outlive their line, whatever declares them, and may be declared again", async () => {
  await run("const { u2, v: [u3 = 4, ...u4], ...u5 } = { u2: 1, v: [undefined, 2, 3], w: 9 }, u6 = u2 + 1");
  assert.deepEqual(await run("[u2, u3, u4, u5, u6]"), [1, 4, [2, 3], { w: 9 }, 2]);
  await run("let u2; function u7() { return 'f' } class U8 { x = 1 }");
  assert.deepEqual(await run("[u2, u7(), new U8().x]"), [undefined, "f", 1]);
  await run("for (let i = 0; i < 3; i++) { var u9 = i }");
});

test("imports, static and dynamic, go through the given function", async () => {
  const asked: string[] = [];
  globals.__ctok_import = (name: string) => {
    asked.push(name);
    return Promise.resolve({ default: "d", a: 1, b: 2 });
  };
  await run(`import i1, { a as i2 } from "one"; import * as i3 from "two"`);
  assert.deepEqual(await run("[i1, i2, i3.b, (await import('three')).a]"), ["d", 1, 2, 1]);
  assert.deepEqual(asked, ["one", "two", "three"]);
});

test("what may go on is told from what is wrong", () => {
  for (const source of ["f(", "const a = {\n", "`open", "/* open", "if (x) {", "1 +"]) {
    assert.throws(() => rewrite(source), Incomplete, source);
  }
  for (const source of ["1 + ) 2", "const = 3", "'open\n'", "a b"]) {
    assert.throws(() => rewrite(source), SyntaxError, source);
  }
});
