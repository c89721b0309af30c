import { expect, test } from "vitest";
import { EPOCH_JUMP, epochStart, unsaidStart } from "./epochs.ts";

const nowMs = Date.UTC(2026, 10, 27);

test("an epoch begins above everything that was given until now, in whichever history", () => {
  const first = epochStart(51, nowMs);
  expect(first).toBe(nowMs * 100);
  expect(String(first)).toHaveLength(15);
  // Ten seconds with fifty thousand writes each, and the same backup once more.
  expect(epochStart(51, nowMs + 10_000)).toBeGreaterThan(first + 500_000);
  // A backup of that epoch, restored twice within a minute.
  const second = epochStart(first + 100, nowMs + 20_000);
  expect(epochStart(first + 100, nowMs + 30_000)).toBeGreaterThan(second + 500_000);
});

test("an epoch lies above the head whatever the clock says, and leaves room for more", () => {
  for (const clockMs of [0, -1, 60_000, nowMs - 1_000, nowMs, Date.UTC(2900, 0, 1), 8.64e15, NaN, Infinity]) {
    for (const head of [1, 51, nowMs * 100, nowMs * 100 + 51]) {
      const start = epochStart(head, clockMs);
      expect(Number.isSafeInteger(start) && start > head).toBe(true);
      expect(start).toBeLessThanOrEqual(Math.max(head + EPOCH_JUMP, 999_999_999_999_999));
    }
  }
  expect(epochStart(51, nowMs + 0.4567)).toBe(nowMs * 100 + 45);
});

test("a store that does not say where its epoch began is one of before it was said", () => {
  expect([unsaidStart(0), unsaidStart(51)]).toEqual([0, 51 + EPOCH_JUMP]);
});
