import type { Health, UnknownObject } from "./health.ts";
import { conditionsOf, dig, findCondition, health, str } from "./read.ts";
import { pod } from "./workloads.ts";

/**
 * The failure that the children of a workload in progress show, if any: a pod that is Failed, crashes
 * in a loop or stays unschedulable (kstatus), or a ReplicaSet that cannot create pods (kapp).
 */
export function childFailure(children: readonly UnknownObject[], now: number): Health | undefined {
  for (const child of children) {
    const name = str(dig(child, "metadata", "name"));
    if (str(dig(child, "metadata", "deletionTimestamp")) !== "") continue;
    if (child["kind"] === "Pod") {
      const verdict = pod(child, now);
      if (verdict.status === "Failed")
        return health("Failed", verdict.reason, `Pod ${name}: ${verdict.message}`);
    }
    if (child["kind"] === "ReplicaSet") {
      const failure = findCondition(conditionsOf(child), "ReplicaFailure");
      if (failure?.status === "True")
        return health("Failed", failure.reason || "FailedCreate", `ReplicaSet ${name}: ${failure.message}`);
    }
  }
  return undefined;
}
