/** The named limits of a running hub, so that what it enforces can be read back. */
import { limits } from "@moorage/shared/limits";
import type { Metrics } from "@moorage/shared/metrics";

/** One series for each named limit; `configured` are those that an option has changed. */
export function limitMetrics(
  metrics: Metrics,
  configured: Partial<Record<keyof typeof limits, number>>,
): void {
  metrics.gauge({
    name: "moorage_hub_limit",
    help: "Named limits as this hub has them; the name says the unit: Bytes, Ms, else a count or a ratio",
    labels: { limit: "open" },
    collect(g) {
      for (const [limit, value] of Object.entries({ ...limits, ...configured })) g.set(value, { limit });
    },
  });
}
