/** Kinds that the in-memory cluster serves from the start; custom ones come with their CRDs. */
export interface MemoryKind {
  group: string;
  /** The first is the preferred one. */
  versions: readonly string[];
  kind: string;
  plural: string;
  namespaced: boolean;
  hasStatus: boolean;
}

type Row = readonly [
  apiVersion: string,
  kind: string,
  plural: string,
  scope: "ns" | "cluster",
  status?: "status",
];

const BUILTIN: readonly Row[] = [
  ["v1", "Namespace", "namespaces", "cluster", "status"],
  ["v1", "Node", "nodes", "cluster", "status"],
  ["v1", "PersistentVolume", "persistentvolumes", "cluster", "status"],
  ["v1", "ConfigMap", "configmaps", "ns"],
  ["v1", "Secret", "secrets", "ns"],
  ["v1", "ServiceAccount", "serviceaccounts", "ns"],
  ["v1", "Service", "services", "ns", "status"],
  ["v1", "Pod", "pods", "ns", "status"],
  ["v1", "Event", "events", "ns"],
  ["v1", "ResourceQuota", "resourcequotas", "ns", "status"],
  ["v1", "LimitRange", "limitranges", "ns"],
  ["v1", "PersistentVolumeClaim", "persistentvolumeclaims", "ns", "status"],
  ["apps/v1", "Deployment", "deployments", "ns", "status"],
  ["apps/v1", "StatefulSet", "statefulsets", "ns", "status"],
  ["apps/v1", "DaemonSet", "daemonsets", "ns", "status"],
  ["apps/v1", "ReplicaSet", "replicasets", "ns", "status"],
  ["batch/v1", "Job", "jobs", "ns", "status"],
  ["batch/v1", "CronJob", "cronjobs", "ns", "status"],
  ["autoscaling/v2", "HorizontalPodAutoscaler", "horizontalpodautoscalers", "ns", "status"],
  ["policy/v1", "PodDisruptionBudget", "poddisruptionbudgets", "ns", "status"],
  ["networking.k8s.io/v1", "NetworkPolicy", "networkpolicies", "ns"],
  ["networking.k8s.io/v1", "Ingress", "ingresses", "ns", "status"],
  ["networking.k8s.io/v1", "IngressClass", "ingressclasses", "cluster"],
  ["rbac.authorization.k8s.io/v1", "Role", "roles", "ns"],
  ["rbac.authorization.k8s.io/v1", "RoleBinding", "rolebindings", "ns"],
  ["rbac.authorization.k8s.io/v1", "ClusterRole", "clusterroles", "cluster"],
  ["rbac.authorization.k8s.io/v1", "ClusterRoleBinding", "clusterrolebindings", "cluster"],
  ["storage.k8s.io/v1", "StorageClass", "storageclasses", "cluster"],
  ["scheduling.k8s.io/v1", "PriorityClass", "priorityclasses", "cluster"],
  ["coordination.k8s.io/v1", "Lease", "leases", "ns"],
  ["apiextensions.k8s.io/v1", "CustomResourceDefinition", "customresourcedefinitions", "cluster", "status"],
  [
    "admissionregistration.k8s.io/v1",
    "ValidatingWebhookConfiguration",
    "validatingwebhookconfigurations",
    "cluster",
  ],
  [
    "admissionregistration.k8s.io/v1",
    "MutatingWebhookConfiguration",
    "mutatingwebhookconfigurations",
    "cluster",
  ],
  ["metrics.k8s.io/v1beta1", "PodMetrics", "pods", "ns"],
  ["authorization.k8s.io/v1", "SelfSubjectAccessReview", "selfsubjectaccessreviews", "cluster"],
];

/** The agent's own kinds, all `moorage.dev/v1alpha1`, namespaced, with a status. */
const MOORAGE: readonly (readonly [string, string])[] = [
  ["DataPlane", "dataplanes"],
  ["Tenant", "tenants"],
  ["Application", "applications"],
  ["BundleChunk", "bundlechunks"],
  ["Inventory", "inventories"],
  ["SyncState", "syncstates"],
  ["UsageSegment", "usagesegments"],
  ["UsageCheckpoint", "usagecheckpoints"],
  ["AgentPolicy", "agentpolicies"],
  ["ChangeRequest", "changerequests"],
  ["ChangeApproval", "changeapprovals"],
  ["AuditRecord", "auditrecords"],
];

/** All rows as kinds. */
export function builtinKinds(): MemoryKind[] {
  const rows: Row[] = [
    ...BUILTIN,
    ...MOORAGE.map(([kind, plural]): Row => ["moorage.dev/v1alpha1", kind, plural, "ns", "status"]),
  ];
  return rows.map(([apiVersion, kind, plural, scope, status]) => {
    const slash = apiVersion.indexOf("/");
    return {
      group: slash < 0 ? "" : apiVersion.slice(0, slash),
      versions: [apiVersion.slice(slash + 1)],
      kind,
      plural,
      namespaced: scope === "ns",
      hasStatus: status === "status",
    };
  });
}
