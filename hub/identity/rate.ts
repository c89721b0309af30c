import type { Clock } from "@moorage/shared/clock";
import { Code, MoorageError } from "@moorage/shared/errors";

/** Buckets kept; beyond, the oldest is forgotten. */
const MOST_BUCKETS = 10_000;

/** Tries allowed for each key: `burst` at once, one more each `everyMs`. */
export class TryLimiter {
  readonly #o: { clock: Clock; burst: number; everyMs: number; what: string };
  readonly #buckets = new Map<string, { tokens: number; atMs: number }>();

  constructor(options: { clock: Clock; burst: number; everyMs: number; what: string }) {
    this.#o = options;
  }

  /** Counts a try; RESOURCE_EXHAUSTED with a time to come back when there were too many. */
  take(key: string): void {
    const { burst, everyMs, clock, what } = this.#o;
    const nowMs = clock.monotonicMs();
    const bucket = this.#buckets.get(key) ?? { tokens: burst, atMs: nowMs };
    const tokens = Math.min(burst, bucket.tokens + (nowMs - bucket.atMs) / everyMs);
    if (tokens < 1) {
      throw new MoorageError(
        Code.RESOURCE_EXHAUSTED,
        `Too many tries of "${what}": at most one each ${everyMs} ms`,
        {
          reason: "RATE_LIMITED",
          retryAfterMs: Math.ceil((1 - tokens) * everyMs),
        },
      );
    }
    this.#buckets.delete(key);
    this.#buckets.set(key, { tokens: tokens - 1, atMs: nowMs });
    if (this.#buckets.size > MOST_BUCKETS) this.#buckets.delete(this.#buckets.keys().next().value as string);
  }
}

/** The host of a `host:port` peer: what tries are counted by. */
export function peerHost(peer: string): string {
  const at = peer.lastIndexOf(":");
  return at < 0 ? peer : peer.slice(0, at);
}
