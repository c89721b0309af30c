import type { Clock } from "@moorage/shared/clock";
import { limits } from "@moorage/shared/limits";

/**
 * Whether an agent goes on with what the hub waits for: its inventory, acks, room on the transport. Its
 * heartbeats say that it lives, and not that it reads.
 */
export class Progress {
  readonly #clock: Clock;
  #madeMs: number;

  constructor(clock: Clock) {
    this.#clock = clock;
    this.#madeMs = clock.monotonicMs();
  }

  /** Something came or went. */
  made(): void {
    this.#madeMs = this.#clock.monotonicMs();
  }

  /** Called now and then. True when the hub was found waiting, without any progress, for `limits.streamStuckMs`. */
  stuck(waiting: boolean): boolean {
    if (!waiting) this.made();
    return this.#clock.monotonicMs() - this.#madeMs >= limits.streamStuckMs;
  }
}
