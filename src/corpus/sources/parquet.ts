/**
 * The rows of a parquet file as items. One column has pictures or videos, as bytes or as Hugging Face's struct of bytes
 * and a path; other columns go along. Called by find.ts. Only small columns are read here, so an empty cell of the
 * large one is found when the item is read.
 */
import { basename } from "node:path";
import { messageOf, TokenizerError } from "../../errors.ts";
import type { Place, Sidecar } from "../item.ts";
import type { Column, ParquetFile } from "../parquetfile.ts";
import { identityOf } from "../openfile.ts";
import type { Search, Seen } from "./candidate.ts";
import { checkKey, keyOf } from "./keys.ts";

/** Usual names of the column with pictures or videos, in order of preference; else it is the only column of bytes. */
const usual = {
  image: ["image", "img", "picture", "image_bytes", "jpg", "jpeg", "png", "webp", "bytes", "content"],
  video: ["video", "video_bytes", "mp4", "webm", "mkv", "bytes", "content"],
};
/** Columns of text that are captions: the first is the field "txt". */
const captions = ["txt", "caption", "text", "prompt"];
/** Columns of text that give each row its key. */
const keyColumns = ["key", "__key__"];

/** All rows in order; a file that is none, or has no such column, is refused. */
export async function* itemsInParquet(path: string, search: Search): AsyncGenerator<Seen> {
  const refuse = (error: unknown): Seen => {
    if (!(error instanceof TokenizerError) || error.code === "CANCELLED") throw error;
    return { refused: { name: path, reason: messageOf(error) } };
  };
  let plan: RowPlan;
  try {
    plan = await search.places.withParquet(path, (file) => Promise.resolve(planRows(file, search)));
  } catch (error) {
    return yield refuse(error);
  }
  const identity = await identityOf(path), stem = basename(path).replace(/\.parquet$/i, "");
  const digits = String(Math.max(plan.numRows - 1, 0)).length;
  for (let row = 0; row < plan.numRows; row++) {
    const name = `${path}: row ${row}`;
    const place = (column: string): Place => ({ kind: "parquet", path, row, column });
    const sidecars: Sidecar[] = plan.fields.map(([field, column]) => ({ field, place: place(column), identity }));
    if (plan.values.length > 0) {
      sidecars.push({ field: "json", place: { kind: "row", path, row, columns: plan.values }, identity });
    }
    const candidate = { name, kind: search.kind, place: place(plan.column), identity, sidecars };
    const own = keyOf(`${stem}/${String(row).padStart(digits, "0")}`);
    if (plan.key === undefined) {
      yield { candidate: { ...candidate, keys: [own] } };
      continue;
    }
    try {
      const { key: column } = plan, key = await search.places.withParquet(path, (file) => file.cell(row, column));
      yield { candidate: { ...candidate, keys: [checkKey(key)], isKeyGiven: true } };
    } catch (error) {
      if (error instanceof TokenizerError && error.code !== "ARGUMENT") return yield refuse(error);
      yield { refused: { name, reason: messageOf(error) } };
    }
  }
}

interface RowPlan {
  readonly numRows: number;
  readonly column: string;
  readonly key: string | undefined;
  /** Columns that become sidecars, one each, and columns that go into one JSON object. */
  readonly fields: readonly (readonly [field: string, column: string])[];
  readonly values: readonly string[];
}

function planRows(file: ParquetFile, search: Search): RowPlan {
  const { columns, numRows, path } = file;
  const fail = (wanted: string, found = columns.map(({ name }) => name).join(", ") || "none") => {
    return new TokenizerError("FILE_FORMAT", `${path}: expected ${wanted}, found ${found}`);
  };
  const holds = ({ kind }: Column) => kind === "bytes" || kind === "file";
  const named = (name: string) => columns.find((one) => one.name === name);
  let column: Column | undefined;
  if (search.column !== undefined) {
    column = named(search.column);
    if (!column) throw fail(`a column ${search.column}`);
    if (!holds(column)) throw fail(`bytes in column ${column.name}`, column.kind === "text" ? "text" : "other values");
  } else {
    const all = columns.filter(holds);
    column = usual[search.kind].map(named).find((one) => one && holds(one)) ?? (all.length === 1 ? all[0] : undefined);
    if (!column) {
      throw fail(
        `a column of bytes that is called ${
          usual[search.kind].slice(0, 3).join(", ")
        }, or one alone (--column names it)`,
      );
    }
  }
  const missing = search.columns?.find((name) => !named(name));
  if (missing !== undefined) throw fail(`a column ${missing}`);
  const key = keyColumns.find((name) => named(name)?.kind === "text");
  const along = columns.filter(({ name }) => name !== column.name && (search.columns?.includes(name) ?? name !== key));
  const caption = captions.find((name) => along.some((one) => one.name === name && one.kind === "text"));
  // Only columns whose name can be part of a file's name.
  const isField = ({ name, kind }: Column) => name === caption || kind === "bytes" && /^[\w.-]+$/.test(name);
  return {
    numRows,
    column: column.name,
    key,
    fields: along.filter(isField).map(({ name }) => [name === caption ? "txt" : name, name]),
    values: along.filter((one) => !isField(one)).map(({ name }) => name),
  };
}
