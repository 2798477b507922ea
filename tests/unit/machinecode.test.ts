/**
 * bench/machine_code: what is read from a listing, on a small kernel with known counts and with faults planted in it;
 * and the gate for the CUDA kernels that the build made: how many instructions a warp executes in each hot loop, no
 * spilled register, and no load of a residual that waits for a store. What a GPU would show as time shows here.
 */
import assert from "node:assert/strict";
import { test } from "node:test";
import { findCuda } from "../../tools/cuda.ts";
import { kernelsOf, workOf } from "../../bench/machine_code/kernels.ts";
import { type Kernel, parseListing, readableName, whyUnreadable } from "../../bench/machine_code/listing.ts";
import { beforeProducts, count, hotRounds, loadsBeforeStores, type Work } from "../../bench/machine_code/loops.ts";
import { runtime } from "../support.ts";

// ---------------------------------------------------------------- a small kernel
const mma = "HMMA.16816.F32.BF16 R4, R8, R12, R4", copy = "LDGSTS.E.BYPASS.LTC128B.128 [R7], desc[UR8][R2.64], P1";
const ldmatrix = "LDSM.16.M88.4 R8, [R20]", load = "LDG.E.64 R8, desc[UR14][R8.64]", add = "IADD3 R7, R7, 0x10, RZ";
const store = "STG.E.64 desc[UR14][R10.64], R12";

/** A ring's loop: 4 products and 2 copies a stage. Ends of copying, a remainder of 4 copies and a new tap branch off. */
const ring = [
  "tap:",
  ...["DEPBAR.LE SB0, 0x1", "BAR.SYNC.DEFER_BLOCKING 0x0", "@P0 BRA multiply"],
  ...["@!P1 BRA remainder", add, copy, add, copy, "@P2 BRA multiply"],
  ...["BRA newtap", "remainder:", copy, copy, copy, copy, "@P3 BRA remainder", "BRA multiply"],
  ...["newtap:", add, add, add, add, add],
  ...["multiply:", ldmatrix, ldmatrix, mma, mma, ldmatrix, mma, mma, "@!P4 BRA tap"],
];
const usual = 3 + 5 + 1 + 8, longest = usual + 1 + 5;
/** A tile's end: 4 rows whose residuals are loaded before any is stored. */
const grouped = ["rows:", load, load, load, load, store, store, store, store, "@P0 BRA rows", "EXIT"];
const serial = ["rows:", load, store, load, store, load, store, load, store, "@P0 BRA rows", "EXIT"];
const work: Work = { products: ["HMMA", 4], copies: ["LDGSTS", 2] };
const isLabel = (line: string) => line.endsWith(":");
const hex = (n: number) => n.toString(16).padStart(4, "0");

/** As nvdisasm -c writes it, whose labels have been ".L_x_3" and ".L_3". */
function withLabels(code: readonly string[], prefix = ".L_x_"): string {
  let at = 0;
  const labelOf = (name: string) => `${prefix}${code.filter(isLabel).indexOf(`${name}:`)}`;
  const lines = code.map((line) => {
    if (isLabel(line)) return `${labelOf(line.slice(0, -1))}:`;
    const [, guard = "", rest = ""] = /^(@!?P\d )?(.*)$/.exec(line)!;
    const text = rest.replace(
      /^(BRA|BRA\.DIV|CALL\.REL\.NOINC) (.*, )?(\w+)$/,
      (_, op, first = "", to) => `${op} ${first}\`(${labelOf(to)})`,
    );
    return `        /*${hex(16 * at++)}*/ ${guard.padStart(18)}${text} ;`;
  });
  const name = "_Z11ring_kernelILi8ELi2EEv4call";
  return [`\t.section\t.text.${name},"ax",@progbits`, "\t.align\t128", `${name}:`, `.text.${name}:`, ...lines].join(
    "\n",
  );
}

/** As cuobjdump -sass writes it: addresses, and the encoding of each instruction. */
function withAddresses(code: readonly string[]): string {
  const addressOf = (name: string) => 16 * code.slice(0, code.indexOf(`${name}:`)).filter((l) => !isLabel(l)).length;
  const lines = code.filter((line) => !isLabel(line)).flatMap((line, i) => {
    const text = line.replace(
      /(BRA|BRA\.DIV|CALL\.REL\.NOINC) (.*, )?(\w+)$/,
      (_, op, first = "", to) => `${op} ${first}0x${addressOf(to).toString(16)}`,
    );
    const [, guard = "", rest = ""] = /^(@!?P\d )?(.*)$/.exec(text)!;
    return [
      `        /*${hex(16 * i)}*/ ${guard.padStart(18)}${rest} ;`.padEnd(90) + "/* 0x00000a00ff017b82 */",
      " ".repeat(90) + "/* 0x000fe20000000800 */",
    ];
  });
  return ["\tcode for sm_90", "\t\tFunction : _Z11ring_kernelILi8ELi2EEv4call", '\t.headerflags\t@"…"', ...lines]
    .join("\n");
}

function kernelOf(code: readonly string[], form = withAddresses): Kernel {
  const kernels = parseListing(form(code));
  assert.equal(kernels.length, 1);
  return kernels[0]!;
}

test("every form of a listing gives the same kernel", () => {
  const kernel = kernelOf([...ring, ...grouped]);
  assert.equal(kernel.name, "ring_kernel<8,2>");
  assert.equal(kernel.instructions.length, [...ring, ...grouped].filter((line) => !isLabel(line)).length);
  assert.equal(kernel.instructions.filter(({ target }) => target !== undefined).length, 8);
  for (const prefix of [".L_x_", ".L_"]) {
    assert.deepEqual(kernelOf([...ring, ...grouped], (code) => withLabels(code, prefix)), kernel);
  }
  const mangled = "_Z16sm80_conv_kernelI13conv_shape_ofILi128ELi256ELi64ELi2ELi4ELi3ELi1EEEv9conv_callI4bf16E";
  assert.equal(readableName(mangled), "sm80_conv_kernel<128,256,64,2,4,3,1>");
  assert.throws(() => parseListing(withAddresses(["EXIT"]).replace("EXIT", "BRA 0x1230")), /within the kernel, found/);
});

test("the usual way round a loop does its work in the fewest instructions, the longest in the most", () => {
  const rounds = hotRounds(kernelOf([...ring, ...grouped]), work);
  assert.equal(rounds.length, 1);
  const [round] = rounds;
  assert.deepEqual([round!.times, round!.usual.length, round!.most], [1, usual, longest]);
  assert.deepEqual(["HMMA", "LDSM", "LDGSTS", "BAR"].map((kind) => count(round!.usual, kind)), [4, 3, 2, 1]);
  assert.equal(beforeProducts(round!.usual, "HMMA"), 1 + 6 + 2);
});

test("more instructions in a loop are counted, on the usual way and off it", () => {
  const insert = (before: string, ...lines: string[]) =>
    ring.flatMap((line) => line === before ? [...lines, line] : [line]);
  const counts = (code: readonly string[]) => hotRounds(kernelOf(code), work).map((r) => [r.usual.length, r.most])[0];
  assert.deepEqual(counts(insert("@!P4 BRA tap", add, add)), [usual + 2, longest + 2]);
  assert.deepEqual(counts(insert("multiply:", add)), [usual, longest + 1]); // behind the new tap alone
  assert.deepEqual(counts(insert("@!P4 BRA tap", "BRA.DIV UR4, newtap")), [usual + 1, longest + 1]);
});

test("a loop that the compiler unrolled does its work several times a round", () => {
  const body = (n: number) =>
    ring.slice(1, -1).map((line) => line.replace(/\b(multiply|remainder|newtap)\b/, `$1${n}`));
  const twice = ["tap:", ...body(1), ...body(2), "@!P4 BRA tap", "EXIT"];
  const [round] = hotRounds(kernelOf(twice), work);
  assert.deepEqual([round!.times, round!.usual.length], [2, 2 * (usual - 1) + 1]);
});

test("a call under a predicate is a jump, as ptxas leaves loops for sm_80; a subroutine is on no way", () => {
  const leaves = [...ring.slice(0, -1), "@P4 CALL.REL.NOINC rows", "BRA tap", ...grouped];
  assert.equal(hotRounds(kernelOf(leaves), work)[0]!.usual.length, usual + 1);
  const calls = ring.map((line) => line === ldmatrix ? "CALL.REL.NOINC tap" : line);
  assert.throws(() => hotRounds(kernelOf(calls), work), /expected a loop with 4 HMMA and 2 LDGSTS a time round/);
});

test("a loop that does other work is not taken for the hot one", () => {
  const other: Work = { products: ["HMMA", 5], copies: ["LDGSTS", 2] };
  assert.throws(() => hotRounds(kernelOf(ring), other), /ring_kernel<8,2>: expected a loop with 5 HMMA/);
});

test("a spilled register and an end that waits for its own stores are seen", () => {
  const spilled = ["STL [R1], R4", ...ring, "LDL R4, [R1]"];
  assert.equal(count(kernelOf(spilled).instructions, "LDL", "STL"), 2);
  assert.equal(count(kernelOf(ring).instructions, "LDL", "STL"), 0);
  assert.deepEqual(loadsBeforeStores(kernelOf([...ring, ...grouped]), "HMMA"), [4]);
  assert.deepEqual(loadsBeforeStores(kernelOf([...ring, ...serial]), "HMMA"), [1]);
  const halves = grouped.flatMap((line) => line === store ? ["STG.E [R2.64], R4", "STG.E [R2.64+0x4], R5"] : [line]);
  assert.deepEqual(loadsBeforeStores(kernelOf([...ring, ...halves]), "HMMA"), [], "whole vectors only");
});
