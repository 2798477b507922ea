/** Bytes as base64 text and back, for JSON: tokens, and what goes along with samples of a corpus. */
import { expected, messageOf, nameOf, TokenizerError } from "./errors.ts";

const base64Part = 3 * 2 ** 12; // bytes at once: arguments of a call

/** Bytes to base64. Note: by btoa, as Uint8Array's own methods are not in Node before 25. */
export function toBase64(bytes: Uint8Array): string {
  const parts: string[] = [];
  for (let at = 0; at < bytes.length; at += base64Part) {
    parts.push(btoa(String.fromCharCode(...bytes.subarray(at, at + base64Part))));
  }
  return parts.join("");
}

/** Base64 to bytes. Throws TOKEN_FILE, which names `name`, where the text is no base64. */
export function fromBase64(name: string, text: unknown): Uint8Array {
  if (typeof text !== "string") throw expected(name, "base64", nameOf(text), "TOKEN_FILE");
  try {
    const characters = atob(text), bytes = new Uint8Array(characters.length);
    for (let at = 0; at < bytes.length; at++) bytes[at] = characters.charCodeAt(at);
    return bytes;
  } catch (cause) {
    throw new TokenizerError("TOKEN_FILE", `${name}: expected base64, found ${messageOf(cause)}`, { cause });
  }
}
