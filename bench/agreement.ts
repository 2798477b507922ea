/**
 * How far ctok's answers are from those of the public networks, as tables in Markdown: of each network's stored cases
 * the tokens and pictures in float32 and in bfloat16, beside PyTorch's own on the same cases (bench/pytorch/errors.json
 * for those in tests/fixtures, tests/fixtures/pytorch_errors.json for the others). The truth is computed in float64 by
 * reference/, which was checked against the public code; weights are synthetic. No times: bench/cpu.ts.
 *
 *     bun bench/agreement.ts       (or deno run -A; after npm run setup)
 *
 * Cases: those in tests/fixtures, and all of ../shared/fixtures where it lies beside the checkout. Tests hold the same
 * cases to limits (tests/golden).
 */
import { existsSync, readFileSync } from "node:fs";
import { cpus } from "node:os";
import { join } from "node:path";
import { embeddedModels, type TensorLike, Tokenizer, TokenizerError } from "mod.ts";
import {
  carried,
  countDifferent,
  hasShared,
  readTensors,
  relativeError,
  root,
  shared,
  withWeights,
} from "../tests/support.ts";

type Size = "small" | "full";
type Precision = "f32" | "bf16";
interface Errors {
  readonly pre_quant: number;
  readonly reconstruction: number;
  readonly index_agreement?: number;
}
interface Peer {
  readonly float32: Errors;
  readonly bfloat16: Errors;
}

/**
 * Of one case, ours and PyTorch's: relative L2 errors of the latent (before FSQ) and the picture, and equal indices.
 */
interface Row {
  readonly model: string;
  readonly precision: Precision;
  readonly latent: readonly [ours: number, peer: number];
  readonly picture: readonly [ours: number, peer: number];
  readonly tokens: number;
  readonly equal: readonly [ours: number, peer: number];
  /** Of the picture decoded to uint8, beside the float64 answer rounded. */
  readonly bytes: Bytes;
}

interface Bytes {
  readonly all: number;
  /** That differ by one, and by more. */
  readonly byOne: number;
  readonly byMore: number;
}

interface Case {
  readonly model: string;
  readonly size: Size;
  readonly golden: string;
  readonly peer: Peer;
  /** A checkpoint; without one the weights follow from the tensors' names. */
  readonly path?: string;
  /** Pixels in, pixels out, of the whole uint8 pipeline. */
  readonly pipeline?: string;
}

const read = (path: string) => JSON.parse(readFileSync(path, "utf8")) as Record<string, Record<Size, Peer>>;
const peersOfCarried = read(join(root, "bench/pytorch/errors.json")),
  peersOfAll = read(join(carried, "pytorch_errors.json"));

/** Every network that PyTorch's errors are known of, in the cases that are there. */
function findCases(): Case[] {
  const cases: Case[] = [];
  for (const [model, all] of Object.entries(peersOfAll)) {
    const folder = join(shared, `${/-\d+p$/.test(model) ? "Cosmos-Tokenize1" : "Cosmos-Tokenizer"}-${model}`);
    const own = join(carried, `Cosmos-Tokenizer-${model}`), golden = "golden.safetensors";
    const first = (...found: Omit<Case, "model">[]) => {
      const one = found.find((c) => existsSync(c.golden));
      if (one) cases.push({ model, ...one });
    };
    first(
      {
        size: "small",
        golden: join(folder, golden),
        peer: all.small,
        path: folder,
        pipeline: join(folder, "pipeline.safetensors"),
      },
      { size: "small", golden: join(own, golden), peer: peersOfCarried[model]?.small!, path: own },
      { size: "small", golden: join(carried, `${model}-small.safetensors`), peer: peersOfCarried[model]?.small! },
    );
    first(
      { size: "full", golden: join(carried, `${model}-full.safetensors`), peer: peersOfCarried[model]?.full! },
      { size: "full", golden: join(shared, "full", `${model}.safetensors`), peer: all.full },
    );
  }
  return cases;
}

const hasBf16 = await (async () => {
  try {
    await using _ = await Tokenizer.open(embeddedModels[0]!.name, { precision: "bf16" });
    return true;
  } catch (error) {
    if (error instanceof TokenizerError && error.code === "DEVICE") return false;
    throw error;
  }
})();

async function measure(
  { model, golden: path, peer: peers }: Case,
  weights: string,
  precision: Precision,
): Promise<Row> {
  const golden = readTensors(path), peer = peers[precision === "f32" ? "float32" : "bfloat16"];
  const kernels = precision === "bf16" && !hasBf16 ? "reference" : "auto";
  await using tok = await Tokenizer.open(weights, { precision, kernels });
  const { isDiscrete } = tok.info, numTokens = isDiscrete ? golden.indices!.data.length : 0;
  const tokens = await tok.encode(golden.pixels as TensorLike<"uint8">, { preQuant: isDiscrete });
  const picture = await tok.decode((isDiscrete ? golden.indices : golden.latent)!);
  const bytes = await tok.decode((isDiscrete ? golden.indices : golden.latent)!, { dtype: "uint8" });
  const latent = relativeError(isDiscrete ? tokens.preQuant : tokens.latent, golden.pre_quant!);
  const equal = isDiscrete ? numTokens - countDifferent(tokens.indices, golden.indices!) : 0;
  return {
    ...{ model, precision, latent: [latent, peer.pre_quant], tokens: numTokens },
    picture: [relativeError(picture, golden.reconstruction!), peer.reconstruction],
    equal: [equal, Math.round(numTokens * (peer.index_agreement ?? 0))],
    bytes: compareBytes(bytes, bytesOf(golden.reconstruction!)),
  };
}

/**
 * float32 [B, 3, (T,) H, W] in [-1, 1] as uint8 [B, (T,) H, W, 3]. Ref: reference/pipeline_reference.py, to_pixels().
 */
function bytesOf({ shape: [batch = 0, colours = 0, ...sizes], data }: TensorLike): TensorLike<"uint8"> {
  const plane = sizes.reduce((a, b) => a * b), out = new Uint8Array(data.length);
  data.forEach((value, i) => {
    const colour = Math.floor(i / plane) % colours, picture = Math.floor(i / plane / colours);
    out[(picture * plane + i % plane) * colours + colour] = Math.min(Math.max((value + 1) / 2, 0), 1) * 255 + 0.5;
  });
  return { dtype: "uint8", shape: [batch, ...sizes, colours], data: out };
}

function compareBytes(given: TensorLike<"uint8">, wanted: TensorLike): Bytes {
  if (given.shape.join() !== wanted.shape.join()) throw new Error(`expected ${wanted.shape}, found ${given.shape}`);
  let byOne = 0, byMore = 0;
  wanted.data.forEach((value, i) => {
    const difference = Math.abs(given.data[i]! - value);
    if (difference === 1) byOne++;
    else if (difference > 1) byMore++;
  });
  return { all: wanted.data.length, byOne, byMore };
}

/** The whole uint8 pipeline beside PyTorch's in float32. */
async function measurePipeline(weights: string, path: string): Promise<Bytes> {
  const golden = readTensors(path);
  await using tok = await Tokenizer.open(weights, { precision: "f32" });
  return compareBytes(await tok.autoencode(golden.pixels as TensorLike<"uint8">), golden.output!);
}

const rows: Row[] = [], pipelines: Bytes[] = [];
for (const one of findCases()) {
  const run = async (weights: string) => {
    rows.push(await measure(one, weights, "f32"));
    // Reference ops take minutes for the rest.
    if (hasBf16 || one.size === "small") rows.push(await measure(one, weights, "bf16"));
    if (one.pipeline) pipelines.push(await measurePipeline(weights, one.pipeline));
  };
  await (one.path ? run(one.path) : withWeights(one.model, one.size, run));
}

// ---------------------------------------------------------------- tables
const sum = (all: readonly number[]) => all.reduce((a, b) => a + b, 0);
/** Rounded down, so that 100 means all. */
const percent = (part: number, all: number) => all ? `${Math.floor(part / all * 1e4) / 100} %` : "";
const largest = (all: readonly number[]) => all.length ? Math.max(...all).toExponential(1) : "";
const line = (cells: readonly string[]) => `| ${cells.join(" | ")} |`;
const table = (
  head: readonly string[],
  lines: readonly string[],
) => [line(head), line(head.map(() => "---")), ...lines];

/** Ours and PyTorch's of some rows. */
const errors = (some: Row[], of: "latent" | "picture") =>
  [0, 1].map((who) => largest(some.map((row) => row[of][who]!)));
const equals = (some: Row[]) =>
  [0, 1].map((who) => percent(sum(some.map((r) => r.equal[who]!)), sum(some.map((r) => r.tokens))));

function totals(precision: Precision, name: string): string[] {
  const some = rows.filter((row) => row.precision === precision), discrete = some.filter((row) => row.tokens > 0);
  return [
    [
      name,
      `equal indices, ${sum(discrete.map((row) => row.tokens))} tokens of ${discrete.length} cases`,
      ...equals(discrete),
    ],
    [name, `largest error of a latent, ${some.length} cases`, ...errors(some, "latent")],
    [name, "largest error of a picture or clip", ...errors(some, "picture")],
  ].map(line);
}

function byteTotals(name: string, what: string, some: Bytes[], peer: string): string[] {
  if (some.length === 0) return [];
  const all = sum(some.map((b) => b.all)),
    byOne = sum(some.map((b) => b.byOne)),
    byMore = sum(some.map((b) => b.byMore));
  const ours = `${percent(all - byOne - byMore, all)}; ${byMore} off by more than one`;
  return [line([name, `equal bytes of ${what}, ${all} of ${some.length} cases`, ours, peer])];
}

function networkLine(model: string): string {
  const [f32, bf16] = (["f32", "bf16"] as const).map((precision) =>
    rows.filter((row) => row.model === model && row.precision === precision)
  ) as [Row[], Row[]];
  const float32 = [errors(f32, "latent")[0]!, equals(f32)[0]!];
  return line([model, ...float32, ...errors(bf16, "latent"), ...errors(bf16, "picture"), ...equals(bf16)]);
}

const cases = hasShared ? "all cases" : "the cases that the repository carries";
const note = hasBf16 ? "" : "; bfloat16 by the reference ops, of small networks alone";
console.log([
  `${cpus()[0]!.model}; ${new Date().toISOString().slice(0, 10)}; ${cases}${note}.`,
  "",
  ...table(["arithmetic", "what", "ctok", "PyTorch"], [
    ...totals("f32", "float32"),
    ...byteTotals(
      "float32",
      "pictures as uint8",
      rows.filter((row) => row.precision === "f32").map((row) => row.bytes),
      "not stored",
    ),
    ...byteTotals("float32", "the uint8 pipeline, padding and windows included", pipelines, "the measure"),
    ...totals("bf16", "bfloat16"),
  ]),
  "",
  ...table(
    `network, float32 latent, equal indices, bfloat16 latent, PyTorch, picture, PyTorch, equal indices, PyTorch`.split(
      ", ",
    ),
    [...new Set(rows.map((row) => row.model))].map(networkLine),
  ),
].join("\n"));
