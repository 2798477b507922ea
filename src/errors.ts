/**
 * The one error type of the project. Every failure names what was expected and what was found, carries a code for
 * programs and the stack of the caller. Codes equal the C library's (ctok.h) without their prefix, and those that C
 * cannot meet.
 */

/**
 * Codes of errors, grouped by who can do something about them: the caller, whoever made the file, the owner of the
 * machine, nobody (a call was stopped), the makers of ctok.
 */
export type ErrorCode =
  | "ARGUMENT"
  | "STRUCT_SIZE"
  | "HANDLE"
  | "SHAPE"
  | "VALUE"
  | "CAPACITY"
  | "UNSUPPORTED"
  | "FILE_MISSING"
  | "FILE_IO"
  | "FILE_FORMAT"
  | "FILE_TENSOR"
  | "FILE_NETWORK"
  | "IMAGE" // not an image that can be read
  | "TOKEN_FILE" // not a token file, or a damaged one
  | "VIDEO" // not a video that can be read, or a damaged one
  | "FFMPEG" // not found, or it failed
  | "HUB" // refused, or not to be reached; detail: the HTTP status
  | "QUEUE" // of shards, not to be reached
  | "MEMORY"
  | "DEVICE"
  | "THREAD"
  | "LIBRARY" // the native library was not found or does not fit
  | "CANCELLED"
  | "CLOSED"
  | "NOT_READY"
  | "INTERNAL";

/** The longest message, in characters: names in a hostile file may have millions. */
const mostCharacters = 2000;

export class TokenizerError extends Error {
  /** "AbortError" when an AbortSignal ended the work, as the web platform names it. */
  override readonly name: string;
  readonly code: ErrorCode;
  /** A number for programs, where the code has one: a position, a byte offset, an errno. */
  readonly detail: number | undefined;

  constructor(code: ErrorCode, message: string, options: { detail?: number; cause?: unknown } = {}) {
    const said = message.length > mostCharacters ? `${message.slice(0, mostCharacters)} …` : message;
    super(said, options.cause === undefined ? undefined : { cause: options.cause });
    this.name = code === "CANCELLED" ? "AbortError" : "TokenizerError";
    this.code = code;
    this.detail = options.detail;
  }
}

/** The text of any thrown value. */
export function messageOf(error: unknown): string {
  return error instanceof Error ? error.message : String(error);
}

/** Fails with "NAME: expected EXPECTED, found FOUND". */
export function expected(name: string, wanted: string, found: unknown, code: ErrorCode = "ARGUMENT"): TokenizerError {
  return new TokenizerError(code, `${name}: expected ${wanted}, found ${shown(found)}`);
}

/** Describes a wrong value in a few words, for error messages. */
export function nameOf(value: unknown): string {
  if (value === null || typeof value !== "object") return value === null ? "null" : typeof value;
  return value.constructor?.name || "object";
}

/** The CANCELLED error of work that a signal has ended; its cause is the signal's reason. */
export function cancelled(signal: AbortSignal): TokenizerError {
  return new TokenizerError("CANCELLED", "the work was cancelled by its AbortSignal", { cause: signal.reason });
}

/**
 * Any value as text: the beginning of a list, and of what has no text of its own (symbols in lists, null prototypes)
 * the type.
 */
function shown(value: unknown): string {
  try {
    if (typeof value === "string") return JSON.stringify(value);
    if (!Array.isArray(value)) return String(value);
    return `[${value.slice(0, mostElements).join(", ")}${value.length > mostElements ? ", …" : ""}]`;
  } catch {
    return Array.isArray(value) ? "a list" : typeof value;
  }
}
const mostElements = 64;

/**
 * Text for a terminal, one line of it: what could move its cursor, change its colours, title or clipboard, or turn the
 * direction of reading is shown as an escape (`\x1b`, `\n`, `\u202e`). Messages and names hold what stands in files:
 * who prints them passes them through here.
 */
export function printable(text: string): string {
  return text.replace(unprintable, (c) => {
    const code = c.codePointAt(0)!.toString(16);
    return shortEscapes[c] ?? (code.length <= 2 ? `\\x${code.padStart(2, "0")}` : `\\u${code}`);
  });
}

/** Controls (C0, DEL, C1), lone surrogates, the separators of lines and paragraphs, and marks of direction. */
const unprintable = /[\p{Cc}\p{Cs}\u061c\u200e\u200f\u2028\u2029\u202a-\u202e\u2066-\u2069]/gu;
const shortEscapes: Record<string, string> = { "\n": "\\n", "\r": "\\r", "\t": "\\t" };
