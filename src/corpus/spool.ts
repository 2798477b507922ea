/**
 * Videos as files, which is what FFmpeg reads: a file is one; an object, a member of a tar or a cell is put into a
 * temporary one, for as long as somebody works with it. Called by prepare.ts and, for how many frames there are, by
 * sources/clips.ts.
 */
import { appendFile, mkdtemp, rm, writeFile } from "node:fs/promises";
import { tmpdir } from "node:os";
import { basename, join } from "node:path";
import { messageOf, TokenizerError } from "../errors.ts";
import type { Identity, Place } from "./item.ts";
import { nameOfPlace, type Places } from "./places.ts";
import { isS3 } from "./s3/address.ts";

export interface Spooled extends AsyncDisposable {
  readonly path: string;
  /** Runs `work` on the file. Its errors name the item's place and not the temporary file, which nobody knows. */
  named<T>(work: () => Promise<T>): Promise<T>;
}

/**
 * The file of a place, after a look whether it is the one that was planned. Throws as Places do, and FFMPEG where the
 * temporary folder takes no file, which is no fault of the place.
 */
export async function spool(place: Place, identity: Identity, places: Places, signal?: AbortSignal): Promise<Spooled> {
  if (place.kind === "file" && !isS3(place.path)) {
    await places.check(place, identity, signal);
    return { path: place.path, named: (work) => work(), [Symbol.asyncDispose]: () => Promise.resolve() };
  }
  const name = nameOfPlace(place),
    whole = place.kind === "file" ? undefined : await places.read(place, identity, signal);
  let folder: string | undefined;
  const remove = async () => {
    if (folder !== undefined) await rm(folder, { recursive: true, force: true });
  };
  try {
    folder = await mkdtemp(join(tmpdir(), "ctok-"));
    // The extension stays: FFmpeg knows motion JPEG and raw streams by nothing else.
    const path = join(
      folder,
      place.kind === "tar" ? basename(place.member) : place.kind === "file" ? basename(place.path) : "video",
    );
    if (whole) await writeFile(path, whole);
    else {for await (const chunk of places.chunks(place as Place & { kind: "file" }, identity, signal)) {
        await appendFile(path, chunk);
      }}
    return {
      path,
      named: (work) => work().catch((error) => Promise.reject(renamed(error, path, name))),
      [Symbol.asyncDispose]: remove,
    };
  } catch (cause) {
    await remove();
    if (cause instanceof TokenizerError) throw cause; // of the place
    const message = `${name}: expected ${tmpdir()} to take ${whole?.length ?? identity.bytes} bytes for FFmpeg, found ${
      messageOf(cause)
    }`;
    throw new TokenizerError("FFMPEG", message, { cause });
  }
}

function renamed(error: unknown, path: string, name: string): unknown {
  if (!(error instanceof TokenizerError) || !error.message.includes(path)) return error;
  const { code, detail, message, cause } = error;
  return new TokenizerError(code, message.replaceAll(path, () => name), {
    ...(detail !== undefined && { detail }),
    cause,
  });
}
