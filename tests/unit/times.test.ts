/**
 * When frames are shown: a start and a rate where one fits, each time where none does, through rounding clocks and
 * joined parts.
 */
import assert from "node:assert/strict";
import { test } from "node:test";
import fc from "fast-check";
import { secondsOf, timesOf } from "../../src/tokens/times.ts";

const even = (frames: number, rate: number, start = 0, clock = Infinity) =>
  Array.from({ length: frames }, (_, i) => {
    const seconds = start + i / rate;
    return clock === Infinity ? seconds : Math.round(seconds * clock) / clock;
  });
const televisionRate = 30000 / 1001;

test("a constant rate is found again, in whole milliseconds and QuickTime's ticks too", () => {
  for (
    const [rate, fps] of [
      [25, "25/1"],
      [televisionRate, "30000/1001"],
      [24000 / 1001, "24000/1001"],
      [12.5, "25/2"],
      [
        60000 / 1001,
        "60000/1001",
      ],
      [10, "10/1"],
      [1 / 3, "1/3"],
    ] as const
  ) {
    for (const clock of [90000, 1000, 600]) {
      const { times, start, fps: found } = timesOf(even(400, rate, 0, clock));
      assert.equal(times, undefined, `${fps} on a clock of ${clock}`);
      assert.equal(found, fps, `on a clock of ${clock}`);
      assert.ok(Math.abs(start ?? 0) <= 0.6 / clock, `${start} on a clock of ${clock}`);
    }
  }
});

test("a few frames keep the rate that they are said to have, where it fits", () => {
  const seventeen = even(17, televisionRate, 2, 1000);
  assert.equal(timesOf(seventeen, "30000/1001").fps, "30000/1001");
  assert.equal(timesOf(seventeen, "1000/1").fps === "1000/1", false, "a wrong one is not believed");
  assert.deepEqual(timesOf([0.621333], "25/1"), { fps: "25/1", start: 0.621333 });
  assert.deepEqual(timesOf([1.5]), { start: 1.5 });
  assert.deepEqual(timesOf([], "25/1"), { fps: "25/1" });
});

test("a start later than zero, a rate that varies", () => {
  assert.deepEqual(timesOf(even(100, 25, 0.6)), { fps: "25/1", start: 0.6 });
  const varying = [...even(50, 50), ...even(5, 5, 1), ...even(50, 25, 2)];
  const { fps, start, times } = timesOf(varying, "25/1");
  assert.equal(start, undefined);
  assert.equal(times!.length, 105);
  times!.forEach((time, i) => assert.ok(Math.abs(time - varying[i]!) <= 0.5e-6));
  const [num, den] = fps!.split("/").map(Number) as [number, number];
  assert.ok(Math.abs(num / den - 104 / 3.96) < 0.1, fps);
});

test("each frame is found where it was, within a tick of the coarsest clock; stored times increase", () => {
  const gaps = fc.array(fc.double({ min: 1e-7, max: 5, noNaN: true }), { minLength: 1, maxLength: 60 });
  fc.assert(fc.property(gaps, fc.double({ min: -2, max: 1e5, noNaN: true }), (all, first) => {
    const seconds = [first];
    for (const gap of all) seconds.push(seconds.at(-1)! + gap);
    const found = timesOf(seconds);
    const tolerance = found.times ? 1e-6 * seconds.length : 1 / 600 + 2e-6;
    seconds.forEach((wanted, i) => {
      const got = secondsOf(found, i)!;
      assert.ok(Math.abs(got - wanted) <= tolerance, `frame ${i}: ${got}, not ${wanted}`);
    });
    found.times?.forEach((time, i) => assert.ok(i === 0 || time > found.times![i - 1]!));
  }));
});
