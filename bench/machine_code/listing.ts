/**
 * The machine code of CUDA kernels as text, and that text as instructions. Reads what cuobjdump -sass writes (branches
 * name an address) and what nvdisasm -c writes (branches name a label, in several spellings). Left out: what an
 * instruction computes; only its opcode, its predicate and where it branches to are kept. Called by loops.ts,
 * tests/unit/machinecode.test.ts and bench/gpu_model.ts.
 */
import { spawnSync } from "node:child_process";
import process from "node:process";

export interface Instruction {
  readonly address: number;
  readonly opcode: string; // "HMMA.16816.F32.BF16"
  readonly isPredicated: boolean;
  readonly target?: number; // of a branch within the kernel: an index into its instructions
}

export interface Kernel {
  readonly name: string; // "sm80_conv_kernel<128,256,64,2,4,3,1>"
  readonly instructions: readonly Instruction[];
}

const programs = ["cuobjdump", "nvdisasm"];

/** Why machine code cannot be read here; undefined where it can. */
export function whyUnreadable(): string | undefined {
  const missing = programs.filter((program) => spawnSync(program, ["--version"]).status !== 0);
  if (missing.length === 0) return undefined;
  return `no ${missing.join(" and no ")} on the PATH (of the CUDA toolkit; .ci/run takes Debian's)`;
}

/** The version of the reader: "12.4.127". */
export function readerVersion(): string {
  return /\bV([\d.]+)/.exec(spawnSync("cuobjdump", ["--version"], { encoding: "utf8" }).stdout ?? "")?.[1] ?? "?";
}

/** The listing of an object's or a cubin's code for one architecture: "sm_90". Throws where there is none. */
export function disassemble(object: string, architecture: string): string {
  const { status, stdout, stderr } = spawnSync("cuobjdump", ["-sass", "-arch", architecture, object], {
    encoding: "utf8",
    maxBuffer: 1 << 28,
    env: { ...process.env, LC_ALL: "C" },
  });
  if (status !== 0 || !stdout.includes("/*0000*/")) {
    throw new Error(`cuobjdump: expected code for ${architecture} in ${object}, found ${stderr.trim() || "none"}`);
  }
  return stdout;
}

/** "_Z16sm80_conv_kernelI13conv_shape_ofILi128E…" as "sm80_conv_kernel<128,…>": the numbers of its template. */
export function readableName(mangled: string): string {
  const head = /^_Z(?:N\d+_GLOBAL__N_\w*?)?(\d+)/.exec(mangled);
  if (!head) return mangled;
  const name = mangled.slice(head[0].length, head[0].length + Number(head[1]));
  const rest = mangled.slice(head[0].length + name.length);
  const type = /^I(f|4bf16)/.exec(rest)?.[1], numbers = [...rest.matchAll(/L[ibj](\d+)E/g)].map(([, n]) => n!);
  const parts = [...(type ? [type === "f" ? "float" : "bf16"] : []), ...numbers];
  return parts.length > 0 ? `${name}<${parts.join(",")}>` : name;
}

const functionLine = /^\s*Function\s*:\s*(\S+)|^\s*\.section\s+\.text\.([^\s,]+)/; // cuobjdump's, nvdisasm's
const labelLine = /^\s*([.$\w]+)\s*:\s*$/;
const instructionLine = /^\s*\/\*([0-9a-f]{4,})\*\/\s+(?:(@!?U?P\w+)\s+)?([A-Z][\w.]*)\s*([^;]*);/;
const labelIn = /`\(([.$\w]+)\)\s*$/, addressIn = /\b0x([0-9a-f]+)\s*$/; // the last operand of a branch
/** Note: for sm_80 ptxas leaves some loops by a predicated CALL.REL.NOINC that never returns: a jump. */
const isJump = (opcode: string, isGuarded: boolean) =>
  /^(BRA|BRX|JMP|JMX)\b/.test(opcode) || isGuarded && opcode.startsWith("CALL.REL");

/** The kernels of a listing, in its order. Throws where a branch leads to nowhere. */
export function parseListing(text: string): Kernel[] {
  const kernels: { name: string; lines: RegExpExecArray[]; labels: Map<string, number> }[] = [];
  for (const line of text.split("\n")) {
    const begins = functionLine.exec(line);
    if (begins) kernels.push({ name: begins[1] ?? begins[2]!, lines: [], labels: new Map() });
    const kernel = kernels.at(-1), label = labelLine.exec(line)?.[1], instruction = instructionLine.exec(line);
    if (!kernel) continue;
    if (label) kernel.labels.set(label, kernel.lines.length);
    if (instruction) kernel.lines.push(instruction);
  }
  return kernels.filter(({ lines }) => lines.length > 0).map(({ name, lines, labels }) => {
    const byAddress = new Map(lines.map(([, address], i) => [parseInt(address!, 16), i]));
    const targetOf = (operands: string): number | undefined => {
      const label = labelIn.exec(operands)?.[1], address = addressIn.exec(operands)?.[1];
      return label !== undefined ? labels.get(label) : byAddress.get(parseInt(address ?? "", 16));
    };
    const instructions = lines.map(([line, address, guard, opcode, operands]): Instruction => {
      const isGuarded = guard !== undefined && guard !== "@PT", jumps = isJump(opcode!, isGuarded);
      const target = jumps ? targetOf(operands!.trim()) : undefined;
      if (opcode!.startsWith("BRA") && (target === undefined || target >= lines.length)) {
        throw new Error(`${name}: expected a branch within the kernel, found ${line!.trim()}`);
      }
      return {
        address: parseInt(address!, 16),
        opcode: opcode!,
        // BRA has its condition as an operand too: BRA P1, `(.L_x_1)
        isPredicated: isGuarded || jumps && /^!?U?P\d/.test(operands!),
        ...(target === undefined ? {} : { target }),
      };
    });
    return { name: readableName(name), instructions };
  });
}
