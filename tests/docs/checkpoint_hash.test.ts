/** The Python of token_formats.md gives the hash that ctok gives. */
import assert from "node:assert/strict";
import { writeFile } from "node:fs/promises";
import { join } from "node:path";
import { test } from "node:test";
import { convert, Tokenizer } from "mod.ts";
import { carried, root, withFolder } from "../support.ts";
import { noPython, python, runs } from "../workplace.ts";
import { blocksOf, read } from "./documents.ts";

const { text } = blocksOf(read("docs/token_formats.md")).find(({ name }) => name === "checkpoint_sha256.py")!;

test("the hash of a checkpoint in Python is tok.info.sha256", { skip: noPython }, () =>
  withFolder(async (folder) => {
    const script = join(folder, "checkpoint_sha256.py"), converted = join(folder, "converted.safetensors");
    await writeFile(script, text);
    await convert(join(carried, "Cosmos-Tokenizer-CI8x8"), converted);
    for (
      const path of [
        converted,
        ...["DI8x8", "DV4x8x8"].map((name) => join(root, `models/nano/${name}.safetensors`)),
      ]
    ) {
      await using tok = await Tokenizer.open(path);
      assert.equal((await runs(folder, python, [script, path])).stdout.trim(), tok.info.sha256, path);
    }
  }));
