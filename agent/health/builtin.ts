import type { Health, UnknownObject } from "./health.ts";
import { conditionsOf, dig, findCondition, health, list, num, str } from "./read.ts";
import { cronJob, daemonSet, deployment, job, pod, replicaSet, statefulSet } from "./workloads.ts";

/**
 * Built-in kinds. Each rule names its source: "kstatus" is sigs.k8s.io/cli-utils
 * pkg/kstatus/status/core.go, "Argo CD" is gitops-engine/pkg/health (and its Lua for CronJob, PDB and
 * CRD). Undefined: not a built-in kind that reports.
 */
export function builtinHealth(object: UnknownObject, now: number): Health | undefined {
  const apiVersion = str(object["apiVersion"]);
  const slash = apiVersion.indexOf("/");
  const group = slash < 0 ? "" : apiVersion.slice(0, slash);
  const rule = KINDS.get(`${group}/${str(object["kind"])}`);
  if (rule !== undefined) return rule(object, now);
  // Other built-ins carry no readiness of their own: once the generation is observed they are Current.
  return BUILTIN_GROUPS.has(group) ? health("Current", "Current", "") : undefined;
}

type KindRule = (object: UnknownObject, now: number) => Health;

const KINDS = new Map<string, KindRule>([
  ["apps/Deployment", deployment],
  ["apps/StatefulSet", statefulSet],
  ["apps/DaemonSet", daemonSet],
  ["apps/ReplicaSet", replicaSet],
  ["/Pod", pod],
  ["batch/Job", job],
  ["batch/CronJob", cronJob],
  ["/Service", service],
  ["networking.k8s.io/Ingress", ingress],
  ["/PersistentVolumeClaim", persistentVolumeClaim],
  ["autoscaling/HorizontalPodAutoscaler", horizontalPodAutoscaler],
  ["apiregistration.k8s.io/APIService", apiService],
  ["apiextensions.k8s.io/CustomResourceDefinition", customResourceDefinition],
  ["policy/PodDisruptionBudget", podDisruptionBudget],
  ["/Namespace", namespace],
]);

/** Groups that the API server itself serves: an unlisted kind in one has no controller to wait for. */
const BUILTIN_GROUPS = new Set([
  "",
  "apps",
  "batch",
  "autoscaling",
  "policy",
  "networking.k8s.io",
  "rbac.authorization.k8s.io",
  "storage.k8s.io",
  "scheduling.k8s.io",
  "node.k8s.io",
  "coordination.k8s.io",
  "discovery.k8s.io",
  "admissionregistration.k8s.io",
  "apiextensions.k8s.io",
  "apiregistration.k8s.io",
  "flowcontrol.apiserver.k8s.io",
  "certificates.k8s.io",
  "resource.k8s.io",
  "events.k8s.io",
]);

/** Kinds (`group/Kind`) whose health holds a rollout back; others are reported only. */
export const GATING_KINDS: ReadonlySet<string> = new Set([
  "apps/Deployment",
  "apps/StatefulSet",
  "apps/DaemonSet",
  "apps/ReplicaSet",
  "/Pod",
  "batch/Job",
  "apiextensions.k8s.io/CustomResourceDefinition",
  "/Namespace",
  "/PersistentVolumeClaim",
]);

/**
 * Whether a kind's health holds a rollout back: workloads, Jobs, CRDs, Namespaces, claims and every
 * custom kind. Load balancers and the like are reported only: many clusters never fill them in.
 */
export function gates(id: { group: string; kind: string }): boolean {
  return GATING_KINDS.has(`${id.group}/${id.kind}`) || !BUILTIN_GROUPS.has(id.group);
}

function service(object: UnknownObject): Health {
  if (str(dig(object, "spec", "type")) !== "LoadBalancer") return health("Current", "Current", "");
  // Argo CD: an address must be there; kstatus is content with a clusterIP.
  return list(dig(object, "status", "loadBalancer", "ingress")).length > 0
    ? health("Current", "LoadBalancerReady", "")
    : health("InProgress", "LoadBalancerPending", "No load balancer address yet");
}

function ingress(object: UnknownObject): Health {
  return list(dig(object, "status", "loadBalancer", "ingress")).length > 0
    ? health("Current", "LoadBalancerReady", "")
    : health("InProgress", "LoadBalancerPending", "No load balancer address yet");
}

function persistentVolumeClaim(object: UnknownObject): Health {
  const phase = str(dig(object, "status", "phase"));
  if (phase === "Bound") return health("Current", "Bound", "");
  if (phase === "Lost") return health("Failed", "Lost", "The claim lost its volume");
  return health("InProgress", "NotBound", `Phase is ${phase || "not set"}`);
}

const HPA_FAILURES: Readonly<Record<string, ReadonlySet<string>>> = {
  AbleToScale: new Set(["FailedGetScale", "FailedUpdateScale"]),
  ScalingActive: new Set([
    "FailedGetResourceMetric",
    "FailedGetObjectMetric",
    "FailedGetPodsMetric",
    "FailedGetExternalMetric",
    "FailedComputeMetricsReplicas",
    "InvalidSelector",
  ]),
};

function horizontalPodAutoscaler(object: UnknownObject): Health {
  const conditions = hpaConditions(object);
  for (const condition of conditions) {
    if (condition.status !== "True" && HPA_FAILURES[condition.type]?.has(condition.reason) === true) {
      return health("Failed", condition.reason, condition.message);
    }
  }
  for (const type of ["AbleToScale", "ScalingLimited"]) {
    const condition = findCondition(conditions, type);
    if (condition?.status === "True") return health("Current", condition.reason || type, condition.message);
  }
  return health("InProgress", "NotYetScaling", "The autoscaler has not reported yet");
}

function hpaConditions(object: UnknownObject) {
  const found = conditionsOf(object);
  const text = str(dig(object, "metadata", "annotations", "autoscaling.alpha.kubernetes.io/conditions"));
  if (found.length > 0 || text === "") return found;
  // autoscaling/v1 has no conditions field; the server keeps them in an annotation.
  try {
    return conditionsOf({ status: { conditions: JSON.parse(text) as unknown } });
  } catch {
    return found;
  }
}

function apiService(object: UnknownObject): Health {
  const available = findCondition(conditionsOf(object), "Available");
  if (available?.status === "True") return health("Current", available.reason || "Available", "");
  return health("InProgress", available?.reason ?? "NotAvailable", available?.message ?? "");
}

function customResourceDefinition(object: UnknownObject): Health {
  const conditions = conditionsOf(object);
  const names = findCondition(conditions, "NamesAccepted");
  if (names?.status === "False") return health("Failed", names.reason || "NamesNotAccepted", names.message);
  if (findCondition(conditions, "Terminating")?.status === "True")
    return health("Terminating", "Terminating", "");
  const established = findCondition(conditions, "Established");
  if (established?.status === "False" && established.reason !== "Installing") {
    return health("Failed", established.reason || "NotEstablished", established.message);
  }
  const structural = findCondition(conditions, "NonStructuralSchema");
  if (structural?.status === "True") return health("Failed", "NonStructuralSchema", structural.message);
  if (established?.status === "True") return health("Current", "Established", "");
  return health("InProgress", "Installing", "The kind is not established yet");
}

function podDisruptionBudget(object: UnknownObject): Health {
  const allowed = findCondition(conditionsOf(object), "DisruptionAllowed");
  if (allowed?.reason === "SyncFailed") return health("Failed", "SyncFailed", allowed.message);
  return num(dig(object, "status", "observedGeneration")) === undefined
    ? health("InProgress", "NotObserved", "The budget has not been observed yet")
    : health("Current", "Current", "");
}

function namespace(object: UnknownObject): Health {
  const phase = str(dig(object, "status", "phase"));
  if (phase === "Active") return health("Current", "Active", "");
  if (phase === "Terminating") return health("Terminating", "Terminating", "");
  return health("InProgress", "NotActive", `Phase is ${phase || "not set"}`);
}
