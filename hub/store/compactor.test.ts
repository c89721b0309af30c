import { memoryLogger } from "@moorage/shared/log";
import { seededRng } from "@moorage/shared/rng";
import fc from "fast-check";
import { expect, test } from "vitest";
import { manualClock, settle } from "../sync/testing.ts";
import { compactTo, createCompactor } from "./compactor.ts";
import { openMemoryStore } from "./memory/memory.ts";

test("history goes once it is older than the retention, never a younger revision", () => {
  const ages = fc.array(fc.record({ rev: fc.nat(100), atMs: fc.nat(10_000) }), { maxLength: 20 });
  fc.assert(
    fc.property(ages, fc.nat(10_000), (unsorted, retentionMs) => {
      const marks = unsorted.sort((a, b) => a.atMs - b.atMs).map((m, i) => ({ ...m, rev: i + 1 }));
      const { rev, marks: left } = compactTo(marks, { nowMs: 10_000, retentionMs });
      const old = marks.filter((m) => 10_000 - m.atMs >= retentionMs);
      expect(rev).toBe(old.at(-1)?.rev);
      expect(left).toEqual(marks.slice(old.length));
    }),
  );
});

test("a compactor keeps the retention and remembers no more than it needs", async () => {
  const clock = manualClock();
  const store = openMemoryStore({ clock, rng: seededRng(1) });
  const stop = new AbortController();
  const log = memoryLogger();
  const running = createCompactor({ store, clock, log, intervalMs: 60_000, retentionMs: 600_000 }).run(
    stop.signal,
  );
  for (let i = 0; i < 15; i++) {
    await store.txn({ then: [{ put: { key: Buffer.from("k"), value: Buffer.from([i]) } }] });
    await clock.advance(60_000);
  }
  await settle();
  const { rev, compactRev } = await store.status();
  expect(rev).toBe(16);
  // Written every minute, and ten minutes stay.
  expect(compactRev).toBe(rev - 10);
  await expect(store.range({ start: Buffer.from("k"), rev: compactRev })).resolves.toBeDefined();
  stop.abort(new DOMException("ended", "AbortError"));
  await running;
});
