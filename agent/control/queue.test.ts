import fc from "fast-check";
import { describe, expect, it } from "vitest";
import type { Clock, Timer } from "@moorage/shared/clock";
import { seededRng } from "@moorage/shared/rng";
import { createLoop } from "./loop.ts";
import { conditionsOf, type Outcome } from "./outcome.ts";
import { createQueue, Priority, type WorkQueue } from "./queue.ts";

/** A clock that moves only when told to. */
function manualClock(): Clock & { advance(ms: number): void } {
  let now = 0;
  let timers: { at: number; fn: () => void }[] = [];
  return {
    now: () => now,
    monotonicMs: () => now,
    setTimer(delayMs, fn): Timer {
      const entry = { at: now + delayMs, fn };
      timers.push(entry);
      return { cancel: () => void (timers = timers.filter((t) => t !== entry)) };
    },
    advance(ms) {
      const end = now + ms;
      for (;;) {
        const due = timers.filter((t) => t.at <= end).sort((a, b) => a.at - b.at)[0];
        if (due === undefined) break;
        timers = timers.filter((t) => t !== due);
        now = due.at;
        due.fn();
      }
      now = end;
    },
  };
}

const setUp = () => {
  const clock = manualClock();
  return { clock, queue: createQueue({ clock, rng: seededRng(3) }) };
};

/** Takes all ready keys, in order. */
async function drain(queue: WorkQueue): Promise<string[]> {
  const out: string[] = [];
  while (queue.depth > 0) {
    const item = await queue.next();
    if (item === undefined) break;
    out.push(item.key);
    queue.done(item.key);
  }
  return out;
}

describe("the work queue", () => {
  it("hands a key out once at a time, and again when it was added meanwhile", async () => {
    const { queue } = setUp();
    queue.add("a");
    queue.add("a");
    expect((await queue.next())?.key).toBe("a");
    queue.add("a");
    queue.add("a");
    expect(queue.depth).toBe(0);
    queue.done("a");
    expect(await drain(queue)).toEqual(["a"]);
    expect(queue.size).toBe(0);
  });

  it("merges to the higher priority and the shorter delay", async () => {
    const { clock, queue } = setUp();
    queue.add("a", { priority: Priority.resync, delayMs: 1_000 });
    queue.add("a", { priority: Priority.command, delayMs: 5_000 });
    queue.add("b", { priority: Priority.spec, delayMs: 1_000 });
    clock.advance(999);
    expect(queue.depth).toBe(0);
    clock.advance(1);
    expect(await queue.next()).toMatchObject({ key: "a", priority: Priority.command });
    queue.add("a", { priority: Priority.drift, delayMs: 10 });
    queue.add("a", { priority: Priority.health, delayMs: 90 });
    queue.done("a");
    clock.advance(10);
    expect(await drain(queue)).toEqual(["b", "a"]);
  });

  it("goes by priority, then takes tenants in turn", async () => {
    const { queue } = setUp();
    for (const key of ["a1", "a2", "a3"]) queue.add(key, { tenant: "a" });
    queue.add("b1", { tenant: "b" });
    queue.add("c1", { tenant: "c", priority: Priority.resync });
    queue.add("d1", { tenant: "a", priority: Priority.command });
    expect(await drain(queue)).toEqual(["d1", "a1", "b1", "a2", "a3", "c1"]);
  });

  it("backs off with full jitter within its bounds, starts over after forget, and honours a server's delay", () => {
    fc.assert(
      fc.property(fc.integer(), fc.integer({ min: 0, max: 12 }), (seed, failures) => {
        const clock = manualClock();
        const queue = createQueue({ clock, rng: seededRng(seed) });
        for (let i = 0; i < failures; i++) {
          queue.addAfterFailure("k");
          queue.remove("other");
          clock.advance(300_000);
          void queue.next();
          queue.done("k");
        }
        queue.addAfterFailure("k");
        clock.advance(Math.min(300_000, 1_000 * 2 ** failures));
        expect(queue.depth).toBe(1);
      }),
      { numRuns: 50 },
    );
    const { clock, queue } = setUp();
    queue.addAfterFailure("k", { minDelayMs: 7_000 });
    clock.advance(6_999);
    expect(queue.depth).toBe(0);
    clock.advance(1);
    expect(queue.depth).toBe(1);
  });

  it("never runs a key twice at once and loses none, whatever the order of calls", () => {
    const step = fc.oneof(
      fc.record({
        op: fc.constant("add" as const),
        key: fc.integer({ min: 0, max: 5 }),
        delay: fc.integer({ min: 0, max: 50 }),
        priority: fc.constantFrom(...Object.values(Priority)),
      }),
      fc.record({ op: fc.constant("take" as const) }),
      fc.record({ op: fc.constant("done" as const), pick: fc.nat() }),
      fc.record({ op: fc.constant("advance" as const), ms: fc.integer({ min: 1, max: 60 }) }),
    );
    return fc.assert(
      fc.asyncProperty(fc.array(step, { maxLength: 60 }), async (steps) => {
        const { clock, queue } = setUp();
        const running: string[] = [];
        const owed = new Set<string>();
        for (const s of steps) {
          if (s.op === "add") {
            queue.add(String(s.key), { delayMs: s.delay, priority: s.priority, tenant: String(s.key % 2) });
            owed.add(String(s.key));
          } else if (s.op === "take" && queue.depth > 0) {
            const item = await queue.next();
            expect(running).not.toContain(item?.key);
            running.push(item?.key as string);
            owed.delete(item?.key as string);
          } else if (s.op === "done" && running.length > 0) {
            queue.done(running.splice(s.pick % running.length, 1)[0] as string);
          } else if (s.op === "advance") clock.advance(s.ms);
        }
        for (const key of running) queue.done(key);
        clock.advance(1_000);
        expect(new Set(await drain(queue))).toEqual(owed);
      }),
      { numRuns: 200 },
    );
  });
});

describe("the loop", () => {
  it("turns each outcome into what happens next", async () => {
    const { clock, queue } = setUp();
    const outcomes: Record<string, Outcome> = {
      done: { kind: "done", recheckAfterMs: 240_000 },
      again: { kind: "again", afterMs: 5_000 },
      retry: { kind: "retry", reason: "ServerError", message: "", minDelayMs: 2_000 },
      stuck: { kind: "terminal", reason: "Invalid", message: "" },
    };
    const runs: string[] = [];
    const errors: string[] = [];
    const kinds: string[] = [];
    const loop = createLoop({
      name: "test",
      queue,
      workers: 2,
      monotonicMs: () => clock.monotonicMs(),
      onError: (key) => errors.push(key),
      metrics: { reconciled: (kind) => void kinds.push(kind), active: () => {} },
      reconcile: (key) => {
        runs.push(`${key}@${clock.monotonicMs()}`);
        const outcome = outcomes[key];
        return outcome === undefined ? Promise.reject(new Error("bug")) : Promise.resolve(outcome);
      },
    });
    const stop = new AbortController();
    const ended = loop.run(stop.signal);
    for (const key of [...Object.keys(outcomes), "broken"]) queue.add(key);
    const settle = async () => {
      for (let i = 0; i < 50; i++) await Promise.resolve();
    };
    await settle();
    expect(kinds.toSorted()).toEqual(["again", "done", "error", "retry", "terminal"]);
    expect(errors).toEqual(["broken"]);
    clock.advance(2_000);
    await settle();
    expect(runs).toContain("retry@2000");
    clock.advance(3_000);
    await settle();
    expect(runs).toContain("again@5000");
    clock.advance(235_000);
    await settle();
    expect(runs).toContain("done@240000");
    expect(runs.filter((r) => r.startsWith("stuck"))).toHaveLength(1);
    stop.abort(new Error("end"));
    await ended;
  });
});

describe("conditions of an outcome", () => {
  it("shows Reconciling or Stalled only while true, and never both", () => {
    for (const outcome of [
      { kind: "done" },
      { kind: "again", afterMs: 1 },
      { kind: "retry", reason: "R", message: "m" },
      { kind: "terminal", reason: "R", message: "m" },
    ] as Outcome[]) {
      const by = Object.fromEntries(conditionsOf(outcome).map((c) => [c.type, c.status]));
      expect(by["Reconciling"] === "True" && by["Stalled"] === "True").toBe(false);
      expect(by["Ready"]).toBe(outcome.kind === "done" ? "True" : "False");
    }
  });
});
