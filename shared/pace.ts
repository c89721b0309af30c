/**
 * Long work in slices. One thread serves every call and every agent's stream, and an await that is
 * answered at once lets none of them have a turn.
 */
import type { Clock } from "./clock.ts";

/** How long work goes on before others have their turn, ms. */
const SLICE_MS = 5;

/** Lets everybody else have a turn: timers, streams and calls that are ready now. */
export const othersTurn = (): Promise<void> => new Promise((resolve) => void setImmediate(resolve));

/** The pace of one piece of long work. */
export class Pace {
  readonly #clock: Clock;
  readonly #signal: AbortSignal | undefined;
  #sinceMs: number;

  constructor(clock: Clock, signal?: AbortSignal) {
    this.#clock = clock;
    this.#signal = signal;
    this.#sinceMs = clock.monotonicMs();
  }

  /** Between two steps of the work. Throws the signal's reason when nobody waits for the rest any more. */
  async step(): Promise<void> {
    if (this.#clock.monotonicMs() - this.#sinceMs < SLICE_MS) return;
    await othersTurn();
    this.#signal?.throwIfAborted();
    this.#sinceMs = this.#clock.monotonicMs();
  }
}
