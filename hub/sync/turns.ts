import type { Clock } from "@moorage/shared/clock";
import { Code, MoorageError } from "@moorage/shared/errors";

/** How long turns are passed on before everybody else has a round of the event loop, ms. */
const SLICE_MS = 10;

/** How many turns there are, and how long one waits for one: without end when that is absent. */
export interface TurnsOptions {
  turns: number;
  clock: Clock;
  refused?: { waitMs: number; what: string };
}

/**
 * A bounded number of turns. Whoever finds none free waits, first come first served, and is refused with
 * UNAVAILABLE and a time to come back when that takes too long; who goes away meanwhile waits no longer.
 *
 * Most turns need nothing but reads, which answer at once, so that those who wait would follow each other
 * with nobody else served in between: after a slice of time the next one begins in the next round of the
 * event loop.
 */
export class Turns {
  #free: number;
  readonly #waiting: (() => void)[] = [];
  readonly #o: TurnsOptions;
  /** Turns given back in a slice that is over. */
  #held = 0;
  #sliceMs = Number.NEGATIVE_INFINITY;

  constructor(options: TurnsOptions) {
    this.#free = options.turns;
    this.#o = options;
  }

  /** Takes a turn; the function answered gives it back and may be called twice. Rejects when `signal` aborts. */
  async take(signal?: AbortSignal): Promise<() => void> {
    if (this.#free > 0) this.#free--;
    else await this.#queue(signal);
    let given = false;
    return () => {
      if (given) return;
      given = true;
      this.#giveBack();
    };
  }

  #giveBack(): void {
    if (this.#waiting.length === 0) this.#free++;
    else if (this.#o.clock.monotonicMs() - this.#sliceMs < SLICE_MS) this.#waiting.shift()?.();
    else if (this.#held++ === 0) this.#nextSlice();
  }

  #nextSlice(): void {
    setImmediate(() => {
      this.#sliceMs = this.#o.clock.monotonicMs();
      // One a round: what it gives back at once goes on within the slice.
      if (--this.#held > 0) this.#nextSlice();
      this.#giveBack();
    });
  }

  #queue(signal: AbortSignal | undefined): Promise<void> {
    const { clock, refused } = this.#o;
    return new Promise((resolve, reject) => {
      const leave = () => {
        timer?.cancel();
        signal?.removeEventListener("abort", gone);
        const i = this.#waiting.indexOf(turn);
        if (i >= 0) this.#waiting.splice(i, 1);
      };
      const turn = () => {
        leave();
        resolve();
      };
      const gone = () => {
        leave();
        reject(signal?.reason as Error);
      };
      const late = ({ waitMs, what }: { waitMs: number; what: string }) => {
        leave();
        reject(
          new MoorageError(
            Code.UNAVAILABLE,
            `Cannot start "${what}": no turn came free within ${waitMs} ms`,
            { reason: "TOO_MANY_INITIAL_SYNCS", retryAfterMs: waitMs },
          ),
        );
      };
      const timer = refused === undefined ? undefined : clock.setTimer(refused.waitMs, () => late(refused));
      this.#waiting.push(turn);
      signal?.addEventListener("abort", gone);
      if (signal?.aborted) gone();
    });
  }
}
