/**
 * What the link needs of the mirror, in the protocol's own words: the link knows nothing of Kubernetes,
 * and any other keeper of desired state could stand behind it.
 */
import type { Cursor } from "@moorage/proto/moorage/common/v1/cursor_pb";
import type { ResourceStatus, Update } from "@moorage/proto/moorage/agent/v1/sync_pb";

/** One received batch: updates in the order of their revisions. `cursor` is set at a revision boundary only. */
export interface Batch {
  updates: readonly Update[];
  cursor: Cursor | undefined;
}

/** One held resource as the hub is told of it. */
export interface HeldRecord {
  name: string;
  uid: string;
  /** SHA-256 of the newest body received, accepted or not. */
  digest: Uint8Array;
  revision: number;
  /** Ordered to go. */
  removing: boolean;
}

/** A change of a resource's status. `settled`: final for its generation, not to be delayed. */
export interface StatusChange {
  uid: string;
  settled: boolean;
}

/** See the module's text. */
export interface SyncStore {
  /**
   * Resolves once every update, those of all earlier batches and the cursor are durable. A resource
   * that cannot be written yet delays this promise and holds up no other resource. Rejects only when
   * `signal` aborts.
   */
  apply(batch: Batch, signal: AbortSignal): Promise<void>;
  /** The durable position; undefined when nothing was ever received. */
  cursor(): Cursor | undefined;
  /** All resources of origin hub. */
  held(): HeldRecord[];
  /** The newest status by uid, `gone` ones included; undefined for an unknown uid. */
  status(uid: string): ResourceStatus | undefined;
  /** The newest status of every resource of origin hub. */
  statuses(): ResourceStatus[];
  /** Calls `fn` on each change of a status; returns the way out. */
  onStatus(fn: (change: StatusChange) => void): () => void;
  /** The hub has this status: one that was `gone` is forgotten. */
  acknowledged(status: ResourceStatus): void;
}
