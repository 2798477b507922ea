/** ctok info: what a model or a token file is, told by its content; and the devices of this machine. */
import { stat } from "node:fs/promises";
import {
  codebookSize,
  type DeviceInfo,
  devices,
  embeddedModels,
  loadTokens,
  type ModelInfo,
  parseRate,
  tellQuantizer,
  type TokenFormat,
  tokenFormatOf,
  type Tokens,
  writtenByCtok,
} from "../mod.ts";
import { type Args, type Command, usage } from "./args.ts";
import { fallbackOf } from "./decode.ts";
import { openingOptions } from "./options.ts";
import { downloadsTo } from "./pull.ts";
import type { Report } from "./report.ts";
import { modelFailure, openModel } from "./run.ts";
import { tellBytes, tellCount, tellSize } from "./tell.ts";
import { tellTokens } from "./video.ts";

export const infoCommand: Command = {
  name: "info",
  usage: "M|TOKENS…",
  about: "what a model or a token file is, and where each fact is from; with --devices, what can compute here",
  details:
    "A token file is told from a checkpoint by its content. Of a bare array (.npy) --model says which model made it.",
  examples: [
    { line: "ctok info nano-DI8x8", about: "a model, and where each fact is from" },
    { line: "ctok info photo.safetensors", about: "a token file: its shape, its model, the picture" },
    { line: "ctok info --devices", about: "what can compute here, and why a GPU cannot" },
  ],
  accepts: ["model", "devices", ...openingOptions],
  takes: "models",

  async run(args, report, signal) {
    if (args.devices) {
      const all = await devices({ signal }).catch((error) => Promise.reject(modelFailure(error)));
      for (const device of all) report.result(device, deviceLine(device));
    } else if (args.inputs.length === 0) {
      throw usage("expected a model or token files, found none (ctok models lists the models)");
    }
    for (const [i, input] of args.inputs.entries()) {
      try {
        const { facts, rows } = await about(input, args, report, signal);
        report.result(facts, ...i > 0 || args.devices ? [""] : [], ...table(rows));
      } catch (error) {
        if (signal.aborted) throw error;
        report.failure(error);
      }
    }
  },
};

/** "cuda:0  NVIDIA H100 80GB HBM3, compute capability 9.0, sm80 kernels, 85.0 GB of memory, 84.1 GB of it free". */
function deviceLine(d: DeviceInfo): string {
  const facts = [
    d.name,
    d.capability && `compute capability ${d.capability}`,
    d.kernels && `${d.kernels} kernels`,
    d.threads && `${d.threads} threads`,
    d.totalMemory && `${tellBytes(d.totalMemory)} of memory`,
    d.freeMemory && `${tellBytes(d.freeMemory)} of it free`,
    d.driver && `driver for CUDA ${d.driver}, built with ${d.runtime}`,
    d.reason && `cannot be used: ${d.reason}`,
  ];
  return `${d.device.padEnd(8)} ${facts.filter(Boolean).join(", ")}`;
}

interface About {
  readonly facts: object;
  readonly rows: Rows;
}

async function about(input: string, args: Args, report: Report, signal: AbortSignal): Promise<About> {
  const format = embeddedModels.some(({ name }) => name === input) ? undefined : await tokenFormatOf(input);
  if (format) return await aboutTokens(input, format, args, signal);
  await using tokenizer = await openModel(input, args, { signal, ...downloadsTo(report) });
  return { facts: tokenizer.info, rows: modelRows(tokenizer.info) };
}

type Rows = readonly (readonly [name: string, value: string | undefined])[];

function table(rows: Rows): string[] {
  return rows.filter(([, value]) => value !== undefined).map(([key, value]) => `${key.padEnd(22)} ${value}`);
}

function modelRows(info: ModelInfo): Rows {
  const { nonFinite, facts } = info;
  const first = nonFinite.first ? `, first in ${nonFinite.first}` : "";
  const computes = `${info.precision} on ${info.deviceName ? `${info.device} (${info.deviceName})` : info.device}`;
  return [
    ["name", info.name],
    ["family", `${info.family}, ${info.isVideo ? "video" : "image"}`],
    ["source", info.source],
    ...facts.map(({ name, value, from }): [string, string] => [name, from ? `${value} (from ${from})` : value]),
    ["codes", info.isDiscrete ? String(info.codebookSize) : undefined],
    ["latent channels", String(info.latentChannels)],
    ["halves", info.halves.join(", ")],
    ["parameters", info.parameters.toLocaleString("en")],
    ["weights", `${info.storedDtype} in the file, ${tellBytes(info.weightBytes)} in memory`],
    ["sha256", info.sha256],
    ["not finite", nonFinite.weights ? `${nonFinite.weights} weights in ${nonFinite.tensors} tensors${first}` : "none"],
    ["no GPU", info.whyCpu],
    ["computes", `${computes}, ${info.kernels} kernels${info.threads ? `, ${info.threads} threads` : ""}`],
  ];
}

async function aboutTokens(
  file: string,
  format: TokenFormat,
  args: Args,
  signal: AbortSignal,
): Promise<About> {
  const tokens = await loadTokens(file, await fallbackFor(file, args, signal), { signal });
  const { main, origin, parts } = tokens, { size: bytes } = await stat(file);
  const { kind, dtype, shape } = main, { quantizer, video } = origin, bits = bitsOf(tokens, bytes);
  const facts = { file, holds: "tokens", format, bytes, kind, dtype, shape, parts, ...bits, origin };
  const [batch = 1] = shape, [rows = 0, columns = 0] = shape.slice(-2), windows = video?.windows?.length;
  const grid = video ? tellTokens(shape) : `${tellSize(rows, columns)} tokens`,
    many = batch === 1 ? "" : `${batch} times `;
  const padded = tellSize(rows * origin.spatialFactor, columns * origin.spatialFactor);
  const place = `${origin.left} from the left, ${origin.top} from the top`;
  return {
    facts,
    rows: [
      ["file", file],
      ["format", `${format}, ${tellBytes(bytes)}`],
      ["tokens", `${many}${grid}`],
      ["stored", `${kind} ${dtype} [${shape.join(", ")}]${parts.includes("preQuant") ? ", and preQuant" : ""}`],
      ["model", origin.model],
      ["source", origin.source === origin.model ? undefined : origin.source],
      ["sha256", origin.sha256],
      [
        "quantizer",
        quantizer ? `${tellQuantizer(quantizer)}, ${codebookSize(quantizer)} codes` : tellQuantizer(undefined),
      ],
      ["precision", origin.precision],
      [
        video ? "frame" : "picture",
        `${tellSize(origin.height, origin.width)} pixels, in ${padded} with its padding: ${place}`,
      ],
      ["video", video && [tellCount(video.frames, "frame"), ...ratesOf(tokens)].join(", ")],
      ["windows", video && (windows === undefined ? "none: one seamless sequence" : String(windows))],
      ["bits a pixel", `${bits.bitsPerPixel.toPrecision(3)}; ${bits.fileBitsPerPixel.toPrecision(3)} in the file`],
      ["made by", origin.version ? `ctok ${origin.version}` : undefined],
    ],
  };
}

/** What a bare array does not say comes from --model; a file that says it needs no model to be opened. */
async function fallbackFor(file: string, args: Args, signal: AbortSignal): Promise<Parameters<typeof loadTokens>[1]> {
  if (args.model === undefined || await writtenByCtok(file) === "tokens") return undefined;
  await using tokenizer = await openModel(args.model, args, { half: "decoder", signal });
  return fallbackOf(tokenizer);
}

/** Of "30000/1001". */
function perSecond(fps: string): number {
  const { num, den } = parseRate(fps);
  return num / den;
}

function ratesOf({ origin: { video } }: Tokens): string[] {
  const { fps, times, start, sampleAspect } = video!;
  return [
    ...(fps === undefined
      ? []
      : [`${Number(perSecond(fps).toPrecision(5))} frames a second${times ? " on average" : ""}`]),
    ...(start ? [`from ${start} s on`] : []),
    ...(sampleAspect === undefined ? [] : [`pixels of ${sampleAspect}`]),
  ];
}

/** Of the tokens themselves, an index counted as log2 of the codes, and of the file as it is. */
function bitsOf({ main, origin: { height, width, quantizer, video } }: Tokens, bytes: number) {
  const pixels = main.shape[0]! * height * width * (video?.frames ?? 1);
  const bits = quantizer ? Math.log2(codebookSize(quantizer)) : 8 * main.data.BYTES_PER_ELEMENT;
  return { bitsPerPixel: main.data.length * bits / pixels, fileBitsPerPixel: 8 * bytes / pixels };
}
