/** A Worker that makes tokens of each message and sends back what it has of them: see tensor.test.ts. */
import { TokenPart, Tokens, type TransferableTokens } from "../../src/tokens/tensor.ts";

const scope = globalThis as unknown as {
  onmessage: (event: { data: TransferableTokens }) => void;
  postMessage: (message: unknown, transfer: ArrayBuffer[]) => void;
};

scope.onmessage = ({ data }) => {
  const tokens = Tokens.fromTransferable(data), back = tokens.toTransferable();
  const frames = tokens instanceof TokenPart ? [tokens.firstFrame, tokens.numFrames] : [];
  const codes = tokens.isDiscrete ? Array.from(tokens.codes.data) : [];
  scope.postMessage({ back, frames, codes }, Object.values(back.tensors).map((t) => t.data.buffer));
};
