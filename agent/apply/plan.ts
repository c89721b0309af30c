import { dig } from "../kube/object.ts";
import { DEPENDS_ON_ANNOTATION } from "./labels.ts";
import type { NormalObject } from "./normalise.ts";
import { compareIds, describeId, idKey, type ObjectId } from "./types.ts";

/**
 * The order of a set, as a pure function of it: the same for any input order.
 *
 * Hard edges wait until the dependency is Current: custom resource -> its CRD, namespaced object ->
 * its Namespace, and depends-on annotations. Soft order only arranges: it is the stage of a kind, so
 * an object's phase is the greater of its stage and one more than its hard dependencies'. Where a
 * hard edge points against the stages the stage yields. `*Class` kinds come early but gate nothing:
 * a class whose controller is in the same set would wait for ever.
 */
export interface Plan {
  /** Non-empty phases in order; inside one sorted by kind order, then identity. */
  phases: readonly (readonly NormalObject[])[];
  /** Hard dependencies inside the set, by {@link idKey}. */
  hard: ReadonlyMap<string, readonly ObjectId[]>;
  phaseOf: ReadonlyMap<string, number>;
}

/** The plan, or why there is none: a cycle with its members' names, or a bad reference. */
export function plan(objects: readonly NormalObject[]): Plan | { error: string } {
  const byKey = new Map(objects.map((o) => [idKey(o.id), o]));
  const hard = new Map<string, ObjectId[]>();
  const crds = new Map<string, ObjectId>();
  for (const o of objects) {
    if (o.id.kind === "CustomResourceDefinition" && o.id.group === "apiextensions.k8s.io") {
      crds.set(
        `${String(dig(o.object, "spec", "group"))}/${String(dig(o.object, "spec", "names", "kind"))}`,
        o.id,
      );
    }
  }
  for (const o of objects) {
    const edges: ObjectId[] = [];
    const crd = crds.get(`${o.id.group}/${o.id.kind}`);
    if (crd !== undefined) edges.push(crd);
    const namespace: ObjectId = { group: "", kind: "Namespace", namespace: "", name: o.id.namespace };
    if (o.id.namespace !== "" && byKey.has(idKey(namespace))) edges.push(namespace);
    const named = dependsOn(o);
    if ("error" in named) return named;
    for (const id of named.ids) {
      if (!byKey.has(idKey(id)))
        return {
          error: `Cannot order ${describeId(o.id)}: it depends on ${describeId(id)}, which is not in the set`,
        };
      edges.push(id);
    }
    hard.set(idKey(o.id), edges);
  }
  const cycle = findCycle(hard);
  if (cycle !== undefined)
    return {
      error: `Cannot order the set: dependency cycle ${cycle.map((key) => describeId((byKey.get(key) as NormalObject).id)).join(" -> ")}`,
    };
  return arrange(objects, hard);
}

function arrange(objects: readonly NormalObject[], hard: ReadonlyMap<string, readonly ObjectId[]>): Plan {
  const byKey = new Map(objects.map((o) => [idKey(o.id), o]));
  const levels = new Map<string, number>();
  const levelOf = (key: string): number => {
    const known = levels.get(key);
    if (known !== undefined) return known;
    let level = stageOf((byKey.get(key) as NormalObject).id);
    for (const id of hard.get(key) ?? []) level = Math.max(level, levelOf(idKey(id)) + 1);
    levels.set(key, level);
    return level;
  };
  const sorted = [...objects].sort((a, b) => kindOrder(a.id) - kindOrder(b.id) || compareIds(a.id, b.id));
  const used = [...new Set(sorted.map((o) => levelOf(idKey(o.id))))].sort((a, b) => a - b);
  const index = new Map(used.map((level, i) => [level, i]));
  const phases: NormalObject[][] = used.map(() => []);
  const phaseOf = new Map<string, number>();
  for (const o of sorted) {
    const phase = index.get(levels.get(idKey(o.id)) as number) as number;
    phases[phase]?.push(o);
    phaseOf.set(idKey(o.id), phase);
  }
  return { phases, hard, phaseOf };
}

/** Kind order (section 3): cluster definitions, the tenant's fences, rights, data, workloads, the rest. */
const KIND_ORDER = [
  "CustomResourceDefinition",
  "Namespace",
  "ResourceQuota",
  "LimitRange",
  "NetworkPolicy",
  "PriorityClass",
  "StorageClass",
  "RuntimeClass",
  "IngressClass",
  "GatewayClass",
  "ClusterRole",
  "ClusterRoleBinding",
  "ServiceAccount",
  "Role",
  "RoleBinding",
  "ConfigMap",
  "Secret",
  "PersistentVolume",
  "PersistentVolumeClaim",
  "Service",
  "Pod",
  "ReplicaSet",
  "Deployment",
  "StatefulSet",
  "DaemonSet",
  "Job",
  "CronJob",
  "PodDisruptionBudget",
  "HorizontalPodAutoscaler",
  "Ingress",
];
const LAST = ["APIService", "MutatingWebhookConfiguration", "ValidatingWebhookConfiguration"];

/** Position of a kind: unknown kinds after all known ones, APIServices and webhooks last. */
export function kindOrder(id: ObjectId): number {
  const known = KIND_ORDER.indexOf(id.kind);
  if (known >= 0) return known;
  const last = LAST.indexOf(id.kind);
  return last >= 0 ? KIND_ORDER.length + 1 + last : KIND_ORDER.length;
}

/** Kinds that share a stage are applied in parallel; a binding needs its role to be there first. */
function stageOf(id: ObjectId): number {
  const { kind } = id;
  if (kind === "CustomResourceDefinition") return 0;
  if (kind === "Namespace") return 1;
  if (kind === "ResourceQuota" || kind === "LimitRange" || kind === "NetworkPolicy" || kind.endsWith("Class"))
    return 2;
  if (LAST.includes(kind)) return 6;
  const order = KIND_ORDER.indexOf(kind);
  if (kind === "RoleBinding" || kind === "ClusterRoleBinding") return 4;
  if (order >= 0 && order <= KIND_ORDER.indexOf("Service")) return 3;
  return 5;
}

/** `group/namespaces/<ns>/Kind/name` or `group/Kind/name`, comma separated; core kinds have no group. */
function dependsOn(o: NormalObject): { ids: ObjectId[] } | { error: string } {
  const annotations = o.object.metadata.annotations ?? {};
  const text = annotations[DEPENDS_ON_ANNOTATION] ?? annotations["config.kubernetes.io/depends-on"] ?? "";
  const ids: ObjectId[] = [];
  const seen = new Set<string>();
  for (const part of text
    .split(",")
    .map((p) => p.trim())
    .filter((p) => p !== "")) {
    const f = part.split("/");
    let id: ObjectId | undefined;
    if (f.length === 5 && f[1] === "namespaces")
      id = { group: f[0] as string, namespace: f[2] as string, kind: f[3] as string, name: f[4] as string };
    else if (f.length === 3)
      id = { group: f[0] as string, namespace: "", kind: f[1] as string, name: f[2] as string };
    if (id === undefined)
      return { error: `Cannot order ${describeId(o.id)}: depends-on entry "${part}" is malformed` };
    if (seen.has(idKey(id)))
      return { error: `Cannot order ${describeId(o.id)}: depends-on names ${describeId(id)} twice` };
    seen.add(idKey(id));
    ids.push(id);
  }
  return { ids };
}

/** The keys of one cycle, first one repeated at the end; undefined when there is none. */
function findCycle(edges: ReadonlyMap<string, readonly ObjectId[]>): string[] | undefined {
  const done = new Set<string>();
  const path: string[] = [];
  const onPath = new Set<string>();
  const visit = (key: string): string[] | undefined => {
    if (onPath.has(key)) return [...path.slice(path.indexOf(key)), key];
    if (done.has(key)) return undefined;
    path.push(key);
    onPath.add(key);
    for (const id of edges.get(key) ?? []) {
      const found = visit(idKey(id));
      if (found !== undefined) return found;
    }
    path.pop();
    onPath.delete(key);
    done.add(key);
    return undefined;
  };
  // Sorted, so that the same cycle is named whatever the input's order.
  for (const key of [...edges.keys()].sort()) {
    const found = visit(key);
    if (found !== undefined) return found;
  }
  return undefined;
}
