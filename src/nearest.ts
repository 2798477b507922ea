/** "Did you mean": the known name that is nearest to one that is not known. Called by whoever refuses a name. */

/**
 * A hint for an error, " (did you mean NAME?)", where a known name is at most two edits or a third of its letters away,
 * whatever their case; else "".
 */
export function suggestion(name: string, known: readonly string[], prefix = ""): string {
  const lower = name.toLowerCase();
  let best: string | undefined, least = Infinity;
  for (const to of known) {
    const edits = editDistance(lower, to.toLowerCase());
    if (edits < least) [best, least] = [to, edits];
  }
  return best !== undefined && least <= Math.max(2, best.length / 3) ? ` (did you mean ${prefix}${best}?)` : "";
}

/** Levenshtein's distance between two words, with one row of the table at a time. */
function editDistance(a: string, b: string): number {
  let row = Array.from({ length: b.length + 1 }, (_, j) => j);
  for (let i = 1; i <= a.length; i++) {
    const next = [i];
    for (let j = 1; j <= b.length; j++) {
      next[j] = Math.min(row[j]! + 1, next[j - 1]! + 1, row[j - 1]! + (a[i - 1] === b[j - 1] ? 0 : 1));
    }
    row = next;
  }
  return row[b.length]!;
}
