/**
 * Which of the tests run on Node, and how: Node finds no tests in TypeScript by itself. Called by run.ts, for the Node
 * on the PATH, and long.ts, for each that is there.
 */
import { spawnSync } from "node:child_process";
import { existsSync, readdirSync, statSync } from "node:fs";
import { join, relative } from "node:path";
import { fileURLToPath } from "node:url";

const root = fileURLToPath(new URL("../", import.meta.url));
/** What meets the runtime: the rest is arithmetic, documents and C, which Bun and Deno have tried. */
const folders = ["abi", "api", "cli", "faults/workers.test.ts", "golden", "package", "unit"];
/**
 * Minutes in which FFmpeg works, files are damaged in every way, networks run as on a GPU, and processes and Workers
 * begin, each with a tsx of its own: long.ts has the time. In npm test the packed command line stands for the rest.
 */
const long = [
  /^tests\/(api\/checkpoints|cli\/(?!repl)\w+|faults\/workers|golden\/emulator)\.test\.ts$/,
  /^tests\/unit\/(reading|video|videosink)\.test\.ts$/,
];

export interface OnNode {
  readonly version: string;
  /** Why there can be none. */
  readonly why: string | undefined;
  readonly files: readonly string[];
}

/** `paths`: files and folders, of which those are left that run on Node. */
export function testsOnNode(paths: readonly string[], length: "short" | "long", node = "node"): OnNode {
  const version = spawnSync(node, ["-p", "process.versions.node"], { encoding: "utf8" }).stdout?.trim() ?? "";
  const why = parseInt(version) >= 20
    ? undefined
    : `expected ${node} to be Node 20 or later, found ${version || "none"}`;
  const files = paths.flatMap((path) => {
    const folder = join(root, path);
    if (!statSync(folder).isDirectory()) return [relative(root, folder)];
    const names = readdirSync(folder, { recursive: true, encoding: "utf8" }).filter((name) => name.endsWith(".test.ts"))
      .sort();
    return names.map((name) => relative(root, join(folder, name)));
  });
  const runs = (file: string) => folders.some((name) => file === `tests/${name}` || file.startsWith(`tests/${name}/`));
  return {
    version,
    why,
    files: files.filter((file) => runs(file) && (length === "long" || !long.some((pattern) => pattern.test(file)))),
  };
}

/** As JUnit into a file, and for people. One file after another, as some count memory. */
export function nodeArguments(files: readonly string[], report: string): string[] {
  const reporters = [["junit", report], ["spec", "stdout"]]
    .flatMap(([name, to]) => [`--test-reporter=${name}`, `--test-reporter-destination=${to}`]);
  return ["--import", "./tests/node.mjs", "--test", "--test-concurrency=1", ...reporters, ...files];
}

/** Where `npm run nodes` has put a Node by what tests/nodes/package.json says. */
export const nodeAt = (name: string) => join(root, "build/nodes/node_modules", name, "bin/node");

/** The one on the PATH, and those. */
export function nodesHere(): string[] {
  const more = ["node-22", "node-24"].map(nodeAt);
  return ["node", ...more.filter((path) => existsSync(path))];
}
