/**
 * The program of a helper process, which decodes pictures for apart.ts until its input ends, or until nothing came for
 * a while. It watches itself: what a picture takes of processor time and memory is looked at every few milliseconds,
 * while libvips works on other threads. Above a limit it says so and kills itself, as nothing else ends libvips.
 *
 * Processor time, not the clock: a busy machine makes no picture costlier.
 */
import { writeSync } from "node:fs";
import type { Metadata } from "sharp";
import { messageOf, TokenizerError } from "../errors.ts";
import { message, type Order } from "./apart.ts";
import { decode, defaultLimits, loadSharp, lookAt } from "./picture.ts";

const { process } = globalThis;

const idleMs = 10_000, watchMs = 5;
/** A helper that holds so much more than at its start is not used again. */
const fullBytes = 64 * 2 ** 20;

const end = () => process.kill(process.pid, "SIGKILL"); // at once, in the middle of a picture too
const residentBytes = () => process.memoryUsage().rss;

const sharp = await loadSharp();
sharp.cache(false);
const ownBytes = residentBytes();
for (const part of message({ isReady: true })) process.stdout.write(part);

async function answer(bytes: Uint8Array, { name, limitPixels, isSizeOnly, ...limits }: Order): Promise<void> {
  let limitSeconds = 0, limitMemory = 0;
  const set = (about?: Metadata) => {
    const { seconds, bytes } = defaultLimits(about);
    limitSeconds = limits.limitSeconds ?? seconds, limitMemory = limits.limitMemory ?? bytes;
  };
  set();
  const start = process.cpuUsage();
  const heldBytes = residentBytes(); // with this picture's bytes, and what the one before left to be collected
  const watch = setInterval(() => {
    const { user, system } = process.cpuUsage(start), took = residentBytes() - heldBytes;
    const isLong = user + system > 1e6 * limitSeconds;
    if (!isLong && took <= limitMemory) return;
    const [what, found] = isLong
      ? [`${limitSeconds} seconds (limitSeconds)`, "more"]
      : [`${limitMemory} bytes of memory (limitMemory)`, `${took} and more`];
    const error = { code: "IMAGE", message: `${name}: expected to decode in at most ${what}, found ${found}` } as const;
    for (const part of message({ error, isFull: true })) writeSync(1, part);
    end();
  }, watchMs);
  try {
    const about = await lookAt(bytes, name, limitPixels);
    set(about);
    const { height, width, data } = isSizeOnly
      ? { ...about.autoOrient, data: new Uint8Array() }
      : await decode(bytes, name, about);
    clearInterval(watch);
    const isFull = residentBytes() - ownBytes - bytes.length - data.length > fullBytes;
    for (const part of message({ height, width, isFull }, data)) process.stdout.write(part);
  } catch (error) {
    const { code = "INTERNAL", detail } = error instanceof TokenizerError ? error : {};
    for (const part of message({ error: { code, message: messageOf(error), detail } })) process.stdout.write(part);
  } finally {
    clearInterval(watch);
  }
}

let head = new Uint8Array(), picture: { order: Order; bytes: Uint8Array; filled: number } | undefined;
let goodbye = setTimeout(end, idleMs);
process.stdin.on("data", (chunk: Uint8Array) => {
  if (!picture) {
    const whole = new Uint8Array(head.length + chunk.length);
    whole.set(head), whole.set(chunk, head.length);
    head = whole;
    const length = head.length < 4 ? Infinity : new DataView(head.buffer).getUint32(0, true);
    if (head.length < 4 + length) return;
    const { bytes, ...order } = JSON.parse(new TextDecoder().decode(head.subarray(4, 4 + length)));
    picture = { order, bytes: new Uint8Array(bytes), filled: 0 };
    chunk = head.subarray(4 + length);
    head = new Uint8Array();
    clearTimeout(goodbye);
  }
  picture.bytes.set(chunk, picture.filled);
  picture.filled += chunk.length;
  if (picture.filled < picture.bytes.length) return;
  const { bytes, order } = picture;
  picture = undefined;
  answer(bytes, order).finally(() => goodbye = setTimeout(end, idleMs));
});
process.stdin.on("end", end);
