/** What the targets over whole parts of the system share. */
import type { Clock } from "@moorage/shared/clock";

/** A clock that stands at one moment; its timers never fire. */
export function stillClock(nowMs = Date.UTC(2030, 0, 1)): Clock {
  return { now: () => nowMs, monotonicMs: () => 0, setTimer: () => ({ cancel: () => undefined }) };
}

/** Lets what is ready happen, `n` turns of the loop long. */
export async function turns(n: number): Promise<void> {
  for (let i = 0; i < n; i++) await new Promise<void>((resolve) => setImmediate(resolve));
}
