import type { Clock } from "@moorage/shared/clock";
import { Code, MoorageError } from "@moorage/shared/errors";
import { limits } from "@moorage/shared/limits";

/**
 * Attempts to open a stream, bounded for each data plane: an agent in a loop of its own costs the hub
 * and its neighbours nothing but this look. A token bucket by uid; a full one is forgotten.
 */
export class Attempts {
  readonly #clock: Clock;
  readonly #buckets = new Map<string, { tokens: number; atMs: number }>();

  constructor(clock: Clock) {
    this.#clock = clock;
  }

  /** Takes one; UNAVAILABLE `TOO_MANY_ATTEMPTS` with a time to come back when there is none. */
  take(dataPlaneUid: string): void {
    const nowMs = this.#clock.monotonicMs();
    const { streamAttempts, streamAttemptMs } = limits;
    const b = this.#buckets.get(dataPlaneUid) ?? { tokens: streamAttempts, atMs: nowMs };
    const tokens = Math.min(streamAttempts, b.tokens + (nowMs - b.atMs) / streamAttemptMs);
    if (tokens < 1) {
      throw new MoorageError(
        Code.UNAVAILABLE,
        `Cannot open a stream: more than ${streamAttempts} attempts, one more every ${streamAttemptMs} ms`,
        { reason: "TOO_MANY_ATTEMPTS", retryAfterMs: Math.ceil((1 - tokens) * streamAttemptMs) },
      );
    }
    this.#buckets.set(dataPlaneUid, { tokens: tokens - 1, atMs: nowMs });
    if (this.#buckets.size > limits.streamAttemptBuckets) this.#forget(nowMs);
  }

  #forget(nowMs: number): void {
    const { streamAttempts, streamAttemptMs } = limits;
    for (const [uid, b] of this.#buckets)
      if (b.tokens + (nowMs - b.atMs) / streamAttemptMs >= streamAttempts) this.#buckets.delete(uid);
  }
}
