/**
 * STEM.jsonl beside the arrays of formats that hold numbers alone: a line of JSON a sample, in order, with its record,
 * the shape of its tokens where the array does not say it, and its sidecars, as text where they are UTF-8 and as base64
 * where not.
 */
import { fromBase64, toBase64 } from "../../base64.ts";
import { expected } from "../../errors.ts";
import { isShape } from "../../tokens/stored.ts";
import type { ShardFile } from "../format.ts";
import type { Sample } from "../item.ts";
import type { RecordKeys, StoredSample } from "../records.ts";
import type { Part } from "./part.ts";

const encoder = new TextEncoder();

export interface Line {
  readonly record: RecordKeys;
  readonly shape: readonly number[] | undefined;
  readonly sidecars: Sample["sidecars"];
}

/** `others`: keys of the format's own, which stand in front of the record but for its key. */
export async function writeLine(
  file: ShardFile,
  { record, sidecars }: StoredSample,
  others: RecordKeys = {},
): Promise<void> {
  const { key, ...told } = record, text = sidecars.length === 0 ? {} : { sidecars: textOf(sidecars) };
  await file.write(encoder.encode(JSON.stringify({ key, ...others, ...told, ...text }) + "\n"));
}

export async function* readLines(part: Part): AsyncGenerator<Line> {
  for await (const value of part.lines()) yield lineOf(part.name, value);
}

/** Reads one parsed JSON line; the keys that are the format's own are not in its record. Throws TOKEN_FILE. */
export function lineOf(name: string, value: unknown): Line {
  if (typeof value !== "object" || value === null) throw expected(name, "a JSON object a line", value, "TOKEN_FILE");
  const { shape, sidecars = {}, ...record } = value as Record<string, unknown>;
  if (shape !== undefined && !isShape(shape)) {
    throw expected(`${name}: shape`, "positive whole numbers", shape, "TOKEN_FILE");
  }
  return { record, shape, sidecars: sidecarsOf(name, sidecars) };
}

function textOf(sidecars: Sample["sidecars"]): Record<string, unknown> {
  return Object.fromEntries(sidecars.map(({ field, bytes }) => [field, utf8Of(bytes) ?? { base64: toBase64(bytes) }]));
}

/** The bytes as UTF-8 text, or undefined where they are not UTF-8. */
export function utf8Of(bytes: Uint8Array): string | undefined {
  try {
    return new TextDecoder("utf-8", { fatal: true, ignoreBOM: true }).decode(bytes);
  } catch {
    return undefined;
  }
}

function sidecarsOf(name: string, value: unknown): Sample["sidecars"] {
  return Object.entries(Object(value) as Record<string, unknown>).map(([field, content]) => {
    if (typeof content === "string") return { field, bytes: encoder.encode(content) };
    const { base64, ...others } = Object(content) as Record<string, unknown>;
    if (typeof base64 !== "string" || Object.keys(others).length > 0) {
      throw expected(`${name}: sidecars.${field}`, "a text or { base64 }", JSON.stringify(content), "TOKEN_FILE");
    }
    return { field, bytes: fromBase64(`${name}: sidecars.${field}`, base64) };
  });
}
