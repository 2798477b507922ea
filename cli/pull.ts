/** ctok pull: models of the hub into this machine's cache, so that they open without a network. */
import { type DownloadProgress, pullModel } from "../mod.ts";
import { type Command, usage } from "./args.ts";
import type { Bar } from "./progress.ts";
import type { Report } from "./report.ts";
import { modelFailure, secondsSince } from "./run.ts";
import { tellBytes } from "./tell.ts";

export const pullCommand: Command = {
  name: "pull",
  usage: "MODEL…",
  about: "download models of the Hugging Face hub, into the cache that Python has too",
  details:
    "MODEL is a public model's name (ctok models), or owner/name of any repository, with @REVISION for a branch, tag " +
    "or commit. What is here already is checked. HF_TOKEN, HF_HOME, HF_HUB_CACHE, HF_ENDPOINT and HF_HUB_OFFLINE " +
    "mean what they mean to Python.",
  examples: [
    { line: "ctok pull CI8x8", about: "by its short name" },
    { line: "ctok pull nvidia/Cosmos-0.1-Tokenizer-CI8x8@main", about: "a repository, at a revision" },
  ],
  accepts: [],
  takes: "models",

  async run(args, report, signal) {
    if (args.inputs.length === 0) throw usage("expected at least one model, found none");
    for (const model of args.inputs) {
      const start = performance.now();
      try {
        const pulled = await pullModel(model, { signal, ...downloadsTo(report) });
        const { path, files, fetchedBytes, ...facts } = pulled,
          bytes = files.reduce((sum, file) => sum + file.bytes, 0);
        const looked = facts.isVerified ? "checked" : "not checked: the hub was not asked or did not answer";
        const did = fetchedBytes === 0
          ? `was here already, ${looked}`
          : `fetched ${tellBytes(fetchedBytes)} of ${tellBytes(bytes)}`;
        report.result(
          { model, ok: true, path, ...facts, files, bytes, fetchedBytes, seconds: secondsSince(start) },
          `${model} -> ${path}: ${did}, ${secondsSince(start)} s`,
        );
      } catch (error) {
        if (signal.aborted) throw error;
        report.failure(modelFailure(error, args), { file: model, path: model, out: "", target: "" });
      }
    }
  },
};

/** The option of open and pullModel that shows a bar while bytes come; nothing where nobody watches. */
export function downloadsTo(report: Report): { onDownload: (progress: DownloadProgress) => void } {
  let bar: Bar | undefined;
  return {
    onDownload: ({ repository, file, bytes, totalBytes }) => {
      bar ??= report.progress({ unit: "bytes", total: totalBytes });
      if (bytes < totalBytes) return bar?.update(bytes, `${repository}/${file}`);
      bar?.clear();
      bar = undefined;
    },
  };
}
