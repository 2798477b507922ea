/**
 * What all formats have in common: the checks of a corpus before any work, of each sample before it is written, and of
 * a shard when it is read: as many samples as were committed, no key twice, errors that name the shard. A format is
 * what is left.
 */
import { expected, messageOf, TokenizerError } from "../../errors.ts";
import { codebookSize, type Quantizer, tellQuantizer } from "../../tokens/quantizer.ts";
import type { CommittedShard, CorpusFacts, ShardFiles, ShardFormat, ShardWriter, TokenDType } from "../format.ts";
import type { Sample } from "../item.ts";
import { type StoredSample, storedSample } from "../records.ts";
import { Part } from "./part.ts";

/** Opens a file of a shard by its suffix, or by its whole name. */
export type OpenPart = (suffix: string, name?: string) => Promise<Part>;

export interface StoredWriter {
  /** Writes a sample. Throws SHAPE, VALUE or ARGUMENT before anything is written, as ShardWriter.add. */
  add(sample: StoredSample): Promise<void>;
  finish(): Promise<void>;
}

export interface Definition extends Pick<ShardFormat, "name" | "about" | "dtypes"> {
  /** Largest codebook whose indices the format stores as uint16. Default: 65,536 codes. */
  readonly mostUint16Codes?: number;
  /** Refuses whatever else the format cannot hold. Throws ARGUMENT. */
  readonly refuse?: (facts: CorpusFacts) => void;
  readonly write: (files: ShardFiles, facts: CorpusFacts) => Promise<StoredWriter>;
  /** Reads the samples of a committed shard back; closes the parts that it opens. */
  readonly read: (open: OpenPart, shard: CommittedShard, facts: CorpusFacts) => AsyncGenerator<Sample>;
  readonly setFiles?: ShardFormat["setFiles"];
}

export function defineFormat(given: Definition): ShardFormat {
  const check = (facts: CorpusFacts) => {
    dtypeOf(given, facts.quantizer, facts.dtype);
    given.refuse?.(facts);
  };
  return {
    name: given.name,
    about: given.about,
    dtypes: given.dtypes,
    dtypeOf: (quantizer, wanted) => dtypeOf(given, quantizer, wanted),
    check,
    setFiles: given.setFiles ?? (() => new Map()),
    open: async (files, facts) => {
      check(facts);
      return checkedWriter(await given.write(files, facts), facts);
    },
    read: (folder, shard, facts) => {
      const open: OpenPart = (suffix, whole) => Part.open(folder, shard, whole ?? `${shard.stem}${suffix}`);
      return checkedSamples(given.read(open, shard, facts), shard);
    },
  };
}

/**
 * The first dtype that fits, unless one is asked for; throws where that does not. `most`: codes that uint16 may stand
 * for.
 */
function dtypeOf(
  { name, dtypes, mostUint16Codes: most = 65_536 }: Definition,
  quantizer: Quantizer | undefined,
  wanted?: TokenDType,
): TokenDType {
  const all = quantizer ? dtypes.discrete : dtypes.continuous;
  if (all.length === 0) {
    throw expected(`format ${name}`, quantizer ? "a continuous model" : "a discrete model", tellQuantizer(quantizer));
  }
  const fits = (dtype: TokenDType) => dtype !== "uint16" || !quantizer || codebookSize(quantizer) <= most;
  const chosen = wanted ?? all.find(fits) ?? all[0]!;
  if (!all.includes(chosen)) throw expected(`format ${name}: dtype`, all.join(" or "), chosen);
  if (!fits(chosen)) {
    const found = `uint16 for ${codebookSize(quantizer!)} codes`;
    throw expected(`format ${name}: dtype`, all.includes("int32") ? "int32" : "a smaller codebook", found);
  }
  return chosen;
}

function checkedWriter(writer: StoredWriter, facts: CorpusFacts): ShardWriter {
  const keys = new Set<string>();
  return {
    async add(sample) {
      const stored = storedSample(sample, facts);
      if (keys.has(stored.key)) throw expected("key", "each once in a shard", stored.key, "SHAPE");
      await writer.add(stored);
      keys.add(stored.key);
    },
    finish: () => writer.finish(),
  };
}

async function* checkedSamples(samples: AsyncGenerator<Sample>, shard: CommittedShard): AsyncGenerator<Sample> {
  const keys = new Set<string>();
  try {
    for await (const sample of samples) {
      if (keys.has(sample.key)) throw expected("key", "each once in a shard", sample.key, "TOKEN_FILE");
      keys.add(sample.key);
      yield sample;
    }
  } catch (cause) {
    if (cause instanceof TokenizerError && !["TOKEN_FILE", "VALUE", "SHAPE"].includes(cause.code)) throw cause;
    throw new TokenizerError("TOKEN_FILE", `shard ${shard.stem}: ${messageOf(cause)}`, { cause });
  }
  if (keys.size !== shard.numSamples) {
    throw expected(`shard ${shard.stem}`, `${shard.numSamples} samples, as were committed`, keys.size, "TOKEN_FILE");
  }
}
