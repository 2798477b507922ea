/**
 * ctok dataset verify, stats, head and cat: what a corpus holds, as people and machines are told. What is done is the
 * library's (verifyDataset, datasetStats, readDataset, datasetSample). Called by dataset.ts.
 */
import { existsSync } from "node:fs";
import { extname } from "node:path";
import {
  type CorpusStats,
  datasetSample,
  datasetStats,
  encodeTokens,
  readDataset,
  type Sample,
  saveTokens,
  tokenFormats,
  TokenizerError,
  type VerifiedShard,
  verifyDataset,
  writtenByCtok,
} from "../mod.ts";
import { type Args, usage } from "./args.ts";
import type { OptionName } from "./options.ts";
import { standard } from "./paths.ts";
import { modelFailure } from "./run.ts";
import { exitCodes, type Report } from "./report.ts";
import { tellBytes, tellCount, tellSize } from "./tell.ts";

const { process } = globalThis;

type Run = (inputs: readonly string[], args: Args, report: Report, signal: AbortSignal) => Promise<void>;
interface Verb {
  readonly takes: readonly OptionName[];
  readonly run: Run;
}

export const readVerbs = {
  verify: { takes: ["samples", "model", "device", "threads", "max-memory"], run: verify },
  stats: { takes: [], run: stats },
  head: { takes: ["samples"], run: head },
  cat: { takes: ["out", "format", "overwrite"], run: cat },
} as const satisfies Record<string, Verb>;

/** A problem ends with exit code 1; so do shards that are not there yet. */
async function verify(inputs: readonly string[], args: Args, report: Report, signal: AbortSignal): Promise<void> {
  const folder = oneFolder(inputs), { samples, device, threads, "max-memory": maxMemory } = args;
  const model = args.fromEnvironment.model ? undefined : args.model; // the plan knows it
  let numTold = 0;
  const onShard = (shard: VerifiedShard) => {
    numTold += shard.problems.length;
    for (const problem of shard.problems) report.failure(new TokenizerError("TOKEN_FILE", problem));
    report.result({ event: "shard", ...shard }, ...tellShard(shard));
  };
  const found = await verifyDataset(folder, { samples, model, device, threads, maxMemory, onShard, signal }).catch(
    (error) => {
      const isModels = error instanceof TokenizerError && /^FILE_(NETWORK|TENSOR)$/.test(error.code);
      throw isModels ? modelFailure(error, args) : error;
    },
  );
  const { decoded, problems, numShards, numMissing, numSamples, numTokens, bytes } = found;
  for (const problem of problems.slice(numTold)) report.failure(new TokenizerError("TOKEN_FILE", problem)); // the set's
  const known = decoded.flatMap(({ psnr }) => psnr ?? []),
    mean = known.reduce((sum, psnr) => sum + psnr, 0) / known.length;
  if (problems.length > 0 || numMissing > 0) report.exitCode = Math.max(report.exitCode, exitCodes.failed);
  const facts = {
    event: "done",
    out: folder,
    ok: problems.length === 0,
    numShards,
    numMissing,
    numSamples,
    numTokens,
    bytes,
  };
  const parts = [
    problems.length === 0 ? "as it was written" : tellCount(problems.length, "problem"),
    `${tellCount(numShards, "shard")}${numMissing > 0 ? ` (${numMissing} not there yet)` : ""}`,
    tellCount(numSamples, "sample"),
    tellCount(numTokens, "token"),
    tellBytes(bytes),
    ...(known.length > 0 ? [`${mean.toFixed(2)} dB over ${known.length} decoded`] : []),
  ];
  report.result({ ...facts, problems, ...(known.length > 0 && { psnr: mean }) }, `${folder}: ${parts.join(", ")}`);
}

function tellShard({ stem, numSamples, bytes, problems, decoded }: VerifiedShard): string[] {
  const state = problems.length === 0 ? "ok" : tellCount(problems.length, "problem");
  const quality = decoded.map(({ key, psnr, reason }) =>
    `${key} ${psnr === undefined ? reason : `${psnr.toFixed(2)} dB`}`
  );
  return [[`shard ${stem}: ${state}, ${tellCount(numSamples, "sample")}, ${tellBytes(bytes)}`, ...quality].join("; ")];
}

async function stats(inputs: readonly string[], _args: Args, report: Report, signal: AbortSignal): Promise<void> {
  const folder = oneFolder(inputs), found = await datasetStats(folder, { signal });
  report.result({ out: folder, ...found }, ...tellStats(folder, found));
}

/** Of each list its beginning; --json has all. */
const mostLines = 10;

function tellStats(folder: string, found: CorpusStats): string[] {
  const { numShards, numSamples, numTokens, sizes, codebook, levels, channels, notFinite } = found;
  const counts = [tellCount(numShards, "shard"), tellCount(numSamples, "sample"), tellCount(numTokens, "token")];
  const size = sizes.slice(0, mostLines).map(({ size, count }) => `size  ${size}: ${tellCount(count, "sample")}`);
  const more = sizes.length > mostLines ? [`size  and ${sizes.length - mostLines} more`] : [];
  const use = codebook && [
    `codes  ${codebook.distinct} of ${codebook.size} used (${(codebook.distinct / codebook.size * 100).toFixed(1)}%)`,
    `entropy  ${codebook.entropyBits.toFixed(3)} of ${Math.log2(codebook.size).toFixed(3)} bits a token, ` +
    `perplexity ${codebook.perplexity.toFixed(0)}`,
    `most frequent  ${codebook.top.map(({ code, count }) => `${code} ${percent(count, numTokens)}`).join(", ")}`,
  ];
  const digits = levels?.slice(0, mostLines).map((all, k) =>
    `level ${k}  ${all.map((n) => percent(n, numTokens)).join(" ")}`
  );
  const moments = channels?.slice(0, 2 * mostLines).map(({ mean, deviation, least, greatest }, c) => {
    return `channel ${c}  mean ${mean.toFixed(4)}, deviation ${deviation.toFixed(4)}, ${least.toFixed(3)} to ${
      greatest.toFixed(3)
    }`;
  });
  const odd = notFinite ? [`not finite  ${notFinite} values`] : [];
  return [
    `${folder}: ${counts.join(", ")}`,
    ...size,
    ...more,
    ...(use ?? []),
    ...(digits ?? []),
    ...(moments ?? []),
    ...odd,
  ];
}

function percent(n: number, all: number): string {
  return `${(all === 0 ? 0 : n / all * 100).toFixed(1)}%`;
}

async function head(inputs: readonly string[], args: Args, report: Report, signal: AbortSignal): Promise<void> {
  let left = args.samples ?? 10;
  if (left === 0) return;
  for await (const sample of readDataset(oneFolder(inputs), { signal })) {
    report.result(factsOf(sample), tellSample(sample));
    if (--left === 0) return;
  }
}

function factsOf({ key, tokens: { main }, facts, sidecars }: Sample) {
  const all = sidecars.map(({ field, bytes }) => ({ field, bytes: bytes.length }));
  return { key, kind: main.kind, shape: main.shape.slice(1), ...facts, sidecars: all };
}

function tellSample({ key, tokens: { main }, facts, sidecars }: Sample): string {
  const { fileName, height, width, originalHeight, originalWidth, numFrames } = facts;
  const was = height === originalHeight && width === originalWidth
    ? ""
    : ` of ${tellSize(originalHeight, originalWidth)}`;
  const frames = numFrames === undefined ? "" : `${tellCount(numFrames, "frame")} of `;
  const along = sidecars.length > 0 ? `, with ${sidecars.map(({ field }) => field).join(", ")}` : "";
  return `${key}: ${main.kind} [${main.shape.slice(1).join(", ")}], ${frames}${
    tellSize(height, width)
  } pixels${was}, ${fileName}${along}`;
}

/** Samples as lines of JSON with all their tokens; with --out one sample as a token file, which `ctok decode` takes. */
async function cat(
  [folder, ...keys]: readonly string[],
  args: Args,
  report: Report,
  signal: AbortSignal,
): Promise<void> {
  if (folder === undefined) throw usage("expected a folder and keys of samples, found none");
  if (args.out !== undefined) return await save(folder, keys, args.out, args, report, signal);
  if (args.format) throw usage("--format: expected --out beside it, found none");
  if (keys.length === 0) { for await (const sample of readDataset(folder, { signal })) print(sample, report); }
  for (const key of keys) print(await datasetSample(folder, key, { signal }), report);
}

function print({ key, tokens: { main }, facts, sidecars }: Sample, report: Report): void {
  const along = Object.fromEntries(
    sidecars.map(({ field, bytes }) => [field, { base64: Buffer.from(bytes).toString("base64") }]),
  );
  const told = {
    key,
    kind: main.kind,
    shape: main.shape.slice(1),
    ...facts,
    sidecars: along,
    tokens: Array.from(main.data),
  };
  report.print(JSON.stringify(told) + "\n");
}

async function save(
  folder: string,
  keys: readonly string[],
  out: string,
  args: Args,
  report: Report,
  signal: AbortSignal,
): Promise<void> {
  const [key, ...more] = keys;
  if (key === undefined || more.length > 0) throw usage(`--out: expected one key, found ${keys.length}`);
  const named = tokenFormats.find((format) => extname(out).toLowerCase() === `.${format}`);
  if (args.format && named && args.format !== named) {
    throw usage(`--out: expected the extension .${args.format}, as --format says, found .${named}`);
  }
  const format = args.format ?? named ?? "safetensors", { tokens } = await datasetSample(folder, key, { signal });
  if (out === standard) return void process.stdout.write(encodeTokens(tokens, format));
  if (!args.overwrite && existsSync(out) && await writtenByCtok(out) !== "tokens") {
    throw usage(
      `${out}: expected nothing there yet or a token file of ctok, found another file (--overwrite replaces it)`,
    );
  }
  await saveTokens(out, tokens, { format });
  const { main } = tokens;
  report.done(
    { file: key, out, ok: true, format, kind: main.kind, shape: main.shape },
    `${main.kind} [${main.shape.join(", ")}]`,
  );
}

function oneFolder([folder, ...more]: readonly string[]): string {
  if (folder === undefined || more.length > 0) {
    throw usage(`expected one folder with a corpus, found ${more.length + (folder ? 1 : 0)}`);
  }
  return folder;
}
