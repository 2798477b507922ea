/**
 * ctok trace: where the time of a run goes, by layers; of an input that it runs, or of a file that CTOK_TRACE has
 * written.
 */
import { readFile } from "node:fs/promises";
import { TokenizerError } from "../mod.ts";
import { type Args, type Command, usage } from "./args.ts";
import { openingOptions } from "./options.ts";
import { findInputs, standard } from "./paths.ts";
import { downloadsTo } from "./pull.ts";
import { checkImage, kindsFor, limitsOf, modelFor, ModelInUse } from "./run.ts";
import { Spool } from "./spool.ts";
import { tellCount } from "./tell.ts";

const { process } = globalThis;

/** Layers that are told one by one. */
const mostRows = 10;

export const traceCommand: Command = {
  name: "trace",
  usage: "FILE|TRACE.json",
  about: "the slowest layers of a model, as it encodes and decodes a picture or video",
  details:
    "FILE is run twice, and the second run counts. TRACE.json is what CTOK_TRACE=TRACE.json wrote during any other " +
    "command. -o keeps the trace, which ui.perfetto.dev shows. The roof is what --roof says, else the fastest " +
    "layer's own rate. Rates count the products of the direct form, of which Winograd's convolutions do fewer.",
  examples: [
    { line: "ctok trace photo.jpg", about: "the ten slowest layers, and all others as one" },
    { line: "ctok trace photo.jpg -m nano-DI8x8 -o trace.json", about: "and the trace itself" },
  ],
  accepts: ["model", "out", "overwrite", "roof", "limit-pixels", ...openingOptions],

  async run(args, report, signal) {
    const [input, ...more] = args.inputs;
    if (!input || more.length > 0) throw usage(`expected one picture, video or trace, found ${args.inputs.length}`);
    if (args.out === standard) throw usage("--out: expected a file, found standard output");
    const jobs = await readTrace(input) ?? await traceOf(args, report, signal);
    if (jobs.length === 0) throw new TokenizerError("SHAPE", `${input}: expected a trace with jobs, found none`);
    const summary = summarise(jobs, args.roof);
    report.result(summary, ...tell(summary));
  },
};

// ---------------------------------------------------------------- traces
interface Step {
  readonly kind: string;
  readonly layer: string;
  readonly shape: readonly number[];
  readonly flops: number;
  readonly us: number;
}

interface Traced {
  readonly name: string;
  readonly us: number;
  readonly steps: readonly Step[];
}

interface TraceEvent {
  readonly cat?: string;
  readonly name: string;
  readonly dur: number;
  readonly args: { readonly run_us: number } & Omit<Step, "us">;
}

/** The jobs of a trace in their order; undefined where the file is none, or is not there. */
async function readTrace(file: string): Promise<Traced[] | undefined> {
  const text = file === standard ? undefined : await readFile(file).catch(() => undefined);
  if (!text?.subarray(0, 64).includes('{"displayTimeUnit"')) return undefined;
  const jobs: { name: string; us: number; steps: Step[] }[] = [];
  try {
    for (const { cat, name, dur, args } of (JSON.parse(text.toString()) as { traceEvents: TraceEvent[] }).traceEvents) {
      if (cat === "job") jobs.push({ name, us: args.run_us, steps: [] });
      if (cat === "step") jobs.at(-1)!.steps.push({ ...args, us: dur });
    }
  } catch (cause) {
    throw new TokenizerError("SHAPE", `${file}: expected a trace that ctok wrote, found ${(cause as Error).message}`, {
      cause,
    });
  }
  return jobs;
}

/** Runs the input twice; the jobs of the second time. */
async function traceOf(args: Args, report: Parameters<typeof downloadsTo>[0], signal: AbortSignal): Promise<Traced[]> {
  await using spool = new Spool();
  const path = args.out ?? spool.place("trace.json"), before = process.env.CTOK_TRACE;
  process.env.CTOK_TRACE = path;
  try {
    await using models = new ModelInUse(args, { signal, ...downloadsTo(report) });
    const asked = args.model === undefined ? undefined : await models.of(args.model);
    const [input] = await findInputs(args, { kinds: kindsFor(asked), spool, signal });
    const tokenizer = await models.of(modelFor(input!, args));
    if (!tokenizer.info.isVideo) checkImage(input!, tokenizer.info.name);
    for (let run = 0; run < 2; run++) await tokenizer.autoencode(input!.path, { ...limitsOf(args), signal });
  } finally {
    if (before === undefined) delete process.env.CTOK_TRACE;
    else process.env.CTOK_TRACE = before;
  }
  const jobs = await readTrace(path) ?? [];
  return jobs.slice(jobs.length / 2);
}

// ---------------------------------------------------------------- sums
interface Row {
  readonly layer: string;
  readonly kind: string;
  readonly shape: readonly number[];
  readonly count: number;
  readonly ms: number;
  readonly share: number;
  readonly gflops: number;
  readonly ofRoof: number;
}

type Summary = ReturnType<typeof summarise>;

/** Layers by the time that they took in all jobs. `given`: GFLOP/s. */
function summarise(jobs: readonly Traced[], given: number | undefined) {
  const sums = new Map<string, { step: Step; count: number; us: number; flops: number }>();
  for (const step of jobs.flatMap(({ steps }) => steps)) {
    const key = JSON.stringify([step.kind, step.layer, step.shape]);
    const sum = sums.get(key) ?? { step, count: 0, us: 0, flops: 0 };
    sums.set(key, { step, count: sum.count + 1, us: sum.us + step.us, flops: sum.flops + step.flops });
  }
  const rate = ({ flops, us }: { flops: number; us: number }) => us > 0 ? flops / us / 1000 : 0;
  const all = [...sums.values()].sort((a, b) => b.us - a.us), us = all.reduce((sum, row) => sum + row.us, 0);
  const runUs = jobs.reduce((sum, job) => sum + job.us, 0), roof = given ?? Math.max(...all.map(rate));
  const rows = all.slice(0, mostRows).map((sum): Row => ({
    layer: sum.step.layer,
    kind: sum.step.kind,
    shape: sum.step.shape,
    count: sum.count,
    ms: sum.us / 1000,
    share: sum.us / runUs,
    gflops: rate(sum),
    ofRoof: roof > 0 ? rate(sum) / roof : 0,
  }));
  const restUs = us - rows.reduce((sum, { ms }) => sum + ms * 1000, 0),
    jobNames = [...new Set(jobs.map(({ name }) => name))];
  return {
    jobs: jobNames,
    numJobs: jobs.length,
    numSteps: jobs.reduce((sum, { steps }) => sum + steps.length, 0),
    rows,
    rest: { count: all.length - rows.length, ms: restUs / 1000, share: restUs / runUs },
    stepsMs: us / 1000,
    runMs: runUs / 1000,
    roofGflops: roof,
    roofFrom: given === undefined ? "the fastest layer" : "--roof",
  };
}

function tell({ jobs, numJobs, numSteps, rows, rest, stepsMs, runMs, roofGflops, roofFrom }: Summary): string[] {
  const percent = (part: number) => `${(part * 100).toFixed(1)} %`.padStart(7),
    time = (ms: number) => ms.toFixed(2).padStart(10);
  const line = (share: number, ms: number, rate: string, ofRoof: string, what: string) =>
    `${percent(share)} ${time(ms)} ${rate.padStart(9)} ${ofRoof.padStart(8)}  ${what}`;
  return [
    `${jobs.join(", ")}: ${tellCount(numJobs, "job")}, ${tellCount(numSteps, "step")}, ${
      runMs.toFixed(1)
    } ms on the engine's thread`,
    "",
    `  share         ms   GFLOP/s  of roof  step, [batch, frames, height, width, channels] of what it makes`,
    ...rows.map(({ share, ms, gflops, ofRoof, kind, layer, shape, count }) => {
      const times = count > 1 ? `, ${count} times` : "", name = layer ? `${kind} ${layer}` : kind, counts = gflops > 0;
      const rate = counts ? gflops.toFixed(1) : "", part = counts ? `${(ofRoof * 100).toFixed(0)} %` : "";
      return line(share, ms, rate, part, `${name} [${shape.join(", ")}]${times}`);
    }),
    ...(rest.count > 0 ? [line(rest.share, rest.ms, "", "", `${rest.count} others`)] : []),
    line(stepsMs / runMs, stepsMs, "", "", "all steps"),
    "",
    `The roof is ${roofGflops.toFixed(1)} GFLOP/s, of ${roofFrom}.`,
  ];
}
