/**
 * The devices of this machine, and why one cannot be used. Called by mod.ts, and by its users to choose `device` of
 * Tokenizer.open.
 */
import { z } from "zod";
import * as layout from "../../ffi/layout.ts";
import { newEngine } from "../../ffi/load.ts";
import type { NativeDeviceInfo } from "../../ffi/native.ts";
import { orAbort, throwIfAborted } from "../abort.ts";
import { type Fields, parse, signal } from "../checks.ts";
import { located, runJob } from "./job.ts";

/** A device of this machine. */
export interface DeviceInfo {
  /** As `device` of Tokenizer.open names it, "cpu" or "cuda:0"; "cuda" where there is no GPU, and `reason` says why. */
  readonly device: string;
  /** The GPU as its driver names it; undefined for the CPU. */
  readonly name: string | undefined;
  /** Whether Tokenizer.open can take it. */
  readonly isUsable: boolean;
  /** Why it cannot be used, what was expected and found; undefined where it can. */
  readonly reason: string | undefined;
  /** The kernels that "auto" takes there; undefined where it cannot be used. */
  readonly kernels: string | undefined;
  /** Whether it computes in bfloat16, too. */
  readonly hasBf16: boolean;
  /** Threads that compute unless `threads` says otherwise, of the CPU; undefined for a GPU. */
  readonly threads: number | undefined;
  /** Compute capability of a GPU, such as "9.0". */
  readonly capability: string | undefined;
  /** The newest CUDA that the GPU's driver knows, such as "12.8"; undefined without a driver. */
  readonly driver: string | undefined;
  /** The CUDA that the native library was built with; undefined where it was built without. */
  readonly runtime: string | undefined;
  /**
   * Bytes of memory: the GPU's, or the machine's, or what the control groups of a container allow. Undefined where it
   * is not known.
   */
  readonly totalMemory: number | undefined;
  /** Bytes of a GPU's memory that are free now; undefined where that is not known, as always of the CPU. */
  readonly freeMemory: number | undefined;
}

export interface DevicesOptions {
  /** When it is aborted, the call ends at once with code CANCELLED. */
  signal?: AbortSignal | undefined;
}
const devicesOptions = z.strictObject({ signal } satisfies Fields<DevicesOptions>);

/** 12080: "12.8". */
const cudaVersion = (n: number) => n === 0 ? undefined : `${Math.floor(n / 1000)}.${Math.floor(n % 1000 / 10)}`;

function toDevice(d: NativeDeviceInfo): DeviceInfo {
  return {
    device: d.device,
    name: d.name || undefined,
    isUsable: d.is_usable === 1,
    reason: d.reason || undefined,
    kernels: d.kernels || undefined,
    hasBf16: d.has_bf16 === 1,
    threads: d.num_threads || undefined,
    capability: d.capability === 0 ? undefined : `${Math.floor(d.capability / 10)}.${d.capability % 10}`,
    driver: cudaVersion(d.driver_version),
    runtime: cudaVersion(d.runtime_version),
    totalMemory: d.total_bytes || undefined,
    freeMemory: d.free_bytes || undefined,
  };
}

/**
 * Every device of this machine: the CPU, then each GPU, or one row that says why there is none. No GPU is started by
 * it. Errors: LIBRARY, ARGUMENT, THREAD, MEMORY, CANCELLED.
 */
export function devices(options: DevicesOptions = {}): Promise<DeviceInfo[]> {
  return located(async () => {
    const o = parse(devicesOptions, options, "options");
    throwIfAborted(o.signal);
    return await orAbort(list(), o.signal);
  });
}

/** Asks an engine of its own, with no threads but its own, so that the answer waits for no model's jobs. */
async function list(): Promise<DeviceInfo[]> {
  const engine = await newEngine({ device: layout.device.cpu, threads: 1 });
  try {
    return await runJob(engine, () => engine.listDevices(), (_, job) => engine.devices(job).map(toDevice));
  } finally {
    engine.close();
  }
}
