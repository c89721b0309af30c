import type { SyncPolicy } from "./sync.ts";

/** What the hub asks of its agents depends on how many there are: pure. */

/** Heartbeats a second that one hub process takes. Source: sync-and-store.md 1.2, rule 7. */
export const MAX_HEARTBEATS_PER_S = 500;
/** Reports of intermediate states a second; settled outcomes do not wait for their turn. */
export const MAX_STATUS_REPORTS_PER_S = 2_000;
/** A change of a policy by less than this share is not told: the fleet moves all the time. */
const TELL_SHARE = 0.2;
/** Least time over which agents come back. */
const MIN_SPREAD_MS = 1_000;

/**
 * The policy for a fleet: heartbeats stay below {@link MAX_HEARTBEATS_PER_S} and reports of what is still
 * under way below {@link MAX_STATUS_REPORTS_PER_S}, and all agents that lose
 * their streams at one moment come back no faster than they are admitted. A fixed `reconnectSpreadMs`
 * (above 0) is kept.
 */
export function scaledPolicy(
  base: SyncPolicy,
  fleet: { connected: number; acceptsPerSecond: number },
): SyncPolicy {
  const heartbeat = (fleet.connected / MAX_HEARTBEATS_PER_S) * 1_000;
  const spread = (fleet.connected / fleet.acceptsPerSecond) * 1_000;
  const status = (fleet.connected / MAX_STATUS_REPORTS_PER_S) * 1_000;
  return {
    ...base,
    statusMinIntervalMs: Math.max(base.statusMinIntervalMs, Math.ceil(status)),
    heartbeatIntervalMs: Math.max(base.heartbeatIntervalMs, Math.ceil(heartbeat)),
    reconnectSpreadMs:
      base.reconnectSpreadMs > 0 ? base.reconnectSpreadMs : Math.max(MIN_SPREAD_MS, Math.ceil(spread)),
  };
}

/** Whether an agent that was told `told` is to be told `now`. */
export function worthTelling(told: SyncPolicy, now: SyncPolicy): boolean {
  const moved = (a: number, b: number) => Math.abs(a - b) > TELL_SHARE * Math.max(a, 1);
  return (
    moved(told.heartbeatIntervalMs, now.heartbeatIntervalMs) ||
    moved(told.reconnectSpreadMs, now.reconnectSpreadMs) ||
    moved(told.statusMinIntervalMs, now.statusMinIntervalMs) ||
    told.maxRemovalsPerSync !== now.maxRemovalsPerSync
  );
}
