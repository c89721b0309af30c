import type { Clock } from "@moorage/shared/clock";
import { Code, MoorageError } from "@moorage/shared/errors";
import { sourceOf } from "@moorage/shared/grpc/listener";
import type { Bucket } from "@moorage/shared/grpc/token-bucket";
import { fullBucket, takeToken } from "@moorage/shared/grpc/token-bucket";

/** Buckets kept; beyond, the oldest is forgotten. */
const MOST_BUCKETS = 10_000;

/** Tries allowed for each key: `burst` at once, one more each `everyMs`. */
export class TryLimiter {
  readonly #o: { clock: Clock; burst: number; everyMs: number; what: string };
  readonly #buckets = new Map<string, Bucket>();

  constructor(options: { clock: Clock; burst: number; everyMs: number; what: string }) {
    this.#o = options;
  }

  /** Counts a try; RESOURCE_EXHAUSTED with a time to come back when there were too many. */
  take(key: string): void {
    const { burst, everyMs, clock, what } = this.#o;
    const nowMs = clock.monotonicMs();
    const rate = { burst, perSecond: 1_000 / everyMs };
    const { bucket, waitMs } = takeToken(this.#buckets.get(key) ?? fullBucket(rate, nowMs), rate, nowMs);
    if (waitMs > 0) {
      throw new MoorageError(
        Code.RESOURCE_EXHAUSTED,
        `Too many tries of "${what}": at most one each ${everyMs} ms`,
        {
          reason: "RATE_LIMITED",
          retryAfterMs: Math.ceil(waitMs),
        },
      );
    }
    this.#buckets.delete(key);
    this.#buckets.set(key, bucket);
    if (this.#buckets.size > MOST_BUCKETS) this.#buckets.delete(this.#buckets.keys().next().value as string);
  }
}

/** The host of a `host:port` peer, what tries are counted by: of IPv6 its network, as the listeners count. */
export function peerHost(peer: string): string {
  const at = peer.lastIndexOf(":");
  return sourceOf(at < 0 ? peer : peer.slice(0, at));
}
