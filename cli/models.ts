/** ctok models: the models that ctok opens by name, and which of them are on this machine. */
import { embeddedModels, findPulled, type PublicModel, publicModels } from "../mod.ts";
import { type Command, usage } from "./args.ts";

export const modelsCommand: Command = {
  name: "models",
  usage: "",
  about: "the models that ctok opens by name: what they are, their licences, and which are on this machine",
  accepts: [],

  async run(args, report) {
    if (args.inputs.length > 0) throw usage(`expected no model, found ${args.inputs.length}`);
    if (!args.json) report.result({}, row("name", "kind", "factors", "size", "here", "licence", "repository"));
    for (const m of embeddedModels) {
      const [, codes, pixels, factors] = /([CD])([IV])([\dx]+)/.exec(m.name)!; // as all are named
      const kind = `${codes === "D" ? "discrete" : "continuous"} ${pixels === "V" ? "video" : "image"}`;
      report.result({ ...m, isEmbedded: true, isHere: true }, row(m.name, kind, factors!, "", "yes", m.licence, "embedded"));
    }
    for (const m of publicModels) {
      const found = await findPulled(m.name);
      const licence = `${m.licence}${m.isGated ? ", gated" : ""}`, here = found ? "yes" : "no";
      report.result(
        { ...m, isEmbedded: false, isHere: found !== undefined, path: found?.path },
        row(m.name, kindOf(m), factorsOf(m), sizeOf(m), here, licence, m.repository),
      );
    }
  },
};

function kindOf({ kind, temporalFactor }: PublicModel): string {
  return `${kind} ${temporalFactor > 1 ? "video" : "image"}`;
}

function factorsOf({ temporalFactor, spatialFactor }: PublicModel): string {
  return `${temporalFactor > 1 ? `${temporalFactor}x` : ""}${spatialFactor}x${spatialFactor}`;
}

function sizeOf({ bytes }: PublicModel): string {
  return bytes === undefined ? "" : `${Math.round(bytes / 1e6)} MB`;
}

const widths = [15, 16, 7, 6, 4, 32];

function row(...cells: string[]): string {
  return cells.map((cell, i) => cell.padEnd(widths[i] ?? 0)).join(" ").trimEnd();
}
