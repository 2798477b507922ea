/**
 * A folder that looks like the repository's root to whoever runs there: what examples and documents read is linked in, what
 * they write (out/ and the rest) stays in the folder, so runs on Bun and Deno do not meet and the checkout stays clean.
 */
import assert from "node:assert/strict";
import { execFile, spawnSync } from "node:child_process";
import { mkdtemp, rm, symlink } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import process from "node:process";
import { root, runArgs } from "./support.ts";

/** Why a test that needs Python cannot run, or false. */
export const noPython = spawnSync("python3", ["--version"]).status === 0 ? false : "no python3 on the PATH";

// Note: Deno keeps a link's own path, so all that linked files import is linked too.
const linked = [
  ...["examples", "models", "csrc", "build", "src", "cli", "repl", "ffi", "plugin", "node_modules"],
  ...["mod.ts", "deno.json", "tsconfig.json", "package.json", "bunfig.toml"],
];

/** Makes the folder; the caller removes it with `remove`. */
export async function makeWorkplace(name: string): Promise<{ folder: string; remove: () => Promise<void> }> {
  const folder = await mkdtemp(join(tmpdir(), `ctok-${name}-`));
  for (const entry of linked) await symlink(join(root, entry), join(folder, entry));
  return { folder, remove: () => rm(folder, { recursive: true }) };
}

export interface Output {
  stdout: string;
  stderr: string;
}

/** Runs a program to its good end; fails with all that it said otherwise. */
export function runs(
  cwd: string,
  command: string,
  args: readonly string[],
  env: Record<string, string> = {},
): Promise<Output> {
  return new Promise((resolve, reject) => {
    const options = { cwd, env: { ...process.env, ...env }, timeout: 600_000, maxBuffer: 1 << 26 };
    execFile(command, [...args], options, (error, stdout, stderr) => {
      if (!error) return resolve({ stdout, stderr });
      reject(
        new assert.AssertionError({ message: `${command} ${args.join(" ")} in ${cwd}: ${error}\n${stdout}\n${stderr}` }),
      );
    });
  });
}

/** A TypeScript program on the runtime that runs the tests. */
export function runsScript(cwd: string, path: string, args: readonly string[] = []): Promise<Output> {
  return runs(cwd, process.execPath, [...runArgs, path, ...args]);
}
