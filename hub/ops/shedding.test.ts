import { systemClock } from "@moorage/shared/clock";
import { Code } from "@moorage/shared/errors";
import { limits } from "@moorage/shared/limits";
import { createMetrics } from "@moorage/shared/metrics";
import { seededRng } from "@moorage/shared/rng";
import fc from "fast-check";
import { describe, expect, test } from "vitest";
import type { LoadSample, ShedState } from "./shedding.ts";
import { admitting, createShedder, nextShedState, processSampler } from "./shedding.ts";

const at = { loopDelayMs: 200, rssBytes: 1_000 };
const late: LoadSample = { loopDelayP99Ms: 201, rssBytes: 0 };
const calm: LoadSample = { loopDelayP99Ms: 20, rssBytes: 0 };
const between: LoadSample = { loopDelayP99Ms: 190, rssBytes: 0 };
const full: LoadSample = { loopDelayP99Ms: 20, rssBytes: 1_001 };

const after = (samples: LoadSample[]): ShedState =>
  samples.reduce((state, sample) => nextShedState(state, sample, at), admitting);

describe("the decision to shed", () => {
  test("needs a loop that stays late, not one long pause", () => {
    expect(after([late, calm, late, between]).reason).toBeUndefined();
    expect(after(Array(limits.shedLateSamples).fill(late)).reason).toBe("event_loop_delay");
  });

  test("comes at once for memory", () => {
    expect(after([full]).reason).toBe("memory");
  });

  test("is taken back only after several calm samples in a row, well below the limit", () => {
    const shedding = Array<LoadSample>(limits.shedLateSamples).fill(late);
    const quiet = (n: number) => Array<LoadSample>(n).fill(calm);
    expect(after([...shedding, ...quiet(limits.shedCalmSamples - 1)]).reason).toBe("event_loop_delay");
    expect(after([...shedding, ...quiet(limits.shedCalmSamples)])).toEqual(admitting);
    expect(after([...shedding, ...Array<LoadSample>(50).fill(between)]).reason).toBe("event_loop_delay");
    expect(after([...shedding, ...quiet(2), between, ...quiet(2)]).reason).toBe("event_loop_delay");
  });

  test("does not flap: whatever the samples, a change is followed by enough samples before the next", () => {
    const sample = fc.constantFrom(late, calm, between);
    fc.assert(
      fc.property(fc.array(sample, { maxLength: 60 }), (samples) => {
        let state = admitting;
        let since = Number.POSITIVE_INFINITY;
        for (const s of samples) {
          const next = nextShedState(state, s, at);
          since += 1;
          if (next.reason !== state.reason) {
            const least = next.reason === undefined ? limits.shedCalmSamples : limits.shedLateSamples;
            expect(since).toBeGreaterThanOrEqual(least);
            since = 0;
          }
          state = next;
        }
      }),
    );
  });
});

/** A clock whose timers fire when told to. */
function manualClock() {
  const timers: (() => void)[] = [];
  const clock = {
    ...systemClock,
    setTimer(_ms: number, fn: () => void) {
      timers.push(fn);
      return { cancel: () => undefined };
    },
  };
  const tick = async () => {
    timers.splice(0).forEach((fn) => fn());
    await new Promise((resolve) => setImmediate(resolve));
  };
  return { clock, tick };
}

test("while it sheds, newcomers get UNAVAILABLE with a jittered time to come back, and are counted", async () => {
  const { clock, tick } = manualClock();
  const metrics = createMetrics();
  let now = calm;
  const shedder = createShedder({ clock, rng: seededRng(1), sampler: () => now, thresholds: at, metrics });
  const stop = new AbortController();
  const running = shedder.run(stop.signal);
  await tick();
  expect(shedder.admits()).toBeUndefined();
  expect(() => shedder.check()).not.toThrow();
  expect(await metrics.metricsText()).toContain("moorage_hub_shedding 0");
  now = full;
  await tick();
  const errors = Array.from({ length: 20 }, () => shedder.admits());
  expect(errors[0]).toMatchObject({
    code: Code.UNAVAILABLE,
    reason: "OVERLOADED",
    metadata: { because: "memory" },
  });
  const waits = errors.map((e) => e?.retryAfterMs ?? 0);
  expect(new Set(waits).size).toBeGreaterThan(10);
  expect(Math.min(...waits)).toBeGreaterThanOrEqual(limits.shedRetryMs * 0.5);
  expect(Math.max(...waits)).toBeLessThanOrEqual(limits.shedRetryMs * 1.5);
  expect(() => shedder.check()).toThrow(
    /^Cannot open another stream: the hub is overloaded, memory is short$/,
  );
  shedder.refused("accept_rate");
  const text = await metrics.metricsText();
  expect(text).toContain("moorage_hub_shedding 1");
  expect(text).toContain('moorage_hub_refused_total{reason="memory"} 1');
  expect(text).toContain('moorage_hub_refused_total{reason="accept_rate"} 1');
  now = calm;
  for (let i = 0; i < limits.shedCalmSamples; i++) await tick();
  expect(shedder.admits()).toBeUndefined();
  stop.abort();
  await tick();
  await running;
});

test("the sampler of the process sees a blocked loop, once", async () => {
  const { sampler, stop } = processSampler();
  const turn = () => new Promise((resolve) => systemClock.setTimer(60, () => resolve(undefined)));
  await turn();
  sampler();
  // The histogram measures from one tick of its timer to the next.
  await turn();
  Atomics.wait(new Int32Array(new SharedArrayBuffer(4)), 0, 0, 400);
  await turn();
  expect(sampler().loopDelayP99Ms).toBeGreaterThan(300);
  expect(sampler().rssBytes).toBeGreaterThan(10 * 1024 * 1024);
  stop();
});
