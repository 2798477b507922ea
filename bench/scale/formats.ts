/**
 * How large shards are: `bun bench/scale/formats.ts` (or `deno run -A`) writes 1,000 samples of made-up tokens in each
 * format, as the formats write them, and tells bytes an item, of tokens alone, and files a shard. docs/scale.md has the
 * figures. Run by people.
 */
import { mkdirSync, mkdtempSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { shardFormats } from "mod.ts";
import { dtypesOf, factsOf, kinds, sampleOf, writeShard } from "../../tests/corpus/shards.ts";

const bytesOf = { uint16: 2, int32: 4, bf16: 2, f16: 2, f32: 4 };
const count = 1000, side = { height: 256, width: 256 };
const folder = mkdtempSync(join(tmpdir(), "ctok-formats-"));
try {
  for (const kind of kinds) {
    const isVideo = kind.startsWith("clip");
    const video = isVideo ? { video: { frames: 17, fps: "24", windows: [{ tokens: 3, frames: 17, before: 0 }] } } : {};
    for (const format of shardFormats.values()) {
      for (
        const dtype of dtypesOf(format, kind).filter((dtype) =>
          dtype !== "int32" || format.dtypes.discrete.length === 1
        )
      ) {
        if (format.name === "1x" && !isVideo) continue;
        const facts = { ...factsOf(kind, dtype), numShards: 1 }, out = join(folder, `${kind}-${format.name}-${dtype}`);
        const samples = Array.from({ length: count }, (_, i) => {
          return sampleOf(kind, facts, { key: `000012__${String(i).padStart(9, "0")}`, ...side, ...video, seed: i });
        });
        mkdirSync(out);
        const { files } = await writeShard(out, format, facts, samples, 0);
        const bytes = files.reduce((sum, file) => sum + file.bytes, 0), { shape } = samples[0]!.tokens.main;
        const tokenBytes = shape.reduce((a, b) => a * b) * bytesOf[dtype];
        console.log(
          `${kind} ${JSON.stringify(shape)} ${format.name} ${dtype}: ${(bytes / count).toFixed(0)} bytes an item, ` +
            `${tokenBytes} of them tokens, ${files.length} files`,
        );
        rmSync(out, { recursive: true });
      }
    }
  }
} finally {
  rmSync(folder, { recursive: true, force: true });
}
