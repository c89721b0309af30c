import type { Rev } from "./store.ts";

/**
 * Where a new epoch begins. Its revisions lie above all that were ever given: also above those of a history
 * that this store does not know, as when the same backup is restored a second time.
 */

/** How far an epoch begins above the last revision known, where the clock cannot tell. */
export const EPOCH_JUMP = 1_000_000_000;

/** Revisions for each millisecond of the clock: more than any store writes for long, so that none overtakes it. */
const REVS_PER_MS = 100;

/**
 * Revisions that a clock may stand for, those of 15 digits: one that was never set says less, one set wrong says
 * more. Readers of JSON look closer at a number of 16 digits, and most revisions are left above.
 */
const FIRST_OF_CLOCK = 100_000_000_000_000;
const LAST_OF_CLOCK = 999_999_999_999_999;

/**
 * The revision above which an epoch begins at `nowMs`, in a store whose head is `head`: the clock's, which no
 * store of this history has reached by now, however often it was restored. A clock that says less than the
 * head, or nothing plausible, is passed over for {@link EPOCH_JUMP}.
 */
export function epochStart(head: Rev, nowMs: number): Rev {
  const ofClock = Math.floor(nowMs * REVS_PER_MS);
  if (ofClock > head && ofClock >= FIRST_OF_CLOCK && ofClock <= LAST_OF_CLOCK) return ofClock;
  return head + EPOCH_JUMP;
}

/** Where the epoch of a store began that does not say so; 0 while history is whole. */
export const unsaidStart = (restoredRev: Rev): Rev => (restoredRev === 0 ? 0 : restoredRev + EPOCH_JUMP);
