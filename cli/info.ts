/** ctok info: what a model is; without one, the models that there are. */
import { embeddedModels, type ModelInfo, publicModels } from "../mod.ts";
import { type Command, usage } from "./args.ts";
import { downloadsTo } from "./pull.ts";
import { openModel } from "./run.ts";

export const infoCommand: Command = {
  name: "info",
  usage: "[M]",
  about: "what a model is; without M, the embedded and the public models and their licences",
  accepts: [],

  async run(args, report, signal) {
    const [model, ...more] = args.inputs;
    if (more.length > 0) throw usage(`expected at most one model, found ${args.inputs.length}`);
    if (model === undefined) {
      for (const m of embeddedModels) {
        report.result({ ...m, isEmbedded: true }, row(m.name, kindOf(m.name), "embedded", m.licence));
      }
      for (const m of publicModels) {
        const kind = `${m.kind} ${m.temporalFactor > 1 ? "video" : "image"}`;
        report.result({ ...m, isEmbedded: false }, row(m.name, kind, m.repository, m.licence));
      }
      return;
    }
    await using tokenizer = await openModel(model, args, { signal, ...downloadsTo(report) });
    report.result(tokenizer.info, ...table(tokenizer.info));
  },
};

/** The names of the embedded models tell: C or D, then I or V. */
function kindOf(name: string): string {
  const [, codes, pixels] = /([CD])([IV])\d/.exec(name)!;
  return `${codes === "D" ? "discrete" : "continuous"} ${pixels === "V" ? "video" : "image"}`;
}

function row(name: string, kind: string, ...rest: string[]): string {
  return [name.padEnd(14), kind.padEnd(16), ...rest.map((text) => text.padEnd(36))].join(" ").trimEnd();
}

function table(info: ModelInfo): string[] {
  const { nonFinite, facts } = info;
  const first = nonFinite.first ? `, first in ${nonFinite.first}` : "";
  const computes = `${info.precision} on ${info.deviceName ? `${info.device} (${info.deviceName})` : info.device}`;
  const rows: [string, string | undefined][] = [
    ["name", info.name],
    ["family", `${info.family}, ${info.isVideo ? "video" : "image"}`],
    ["source", info.source],
    ...facts.map(({ name, value, from }): [string, string] => [name, from ? `${value} (from ${from})` : value]),
    ["codes", info.isDiscrete ? String(info.codebookSize) : undefined],
    ["latent channels", String(info.latentChannels)],
    ["halves", info.halves.join(", ")],
    ["parameters", info.parameters.toLocaleString("en")],
    ["weights", `${info.storedDtype} in the file, ${(info.weightBytes / 1e6).toFixed(1)} MB in memory`],
    ["sha256", info.sha256],
    ["not finite", nonFinite.weights ? `${nonFinite.weights} weights in ${nonFinite.tensors} tensors${first}` : "none"],
    ["computes", `${computes}, ${info.kernels} kernels${info.threads ? `, ${info.threads} threads` : ""}`],
  ];
  return rows.filter(([, value]) => value !== undefined).map(([key, value]) => `${key.padEnd(22)} ${value}`);
}
