/**
 * The machines that the native library is packed for, and what is told on any other: the machine, what was tried, and a
 * command that fixes it. Functions of a Host, so that tests ask for machines that are not here. Called by load.ts;
 * pack.ts packs by the same table. Looks at nothing but its arguments.
 */

export interface Host {
  /** As process.platform and process.arch have them: "linux", "x64". */
  readonly platform: string;
  readonly arch: string;
  /** "glibc" or "musl" and its version, where that is known. */
  readonly libc?: string | undefined;
  readonly libcVersion?: string | undefined;
  readonly runtime: "bun" | "deno" | "node";
}

/** A package with a libctok.so, as npm knows for whom it is. */
export interface LibraryPackage {
  readonly name: string;
  readonly os: string;
  readonly cpu: string;
  readonly libc: string;
  /** Its library serves GPUs too. Nothing installs it by itself, as npm cannot ask for a GPU. */
  readonly hasCuda: boolean;
}

const gnu = { os: "linux", libc: "glibc" } as const;
/** In the order in which they are looked for. */
export const libraryPackages: readonly LibraryPackage[] = [
  { name: "ctok-linux-x64-gnu-cuda", ...gnu, cpu: "x64", hasCuda: true },
  { name: "ctok-linux-x64-gnu", ...gnu, cpu: "x64", hasCuda: false },
  { name: "ctok-linux-arm64-gnu", ...gnu, cpu: "arm64", hasCuda: false },
];
/** Debian 12, Ubuntu 22.04, RHEL 9 and later have it; pack.ts refuses a library that needs more. */
export const oldestGlibc = "2.34";

export function packagesFor({ platform, arch }: Pick<Host, "platform" | "arch">): readonly LibraryPackage[] {
  return libraryPackages.filter(({ os, cpu }) => os === platform && cpu === arch);
}

/** `tried`: paths and packages, in words. `build`: the command that builds the library where ctok lies. */
export function missingMessage(host: Host, tried: readonly string[], build: string): string {
  const looked = `native library: expected libctok.so for ${nameOf(host)}, found none; tried ${tried.join(", ")}`;
  const [fitting] = packagesFor(host).filter(({ hasCuda }) => !hasCuda);
  if (host.platform !== "linux") return `${looked}. ${elsewhere}`;
  if (!fitting || !fits(host)) return `${looked}. ${packedFor}: build it with a C compiler, ${build}`;
  const add = { bun: "bun add ", deno: "deno add npm:", node: "npm install " }[host.runtime];
  return `${looked}. Install its package, ${add}${fitting.name}, or build it with a C compiler, ${build}; ` +
    "CTOK_LIBRARY may name a file";
}

/** Of a library that is there and does not load. `reason`: in the loader's words. */
export function refusedMessage(host: Host, path: string, reason: string, build: string): string {
  const said = `native library ${path}: expected one that loads on ${nameOf(host)}, found: ${reason}`;
  if (host.platform !== "linux") return `${said}. ${elsewhere}`;
  if (/GLIBC_\d/.test(reason) || !fits(host)) return `${said}. ${packedFor}: build it with a C compiler, ${build}`;
  return said;
}

const packedFor = `Packed libraries are for Linux on x64 and arm64 with glibc ${oldestGlibc} or later`;
const elsewhere = "ctok runs on Linux, elsewhere in a container: " +
  'docker run --rm -it -v "$PWD:/here" -w /here node:22 npx ctok --help';

function nameOf({ platform, arch, libc, libcVersion }: Host): string {
  return `${platform}-${arch}${libc ? ` (${[libc, libcVersion].filter(Boolean).join(" ")})` : ""}`;
}

/** Whether the packed libraries load with this C library; what is not known may. */
function fits({ libc, libcVersion }: Host): boolean {
  if (libc !== undefined && libc !== "glibc") return false;
  return libcVersion === undefined || !isOlder(libcVersion, oldestGlibc);
}

/** Whether version `a` is before `b`: "2.4" before "2.34". */
export function isOlder(a: string, b: string): boolean {
  const [left, right] = [a, b].map((version) => version.split(".").map(Number)) as [number[], number[]];
  const at = right.findIndex((number, n) => (left[n] ?? 0) !== number);
  return at >= 0 && (left[at] ?? 0) < right[at]!;
}
