/**
 * Counts what a warp executes in one time round the hot loops of the CUDA kernels, as a table in Markdown. Reads the
 * objects that the build left; needs cuobjdump and nvdisasm, no GPU.
 *
 *     bun bench/machine_code/report.ts       (after npm run build, where there is nvcc)
 *
 * "usual" is the shortest way that does the loop's work, "most" the longest (loops.ts); of the usual one follow the
 * instructions by kind, "before" being those from a barrier to the first product, the longest such run.
 */
import { files, kernelsOf, workOf } from "./kernels.ts";
import { whyUnreadable } from "./listing.ts";
import { beforeProducts, count, hotRounds, loadsBeforeStores } from "./loops.ts";

const kinds = ["HMMA", "FFMA", "LDSM", "LDGSTS", "LDG", "LDS", "STS", "FMUL", "MUFU", "BAR"];

if (import.meta.main) {
  const why = whyUnreadable();
  if (why) throw new Error(why);
  console.log(`| kernel | for | usual | most | ${kinds.join(" | ")} | before | spills | loads before stores |`);
  console.log(`| --- | --- |${" --- |".repeat(kinds.length + 5)}`);
  for (const architecture of ["sm_80", "sm_90"]) {
    for (const kernel of files.flatMap((file) => kernelsOf(file, architecture))) {
      const work = workOf(kernel);
      if (!work) continue;
      const product = work.products[0], stores = loadsBeforeStores(kernel, product);
      for (const { usual, most, times } of hotRounds(kernel, work)) {
        const cells = [
          ...[usual.length, most].map((n) => n / times),
          ...kinds.map((kind) => count(usual, kind) / times),
          beforeProducts(usual, product),
          count(kernel.instructions, "LDL", "STL"),
          stores.length > 0 ? Math.min(...stores) : "-",
        ];
        console.log(`| ${kernel.name} | ${architecture} | ${cells.join(" | ")} |`);
      }
    }
  }
}
