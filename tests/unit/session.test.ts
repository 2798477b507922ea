/** repl/session.ts: verbs on tokens of a learned codebook, which the session asks of the model once. */
import assert from "node:assert/strict";
import { test } from "node:test";
import {
  decodeTokens,
  edit,
  encodeTokens,
  mix,
  neighboursOf,
  noise,
  statsOf,
  swap,
  Tensor,
  Tokenizer,
  Tokens,
} from "mod.ts";
import { Screen } from "../../repl/screen.ts";
import { Session } from "../../repl/session.ts";
import { rejects, withWeights } from "../support.ts";

const pictureOf = (seed: number) => {
  const data = Uint8Array.from({ length: 21 * 37 * 3 }, (_, i) => Math.imul(i + seed, 2654435761) >>> 24);
  return new Tensor("uint8", [1, 21, 37, 3], data);
};

const same = (a: Tokens, b: Tokens) => {
  assert.deepEqual(a.indices.data, b.indices.data);
  assert.deepEqual(a.codes.data, b.codes.data);
};

test("a codebook that is left out is the model's own, asked for once; one that is passed counts", () =>
  withWeights("VQ-8", "small", async (path) => {
    await using tok = await Tokenizer.open(path);
    const codebook = await tok.codebook(), region = { top: 1 };
    const fromFile = async (seed: number) =>
      decodeTokens(encodeTokens(await tok.encode(pictureOf(seed)), "safetensors"), "t");
    const a = await fromFile(1), b = await fromFile(2); // which hold indices alone
    const { codebook: ask } = Tokenizer.prototype;
    let asked = 0;
    Tokenizer.prototype.codebook = function () {
      asked++;
      return ask.call(this);
    };
    try {
      await using session = new Session(new Screen("none"));
      // deno-lint-ignore no-explicit-any
      const verbs = session.scope() as Record<string, (...args: any[]) => any>;
      await rejects(() => verbs.edit!(a, region, 31), "UNSUPPORTED", /tokenizer\.codebook\(\) gives them/);
      await verbs.open!(path, { half: "encoder" });
      await verbs.open!(path);
      same(verbs.edit!(a, region, 31), edit(a, region, 31, codebook));
      same(verbs.swap!(a, b, region), swap(a, b, region, codebook));
      same(verbs.mix!(a, b, 0.5), mix(a, b, 0.5, codebook));
      same(verbs.noise!(a, 0.5), noise(a, 0.5, 1, codebook));
      assert.deepEqual(verbs.stats!(a), statsOf(a, codebook));
      const near: { index: number }[] = await verbs.neighbours!(7);
      const wanted = neighboursOf(7, tok.info.quantizer!, codebook);
      assert.deepEqual(near.map((n) => n.index), wanted.map((n) => n.index));
      assert.equal(asked, 1);

      const turned = new Tensor("float32", codebook.shape, codebook.data.map((v) => -v));
      assert.deepEqual(verbs.stats!(a, turned), statsOf(a, turned));
      assert.notDeepEqual(verbs.stats!(a, turned), verbs.stats!(a));
      const other = new Tokens({ ...a.origin, sha256: "f".repeat(64) }, { indices: a.indices });
      await rejects(() => verbs.stats!(other), "UNSUPPORTED", /tokenizer\.codebook\(\) gives them/);
    } finally {
      Tokenizer.prototype.codebook = ask;
    }
  }));
