import type { Clock, Timer } from "@moorage/shared/clock";
import type { LeaseId } from "./store.ts";

/** The lives of leases by the monotonic clock; keys and persistence are the engine's. */
export interface Leases {
  /** Starts, or starts again, the life of a lease. */
  add(id: LeaseId, ttlMs: number): void;
  /** Restarts its life; false if it is not alive. */
  touch(id: LeaseId): boolean;
  /** Forgets it without expiry. */
  remove(id: LeaseId): void;
  /** Stops all timers. */
  close(): void;
}

/** How long an expiry waits that could not be written, for want of space. */
const RETRY_MS = 1_000;

/**
 * Lives on `clock`. `expire` is called once a life is over; from then on the lease is not alive. It
 * resolves false to be called again later.
 */
export function leaseClock(clock: Clock, expire: (id: LeaseId) => Promise<boolean>): Leases {
  const alive = new Map<LeaseId, { ttlMs: number; deadline: number; timer: Timer }>();

  const arm = (id: LeaseId, ttlMs: number, delayMs: number): void => {
    alive.get(id)?.timer.cancel();
    const timer = clock.setTimer(delayMs, () => onTimer(id));
    alive.set(id, { ttlMs, deadline: clock.monotonicMs() + delayMs, timer });
  };

  const onTimer = (id: LeaseId): void => {
    const lease = alive.get(id);
    if (lease === undefined) return;
    const left = lease.deadline - clock.monotonicMs();
    // A timer may fire a moment early, or is capped: never expire on its word alone.
    if (left > 0) {
      lease.timer = clock.setTimer(left, () => onTimer(id));
      return;
    }
    alive.delete(id);
    void expire(id).then((done) => {
      if (!done) arm(id, lease.ttlMs, RETRY_MS);
    });
  };

  return {
    add: (id, ttlMs) => arm(id, ttlMs, ttlMs),
    touch(id) {
      const lease = alive.get(id);
      if (lease === undefined) return false;
      arm(id, lease.ttlMs, lease.ttlMs);
      return true;
    },
    remove(id) {
      alive.get(id)?.timer.cancel();
      alive.delete(id);
    },
    close() {
      for (const lease of alive.values()) lease.timer.cancel();
      alive.clear();
    },
  };
}
