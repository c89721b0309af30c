/**
 * Conditions: the facts a resource's status states. A list holds each type once. All functions are
 * pure and return the very list they were given when nothing changed, so that a caller may write
 * status on `!==` only. `lastTransitionTime` moves on a flip of status and on nothing else.
 */
import { limits } from "../limits.ts";

/** What is known of a fact. Absence of a condition reads as Unknown. */
export type ConditionStatus = "True" | "False" | "Unknown";

/** One stated fact, in the shape of Kubernetes' metav1.Condition. */
export interface Condition {
  /** CamelCase name of the fact, unique within a resource; see catalogue.ts. */
  type: string;
  status: ConditionStatus;
  /** Stable CamelCase word for programs; never empty. */
  reason: string;
  /** One line for a person; at most `limits.conditionMessageBytes`, cut with a marker. */
  message: string;
  /** RFC 3339, by the owner's clock: when `status` last changed. */
  lastTransitionTime: string;
  /** The generation of the spec that was observed. */
  observedGeneration: number;
}

/** A condition as its setter states it: the list knows the transition time. */
export type ConditionInput = Omit<Condition, "lastTransitionTime">;

/** Ends a message that was cut. */
export const truncationMarker = "… (truncated)";

/** Cuts a text to `maxBytes` of UTF-8 between code points, with a marker when anything was cut. */
export function truncateMessage(text: string, maxBytes: number = limits.conditionMessageBytes): string {
  if (Buffer.byteLength(text) <= maxBytes) return text;
  let room = maxBytes - Buffer.byteLength(truncationMarker);
  let out = "";
  for (const point of text) {
    room -= Buffer.byteLength(point);
    if (room < 0) break;
    out += point;
  }
  return out + truncationMarker;
}

/** The condition of a type, or undefined. */
export function getCondition(list: readonly Condition[], type: string): Condition | undefined {
  return list.find((condition) => condition.type === type);
}

/** A type's status; Unknown when absent. */
export function statusOf(list: readonly Condition[], type: string): ConditionStatus {
  return getCondition(list, type)?.status ?? "Unknown";
}

/** True when the type's status is True for at least `generation` (any, when left out). */
export function isTrue(list: readonly Condition[], type: string, generation = 0): boolean {
  const condition = getCondition(list, type);
  return condition?.status === "True" && condition.observedGeneration >= generation;
}

/**
 * The list with one condition stated. Beyond `limits.conditionsPerResource` types a new one is
 * dropped, for status must never wedge.
 * @param now wall-clock time in milliseconds, of the owner's clock.
 */
export function setCondition(
  list: readonly Condition[],
  stated: ConditionInput,
  now: number,
): readonly Condition[] {
  const index = list.findIndex((condition) => condition.type === stated.type);
  const old = list[index];
  const message = truncateMessage(stated.message);
  if (old === undefined && list.length >= limits.conditionsPerResource) return list;
  if (
    old !== undefined &&
    old.status === stated.status &&
    old.reason === stated.reason &&
    old.message === message &&
    old.observedGeneration === stated.observedGeneration
  ) {
    return list;
  }
  const next: Condition = {
    type: stated.type,
    status: stated.status,
    reason: stated.reason,
    message,
    lastTransitionTime:
      old !== undefined && old.status === stated.status
        ? old.lastTransitionTime
        : new Date(now).toISOString(),
    observedGeneration: stated.observedGeneration,
  };
  return old === undefined ? [...list, next] : list.with(index, next);
}

/** The list without a type: for `Reconciling` and `Stalled`, present only while true. */
export function removeCondition(list: readonly Condition[], type: string): readonly Condition[] {
  return list.some((condition) => condition.type === type) ? list.filter((c) => c.type !== type) : list;
}

/** Several conditions stated at once, in order; see {@link setCondition}. */
export function mergeConditions(
  list: readonly Condition[],
  stated: readonly ConditionInput[],
  now: number,
): readonly Condition[] {
  return stated.reduce((merged, condition) => setCondition(merged, condition, now), list);
}
