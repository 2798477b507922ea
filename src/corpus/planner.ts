/**
 * Makes a plan: opens the model to know what it is and how it computes, finds the items, and freezes them. A folder
 * that has a plan keeps it: asked for the same again, that plan is given; asked for anything else, both are named and
 * nothing is done. Called by dataset.ts.
 */
import type { z } from "zod";
import { expected, TokenizerError } from "../errors.ts";
import { defaultModel, resolveModel } from "../model/catalogue.ts";
import type { ModelInfo } from "../model/info.ts";
import { defaultWindow } from "../model/options.ts";
import { Tokenizer } from "../model/tokenizer.ts";
import { kindOfSource } from "../tokens/origin.ts";
import type { DatasetEvent } from "./events.ts";
import type { CorpusFacts, ShardFormat } from "./format.ts";
import type { Item } from "./item.ts";
import { defaultShardSize, type planDatasetOptions } from "./options.ts";
import { openStorage } from "./openstorage.ts";
import type { ItemOptions, Parts } from "./parts.ts";
import { type Arithmetic, type Plan, type PlanHeader, type PlannedModel, type PlanStart } from "./plan.ts";
import { joinLocation, resolveLocation } from "./s3/address.ts";
import type { Refused } from "./source.ts";
import type { Storage } from "./storage.ts";

type Options = z.output<typeof planDatasetOptions>;

/** Opens the plan of `o.out`, or makes it where there is none. */
export async function makePlan(o: Options, itemOptions: ItemOptions, parts: Parts): Promise<Plan> {
  const storage = openStorage(o.out, { signal: o.signal });
  const there = await storage.plan().catch((error) => {
    if (error instanceof TokenizerError && error.code === "FILE_MISSING") return undefined;
    throw error;
  });
  const format = formatOf(o.format ?? [...parts.formats.keys()][0]!, parts);
  if (there) {
    checkSame(there, storage, o, parts.checkOptions(itemOptions, there.header.model.isVideo), format);
    return there;
  }
  const { model, arithmetic } = await lookAtModel(o, parts);
  const start: PlanStart = {
    model,
    arithmetic,
    allowOtherArithmetic: o.allowOtherArithmetic,
    inputs: o.inputs,
    options: parts.checkOptions(itemOptions, model.isVideo),
    ...windowOf(model, o),
    shardFormat: format.name,
    dtype: format.dtypeOf(model.quantizer, o.dtype),
    shardSize: o.shardSize ?? defaultShardSize,
  };
  format.check(factsOf(start));
  return await storage.writePlan(start, itemsOf(start, o, parts));
}

/** The format of that name. Throws ARGUMENT with all that there are. */
export function formatOf(name: string, { formats }: Parts): ShardFormat {
  const found = formats.get(name);
  if (!found) throw expected("format", `one of ${[...formats.keys()].join(", ")}`, name);
  return found;
}

async function* itemsOf(start: PlanStart, o: Options, parts: Parts): AsyncGenerator<Item | Refused> {
  const tell = (event: DatasetEvent) => o.onEvent?.(event);
  const note = (text: string) => tell({ event: "note", text });
  const { model: { isVideo } } = start;
  let numItems = 0, numRefused = 0;
  for await (const found of parts.find(o.inputs, start.options, { isVideo, out: o.out, note, signal: o.signal })) {
    o.signal?.throwIfAborted();
    if ("refused" in found) {
      numRefused++;
      tell({ event: "refused", ...found.refused });
      yield found.refused;
    } else {
      numItems++;
      yield found.item;
    }
    if ((numItems + numRefused) % tellEvery === 0) tell({ event: "planning", numItems, numRefused });
  }
  const wanted = `at least one ${isVideo ? "video" : "picture"}`;
  if (numItems === 0) throw expected("inputs", wanted, `none${numRefused ? `, and ${numRefused} refused` : ""}`);
  tell({ event: "planned", numItems, numRefused, numShards: Math.ceil(numItems / start.shardSize) });
}
const tellEvery = 1000;

async function lookAtModel(o: Options, parts: Parts) {
  const { model = defaultModel, device, precision, kernels, name, threads, maxMemory, signal } = o;
  o.onEvent?.({ event: "opening", model });
  await using opened = await Tokenizer.open(model, {
    half: "encoder",
    device,
    precision,
    kernels,
    ...(name && { name }),
    ...(threads && { threads }),
    ...(maxMemory && { maxMemory }),
    ...(signal && { signal }),
  });
  o.onEvent?.({ event: "opened", model });
  const versions = await parts.versions(opened.info.isVideo ? "video" : "image");
  return { model: plannedModel(opened.info), arithmetic: arithmeticOf(opened.info, versions) };
}

function plannedModel(info: ModelInfo): PlannedModel {
  const { name, source: at, sha256, isVideo, spatialFactor, temporalFactor, quantizer } = info;
  const source = kindOfSource(at) === "path" ? name : at;
  return { name, source, at, sha256, isVideo, spatialFactor, temporalFactor, ...(quantizer && { quantizer }) };
}

export function arithmeticOf(info: ModelInfo, versions: Readonly<Record<string, string>>): Arithmetic {
  return { precision: info.precision, kernels: info.kernels, versions: { ctok: info.version, ...versions } };
}

/** What a format must know before the items are found. */
function factsOf({ model, arithmetic, dtype }: PlanStart): CorpusFacts {
  const { name, source, sha256, isVideo, quantizer, spatialFactor, temporalFactor } = model;
  return {
    model: name,
    source,
    sha256,
    isVideo,
    ...(quantizer && { quantizer }),
    spatialFactor,
    temporalFactor,
    dtype,
    numShards: 1,
    version: arithmetic.versions.ctok!,
  };
}

/**
 * The window that the plan gets. Throws ARGUMENT for an image model that is asked for windows, and for `window` and
 * `stream` together.
 */
function windowOf({ isVideo, name }: PlannedModel, { window, stream }: Options): { readonly window?: number } {
  if (!isVideo && (window || stream)) throw expected(window ? "window" : "stream", "a video model", name);
  if (window && stream) throw expected("window", "one of window and stream", "both");
  return isVideo && !stream ? { window: window ?? defaultWindow } : {};
}

/**
 * Checks that a plan is what the call asks for. Options that the call leaves out are those of the plan. Throws
 * ARGUMENT, which names both values.
 */
function checkSame(
  { header }: Plan,
  { folder }: Storage,
  o: Options,
  itemOptions: ItemOptions,
  format: ShardFormat,
): void {
  const wants: [name: string, planned: unknown, wanted: unknown][] = [
    ["model", header.model.at, o.model === undefined ? header.model.at : resolveModel(o.model).source],
    ["precision", header.arithmetic.precision, o.precision === "auto" ? header.arithmetic.precision : o.precision],
    ["kernels", header.arithmetic.kernels, o.kernels === "auto" ? header.arithmetic.kernels : o.kernels],
    ["allowOtherArithmetic", header.allowOtherArithmetic, o.allowOtherArithmetic],
    ["format", header.shardFormat, o.format === undefined ? header.shardFormat : format.name],
    ["dtype", header.dtype, o.dtype ?? header.dtype],
    ["shardSize", header.shardSize, o.shardSize ?? header.shardSize],
    ["window", header.window, windowOf(header.model, o).window],
    ["inputs", header.inputs, o.inputs],
    ...differencesOf(header, itemOptions),
  ];
  const told = wants.flatMap(([name, planned, wanted]) => {
    const [before, now] = [JSON.stringify(planned), JSON.stringify(wanted)];
    return before === now ? [] : `${name}: planned ${before ?? "nothing"}, asked for ${now ?? "nothing"}`;
  });
  if (told.length === 0) return;
  throw new TokenizerError(
    "ARGUMENT",
    `${joinLocation(resolveLocation(folder), "plan.jsonl")}: expected what is planned there, or another folder, found ${
      told.join("; ")
    }`,
  );
}

function differencesOf({ options }: PlanHeader, asked: ItemOptions): [string, unknown, unknown][] {
  const names = new Set([...Object.keys(options), ...Object.keys(asked)]);
  return [...names].sort().map((name) => [name, options[name], asked[name]]);
}
