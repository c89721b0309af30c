import fc from "fast-check";
import { describe, expect, it } from "vitest";
import { blocks, median, middleRate, quantile, slope, spread } from "./stats.ts";

describe("statistics", () => {
  it("take a quantile by nearest rank, and none of nothing", () => {
    const samples = [5, 1, 4, 2, 3];
    expect([0, 0.2, 0.5, 0.99, 1].map((q) => quantile(samples, q))).toEqual([1, 1, 3, 5, 5]);
    expect(quantile([], 0.5)).toBeNaN();
  });

  it("answer a quantile that is a sample, with no fewer of them at or below it than asked for", () => {
    fc.assert(
      fc.property(
        fc.array(fc.integer(), { minLength: 1 }),
        fc.double({ min: 0.01, max: 1, noNaN: true }),
        (all, q) => {
          const found = quantile(all, q);
          expect(all).toContain(found);
          expect(all.filter((x) => x <= found).length).toBeGreaterThanOrEqual(Math.floor(all.length * q));
        },
      ),
    );
  });

  it("take the median of an even count between its two", () => {
    expect(median([4, 1, 3, 2])).toBe(2.5);
    expect(median([9, 1, 5])).toBe(5);
    expect(median([])).toBeNaN();
  });

  it("find the slope of points on a line, whatever its height", () => {
    fc.assert(
      fc.property(fc.integer({ min: -50, max: 50 }), fc.integer({ min: -1e6, max: 1e6 }), (a, b) => {
        const points = [1_000, 2_000, 5_000].map((x) => ({ x, y: a * x + b }));
        expect(slope(points)).toBeCloseTo(a, 6);
      }),
    );
    expect(slope([{ x: 1, y: 1 }])).toBeNaN();
  });

  it("take the rate of the middle, without the stragglers at both ends", () => {
    const steady = Array.from({ length: 1_000 }, (_, i) => 10_000 + i * 5);
    expect(middleRate(steady)).toBeCloseTo(200, -1);
    const late = [...steady.slice(0, 950), ...Array.from({ length: 50 }, (_, i) => 60_000 + i * 1_000)];
    expect(middleRate(late)).toBeCloseTo(200, -1);
    expect(middleRate([1, 2, 3])).toBeNaN();
  });

  it("cut samples into runs in order, and lose none", () => {
    expect(blocks([1, 2, 3, 4, 5], 2)).toEqual([
      [1, 2, 3],
      [4, 5],
    ]);
    expect(spread([2, 1, 3], 0)).toBe("1 to 3");
  });
});
