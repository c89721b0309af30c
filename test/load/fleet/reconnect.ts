/** When a protocol-only agent dials again: the rules of agent/link, as a pure function. */
import type { Rng } from "@moorage/shared/rng";
import { type Backoff, backoffMs } from "@moorage/shared/service";

/** Between dials that failed. */
const BACKOFF: Backoff = { baseMs: 1_000, capMs: 120_000 };

/** How the last stream ended. */
export interface Ended {
  /** The hello was answered. */
  established: boolean;
  /** The hub said Goodbye with this delay. */
  goodbyeMs: number | undefined;
  /** RetryInfo of the status. */
  retryAfterMs: number | undefined;
}

/** Milliseconds to wait. `attempt` counts the dials that failed since the last stream that was up. */
export function reconnectDelayMs(ended: Ended, on: { attempt: number; spreadMs: number; rng: Rng }): number {
  if (ended.goodbyeMs !== undefined) return ended.goodbyeMs;
  if (ended.retryAfterMs !== undefined) return ended.retryAfterMs * (1 + on.rng.float() * 0.2);
  if (ended.established) return on.rng.float() * on.spreadMs;
  return backoffMs(BACKOFF, on.attempt, on.rng);
}
