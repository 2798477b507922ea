/** What is known of an open model, in the words of the API. */
import * as layout from "../../ffi/layout.ts";
import type { Engine, NativeModelInfo } from "../../ffi/native.ts";

export type FactSource = (typeof layout.sources)[number];

/** What is known of an open model, and where each fact that was not asked for came from. */
export interface ModelInfo {
  readonly name: string;
  /** An embedded name or an absolute path. */
  readonly source: string;
  readonly isVideo: boolean;
  readonly isDiscrete: boolean;
  /** Pixels of one token, each way. */
  readonly spatialFactor: number;
  /** Frames of one token after the first frame; 1 for images. */
  readonly temporalFactor: number;
  /** Side of the Haar patch, 2 or 4. */
  readonly patch: number;
  readonly latentChannels: number;
  /** FSQ levels, level 0 least significant; empty when continuous. */
  readonly levels: readonly number[];
  readonly codebookSize: number;
  readonly encoder: HalfInfo | undefined;
  readonly decoder: HalfInfo | undefined;
  readonly parameters: number;
  /** Type of the weights in the file. */
  readonly storedDtype: string;
  readonly precision: "f32" | "bf16";
  /** "cpu", or the GPU in use as `device` names it: "cuda:0". */
  readonly device: string;
  /** The GPU as its driver names it; undefined for the CPU. */
  readonly deviceName: string | undefined;
  readonly kernels: string;
  /** Threads that compute, the model's limit applied; 0 on a GPU. */
  readonly threads: number;
  /** Memory of the packed weights. */
  readonly weightBytes: number;
  /**
   * SHA-256 of all parameters of the checkpoint, both halves, in hex: the same for every form that holds the same tensors,
   * .jit or what `convert` wrote. docs/token_formats.md says how it is made.
   */
  readonly sha256: string;
  /** Weights that are NaN or infinite: allowed, and told. */
  readonly nonFinite: { readonly weights: number; readonly tensors: number; readonly first: string | undefined };
  readonly from: { readonly kind: FactSource; readonly levels: FactSource; readonly factors: FactSource };
}

export interface HalfInfo {
  readonly widths: readonly number[];
  readonly blocks: number;
  readonly baseChannels: number;
  readonly zChannels: number;
  readonly parameters: number;
}

export function describe(engine: Engine, n: NativeModelInfo, source: string): ModelInfo {
  const { kernels, device, device_name } = engine.info();
  const half = (side: "encoder" | "decoder"): HalfInfo | undefined =>
    n.halves & layout.half[side]
      ? {
        widths: n[`${side}_widths`].slice(0, n[`${side}_num_levels`]),
        blocks: n[`${side}_blocks`],
        baseChannels: n[`${side}_base_channels`],
        zChannels: n[`${side}_z_channels`],
        parameters: n[`${side}_parameters`],
      }
      : undefined;
  return {
    name: n.name,
    source,
    isVideo: n.is_video === 1,
    isDiscrete: n.is_discrete === 1,
    spatialFactor: n.spatial_factor,
    temporalFactor: n.temporal_factor,
    patch: n.patch,
    latentChannels: n.latent_channels,
    levels: n.fsq_levels.slice(0, n.num_fsq_levels),
    codebookSize: n.codebook_size,
    encoder: half("encoder"),
    decoder: half("decoder"),
    parameters: n.encoder_parameters + n.decoder_parameters,
    storedDtype: layout.dtypes[n.stored_dtype] ?? "",
    precision: n.precision === layout.precision.bf16 ? "bf16" : "f32",
    device,
    deviceName: device_name || undefined,
    kernels,
    threads: n.num_threads,
    weightBytes: n.weight_bytes,
    sha256: n.sha256,
    nonFinite: { weights: n.num_nonfinite, tensors: n.num_nonfinite_tensors, first: n.first_nonfinite || undefined },
    from: {
      kind: layout.sources[n.is_discrete_from] ?? "",
      levels: layout.sources[n.fsq_levels_from] ?? "",
      factors: layout.sources[n.factors_from] ?? "",
    },
  };
}
