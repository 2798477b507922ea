/** ctok pull: models of the hub into this machine's cache, so that they open without a network. */
import { type DownloadProgress, pullModel } from "../mod.ts";
import { type Command, usage } from "./args.ts";
import type { Report } from "./report.ts";
import { modelFailure, secondsSince } from "./run.ts";

export const pullCommand: Command = {
  name: "pull",
  usage: "MODEL…",
  about:
    "downloads models of the Hugging Face hub: a public model's name (ctok models), or owner/name, with @revision as wanted",
  accepts: [],

  async run(args, report, signal) {
    if (args.inputs.length === 0) throw usage("expected at least one model, found none");
    for (const model of args.inputs) {
      const start = performance.now();
      try {
        const pulled = await pullModel(model, { signal, ...downloadsTo(report) });
        const { path, files, fetchedBytes, ...facts } = pulled, bytes = files.reduce((sum, file) => sum + file.bytes, 0);
        const did = fetchedBytes === 0
          ? "was here already, checked"
          : `fetched ${megabytes(fetchedBytes)} of ${megabytes(bytes)}`;
        report.result(
          { model, ok: true, path, ...facts, files, bytes, fetchedBytes, seconds: secondsSince(start) },
          `${model} -> ${path}: ${did}, ${secondsSince(start)} s`,
        );
      } catch (error) {
        if (signal.aborted) throw error;
        report.failure(modelFailure(error), { file: model, path: model, out: "", target: "" });
      }
    }
  },
};

/** The option of open and pullModel that draws a bar with the rate and the time left; nothing where nobody watches. */
export function downloadsTo(report: Report): { onDownload?: (progress: DownloadProgress) => void } {
  const rate = new Rate();
  return {
    onDownload: ({ repository, file, bytes, totalBytes }) => {
      const note = bytes === totalBytes ? "" : ` ${rate.tell(bytes, totalBytes, performance.now())}`;
      report.progress(`${repository}/${file}`)?.(
        bytes / totalBytes,
        `${megabytes(bytes)} of ${megabytes(totalBytes)}${note}`,
      );
    },
  };
}

/** Bytes a second since the first call: what was here by then counts for nothing. */
export class Rate {
  #start: { readonly bytes: number; readonly ms: number } | undefined;

  /** "12.3 MB/s, 8 s left". */
  tell(bytes: number, totalBytes: number, ms: number): string {
    const start = this.#start ??= { bytes, ms }, perSecond = (bytes - start.bytes) / (ms - start.ms) * 1000;
    if (!(perSecond > 0 && Number.isFinite(perSecond))) return "";
    const seconds = Math.ceil((totalBytes - bytes) / perSecond), minutes = Math.floor(seconds / 60);
    const left = minutes > 0 ? `${minutes} min ${String(seconds % 60).padStart(2, "0")} s` : `${seconds} s`;
    return `${megabytes(perSecond)}/s, ${left} left`;
  }
}

const megabytes = (bytes: number) => `${(bytes / 1e6).toFixed(1)} MB`;
