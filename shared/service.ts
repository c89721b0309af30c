import type { Clock } from "./clock.ts";
import { sleep } from "./clock.ts";
import type { Rng } from "./rng.ts";

/**
 * A long-lived part of a process. `run` starts it and settles when it has ended: it resolves after
 * `signal` aborted and everything it holds is closed, and rejects when it cannot go on. The signal
 * reaches every await inside. `drain`, when present, is called before the abort and asks to refuse
 * new work and finish what is under way.
 */
export interface Service {
  readonly name: string;
  run(signal: AbortSignal): Promise<void>;
  drain?(): Promise<void>;
}

/** Exponential back-off with full jitter: `uniform(0, min(cap, base * 2^attempt))`. */
export interface Backoff {
  baseMs: number;
  capMs: number;
}

/**
 * The delay before try number `attempt` (0 = first retry), in milliseconds.
 * Source: "Exponential Backoff And Jitter", AWS Architecture Blog, 2015 (full jitter).
 */
export function backoffMs(b: Backoff, attempt: number, rng: Rng): number {
  return rng.float() * Math.min(b.capMs, b.baseMs * 2 ** Math.min(attempt, 30));
}

/** Sleeps for the back-off of `attempt`; rejects when `signal` aborts. */
export function backoffSleep(
  b: Backoff,
  attempt: number,
  on: { clock: Clock; rng: Rng; signal: AbortSignal },
): Promise<void> {
  return sleep(on.clock, backoffMs(b, attempt, on.rng), on.signal);
}

/** True for the error that an aborted await throws: the end of a service, not a failure. */
export function isAbort(thrown: unknown, signal: AbortSignal): boolean {
  return (
    signal.aborted && (thrown === signal.reason || (thrown instanceof Error && thrown.name === "AbortError"))
  );
}
