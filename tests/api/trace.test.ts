/**
 * What CTOK_TRACE makes: a Chrome trace of every step of every job, whole at each close and at the process's end;
 * without it, nothing.
 */
import assert from "node:assert/strict";
import { execFileSync } from "node:child_process";
import { existsSync, readdirSync, readFileSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import process from "node:process";
import { test } from "node:test";
import { Tokenizer } from "mod.ts";
import { rejects, root, runArgs, runtime, withFolder } from "../support.ts";

interface TraceEvent {
  name: string;
  cat?: string;
  ph: string;
  pid: number;
  tid: number;
  ts: number;
  dur: number;
  args: { name: string; run_us: number; steps: number; kind: string; layer: string; shape: number[]; flops: number };
}

function read(path: string): TraceEvent[] {
  return (JSON.parse(readFileSync(path, "utf8")) as { traceEvents: TraceEvent[] }).traceEvents;
}

function picture(side: number) {
  return {
    dtype: "uint8",
    shape: [side, side, 3],
    data: Uint8Array.from({ length: side * side * 3 }, (_, i) => (i * 37) & 255),
  } as const;
}

async function traced<T>(path: string, work: () => Promise<T>): Promise<T> {
  process.env.CTOK_TRACE = path;
  try {
    return await work();
  } finally {
    delete process.env.CTOK_TRACE;
  }
}

test("steps follow each other in their jobs, and their sum is the run's time", () =>
  withFolder(async (folder) => {
    const path = join(folder, "trace.json");
    const plain = await Tokenizer.open("nano-DI8x8"), wanted = await plain.encode(picture(128));
    const tok = await traced(path, () => Tokenizer.open("nano-DI8x8"));
    for (let i = 0; i < 12; i++) assert.deepEqual(await tok.encode(picture(128)), wanted);
    await tok.decode(wanted);
    assert.ok(!existsSync(path));
    await tok.close();
    const events = read(path), lanes = events.filter(({ ph }) => ph === "M").map(({ args }) => args.name);
    assert.deepEqual(lanes[0], "ctok");
    assert.match(lanes[1]!, /^(cpu|cuda)/);
    const jobs = events.filter(({ cat }) => cat === "job");
    assert.deepEqual(jobs.map(({ name }) => name.split(" ")[0]), [...Array(12).fill("encode"), "decode"]);
    const parts = jobs.map((job) => {
      const steps = events.slice(events.indexOf(job) + 1).slice(0, job.args.steps);
      for (const [i, { cat, tid, ts, dur, args }] of steps.entries()) {
        assert.ok(cat === "step" && tid === job.tid && args.shape.length === 5 && dur >= 0, JSON.stringify(steps[i]));
        if (i > 0) {
          assert.ok(
            Math.abs(ts - (steps[i - 1]!.ts + steps[i - 1]!.dur)) < 1,
            `step ${i} begins where the one before ends`,
          );
        }
        assert.ok(ts >= job.ts - 1 && ts + dur <= job.ts + job.dur + 1, `step ${i} lies in its job`);
      }
      return steps.reduce((sum, { dur }) => sum + dur, 0) / job.args.run_us;
    });
    // What a busy machine does between two steps is no step's: some of the jobs is left alone.
    assert.ok(
      Math.max(...parts) > 0.95 && Math.max(...parts) <= 1.001,
      `the steps take ${parts.join(", ")} of their jobs`,
    );
    const conv = events.find(({ name }) => name === "encoder.conv_in")!;
    assert.deepEqual([conv.args.kind, conv.args.shape.slice(0, 4)], ["conv", [1, 1, 32, 32]]);
    assert.ok(conv.args.flops > 0);
    await plain.close();
  }));

test("a stream's chunks are jobs too", () =>
  withFolder(async (folder) => {
    const path = join(folder, "trace-%p.json"), { data } = picture(32);
    await traced(path, async () => {
      await using tok = await Tokenizer.open("nano-DV4x8x8");
      const frames = Array.from({ length: 9 }, () => ({ dtype: "uint8" as const, shape: [32, 32, 3], data }));
      for await (const part of tok.encodeStream(frames, { chunkFrames: 4 })) assert.ok(part.main);
    });
    const events = read(path.replace("%p", String(process.pid)));
    assert.ok(events.filter(({ cat }) => cat === "job").length >= 2);
    assert.ok(events.some(({ args }) => args.kind === "copy"));
  }));

test("a process that closes nothing leaves a whole trace; one without the variable leaves none", () =>
  withFolder((folder) => {
    const path = join(folder, "trace.json"), program = join(folder, "run.mts");
    writeFileSync(
      program,
      `import { Tokenizer } from ${JSON.stringify(join(root, "mod.ts"))};
       const tok = await Tokenizer.open("nano-DI8x8");
       await tok.encode({ dtype: "uint8", shape: [16, 16, 3], data: new Uint8Array(768) });`,
    );
    const config = runtime === "deno" ? ["--config", join(root, "deno.json")] : [];
    const run = (env: Record<string, string>) =>
      execFileSync(process.execPath, [...runArgs, ...config, program], { env: { ...process.env, ...env }, cwd: root });
    run({ CTOK_TRACE: "" });
    assert.deepEqual(readdirSync(folder), ["run.mts"]);
    run({ CTOK_TRACE: path });
    assert.equal(read(path).filter(({ cat }) => cat === "job").length, 1);
    assert.deepEqual(readdirSync(folder).sort(), ["run.mts", "trace.json"]);
    return Promise.resolve();
  }));

test("a folder that is not there is told when a model is opened", () =>
  withFolder(async (folder) => {
    const open = () => Tokenizer.open("nano-DI8x8");
    await rejects(
      () => traced(join(folder, "none/trace.json"), open),
      "FILE_IO",
      /CTOK_TRACE: expected a file that can be written/,
    );
  }));
