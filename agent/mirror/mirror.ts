/**
 * The mirror: desired state as custom resources of the cluster, the agent's only memory.
 *
 * The link writes it (an update is durable here before it is acked), the kinds read it and write
 * status. Nothing else in the agent keeps desired state. Rules (design README section 7):
 *
 * - A record is named for the resource *and its uid*; another uid under the same name is another
 *   record, and both may exist while the older one is being removed.
 * - The received body is the truth and is kept as bytes; `digest` is its SHA-256.
 * - A removal is a field of the record (`removal`), can be held and withdrawn, and is never inferred:
 *   a record of origin `hub` that disappears from the cluster is written anew from memory.
 * - An update whose revision is not above the one held for its uid is ignored.
 */
import type { ApplicationBody, DataPlaneBody, TenantBody } from "@moorage/proto/moorage/agent/v1/body_pb";
import type { Condition } from "@moorage/shared/conditions/conditions";

/** The kinds of records. */
export type MirrorKind = "DataPlane" | "Tenant" | "Application";

/** Who gives the orders for a record: the hub's stream, or people with kubectl (private SaaS). */
export type Origin = "hub" | "local";

/** The order to remove a resource. */
export interface Removal {
  /** Hub revision of the tombstone; 0 for origin `local`. */
  revision: number;
  /** Forget the resource and leave its objects. */
  orphan: boolean;
  /** For an exact guarded set; empty when none was given. */
  authorization: Uint8Array;
}

/** The decoded body by kind. */
export type Body =
  | { kind: "DataPlane"; value: DataPlaneBody }
  | { kind: "Tenant"; value: TenantBody }
  | { kind: "Application"; value: ApplicationBody };

/** What the kinds report about a record; written to the resource's status and sent to the hub. */
export interface RecordStatus {
  observedGeneration: number;
  conditions: readonly Condition[];
  /** Application: what was applied whole. */
  applied?: { generation: number; version: string; digest: string };
  /** Tenant: its namespaces in the cluster. */
  namespaces?: readonly string[];
}

/** One mirrored resource. Immutable: a change gives a new object. */
export interface MirrorRecord {
  kind: MirrorKind;
  /** metadata.name of the custom resource, e.g. `acme.web.1f0c9a3b`. */
  objectName: string;
  /** metadata.uid of the custom resource. */
  objectUid: string;
  /** Resource name, e.g. `tenants/acme/applications/web`. */
  name: string;
  /** The hub's uid; metadata.uid for origin `local`. The *application uid* of field managers, inventories and labels. */
  uid: string;
  origin: Origin;
  revision: number;
  generation: number;
  /** SHA-256 of the body, hexadecimal. */
  digest: string;
  body: Body;
  /** Set while the resource is to go. */
  removal: Removal | undefined;
  /** Status as it stands in the cluster. */
  status: RecordStatus | undefined;
  /** Set when the newest revision was refused: the last accepted one stays in `body`. */
  rejected: { revision: number; reason: string; message: string } | undefined;
}

/** Read and status side of the mirror, for the kinds. */
export interface Mirror {
  /** All records of a kind, in no particular order. */
  list(kind: MirrorKind): readonly MirrorRecord[];
  /** The record with this uid. */
  get(uid: string): MirrorRecord | undefined;
  /** Records with this resource name: at most one without `removal`. */
  byName(name: string): readonly MirrorRecord[];
  /** Calls `fn` with the uid of each record that changed in spec, removal or existence; returns the way out. */
  subscribe(fn: (uid: string) => void): () => void;
  /** True once the cluster's records were all read. */
  readonly synced: boolean;
  /**
   * Writes the status when it differs from the one held, and offers it to the link at the same time.
   * `settled` marks the first outcome that is final for a generation: the link sends it at once.
   */
  setStatus(uid: string, status: RecordStatus, options: { settled: boolean }): Promise<void>;
  /** The removal of `uid` is complete: deletes the record and reports `gone` to the hub. */
  finishRemoval(uid: string): Promise<void>;
}
