import { expect, it } from "vitest";
import { ProcessClock } from "./process-clock.ts";
import { VirtualClock } from "./virtual-clock.ts";

it("runs what came due in a pause after it, in order, while monotonic time goes on", async () => {
  const base = new VirtualClock();
  const clock = new ProcessClock(base);
  const ran: string[] = [];
  clock.setTimer(10, () => ran.push(`first ${clock.monotonicMs()}`));
  clock.setTimer(20, () => ran.push(`second ${clock.monotonicMs()}`));
  clock.setTimer(200, () => ran.push(`third ${clock.monotonicMs()}`));
  clock.setTimer(30, () => ran.push("never")).cancel();
  clock.pause(100);
  await base.advance(50);
  expect(clock.pausedMs()).toBe(50);
  expect(ran).toEqual([]);
  await base.advance(500);
  expect(ran).toEqual(["first 100", "second 100", "third 200"]);
});

it("shows a wall time that is off, and durations that are not", async () => {
  const base = new VirtualClock();
  const clock = new ProcessClock(base, 60_000);
  expect(clock.now() - base.now()).toBe(60_000);
  clock.offsetMs = -60_000;
  expect(clock.now() - base.now()).toBe(-60_000);
  expect(clock.monotonicMs()).toBe(base.monotonicMs());
});

it("cancels a timer that waits for the end of a pause", async () => {
  const base = new VirtualClock();
  const clock = new ProcessClock(base);
  const ran: number[] = [];
  const timer = clock.setTimer(10, () => ran.push(1));
  clock.pause(100);
  await base.advance(50);
  timer.cancel();
  await base.advance(500);
  expect(ran).toEqual([]);
});
