import type { KindRef } from "./object.ts";

/** What the API server says about one kind. */
export interface ResourceType extends KindRef {
  /** The path segment, e.g. `deployments`. */
  plural: string;
  namespaced: boolean;
  /** The kind declares a `/status` subresource. */
  hasStatus: boolean;
  verbs: readonly string[];
}

/** Kinds by name, cached per group-version. */
export interface Discovery {
  /**
   * The type of `kind`. A kind that the cache lacks is looked up once more, at most once in 5 s per
   * group-version; after that it throws KubeError 404, reason `KindNotInstalled`.
   */
  resolve(kind: KindRef): Promise<ResourceType>;
  /** The cached answer, or undefined: never a call. */
  cached(kind: KindRef): ResourceType | undefined;
  /**
   * The preferred version of a group-kind that is installed. Undefined only after every version that the
   * cluster lists was read anew and none has the kind; an answer that cannot be read is a KubeError.
   */
  preferredVersion(group: string, kind: string): Promise<string | undefined>;
  /** Forgets one group-version, or all: call it on CRD and APIService events. */
  invalidate(apiVersion?: string): void;
}
