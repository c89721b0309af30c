import type { Health } from "../health/health.ts";

/**
 * The data of the apply engine: what an application wants, what it has, and what a run did. The pure
 * parts (normalise, plan, projection, outcome, inventory, prune candidates) and the parts that make
 * calls (apply-object, prune, run) share these and nothing else.
 */

/** An object's identity. The version is no part of it; `namespace` is `""` for cluster scope. */
export interface ObjectId {
  group: string;
  kind: string;
  namespace: string;
  name: string;
}

/** Where an inventory entry stands. `Pending`: written ahead, or its last write's fate is unknown. */
export type EntryState = "Pending" | "Applied" | "Failed" | "Skipped" | "Pruning" | "Kept";

/** One member of an application, as the Inventory resource stores it. */
export interface InventoryEntry extends ObjectId {
  version: string;
  /** Empty until the first answer. */
  uid: string;
  /** {@link ./hash.ts} of the desired object at the last successful apply; empty before. */
  desiredHash: string;
  /** ownHash of the server's answer to that apply; empty before. */
  appliedHash: string;
  /** Phase of the plan, for a prune in reverse order. */
  phase: number;
  state: EntryState;
}

/** What is known of a live object: small enough to keep for every member (~1 KB). */
export interface LiveState {
  id: ObjectId;
  version: string;
  uid: string;
  resourceVersion: string;
  /** Hash of the fields owned by each `moorage.*` Apply manager. */
  ownHashes: Readonly<Record<string, string>>;
  /** The same without `spec.replicas`, where there is one: what counts when an autoscaler owns it. */
  autoscaledHashes?: Readonly<Record<string, string>>;
  /** Managers of people and former tools (kubectl, helm) that own fields, subresources apart. */
  formerManagers: readonly string[];
  /** `applyset.kubernetes.io/part-of`, if labelled. */
  partOf?: string;
  /** `moorage.dev/application` label, to name the other side of a conflict. */
  application?: string;
  deleting: boolean;
  finalizers: readonly string[];
  /** Annotations that hold prune back or suspend: only those keys the engine knows. */
  annotations: Readonly<Record<string, string>>;
  /** Owner references' uids and controllers, `kind/name`. */
  owners: readonly string[];
  health: Health;
}

/** Lookup of live objects: a reflector's cache, with GETs behind it. */
export interface LiveView {
  /** What the cache holds; undefined: not there, or not labelled as ours. Never a call. */
  get(id: ObjectId): LiveState | undefined;
  /**
   * A fresh read, at the version that is served when `version` is not; undefined: not there. Asked once,
   * before the first contact with a new name.
   */
  fetch(id: ObjectId, version: string): Promise<LiveState | undefined>;
  /** Told of each write's answer, so that a cache behind the watch does not mislead the next run. */
  observe(live: LiveState): void;
  /** Told that a delete has been answered with "gone". */
  forget(id: ObjectId, uid: string): void;
}

/** What one desired object's turn came to. */
export type ObjectAction =
  | "Unchanged" // two hashes agree: no call
  | "Created"
  | "Configured" // PATCH changed a field of ours
  | "Confirmed" // PATCH changed nothing of ours
  | "Skipped" // suspended, present, or a dependency failed
  | "Waiting" // dependency not Current, terminating, namespace or kind not there yet
  | "Retry" // transient: back off
  | "Conflict" // another application owns a field or the object
  | "Stalled"; // permanent until something changes

/** One desired object's outcome. */
export interface ObjectOutcome {
  id: ObjectId;
  action: ObjectAction;
  /** CamelCase, for a condition's reason. */
  reason: string;
  message: string;
  /** Names of fields concerned, e.g. of an invalid or conflicting one. */
  fields: readonly string[];
  /** The write may have been committed although it failed. */
  ambiguous: boolean;
  warnings: readonly string[];
  /** Set on Retry when the server named a delay. */
  retryAfterMs?: number;
  /** On a repair of drift: true. */
  drift: boolean;
  /** The entry's new content after a success. */
  entry?: InventoryEntry;
  live?: LiveState;
}

/** Something a run must be woken for. */
export interface Wait {
  id: ObjectId;
  reason: "Health" | "Terminating" | "NamespaceTerminating" | "Deleting" | "Dependency";
  message: string;
}

/** One pruned, held or abandoned object. */
export interface PruneOutcome {
  id: ObjectId;
  action: "Deleted" | "Deleting" | "Kept" | "Abandoned" | "Recreated" | "Failed";
  reason: string;
  message: string;
}

/** A prune that waits for an approval which names `planDigest`. */
export interface PruneHold {
  reason: "TooMany" | "ProtectedKind" | "EmptyDesiredSet";
  message: string;
  planDigest: string;
  ids: readonly ObjectId[];
}

/** What a run was started for no longer holds: thrown in place of a write, and an outcome of its own. */
export class Superseded extends Error {
  override readonly name = "Superseded";
  constructor() {
    super("The order, the gate or the Lease changed in the middle of the run");
  }
}

/** The stable text of an identity: `group/Kind/namespace/name`. */
export function idKey(id: ObjectId): string {
  return `${id.group}/${id.kind}/${id.namespace}/${id.name}`;
}

/** Orders identities by group, kind, namespace, name (code units). */
export function compareIds(a: ObjectId, b: ObjectId): number {
  const x = idKey(a);
  const y = idKey(b);
  return x < y ? -1 : x > y ? 1 : 0;
}

/** For people: `Deployment.apps shop/web`. */
export function describeId(id: ObjectId): string {
  const kind = id.group === "" ? id.kind : `${id.kind}.${id.group}`;
  return `${kind} ${id.namespace === "" ? id.name : `${id.namespace}/${id.name}`}`;
}
