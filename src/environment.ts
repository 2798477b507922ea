/**
 * Variables of the environment that the library itself reads; docs/environment.md has all. Called by model/ and
 * corpus/s3/.
 */
import { homedir } from "node:os";
import { join } from "node:path";

const { process } = globalThis;

/** The value of a variable; undefined where it is not set or empty. */
export const variable = (name: string): string | undefined => process.env[name] || undefined;

/** The folder of this user's caches: XDG_CACHE_HOME or ~/.cache. */
export const cachesFolder = (): string => variable("XDG_CACHE_HOME") ?? join(homedir(), ".cache");
