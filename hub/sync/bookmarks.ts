import type { Clock } from "@moorage/shared/clock";

/** The bookmarks of a stream: which is due, and how long the last one took there and back. */
export class Bookmarks {
  readonly #clock: Clock;
  #echo = 0n;
  #sentMs: number | undefined;
  /** One is to be sent. */
  due = false;
  /** Of the last bookmark that was echoed; undefined before the first. */
  roundTripMs: number | undefined;

  constructor(clock: Clock) {
    this.#clock = clock;
  }

  /** Number of the last one. */
  get echo(): bigint {
    return this.#echo;
  }

  /** One is sent now; answers its number. */
  next(): bigint {
    this.due = false;
    this.#sentMs = this.#clock.monotonicMs();
    return ++this.#echo;
  }

  /** A heartbeat carried the number `echo`, 0 for none. */
  echoed(echo: bigint): void {
    if (echo === 0n || echo !== this.#echo || this.#sentMs === undefined) return;
    this.roundTripMs = this.#clock.monotonicMs() - this.#sentMs;
    this.#sentMs = undefined;
  }
}
