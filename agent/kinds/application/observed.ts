/** What the conditions need of a run of the apply engine, in words: see agent/apply/apply-set.ts. */
import type { ApplyResult as EngineResult } from "../../apply/apply-set.ts";
import { describeId } from "../../apply/types.ts";
import type { ObjectAction } from "../../apply/types.ts";

/** One object's outcome, named for people. */
export interface ObjectOutcomeSummary {
  name: string;
  action: ObjectAction;
  reason: string;
  message: string;
}

/** A run's result, reduced to what an operator is told. */
export interface ApplyResult {
  objects: readonly ObjectOutcomeSummary[];
  applied: boolean;
  waitingFor: readonly string[];
  health: { status: string; message: string };
  drifted: readonly string[];
  driftRepaired: boolean;
  pruneHeld: { reason: string; message: string } | undefined;
  invalid: { reason: string; message: string } | undefined;
  retryAfterMs: number | undefined;
}

/** Reduces the engine's result; `correct` tells that drift was repaired and not only reported. */
export function observe(result: EngineResult, correct: boolean): ApplyResult {
  return {
    objects: result.objects.map((o) => ({
      name: describeId(o.id),
      action: o.action,
      reason: o.reason,
      message: o.message,
    })),
    applied: result.applied,
    waitingFor: result.waitingFor.map((w) => `${describeId(w.id)}: ${w.message}`),
    health: { status: result.health.status, message: result.health.message },
    drifted: result.drifted.map(describeId),
    driftRepaired: correct,
    pruneHeld:
      result.pruneHeld === undefined
        ? undefined
        : { reason: result.pruneHeld.reason, message: result.pruneHeld.message },
    invalid: result.invalid,
    retryAfterMs: result.retryAfterMs,
  };
}
