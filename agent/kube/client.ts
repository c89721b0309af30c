import type { Discovery } from "./discovery.ts";
import type { KindRef, KubeObject, ObjectRef } from "./object.ts";

/**
 * The API server as the agent sees it. Two engines implement it and pass one conformance suite
 * (client.conformance.ts): http-client.ts for real clusters, memory-cluster.ts for the simulation.
 *
 * Contract:
 * - Objects are raw JSON both ways; what a method returns is the caller's own copy.
 * - Every failure is a {@link KubeError}; a call that gets no answer within 30 s is one of status 0.
 *   Nothing is retried here: the callers' back-off is the only one.
 * - Who writes is part of the type. {@link KubeClient} itself has no verbs: a session comes from
 *   `asAgent()` (our own resources) or from `asServiceAccount()` (members of a tenant), so that a
 *   write to a tenant's object without an identity cannot be expressed.
 */
export interface KubeClient {
  /** Kinds and scopes; shared by all sessions. */
  readonly discovery: Discovery;
  /** The agent's own credentials. */
  asAgent(): AgentSession;
  /**
   * Impersonates `system:serviceaccount:<namespace>:<name>`; the server adds the groups. Throws when
   * either is empty: an empty user name would mean "nobody in particular", that is, the agent.
   */
  asServiceAccount(account: ServiceAccountRef): ServiceAccountSession;
  /** Body of a GET on a path outside the resource model, e.g. `/version`. */
  rawGet(path: string): Promise<string>;
  /** Ends every call and watch under way. */
  close(): Promise<void>;
}

/** A ServiceAccount by name. A missing one is no error; a missing binding is a 403. */
export interface ServiceAccountRef {
  namespace: string;
  name: string;
}

/** Whose permissions a session's calls are checked against. */
export type AppliedAs =
  { readonly kind: "Agent" } | ({ readonly kind: "ServiceAccount" } & Readonly<ServiceAccountRef>);

/** A session with the agent's own rights. */
export type AgentSession = KubeSession<{ readonly kind: "Agent" }>;
/** A session with a ServiceAccount's rights. */
export type ServiceAccountSession = KubeSession<
  { readonly kind: "ServiceAccount" } & Readonly<ServiceAccountRef>
>;

/** The verbs, under one identity. */
export interface KubeSession<Identity extends AppliedAs = AppliedAs> {
  readonly identity: Identity;
  /** The object. 404 when absent. */
  get(ref: ObjectRef, options?: CallOptions): Promise<KubeObject>;
  /** One page. Follow `continue` until absent; 410 when the page's snapshot expired. */
  list(kind: KindRef, options?: ListOptions): Promise<ListPage>;
  /** POST. 409 `AlreadyExists`. With `generateName` the server names it. */
  create(object: KubeObject, options?: WriteOptions): Promise<WriteAnswer>;
  /** PUT. With `metadata.resourceVersion` it is a compare-and-set: 409 `Conflict` when stale. */
  update(object: KubeObject, options?: WriteOptions & { subresource?: "status" }): Promise<WriteAnswer>;
  /** Server-side apply, strict: unknown fields are errors. Creates when absent. */
  apply(object: KubeObject, options: ApplyOptions): Promise<WriteAnswer>;
  /**
   * Writes `object.status` through `/status`, by apply (default) or merge patch. Metadata but name,
   * namespace and resourceVersion is not sent.
   */
  patchStatus(object: KubeObject, options: StatusOptions): Promise<WriteAnswer>;
  /** RFC 6902; a failed `test` is 422. */
  jsonPatch(
    ref: ObjectRef,
    operations: readonly JsonPatchOperation[],
    options?: WriteOptions & { subresource?: "status" },
  ): Promise<WriteAnswer>;
  /** RFC 7386. A `metadata.resourceVersion` in `patch` makes it a compare-and-set. */
  mergePatch(
    ref: ObjectRef,
    patch: Record<string, unknown>,
    options?: WriteOptions & { subresource?: "status" },
  ): Promise<WriteAnswer>;
  /** 404 when absent; 409 when a precondition does not hold. */
  delete(ref: ObjectRef, options?: DeleteOptions): Promise<DeleteAnswer>;
  /**
   * Raw lines of a watch, each one JSON `{type, object}`. Ends when the server closes the stream;
   * throws KubeError when it refuses or the connection breaks, and the signal's reason on abort.
   */
  watch(kind: KindRef, options: WatchOptions): AsyncIterable<string>;
}

/** Options of any call. */
export interface CallOptions {
  signal?: AbortSignal;
  /** Ask for `PartialObjectMetadata`: no spec, no status. */
  metadataOnly?: boolean;
}

/** Options of a write. `fieldManager` defaults to `moorage-agent` outside apply. */
export interface WriteOptions {
  signal?: AbortSignal;
  fieldManager?: string;
  /** Validate and answer as if written, write nothing. */
  dryRun?: boolean;
}

/** Options of a server-side apply. */
export interface ApplyOptions extends WriteOptions {
  /** 1 to 128 printable characters. */
  fieldManager: string;
  /** Take fields over from other managers instead of 409. */
  force?: boolean;
}

/** Options of a status write. */
export interface StatusOptions extends WriteOptions {
  fieldManager: string;
  /** Default `apply`, with force: a status field has one writer. */
  mode?: "apply" | "merge";
}

/** Options of a delete. */
export interface DeleteOptions {
  signal?: AbortSignal;
  /** Delete this very object only, never one recreated under its name. */
  uid?: string;
  resourceVersion?: string;
  /** Default `Background`. */
  propagationPolicy?: "Background" | "Foreground" | "Orphan";
  gracePeriodSeconds?: number;
  dryRun?: boolean;
}

/** Options of a list; `limit` is the page size. */
export interface ListOptions extends CallOptions {
  /** Absent: all namespaces. */
  namespace?: string;
  labelSelector?: string;
  fieldSelector?: string;
  limit?: number;
  continue?: string;
  resourceVersion?: string;
  resourceVersionMatch?: "Exact" | "NotOlderThan";
}

/** Options of a watch; without `resourceVersion` it starts at the newest. */
export interface WatchOptions {
  signal: AbortSignal;
  namespace?: string;
  labelSelector?: string;
  fieldSelector?: string;
  resourceVersion?: string;
  /** Streaming list (KEP-3157): ADDED for all, then a bookmark `k8s.io/initial-events-end`. */
  sendInitialEvents?: boolean;
  timeoutSeconds?: number;
  metadataOnly?: boolean;
}

/** One page of a list. Items carry apiVersion and kind even though the wire leaves them out. */
export interface ListPage {
  items: KubeObject[];
  resourceVersion: string;
  continue?: string;
  remainingItemCount?: number;
}

/** A write's answer: the stored object, whether it is new (201), and `Warning: 299` texts. */
export interface WriteAnswer {
  object: KubeObject;
  created: boolean;
  warnings: readonly string[];
}

/** A delete's answer. `object` is present while finalizers or grace keep it alive. */
export interface DeleteAnswer {
  object?: KubeObject;
}

/** One operation of RFC 6902. */
export interface JsonPatchOperation {
  op: "add" | "remove" | "replace" | "test" | "move" | "copy";
  path: string;
  value?: unknown;
  from?: string;
}

/** Time without an answer after which a call fails with status 0, reason `Timeout`. */
export const CALL_TIMEOUT_MS = 30_000;

/** The user name of a ServiceAccount. Throws when a part is empty. */
export function serviceAccountUser(account: ServiceAccountRef): string {
  if (account.namespace === "" || account.name === "") {
    throw new Error(
      `Cannot impersonate ServiceAccount "${account.namespace}/${account.name}": namespace and name must not be empty`,
    );
  }
  return `system:serviceaccount:${account.namespace}:${account.name}`;
}
