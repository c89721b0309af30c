import { memoryLogger } from "@moorage/shared/log";
import { expect, test } from "vitest";
import { manualClock, settle } from "../sync/testing.ts";
import { createSizeWatch } from "./size-watch.ts";

test("a store is warned of while it holds more than four fifths of its largest size, and not before", async () => {
  const clock = manualClock();
  const log = memoryLogger();
  const stop = new AbortController();
  let usedBytes = 799;
  const stats = () => Promise.resolve({ usedBytes });
  const running = createSizeWatch({ stats, maxBytes: 1_000, clock, log }).run(stop.signal);
  await settle();
  expect(log.records).toEqual([]);
  usedBytes = 801;
  await clock.advance(600_000);
  expect(log.records).toMatchObject([
    { level: "warn", fields: { usedBytes: 801, maxBytes: 1_000, percent: 80 } },
  ]);
  usedBytes = 500;
  await clock.advance(600_000);
  expect(log.records).toHaveLength(1);
  stop.abort(new DOMException("stopped", "AbortError"));
  await running;
});
