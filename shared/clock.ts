/**
 * Time as an interface. This file alone may call `Date.now`, `performance.now`, `setTimeout` and
 * `setInterval`; everything else receives a {@link Clock}, so that the simulation can move time and
 * no test has to wait for it (held by test/tidy).
 */

/** A pending timer. `cancel` is idempotent; a cancelled timer never fires. */
export interface Timer {
  cancel(): void;
}

/** Wall and monotonic time, and timers on the monotonic one. */
export interface Clock {
  /** Wall time in milliseconds since the Unix epoch. May step; never compared between hosts. */
  now(): number;
  /** Monotonic milliseconds since an arbitrary start; for durations and deadlines. */
  monotonicMs(): number;
  /** Calls `fn` once, `delayMs` (>= 0) from now. Does not keep the process alive by itself. */
  setTimer(delayMs: number, fn: () => void): Timer;
}

/** Longest delay a Node timer takes; a longer one would fire at once. */
const MAX_TIMER_MS = 2 ** 31 - 1;

/** The machine's clock. */
export const systemClock: Clock = {
  now: () => Date.now(),
  monotonicMs: () => performance.now(),
  setTimer(delayMs, fn) {
    const handle = setTimeout(fn, Math.min(Math.max(0, delayMs), MAX_TIMER_MS));
    return { cancel: () => clearTimeout(handle) };
  },
};

/** Resolves after `delayMs`; rejects with the signal's reason as soon as `signal` aborts. */
export function sleep(clock: Clock, delayMs: number, signal?: AbortSignal): Promise<void> {
  return new Promise((resolve, reject) => {
    if (signal?.aborted) {
      reject(signal.reason as Error);
      return;
    }
    const onAbort = () => {
      timer.cancel();
      reject(signal?.reason as Error);
    };
    const timer = clock.setTimer(delayMs, () => {
      signal?.removeEventListener("abort", onAbort);
      resolve();
    });
    signal?.addEventListener("abort", onAbort, { once: true });
  });
}
