/**
 * examples/cluster/kubernetes.yaml: a Job that Kubernetes takes as it is meant. Parsed by Bun; there is no Kubernetes
 * here.
 */
import assert from "node:assert/strict";
import { readFileSync } from "node:fs";
import { join } from "node:path";
import { test } from "node:test";
import { parseArguments, splitWords } from "../../cli/args.ts";
import { commands } from "../../cli/commands.ts";
import { datasetCommand } from "../../cli/dataset.ts";
import { exitCodes } from "../../cli/report.ts";
import { root, runtime } from "../support.ts";

const onlyBun = runtime === "bun" ? false : "parsed once, beside Bun's tests";

test(
  "the Job is indexed, its pods are workers of one split, and what fails for good is not tried again",
  { skip: onlyBun },
  () => {
    const text = readFileSync(join(root, "examples/cluster/kubernetes.yaml"), "utf8"),
      job = Bun.YAML.parse(text) as {
        apiVersion: string;
        kind: string;
        spec: {
          completionMode: string;
          completions: number;
          parallelism: number;
          backoffLimitPerIndex: number;
          maxFailedIndexes: number;
          podFailurePolicy: {
            rules: { action: string; onExitCodes?: Record<string, unknown>; onPodConditions?: unknown[] }[];
          };
          template: {
            spec: {
              restartPolicy: string;
              containers: { name: string; command: string[]; volumeMounts: { name: string; mountPath: string }[] }[];
              volumes: { name: string }[];
            };
          };
        };
      };
    const { spec, spec: { template: { spec: pod } } } = job, [container, ...more] = pod.containers;
    assert.deepEqual([job.apiVersion, job.kind, spec.completionMode], ["batch/v1", "Job", "Indexed"]);
    assert.ok(container && more.length === 0);
    assert.equal(pod.restartPolicy, "Never"); // asked for by podFailurePolicy
    assert.ok(spec.backoffLimitPerIndex > 0 && spec.parallelism <= spec.completions);
    assert.equal(spec.maxFailedIndexes, spec.completions);

    const [program, ...argv] = container.command,
      args = parseArguments(splitWords(argv, commands), datasetCommand.accepts);
    assert.deepEqual([program, argv[0], args.inputs[0]], ["ctok", "dataset", "run"]);
    assert.deepEqual(args.shard, { index: undefined, of: spec.completions });
    const { name, mountPath } = container.volumeMounts[0]!;
    assert.ok(args.inputs[1]!.startsWith(`${mountPath}/`) && pod.volumes.some((volume) => volume.name === name));

    const [disruption, forGood] = spec.podFailurePolicy.rules; // the first that fits rules
    assert.deepEqual(disruption, { action: "Ignore", onPodConditions: [{ type: "DisruptionTarget" }] });
    const { failed, usage, model, tryAgain } = exitCodes;
    assert.deepEqual(forGood, {
      action: "FailIndex",
      onExitCodes: { containerName: container.name, operator: "In", values: [failed, usage, model] },
    });
    const told = datasetCommand.exits!.map(([code]) => Number(code)).filter((code) => code > 0 && code < 128);
    assert.deepEqual(told, [failed, usage, model, tryAgain]);
  },
);
