/**
 * An npm registry for tests, on a port of this machine: the packages given as tarballs, and those of node_modules
 * packed when they are asked for. So `bun add` and `deno add` run as a user runs them, with nothing fetched from
 * outside. What others name as optional and node_modules lacks, being for other systems, is known here by its version
 * alone (Deno insists on it), and so are FFmpeg's 70 MB.
 */
import { execFile } from "node:child_process";
import { createHash } from "node:crypto";
import { existsSync, readdirSync, readFileSync } from "node:fs";
import { readFile } from "node:fs/promises";
import { createServer } from "node:http";
import type { AddressInfo } from "node:net";
import { basename, join } from "node:path";
import { promisify } from "node:util";
import { root } from "../support.ts";

const run = promisify(execFile);

export interface Registry {
  readonly url: string;
  /** Names of the packages whose files were fetched. */
  readonly fetched: ReadonlySet<string>;
  close(): Promise<void>;
}

/** `tarballs`: name to path, each made by npm pack. */
export async function openRegistry(tarballs: Readonly<Record<string, string>>): Promise<Registry> {
  const fetched = new Set<string>(), packed = new Map<string, Promise<Uint8Array>>();

  function filesOf(name: string): Promise<Uint8Array> {
    const known = packed.get(name);
    if (known) return known;
    const path = join(root, "node_modules", name);
    const files = tarballs[name] !== undefined
      ? readFile(tarballs[name])
      : run("tar", ["-c", "-I", "gzip -1", "--transform", "s,^\\.,package,", "-C", path, "."], {
        encoding: "buffer",
        maxBuffer: 1 << 28,
      }).then(({ stdout }) => stdout);
    packed.set(name, files);
    return files;
  }

  const optional = new Map<string, string>(); // name to version
  const remember = ({ optionalDependencies = {} }: { optionalDependencies?: Record<string, string> }) => {
    for (const [name, range] of Object.entries(optionalDependencies)) optional.set(name, range.replace(/^[^\d]+/, ""));
  };
  for (const path of readdirSync(join(root, "node_modules"), { recursive: true, encoding: "utf8" })) {
    if (!/^(@[^/]+\/)?[^/@]+\/package\.json$/.test(path)) continue;
    remember(JSON.parse(readFileSync(join(root, "node_modules", path), "utf8")));
  }
  for (const path of Object.values(tarballs)) {
    remember(JSON.parse((await run("tar", ["-xzOf", path, "package/package.json"])).stdout));
  }

  async function aboutOf(name: string): Promise<Record<string, unknown> | undefined> {
    if (tarballs[name] !== undefined) {
      return JSON.parse((await run("tar", ["-xzOf", tarballs[name], "package/package.json"])).stdout);
    }
    const path = join(root, "node_modules", name, "package.json");
    if (existsSync(path) && !name.match(/^@ff(mpeg|probe)-installer\/linux/)) {
      return JSON.parse(await readFile(path, "utf8"));
    }
    return optional.has(name) ? { name, version: optional.get(name), os: ["none"] } : undefined;
  }

  const server = createServer(async (request, response) => {
    const path = decodeURIComponent(request.url!.slice(1));
    const file = /^(.*)\/-\/[^/]+\.tgz$/.exec(path)?.[1];
    const about = await aboutOf(file ?? path);
    if (!about) return response.writeHead(404, { "content-type": "application/json" }).end('{"error":"not found"}');
    const bytes = (about.os as string[] | undefined)?.[0] === "none" ? new Uint8Array(0) : await filesOf(file ?? path);
    if (file !== undefined) {
      fetched.add(file);
      return response.writeHead(200, { "content-type": "application/octet-stream" }).end(bytes);
    }
    const { name, version } = about as { name: string; version: string };
    const tarball = `http://${request.headers.host}/${name}/-/${basename(name)}-${version}.tgz`;
    const dist = { tarball, integrity: `sha512-${createHash("sha512").update(bytes).digest("base64")}` };
    const hasInstallScript = Object.keys((about.scripts as object | undefined) ?? {}).some((s) =>
      /^(pre|post)?install$/.test(s)
    );
    const versions = { [version]: { ...about, dist, hasInstallScript } };
    response.writeHead(200, { "content-type": "application/json" }).end(
      JSON.stringify({
        name,
        "dist-tags": { latest: version },
        versions,
        time: { [version]: "2026-01-01T00:00:00.000Z" },
      }),
    );
  });
  await new Promise<void>((resolve) => server.listen(0, "127.0.0.1", resolve));
  return {
    url: `http://127.0.0.1:${(server.address() as AddressInfo).port}/`,
    fetched,
    close: () => {
      server.closeAllConnections();
      return new Promise((resolve) => server.close(() => resolve()));
    },
  };
}
