import { KubeError, type StatusCause } from "../kube/errors.ts";
import { MANAGER_PREFIX } from "./projection.ts";
import { type ObjectAction, Superseded, type Wait } from "./types.ts";

/** What a failed apply means: the table of section 5 as a pure function of the answer. */
export interface FailureOutcome {
  action: ObjectAction;
  reason: string;
  message: string;
  fields: readonly string[];
  ambiguous: boolean;
  retryAfterMs?: number;
  /** Set with `Waiting`. */
  wait?: Wait["reason"];
  /** Conflicts with people, tools and controllers only: the same apply may be forced. */
  forceable?: boolean;
  /** The payload or somebody's managedFields do not fit the schema; an old version's entry may be why. */
  schema?: boolean;
  /** The change is refused because a field that we change is immutable. */
  immutable?: boolean;
}

/** What the verdict depends on beside the answer. */
export interface FailureContext {
  /** The kind's CRD is in the set, and established by now: "no such kind" passes. */
  crdInSet: boolean;
  /** Whether our payload differs from the live object at a field, e.g. `spec.selector`. */
  changes(field: string): boolean;
}

/** One cause of a 409 by another field manager. */
export interface ManagerConflict {
  manager: string;
  field: string;
}

/** The outcome of an apply that threw. Anything else but a KubeError is a bug of ours and is thrown on. */
export function outcomeOf(thrown: unknown, context: FailureContext): FailureOutcome {
  if (thrown instanceof Superseded) {
    const { name: reason, message } = thrown;
    return { action: "Skipped", reason, message, fields: [], ambiguous: false };
  }
  if (!(thrown instanceof KubeError)) throw thrown;
  const { status } = thrown;
  if (thrown.reason === "KindNotInstalled") return noSuchKind(thrown, context);
  switch (status) {
    case 409:
      return conflict(thrown);
    case 422:
      return invalid(thrown, context);
    case 404:
      // The only other 404 of an apply is a namespace that is not there.
      return { ...base(thrown), action: "Waiting", reason: "NamespaceNotFound", wait: "Dependency" };
    case 403:
      if (thrown.causes.some((c) => c.reason === "NamespaceTerminating")) {
        return {
          ...base(thrown),
          action: "Waiting",
          reason: "NamespaceTerminating",
          wait: "NamespaceTerminating",
        };
      }
      if (/exceeded quota/.test(thrown.message))
        return { ...base(thrown), action: "Stalled", reason: "QuotaExceeded" };
      return { ...base(thrown), action: "Stalled", reason: "Forbidden" };
    case 400:
    case 405:
    case 413:
    case 415:
      return { ...base(thrown), action: "Stalled", reason: status === 413 ? "TooLarge" : "Rejected" };
    case 500:
      // The server's answer to a field outside of the schema (tried on 1.37.2): no retry will help.
      if (/failed to create (typed patch|manager for)|field not declared in schema/.test(thrown.message)) {
        return { ...base(thrown), ambiguous: false, action: "Stalled", reason: "Invalid", schema: true };
      }
      return { ...base(thrown), action: "Retry", reason: transientReason(thrown) };
    default:
      return { ...base(thrown), action: "Retry", reason: transientReason(thrown) };
  }
}

function base(error: KubeError) {
  return {
    message: error.message,
    fields: error.causes.map((c) => c.field).filter((f) => f !== ""),
    ambiguous: error.ambiguous,
    ...(error.retryAfterMs === undefined ? {} : { retryAfterMs: error.retryAfterMs }),
  };
}

function noSuchKind(error: KubeError, context: FailureContext): FailureOutcome {
  // With its CRD established the kind is served within moments: no event will say so.
  return context.crdInSet
    ? { ...base(error), action: "Retry", reason: "KindNotInstalled" }
    : { ...base(error), action: "Stalled", reason: "KindNotInstalled" };
}

function conflict(error: KubeError): FailureOutcome {
  const conflicts = managerConflicts(error.causes);
  if (conflicts.length === 0) {
    // ResourceQuota's own update, a stale uid or resourceVersion: gone at the next try.
    return {
      ...base(error),
      action: "Retry",
      reason: error.reason === "AlreadyExists" ? "AlreadyExists" : "Conflict",
    };
  }
  const ours = conflicts.filter((c) => c.manager.startsWith(MANAGER_PREFIX));
  const named = ours.length > 0 ? ours : conflicts;
  const managers = [...new Set(named.map((c) => c.manager))].sort().join(", ");
  return {
    ...base(error),
    action: "Conflict",
    reason: "FieldConflict",
    message: `Fields are owned by ${managers}: ${named.map((c) => c.field).join(", ")}`,
    fields: named.map((c) => c.field),
    forceable: ours.length === 0,
  };
}

/** The managers and fields of a server-side-apply conflict, from the causes' texts. */
export function managerConflicts(causes: readonly StatusCause[]): ManagerConflict[] {
  const out: ManagerConflict[] = [];
  for (const cause of causes) {
    if (cause.reason !== "FieldManagerConflict") continue;
    const match = /^conflict with ("(?:[^"\\]|\\.)*")/.exec(cause.message);
    out.push({
      manager: match === null ? "" : (JSON.parse(match[1] as string) as string),
      field: cause.field,
    });
  }
  return out;
}

const IMMUTABLE =
  /field is immutable|is immutable|may not be changed|updates to .* are forbidden|Forbidden: updates to statefulset spec|immutable after creation|cannot be changed|may not change once set/i;

function invalid(error: KubeError, context: FailureContext): FailureOutcome {
  // A webhook may say "is immutable" of a field that is not ours: only a field that we change counts.
  const immutable = error.causes.filter((c) => IMMUTABLE.test(c.message) && context.changes(c.field));
  if (immutable.length > 0) {
    return {
      ...base(error),
      action: "Stalled",
      reason: "ImmutableField",
      fields: immutable.map((c) => c.field),
      immutable: true,
    };
  }
  return { ...base(error), action: "Stalled", reason: "Invalid" };
}

function transientReason(error: KubeError): string {
  if (error.status === 0) return error.reason;
  if (error.status === 429) return "TooManyRequests";
  if (/failed calling webhook/.test(error.message)) return "WebhookFailed";
  return error.status >= 500 ? "ServerError" : "Unexpected";
}
