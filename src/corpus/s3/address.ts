/**
 * Locations in a corpus as text: a path, or s3://BUCKET/KEY. They are told apart, taken apart and joined here; no file
 * is looked at. Called by all of the corpus that handles locations.
 */
import { join, posix, resolve } from "node:path";
import { expected } from "../../errors.ts";

const scheme = "s3://";

/** Whether a location is in S3 ("s3://…"). */
export function isS3(location: string): boolean {
  return location.startsWith(scheme);
}

export interface S3Address {
  readonly bucket: string;
  /** The key or prefix, without slashes at its ends; "" stands for the whole bucket. */
  readonly key: string;
}

/**
 * Bucket and key of a location. Throws ARGUMENT without a bucket, and for keys that no path can be: with "//", "." or
 * "..".
 */
export function parseS3(location: string): S3Address {
  const [, bucket, rest = ""] = /^s3:\/\/([A-Za-z0-9][\w.-]{1,254})(?:\/(.*))?$/s.exec(location) ?? [];
  if (bucket === undefined) throw expected("location", "s3://BUCKET/PREFIX", location);
  const key = rest.replace(/\/+$/, "");
  if (key !== "" && key.split("/").some((part) => ["", ".", ".."].includes(part))) {
    throw expected(location, "a key without empty parts, . and ..", key);
  }
  return { bucket, key };
}

/** A path below a folder, or a key below a prefix of S3; "." and ".." are resolved as in paths. */
export function joinLocation(folder: string, ...names: string[]): string {
  if (!isS3(folder)) return join(folder, ...names);
  const [, bucket, key = ""] = /^s3:\/\/([^/]*)\/?(.*)$/s.exec(folder)!;
  return `${scheme}${bucket}/${posix.join(key, ...names)}`;
}

/** One name for a location: an absolute path or an address in S3, without slashes at its end. */
export function resolveLocation(location: string): string {
  return isS3(location) ? scheme + location.slice(scheme.length).replace(/\/+$/, "") : resolve(location);
}

/** Whether one resolved location lies inside another. */
export function liesIn(location: string, folder: string): boolean {
  return location.startsWith(folder.endsWith("/") ? folder : `${folder}/`);
}
