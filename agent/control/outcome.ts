/**
 * What a reconcile came to, and how that shows. One switch in loop.ts acts on it; one function here
 * maps it to conditions. Knows no kind.
 */

/** The four ends of a reconcile. */
export type Outcome =
  /** Settled: Ready. The next event brings it back, or the full compare after `recheckAfterMs`. */
  | { kind: "done"; recheckAfterMs?: number }
  /** Under way: look again after `afterMs` (a deadline, a poll) if no event comes first. */
  | { kind: "again"; afterMs: number; reason?: string; message?: string }
  /** Transient failure: back off. `minDelayMs` is a server's Retry-After. */
  | { kind: "retry"; reason: string; message: string; minDelayMs?: number }
  /** Never better by waiting: only a new generation or the curing event brings it back. */
  | { kind: "terminal"; reason: string; message: string };

/** What was decided by changed while it was carried out: all is read again at once. */
export const ANEW: Outcome = { kind: "again", afterMs: 0 };

/** Labels for metrics, set to 0 at start. */
export const OUTCOME_KINDS = ["done", "again", "retry", "terminal"] as const;

/** The part of a condition that an outcome decides; times and generation are the setter's. */
export interface ConditionUpdate {
  type: "Ready" | "Reconciling" | "Stalled";
  /** `Absent`: abnormal-true conditions are present only while true. */
  status: "True" | "False" | "Unknown" | "Absent";
  reason: string;
  message: string;
}

/**
 * Ready, Reconciling and Stalled for `outcome`. Ready=False/Progressing while Reconciling; Ready=False
 * with Stalled on a terminal failure; never both Reconciling and Stalled (kstatus reads ours too).
 */
export function conditionsOf(outcome: Outcome): ConditionUpdate[] {
  switch (outcome.kind) {
    case "done":
      return [
        { type: "Ready", status: "True", reason: "Succeeded", message: "" },
        absent("Reconciling"),
        absent("Stalled"),
      ];
    case "again":
      return progressing(outcome.reason ?? "Progressing", outcome.message ?? "");
    case "retry":
      return progressing(outcome.reason, outcome.message);
    case "terminal":
      return [
        { type: "Ready", status: "False", reason: outcome.reason, message: outcome.message },
        absent("Reconciling"),
        { type: "Stalled", status: "True", reason: outcome.reason, message: outcome.message },
      ];
  }
}

function progressing(reason: string, message: string): ConditionUpdate[] {
  return [
    { type: "Ready", status: "False", reason: "Progressing", message },
    { type: "Reconciling", status: "True", reason, message },
    absent("Stalled"),
  ];
}

function absent(type: ConditionUpdate["type"]): ConditionUpdate {
  return { type, status: "Absent", reason: "", message: "" };
}
