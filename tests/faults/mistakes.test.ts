/**
 * Callers' mistakes: every function on tokens, tensors and pictures, with anything in the place of each argument, gives
 * a TokenizerError that is not INTERNAL, or takes it; never another error.
 */
import assert from "node:assert/strict";
import { join } from "node:path";
import { test } from "node:test";
import * as ctok from "mod.ts";
import { rejects, withFolder } from "../support.ts";

const anything: unknown[] = [
  ...[undefined, null, true, 0, 5, -1, 1.5, NaN, Infinity, 2 ** 60, 7n, "", "/dev/null/x", "\0", Symbol("s"), () => 1],
  ...[
    [],
    {},
    [[]],
    [undefined],
    [null],
    [Symbol("s")],
    [5],
    new Uint8Array(4),
    new Float32Array(0),
    new Map(),
    Object.create(null),
  ],
  ...[{ dtype: "uint8" }, { dtype: "__proto__", shape: [1], data: [1] }, { dtype: "uint8", shape: [1], data: [1] }],
  ...[{ dtype: "uint8", shape: [2 ** 60], data: new Uint8Array(1) }, {
    dtype: "int64",
    shape: [1],
    data: new BigInt64Array(1),
  }],
];
const origin: ctok.Origin = {
  ...{
    model: "nano-DI8x8",
    source: "nano-DI8x8",
    spatialFactor: 8,
    quantizer: ctok.fsq([8, 8, 8, 5, 5, 5]),
    version: "0.1.0",
  },
  ...{ height: 8, width: 16, top: 0, left: 0 },
};
const indices = new ctok.Tensor("int32", [1, 1, 2], Int32Array.of(7, 9), { kind: "indices", origin });
const tokens = new ctok.Tokens(origin, { indices });
const clip = new ctok.Tokens({ ...origin, video: { temporalFactor: 4, frames: 1 } }, {
  indices: new ctok.Tensor("int32", [1, 1, 1, 2], indices.data),
});
const picture = new ctok.Tensor("uint8", [8, 8, 3], new Uint8Array(192));

/** Right arguments of each function, so that one at a time can be wrong. */
function calls(folder: string): [(...args: never[]) => unknown, unknown[]][] {
  const path = join(folder, "t.safetensors"), quantizer = origin.quantizer!;
  return [
    [ctok.psnr, [picture, picture]],
    [ctok.ssim, [picture, picture]],
    [ctok.codebookUse, [indices, 64000]],
    [ctok.joinTokens, [[clip]]],
    [ctok.encodeTokens, [tokens, "msgpack", { storePath: true }]],
    [ctok.decodeTokens, [ctok.encodeTokens(tokens, "npy"), "name", origin]],
    [ctok.saveTokens, [path, tokens, { format: "npy" }]],
    [ctok.loadTokens, [path, origin]],
    [ctok.windowsOf, [18, 17, 4]],
    [ctok.fsq, [[8, 8]]],
    [ctok.codebookSize, [quantizer]],
    [ctok.codesFromIndices, [indices, quantizer]],
    [ctok.indicesFromCodes, [tokens.codes, quantizer]],
    [ctok.roundToCodes, [tokens.codes, quantizer]],
    [ctok.codeOf, [5, quantizer]],
    [ctok.neighboursOf, [5, quantizer]],
    [ctok.statsOf, [tokens]],
    [ctok.edit, [tokens, { top: 0 }, 5]],
    [ctok.swap, [tokens, tokens, { left: 1 }]],
    [ctok.mix, [tokens, tokens, 0.5]],
    [ctok.noise, [tokens, 0.5, 1]],
    [ctok.sideBySide, [picture, picture, 2]],
    [ctok.contactSheet, [[[picture]], { gap: 2 }]],
    [ctok.tokenMap, [indices, 2]],
    [ctok.latentTiles, [tokens.codes, 2]],
    [ctok.Tokens.fromJSON, [tokens.toJSON()]],
    [ctok.Tokens.fromTransferable, [tokens.toTransferable()]],
    [(...args) => Reflect.construct(ctok.Tensor, args), ["uint8", [1], new Uint8Array(1)]],
    [(n) => indices.at(n), [0]],
  ];
}

test("any value as any argument: a TokenizerError, or a result", () =>
  withFolder(async (folder) => {
    let refused = 0;
    for (const [call, right] of calls(folder)) {
      await call(...right as never[]);
      for (let at = 0; at < right.length; at++) {
        for (const wrong of [...anything, ...anything.map((value) => [value])]) {
          try {
            await call(...right.with(at, wrong) as never[]);
          } catch (error) {
            refused++;
            const what = `${call.name || call} with argument ${at} ${typeof wrong}: ${error}`;
            assert.ok(error instanceof ctok.TokenizerError && error.code !== "INTERNAL", what);
          }
        }
      }
    }
    assert.ok(refused > 1500, `${refused} refusals`);
  }));

test("the log's own: codes and words", async () => {
  await rejects(
    () => ctok.psnr(null as never, null as never),
    "ARGUMENT",
    /^a: expected a tensor { data, shape, dtype }, found null/,
  );
  await rejects(() => ctok.joinTokens([]), "ARGUMENT", /^parts: expected a list of tokens, found \[\]/);
  await rejects(() => ctok.saveTokens(5 as never, tokens), "ARGUMENT", /^path: expected a path, found 5/);
  await rejects(() => ctok.loadTokens(5 as never), "ARGUMENT", /expected a path/);
  await rejects(
    () => ctok.loadTokens("t.npy", { model: "nano-DI8x8" } as never),
    "ARGUMENT",
    /^fallback: expected an origin/,
  );
  await rejects(
    () => ctok.saveTokens("x", indices as never),
    "ARGUMENT",
    /^tokens: expected what encode or loadTokens gave, found "Tensor"/,
  );
  await rejects(
    () => ctok.saveTokens("x", tokens, "npy" as never),
    "ARGUMENT",
    /^options: expected { format, storePath }, found "npy"/,
  );
  for (
    const draw of [
      ctok.tokenMap,
      (t: never, s: number) => ctok.latentTiles(ctok.codesFromIndices(t, origin.quantizer!), s),
    ]
  ) {
    await rejects(
      () => draw(indices as never, 1e5),
      "ARGUMENT",
      /^scale: expected a result of at most 268402689 pixels/,
    );
  }
  const sheet = [[picture, picture], [picture, picture]];
  await rejects(
    () => ctok.contactSheet(sheet, { gap: 1e9 }),
    "ARGUMENT",
    /^rows: expected a result of at most 268402689 pixels/,
  );
  await rejects(() => ctok.sideBySide(picture, picture, 1e9), "ARGUMENT", /^gap: expected a result of at most/);
});
