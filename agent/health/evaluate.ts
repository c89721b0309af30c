import { builtinHealth } from "./builtin.ts";
import { childFailure } from "./children.ts";
import {
  STATUS_GRACE_MS,
  type Health,
  type HealthContext,
  type HealthRule,
  type HealthStatus,
  type UnknownObject,
} from "./health.ts";
import { applyRule } from "./rules.ts";
import { ageMs, conditionsOf, dig, findCondition, health, list, num, str, type Condition } from "./read.ts";

/**
 * The health of one object: total on any JSON, pure, fails closed. The first step that decides wins:
 * deletion, stale generation, the application's own rule, rules by kind, Reconciling and Stalled,
 * built-in kinds, Ready, and the floor for kinds that nobody knows. A workload that is InProgress is
 * looked into: a failed child makes it Failed.
 */
export function evaluate(object: UnknownObject, context: HealthContext): Health {
  const verdict = withoutChildren(object, context);
  if (verdict.status !== "InProgress" || context.children === undefined) return verdict;
  return childFailure(context.children, context.now) ?? verdict;
}

function withoutChildren(object: UnknownObject, context: HealthContext): Health {
  if (str(dig(object, "metadata", "deletionTimestamp")) !== "") {
    return health(
      "Terminating",
      "Terminating",
      `Finalizers: ${
        list(dig(object, "metadata", "finalizers"))
          .map(String)
          .join(", ") || "none"
      }`,
    );
  }
  const generation = num(dig(object, "metadata", "generation"));
  const observed = num(dig(object, "status", "observedGeneration"));
  if (generation !== undefined && observed !== undefined && generation !== observed) {
    return health(
      "InProgress",
      "ObservedGenerationStale",
      `Generation ${generation} not yet observed (${observed})`,
    );
  }
  return (
    context.custom?.(object) ??
    byRules(object, context.rules ?? []) ??
    byProgressConditions(object) ??
    builtinHealth(object, context.now) ??
    byReady(object) ??
    floor(object, context)
  );
}

function byRules(object: UnknownObject, rules: readonly HealthRule[]): Health | undefined {
  const key = kindKey(object);
  for (let i = rules.length - 1; i >= 0; i--) {
    const rule = rules[i] as HealthRule;
    if (rule.kinds.includes(key)) return applyRule(object, rule);
  }
  return undefined;
}

/** `group/Kind` of an object; core kinds are `/Kind`. */
export function kindKey(object: UnknownObject): string {
  const apiVersion = str(object["apiVersion"]);
  const slash = apiVersion.indexOf("/");
  return `${slash < 0 ? "" : apiVersion.slice(0, slash)}/${str(object["kind"])}`;
}

/** Conditions whose own observedGeneration is not older than the object. */
function fresh(object: UnknownObject): Condition[] {
  const generation = num(dig(object, "metadata", "generation"));
  return conditionsOf(object).filter(
    (c) =>
      c.observedGeneration === undefined || generation === undefined || c.observedGeneration >= generation,
  );
}

function byProgressConditions(object: UnknownObject): Health | undefined {
  const conditions = fresh(object);
  const reconciling = findCondition(conditions, "Reconciling");
  if (reconciling?.status === "True")
    return health("InProgress", reconciling.reason || "Reconciling", reconciling.message);
  const stalled = findCondition(conditions, "Stalled");
  if (stalled?.status === "True") return health("Failed", stalled.reason || "Stalled", stalled.message);
  return undefined;
}

function byReady(object: UnknownObject): Health | undefined {
  const any = findCondition(conditionsOf(object), "Ready");
  if (any === undefined) return undefined;
  const ready = findCondition(fresh(object), "Ready");
  if (ready === undefined)
    return health("InProgress", "ReadyStale", "The Ready condition is of an older generation");
  const status: HealthStatus = ready.status === "True" ? "Current" : "InProgress";
  return health(status, ready.reason || "Ready", ready.message);
}

/** Condition types that are bad while True, as operators spell them. */
const ABNORMAL =
  /^(Failed|Failure|Error|Errored|Degraded|Unhealthy|Broken|Invalid|Faulted)$|(Failed|Failure|Error|Degraded)$/;
const DECIDING = ["Ready", "Available", "Healthy", "Succeeded", "Complete", "Completed"];
const GOOD_WORDS = new Set([
  "ready",
  "running",
  "active",
  "available",
  "healthy",
  "succeeded",
  "completed",
  "complete",
  "bound",
  "deployed",
  "synced",
]);
const BAD_WORDS = new Set([
  "failed",
  "error",
  "errored",
  "degraded",
  "unhealthy",
  "lost",
  "invalid",
  "rejected",
]);

function floor(object: UnknownObject, context: HealthContext): Health {
  if (context.crdHasStatus === false) return health("Current", "NoStatus", "The kind declares no status");
  const status = dig(object, "status");
  if (typeof status !== "object" || status === null || Object.keys(status).length === 0) {
    const age = ageMs(object, context.now);
    if (age !== undefined && age >= STATUS_GRACE_MS) {
      return {
        ...health("Current", "StatusNotReported", "No controller has reported a status"),
        confidence: "low",
      };
    }
    return health("InProgress", "StatusNotReported", "No status yet");
  }
  const conditions = fresh(object);
  const bad = conditions.find((c) => c.status === "True" && ABNORMAL.test(c.type));
  if (bad !== undefined) return health("Failed", bad.reason || bad.type, bad.message);
  for (const type of DECIDING) {
    const condition = findCondition(conditions, type);
    if (condition === undefined) continue;
    return health(
      condition.status === "True" ? "Current" : "InProgress",
      condition.reason || type,
      condition.message,
    );
  }
  for (const field of ["phase", "state"]) {
    const word = str(dig(object, "status", field));
    if (GOOD_WORDS.has(word.toLowerCase())) return health("Current", "Phase", `${field} is ${word}`);
    if (BAD_WORDS.has(word.toLowerCase())) return health("Failed", "Phase", `${field} is ${word}`);
  }
  return health(
    "InProgress",
    "StatusNotUnderstood",
    "No known condition or phase says that the object is ready",
  );
}
