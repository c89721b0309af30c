/** The clock of one host's process: wall time that may be wrong, and a process that may stand still. */
import type { Clock, Timer } from "@moorage/shared/clock";
import type { VirtualClock } from "./virtual-clock.ts";

/** See the module's text. Monotonic time goes on while the process stands still, as the kernel's does. */
export class ProcessClock implements Clock {
  readonly #base: VirtualClock;
  /** Wall time minus the world's, milliseconds. */
  offsetMs: number;
  #pausedUntilMs = -Infinity;

  constructor(base: VirtualClock, offsetMs = 0) {
    this.#base = base;
    this.offsetMs = offsetMs;
  }

  now(): number {
    return this.#base.now() + this.offsetMs;
  }

  monotonicMs(): number {
    return this.#base.monotonicMs();
  }

  /** The process stands still for so long: what comes due meanwhile runs then. */
  pause(ms: number): void {
    this.#pausedUntilMs = this.monotonicMs() + ms;
  }

  /** Milliseconds until the process goes on; 0 while it runs. */
  pausedMs(): number {
    return Math.max(0, this.#pausedUntilMs - this.monotonicMs());
  }

  setTimer(delayMs: number, fn: () => void): Timer {
    const fire = () => {
      const wait = this.pausedMs();
      if (wait > 0) timer = this.#base.setTimer(wait, fire);
      else fn();
    };
    let timer = this.#base.setTimer(delayMs, fire);
    return { cancel: () => timer.cancel() };
  }
}
