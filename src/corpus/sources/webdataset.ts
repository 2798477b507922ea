/**
 * The samples of a webdataset tar: members that share the path up to the first dot of the file's name, one behind the
 * other. One of them is the item, by its extension; the others go along. Called by find.ts. Ref: webdataset's
 * tariterators.py.
 */
import { basename, extname } from "node:path";
import { messageOf, TokenizerError } from "../../errors.ts";
import { readExtensions } from "../../media/kinds.ts";
import { identityOf } from "../openfile.ts";
import { count, type Search, type Seen, tellCounts } from "./candidate.ts";
import { keyOf } from "./keys.ts";
import { type TarMember, tarMembers } from "./tar.ts";

interface Sample {
  readonly path: string;
  readonly members: { readonly field: string; readonly member: TarMember }[];
}

/** All samples in the archive's order; then, where it is cut or damaged, that it is. */
export async function* itemsInTar(path: string, search: Search): AsyncGenerator<Seen> {
  const others = new Map<string, number>();
  let sample: Sample | undefined;
  try {
    const identity = await identityOf(path);
    const end = (): Seen[] => sample ? [seenOf(path, sample, identity, search)] : [];
    for await (const member of tarMembers(path, search.signal)) {
      const reason = reasonToRefuse(member);
      if (reason) {
        yield { refused: { name: `${path}: ${member.name}`, reason } };
        continue;
      }
      const name = member.name.replace(/^(\.\/)+/, ""), split = /^((?:.*\/)?[^/.]+)\.([^/]+)$/s.exec(name);
      if (member.kind !== "file" || !split || /^__[^/]*__$/.test(name)) {
        const what = member.kind === "file"
          ? "without a key and an extension"
          : member.kind === "folder"
          ? "folders"
          : "links";
        count(others, what);
        continue;
      }
      const [, key, field] = split as unknown as [string, string, string];
      if (sample?.path !== key) {
        yield* end();
        sample = { path: key, members: [] };
      }
      if (sample.members.some((other) => other.field === field)) {
        yield {
          refused: { name: `${path}: ${member.name}`, reason: "expected one member of this name, found a second one" },
        };
      } else sample.members.push({ field, member });
    }
    yield* end();
  } catch (error) {
    if (!(error instanceof TokenizerError) || error.code === "CANCELLED") throw error;
    // The archive broke off, so the last sample may lack members.
    const rest = sample ? `; ${sample.path}, the last sample, may not be whole and is left out` : "";
    yield { refused: { name: path, reason: messageOf(error) + rest } };
  }
  if (others.size > 0) search.note(`${path}: left out ${tellCounts(others)}`);
}

function reasonToRefuse({ isUtf8, name, kind }: TarMember): string | undefined {
  if (!isUtf8) return "expected a name in UTF-8, found other bytes";
  // deno-lint-ignore no-control-regex
  if (/[\0-\x1f\x7f]/.test(name)) return "expected a name without control characters, found some";
  if (kind === "sparse") return "expected a plain file, found a sparse one";
  return undefined;
}

function seenOf(
  path: string,
  { path: key, members }: Sample,
  identity: Awaited<ReturnType<typeof identityOf>>,
  search: Search,
): Seen {
  const wanted = search.kind === "image" ? "picture" : "video", name = `${path}: ${key}`;
  const extensions = readExtensions[wanted].filter((extension) => extension !== ".svg" || search.svg);
  const fits = ({ field }: { field: string }) =>
    search.member === undefined ? extensions.includes(extname(`x.${field}`).toLowerCase()) : field === search.member;
  // The item is the first member without a prefix, else the first that fits: "jpg" before "seg.png", whatever their
  // order.
  const item = members.find((one) => fits(one) && !one.field.includes(".")) ?? members.find(fits);
  if (!item) {
    const fields = members.map(({ field }) => field).join(", ");
    const what = search.member === undefined ? `a ${wanted}` : `a member ${search.member}`;
    return { refused: { name, reason: `expected ${what} among its members, found ${fields}` } };
  }
  if (item.member.bytes === 0) {
    return {
      refused: {
        name: `${path}: ${item.member.name}`,
        reason: "expected a member with something in it, found 0 bytes",
      },
    };
  }
  const placeOf = ({ offset, bytes, name }: TarMember) => ({ kind: "tar", path, offset, bytes, member: name }) as const;
  const sidecars = members.filter((one) => one !== item).map(({ field, member }) => ({
    field,
    place: placeOf(member),
    identity,
  }));
  const stem = basename(path).replace(/\.tar$/i, "");
  const keys = [keyOf(key), keyOf(`${stem}/${key}`)];
  return {
    candidate: {
      name: `${name}, byte ${item.member.offset}`,
      keys,
      kind: search.kind,
      place: placeOf(item.member),
      identity,
      sidecars,
    },
  };
}
