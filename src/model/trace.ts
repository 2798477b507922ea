/**
 * What CTOK_TRACE=FILE asks for: when each step of each job ran, as a Chrome trace (JSON that ui.perfetto.dev and
 * chrome://tracing open). A lane is an engine; in it a job, and in the job its steps. The file is written whole when a
 * tokenizer is closed and when the process ends; "%p" in its name is the process's number. Called by Tokenizer.open,
 * which opens engines that keep steps then, and by the runner. Where the variable is not set nothing here costs more
 * than looking that up when a model is opened.
 */
import { accessSync, constants, renameSync, writeFileSync } from "node:fs";
import { dirname, resolve } from "node:path";
import { isMainThread, threadId } from "node:worker_threads";
import type { Engine, JobInfo, RequestValues } from "../../ffi/native.ts";
import * as layout from "../../ffi/layout.ts";
import { messageOf, TokenizerError } from "../errors.ts";

const { process } = globalThis;

/** Steps of a trace; later ones are only counted. About 400 bytes each. */
const mostSteps = 1 << 20;

class Trace {
  readonly #path: string;
  readonly #events: string[] = [];
  readonly #lanes = new Map<Engine, number>();
  #origin: number | undefined;
  #numSteps = 0;
  #numDropped = 0;
  #isWritten = false;

  constructor(path: string) {
    this.#path = path;
    try {
      accessSync(dirname(path), constants.W_OK);
    } catch (cause) {
      throw refused(path, cause);
    }
    process.on("exit", () => {
      try {
        this.write();
      } catch {
        // Who closes a tokenizer was told; there is nobody left.
      }
    });
  }

  /** Adds the steps of a job that succeeded and is not released yet. */
  add(engine: Engine, job: number, info: JobInfo, model: string, request: RequestValues, isChunk: boolean): void {
    const steps = engine.steps(job), [first, last] = [steps[0], steps.at(-1)];
    if (!first || !last) return;
    if (this.#numSteps + steps.length > mostSteps) {
      this.#numDropped += steps.length;
      this.#isWritten = false;
      return;
    }
    this.#numSteps += steps.length;
    this.#isWritten = false;
    this.#origin ??= engine.openedAt;
    const tid = this.#laneOf(engine), since = (engine.openedAt - this.#origin) * 1000;
    const end = (last.start_ns + last.duration_ns) / 1000, start = Math.min(first.start_ns / 1000, end - info.run_us);
    const task = Object.entries(layout.task).find(([, number]) => number === request.task)?.[0] ??
      (isChunk ? "chunk" : "job");
    const { batch = 1, frames = 1, height = 0, width = 0 } = request;
    this.#push({
      name: `${task} ${model}`,
      cat: "job",
      ph: "X",
      pid: process.pid,
      tid,
      ts: since + start,
      dur: Math.max(info.run_us, end - start),
      args: { model, task, input: [batch, frames, height, width], run_us: info.run_us, steps: steps.length },
    });
    for (const { kind, layer, shape, start_ns, duration_ns, flops } of steps) {
      this.#push({
        name: layer || kind,
        cat: "step",
        ph: "X",
        pid: process.pid,
        tid,
        ts: since + start_ns / 1000,
        dur: duration_ns / 1000,
        args: { kind, layer, shape, flops },
      });
    }
  }

  /** Writes the trace's file, whole or not at all. Throws FILE_IO. */
  write(): void {
    if (this.#isWritten || this.#events.length === 0) return;
    const temporary = `${this.#path}.${process.pid}.${threadId}.tmp`;
    const dropped = this.#numDropped ? `,"otherData":{"droppedSteps":${this.#numDropped}}` : "";
    try {
      writeFileSync(temporary, `{"displayTimeUnit":"ms"${dropped},"traceEvents":[\n${this.#events.join(",\n")}\n]}\n`);
      renameSync(temporary, this.#path);
    } catch (cause) {
      throw refused(this.#path, cause);
    }
    this.#isWritten = true;
  }

  #laneOf(engine: Engine): number {
    const known = this.#lanes.get(engine);
    if (known !== undefined) return known;
    const lane = this.#lanes.size + 1, { device, device_name, kernels, num_threads } = engine.info();
    const name = [device, device_name, kernels, num_threads ? `${num_threads} threads` : ""].filter(Boolean).join(", ");
    this.#lanes.set(engine, lane);
    this.#push({ name: "process_name", ph: "M", pid: process.pid, tid: lane, args: { name: "ctok" } });
    this.#push({ name: "thread_name", ph: "M", pid: process.pid, tid: lane, args: { name } });
    return lane;
  }

  #push(event: object): void {
    this.#events.push(JSON.stringify(event));
  }
}

function refused(path: string, cause: unknown): TokenizerError {
  return new TokenizerError(
    "FILE_IO",
    `CTOK_TRACE: expected a file that can be written, found ${path}: ${messageOf(cause)}`,
    { cause },
  );
}

const traces = new Map<string, Trace>();

/** The trace of the file that CTOK_TRACE names; undefined where it is unset. Throws FILE_IO if it cannot be written. */
export function traceAsked(): Trace | undefined {
  const name = process.env.CTOK_TRACE;
  if (!name) return undefined;
  const path = resolve(name.replaceAll("%p", String(process.pid))) + (isMainThread ? "" : `.${threadId}`);
  let trace = traces.get(path);
  if (!trace) traces.set(path, trace = new Trace(path));
  return trace;
}

export type { Trace };
