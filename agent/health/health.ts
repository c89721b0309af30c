/**
 * What an object's health is, as a pure function of the object. Nothing here reads a clock or calls
 * anything. Health fails closed: "no rule matched" is not "healthy".
 */

/** The verdicts, in no order; see {@link ./aggregate.ts} for the order of badness. */
export type HealthStatus =
  "Current" | "InProgress" | "Failed" | "Suspended" | "Terminating" | "NotFound" | "Unknown";

/** A verdict with its reason (CamelCase, bounded) and a message for people. */
export interface Health {
  status: HealthStatus;
  reason: string;
  message: string;
  /** `low`: nothing in the object says so; it is the floor's guess. */
  confidence: "high" | "low";
}

/** Any JSON: health is total, so the input need not be a valid object. */
export type UnknownObject = Readonly<Record<string, unknown>>;

/** What `evaluate` may look at beside the object. */
export interface HealthContext {
  /** Wall time, milliseconds since the epoch. */
  now: number;
  /** Rules by `group/Kind`, tried before the built-in kinds; later entries win. Default: none. */
  rules?: readonly HealthRule[];
  /** The application's own rule, tried first. Undefined from it means "does not apply". */
  custom?: (object: UnknownObject) => Health | undefined;
  /** Whether the kind declares `/status`. Undefined counts as declared: fail closed. */
  crdHasStatus?: boolean;
  /** Pods (and ReplicaSets) of a workload; looked at only while it is InProgress. */
  children?: readonly UnknownObject[];
}

/**
 * A rule as data: almost every kind maps one condition or one phase string. Order of evaluation:
 * suspendedWhen, conditions (first that decides), phase, absent.
 */
export interface HealthRule {
  /** `group/Kind`; core kinds are `/Kind`. */
  kinds: readonly string[];
  /** Dotted path = value (compared as JSON). */
  suspendedWhen?: readonly { path: string; value: unknown }[];
  conditions?: readonly ConditionRule[];
  phase?: PhaseRule;
  /** When nothing decided. Default InProgress. */
  absent?: HealthStatus;
  /** Where the row was read: the CRD's own documentation. */
  reference: string;
}

/** One condition's meaning. A state that is not named decides nothing. */
export interface ConditionRule {
  type: string;
  /** Dotted path of the list; default `status.conditions`. */
  path?: string;
  True?: HealthStatus;
  False?: HealthStatus;
  Unknown?: HealthStatus;
  /** By reason, ahead of the three above. */
  reasons?: Readonly<Record<string, HealthStatus>>;
}

/** A phase string's meaning. A value that no list names is InProgress. */
export interface PhaseRule {
  path: string;
  Current?: readonly string[];
  InProgress?: readonly string[];
  Failed?: readonly string[];
  Suspended?: readonly string[];
}

/** How old an object without any status may be before the floor calls it Current, low confidence. */
export const STATUS_GRACE_MS = 60_000;
/** How long a pod may be unschedulable before it counts as failed (kstatus). */
export const UNSCHEDULABLE_GRACE_MS = 15_000;
