/**
 * The public checkpoints that ctok opens, by name: where each lies on the hub, which of its files are needed, and what
 * its publishers say of it. What was not found said is absent. The files decide what a model is when it is opened,
 * whatever stands here. A family that is added gets its rows here. Read by catalogue.ts; docs/models.md shows it.
 */

/** Reconstruction quality as the publishers measured it, on pictures or videos of a public set. */
export interface Claim {
  /** The data set of the measurement, such as "MS-COCO 2017" or "DAVIS". */
  readonly on: string;
  /** PSNR of the reconstructions, in decibels. */
  readonly psnr?: number;
  /** SSIM of the reconstructions, at most 1. */
  readonly ssim?: number;
  /** Fréchet distance of the reconstructions, of pictures. Less is better. */
  readonly rfid?: number;
  /** rFVD, the Fréchet distance between videos and their reconstructions. */
  readonly rfvd?: number;
}

export interface PublicModel {
  /**
   * Short name, such as "DI8x8": what `Tokenizer.open`, `--model` and `ctok pull` take, as they take the repository.
   */
  readonly name: string;
  readonly family: "cosmos" | "llamagen";
  /** Repository on the Hugging Face hub, "owner/name". */
  readonly repository: string;
  /** Names under which the hub has, or had, the same repository. */
  readonly otherRepositories: readonly string[];
  /** The files that are needed, one for each half or one for both. Others of the repository are not downloaded. */
  readonly files: readonly string[];
  readonly kind: "continuous" | "discrete";
  /** Pixels of one token each way. */
  readonly spatialFactor: number;
  /** Frames of one token after the first; 1 for images. */
  readonly temporalFactor: number;
  /** Frames of the clips that it was trained on, of a video model. */
  readonly trainedFrames?: number;
  /** Number of parameters as published, which is rounded; `Tokenizer.info.parameters` is exact. */
  readonly parameters?: number;
  /** Size of all `files` together, as the hub lists them, rounded to a tenth of a megabyte or coarser. */
  readonly bytes?: number;
  readonly licence: string;
  readonly licenceUrl: string;
  /** Whether the licence must be accepted on the hub's page before a download; absent where that was not found out. */
  readonly isGated?: boolean;
  /** Quality as its publishers measured it. */
  readonly claims: readonly Claim[];
  /** Where the claims and the other figures were published. */
  readonly claimsUrl?: string;
}

type Figures = Pick<PublicModel, "trainedFrames" | "parameters" | "bytes" | "isGated"> & {
  readonly claims?: readonly Claim[];
};

const cosmosPaper = "https://arxiv.org/abs/2501.03575";
const halves = ["encoder.jit", "decoder.jit"];

/** `name` ends in what the model is: C or D, I or V, factors. */
function cosmos(
  name: string,
  repository: string,
  { claims = [], ...figures }: Figures,
  others: readonly string[] = [],
): PublicModel {
  const [, codes, pixels, factors] = /([CD])([IV])([\dx]+)/.exec(name)!;
  const sizes = factors!.split("x").map(Number);
  return {
    name,
    family: "cosmos",
    repository: `nvidia/${repository}`,
    otherRepositories: others.map((other) => `nvidia/${other}`),
    files: halves,
    kind: codes === "C" ? "continuous" : "discrete",
    spatialFactor: sizes.at(-1)!,
    temporalFactor: pixels === "V" ? sizes[0]! : 1,
    ...figures,
    licence: "NVIDIA Open Model License",
    licenceUrl: "https://www.nvidia.com/en-us/agreements/enterprise-software/nvidia-open-model-license/",
    claims,
    ...(claims.length > 0 && { claimsUrl: cosmosPaper }),
  };
}

/**
 * The first release, Cosmos-0.1-Tokenizer, called Cosmos-Tokenizer before. Its files could be read without an account.
 */
const first = (name: string, figures: Figures) =>
  cosmos(name, `Cosmos-0.1-Tokenizer-${name}`, { isGated: false, ...figures }, [`Cosmos-Tokenizer-${name}`]);
const second = (name: string, figures: Figures) => cosmos(`1.0-${name}`, `Cosmos-1.0-Tokenizer-${name}`, figures);
const third = (name: string, figures: Figures = {}) => cosmos(name, `Cosmos-Tokenize1-${name}`, figures);

const image = (coco: readonly [number, number, number], imagenet: readonly [number, number, number]): Claim[] => [
  { on: "MS-COCO 2017", psnr: coco[0], ssim: coco[1], rfid: coco[2] },
  { on: "ImageNet-1K", psnr: imagenet[0], ssim: imagenet[1], rfid: imagenet[2] },
];
const video = (davis: readonly [number, number, number], tokenBench: readonly [number, number, number]): Claim[] => [
  { on: "DAVIS", psnr: davis[0], ssim: davis[1], rfvd: davis[2] },
  { on: "TokenBench", psnr: tokenBench[0], ssim: tokenBench[1], rfvd: tokenBench[2] },
];

const vq = (
  name: string,
  repository: string,
  file: string,
  spatialFactor: number,
  figures: Figures,
): PublicModel => ({
  name,
  family: "llamagen",
  repository,
  otherRepositories: [],
  files: [file],
  kind: "discrete",
  spatialFactor,
  temporalFactor: 1,
  claims: [],
  ...figures,
  licence: "MIT",
  licenceUrl: "https://github.com/FoundationVision/LlamaGen/blob/main/LICENSE",
  ...(figures.claims && { claimsUrl: "https://github.com/FoundationVision/LlamaGen" }),
});

const million = 1e6;

/**
 * Tokenizers that ctok opens by name and downloads from the hub. Their weights are not part of ctok: each has its
 * licence, and a gated one wants it accepted on its page.
 */
export const publicModels: readonly PublicModel[] = [
  first("CI8x8", {
    parameters: 77 * million,
    bytes: 154 * million,
    claims: image([28.66, 0.836, 1.760], [28.83, 0.837, 0.689]),
  }),
  first("CI16x16", { bytes: 163.4 * million, claims: image([23.63, 0.663, 3.823], [23.72, 0.655, 1.031]) }),
  first("DI8x8", {
    parameters: 79 * million,
    bytes: 160 * million,
    claims: image([24.40, 0.704, 3.710], [24.48, 0.701, 1.265]),
  }),
  first("DI16x16", { claims: image([20.45, 0.529, 7.234], [20.49, 0.518, 2.518]) }),
  first("CV4x8x8", {
    trainedFrames: 49,
    parameters: 105 * million,
    bytes: 149.1 * million,
    claims: video([32.80, 0.900, 15.93], [35.45, 0.928, 6.85]),
  }),
  first("CV8x8x8", {
    trainedFrames: 49,
    bytes: 226 * million,
    claims: video([30.61, 0.856, 30.16], [34.44, 0.917, 11.62]),
  }),
  first("CV8x16x16", {
    trainedFrames: 49,
    bytes: 222.5 * million,
    claims: video([27.60, 0.779, 93.82], [31.61, 0.875, 43.08]),
  }),
  first("DV4x8x8", {
    trainedFrames: 17,
    parameters: 105 * million,
    bytes: 211.6 * million,
    claims: video([28.81, 0.818, 37.36], [31.97, 0.888, 19.67]),
  }),
  first("DV8x8x8", {
    trainedFrames: 17,
    bytes: 214 * million,
    claims: video([27.51, 0.789, 100.15], [30.95, 0.873, 43.86]),
  }),
  first("DV8x16x16", {
    trainedFrames: 17,
    bytes: 224.3 * million,
    claims: video([25.09, 0.714, 241.52], [28.91, 0.829, 113.48]),
  }),
  second("CV8x8x8", { trainedFrames: 121, isGated: true, claims: video([31.28, 0.868, 23.49], [35.13, 0.926, 9.82]) }),
  second("DV8x16x16", { trainedFrames: 49, claims: video([25.49, 0.719, 259.33], [29.33, 0.838, 107.43]) }),
  third("CI8x8-360p"),
  third("CI16x16-360p"),
  third("CV4x8x8-360p"),
  third("DI8x8-360p"),
  third("DI16x16-360p"),
  third("DV4x8x8-360p"),
  third("CV8x8x8-720p", { isGated: true }),
  third("DV8x16x16-720p"),
  vq("VQ-8", "FoundationVision/LlamaGen", "vq_ds8_c2i.pt", 8, {
    parameters: 70 * million,
    bytes: 281 * million,
    isGated: false,
    claims: [{ on: "ImageNet 256x256", rfid: 0.59 }],
  }),
  vq("VQ-16", "FoundationVision/LlamaGen", "vq_ds16_c2i.pt", 16, {
    parameters: 72 * million,
    isGated: false,
    claims: [{ on: "ImageNet 256x256", rfid: 2.19 }],
  }),
  vq("VQ-16-t2i", "peizesun/llamagen_t2i", "vq_ds16_t2i.pt", 16, { parameters: 72 * million }),
];
