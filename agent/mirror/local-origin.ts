/**
 * Resources of origin `local`, which people wrote: what a deletion means, and how one that cannot be
 * read is answered.
 */
import type { Condition } from "@moorage/shared/conditions/conditions";
import { mergeConditions } from "@moorage/shared/conditions/conditions";
import type { AgentSession } from "../kube/client.ts";
import { isNotFound } from "../kube/errors.ts";
import type { MirrorKind } from "./mirror.ts";
import type { Entry } from "./record.ts";

/** Whether our namespace or the definition of `kind` is being deleted: then no deletion in it is an order. */
export async function homeGoes(session: AgentSession, namespace: string, kind: MirrorKind): Promise<boolean> {
  const plural = `${kind.toLowerCase()}s.moorage.dev`;
  const refs = [
    { apiVersion: "v1", kind: "Namespace", name: namespace },
    { apiVersion: "apiextensions.k8s.io/v1", kind: "CustomResourceDefinition", name: plural },
  ];
  for (const ref of refs) {
    try {
      const object = await session.get(ref, { metadataOnly: true });
      if (object.metadata.deletionTimestamp !== undefined) return true;
    } catch (thrown) {
      if (isNotFound(thrown)) continue;
      throw thrown;
    }
  }
  return false;
}

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
