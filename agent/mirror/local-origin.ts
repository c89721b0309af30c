/** How a resource of origin `local`, which people wrote, is answered when it cannot be read. */
import type { Condition } from "@moorage/shared/conditions/conditions";
import { mergeConditions } from "@moorage/shared/conditions/conditions";
import type { MirrorRecord } from "./mirror.ts";
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

/** A record of origin local as the kinds see it: it bears its name alone, and its tenant is here. */
export function localView(
  record: MirrorRecord,
  byName: (name: string) => readonly MirrorRecord[],
): MirrorRecord | undefined {
  const bearer = byName(record.name).find((r) => r.uid !== record.uid && r.removal === undefined);
  if (bearer !== undefined && record.removal === undefined) return undefined;
  if (
    record.body.kind !== "Application" ||
    record.body.value.tenantUid !== "" ||
    !record.name.startsWith("tenants/")
  )
    return record;
  // People name the tenant, they do not know its uid.
  const tenants = byName(record.name.split("/").slice(0, 2).join("/"));
  const tenant = tenants.find((t) => t.removal === undefined) ?? tenants[0];
  if (tenant === undefined) return undefined;
  return {
    ...record,
    body: { kind: "Application", value: { ...record.body.value, tenantUid: tenant.uid } },
  };
}
