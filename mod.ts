/**
 * ctok: images and videos to Cosmos tokens and back. The whole public API.
 *
 *     import { detokenize, tokenize } from "mod.ts";
 *     const tokens = await tokenize("photo.jpg");
 *     const image = await detokenize(tokens);
 */
export { type PictureLimits } from "./src/checks.ts";
export {
  convert,
  detokenize,
  type DetokenizeOptions,
  type Image,
  tokenize,
  type TokenizeOptions,
} from "./src/model/tokenize.ts";
export { type Plan, Tokenizer } from "./src/model/tokenizer.ts";
export { type DeviceInfo, devices, type DevicesOptions } from "./src/model/devices.ts";
export type { Fact, FactSource, ModelInfo } from "./src/model/info.ts";
export type { ImageInput } from "./src/model/pixels.ts";
export type { BytesSource } from "./src/inputs.ts";
export type {
  AutoencodeOptions,
  ConvertOptions,
  DecodeOptions,
  DecodeStreamOptions,
  EncodeOptions,
  EncodeStreamOptions,
  OpenOptions,
  PlanOptions,
  PlanShape,
} from "./src/model/options.ts";
export { optionFacts } from "./src/model/options.ts";
export type { Frame, Frames } from "./src/model/clips.ts";
export type { Parts } from "./src/model/stream.ts";
export { joinTokens, windowsOf } from "./src/tokens/windows.ts";
export type { JobOptions } from "./src/model/job.ts";
export {
  type DType,
  type Origin,
  Tensor,
  type TensorLike,
  type TokenKind,
  TokenPart,
  Tokens,
  type TokensJSON,
  type TransferableTensor,
  type TransferableTokens,
  type VideoOrigin,
  type VideoWindow,
} from "./src/tokens/tensor.ts";
export { expandPatterns } from "./src/patterns.ts";
export { suggestion } from "./src/nearest.ts";
export { type ErrorCode, messageOf, printable, TokenizerError } from "./src/errors.ts";
export { readChunks, type ReadOptions } from "./src/files.ts";
export {
  type FileKind,
  fileKind,
  kindOfName,
  readExtensions,
  tokenFormatOf,
  writtenByCtok,
  writtenExtensions,
} from "./src/media/kinds.ts";
export { defaultModel, defaultVideoModel, type EmbeddedModel, embeddedModels } from "./src/model/catalogue.ts";
export { type Claim, type PublicModel, publicModels } from "./src/model/publicmodels.ts";
export { findPulled, type HubOptions, pullModel, type PullOptions } from "./src/model/fetch.ts";
export type { DownloadProgress, FetchedModel } from "./src/model/hub.ts";
export {
  decodeTokens,
  encodeTokens,
  type FallbackOrigin,
  type StoreOptions,
  type TokenFormat,
  tokenFormats,
} from "./src/tokens/tokenfile.ts";
export { type LoadOptions, loadTokens, type SaveOptions, saveTokens } from "./src/tokens/store.ts";
export {
  type Codebook,
  codebookSize,
  codeOf,
  codesFromIndices,
  fsq,
  indicesFromCodes,
  type Neighbour,
  neighboursOf,
  type Quantizer,
  roundToCodes,
  tellQuantizer,
} from "./src/tokens/quantizer.ts";
export {
  readImage,
  type ReadImageOptions,
  readImageSize,
  writeImage,
  type WriteImageOptions,
} from "./src/media/image.ts";
export { framesOf, VideoFrame, type VideoFrames } from "./src/media/frames.ts";
export { createVideo, type VideoInfo, type VideoOptions } from "./src/media/video.ts";
export type { VideoSink, VideoSinkOptions } from "./src/media/video.ts";
export { parseRate, type Rate, rateText } from "./src/tokens/rate.ts";
export { detectGraphics, drawPicture, type Graphics, graphicsKinds } from "./src/looking/terminal.ts";
export { contactSheet, type ContactSheetOptions, latentTiles, sideBySide, tokenMap } from "./src/looking/pictures.ts";
export { codebookUse, psnr, ssim } from "./src/looking/metrics.ts";
export {
  type ChannelMoments,
  edit,
  mix,
  noise,
  type Region,
  statsOf,
  swap,
  type TokenStats,
} from "./src/looking/edit.ts";
export { datasetMissing, datasetStatus, planDataset, runDataset, unparkDataset } from "./src/corpus/dataset.ts";
export {
  datasetFacts,
  type DatasetMissingOptions,
  type PlanDatasetOptions,
  type RunDatasetOptions,
} from "./src/corpus/options.ts";
export { isWorthAnotherTry } from "./src/corpus/failures.ts";
export type { DatasetMissing } from "./src/corpus/missing.ts";
export type { Share } from "./src/corpus/split.ts";
export type { DatasetEvent, DatasetProgress } from "./src/corpus/events.ts";
export type { DatasetStatus } from "./src/corpus/status.ts";
export type { ItemOptions } from "./src/corpus/standard.ts";
export type { LeasedShard } from "./src/corpus/ledger.ts";
export type { Arithmetic, PlanHeader, PlannedModel } from "./src/corpus/plan.ts";
export type { Quarantined } from "./src/corpus/storage.ts";
export { shardFormats } from "./src/corpus/formats/table.ts";
export type { CommittedShard, CorpusFacts, ShardFormat, TokenDType } from "./src/corpus/format.ts";
export type { Sample, SampleFacts } from "./src/corpus/item.ts";
export {
  datasetSample,
  datasetStats,
  type DatasetVerification,
  readDataset,
  verifyDataset,
  type VerifyDatasetOptions,
} from "./src/corpus/readback.ts";
export type { CorpusStats } from "./src/corpus/stats.ts";
export type { DecodedSample, VerifiedShard } from "./src/corpus/verify.ts";
