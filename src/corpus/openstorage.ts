/** The storage of a corpus, by its location. Called by all that plans, runs and reads corpora. */
import { FolderStorage } from "./folderstorage.ts";
import { isS3 } from "./s3/address.ts";
import { S3Storage } from "./s3storage.ts";
import type { OnStep, Storage } from "./storage.ts";

export interface StorageOptions {
  readonly onStep?: OnStep | undefined;
  /** Ends waiting for a remote store. */
  readonly signal?: AbortSignal | undefined;
}

/** Looks at nothing yet. Throws ARGUMENT for s3:// without a bucket or without credentials. */
export function openStorage(location: string, { onStep, signal }: StorageOptions = {}): Storage {
  return isS3(location) ? new S3Storage(location, onStep, signal) : new FolderStorage(location, onStep);
}
