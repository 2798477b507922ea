/** The commands, in the order in which help lists them. A new one is a file beside this, and its line here. */
import type { Command } from "./args.ts";
import { autoencodeCommand } from "./autoencode.ts";
import { completionsCommand } from "./completions.ts";
import { convertCommand } from "./convert.ts";
import { datasetCommand } from "./dataset.ts";
import { decodeCommand } from "./decode.ts";
import { encodeCommand } from "./encode.ts";
import { helpCommand } from "./help.ts";
import { infoCommand } from "./info.ts";
import { modelsCommand } from "./models.ts";
import { pullCommand } from "./pull.ts";
import { replCommand, runCommand } from "./repl.ts";
import { traceCommand } from "./trace.ts";

export const commands: readonly Command[] = [
  encodeCommand,
  decodeCommand,
  autoencodeCommand,
  datasetCommand,
  infoCommand,
  modelsCommand,
  pullCommand,
  convertCommand,
  traceCommand,
  replCommand,
  runCommand,
  completionsCommand(() => commands),
  helpCommand(() => commands),
];
