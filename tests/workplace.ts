/**
 * A folder that looks like the repository's root to whoever runs there: what examples and documents read is linked in,
 * what they write (out/ and the rest) stays in the folder, so runs on Bun and Deno do not meet and the checkout stays
 * clean.
 */
import assert from "node:assert/strict";
import { execFile, spawnSync } from "node:child_process";
import { mkdtemp, rm, symlink } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import process from "node:process";
import { createVideo, framesOf } from "mod.ts";
import { root, runArgs } from "./support.ts";

/** PYTHON where it is set: one that has PyTorch runs more of the documents. */
export const python = process.env.PYTHON || "python3";
/** Why a test that needs Python cannot run, or false. */
export const noPython = spawnSync(python, ["--version"]).status === 0 ? false : `no ${python} on the PATH`;
/** Why Python cannot run a script, or false: it is not there, or a library that the script imports. */
export function whatPythonLacks(script: string): string | false {
  if (noPython) return noPython;
  const imports = [...script.matchAll(/^(?:from (\w+)|import (.+))/gm)].flatMap(([, one, all]) =>
    one ?? all!.split(",").map((name) => /\w+/.exec(name)![0])
  );
  const missing = imports.filter((name) => spawnSync(python, ["-c", `import ${name}`]).status !== 0);
  return missing.length > 0 && `${python} has no ${missing.join(", ")} (PYTHON names another)`;
}

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
        new assert.AssertionError({
          message: `${command} ${args.join(" ")} in ${cwd}: ${error}\n${stdout}\n${stderr}`,
        }),
      );
    });
  });
}

/** A TypeScript program on the runtime that runs the tests. */
export function runsScript(cwd: string, path: string, args: readonly string[] = []): Promise<Output> {
  return runs(cwd, process.execPath, [...runArgs, path, ...args]);
}

/** Twenty frames of 64 x 96 pixels cut out of the sample clip. */
export async function writeClip(path: string): Promise<void> {
  const height = 64, width = 96;
  const { frames, info } = await framesOf(join(root, "examples/media/cars.mp4"), { frames: 20 });
  await using sink = await createVideo(path, { height, width, fps: info.fps });
  for await (const { data, shape } of frames) {
    const cut = new Uint8Array(height * width * 3), row = shape[1]! * 3;
    for (let y = 0; y < height; y++) {
      cut.set(data.subarray((y + 200) * row, (y + 200) * row + width * 3), y * width * 3);
    }
    await sink.write(cut);
  }
  await sink.close();
}
