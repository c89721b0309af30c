/**
 * What must hold before an application is applied. Pure: from the mirror's records to facts, the
 * first gate that is closed ends the walk.
 */
import type { ApplicationSpec } from "@moorage/proto/moorage/hub/v1/application_pb";
import { isTrue } from "@moorage/shared/conditions/conditions";
import type { MirrorRecord } from "../../mirror/mirror.ts";
import type { Fact } from "../status.ts";

/** What the gates look at. */
export interface GateInput {
  spec: ApplicationSpec;
  /** The tenant's record; undefined at data-plane scope, `missing` when the tenant is not in the mirror. */
  tenant: MirrorRecord | undefined | "missing";
  /** The records that depends_on names, in its order; undefined for one that is not in the mirror. */
  dependencies: readonly { name: string; record: MirrorRecord | undefined }[];
  /** This application's own record names a generation that runs already. */
  appliedGeneration: number | undefined;
  generation: number;
}

/** A closed gate: facts, and whether it opens by an event (`waiting`) or is wanted (`suspended`). */
export interface Closed {
  facts: Fact[];
  reason: string;
  message: string;
}

/** The facts of all gates, and the first closed one. */
export function gates(input: GateInput): { facts: Fact[]; closed: Closed | undefined } {
  const facts: Fact[] = [
    { type: "ApprovalGranted", status: "True", reason: "NotRequired", message: "" },
    { type: "WindowOpen", status: "True", reason: "NoWindow", message: "" },
    { type: "RolledBack", status: "False", reason: "NotRolledBack", message: "" },
    { type: "Deleting", status: "False", reason: "NotRequested", message: "" },
    input.spec.suspended
      ? {
          type: "Suspended",
          status: "True",
          reason: "Suspended",
          message: "spec.suspended is true: nothing is changed",
        }
      : { type: "Suspended", status: "False", reason: "NotSuspended", message: "" },
  ];
  const close = (reason: string, message: string) => ({ facts, closed: { facts, reason, message } });
  if (input.spec.suspended) return close("Suspended", "spec.suspended is true: nothing is changed");
  if (input.tenant === "missing")
    return close("AwaitingDependencies", "The tenant is not in this data plane yet");
  if (input.tenant !== undefined) {
    const { tenant } = input;
    if (tenant.removal !== undefined)
      return close("AwaitingDependencies", `Tenant "${tenant.name}" is being removed`);
    if (
      !isTrue(tenant.status?.conditions ?? [], "NamespaceReady") ||
      !isTrue(tenant.status?.conditions ?? [], "IsolationEnforced")
    ) {
      return close(
        "AwaitingDependencies",
        `Tenant "${tenant.name}" has no namespace with its fence in place yet`,
      );
    }
    if (isTrue(tenant.status?.conditions ?? [], "Frozen") && input.appliedGeneration !== input.generation) {
      return close(
        "AwaitingWindow",
        `Tenant "${tenant.name}" is frozen: generation ${input.generation} waits`,
      );
    }
  }
  const waiting = input.dependencies.filter((d) => !ready(d.record)).map((d) => d.name);
  if (waiting.length > 0) {
    const message = `Waits until ready: ${waiting.slice(0, 3).join(", ")}${waiting.length > 3 ? ` and ${waiting.length - 3} more` : ""}`;
    const missing = input.dependencies.some((d) => d.record === undefined);
    facts.push({
      type: "DependenciesReady",
      status: "False",
      reason: missing ? "NotFound" : "AwaitingDependencies",
      message,
    });
    return close("AwaitingDependencies", message);
  }
  facts.push(
    input.dependencies.length === 0
      ? { type: "DependenciesReady", status: "True", reason: "NoDependencies", message: "" }
      : { type: "DependenciesReady", status: "True", reason: "Ready", message: "" },
  );
  return { facts, closed: undefined };
}

/** Ready for its own current generation: an older generation's Ready says nothing of the newer. */
function ready(record: MirrorRecord | undefined): boolean {
  return (
    record !== undefined &&
    record.removal === undefined &&
    isTrue(record.status?.conditions ?? [], "Ready", record.generation)
  );
}
