/**
 * Which times can be shown. On the wire a Timestamp and a Duration take any numbers; as JSON they have a
 * range, and whoever writes one beyond it as JSON gets an error instead. Pure.
 */
import type { Duration, Timestamp } from "@bufbuild/protobuf/wkt";

/** The seconds that a Timestamp has as JSON: 0001-01-01 to 9999-12-31. */
const FIRST_SECOND = -62_135_596_800n;
const LAST_SECOND = 253_402_300_799n;
/** The most seconds of a Duration as JSON, either way: about 10,000 years. */
const MOST_SECONDS = 315_576_000_000n;
const LAST_NANO = 999_999_999;

/** The last millisecond that a Timestamp can show. */
export const lastMs = Number(LAST_SECOND) * 1_000 + 999;

/** The rule that a time breaks, as what follows its name; undefined for one that can be shown. */
export function brokenTime({ seconds, nanos }: Pick<Timestamp, "seconds" | "nanos">): string | undefined {
  if (seconds < FIRST_SECOND || seconds > LAST_SECOND)
    return `of ${seconds} seconds, outside of the years 1 to 9999`;
  if (nanos < 0 || nanos > LAST_NANO) return `with ${nanos} nanos, which must be from 0 to ${LAST_NANO}`;
  return undefined;
}

/** True for a duration that can be shown. */
export function canShowDuration({ seconds, nanos }: Pick<Duration, "seconds" | "nanos">): boolean {
  const sameSign = seconds === 0n || nanos === 0 || seconds > 0n === nanos > 0;
  return sameSign && seconds >= -MOST_SECONDS && seconds <= MOST_SECONDS && Math.abs(nanos) <= LAST_NANO;
}
