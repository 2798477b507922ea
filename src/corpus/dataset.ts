/**
 * The calls of a corpus as mod.ts has them: plan, run, status. What they do is in planner.ts, run.ts and status.ts; on what sources
 * and formats, in parts.ts.
 */
import { parse } from "../checks.ts";
import { located } from "../model/job.ts";
import { type PlanDatasetOptions, planDatasetOptions, type RunDatasetOptions, runDatasetOptions } from "./options.ts";
import type { ItemOptions, Parts } from "./parts.ts";
import { Plan } from "./plan.ts";
import { makePlan } from "./planner.ts";
import { runPlan } from "./run.ts";
import { type DatasetStatus, statusOf } from "./status.ts";
import { type OnStep, Storage } from "./storage.ts";

export function planWith(parts: Parts, options: PlanDatasetOptions, items: ItemOptions): Promise<Plan> {
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

export function datasetStatus(folder: string): Promise<DatasetStatus> {
  return located(async () => statusOf(await Plan.open(folder), new Storage(folder)));
}
