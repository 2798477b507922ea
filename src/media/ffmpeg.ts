/**
 * FFmpeg and ffprobe as child processes: where they are, how they start, how they end. Video in and out (videofile.ts,
 * videosink.ts) goes through here; facts about a file come from ffprobe (ffprobe.ts), and what FFmpeg's words mean is
 * ffmpeglog.ts. Nothing outlives a run: `ended` settles when the process is gone and its pipes are closed.
 *
 * Works with Debian's FFmpeg 5.1, the build of 2018 in the npm package, and what came later: only the options that keep
 * timestamps as they are have changed their names in that time.
 */
import { spawn } from "node:child_process";
import { access, chmod, constants, stat } from "node:fs/promises";
import { createRequire } from "node:module";
import { constants as system } from "node:os";
import { delimiter, dirname, join, resolve } from "node:path";
import type { Readable, Writable } from "node:stream";
import { throwIfAborted } from "../abort.ts";
import { messageOf, TokenizerError } from "../errors.ts";

const { process } = globalThis;

export interface Ffmpeg {
  readonly path: string;
  /** Output options that pass each frame on once, with its timestamp as it is. */
  readonly passFrames: readonly string[];
  /** Output options for H.264 that keep each frame's own time. */
  readonly h264Options: readonly string[];
}

export interface Ffprobe {
  readonly path: string;
}

/** How a run of FFmpeg ended. */
export interface Ending {
  /** The exit code; undefined when a signal ended the process, or when it never started. */
  readonly code: number | undefined;
  /** Name of the signal that ended FFmpeg, such as "SIGKILL", also where FFmpeg caught it and exited by itself. */
  readonly signal: string | undefined;
  /** The last 4000 characters that the process wrote to stderr, or why it did not start. */
  readonly stderr: string;
}

export interface FfmpegRun {
  /** Standard input of the process; closed at once unless the run was started with `stdin: "pipe"`. */
  readonly stdin: Writable;
  /** FFmpeg's output. It is read on demand: FFmpeg waits while nobody reads. */
  readonly stdout: Readable;
  /** Resolves when the process has ended; never rejects. */
  readonly ended: Promise<Ending>;
  /** Kills the process, if it still runs, and waits until nothing of it is left. */
  kill(): Promise<Ending>;
  /**
   * Sets whether the run keeps this process from ending. It does from the start; a run that nobody waits for should
   * not.
   */
  hold(isHeld: boolean): void;
}

export interface RunOptions {
  readonly stdin?: "pipe" | "ignore";
  /** Aborting it ends the run, as `kill` does. */
  readonly signal?: AbortSignal | undefined;
  /** Called with each line of stderr as it comes. */
  readonly onLine?: (line: string) => void;
}

const stderrTail = 4000;
const checked = new Map<string, Promise<Ffmpeg>>();

/** A program to find: where it is searched, and what to do when it is missing. */
interface Program {
  readonly name: "ffmpeg" | "ffprobe";
  readonly variable: "CTOK_FFMPEG" | "CTOK_FFPROBE";
  readonly package: string;
  readonly expected: string;
}
const programs = {
  ffmpeg: {
    name: "ffmpeg",
    variable: "CTOK_FFMPEG",
    package: "@ffmpeg-installer/ffmpeg",
    expected: "FFmpeg, which reads and writes videos",
  },
  ffprobe: {
    name: "ffprobe",
    variable: "CTOK_FFPROBE",
    package: "@ffprobe-installer/ffprobe",
    expected: "ffprobe, a part of FFmpeg that tells what is in a video",
  },
} as const;

/**
 * FFmpeg from the environment variable CTOK_FFMPEG, else from PATH, else from the npm package @ffmpeg-installer/ffmpeg.
 * CTOK_FFMPEG is an order, not a hint: when what it names does not run, nothing else is tried. Throws FFMPEG, which
 * lists what was tried and how to install it.
 */
export async function findFfmpeg(): Promise<Ffmpeg> {
  return await checkOnce(programs.ffmpeg, await locate(programs.ffmpeg));
}

/**
 * ffprobe from CTOK_FFPROBE, else from the folder of the FFmpeg in use, PATH, the npm package
 * @ffprobe-installer/ffprobe.
 */
export async function findFfprobe(): Promise<Ffprobe> {
  const ffmpeg = await locate(programs.ffmpeg).catch(() => undefined); // told when it is needed itself
  return await checkOnce(programs.ffprobe, await locate(programs.ffprobe, ffmpeg && dirname(ffmpeg)));
}

async function checkOnce(program: Program, path: string): Promise<Ffmpeg> {
  let found = checked.get(path);
  if (!found) checked.set(path, found = check(program, path));
  try {
    return await found;
  } catch (error) {
    checked.delete(path); // it may be repaired before the next call
    throw error;
  }
}

async function locate(program: Program, beside?: string): Promise<string> {
  const { variable, package: npm } = program, wanted = process.env[variable];
  if (wanted) {
    const path = resolve(wanted);
    if (await isExecutable(path)) return path;
    throw missing(
      program,
      `nothing that can be run at ${path}, which ${variable} names; ${mend(program)}, or unset it`,
    );
  }
  const folders = (process.env.PATH ?? "").split(delimiter).filter(Boolean);
  const name = process.platform === "win32" ? `${program.name}.exe` : program.name;
  for (const folder of beside === undefined ? folders : [beside, ...folders]) {
    if (await isExecutable(join(folder, name))) return resolve(folder, name);
  }
  let fromNpm: string;
  try {
    fromNpm = (createRequire(import.meta.url)(npm) as { path: string }).path;
    if (await isExecutable(fromNpm)) return fromNpm;
    // What the package does after its installation, where installers run such scripts; Bun's does not.
    await chmod(fromNpm, 0o755);
    return fromNpm;
  } catch (error) { // the package throws plain strings
    fromNpm = messageOf(error).split("\n")[0]!;
  }
  throw missing(
    program,
    `none. Tried ${variable} (not set); ${beside === undefined ? "" : `the folder of FFmpeg (${beside}); `}` +
      `PATH (${folders.join(", ") || "empty"}); the npm package ${npm} (${fromNpm}). To mend it, ${mend(program)}`,
  );
}

async function isExecutable(path: string): Promise<boolean> {
  try {
    await access(path, constants.X_OK);
    return (await stat(path)).isFile();
  } catch {
    return false;
  }
}

/**
 * Runs FFmpeg once, so that a program for another machine, or one that is not FFmpeg, fails here and not in the middle
 * of a video.
 */
async function check(program: Program, path: string): Promise<Ffmpeg> {
  const run = start(path, ["-version"], {});
  let said = "";
  for await (const chunk of run.stdout) said += String(chunk);
  const ending = await run.ended;
  const codecs = Number(/libavcodec\s+(\d+)\./.exec(said)?.[1]);
  if (ending.code !== 0 || !(codecs >= 58)) {
    const found = said.split("\n")[0] || ending.stderr.trim() || tellEnding(ending);
    const told = `a program at ${path} that does not answer -version as FFmpeg 4.1 or later does: ${found}`;
    throw missing(program, `${told}; ${mend(program)}`);
  }
  // FFmpeg 5.1 renamed -vsync, 7 the demuxer's time base; later ones may drop the old names. libavcodec 60 is FFmpeg 6.
  const mode = codecs >= 60 ? "-fps_mode" : "-vsync", timeBase = codecs >= 61 ? "demux" : "-1";
  // FFmpeg 4 ends an MP4 where its last frame is decoded: B-frames, decoded earlier than shown, would lose a late one.
  const h264Options = codecs >= 59 ? [] : ["-bf", "0"];
  return { path, passFrames: [mode, "passthrough", "-enc_time_base", timeBase], h264Options };
}

function mend({ variable, package: npm }: Program): string {
  return `install it (apt-get install ffmpeg, or npm install ${npm}) or set ${variable} to its path`;
}

function missing({ name, expected: wanted }: Program, found: string): TokenizerError {
  return new TokenizerError("FFMPEG", `${name}: expected to find ${wanted}, found ${found}`);
}

/**
 * Starts FFmpeg with `args`, after options that keep it from asking questions and mark each line of stderr with its
 * level. Throws CANCELLED when the signal has already fired; a start that the system refuses shows in `ended`.
 */
export function startFfmpeg(ffmpeg: Ffmpeg, args: readonly string[], options: RunOptions = {}): FfmpegRun {
  throwIfAborted(options.signal);
  const general = ["-hide_banner", "-nostdin", "-nostats", "-loglevel", "level+verbose"];
  return start(ffmpeg.path, [...general, ...args], options);
}

/** Starts ffprobe as `startFfmpeg` starts FFmpeg: it asks no questions and reads no standard input. */
export function startFfprobe(ffprobe: Ffprobe, args: readonly string[], options: RunOptions = {}): FfmpegRun {
  throwIfAborted(options.signal);
  return start(ffprobe.path, ["-hide_banner", "-loglevel", "level+error", ...args], options);
}

interface Held {
  readonly destroyed?: boolean;
  ref?(): void;
  unref?(): void;
}

function start(path: string, args: readonly string[], options: RunOptions): FfmpegRun {
  const child = spawn(path, args, {
    stdio: ["pipe", "pipe", "pipe"],
    // Without the system's text converters, which nobody needs: static builds (the npm package's ffprobe) crash in
    // them.
    env: { ...process.env, AV_LOG_FORCE_NOCOLOR: "1", GCONV_PATH: "/nonexistent" },
    windowsHide: true,
    detached: true, // a terminal's Ctrl-C is for us: who works with the child decides how it ends
  });
  if (options.stdin !== "pipe") child.stdin.end();
  child.stdin.on("error", () => {}); // a child that left early: `ended` says why

  let stderr = "", line = "";
  child.stderr.setEncoding("utf8").on("data", (text: string) => {
    stderr = (stderr + text).slice(-stderrTail);
    const lines = (line + text).split(/\r?\n/);
    line = lines.pop()!.slice(-stderrTail);
    if (options.onLine) { for (const one of lines) options.onLine(one.slice(0, stderrTail)); }
  });

  const hold = (isHeld: boolean) => {
    // Pipes to a child are sockets, which their types do not say.
    const all = [child, child.stdin, child.stdout, child.stderr] as Held[];
    for (const one of all) {
      if (one.destroyed) continue;
      try {
        isHeld ? one.ref?.() : one.unref?.();
      } catch {
        // The process has just ended and no longer counts: Deno throws BadResource for its pipe.
      }
    }
  };
  const kill = () => void child.kill("SIGKILL");
  options.signal?.addEventListener("abort", kill, { once: true });
  const ended = new Promise<Ending>((settle) => {
    child.once("error", (error) => settle({ code: undefined, signal: undefined, stderr: messageOf(error) }));
    child.once("close", (code, signal) => {
      if (line && options.onLine) options.onLine(line);
      const caught = code === 255 ? /received signal (\d+)/.exec(stderr)?.[1] : undefined;
      const name = signal ?? (caught && Object.entries(system.signals).find(([, n]) => n === Number(caught))?.[0]);
      settle({ code: code ?? undefined, signal: name || undefined, stderr });
    });
  }).finally(() => options.signal?.removeEventListener("abort", kill));

  return {
    stdin: child.stdin,
    stdout: child.stdout,
    ended,
    kill: () => {
      hold(true);
      kill();
      child.stdin.destroy();
      child.stdout.destroy();
      return ended;
    },
    hold,
  };
}

/**
 * What is read: containers, elementary streams and still images that hold their own frames or sound. Not on the list is
 * what names other files or addresses (hls, dash, concat, image2, sdp, imf …) or is drawn (tty, svg, lavfi), under
 * whatever extension: FFmpeg goes by content. Names that a build does not have do no harm.
 */
const formats = [
  ...[
    "mov",
    "matroska",
    "avi",
    "mpegts",
    "mpeg",
    "ogg",
    "flv",
    "live_flv",
    "asf",
    "nut",
    "mxf",
    "gxf",
    "wtv",
    "rm",
    "nsv",
  ],
  ...[
    "mpegvideo",
    "m4v",
    "h261",
    "h263",
    "h264",
    "hevc",
    "vvc",
    "av1",
    "obu",
    "ivf",
    "vc1",
    "vc1test",
    "dirac",
    "cavsvideo",
  ],
  ...["avs2", "avs3", "dv", "dnxhd", "mjpeg", "mjpeg_2000", "mpjpeg", "yuv4mpegpipe", "gif", "apng", "flic", "swf"],
  ...["bmp", "dpx", "exr", "gif", "j2k", "jpeg", "jpegls", "jpegxl", "pam", "pgm", "png", "ppm", "qoi", "tiff", "webp"]
    .map((name) => `${name}_pipe`),
  ...["aac", "ac3", "aiff", "caf", "eac3", "flac", "mp3", "w64", "wav"],
];

/**
 * The options that make `path` an input: no network, nothing but `formats`, no decoder above `limitPixels` a frame, and
 * no single block of memory above eight bytes for each of those (FFmpeg's own limit of 2 GiB stays) and 256 MiB for an
 * index.
 */
export function inputArgs(path: string, limitPixels: number): string[] {
  const block = Math.min(8 * limitPixels + 2 ** 28, 2 ** 31 - 1);
  return [
    ...["-max_alloc", String(block), "-max_pixels", String(limitPixels)],
    ...["-protocol_whitelist", "file", "-format_whitelist", formats.join(","), "-i", fileUrl(path)],
  ];
}

/** A path as FFmpeg takes it: `file:` keeps names such as "http:x.mp4" and "-i" from meaning something else. */
export function fileUrl(path: string): string {
  return `file:${resolve(path)}`;
}

/** How the process ended, in words: "exit code 1", "SIGKILL". */
export function tellEnding(ending: Ending): string {
  return ending.signal ?? (ending.code === undefined ? "it did not start" : `exit code ${ending.code}`);
}
