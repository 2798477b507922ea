/**
 * What planning and running a corpus are made of: where items are found, how they are prepared, which formats there are. Tests give
 * others of these. Used by planner.ts and run.ts.
 */
import type { Frames } from "../model/clips.ts";
import type { Tensor } from "../tokens/tensor.ts";
import type { ShardFormat } from "./format.ts";
import type { Item, SampleFacts } from "./item.ts";
import type { Found, PlaceReader } from "./source.ts";

/** An item as it goes into the encoder: prepare.ts says more. */
export type Prepared =
  /** uint8 [1, H, W, 3]. */
  | { readonly kind: "image"; readonly pixels: Tensor<"uint8">; readonly facts: SampleFacts }
  /** uint8 [1, T, H, W, 3]. */
  | { readonly kind: "clip"; readonly pixels: Tensor<"uint8">; readonly facts: SampleFacts }
  /** uint8 [H, W, 3] each; how many there are is known at their end. */
  | { readonly kind: "video"; readonly frames: Frames; readonly facts: SampleFacts };

/** Prepares items, any number at a time. */
export interface ItemPreparer extends AsyncDisposable {
  prepare(item: Item, signal?: AbortSignal): Promise<Prepared>;
}

/** Options of finding and preparing: plain values, as they stand in the plan. */
export type ItemOptions = Readonly<Record<string, unknown>>;

export interface Parts {
  /** Checks all options, filled in with what is taken unless given. Throws ARGUMENT. */
  checkOptions(options: ItemOptions, isVideo: boolean): ItemOptions;
  find(inputs: readonly string[], options: ItemOptions, about: FindContext): AsyncIterable<Found>;
  openPlaces(): PlaceReader;
  openPreparer(options: ItemOptions, places: PlaceReader): ItemPreparer;
  /** Of what decodes and resizes. */
  versions(): Promise<Readonly<Record<string, string>>>;
  readonly formats: readonly ShardFormat[];
}

export interface FindContext {
  readonly isVideo: boolean;
  /** The corpus's own folder, which is none of its inputs. */
  readonly out: string;
  /** Told what the user should know beside items and refusals. */
  note(text: string): void;
  readonly signal?: AbortSignal | undefined;
}
