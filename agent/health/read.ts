import type { Health, HealthStatus, UnknownObject } from "./health.ts";

/** Total readers of untrusted JSON: a value of the wrong type reads as absent. */

/** A condition with every field a string. */
export interface Condition {
  type: string;
  status: string;
  reason: string;
  message: string;
  observedGeneration: number | undefined;
}

/** The longest message that is kept, in characters. */
const MESSAGE_MAX = 512;

/** A verdict with high confidence. Reason and message are cut to fit a condition. */
export function health(status: HealthStatus, reason: string, message: string): Health {
  const safe = reason.replace(/[^A-Za-z0-9_,:]/g, "").slice(0, 128);
  return {
    status,
    reason: safe === "" ? status : safe,
    message: message.slice(0, MESSAGE_MAX),
    confidence: "high",
  };
}

/** The value under `keys`; undefined where the path ends early. */
export function dig(value: unknown, ...keys: string[]): unknown {
  let at: unknown = value;
  for (const key of keys) {
    if (typeof at !== "object" || at === null || Array.isArray(at) || !Object.hasOwn(at, key))
      return undefined;
    at = (at as Record<string, unknown>)[key];
  }
  return at;
}

/** A string, or `""`. */
export function str(value: unknown): string {
  return typeof value === "string" ? value : "";
}

/** A finite number, or undefined. */
export function num(value: unknown): number | undefined {
  return typeof value === "number" && Number.isFinite(value) ? value : undefined;
}

/** An array, or an empty one. */
export function list(value: unknown): readonly unknown[] {
  return Array.isArray(value) ? value : [];
}

/** The conditions at `path` (default `status.conditions`), malformed ones left out. */
export function conditionsOf(
  object: UnknownObject,
  path: readonly string[] = ["status", "conditions"],
): Condition[] {
  const out: Condition[] = [];
  for (const raw of list(dig(object, ...path))) {
    const type = str(dig(raw, "type"));
    if (type === "") continue;
    out.push({
      type,
      status: str(dig(raw, "status")),
      reason: str(dig(raw, "reason")),
      message: str(dig(raw, "message")),
      observedGeneration: num(dig(raw, "observedGeneration")),
    });
  }
  return out;
}

/** The first condition of `type`. */
export function findCondition(conditions: readonly Condition[], type: string): Condition | undefined {
  return conditions.find((c) => c.type === type);
}

/** Milliseconds since creation, or undefined when the object does not say. */
export function ageMs(object: UnknownObject, now: number): number | undefined {
  const created = Date.parse(str(dig(object, "metadata", "creationTimestamp")));
  return Number.isNaN(created) ? undefined : now - created;
}
