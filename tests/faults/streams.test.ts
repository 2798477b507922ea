/**
 * Streams whose consumer is slow, breaks off, throws or is told to stop: memory bounded, nothing lost, the next one
 * works.
 */
import assert from "node:assert/strict";
import { after, before, test } from "node:test";
import { setTimeout as sleep } from "node:timers/promises";
import { joinTokens, type TensorLike, Tokenizer, type TokenPart } from "mod.ts";
import { engineFor } from "../../ffi/load.ts";
import { collectGarbage, grownMb, rejects, residentBytes } from "../support.ts";

let tok: Tokenizer;
before(async () => void (tok = await Tokenizer.open("nano-DV4x8x8")));
after(() => tok.close());

/** Frames that differ, counted as they are asked for, and whether the stream has let go of their source. */
function source(count: number, height = 32, width = 48) {
  const state = { given: 0, isLeft: false };
  function* frames(): Generator<TensorLike<"uint8">> {
    try {
      for (; state.given < count; state.given++) {
        const data = new Uint8Array(height * width * 3);
        for (let i = 0; i < data.length; i++) data[i] = i * (3 + state.given % 50);
        yield { dtype: "uint8", shape: [height, width, 3], data };
      }
    } finally {
      state.isLeft = true;
    }
  }
  return Object.assign(state, { frames: frames() });
}

/**
 * Everything works as before: the jobs end (the one that ran, after its step), and the answer of a new stream is the
 * whole clip's.
 */
async function isWell(): Promise<void> {
  while ((await engineFor()).info().num_jobs > 0) await sleep(1);
  const parts = await Array.fromAsync(tok.encodeStream(source(25).frames));
  assert.deepEqual(joinTokens(parts).indices.data, whole.indices.data);
}
let whole: TokenPart | Awaited<ReturnType<typeof joinTokens>>;
before(async () => {
  const frames = [...source(25).frames], data = new Uint8Array(25 * frames[0]!.data.length);
  frames.forEach((frame, t) => data.set(frame.data, t * frame.data.length));
  whole = await tok.encode({ dtype: "uint8", shape: [1, 25, 32, 48, 3], data }, { window: 25 });
});

test("a slow consumer: nothing is read far ahead, nothing is lost", async () => {
  const from = source(25), parts: TokenPart[] = [];
  let numSeen = 0;
  for await (const part of tok.encodeStream(from.frames, { chunkFrames: 4 })) {
    await sleep(30);
    parts.push(part);
    numSeen += part.numFrames;
    assert.ok(from.given <= numSeen + 8, `${from.given} frames were read when ${numSeen} were asked for`);
  }
  assert.deepEqual(joinTokens(parts).indices.data, whole.indices.data);
  const decoded: Uint8Array[] = [];
  for await (const frame of tok.decodeStream(parts)) {
    await sleep(5);
    decoded.push(frame.data as Uint8Array);
  }
  const atOnce = await tok.decode(whole, { dtype: "uint8" });
  assert.deepEqual(Uint8Array.from(decoded.flatMap((data) => [...data])), atOnce.data);
  await isWell();
});

test("a slow consumer of a long video keeps no frames: memory is flat", async () => {
  const from = source(400, 256, 256); // 79 MB of frames, of which a chunk of 8 is 1.6
  let before = 0;
  for await (const part of tok.encodeStream(from.frames, { attentionFrames: 2 })) {
    if (part.firstFrame < 100) continue;
    await sleep(1);
    if (before === 0) collectGarbage(), before = residentBytes();
  }
  collectGarbage();
  const grown = (residentBytes() - before) / 1e6;
  assert.ok(grown < 30, `grew by ${grown.toFixed(1)} MB`);
});

for (const [how, leave] of Object.entries({ breaks: undefined, throws: new Error("the consumer's own") })) {
  test(`a consumer that ${how} midway: the source is let go, the jobs end`, async () => {
    for (const direction of ["encode", "decode"]) {
      const from = source(1000), stream = tok.encodeStream(from.frames, { chunkFrames: 4 });
      const consume = async () => {
        for await (const _ of direction === "encode" ? stream : tok.decodeStream(stream)) {
          if (!leave) break;
          throw leave;
        }
      };
      if (leave) await assert.rejects(consume, leave);
      else await consume();
      assert.deepEqual([from.isLeft, from.given < 40], [true, true]);
    }
    await isWell();
  });
}

test("streams that are left early give their memory back", async () => {
  const leave = async () => {
    for await (const _ of tok.encodeStream(source(100, 64, 64).frames)) break;
  };
  const grown = await grownMb(leave, 20, 100);
  assert.ok(grown < 15, `grew by ${grown.toFixed(1)} MB`);
});

test("a source that throws midway: its own error, and the jobs end", async () => {
  const error = new Error("the source's own");
  async function* failing() {
    yield* source(9).frames;
    await sleep(1);
    throw error;
  }
  await assert.rejects(() => Array.fromAsync(tok.encodeStream(failing(), { chunkFrames: 4 })), error);
  await isWell();
});

test("an abort midway, also while the source is slow: CANCELLED with its reason, soon", async () => {
  for (const direction of ["encode", "decode"]) {
    const abort = new AbortController(), reason = new Error("enough"), { signal } = abort, from = source(1000);
    const stream = tok.encodeStream(from.frames, direction === "encode" ? { signal } : {});
    const consume = async () => {
      let count = 0;
      for await (const _ of direction === "encode" ? stream : tok.decodeStream(stream, { signal })) {
        if (++count === 3) abort.abort(reason);
      }
    };
    assert.equal((await rejects(consume, "CANCELLED", /AbortSignal/)).cause, reason);
    assert.deepEqual([from.isLeft, from.given < 60], [true, true]);
  }
  await isWell();
});
