import { memoryLogger } from "@moorage/shared/log";
import { expect, test } from "vitest";
import { manualClock, settle } from "../sync/testing.ts";
import { createChore } from "./chore.ts";
import { storeError } from "./errors.ts";

/** A chore each second, and what it comes to in each round. */
function start(atStart: boolean) {
  const clock = manualClock();
  const log = memoryLogger();
  const stop = new AbortController();
  let rounds = 0;
  let outcome: () => Promise<unknown> = () => Promise.resolve();
  const once = (): Promise<unknown> => (rounds++, outcome());
  const chore = { name: "c", intervalMs: 1_000, atStart, missed: "nothing was done", once };
  const running = createChore(chore, { clock, log }).run(stop.signal);
  running.catch(() => {});
  return { clock, log, stop, running, rounds: () => rounds, next: (o: typeof outcome) => (outcome = o) };
}

test("a chore goes on over a store without room, and says what did not happen", async () => {
  const c = start(false);
  c.next(() => Promise.reject(storeError("STORE_FULL", "no space")));
  await c.clock.advance(2_500);
  c.next(() => Promise.resolve());
  await c.clock.advance(1_000);
  expect(c.rounds()).toBe(3);
  expect(c.log.records.map((r) => [r.level, r.message])).toEqual([
    ["warn", "nothing was done"],
    ["warn", "nothing was done"],
  ]);
  c.stop.abort(new DOMException("stopped", "AbortError"));
  await c.running;
});

test("any other error ends it, in the round at the start too", async () => {
  const c = start(true);
  await settle();
  await c.clock.advance(999);
  expect(c.rounds()).toBe(1);
  c.next(() => Promise.reject(storeError("STORE_FAILED", "gone")));
  await c.clock.advance(1);
  await expect(c.running).rejects.toMatchObject({ reason: "STORE_FAILED" });
});
