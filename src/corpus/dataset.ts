/**
 * The calls of a corpus as mod.ts has them: plan, run, status, missing, unpark. What they do is in planner.ts, run.ts,
 * status.ts, missing.ts and parked.ts; on what sources and formats, in standard.ts.
 */
import { parse } from "../checks.ts";
import { located } from "../model/job.ts";
import { type DatasetMissing, missingOf } from "./missing.ts";
import {
  type DatasetMissingOptions,
  datasetMissingOptions,
  type PlanDatasetOptions,
  planDatasetOptions,
  type RunDatasetOptions,
  runDatasetOptions,
} from "./options.ts";
import { openStorage } from "./openstorage.ts";
import type { ItemOptions as AnyOptions, Parts } from "./parts.ts";
import { unpark } from "./parked.ts";
import type { Plan } from "./plan.ts";
import { makePlan } from "./planner.ts";
import { runPlan } from "./run.ts";
import { type ItemOptions, standard } from "./standard.ts";
import { type DatasetStatus, statusOf } from "./status.ts";
import type { OnStep } from "./storage.ts";

/**
 * Freezes what is to be tokenised: finds the items of `inputs`, puts them into shards, and writes `out`/plan.jsonl with
 * the model's hash, the arithmetic and all options. A folder that has a plan keeps it: asked for the same, it is given
 * back without a look at the inputs; asked for anything else, ARGUMENT names both. Gives what `datasetStatus` gives.
 * Errors: ARGUMENT (also where there is no item), FILE_MISSING, FILE_IO, those of opening the model, CANCELLED.
 */
export function planDataset(options: PlanDatasetOptions & ItemOptions): Promise<DatasetStatus> {
  const own = Object.entries(options ?? {}), isOwn = (name: string) => Object.hasOwn(planDatasetOptions.shape, name);
  const plan = Object.fromEntries(own.filter(([name]) => isOwn(name))) as unknown as PlanDatasetOptions;
  return planWith(standard, plan, Object.fromEntries(own.filter(([name]) => !isOwn(name))))
    .then((made) => statusOf(made, openStorage(plan.out)));
}

/**
 * Tokenises what is planned in a folder, shard by shard, until all are committed; run again it goes on where it was,
 * and a finished corpus costs a look at its manifests. Items that cannot be tokenised are quarantined: the manifests
 * and the result name them. Any number of processes of one machine may run on one folder, one for each GPU as a rule;
 * with `shard`, of any number of machines: each resolves when its share is done, with the counts and the quarantined
 * items of that share, and the one that finds all shards done, with those of the corpus (docs/cluster.md); with `queue`
 * likewise, where a shard that fails for itself is tried thrice, and parked then: the result names it, and is not
 * complete (docs/cluster_queue.md).
 * Errors: FILE_MISSING without a plan; FILE_FORMAT for a damaged one; ARGUMENT where the model has other weights, the
 * corpus is split otherwise, or a store refuses (credentials, bucket); UNSUPPORTED where this machine computes
 * otherwise than planned, or a store does not keep its promises; FILE_IO, as on a full disk, or where a store does not
 * answer (detail: the HTTP status, 110 for none); DEVICE, MEMORY, THREAD, FFMPEG; QUEUE where the queue gives no
 * answer; CANCELLED. Whatever ends a run, shards are whole or not there.
 */
export function runDataset(folder: string, options: RunDatasetOptions = {}): Promise<DatasetStatus> {
  return runWith(standard, folder, options);
}

/** How far a corpus is. Opens no model and reads no item. Errors: FILE_MISSING, FILE_FORMAT, FILE_IO. */
export function datasetStatus(folder: string): Promise<DatasetStatus> {
  return located(async () => {
    const storage = openStorage(folder);
    return await statusOf(await storage.plan(), storage);
  });
}

/**
 * Lists the shards of a corpus that are not committed yet, and which workers of its split have to make them. Reads file
 * names and no contents.
 * Errors: FILE_MISSING, FILE_FORMAT, FILE_IO; ARGUMENT where the corpus is split among another number than `of`.
 */
export function datasetMissing(folder: string, options: DatasetMissingOptions = {}): Promise<DatasetMissing> {
  return located(async () => {
    const { of } = parse(datasetMissingOptions, options, "options");
    const storage = openStorage(folder);
    return await missingOf(await storage.plan(), storage, of);
  });
}

/**
 * Has parked shards tried again, by the workers that run and by those to come; gives their numbers. Errors:
 * FILE_MISSING, FILE_FORMAT, FILE_IO.
 */
export function unparkDataset(folder: string): Promise<number[]> {
  return located(async () => {
    const storage = openStorage(folder);
    return await unpark(await storage.plan(), storage);
  });
}

/** `planDataset` with other sources and formats, for tests. */
export function planWith(parts: Parts, options: PlanDatasetOptions, items: AnyOptions): Promise<Plan> {
  return located(() => makePlan(parse(planDatasetOptions, options, "options"), items, parts));
}

export function runWith(
  parts: Parts,
  folder: string,
  options: RunDatasetOptions = {},
  onStep?: OnStep,
): Promise<DatasetStatus> {
  return located(() => runPlan(folder, parse(runDatasetOptions, options, "options"), parts, onStep));
}
