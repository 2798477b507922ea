/**
 * A terminal's looks: colours where a stream is a terminal that has them (NO_COLOR and TERM=dumb turn them off,
 * FORCE_COLOR on), its width, and how wide a text is on it. Called by help, reports and the progress bar.
 */
import { styleText } from "node:util";

const { process } = globalThis;

export type Style = Exclude<Parameters<typeof styleText>[0], readonly unknown[]>;
export type Stream = "stdout" | "stderr";

/** The text in that style, where the stream shows it. */
export function styled(style: Style, text: string, stream: Stream): string {
  return styleText(style, text, { stream: process[stream], validateStream: true });
}

/** Of what is no terminal: 80. */
export function columnsOf(stream: Stream): number {
  return (process[stream].isTTY && process[stream].columns) || 80;
}

/** Characters that take two columns: East Asian ones and pictures. */
const wide = new RegExp(
  [
    /[\u1100-\u115f\u2e80-\u303e\u3041-\ua4cf\uac00-\ud7a3\uf900-\ufaff\ufe30-\ufe6f\uff00-\uff60\uffe0-\uffe6]/u,
    /[\u{20000}-\u{3fffd}]/u,
    /\p{Emoji_Presentation}/u,
  ].map(({ source }) => source).join("|"),
  "u",
);
const graphemes = new Intl.Segmenter(undefined, { granularity: "grapheme" });

/** The end of a text that takes at most so many columns, with "…" for what is left out before it. */
export function tail(text: string, columns: number): string {
  const parts = Array.from(graphemes.segment(text), ({ segment }) => segment),
    widthOf = (c: string) => wide.test(c) ? 2 : 1;
  let width = parts.reduce((sum, part) => sum + widthOf(part), 0);
  if (width <= columns) return text;
  while (parts.length > 0 && width > columns - 1) width -= widthOf(parts.shift()!);
  return `…${parts.join("")}`;
}

/** Lines of at most so many columns, cut at spaces. */
export function wrap(text: string, columns: number): string[] {
  const lines: string[] = [];
  let line = "";
  for (const word of text.split(/\s+/)) {
    if (line && line.length + 1 + word.length > columns) {
      lines.push(line);
      line = word;
    } else line = line ? `${line} ${word}` : word;
  }
  return [...lines, line];
}
