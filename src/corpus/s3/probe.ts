/**
 * Whether a store does what the commit of a shard leans on: writes where nothing is and only there, also where several
 * try at once; refuses what is not what its hash says; copies. There are stores that take the question and do not
 * answer it, with which two workers would both have won. A few small requests, once a run, before any work. Called by
 * s3storage.ts.
 */
import { randomBytes } from "node:crypto";
import { TokenizerError } from "../../errors.ts";
import { checked, type S3Client } from "./client.ts";
import { inParts, limits, partQuery } from "./upload.ts";

const content = (text: string) =>
  new TextEncoder().encode(`ctok looks whether this store keeps its promises: ${text}\n`);
/** How many writes at once try whether the store lets exactly one of them win. */
const numRivals = 4;

/**
 * Tries what a store must do. Throws UNSUPPORTED, which says what it does not do, and what requests throw. Leaves
 * nothing at `prefix`.
 */
export async function probeStore(client: S3Client, prefix: string): Promise<void> {
  const key = `${prefix}probe-${randomBytes(8).toString("hex")}`, copy = `${key}-copy`, race = `${key}-race`;
  try {
    await checkNew(client, key);
    await checkRace(client, race);
    await checkHashes(client, key);
    await checkCopy(client, key, copy);
  } finally {
    const all = [key, copy, race].map((one) => client.with(undefined).remove(one).catch(() => {}));
    await Promise.all(all);
  }
}

/** `probeStore` for uploads in parts, which a plan of that size needs. */
export async function probeParts(client: S3Client, prefix: string, bytes: number): Promise<void> {
  if (bytes <= limits.newBytes) return;
  const key = `${prefix}probe-${randomBytes(8).toString("hex")}`;
  try {
    await client.put(key, content("parts"));
    if (!await writesPartsOver(client, key)) return;
  } finally {
    await client.with(undefined).remove(key).catch(() => {});
  }
  const wanted =
    `to end an upload in parts only where nothing is, as a plan of more than ${limits.newBytes} bytes needs`;
  throw lacking(client, wanted, "that it replaced what was there");
}

async function writesPartsOver(client: S3Client, key: string): Promise<boolean> {
  return await inParts(client, key, 1, 1, true, async (number, upload) => {
    const body = Uint8Array.of(1), { sha256, headers } = checked(body);
    const { headers: said } = await client.ask({
      method: "PUT",
      key,
      query: partQuery(number, upload),
      body,
      sha256,
      headers,
    });
    return { etag: said.get("etag") ?? "", sha256: headers["x-amz-checksum-sha256"] };
  });
}

async function checkNew(client: S3Client, key: string): Promise<void> {
  const first = await putNew(client, key, "first"), second = await putNew(client, key, "second");
  if (!first) throw lacking(client, "to write where nothing is (If-None-Match: *)", "that it does not");
  if (second) {
    throw lacking(client, "to write only where nothing is (If-None-Match: *)", "that it replaced what was there");
  }
}

async function checkRace(client: S3Client, key: string): Promise<void> {
  const rivals = Array.from({ length: numRivals }, (_, i) => putNew(client, key, String(i)));
  const numWon = (await Promise.all(rivals)).filter(Boolean).length;
  if (numWon !== 1) {
    throw lacking(client, `one of ${numRivals} to win that write at once (If-None-Match: *)`, `${numWon}`);
  }
}

async function putNew(client: S3Client, key: string, text: string): Promise<boolean> {
  try {
    return await client.putNew(key, content(text));
  } catch (cause) {
    const status = cause instanceof TokenizerError ? cause.detail : undefined;
    if (status !== 400 && status !== 501) throw cause;
    throw lacking(client, "to write where nothing is (If-None-Match: *)", `an error (${status})`, cause);
  }
}

async function checkHashes(client: S3Client, key: string): Promise<void> {
  const said = checked(content("first")), body = content("other");
  const { status } = await client.ask({ method: "PUT", key: `${key}-race`, body, ...said, answers: [400, 403] });
  if (status < 300) throw lacking(client, "to refuse bytes that are not those of their hash", "that it takes them");
}

async function checkCopy(client: S3Client, key: string, copy: string): Promise<void> {
  const wanted = content("first"),
    isCopied = await client.copy(key, copy, wanted.length),
    found = await client.get(copy);
  const isEqual = isCopied && found?.length === wanted.length && found.every((byte, i) => byte === wanted[i]);
  if (!isEqual) throw lacking(client, "to copy an object (CopyObject)", "another one or none");
}

function lacking(client: S3Client, wanted: string, found: string, cause?: unknown): TokenizerError {
  const advice = "without it two workers could both commit a shard: take a newer version of the store, another one " +
    "(docs/dataset_s3.md), or a folder and copy it";
  return new TokenizerError(
    "UNSUPPORTED",
    `${client.name("")}: expected ${client.host} ${wanted}, found ${found}; ${advice}`,
    {
      cause,
    },
  );
}
