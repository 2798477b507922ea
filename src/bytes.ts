/** Bytes as such: what counts as bytes, and the most that is read at once. Called by all that takes or reads them. */

/** Largest file read into memory, in bytes: no picture within `limitPixels` and no token file needs as much. */
export const wholeFileBytes = 2 ** 31;

/** Whether a value is bytes: a typed array of them, or a buffer. */
export function isBytes(value: unknown): value is Uint8Array | ArrayBuffer {
  return value instanceof Uint8Array || value instanceof ArrayBuffer ||
    (typeof SharedArrayBuffer !== "undefined" && value instanceof SharedArrayBuffer);
}
