import type { Clock } from "@moorage/shared/clock";
import { Code, MoorageError } from "@moorage/shared/errors";
import type { Bucket } from "@moorage/shared/grpc/token-bucket";
import { fullBucket, takeToken } from "@moorage/shared/grpc/token-bucket";
import { limits } from "@moorage/shared/limits";

const rate = { burst: limits.streamAttempts, perSecond: 1_000 / limits.streamAttemptMs };

/**
 * Attempts to open a stream, bounded for each data plane: an agent in a loop of its own costs the hub
 * and its neighbours nothing but this look. Beyond `limits.streamAttemptBuckets` the data plane that
 * tried least recently is forgotten.
 */
export class Attempts {
  readonly #clock: Clock;
  readonly #buckets = new Map<string, Bucket>();

  constructor(clock: Clock) {
    this.#clock = clock;
  }

  /** Takes one; UNAVAILABLE `TOO_MANY_ATTEMPTS` with a time to come back when there is none. */
  take(dataPlaneUid: string): void {
    const nowMs = this.#clock.monotonicMs();
    const { bucket, waitMs } = takeToken(
      this.#buckets.get(dataPlaneUid) ?? fullBucket(rate, nowMs),
      rate,
      nowMs,
    );
    // Anew at the end: the order of the map is that of the last attempts.
    this.#buckets.delete(dataPlaneUid);
    this.#buckets.set(dataPlaneUid, bucket);
    const [oldest] = this.#buckets.keys();
    if (this.#buckets.size > limits.streamAttemptBuckets && oldest !== undefined)
      this.#buckets.delete(oldest);
    if (waitMs > 0) {
      throw new MoorageError(
        Code.UNAVAILABLE,
        `Cannot open a stream: more than ${limits.streamAttempts} attempts, one more every ${limits.streamAttemptMs} ms`,
        { reason: "TOO_MANY_ATTEMPTS", retryAfterMs: Math.ceil(waitMs) },
      );
    }
  }
}
