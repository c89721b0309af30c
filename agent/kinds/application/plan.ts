/**
 * From what was observed of one application to its conditions. Pure.
 *
 * A reconcile walks the stages in order and stops at the first that blocks; this file says what each
 * observation means, and how the stages sum up in Ready, Reconciling and Stalled. A stage that was
 * not reached is left out: its condition keeps what it said of the running generation, or is Unknown.
 */
import type { ApplyResult, ObjectOutcomeSummary } from "./observed.ts";

/** A condition without times and generation, which the setter adds. */
export interface Fact {
  type: string;
  status: "True" | "False" | "Unknown";
  reason: string;
  message: string;
}

/** Every condition of an Application but the abnormal-true pair, in the order of the stages. */
export const stageTypes = [
  "BundleFetched",
  "BundleVerified",
  "ParametersValid",
  "DependenciesReady",
  "ApprovalGranted",
  "WindowOpen",
  "Applied",
  "Healthy",
  "Drifted",
  "FieldConflict",
  "PruneHeld",
  "Suspended",
  "RolledBack",
  "Deleting",
] as const;

/** How a reconcile ended, for Ready and for the queue. */
export type Verdict =
  | { kind: "settled" }
  /** Waits for an event; `message` says for what. */
  | { kind: "waiting"; reason: string; message: string }
  /** Failed in a way that may pass. */
  | { kind: "retrying"; reason: string; message: string; retryAfterMs?: number }
  /** Failed until the spec or a cause changes. */
  | { kind: "stalled"; reason: string; message: string };

/** Names that are printed of a longer list. */
const NAMED = 3;

/** Facts and verdict of a run of the apply engine. */
export function judge(result: ApplyResult): { facts: Fact[]; verdict: Verdict } {
  const facts: Fact[] = [
    driftFact(result),
    conflictFact(result),
    result.pruneHeld === undefined
      ? { type: "PruneHeld", status: "False", reason: "NotHeld", message: "" }
      : {
          type: "PruneHeld",
          status: "True",
          reason: "Held",
          message: `${result.pruneHeld.reason}: ${result.pruneHeld.message}`,
        },
  ];
  if (result.invalid !== undefined) {
    const { message } = result.invalid;
    const reason = "Invalid";
    facts.push({ type: "Applied", status: "False", reason, message });
    return { facts, verdict: { kind: "stalled", reason, message } };
  }
  const stalled = result.objects.find((o) => o.action === "Stalled" || o.action === "Conflict");
  const retry = result.objects.find((o) => o.action === "Retry");
  const first = stalled ?? retry;
  if (first !== undefined) {
    const message = `${first.name}: ${first.message}${others(result.objects, first)}`;
    const reason = stalled === undefined ? "Progressing" : failureReason(first);
    facts.push({ type: "Applied", status: "False", reason, message });
    return {
      facts,
      verdict:
        stalled === undefined
          ? {
              kind: "retrying",
              reason: "Retrying",
              message,
              ...(result.retryAfterMs === undefined ? {} : { retryAfterMs: result.retryAfterMs }),
            }
          : { kind: "stalled", reason, message },
    };
  }
  if (!result.applied) {
    const message = result.waitingFor.slice(0, NAMED).join("; ") || "Some objects are not applied yet";
    facts.push({ type: "Applied", status: "False", reason: "Progressing", message });
    return { facts, verdict: { kind: "waiting", reason: "Progressing", message } };
  }
  facts.push({
    type: "Applied",
    status: "True",
    reason: "Applied",
    message: `${result.objects.length} objects are applied`,
  });
  return { facts: [...facts, healthFact(result)], verdict: healthVerdict(result) };
}

/** Ready, Reconciling and Stalled of a verdict; the last two are left out while false. */
export function readiness(verdict: Verdict): Fact[] {
  switch (verdict.kind) {
    case "settled":
      return [{ type: "Ready", status: "True", reason: "Ready", message: "Applied and healthy" }];
    case "waiting": {
      const ready: Fact = {
        type: "Ready",
        status: "False",
        reason: verdict.reason,
        message: verdict.message,
      };
      // A pause or a suspension is wanted: nothing is under way.
      if (verdict.reason === "Paused" || verdict.reason === "Suspended") return [ready];
      return [
        ready,
        {
          type: "Reconciling",
          status: "True",
          reason: verdict.reason === "Unhealthy" ? "Progressing" : verdict.reason,
          message: verdict.message,
        },
      ];
    }
    case "retrying":
      return [
        { type: "Ready", status: "False", reason: "Progressing", message: verdict.message },
        { type: "Reconciling", status: "True", reason: verdict.reason, message: verdict.message },
      ];
    case "stalled":
      return [
        { type: "Ready", status: "False", reason: verdict.reason, message: verdict.message },
        { type: "Stalled", status: "True", reason: verdict.reason, message: verdict.message },
      ];
  }
}

/** The engine's reason as one that the condition catalogue knows. */
function failureReason(o: ObjectOutcomeSummary): string {
  switch (o.reason) {
    case "Forbidden":
    case "KindNotInstalled":
    case "QuotaExceeded":
      return o.reason;
    case "ImmutableField":
      return "Immutable";
    default:
      return "Invalid";
  }
}

function driftFact(result: ApplyResult): Fact {
  if (result.drifted.length === 0)
    return { type: "Drifted", status: "False", reason: "NoDrift", message: "" };
  return {
    type: "Drifted",
    status: result.driftRepaired ? "False" : "True",
    reason: result.driftRepaired ? "NoDrift" : "Drifted",
    message: `${some(result.drifted)} ${result.driftRepaired ? "was changed by others and is repaired" : "was changed by others; the drift policy leaves it"}`,
  };
}

function conflictFact(result: ApplyResult): Fact {
  const c = result.objects.find((o) => o.action === "Conflict");
  if (c === undefined) return { type: "FieldConflict", status: "False", reason: "NoConflict", message: "" };
  return { type: "FieldConflict", status: "True", reason: "Conflict", message: `${c.name}: ${c.message}` };
}

function healthFact(result: ApplyResult): Fact {
  const { status, message } = result.health;
  switch (status) {
    case "Current":
      return { type: "Healthy", status: "True", reason: "Healthy", message: "" };
    case "Failed":
      return { type: "Healthy", status: "False", reason: "Unhealthy", message };
    case "Unknown":
      return { type: "Healthy", status: "Unknown", reason: "Pending", message };
    default:
      return { type: "Healthy", status: "False", reason: "Progressing", message };
  }
}

function healthVerdict(result: ApplyResult): Verdict {
  const { status, message } = result.health;
  if (status === "Current") {
    return result.waitingFor.length === 0
      ? { kind: "settled" }
      : { kind: "waiting", reason: "Progressing", message: result.waitingFor.slice(0, NAMED).join("; ") };
  }
  // A failed workload may recover by itself: the watch tells, no retry does.
  return {
    kind: "waiting",
    reason: status === "Failed" ? "Unhealthy" : "Progressing",
    message: message || `The workload is ${status}`,
  };
}

function others(objects: readonly ObjectOutcomeSummary[], first: ObjectOutcomeSummary): string {
  const n = objects.filter((o) => o !== first && ["Stalled", "Conflict", "Retry"].includes(o.action)).length;
  return n === 0 ? "" : ` (and ${n} more)`;
}

function some(items: readonly string[]): string {
  return items.length > NAMED
    ? `${items.slice(0, NAMED).join(", ")} and ${items.length - NAMED} more`
    : items.join(", ");
}
