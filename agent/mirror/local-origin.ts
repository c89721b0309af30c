/** How a resource of origin `local`, which people wrote, is answered when it cannot be read. */
import type { Condition } from "@moorage/shared/conditions/conditions";
import { mergeConditions } from "@moorage/shared/conditions/conditions";
import type { Entry } from "./record.ts";

/** The conditions that tell why nothing is done about a resource; undefined when they say so already. */
export function refusedConditions(
  entry: Entry,
  message: string,
  nowMs: number,
): readonly Condition[] | undefined {
  const old = entry.record.status?.conditions ?? [];
  const stated = {
    type: "Ready",
    status: "False" as const,
    reason: "Malformed",
    message,
    observedGeneration: entry.record.generation,
  };
  const conditions = mergeConditions(old, [stated], nowMs);
  return conditions === old ? undefined : conditions;
}
