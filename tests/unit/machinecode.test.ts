/**
 * bench/machine_code: what is read from a listing, on a small kernel with known counts and with faults planted in it;
 * and the gate for the CUDA kernels that the build made: how many instructions a warp executes in each hot loop, no
 * spilled register, and no load of a residual that waits for a store. What a GPU would show as time shows here.
 */
import assert from "node:assert/strict";
import { test } from "node:test";
import { findCuda } from "../../tools/cuda.ts";
import { gpus, predict, totalMs } from "../../bench/gpu_model.ts";
import { kernelsOf, workOf } from "../../bench/machine_code/kernels.ts";
import { type Kernel, parseListing, readableName, whyUnreadable } from "../../bench/machine_code/listing.ts";
import { beforeProducts, count, hotRounds, loadsBeforeStores, type Work } from "../../bench/machine_code/loops.ts";
import { root, runtime } from "../support.ts";

// ---------------------------------------------------------------- a small kernel
const mma = "HMMA.16816.F32.BF16 R4, R8, R12, R4", copy = "LDGSTS.E.BYPASS.LTC128B.128 [R7], desc[UR8][R2.64], P1";
const ldmatrix = "LDSM.16.M88.4 R8, [R20]", load = "LDG.E.64 R8, desc[UR14][R8.64]", add = "IADD3 R7, R7, 0x10, RZ";
const store = "STG.E.64 desc[UR14][R10.64], R12";

/** A ring's loop: 4 products and 2 copies a stage. The end of copying, a remainder and a new tap branch off. */
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

// ---------------------------------------------------------------- the gate
const cuda = findCuda(), unreadable = typeof cuda === "string" ? cuda : whyUnreadable();
const once = { skip: runtime === "bun" ? unreadable ?? false : "runs once, beside Bun's tests" };

/**
 * The most instructions that a warp executes in one time round a hot loop, for sm_80 and for sm_90: what nvcc 13.0
 * makes of it, and 4 % more for another version. Of 8 warps on the 4 schedulers of an SM each instruction takes 2
 * clocks, as long as an A100 has for one product of a warp: what stands beside the products may keep them waiting.
 */
const bounds: readonly [kernel: string, sm80: number, sm90: number][] = [
  ["sm80_conv_kernel<64,64,32,2,2,4,4>", 76, 78], // 16 HMMA
  ["sm80_conv_kernel<128,64,32,2,2,4,3>", 103, 106], // 32 HMMA
  ["sm80_conv_kernel<128,128,32,2,2,4,2>", 147, 151], // 64 HMMA
  ["sm80_conv_kernel<128,256,64,2,4,3,1>", 276, 269], // 128 HMMA
  ["sm80_attention_kernel<8,1,3>", 1054, 1082], // 256 HMMA
  ["sm80_attention_kernel<8,2,4>", 711, 717], // 256 HMMA
  ["sm80_attention_kernel<4,1,3>", 629, 610], // 128 HMMA
  ["sm80_attention_kernel<4,2,4>", 458, 446], // 128 HMMA
  ["sm80_attention_kernel<2,1,3>", 474, 457], // 64 HMMA
  ["sm80_attention_kernel<2,2,4>", 321, 315], // 64 HMMA
  ["sm80_attention_kernel<1,1,3>", 345, 336], // 32 HMMA
  ["sm80_attention_kernel<1,2,4>", 269, 266], // 32 HMMA
  ["smxx_conv_kernel", 428, 436], // 256 FFMA
];

/** Milliseconds of bench/gpu_model.ts, which bench/results/gpu-model.md explains, and 2 % more. Nothing is measured. */
const predicted: Record<string, number> = { H100: 13.5, A100: 27.1 };

for (const [column, architecture] of [[1, "sm_80"], [2, "sm_90"]] as const) {
  test(`machine code for ${architecture}: instructions a round, no spills, residuals read before stores`, once, () => {
    const kernels = ["sm80_conv", "sm80_attention", "smxx_conv"].flatMap((file) => kernelsOf(file, architecture));
    const withLoops = kernels.filter((kernel) => workOf(kernel));
    assert.deepEqual(withLoops.map(({ name }) => name).sort(), bounds.map(([name]) => name).sort(), "each has a bound");
    const wrong: string[] = [];
    for (const kernel of withLoops) {
      const most = bounds.find(([name]) => name === kernel.name)![column], work = workOf(kernel)!;
      for (const { usual, times } of hotRounds(kernel, work)) {
        const found = usual.length / times;
        if (!(found <= most)) {
          wrong.push(`${kernel.name}: expected at most ${most} instructions a round, found ${found}`);
        }
      }
      const spills = count(kernel.instructions, "LDL", "STL");
      if (spills !== 0) wrong.push(`${kernel.name}: expected no spilled register, found ${spills} LDL and STL`);
      if (!kernel.name.startsWith("sm80_conv")) continue;
      // bf16's rows and float32's; each of a run of 4 rows has its residual loaded before the first is stored
      const loads = loadsBeforeStores(kernel, "HMMA");
      if (loads.length === 0 || !loads.every((n) => n >= 4)) {
        wrong.push(
          `${kernel.name}: expected 4 loads of the residual before a store, found ${loads.join(" and ") || 0}`,
        );
      }
    }
    assert.deepEqual(wrong, []);
  });
}

test("the time that the model predicts of DI8x8 at 1024 x 1024, from this machine code", once, () => {
  for (const gpu of gpus) {
    const found = predict(gpu, "DI8x8", ["1024", "1024"], root), most = predicted[gpu.name]!;
    assert.ok(totalMs(found) <= most, `${gpu.name}: expected at most ${most} ms, found ${totalMs(found)}`);
    const isComplete = Object.values(found.ms).every((ms) => ms > 0) && found.tera.attention! > 1;
    assert.ok(isComplete, JSON.stringify(found));
  }
});
