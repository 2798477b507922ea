/**
 * ctok dataset: a corpus of pictures or videos to shards of tokens, in a folder that has its plan, its shards and their
 * manifests. What is done is the library's (planDataset, runDataset, datasetStatus, datasetMissing); here are its
 * options, and what people and machines are told.
 */
import {
  type DatasetEvent,
  datasetMissing,
  type DatasetProgress,
  type DatasetStatus,
  datasetStatus,
  isWorthAnotherTry,
  messageOf,
  planDataset,
  runDataset,
  type Share,
  TokenizerError,
  unparkDataset,
} from "../mod.ts";
import { type Args, type Command, required, usage } from "./args.ts";
import { readVerbs } from "./datasetread.ts";
import { openingOptions, type OptionName } from "./options.ts";
import type { Bar } from "./progress.ts";
import { exitCodes, Failure, type Report } from "./report.ts";
import { tellBytes, tellCount } from "./tell.ts";

const { process } = globalThis;

type Names = readonly OptionName[];

/** Of the plan alone: what a run finds in it. */
const ofPlan = [
  ...["out", "shards", "dtype", "shard-size", "size", "crop", "crops", "flip", "bucket", "bucket-step"] as const,
  ...["min-size", "member", "column", "columns", "hash", "clip-frames", "stride", "svg", "video", "window"] as const,
  ...["stream", "frames", "fps", "limit-pixels", "limit-frames", "name", "precision"] as const,
  "allow-other-arithmetic",
] as const satisfies Names;
const ofRun = ["shard", "resplit", "queue", "batch", "readers", "allow-missing"] as const satisfies Names;
const ofBoth = ["model", "device", "threads", "max-memory"] as const satisfies Names;

/** Of what reads a corpus alone. */
const ofReading = ["samples", "format", "overwrite"] as const satisfies Names;

const verbs = {
  plan: { takes: [...ofPlan, ...ofBoth] as Names, run: plan },
  run: { takes: [...ofRun, ...ofBoth] as Names, run: work },
  status: { takes: [] as Names, run: status },
  missing: { takes: ["shard"] as Names, run: missing },
  unpark: { takes: [] as Names, run: unpark },
  ...readVerbs,
};

export const datasetCommand: Command = {
  name: "dataset",
  usage: "[plan|run|status|missing|unpark|verify|stats|head|cat] INPUT…|DIR",
  about: "a corpus of pictures or videos to shards of tokens for training",
  details:
    "`dataset INPUT… --out DIR` plans and runs, and run again it goes on where it was. `dataset plan INPUT… --out " +
    "DIR` freezes which items go into which shards; `dataset run DIR` works on a plan, also several at once, one for " +
    "each GPU, or with --shard or --queue on many machines (docs/cluster.md); `dataset status DIR` says how far it " +
    "is, `dataset missing DIR` which of the workers of --shard have shards to make, as a list such as 2,7-9. A shard " +
    "that fails each time is parked by a queue: `dataset unpark DIR` has such shards tried again. `dataset verify " +
    "DIR` looks at every hash and sample and decodes some, `dataset stats DIR` at the use of the codebook, `dataset " +
    "head DIR` shows the first samples, `dataset cat DIR KEY` one with its tokens, or with --out as a token file. " +
    "INPUT is a folder, a pattern, a webdataset .tar, a .parquet, a file, @LIST or - for a list; INPUT and DIR may " +
    "be s3://BUCKET/PREFIX (docs/dataset_s3.md). Whatever happens, shards are whole or not there. Items that cannot " +
    "be tokenised are set aside and named.",
  examples: [
    { line: "ctok dataset photos -o tokens --size 256", about: "a folder to webdataset shards" },
    { line: "ctok dataset plan photos -o planned --shards megatron --shard-size 500", about: "freeze the work" },
    { line: "ctok dataset run planned --shard 1/2", about: "the second of two workers, here or anywhere" },
    { line: "ctok dataset missing planned", about: "which workers have shards to make" },
    { line: "ctok dataset verify tokens", about: "look at every hash and sample, and decode some" },
    { line: "ctok dataset clip.mp4 -o clips -m nano-DV4x8x8 --clip-frames 17 --size 128", about: "clips of a video" },
  ],
  exits: [
    ["0", "the corpus is complete; with --shard, the share is"],
    ["1", "it is, but items were set aside or refused; or a failure that would come again"],
    ["2", "wrong usage; nothing was done"],
    ["3", "the model or the native library could not be opened"],
    [
      "75",
      "worth another try: the disk is full or not there, memory, threads or the device went, the hub did not " +
      "answer, SIGTERM",
    ],
    ["129, 130", "interrupted by SIGHUP or Ctrl-C; what was committed stays"],
  ],
  terminated: exitCodes.tryAgain,
  accepts: [
    ...ofPlan,
    ...ofRun,
    ...ofBoth,
    ...ofReading,
    ...openingOptions.filter((name) => !(ofBoth as readonly string[]).includes(name) && name !== "precision"),
  ],

  async run(args, report, signal) {
    const [first, ...rest] = args.inputs,
      verb = Object.hasOwn(verbs, first ?? "") ? first as keyof typeof verbs : undefined;
    const inputs = verb ? rest : args.inputs;
    if (verb) checkOptions(args, verb);
    if (verb) return await verbs[verb].run(inputs, args, report, signal);
    const odd = ofReading.find((name) => args[name] !== undefined);
    if (odd) throw usage(`--${odd}: expected an option of what plans and runs, found one of what reads a corpus`);
    if (args.shard) {
      throw usage("--shard: expected dataset plan once, and dataset run DIR by each worker, found both in one");
    }
    await plan(inputs, args, report, signal);
    await work([required(args.out, "out")], args, report, signal);
  },
};

/** Throws a usage failure for an option that was given and is none of the verb's. */
function checkOptions(args: Args, verb: keyof typeof verbs): void {
  const takes: Names = verbs[verb].takes;
  const all: Names = [...ofPlan, ...ofRun, ...ofBoth, ...ofReading];
  const wrong = all.find((name) => args[name] !== undefined && !args.fromEnvironment[name] && !takes.includes(name));
  if (wrong) throw usage(`--${wrong}: expected an option of dataset ${verb}, found one of another`);
}

async function plan(inputs: readonly string[], args: Args, report: Report, signal: AbortSignal): Promise<void> {
  const out = required(args.out, "out");
  if (out === "-") throw usage("--out: expected a folder, found standard output, which takes no shards");
  if (inputs.length === 0) throw usage("expected at least one input, found none");
  using teller = new Teller(report, args);
  const { status } = await teller.during(async (onEvent) => ({
    status: await planDataset({
      inputs,
      out,
      model: args.model,
      format: args.shards,
      dtype: args.dtype,
      shardSize: args["shard-size"],
      allowOtherArithmetic: args["allow-other-arithmetic"],
      precision: args.precision,
      device: args.device,
      threads: args.threads,
      maxMemory: args["max-memory"],
      name: args.name,
      window: args.window,
      stream: args.stream,
      size: args.size,
      crop: args.crop,
      crops: args.crops,
      flip: args.flip,
      bucket: args.bucket,
      bucketStep: args["bucket-step"],
      minSize: args["min-size"],
      member: args.member,
      column: args.column,
      columns: args.columns,
      hash: args.hash,
      clipFrames: args["clip-frames"],
      stride: args.stride,
      svg: args.svg,
      foldersAreVideos: args.video,
      frames: args.frames,
      fps: args.fps,
      limitPixels: args["limit-pixels"],
      limitFrames: args["limit-frames"],
      onEvent,
      signal,
    }),
  }));
  const { numItems, numShards, numRefused, plan: { model, arithmetic, shardFormat, dtype } } = status;
  const facts = { out, numItems, numShards, numRefused, model: model.name, ...arithmetic, shardFormat, dtype };
  const refused = numRefused > 0 ? `, ${numRefused} refused` : "";
  report.result(
    { event: "plan", ...facts },
    `${out}: ${tellCount(numItems, "item")} in ${
      tellCount(numShards, "shard")
    }${refused}; ${model.name}, ${arithmetic.precision}, ${shardFormat} of ${dtype}`,
  );
}

async function work(folders: readonly string[], args: Args, report: Report, signal: AbortSignal): Promise<void> {
  const folder = folderOf(folders);
  using teller = new Teller(report, args);
  const model = args.fromEnvironment.model || args.out !== undefined ? undefined : args.model; // the plan knows it
  const { device, threads, "max-memory": maxMemory, batch, readers, resplit, queue, "allow-missing": allowMissing } =
    args;
  const shard = args.shard && shareOf(args.shard),
    limits = { device, threads, maxMemory, batch, readers, allowMissing };
  if (resplit && !shard) throw usage("--resplit: expected --shard beside it, found none");
  if (queue && shard) throw usage("--queue: expected one way to share the shards, found --shard beside it");
  const done = await teller.during((onEvent) =>
    runDataset(folder, { model, shard, resplit, queue, ...limits, onEvent, signal })
  );
  const { quarantined, numRefused, parked } = done;
  // Of many workers none fails for the corpus's items.
  const numAside = shard || queue ? 0 : quarantined.length + numRefused;
  if (numAside + parked.length > 0) report.exitCode = Math.max(report.exitCode, exitCodes.failed);
  const share = shard && !done.isComplete ? `share ${shard.index}/${shard.of} done; ` : "";
  report.result(
    { event: "done", out: folder, ...shard && { shard }, ...countsOf(done) },
    share + tellStatus(folder, done),
  );
}

/** Where a cluster says which of the workers this is. */
const workerVariables = ["SLURM_ARRAY_TASK_ID", "JOB_COMPLETION_INDEX"];

/**
 * The worker that this is, by the option or the environment. Throws a usage failure that says which numbers there are.
 */
function shareOf({ index: given, of }: NonNullable<Args["shard"]>): Share {
  const variable = given === undefined ? workerVariables.find((name) => process.env[name]) : undefined;
  if (given === undefined && !variable) {
    throw usage(`--shard: expected a worker's number, as 0/${of} or in ${workerVariables.join(" or ")}, found none`);
  }
  const said = variable ? process.env[variable]! : String(given), index = /^\d+$/.test(said) ? Number(said) : NaN;
  if (index < of) return { index, of };
  const how = variable === "SLURM_ARRAY_TASK_ID"
    ? `: sbatch --array=0-${of - 1}`
    : variable
    ? `: completions: ${of}`
    : "";
  throw usage(
    `${variable ?? "--shard"}: expected a worker from 0 to ${of - 1}, as there are ${of}${how}, found ${said}`,
  );
}

async function status(folders: readonly string[], _args: Args, report: Report): Promise<void> {
  const folder = folderOf(folders), found = await datasetStatus(folder);
  const inWork = found.inWork.map(({ index, numItems }) => `shard ${index}: ${tellCount(numItems, "item")} so far`);
  const { split } = found, left = split?.missing.length ? `; to do: ${listOf(split.missing)}` : "";
  const parked = found.parked.map(({ index, attempts, code, message }) =>
    `parked: shard ${index}, after ${attempts} tries: ${code}: ${message}`
  );
  const aside = found.quarantined.map(({ key, code, message }) => `set aside: ${key}: ${code}: ${message}`);
  report.result(
    {
      out: folder,
      ...countsOf(found),
      inWork: found.inWork,
      parked: found.parked,
      quarantined: found.quarantined,
      plan: found.plan,
    },
    tellStatus(folder, found),
    ...split ? [`split among ${tellCount(split.of, "worker")}${left}`] : [],
    ...inWork,
    ...parked,
    ...aside,
  );
}

/** Prints the list and nothing else, so that a script can pass it on; nothing where all is there. */
async function missing(folders: readonly string[], { shard, json }: Args, report: Report): Promise<void> {
  const folder = folderOf(folders);
  if (shard?.index !== undefined) throw usage(`--shard: expected the number of workers, found worker ${shard.index}`);
  const found = await datasetMissing(folder, shard && { of: shard.of }), { elements, shards, parked } = found;
  if (json) return report.result({ out: folder, ...found });
  if (parked.length > 0) {
    report.warning(`${folder}: given up by a queue: shards ${listOf(parked)} (ctok dataset status)`);
  }
  if (found.isComplete) return;
  if (!elements) {
    throw usage(
      `${folder}: expected a corpus that --shard splits, or --shard N, found neither, and ${
        tellCount(shards.length, "shard")
      } missing`,
    );
  }
  report.print(`${listOf(elements)}\n`);
}

/** "2,7-9". */
function listOf(numbers: readonly number[]): string {
  const ranges: [first: number, last: number][] = [];
  for (const n of numbers) {
    const range = ranges.at(-1);
    if (range?.[1] === n - 1) range[1] = n;
    else ranges.push([n, n]);
  }
  return ranges.map(([first, last]) => first === last ? first : `${first}-${last}`).join(",");
}

async function unpark(folders: readonly string[], _args: Args, report: Report): Promise<void> {
  const folder = folderOf(folders), shards = await unparkDataset(folder);
  report.result({ out: folder, unparked: shards }, `${folder}: ${tellCount(shards.length, "shard")} to be tried again`);
}

function folderOf([folder, ...more]: readonly string[]): string {
  if (folder === undefined || more.length > 0) {
    throw usage(`expected one folder with a plan, found ${more.length + (folder ? 1 : 0)}`);
  }
  return folder;
}

function countsOf(
  { committed, numShards, numItems, numRefused, quarantined, parked, split, isComplete }: DatasetStatus,
) {
  const numQuarantined = quarantined.length, numParked = parked.length;
  return { isComplete, numShards, numItems, numRefused, numQuarantined, numParked, committed, split };
}

function tellStatus(
  folder: string,
  { committed, numShards, numItems, numRefused, quarantined, parked, isComplete }: DatasetStatus,
): string {
  const { numSamples, numTokens, bytes } = committed;
  const shards = isComplete
    ? `complete, ${tellCount(numShards, "shard")}`
    : `${committed.numShards} of ${tellCount(numShards, "shard")}`;
  const aside = [
    quarantined.length > 0 && `${quarantined.length} set aside`,
    numRefused > 0 && `${numRefused} refused when planned`,
    parked.length > 0 && `${tellCount(parked.length, "shard")} parked`,
  ].filter(Boolean).map((text) => `, ${text}`).join("");
  return `${folder}: ${shards}; ${numSamples} of ${tellCount(numItems, "item")}, ${tellCount(numTokens, "token")}, ${
    tellBytes(bytes)
  }${aside}`;
}

/** Tells events as they come: as JSON all of them, to people what went wrong and a bar. */
class Teller implements Disposable {
  readonly #report: Report;
  readonly #isJson: boolean;
  /** Of a worker among many what is set aside is no failure: another finds out how the corpus ends. */
  readonly #isShared: boolean;
  #bar: Bar | undefined;
  #isOpening = false;

  constructor(report: Report, { json = false, shard, queue }: Args) {
    this.#report = report;
    this.#isJson = json;
    this.#isShared = shard !== undefined || queue !== undefined;
  }

  /** Does work that has events; a failure that another try may mend, and one of the model, carry their exit codes. */
  async during<T>(work: (onEvent: (event: DatasetEvent) => void) => Promise<T>): Promise<T> {
    try {
      return await work((event) => this.#tell(event));
    } catch (error) {
      if (!(error instanceof TokenizerError) || error.code === "CANCELLED") throw error;
      // A device that is not there when a model is opened is a wrong option as a rule.
      const isTemporary = isWorthAnotherTry(error) && !(this.#isOpening && error.code === "DEVICE");
      if (!isTemporary && !this.#isOpening) throw error;
      throw new Failure(isTemporary ? exitCodes.tryAgain : exitCodes.model, error.code, messageOf(error), error);
    }
  }

  [Symbol.dispose](): void {
    this.#bar?.[Symbol.dispose]();
  }

  #tell(event: DatasetEvent): void {
    const report = this.#report;
    if (event.event === "opening" || event.event === "opened") {
      return void (this.#isOpening = event.event === "opening");
    }
    if (!this.#isShared && (event.event === "quarantined" || event.event === "refused")) {
      report.exitCode = Math.max(report.exitCode, exitCodes.failed);
    }
    if (event.event === "parked") report.exitCode = Math.max(report.exitCode, exitCodes.failed);
    if (this.#isJson) return report.result(event);
    if (event.event === "parked") {
      return report.failure(
        new TokenizerError("QUEUE", `shard ${event.shard}, parked after ${event.attempts} tries: ${event.message}`),
      );
    }
    if (event.event === "note") return report.warning(event.text);
    if (event.event === "refused") {
      return report.failure(new TokenizerError("ARGUMENT", `${event.name}: ${event.reason}`));
    }
    if (event.event === "quarantined") {
      const text = `${event.key}, set aside: ${event.message}`;
      return this.#isShared ? report.warning(text) : report.failure(new TokenizerError("IMAGE", text));
    }
    if (event.event !== "progress") return;
    this.#bar ??= report.progress({ unit: "files", total: event.numItems });
    this.#bar?.update(event.items, "", noteOf(event));
  }
}

/** "142 items/s, 145k tokens/s, 96% of the encoder's rate, 3 set aside". */
function noteOf({ itemsPerSecond, tokensPerSecond, ownRate, quarantined }: DatasetProgress): string {
  return [
    `${Number(itemsPerSecond.toPrecision(3))} items/s`,
    `${tellThousands(tokensPerSecond)} tokens/s`,
    ownRate !== undefined && `${Math.round(ownRate * 100)}% of the encoder's rate`,
    quarantined > 0 && `${quarantined} set aside`,
  ].filter(Boolean).join(", ");
}

function tellThousands(n: number): string {
  return n < 10_000 ? String(Math.round(n)) : n < 10_000_000 ? `${Math.round(n / 1000)}k` : `${Math.round(n / 1e6)}M`;
}
