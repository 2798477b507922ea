/**
 * What a warp executes in one time round a kernel's hot loop. A loop is a branch backwards; which way a warp takes
 * through the branches inside is not in the listing, but what it gets done is known from the source: so many products
 * on the tensor cores, and so many copies into the ring. The usual way is the one with the fewest instructions that
 * does exactly this work, with the copies spread over the barriers as evenly as the code allows. The longest way with
 * the same work is what a stage costs at worst: at a new tap, with masked keys, with sums rescaled.
 * Note: loops inside that do none of the products are remainders of unrolled ones, and no way leads through them.
 * Called by kernels.ts, report.ts, bench/gpu_model.ts and tests/unit/machinecode.test.ts.
 */
import type { Instruction, Kernel } from "./listing.ts";

/**
 * What one time round a loop gets done, by the source: products are instructions of this kind, copies of that. Stores
 * to global memory count in bytes, as the compiler may cut them.
 */
export interface Work {
  readonly products: readonly [opcode: string, count: number];
  readonly copies: readonly [opcode: string, count: number];
}

export interface Loop {
  readonly first: number; // indices into the kernel's instructions
  readonly last: number; // the branch backwards
}

/** One time round a loop. */
export interface Round {
  readonly loop: Loop;
  readonly times: number; // the work was done, where the compiler unrolled the loop
  readonly usual: readonly Instruction[]; // in the order of execution
  readonly most: number; // instructions of the longest way
}

/** Whether an opcode is of a kind: "LDG" is LDG.E.128, and not LDGSTS. */
export const isOf = (kind: string) => ({ opcode }: Instruction) => opcode === kind || opcode.startsWith(`${kind}.`);

/** What an instruction adds to the work: 1 of its kind, and of stores the bytes of a thread. */
function amountOf({ opcode }: Instruction): number {
  if (!opcode.startsWith("STG")) return 1;
  const bits = /\.(?:[USF]?)(8|16|64|128)\b/.exec(opcode)?.[1];
  return Number(bits ?? 32) / 8;
}

export const count = (code: readonly Instruction[], ...kinds: string[]): number =>
  code.filter((i) => kinds.some((kind) => isOf(kind)(i))).length;

/** The branches backwards, outermost first. */
export function loopsOf({ instructions }: Kernel): Loop[] {
  return instructions.flatMap(({ target }, last) =>
    target !== undefined && target <= last ? [{ first: target, last }] : []
  )
    .sort((a, b) => (b.last - b.first) - (a.last - a.first));
}

/** Where a warp may go on after an instruction. Subroutines are slow paths: no usual way leads through one. */
function successors({ instructions }: Kernel, i: number): number[] {
  const { opcode, target, isPredicated } = instructions[i]!;
  const next = i + 1 < instructions.length ? [i + 1] : [];
  if (opcode.startsWith("BRA.DIV")) return next; // for warps that are not converged
  if (target !== undefined) return isPredicated ? [...next, target] : [target];
  const ends = /^(EXIT|RET|CALL|BRX|JMP|JMX)\b/.test(opcode);
  return ends && !isPredicated ? [] : next;
}

/** Instructions in a row that only the last one leaves and only the first one enters. */
interface Block {
  readonly first: number;
  readonly last: number;
  readonly next: readonly number[]; // first instructions of blocks
}

function blocksOf(kernel: Kernel): Map<number, Block> {
  const { instructions } = kernel, leaders = new Set([0]);
  instructions.forEach(({ target }, i) => {
    const next = successors(kernel, i);
    if (target !== undefined) leaders.add(target);
    if (next.length !== 1 || next[0] !== i + 1) leaders.add(i + 1);
  });
  const firsts = [...leaders].filter((i) => i < instructions.length).sort((a, b) => a - b);
  return new Map(firsts.map((first, n) => {
    const last = (firsts[n + 1] ?? instructions.length) - 1;
    return [first, { first, last, next: successors(kernel, last) }];
  }));
}

interface Ways {
  readonly least: number;
  readonly most: number;
  readonly then?: string; // the state after this block on the shortest way
  readonly block: Block;
}

/** The ways once round a loop that do `times` the work, with at most `atOnce` copies between two barriers. */
function waysRound(kernel: Kernel, loop: Loop, work: Work, times: number, atOnce: number): Round | undefined {
  const { instructions } = kernel, blocks = blocksOf(kernel);
  const [product, copy] = [isOf(work.products[0]), isOf(work.copies[0])], barrier = isOf("BAR");
  const products = work.products[1] * times, copies = work.copies[1] * times;
  const remainders = loopsOf(kernel).filter(({ first, last }) => !instructions.slice(first, last + 1).some(product));
  const shut = new Set(remainders.map(({ first }) => first));
  const known = new Map<string, Ways | undefined>();

  const walk = (at: number, productsDone: number, copiesDone: number, sinceBarrier: number): Ways | undefined => {
    const state = [at, productsDone, copiesDone, sinceBarrier].join();
    if (known.has(state)) return known.get(state);
    known.set(state, undefined); // a circle without work leads nowhere
    const block = blocks.get(at)!;
    for (let i = block.first; i <= block.last; i++) {
      const instruction = instructions[i]!;
      if (product(instruction)) productsDone += amountOf(instruction);
      if (copy(instruction)) copiesDone++, sinceBarrier++;
      if (sinceBarrier > atOnce || productsDone > products || copiesDone > copies) return undefined;
      if (barrier(instruction)) sinceBarrier = 0;
    }
    const length = block.last - block.first + 1;
    let best: Ways | undefined;
    if (block.last === loop.last) {
      if (productsDone === products && copiesDone === copies) best = { least: length, most: length, block };
    } else {
      for (const next of block.next) {
        if (shut.has(next) || next === loop.first) continue;
        const rest = walk(next, productsDone, copiesDone, sinceBarrier);
        if (!rest) continue;
        const least = length + rest.least, most = Math.max(best?.most ?? 0, length + rest.most);
        const then = [next, productsDone, copiesDone, sinceBarrier].join();
        best = best && best.least <= least ? { ...best, most } : { least, most, then, block };
      }
    }
    known.set(state, best);
    return best;
  };

  const start = walk(loop.first, 0, 0, 0);
  if (!start) return undefined;
  const usual: Instruction[] = [];
  for (let ways: Ways | undefined = start; ways; ways = ways.then === undefined ? undefined : known.get(ways.then)) {
    usual.push(...instructions.slice(ways.block.first, ways.block.last + 1));
  }
  return { loop, times, usual, most: start.most };
}

const mostUnrolled = 4;

/** The hot loops of a kernel: the outermost ones that do this work. Throws where there is none. */
export function hotRounds(kernel: Kernel, work: Work): Round[] {
  const [product, copy] = [isOf(work.products[0]), isOf(work.copies[0])], rounds: Round[] = [];
  for (const loop of loopsOf(kernel)) {
    const inside = kernel.instructions.slice(loop.first, loop.last + 1);
    if (!inside.some(product) || !inside.some(copy)) continue;
    if (rounds.some((r) => r.loop.first <= loop.last && loop.first <= r.loop.last)) continue;
    const round = firstRound(kernel, loop, work);
    if (round) rounds.push(round);
  }
  if (rounds.length > 0) return rounds;
  const wanted = `${work.products.toReversed().join(" ")} and ${work.copies.toReversed().join(" ")}`;
  throw new Error(`${kernel.name}: expected a loop with ${wanted} a time round, found none`);
}

function firstRound(kernel: Kernel, loop: Loop, work: Work): Round | undefined {
  for (let times = 1; times <= mostUnrolled; times++) {
    if (!waysRound(kernel, loop, work, times, Infinity)) continue;
    for (let atOnce = 0;; atOnce++) {
      const round = waysRound(kernel, loop, work, times, atOnce);
      if (round) return round;
    }
  }
  return undefined;
}

/** The longest run of instructions from a barrier to the first product. */
export function beforeProducts(usual: readonly Instruction[], product: string): number {
  const barrier = isOf("BAR"), isProduct = isOf(product);
  let longest = 0, run = 0, isCounting = false;
  for (const instruction of [...usual, ...usual]) { // the first barrier's run may begin in the round before
    if (barrier(instruction)) run = 0, isCounting = true;
    else if (isProduct(instruction)) isCounting = false;
    else if (isCounting) longest = Math.max(longest, ++run);
  }
  return longest;
}

/**
 * Of each innermost loop that stores whole vectors without products, as a tile's end does: the most loads that a thread
 * issues before it stores anything. A load behind a store waits for it where the compiler cannot tell that they are of
 * different addresses.
 */
export function loadsBeforeStores(kernel: Kernel, product: string): number[] {
  const { instructions } = kernel, load = isOf("LDG"), store = isOf("STG"), isProduct = isOf(product);
  const storing = loopsOf(kernel).filter(({ first, last }) => {
    const inside = instructions.slice(first, last + 1);
    return !inside.some(isProduct) && inside.some(load) && inside.some((i) => store(i) && amountOf(i) >= 8);
  });
  const innermost = storing.filter((a) => !storing.some((b) => a !== b && a.first <= b.first && b.last <= a.last));
  return innermost.map((loop) => {
    const known = new Map<number, number>();
    const walk = (i: number): number => {
      if (i < loop.first || i > loop.last) return -Infinity;
      if (store(instructions[i]!)) return 0;
      if (known.has(i)) return known.get(i)!;
      known.set(i, -Infinity); // a circle without a store
      const most = Math.max(...successors(kernel, i).map(walk), -Infinity) + Number(load(instructions[i]!));
      known.set(i, most);
      return most;
    };
    return walk(loop.first);
  });
}
