/**
 * Window mode: a clip is cut into windows that do not see each other, each padded to 8k + 1 frames by repeating its first and
 * last frames, as the public tokenizer does. Tokens of all windows are one tensor, concatenated along time.
 * Ref: reference/pipeline_reference.py, autoencode_video.
 */
import { concatAxis, type Origin, sliceAxis, Tensor, type TokenKind, Tokens, type VideoWindow } from "./tensor.ts";

const temporalAlign = 8;
export const defaultWindow = 17;

/** One window of `frames` frames: its padding and its token frames. */
export function windowOf(frames: number, temporalFactor: number): VideoWindow {
  const unit = Math.max(temporalAlign, temporalFactor);
  const padded = Math.ceil((frames - 1) / unit) * unit + 1;
  return { tokens: (padded - 1) / temporalFactor + 1, frames, before: Math.floor((padded - frames) / 2) };
}

/** The windows of a clip, in order; the last one may be shorter. */
export function windowsOf(frames: number, window: number, temporalFactor: number): VideoWindow[] {
  return Array.from(
    { length: Math.ceil(frames / window) },
    (_, i) => windowOf(Math.min(window, frames - i * window), temporalFactor),
  );
}

/** The axis of time in tokens of a video. */
export function timeAxis(kind: TokenKind): number {
  return kind === "indices" ? 1 : 2;
}

/** Tokens of consecutive parts of one video as one: windows one after the other, or one seamless sequence. */
export function joinTokens(parts: readonly Tokens[]): Tokens {
  const first = parts[0]!;
  const { video } = first.origin;
  const origin: Origin = Object.freeze({
    ...first.origin,
    ...(video && {
      video: {
        ...video,
        frames: parts.reduce((sum, p) => sum + p.origin.video!.frames, 0),
        ...(video.windows && { windows: parts.flatMap((p) => p.origin.video!.windows ?? []) }),
      },
    }),
  });
  const joined = first.parts.map((kind) => {
    const { dtype, shape, data } = concatAxis(parts.map((p) => p[kind]), timeAxis(kind));
    return [kind, new Tensor(dtype, shape, data, { kind, origin })];
  });
  return new Tokens(origin, Object.fromEntries(joined));
}

/** Token frames `from` to `to` of indices, codes or a latent. */
export function sliceTime(tokens: Tensor, from: number, to: number): Tensor {
  return sliceAxis(tokens, tokens.dtype === "float32" ? 2 : 1, from, to);
}
