/**
 * Files to objects, and objects to objects, of any size: in one request up to 8 MiB (512 MiB where nothing may be), and
 * copies up to 5 GiB; above in parts, a few at a time, each with its SHA-256. What fails leaves no parts behind, as far
 * as the store can be reached. Called by s3storage.ts.
 */
import { createHash, randomBytes } from "node:crypto";
import { type FileHandle, open } from "node:fs/promises";
import { expected, TokenizerError } from "../../errors.ts";
import { io } from "../../files.ts";
import { fewAtOnce } from "../atonce.ts";
import { checked, type S3Client } from "./client.ts";
import { isStoreGone } from "./request.ts";
import { elementsOf, escaped, textOf } from "./xml.ts";

/**
 * Limits of uploads: bytes of a part, the most bytes that one request writes or copies, and the most parts of an
 * upload, 10,000 in S3. Tests set smaller ones.
 */
export const limits = {
  partBytes: 8 << 20,
  newBytes: 1 << 29,
  copyBytes: 5 * 2 ** 30,
  copyPartBytes: 2 ** 30,
  mostParts: 10_000,
};
const tryHeader = "x-amz-meta-ctok-try";

interface Part {
  readonly etag: string;
  /** SHA-256 of the bytes, in base64. */
  readonly sha256: string | undefined;
}

/**
 * A file of the disk. `isNew`: only where nothing is; gives whether it was written. Throws as request.ts, and FILE_IO
 * for the file.
 */
export async function uploadFile(client: S3Client, path: string, key: string, isNew = false): Promise<boolean> {
  const file = await io(path, "read", open(path, "r"));
  try {
    const bytes = (await file.stat()).size;
    // Note: some stores keep an existing object from being replaced by a single request, but not by an upload in parts
    // (probeParts in probe.ts).
    if (bytes <= (isNew ? limits.newBytes : limits.partBytes)) {
      const body = await partOf(path, file, 0, bytes);
      return isNew ? await client.putNew(key, body) : (await client.put(key, body), true);
    }
    return await inParts(client, key, bytes, limits.partBytes, isNew, async (number, upload, from, length) => {
      const body = await partOf(path, file, from, length), { sha256, headers } = checked(body);
      const answer = await client.ask({ method: "PUT", key, query: partQuery(number, upload), body, sha256, headers });
      return { etag: answer.headers.get("etag") ?? "", sha256: headers["x-amz-checksum-sha256"] };
    });
  } finally {
    await file.close();
  }
}

/** Copies an object to another name, in parts where it is large. False where there is nothing to copy. */
export async function copyObject(client: S3Client, from: string, to: string, bytes: number): Promise<boolean> {
  if (bytes <= limits.copyBytes) return await client.copy(from, to, bytes);
  if (!await client.head(from)) return false;
  return await inParts(client, to, bytes, limits.copyPartBytes, false, async (number, upload, at, length) => {
    const headers = {
      "x-amz-copy-source": client.sourceOf(from),
      "x-amz-copy-source-range": `bytes=${at}-${at + length - 1}`,
    };
    const answer = await client.ask({
      method: "PUT",
      key: to,
      query: partQuery(number, upload),
      headers,
      bytes: length,
    });
    const xml = new TextDecoder().decode(answer.body);
    return { etag: textOf(xml, "ETag") ?? "", sha256: textOf(xml, "ChecksumSHA256") };
  });
}

/** SHA-256 of an object, as the store tells it of the whole, else of its bytes. Undefined unless it has that size. */
export async function hashOfObject(client: S3Client, key: string, bytes: number): Promise<string | undefined> {
  const found = await client.head(key);
  if (found?.bytes !== bytes) return undefined;
  if (found.sha256 !== undefined) return found.sha256;
  const hash = createHash("sha256");
  for (let at = 0; at < bytes; at += limits.partBytes) {
    const part = await client.range(key, found.etag, at, Math.min(limits.partBytes, bytes - at));
    if (!part) return undefined;
    hash.update(part);
  }
  return hash.digest("hex");
}

type SendPart = (number: number, upload: string, from: number, length: number) => Promise<Part>;

/** Begins anew where the store has lost what was sent, as one that was started again. */
export async function inParts(...[client, key, ...how]: Parameters<typeof inPartsOnce>): Promise<boolean> {
  for (let tries = 1;; tries++) {
    try {
      return await inPartsOnce(client, key, ...how);
    } catch (error) {
      if (!(error instanceof TokenizerError && error.detail === 404)) throw error;
      if (tries === mostUploads) throw new TokenizerError("FILE_IO", error.message, { detail: 404, cause: error });
    }
  }
}
const mostUploads = 3;

async function inPartsOnce(
  client: S3Client,
  key: string,
  bytes: number,
  leastBytes: number,
  isNew: boolean,
  send: SendPart,
): Promise<boolean> {
  const made = randomBytes(16).toString("hex"), headers = { "x-amz-checksum-algorithm": "SHA256", [tryHeader]: made };
  const begun = await client.ask({ method: "POST", key, query: { uploads: "" }, headers });
  const upload = textOf(new TextDecoder().decode(begun.body), "UploadId");
  if (!upload) throw expected(client.name(key), "the id of an upload in parts", "none", "FILE_IO");
  try {
    const partBytes = Math.max(leastBytes, Math.ceil(bytes / limits.mostParts)), count = Math.ceil(bytes / partBytes);
    const parts = await fewAtOnce(count, (i) => {
      const from = i * partBytes;
      return send(i + 1, upload, from, Math.min(partBytes, bytes - from));
    });
    return await complete(client, key, upload, parts, made, isNew);
  } catch (error) {
    if (!isStoreGone(error)) await abandonUpload(client.with(undefined), key, upload).catch(() => {});
    throw error;
  }
}

async function complete(
  client: S3Client,
  key: string,
  upload: string,
  parts: readonly Part[],
  made: string,
  isNew: boolean,
): Promise<boolean> {
  const told = parts.map(({ etag, sha256 }, i) => {
    const sum = sha256 ? `<ChecksumSHA256>${sha256}</ChecksumSHA256>` : "";
    return `<Part><PartNumber>${i + 1}</PartNumber><ETag>${escaped(etag)}</ETag>${sum}</Part>`;
  });
  const body = new TextEncoder().encode(
    `<CompleteMultipartUpload xmlns="http://s3.amazonaws.com/doc/2006-03-01/">${
      told.join("")
    }</CompleteMultipartUpload>`,
  );
  const headers = isNew ? { "if-none-match": "*" } : undefined;
  const ask = { method: "POST", key, query: { uploadId: upload }, body, answers: [404, 412] } as const;
  const { status } = await client.ask(headers ? { ...ask, headers } : ask);
  if (status !== 404 && status !== 412) return true;
  // The upload ended in an earlier try whose answer was lost, or another object has the name.
  if ((await client.head(key))?.try === made) return true;
  if (status === 412) {
    await abandonUpload(client, key, upload);
    return false;
  }
  const message = `${
    client.name(key)
  }: expected its parts to be there until the upload ends, found none (NoSuchUpload)`;
  throw new TokenizerError("FILE_IO", message, { detail: 404 });
}

export function partQuery(number: number, upload: string): Record<string, string> {
  return { partNumber: String(number), uploadId: upload };
}

async function partOf(path: string, file: FileHandle, from: number, length: number): Promise<Uint8Array> {
  const bytes = new Uint8Array(length);
  for (let at = 0; at < length;) {
    const { bytesRead } = await io(path, "read", file.read(bytes, at, length - at, from + at));
    if (bytesRead === 0) throw expected(path, `${from + length} bytes`, from + at, "FILE_IO");
    at += bytesRead;
  }
  return bytes;
}

/** An upload in parts that was begun and neither completed nor aborted. */
export interface OpenUpload {
  readonly key: string;
  readonly id: string;
  readonly begunMs: number;
}

/** Aborts an upload, which removes its parts. */
export async function abandonUpload(client: S3Client, key: string, id: string): Promise<void> {
  await client.ask({ method: "DELETE", key, query: { uploadId: id }, answers: [404] });
}

export async function openUploads(client: S3Client, prefix: string): Promise<OpenUpload[]> {
  const all: OpenUpload[] = [];
  let after: Record<string, string> = {};
  for (;;) {
    const answer = await client.ask({ method: "GET", key: "", query: { uploads: "", prefix, ...after } });
    const xml = new TextDecoder().decode(answer.body);
    for (const one of elementsOf(xml, "Upload")) {
      const begunMs = Date.parse(textOf(one, "Initiated") ?? "");
      all.push({ key: textOf(one, "Key") ?? "", id: textOf(one, "UploadId") ?? "", begunMs });
    }
    const key = textOf(xml, "NextKeyMarker"), id = textOf(xml, "NextUploadIdMarker");
    if (textOf(xml, "IsTruncated") !== "true" || !key) return all;
    after = { "key-marker": key, ...(id && { "upload-id-marker": id }) };
  }
}
