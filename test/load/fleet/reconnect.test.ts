import { seededRng } from "@moorage/shared/rng";
import fc from "fast-check";
import { expect, test } from "vitest";
import { reconnectDelayMs } from "./reconnect.ts";

const none = { established: false, goodbyeMs: undefined, retryAfterMs: undefined };

test("the hub's word comes first, then the spread of a lost stream, then back-off", () => {
  fc.assert(
    fc.property(fc.integer(), fc.integer({ min: 0, max: 40 }), (seed, attempt) => {
      const on = { attempt, spreadMs: 4_000, rng: seededRng(seed) };
      expect(reconnectDelayMs({ ...none, established: true, goodbyeMs: 700, retryAfterMs: 9 }, on)).toBe(700);
      const told = reconnectDelayMs({ ...none, established: true, retryAfterMs: 1_000 }, on);
      expect(told).toBeGreaterThanOrEqual(1_000);
      expect(told).toBeLessThanOrEqual(1_200);
      const spread = reconnectDelayMs({ ...none, established: true }, on);
      expect(spread).toBeGreaterThanOrEqual(0);
      expect(spread).toBeLessThanOrEqual(4_000);
      const back = reconnectDelayMs(none, on);
      expect(back).toBeLessThanOrEqual(Math.min(120_000, 1_000 * 2 ** attempt));
    }),
  );
});

test("a fleet that lost its streams at one moment comes back evenly over the spread", () => {
  const rng = seededRng(3);
  const delays = Array.from({ length: 4_000 }, () =>
    reconnectDelayMs({ ...none, established: true }, { attempt: 0, spreadMs: 4_000, rng }),
  );
  const firstQuarter = delays.filter((d) => d < 1_000).length;
  expect(firstQuarter).toBeGreaterThan(900);
  expect(firstQuarter).toBeLessThan(1_100);
});
