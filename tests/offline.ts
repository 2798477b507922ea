/**
 * No test asks the hub, or finds what it gave before. For tests/support.ts and tests/cli/spawn.ts; tests that play a
 * hub take it off, and call goOffline when they end, as others may run in the same process.
 */
import { tmpdir } from "node:os";
import { join } from "node:path";
import process from "node:process";

export function goOffline(): void {
  process.env.HF_HUB_OFFLINE = "1";
  process.env.HF_HUB_CACHE = join(tmpdir(), "ctok-no-hub");
  delete process.env.HF_ENDPOINT;
}

/** Of a test that plays a hub there. */
export function goOnline(url: string): void {
  process.env.HF_ENDPOINT = url;
  process.env.HF_HUB_DISABLE_IMPLICIT_TOKEN = "1";
  delete process.env.HF_HUB_OFFLINE;
}

goOffline();
