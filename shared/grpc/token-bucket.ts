/**
 * Token buckets: the one piece that bounds rates (accepted connections, attempts of an agent). Pure
 * in time: the caller passes monotonic milliseconds.
 */

/** A rate: `burst` at once, `perSecond` in the long run. */
export interface Rate {
  burst: number;
  perSecond: number;
}

/** State of a bucket. */
export interface Bucket {
  readonly tokens: number;
  /** Monotonic time at which `tokens` was right. */
  readonly atMs: number;
}

/** A bucket from which `rate.burst` may be taken at once. */
export function fullBucket(rate: Rate, nowMs: number): Bucket {
  return { tokens: rate.burst, atMs: nowMs };
}

/**
 * Takes one token. `waitMs` is 0 when there was one, else the time until there will be; then the
 * bucket is as before, so that refused attempts do not push the next one further away.
 */
export function takeToken(bucket: Bucket, rate: Rate, nowMs: number): { bucket: Bucket; waitMs: number } {
  const gained = (Math.max(0, nowMs - bucket.atMs) / 1_000) * rate.perSecond;
  const tokens = Math.min(rate.burst, bucket.tokens + gained);
  if (tokens >= 1) return { bucket: { tokens: tokens - 1, atMs: nowMs }, waitMs: 0 };
  return { bucket: { tokens, atMs: nowMs }, waitMs: ((1 - tokens) / rate.perSecond) * 1_000 };
}
