/**
 * Run by disk.test.ts as `ctok run`: saves a large latent and then a small one, in the folder OUT, and prints how each
 * went.
 */
import { join } from "node:path";
import process from "node:process";
import { saveTokens, Tensor, TokenizerError, Tokens } from "mod.ts";

const about = { model: "m", source: "s", spatialFactor: 8, top: 0, left: 0, version: "0" };
for (const [name, side] of [["large", 32], ["small", 2]] as const) {
  const latent = new Tensor("float32", [1, 16, side, side], new Float32Array(16 * side * side), { kind: "latent" });
  const tokens = new Tokens({ ...about, height: side * 8, width: side * 8 }, { latent });
  const path = join(process.env.OUT!, `${name}.safetensors`);
  const error = await saveTokens(path, tokens).then(() => undefined, (thrown) => thrown);
  const code = error instanceof TokenizerError ? error.code : undefined;
  console.log(JSON.stringify({ ok: error === undefined, code, message: error?.message }));
}
