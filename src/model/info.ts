/** What is known of an open model, in the words of the API. */
import * as layout from "../../ffi/layout.ts";
import type { Engine, NativeModelInfo } from "../../ffi/native.ts";
import { fsq, type Quantizer } from "../tokens/quantizer.ts";

export type FactSource = (typeof layout.sources)[number];

/** What is known of an open model, and where each fact that was not asked for came from. */
export interface ModelInfo {
  readonly name: string;
  /** The family of networks that it belongs to, such as "cosmos". */
  readonly family: string;
  /** An embedded name, "hub:owner/name@revision" or an absolute path. */
  readonly source: string;
  readonly isVideo: boolean;
  readonly isDiscrete: boolean;
  /** Pixels of one token, each way. */
  readonly spatialFactor: number;
  /** Frames of one token after the first frame; 1 for images. */
  readonly temporalFactor: number;
  readonly latentChannels: number;
  /** How indices stand for codes; undefined when continuous. */
  readonly quantizer: Quantizer | undefined;
  /** Number of codes; 0 when continuous. */
  readonly codebookSize: number;
  /** The halves that are open. */
  readonly halves: readonly ("encoder" | "decoder")[];
  /** Weights of the halves that are open. */
  readonly parameters: number;
  /** Type of the weights in the file. */
  readonly storedDtype: string;
  readonly precision: "f32" | "bf16";
  /** "cpu", or the GPU in use as `device` names it: "cuda:0". */
  readonly device: string;
  /** The GPU as its driver names it; undefined for the CPU. */
  readonly deviceName: string | undefined;
  /**
   * Where `device: "auto"` took the CPU, unless kernels were asked for: why no GPU, such as "cuda:0: expected an NVIDIA
   * driver, found none".
   */
  readonly whyCpu: string | undefined;
  readonly kernels: string;
  /** Threads that compute, the model's limit applied; 0 on a GPU. */
  readonly threads: number;
  /** Memory of the packed weights, in bytes. */
  readonly weightBytes: number;
  /**
   * SHA-256 of all parameters of the checkpoint, both halves, in hex: the same for every form that holds the same
   * tensors, .jit or what `convert` wrote. docs/token_formats.md says how it is made.
   */
  readonly sha256: string;
  /** Version of the native library. */
  readonly version: string;
  /** Weights that are NaN or infinite: allowed, and told. */
  readonly nonFinite: { readonly weights: number; readonly tensors: number; readonly first: string | undefined };
  /** What is known of the network besides, in words: its factors, levels, widths, and where each is from. */
  readonly facts: readonly Fact[];
}

/** One fact about how a model's network is built. */
export interface Fact {
  /** What the fact is about, such as "Haar patch". */
  readonly name: string;
  /** Its value as text, such as "4". */
  readonly value: string;
  readonly from: FactSource;
}

function quantizerOf(n: NativeModelInfo): Quantizer | undefined {
  const { quantizer, codebook_size: size, latent_channels: channels } = n;
  if (quantizer === layout.quantizer.fsq) return fsq(n.levels.slice(0, n.num_levels));
  if (quantizer === layout.quantizer.lookup) return { kind: "lookup", size, channels };
  return quantizer === layout.quantizer.sign ? { kind: "sign", channels } : undefined;
}

export function describe(engine: Engine, n: NativeModelInfo, source: string): ModelInfo {
  const { kernels, device, device_name, why_cpu } = engine.info();
  return {
    name: n.name,
    family: n.family,
    source,
    isVideo: n.is_video === 1,
    isDiscrete: n.quantizer !== layout.quantizer.none,
    spatialFactor: n.spatial_factor,
    temporalFactor: n.temporal_factor,
    latentChannels: n.latent_channels,
    quantizer: quantizerOf(n),
    codebookSize: n.codebook_size,
    halves: (["encoder", "decoder"] as const).filter((half) => n.halves & layout.half[half]),
    parameters: n.encoder_parameters + n.decoder_parameters + n.codebook_parameters,
    storedDtype: layout.dtypes[n.stored_dtype] ?? "",
    precision: n.precision === layout.precision.bf16 ? "bf16" : "f32",
    device,
    deviceName: device_name || undefined,
    whyCpu: why_cpu || undefined,
    kernels,
    threads: n.num_threads,
    weightBytes: n.weight_bytes,
    sha256: n.sha256,
    version: engine.version,
    nonFinite: { weights: n.num_nonfinite, tensors: n.num_nonfinite_tensors, first: n.first_nonfinite || undefined },
    facts: n.facts.slice(0, n.num_facts).map(({ name, value, from }) => ({
      name,
      value,
      from: layout.sources[from] ?? "",
    })),
  };
}
