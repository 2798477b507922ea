/**
 * ctok completions: a script for a shell that completes commands, options, their choices, models and files, made from
 * the tables of commands and options, so that it never lags behind them. What the scripts do they do by themselves:
 * ctok is not run for a Tab.
 */
import { embeddedModels, publicModels } from "../mod.ts";
import { type Command, usage } from "./args.ts";
import { globalOptions, type Option, type OptionName, options } from "./options.ts";

const shells = ["bash", "zsh", "fish"] as const;

export function completionsCommand(commands: () => readonly Command[]): Command {
  const makers = { bash: bashScript, zsh: zshScript, fish: fishScript };
  return {
    name: "completions",
    usage: "bash|zsh|fish",
    about: "print a script that completes what is typed after ctok",
    details:
      'For bash put `eval "$(ctok completions bash)"` into ~/.bashrc; for zsh `eval "$(ctok completions zsh)"` into ' +
      "~/.zshrc, after compinit; for fish save it as ~/.config/fish/completions/ctok.fish.",
    examples: [
      { line: "ctok completions bash > ctok.bash", about: "to be sourced by ~/.bashrc" },
      { line: "ctok completions fish > ctok.fish", about: "for ~/.config/fish/completions/" },
    ],
    accepts: [],
    takes: shells,
    run({ inputs: [name, ...more] }, report) {
      const shell = shells.find((s) => s === name);
      if (!shell || more.length > 0) {
        throw usage(`expected one of ${shells.join(", ")}, found ${[name, ...more].join(" ") || "none"}`);
      }
      report.print(makers[shell](commands()));
      return Promise.resolve();
    },
  };
}

const optionOf = (name: string): Option => options[name as OptionName];
const optionNames = Object.keys(options) as OptionName[];
const namesOf = ({ accepts }: Command) => optionNames.filter((name) => [...accepts, ...globalOptions].includes(name));
const models = [...embeddedModels, ...publicModels].map(({ name }) => name);
const wordsOf = ({ takes }: Command) =>
  takes === "models" ? models : Array.isArray(takes) ? takes as readonly string[] : [];
const takesFiles = ({ takes = "files" }: Command) => takes === "files" || takes === "models";
/** As it is typed: "--out", and "-o" where there is a short one. */
const flagsOf = (name: OptionName) => [`--${name}`, ...optionOf(name).short ? [`-${optionOf(name).short}`] : []];

/** What a value may be: words to offer, and whether files are. */
function valuesOf(name: OptionName): { readonly words: readonly string[]; readonly isFile: boolean } {
  const { choices = [], completes } = optionOf(name);
  return { words: completes === "models" ? models : choices, isFile: completes !== undefined };
}

// ---------------------------------------------------------------- bash
/** Note: bash cuts words at "=", so that --format=np are three. */
function bashScript(commands: readonly Command[]): string {
  const valued = optionNames.filter((name) => optionOf(name).value);
  const isOffered = (name: OptionName) => valuesOf(name).words.length > 0 || valuesOf(name).isFile;
  const values = valued.filter(isOffered).map((name) => {
    const { words, isFile } = valuesOf(name);
    return `  ${flagsOf(name).join("|")}) _ctok_offer "${words.join(" ")}" ${isFile ? "files" : ""}; return ;;`;
  });
  const others = valued.filter((name) => !isOffered(name)).flatMap(flagsOf);
  const ofCommands = commands.map((command) => {
    const flags = namesOf(command).flatMap(flagsOf).join(" ");
    return `    ${command.name}) flags="${flags}" words="${wordsOf(command).join(" ")}" files=${
      takesFiles(command) ? "files" : ""
    } ;;`;
  });
  return `# bash completion of ctok. To have it: eval "$(ctok completions bash)"
_ctok_offer() { # words, and "files" where those are offered, too
  mapfile -t COMPREPLY < <(compgen -W "$1" -- "$cur"; [[ $2 == files ]] && compgen -f -- "$cur")
  [[ $2 == files ]] && compopt -o filenames 2>/dev/null
}
_ctok() {
  local cur=\${COMP_WORDS[COMP_CWORD]} prev=\${COMP_WORDS[COMP_CWORD-1]} command= flags words files= i
  COMPREPLY=()
  if [[ $cur == "=" ]]; then cur=; elif [[ $prev == "=" ]]; then prev=\${COMP_WORDS[COMP_CWORD-2]}; fi
  for ((i = 1; i < COMP_CWORD; i++)); do
    case \${COMP_WORDS[i]} in
    ${valued.flatMap(flagsOf).join("|")}) [[ \${COMP_WORDS[i+1]} == "=" ]] && ((i++)); ((i++)) ;;
    -*) ;;
    *) command=\${COMP_WORDS[i]}; break ;;
    esac
  done
  case $prev in
${values.join("\n")}
  ${others.join("|")}) return ;;
  esac
  case $command in
    "") flags="${globalOptions.flatMap(flagsOf).join(" ")}" words="${commands.map(({ name }) => name).join(" ")}" ;;
${ofCommands.join("\n")}
  esac
  if [[ $cur == -* ]]; then _ctok_offer "$flags"; else _ctok_offer "$words" $files; fi
}
complete -F _ctok ctok
`;
}

// ---------------------------------------------------------------- zsh
/** In single quotes, with what _arguments and _describe read as their own escaped. */
const zshText = (text: string) => text.replace(/[\\[\]:]/g, "\\$&").replaceAll("'", "'\\''");

function zshAction(words: readonly string[], isFile: boolean): string {
  const offered = words.length > 0 ? `compadd -- ${words.join(" ")}` : "";
  if (!isFile) return offered ? `{${offered}}` : " ";
  return offered ? `{${offered}; _files}` : "_files";
}

function zshScript(commands: readonly Command[]): string {
  const spec = (name: OptionName) => {
    const { about, value } = optionOf(name), flags = flagsOf(name), { words, isFile } = valuesOf(name);
    const given = flags.length > 1
      ? `'(${flags.join(" ")})'{${flags.map((f) => value && f.startsWith("--") ? `${f}=` : f).join(",")}}`
      : `'${flags[0]}${value ? "=" : ""}`;
    const quote = flags.length > 1 ? "'" : "";
    return `${given}${quote}[${zshText(about)}]${value ? `:${zshText(value)}:${zshAction(words, isFile)}` : ""}'`;
  };
  const cases = commands.map((command) => {
    const rest = takesFiles(command) || wordsOf(command).length > 0
      ? [`'*:argument:${zshAction(wordsOf(command), takesFiles(command))}'`]
      : [];
    return `    ${command.name}) _arguments -s ${[...namesOf(command).map(spec), ...rest].join(" \\\n      ")} ;;`;
  });
  return `#compdef ctok
# zsh completion of ctok. To have it: eval "$(ctok completions zsh)" after compinit, or save it as _ctok \
in a folder of $fpath
_ctok() {
  local curcontext=$curcontext state line
  local -a commands=(
${commands.map(({ name, about }) => `    '${name}:${zshText(about)}'`).join("\n")}
  )
  _arguments -C -s ${globalOptions.map(spec).join(" \\\n    ")} \\
    '1:command:->command' '*::argument:->arguments'
  case $state in
  command) _describe command commands ;;
  arguments)
    case $words[1] in
${cases.join("\n")}
    esac ;;
  esac
}
if [[ $funcstack[1] == _ctok ]]; then _ctok "$@"; else compdef _ctok ctok; fi
`;
}

// ---------------------------------------------------------------- fish
const fishText = (text: string) => `'${text.replace(/[\\']/g, "\\$&")}'`;

function fishScript(commands: readonly Command[]): string {
  const none = "__fish_use_subcommand";
  const option = (name: OptionName, condition: string) => {
    const { short, value, about } = optionOf(name), { words, isFile } = valuesOf(name);
    const taken = value === undefined ? "" : isFile ? " -r -F" : " -x";
    const offered = words.length > 0 ? ` -a ${fishText(words.join(" "))}` : "";
    return `complete -c ctok -n ${fishText(condition)} -l ${name}${short ? ` -s ${short}` : ""}${taken}${offered} -d ${
      fishText(about)
    }`;
  };
  const lines = commands.flatMap((command) => {
    const { name, about } = command, within = `__fish_seen_subcommand_from ${name}`, words = wordsOf(command);
    return [
      `complete -c ctok -n ${none} -f -a ${name} -d ${fishText(about)}`,
      ...takesFiles(command) ? [] : [`complete -c ctok -n ${fishText(within)} -f`],
      ...words.length > 0 ? [`complete -c ctok -n ${fishText(within)} -a ${fishText(words.join(" "))}`] : [],
      ...namesOf(command).map((option_) => option(option_, within)),
    ];
  });
  return `# fish completion of ctok. To have it: ctok completions fish > ~/.config/fish/completions/ctok.fish
${globalOptions.map((name) => option(name, none)).join("\n")}
${lines.join("\n")}
`;
}
