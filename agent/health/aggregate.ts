import type { Health, HealthStatus } from "./health.ts";

/**
 * Worst-of order (Argo CD's). Unknown is worst because nothing may hide it; it shows as
 * `Healthy=Unknown`, never as a failed application.
 */
const ORDER: Readonly<Record<HealthStatus, number>> = {
  Current: 0,
  Suspended: 1,
  Terminating: 2,
  InProgress: 2,
  NotFound: 3,
  Failed: 4,
  Unknown: 5,
};

/** Negative when `a` is better than `b`. Terminating ranks with InProgress. */
export function compareHealth(a: HealthStatus, b: HealthStatus): number {
  return ORDER[a] - ORDER[b];
}

/**
 * The worst of `parts`, independent of their order; the empty set is Current. Ties keep the verdict
 * whose text sorts first, and low confidence anywhere among the worst shows.
 */
export function aggregate(parts: readonly Health[]): Health {
  let worst: Health = { status: "Current", reason: "Current", message: "", confidence: "high" };
  let any = false;
  for (const part of parts) {
    const order = any ? compareHealth(part.status, worst.status) : 1;
    if (order > 0 || (order === 0 && sortKey(part) < sortKey(worst))) worst = part;
    any = true;
  }
  return worst;
}

function sortKey(h: Health): string {
  return `${h.confidence === "low" ? 0 : 1}\u0000${h.status}\u0000${h.reason}\u0000${h.message}`;
}
