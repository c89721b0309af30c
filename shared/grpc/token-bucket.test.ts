import fc from "fast-check";
import { expect, test } from "vitest";
import { fullBucket, takeToken } from "./token-bucket.ts";

const rate = { burst: 2, perSecond: 4 };

test("a bucket gives its burst at once, then one token each period, and says how long to wait", () => {
  let bucket = fullBucket(rate, 0);
  const waits = [0, 0, 0, 100, 250, 260, 5_000, 5_000, 5_000].map((nowMs) => {
    const taken = takeToken(bucket, rate, nowMs);
    bucket = taken.bucket;
    return Math.round(taken.waitMs);
  });
  expect(waits).toEqual([0, 0, 250, 150, 0, 240, 0, 0, 250]);
});

test("no schedule of attempts gets more than the burst and the rate allow, and none gets less while it waits", () => {
  fc.assert(
    fc.property(fc.array(fc.integer({ min: 0, max: 700 }), { maxLength: 200 }), (gaps) => {
      let bucket = fullBucket(rate, 0);
      let nowMs = 0;
      let taken = 0;
      for (const gap of gaps) {
        nowMs += gap;
        const next = takeToken(bucket, rate, nowMs);
        bucket = next.bucket;
        if (next.waitMs === 0) taken += 1;
        else expect(takeToken(bucket, rate, nowMs + next.waitMs + 0.001).waitMs).toBe(0);
      }
      expect(taken).toBeLessThanOrEqual(rate.burst + (nowMs / 1_000) * rate.perSecond + 1e-6);
    }),
  );
});

test("a clock that steps back takes nothing away and gives nothing", () => {
  const { bucket } = takeToken(fullBucket(rate, 1_000), rate, 1_000);
  expect(takeToken(bucket, rate, 0)).toEqual({ bucket: { tokens: 0, atMs: 0 }, waitMs: 0 });
});
