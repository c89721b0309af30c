import { evaluate } from "../health/evaluate.ts";
import { DEFAULT_RULES } from "../health/rules.ts";
import type { HealthRule } from "../health/health.ts";
import type { KubeSession } from "../kube/client.ts";
import type { Discovery } from "../kube/discovery.ts";
import {
  compareResourceVersions,
  dig,
  groupOf,
  versionOf,
  type FieldsV1,
  type KubeObject,
} from "../kube/object.ts";
import {
  APPLICATION_LABEL,
  APPLY_ANNOTATION,
  ON_REMOVE_ANNOTATION,
  PART_OF_LABEL,
  SUSPEND_ANNOTATION,
} from "./labels.ts";
import { ownHashes, withoutPath, type IgnoredPath } from "./projection.ts";
import { atServedVersion } from "./served.ts";
import { idKey, type LiveState, type LiveView, type ObjectId } from "./types.ts";

/** Live objects, reduced to what the engine compares: about 1 KB instead of 10 to 20. */

/** What reducing depends on. Must be the same for the watch and for answers, or hashes differ. */
export interface ReduceContext {
  /** Wall time, milliseconds. */
  now(): number;
  /** Beside {@link DEFAULT_RULES}, which come first. */
  rules?: readonly HealthRule[];
  crdHasStatus?(apiVersion: string, kind: string): boolean | undefined;
  /** Fields of one object that belong to others (section 8). */
  ignored?(id: ObjectId): readonly IgnoredPath[];
}

/** Annotations that are kept: those that hold a prune back, and our own switches. */
const KEPT_ANNOTATIONS = [
  APPLY_ANNOTATION,
  SUSPEND_ANNOTATION,
  ON_REMOVE_ANNOTATION,
  "cli-utils.sigs.k8s.io/on-remove",
  "client.lifecycle.config.k8s.io/deletion",
  "helm.sh/resource-policy",
  "argocd.argoproj.io/sync-options",
] as const;

/** The field that an autoscaler writes. */
const REPLICAS: IgnoredPath = ["f:spec", "f:replicas"];

/** The identity of a live object. */
export function idOf(object: KubeObject): ObjectId {
  return {
    group: groupOf(object.apiVersion),
    kind: object.kind,
    namespace: object.metadata.namespace ?? "",
    name: object.metadata.name,
  };
}

/** Reduces an object as the API server sent it. */
export function reduceMember(object: KubeObject, context: ReduceContext): LiveState {
  const id = idOf(object);
  const { metadata } = object;
  const annotations: Record<string, string> = {};
  for (const key of KEPT_ANNOTATIONS) {
    const value = metadata.annotations?.[key];
    if (value !== undefined) annotations[key] = value;
  }
  const partOf = metadata.labels?.[PART_OF_LABEL];
  const application = metadata.labels?.[APPLICATION_LABEL];
  const ignored = context.ignored?.(id) ?? [];
  const hasStatus = context.crdHasStatus?.(object.apiVersion, object.kind);
  return {
    id,
    version: versionOf(object.apiVersion),
    uid: metadata.uid ?? "",
    resourceVersion: metadata.resourceVersion ?? "",
    ownHashes: ownHashes(object, ignored),
    ...(dig(object, "spec", "replicas") === undefined
      ? {}
      : { autoscaledHashes: ownHashes(object, [...ignored, REPLICAS]) }),
    formerManagers: formerManagers(object),
    ...(partOf === undefined ? {} : { partOf }),
    ...(application === undefined ? {} : { application }),
    deleting: metadata.deletionTimestamp !== undefined,
    finalizers: metadata.finalizers ?? [],
    annotations,
    owners: (metadata.ownerReferences ?? []).map((o) => `${o.kind}/${o.name}`),
    health: evaluate(object, {
      now: context.now(),
      rules: [...DEFAULT_RULES, ...(context.rules ?? [])],
      ...(hasStatus === undefined ? {} : { crdHasStatus: hasStatus }),
    }),
  };
}

/** Managers of people and of tools that applied before us: their fields are migrated to us. */
export const FORMER_MANAGER = /^(kubectl|before-first-apply|helm|kustomize|flux|argocd|argo-cd|work-agent)/i;

/** Paths that belong to people without being drift: undoing a rollout restart would be a second rollout. */
export const NEUTRAL_PATHS: readonly (readonly string[])[] = [
  ["f:spec", "f:template", "f:metadata", "f:annotations", "f:kubectl.kubernetes.io/restartedAt"],
  ["f:metadata", "f:annotations", "f:kubectl.kubernetes.io/last-applied-configuration"],
];

/** Former managers that own something beside {@link NEUTRAL_PATHS}; sorted. */
export function formerManagers(object: KubeObject): string[] {
  const found = new Set<string>();
  for (const entry of object.metadata.managedFields ?? []) {
    if (!FORMER_MANAGER.test(entry.manager ?? "") || (entry.subresource ?? "") !== "") continue;
    if (contentOf(entry.fieldsV1 ?? {}) !== undefined) found.add(entry.manager as string);
  }
  return [...found].sort();
}

/** A field set without the neutral paths; undefined when nothing else is in it. */
export function contentOf(fields: FieldsV1): FieldsV1 | undefined {
  let left: FieldsV1 | undefined = Object.keys(fields).length === 0 ? undefined : fields;
  for (const path of NEUTRAL_PATHS) left = left === undefined ? undefined : withoutPath(left, path);
  return left;
}

/** Deleted uids remembered: far more than a watch can lag behind. */
const GONE_MAX = 5_000;

/**
 * A LiveView for one cluster: filled by reflectors (`observe`, `forget`) and by the engine's own
 * answers, whichever is newer. An answer thus counts until the watch has caught up with it.
 */
export class LiveCache implements LiveView {
  #states = new Map<string, LiveState>();
  /** Uids whose deletion was answered: a late watch event must not bring them back. */
  #gone = new Map<string, string>();
  #read: { session: KubeSession; discovery: Discovery; reduce: ReduceContext };
  #onChange: ((live: LiveState | undefined, id: ObjectId) => void) | undefined;

  constructor(read: {
    session: KubeSession;
    discovery: Discovery;
    reduce: ReduceContext;
    onChange?: (live: LiveState | undefined, id: ObjectId) => void;
  }) {
    this.#read = read;
    this.#onChange = read.onChange;
  }

  get size(): number {
    return this.#states.size;
  }

  get(id: ObjectId): LiveState | undefined {
    return this.#states.get(idKey(id));
  }

  async fetch(id: ObjectId, version: string): Promise<LiveState | undefined> {
    const { session, discovery, reduce } = this.#read;
    const object = await atServedVersion(discovery, { id, version }, (ref) => session.get(ref));
    if (object === undefined) return undefined;
    const live = reduceMember(object, reduce);
    this.observe(live);
    return live;
  }

  observe(live: LiveState): void {
    const key = idKey(live.id);
    if (this.#gone.get(key) === live.uid) return;
    const old = this.#states.get(key);
    // Versions of one kind are ordered across objects too: a late event of a former bearer is older.
    if (old !== undefined && compareResourceVersions(live.resourceVersion, old.resourceVersion) < 0) return;
    this.#gone.delete(key);
    this.#states.set(key, live);
    if (old?.resourceVersion !== live.resourceVersion) this.#onChange?.(live, live.id);
  }

  forget(id: ObjectId, uid: string): void {
    const key = idKey(id);
    const old = this.#states.get(key);
    if (old !== undefined && uid !== "" && old.uid !== uid) return;
    if (uid !== "") this.#remember(key, uid);
    if (this.#states.delete(key)) this.#onChange?.(undefined, id);
  }

  #remember(key: string, uid: string): void {
    this.#gone.delete(key);
    this.#gone.set(key, uid);
    if (this.#gone.size <= GONE_MAX) return;
    for (const oldest of this.#gone.keys()) {
      this.#gone.delete(oldest);
      return;
    }
  }

  /** All states, for a full compare; do not keep the iterator across an await. */
  states(): IterableIterator<LiveState> {
    return this.#states.values();
  }
}
