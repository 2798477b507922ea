/**
 * ctok models: the models that ctok opens by name, and which of them are on this machine. For people in groups of one
 * publisher's names and licence, so that a row is short; with --json all that is known of each.
 */
import { embeddedModels, findPulled, type PublicModel, publicModels } from "../mod.ts";
import { type Command, usage } from "./args.ts";
import { tellBytes } from "./tell.ts";

export const modelsCommand: Command = {
  name: "models",
  usage: "",
  about: "the models that ctok opens by name: what they are, their licences, and which are on this machine",
  details: "Nobody is asked for it: ctok pull downloads a model, and so does a command that opens one. " +
    "gated: the licence is to be accepted on the model's page first.",
  examples: [
    { line: "ctok models", about: "all of them" },
    { line: "ctok models --json", about: "with the files, the publishers' figures and links" },
  ],
  accepts: [],
  takes: "nothing",

  async run(args, report) {
    if (args.inputs.length > 0) throw usage(`expected no model, found ${args.inputs.length}`);
    if (!args.json) report.result({}, "ctok carries these (Apache-2.0)");
    for (const m of embeddedModels) {
      const [, codes, pixels, factors] = /([CD])([IV])([\dx]+)/.exec(m.name)!; // as all are named
      const kind = `${codes === "D" ? "discrete" : "continuous"} ${pixels === "V" ? "video" : "image"}`;
      report.result({ ...m, isEmbedded: true, isHere: true }, row(m.name, kind, factors!, "", "here"));
    }
    let group = "";
    for (const m of publicModels) {
      const found = await findPulled(m.name), its = groupOf(m);
      if (!args.json && its !== group) report.result({}, "", its);
      group = its;
      const facts = { ...m, isEmbedded: false, isHere: found !== undefined, path: found?.path };
      report.result(facts, row(m.name, kindOf(m), factorsOf(m), sizeOf(m), found ? "here" : m.isGated ? "gated" : ""));
    }
  },
};

/** Where the models lie, by the name that stands for all of the group, and under which licence. */
function groupOf({ repository, name, licence }: PublicModel): string {
  return `${repository.replace(name.replace(/^[\d.]+-/, ""), "…")} (${licence})`;
}

function kindOf({ kind, temporalFactor }: PublicModel): string {
  return `${kind} ${temporalFactor > 1 ? "video" : "image"}`;
}

function factorsOf({ temporalFactor, spatialFactor }: PublicModel): string {
  return `${temporalFactor > 1 ? `${temporalFactor}x` : ""}${spatialFactor}x${spatialFactor}`;
}

function sizeOf({ bytes }: PublicModel): string {
  return bytes === undefined ? "" : tellBytes(bytes);
}

const widths = [15, 16, 7, 7];

function row(...cells: string[]): string {
  return `  ${cells.map((cell, i) => cell.padEnd(widths[i] ?? 0)).join(" ")}`.trimEnd();
}
