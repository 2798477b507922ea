/**
 * How arguments are checked: a zod schema beside each options interface, the checks that several share, and the one way
 * in which a wrong option is reported. A schema without a field of its interface, or with another one or type, is an
 * error of types: `satisfies Fields<…>` in one direction, the argument of `parse` in the other. Called by all that
 * takes options.
 */
import { z } from "zod";
import { TokenizerError } from "./errors.ts";

/** A zod schema for each field of an interface of options. */
export type Fields<T> = { readonly [K in keyof Required<T>]: z.ZodType<unknown, T[K]> };

export const signal = z.custom<AbortSignal>((v) => v instanceof AbortSignal, "expected an AbortSignal").optional();

/** Default of every `limitPixels` option, height × width in pixels. */
export const mostPixels = 16383 ** 2;
/** The check of every `limitPixels` option. A larger picture is refused by its header, before memory is taken. */
export const limitPixels = z.int().min(1).default(mostPixels);

/** Limits for reading a picture: together they keep a hostile file from costing more than it should. */
export interface PictureLimits {
  /**
   * Largest picture taken, height × width in pixels; a larger one is refused by its header. Default 16383², as sharp's
   * own.
   */
  limitPixels?: number | undefined;
  /**
   * Seconds of processor time that decoding may take, in the helper process that decodes SVG, AVIF, TIFF, GIF, animated
   * WebP and what is large (docs/limits.md). Default: 1, and for what is no SVG one more for each 2^22 pixels of the
   * picture.
   */
  limitSeconds?: number | undefined;
  /**
   * Bytes of memory that decoding may take there. Default: 96 MiB, and for each pixel 2.5 times its samples and 8 more.
   */
  limitMemory?: number | undefined;
  /** Whether SVG is drawn. It is a program: it costs what it wants, up to these limits. Default false: refused. */
  svg?: boolean | undefined;
}
export const pictureLimits = {
  limitPixels,
  limitSeconds: z.number().positive().optional(),
  limitMemory: z.int().min(1).optional(),
  svg: z.boolean().default(false),
} satisfies Fields<PictureLimits>;

/**
 * Checks options by a schema. All wrong options are named in one TokenizerError ARGUMENT, with what was expected and
 * what was found.
 */
export function parse<S extends z.ZodType>(schema: S, value: z.input<S>, name: string): z.output<S> {
  const result = schema.safeParse(value ?? {});
  if (result.success) return result.data;
  const problems = result.error.issues.map((issue) => {
    const path = [name, ...issue.path.map(String)].join(".");
    const found = issue.path.reduce<unknown>(
      (at, key) => (at as Record<PropertyKey, unknown> | undefined)?.[key],
      value,
    );
    const shown = typeof found === "object"
      ? JSON.stringify(found)
      : typeof found === "string"
      ? `"${found}"`
      : String(found);
    return `${path}: ${issue.message.replace(/^Invalid \w+: /, "")}, found ${shown}`;
  });
  throw new TokenizerError("ARGUMENT", problems.join("; "));
}
