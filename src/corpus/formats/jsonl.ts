/**
 * JSON lines of discrete tokens: {"key", "class_id"?, "tokens": [...], "shape": [...], ...} with all that a token file
 * says. `tokens` are the indices row-major; `class_id` is the sidecar `cls` where that is a whole number, as pipelines
 * of class-conditional models read it (RAR and 1d-tokenizer). Latents have no place here: their text would be four
 * times their bytes.
 */
import { expected } from "../../errors.ts";
import { type StoredTensor, storedTypes } from "../../tokens/stored.ts";
import { elementsOf } from "../../tokens/dense.ts";
import { commonKeys, ownRecord, sampleOf, storedNames, type StoredSample } from "../records.ts";
import { lineOf, utf8Of, writeLine } from "./companion.ts";
import { defineFormat } from "./define.ts";

export const jsonl = defineFormat({
  name: "jsonl",
  about: "lines of JSON: key, tokens, shape and facts",
  dtypes: { discrete: ["uint16", "int32"], continuous: [] },
  async write(files, facts) {
    const file = await files.create(".jsonl"), common = commonKeys(facts);
    return {
      async add(sample) {
        const { data, shape } = sample.tensor;
        const tokens = { ...classOf(sample), tokens: Array.from(data as Int32Array), shape: shape.slice(1) };
        await writeLine(file, { ...sample, record: { ...sample.record, ...common } }, tokens);
      },
      async finish() {},
    };
  },
  async *read(open, _shard, facts) {
    await using file = await open(".jsonl");
    for await (const value of file.lines()) {
      const { tokens, class_id: told, ...others } = Object(value) as Record<string, unknown>;
      const { record, shape, sidecars } = lineOf(file.name, others), name = `${file.name}: ${record.key}`;
      const tensor = tensorOf(name, tokens, shape, storedNames[facts.dtype] as "uint16" | "int32");
      const sample = sampleOf(ownRecord(record, facts), tensor, sidecars, facts);
      const { class_id: wanted } = classOf(sample);
      if (wanted !== told) throw expected(`${name}: class_id`, `${wanted}, as in the sidecar`, told, "TOKEN_FILE");
      yield sample;
    }
  },
});

function classOf({ sidecars }: Pick<StoredSample, "sidecars">): { readonly class_id?: number } {
  const cls = sidecars.find(({ field }) => field === "cls"), text = cls && utf8Of(cls.bytes)?.trim();
  return text !== undefined && /^(0|[1-9]\d{0,8})$/.test(text) ? { class_id: Number(text) } : {};
}

function tensorOf(
  name: string,
  tokens: unknown,
  shape: readonly number[] | undefined,
  dtype: "uint16" | "int32",
): StoredTensor {
  if (!shape) throw expected(`${name}: shape`, "that of its tokens", "nothing", "TOKEN_FILE");
  const most = dtype === "uint16" ? 65_535 : 2 ** 31 - 1;
  if (!Array.isArray(tokens) || !tokens.every((n) => Number.isInteger(n) && n >= 0 && n <= most)) {
    throw expected(`${name}: tokens`, `a list of whole numbers from 0 to ${most}`, tokens, "TOKEN_FILE");
  }
  if (tokens.length !== elementsOf(shape)) {
    throw expected(
      `${name}: tokens`,
      `${elementsOf(shape)}, as of shape [${shape.join(", ")}]`,
      tokens.length,
      "TOKEN_FILE",
    );
  }
  return { dtype, shape, data: (storedTypes[dtype].array as typeof Uint16Array).from(tokens) } as StoredTensor;
}
